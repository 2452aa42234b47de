//! The calling side.

use std::{future::poll_fn, task::Poll, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use quinn::{RecvStream, SendStream, WriteError};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use super::{
    Body, CallError, CallHead, MAX_HOPS,
    frame::{FrameReader, Kind, mark_last},
    head::AnswerHead,
    pump::{Batch, PumpEnd, SendGuard, pump},
    receive::{AbortOnDrop, ReceiveBody},
    refused::Refused,
    reset,
};

/// How long after the deadline a caller still takes the head of an answer. The other node ends the
/// call at the deadline too, and knows why it did not end before: so long its word may travel.
const LAST_WORD: Duration = Duration::from_millis(100);

/// Sends a call on a stream whose typed header was already written, and returns when the head of
/// the answer is there. [`Served`](super::Served) stands in its extensions, and [`Refused`] if it
/// is no function's answer but says why there is none.
///
/// The request's body goes on being sent while the answer's is read. Dropping the future or the
/// answer's body cancels the call: the server sees it at once. `deadline` holds for the whole
/// call, the answer's body included; the time left is written into the head. The other node may
/// have a moment more to say why it was not met.
///
/// # Errors
/// See [`CallError`]. [`CallError::not_started`] tells whether the call may go elsewhere.
pub async fn send_call(
    send: SendStream,
    recv: RecvStream,
    head: CallHead,
    body: Body,
    deadline: Instant,
) -> Result<http::Response<Body>, CallError> {
    send_call_with_prefix(send, recv, Bytes::new(), head, body, deadline).await
}

/// [`send_call`] on a fresh stream: `prefix`, the stream's typed header, goes out in the same
/// write as the head, which saves a packet.
///
/// # Errors
/// As [`send_call`].
pub async fn send_call_with_prefix(
    send: SendStream,
    recv: RecvStream,
    prefix: Bytes,
    mut head: CallHead,
    mut body: Body,
    deadline: Instant,
) -> Result<http::Response<Body>, CallError> {
    // From here on, whatever ends this function early tells the peer so.
    let mut guard = SendGuard::new(send, reset::CANCELLED);
    let mut reader = FrameReader::new(recv, reset::CANCELLED);
    if head.hop >= MAX_HOPS {
        return Err(CallError::Loop);
    }
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(CallError::Deadline);
    }
    head.deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
    head.hop += 1;

    let mut out = BytesMut::with_capacity(1024);
    head.encode(&mut out)?;
    let mut batch = Batch::default();
    let rest = if body.is_end_stream() {
        mark_last(&mut out);
        None
    } else {
        match poll_fn(|cx| Poll::Ready(batch.poll_fill(&mut body, cx))).await {
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Ready(Ok(())) if batch.is_whole_and_small() => {
                std::mem::take(&mut batch).append_to(&mut out)?;
                None
            }
            _ => Some((batch, body)),
        }
    };
    let answer = async {
        let mut chunks = [prefix, out.freeze()];
        guard.write_first(&mut chunks).await?;
        let mut pumping = match rest {
            None => {
                guard.finish();
                None
            }
            Some((batch, body)) => Some(spawn_pump(guard, batch, body)),
        };
        let (answer, last) = read_answer(&mut reader, &mut pumping).await?;
        Ok((answer, last, pumping))
    };
    let (answer, last, pumping) = match timeout_at(deadline + LAST_WORD, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            reader.stop(match error {
                CallError::Protocol { .. } => reset::PROTOCOL,
                _ => reset::CANCELLED,
            });
            return Err(error);
        }
        Err(_) => {
            reader.stop(reset::DEADLINE);
            return Err(CallError::Deadline);
        }
    };
    let pump = pumping.map(|pumping| pumping.abort);
    let body = ReceiveBody::new(reader, last, deadline, pump);
    let mut response = http::Response::new(body.boxed_unsync());
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    if answer.served.version.is_none() {
        let refused = Refused::take(response.headers_mut());
        response.extensions_mut().insert(refused);
    }
    response.extensions_mut().insert(answer.served);
    Ok(response)
}

/// The task that sends a request body which was not whole at once.
struct Pumping {
    task: Option<JoinHandle<Result<(), PumpEnd>>>,
    abort: AbortOnDrop,
}

fn spawn_pump(mut guard: SendGuard, batch: Batch, body: Body) -> Pumping {
    // A task of its own, so that a caller that does not read the answer yet can still send. It
    // ends with the call: the answer's body aborts it when dropped.
    let task = tokio::spawn(async move { pump(&mut guard, batch, body).await });
    let abort = AbortOnDrop(task.abort_handle());
    Pumping { task: Some(task), abort }
}

async fn read_answer(
    reader: &mut FrameReader,
    pumping: &mut Option<Pumping>,
) -> Result<(AnswerHead, bool), CallError> {
    // Why the body could not be sent. The function sees that it broke off, as one of this node
    // would, and may answer all the same.
    let mut unsent = None;
    let header = poll_fn(|cx| {
        if let Poll::Ready(header) = reader.poll_header(cx, false) {
            return Poll::Ready(header);
        }
        if let Some(task) = pumping.as_mut().and_then(|pumping| pumping.task.as_mut())
            && let Poll::Ready(ended) = std::pin::Pin::new(task).poll(cx)
        {
            if let Some(pumping) = pumping {
                pumping.task = None;
            }
            match ended {
                Ok(Err(PumpEnd::Failed(error))) => unsent = Some(error),
                Err(error) if error.is_panic() => unsent = Some(CallError::body_source(error)),
                // Sent, or not wanted: the answer tells the rest.
                _ => {}
            }
        }
        Poll::Pending
    })
    .await;
    let header = match header {
        Ok(Some(header)) => header,
        Ok(None) => {
            let silent = || CallError::broken("the stream ended without an answer");
            return Err(unsent.unwrap_or_else(silent));
        }
        Err(error) => return Err(unsent.unwrap_or(error)),
    };
    if header.kind != Kind::Answer {
        return Err(CallError::protocol(format!(
            "a {:?} frame where the head of the answer should be",
            header.kind
        )));
    }
    let payload = poll_fn(|cx| reader.poll_payload(cx, header.length, false)).await?;
    Ok((AnswerHead::decode(&payload)?, header.last))
}

impl SendGuard {
    /// The first write of a call: when it fails because the connection is gone, nothing of the
    /// call was sent; when the peer has already stopped the stream, it says why.
    async fn write_first(&mut self, chunks: &mut [Bytes]) -> Result<(), CallError> {
        let error = match self.write_chunks(chunks).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match error {
            WriteError::ConnectionLost(error) => Err(CallError::unreachable(error)),
            // The peer may refuse before it has read all of the head; the reset of its half,
            // which says why, is on its way.
            WriteError::Stopped(code) if code == reset::UNWANTED => Ok(()),
            error => Err(CallError::from_write(error)),
        }
    }
}
