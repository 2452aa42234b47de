//! The serving side.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use quinn::{RecvStream, SendStream, StoppedError, VarInt};
use tokio::time::{Instant, timeout};

use super::{
    Body, CallError, CallHead, Served, body,
    frame::{FrameReader, Kind, mark_last},
    head::AnswerHead,
    pump::{Batch, PumpEnd, SendGuard, pump},
    receive::ReceiveBody,
    refused::NOT_STARTED,
    reset,
};
use crate::stream::ResetCode;

/// How long the head of a call may take to come in, once its stream is open. A peer writes it in
/// one go; only a broken or hostile one is slower.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// A call that came in.
pub struct IncomingCall {
    /// What is called, by whom, until when.
    pub head: CallHead,
    /// The deadline by this node's clock.
    pub deadline: Instant,
    /// The request's body. Dropping it tells the caller to send no more.
    pub body: Body,
    /// The way to answer.
    pub responder: Responder,
}

/// Answers one call. Dropped without an answer (a task that panicked), it breaks the call off.
#[derive(Debug)]
pub struct Responder {
    guard: SendGuard,
}

/// How to refuse a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Not ready or not responsible; nothing was started, the caller may go elsewhere.
    NotStarted,
    /// This node's state is too old; nothing was started.
    Stale,
    /// No room; nothing was started.
    Overloaded,
    /// This caller may not call this, or there is no such function here.
    Refused,
    /// The caller is a workload that is not the sender's to speak for; nothing was started.
    NotEntitled,
    /// The deadline passed before it could start.
    Deadline,
    /// An answer that explains itself: a problem document (RFC 9457).
    Problem {
        /// The answer's status.
        status: StatusCode,
        /// The answer's header fields.
        headers: HeaderMap,
        /// The document.
        document: Bytes,
        /// Whether anything was started; if not, the caller may go elsewhere.
        started: bool,
    },
}

/// Becomes ready when nobody waits for the answer any more: the caller cancelled, its deadline
/// passed, or the connection is lost. Also ready once the answer was sent and acknowledged.
pub struct Cancelled {
    stopped: Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>,
}

impl Future for Cancelled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.stopped.as_mut().poll(cx).map(|_| ())
    }
}

/// Reads the head of a call from a stream whose typed header was already taken.
///
/// # Errors
/// [`CallError::Protocol`], [`CallError::Loop`] for a head that breaks the rules (the stream has
/// then been reset), [`CallError::Cancelled`] and [`CallError::Broken`] if the caller is gone.
pub async fn receive_call(send: SendStream, recv: RecvStream) -> Result<IncomingCall, CallError> {
    let mut guard = SendGuard::new(send, reset::BROKEN);
    let mut reader = FrameReader::new(recv, reset::UNWANTED);
    let head = async {
        let header = poll_fn(|cx| reader.poll_header(cx, true))
            .await?
            .ok_or_else(|| CallError::protocol("the stream ended without a call"))?;
        if header.kind != Kind::Call {
            return Err(CallError::protocol(format!(
                "a {:?} frame where the head of the call should be",
                header.kind
            )));
        }
        let payload = poll_fn(|cx| reader.poll_payload(cx, header.length, true)).await?;
        Ok((CallHead::decode(&payload)?, header.last))
    };
    let head = timeout(HEAD_TIMEOUT, head)
        .await
        .unwrap_or_else(|_| Err(CallError::protocol("the head did not come in time")));
    let (head, last) = match head {
        Ok(head) => head,
        Err(error) => {
            guard.reset(error.reset_code());
            reader.stop(error.reset_code());
            return Err(error);
        }
    };
    let deadline = Instant::now() + head.time_left().min(MAX_DEADLINE);
    let body = ReceiveBody::new(reader, last, deadline, None).boxed_unsync();
    Ok(IncomingCall { head, deadline, body, responder: Responder { guard } })
}

/// The longest deadline that a peer can ask for: a day, so that sums of times cannot overflow.
const MAX_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

impl IncomingCall {
    /// The call as an HTTP request in absolute form, and the way to answer it.
    ///
    /// # Errors
    /// [`CallError::Protocol`] if path or authority make no URI; the call has then been refused.
    pub fn into_request(self) -> Result<(http::Request<Body>, CallHead, Responder), CallError> {
        let Self { head, body, mut responder, .. } = self;
        match head.to_request(body) {
            Ok(request) => Ok((request, head, responder)),
            Err(error) => {
                responder.guard.reset(error.reset_code());
                Err(error)
            }
        }
    }
}

impl Responder {
    /// A future that is ready when nobody waits for the answer any more; run the guest against
    /// it. It may be taken as often as needed and outlives the responder.
    pub fn cancelled(&self) -> Cancelled {
        Cancelled { stopped: Box::pin(self.guard.stream().stopped()) }
    }

    /// Sends the answer to its end. If its body fails, the answer is broken off by a reset, never
    /// ended cleanly; if the caller goes away, the body is dropped at once.
    ///
    /// # Errors
    /// The failure of the body; [`CallError::Cancelled`] or [`CallError::Broken`] if the caller
    /// is gone; [`CallError::HeadTooLarge`] if the head is over its limits (the caller then sees
    /// the call broken off).
    pub async fn respond(
        mut self,
        response: http::Response<Body>,
        served: Served,
    ) -> Result<(), CallError> {
        let (parts, mut body) = response.into_parts();
        let head = AnswerHead { status: parts.status, headers: parts.headers, served };
        let mut out = BytesMut::with_capacity(512);
        head.encode(&mut out)?;
        let mut batch = Batch::default();
        let whole = if body.is_end_stream() {
            mark_last(&mut out);
            true
        } else {
            match poll_fn(|cx| Poll::Ready(batch.poll_fill(&mut body, cx))).await {
                Poll::Ready(Err(error)) => {
                    self.guard.reset(error.reset_code());
                    return Err(error);
                }
                Poll::Ready(Ok(())) if batch.is_whole_and_small() => {
                    std::mem::take(&mut batch).append_to(&mut out)?;
                    true
                }
                _ => false,
            }
        };
        self.guard.write(out.freeze()).await.map_err(|error| gone(error.into()))?;
        if whole {
            self.guard.finish();
            return Ok(());
        }
        pump(&mut self.guard, batch, body).await.map_err(gone)
    }

    /// Refuses the call. A problem is sent as an answer with this node's `served`; everything
    /// else as a reset, which costs next to nothing.
    ///
    /// # Errors
    /// Those of [`respond`](Self::respond), for a problem only.
    pub async fn refuse(mut self, refusal: Refusal, served: Served) -> Result<(), CallError> {
        let code = match refusal {
            Refusal::NotStarted => ResetCode::NOT_STARTED,
            Refusal::Stale => ResetCode::STALE,
            Refusal::Overloaded => ResetCode::OVERLOADED,
            Refusal::Refused => ResetCode::REFUSED,
            Refusal::NotEntitled => ResetCode::NOT_ENTITLED,
            Refusal::Deadline => ResetCode::DEADLINE,
            Refusal::Problem { status, mut headers, document, started } => {
                if !started {
                    headers.insert(NOT_STARTED, HeaderValue::from_static("1"));
                }
                let mut response = http::Response::new(body::full(document));
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                // No function did that, whatever the caller says of itself.
                return self.respond(response, Served { version: None, ..served }).await;
            }
        };
        self.guard.reset(code.var());
        Ok(())
    }
}

/// What the end of the sending side means to the server.
fn gone(end: PumpEnd) -> CallError {
    match end {
        PumpEnd::Failed(error) => error,
        PumpEnd::Stopped(code) if code == reset::DEADLINE => CallError::Deadline,
        PumpEnd::Stopped(_) => CallError::Cancelled,
    }
}
