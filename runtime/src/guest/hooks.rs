//! Outgoing requests: checked against the declaration, then handed to the node.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::header::HeaderName;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::task::AbortHandle;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::{
    body::Body,
    call::{Call, Inner},
    egress::{EgressContext, EgressError, EgressOptions},
    error::{BodyError, CallError},
    log::CallLog,
    usage::add,
};

/// Outgoing requests that one call may have open at a time.
const MAX_OPEN: u64 = 64;
/// Largest piece of a body that a guest writes at a time, and pieces that wait: what bounds the
/// host's memory of a stream.
const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS: usize = 2;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

type IoResult = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(http::Response<WasiBody>, IoResult), Error>;

/// The one way out of an instance.
pub(super) struct Hooks {
    pub(super) inner: Arc<Inner>,
    pub(super) call: Arc<Call>,
    log: Arc<CallLog>,
}

impl Hooks {
    pub(super) fn new(inner: Arc<Inner>, call: Arc<Call>, log: Arc<CallLog>) -> Self {
        Self { inner, call, log }
    }

    /// Whether the function declares this destination; if not, the log says what to add.
    fn check(&self, uri: &http::Uri) -> Result<(), Error> {
        let host =
            uri.host().filter(|host| !host.is_empty()).ok_or(Error::HttpRequestUriInvalid)?;
        let default = if uri.scheme() == Some(&http::uri::Scheme::HTTP) { 80 } else { 443 };
        let port = uri.port_u16().unwrap_or(default);
        if self.inner.config.outgoing.allows(host, port) {
            return Ok(());
        }
        self.log.note(&format!(
            "{}: a request to {host}:{port} was refused; the function declares: {}. Add {host:?} to its `outgoing` list to allow it.",
            crate::codes::EGRESS_DENIED,
            self.inner.config.outgoing,
        ));
        Err(Error::HttpRequestDenied)
    }
}

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: IoResult,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        if let Err(error) = self.check(request.uri()) {
            return Box::new(async move { Err(error) });
        }
        let Some(open) = Open::new(&self.call) else {
            return Box::new(async { Err(Error::ConnectionLimitReached) });
        };
        add(&self.inner.meter.outgoing, 1);
        let call = self.call.clone();
        let io = self.inner.node.io.clone();
        let mut request = request.map(|body| {
            OutgoingBody { inner: body, call: call.clone(), io, ended: false }.boxed_unsync()
        });
        if let Some(parent) = &call.traceparent
            && !request.headers().contains_key(TRACEPARENT)
            && let Ok(value) = http::HeaderValue::from_str(parent)
        {
            request.headers_mut().insert(TRACEPARENT, value);
        }
        let options = options.unwrap_or_default();
        let wait = first_byte_limit(&options);
        let context = EgressContext {
            digest: self.inner.digest,
            traceparent: call.traceparent.clone(),
            hop: call.hop,
            deadline: call.deadline,
        };
        let egress_options = EgressOptions {
            connect_timeout: options.connect_timeout,
            first_byte_timeout: options.first_byte_timeout,
            between_bytes_timeout: options.between_bytes_timeout,
        };
        let inner = self.inner.clone();
        let log = self.log.clone();
        let io = inner.node.io.clone();
        // On the node's own threads: a connection must not wait behind a guest.
        let task = io.spawn(async move {
            inner.node.egress.send(&inner.key, context, request, egress_options).await
        });
        let abort = AbortOnDrop(task.abort_handle());
        Box::new(async move {
            let answer = match wait {
                None => task.await,
                Some(wait) => match tokio::time::timeout(wait, task).await {
                    Ok(answer) => answer,
                    Err(_) => return Err(Error::ConnectionReadTimeout),
                },
            };
            let answer = answer.map_err(|_| Error::ConnectionTerminated)?.map_err(|error| {
                log.note(&format!("{}: {error}", swarmer_model::Coded::code(&error)));
                to_wasi(error)
            })?;
            let answer = answer.map(|body| {
                IncomingBody { inner: body, _open: open, _abort: abort }.boxed_unsync()
            });
            Ok((answer, Box::new(async { Ok(()) }) as IoResult))
        })
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        CHUNKS
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }
}

/// The time to the answer's head that the guest allows.
fn first_byte_limit(options: &RequestOptions) -> Option<Duration> {
    let connect = options.connect_timeout.unwrap_or_default();
    options.first_byte_timeout.map(|first| first.saturating_add(connect))
}

fn to_wasi(error: EgressError) -> Error {
    match error {
        EgressError::Denied(_) => Error::HttpRequestDenied,
        EgressError::NotFound(_) => Error::DestinationNotFound,
        EgressError::Unavailable(_) => Error::DestinationUnavailable,
        EgressError::Refused(_) => Error::ConnectionRefused,
        EgressError::ConnectTimeout => Error::ConnectionTimeout,
        EgressError::ResponseTimeout => Error::HttpResponseTimeout,
        EgressError::Terminated(_) => Error::ConnectionTerminated,
        EgressError::Tls(_) => Error::TlsProtocolError,
        EgressError::Protocol(_) => Error::HttpProtocolError,
        EgressError::Loop => Error::LoopDetected,
        EgressError::Other(text) => Error::InternalError(Some(text)),
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One open outgoing request of a call.
struct Open(Arc<Call>);

impl Open {
    fn new(call: &Arc<Call>) -> Option<Self> {
        let open = Self(call.clone());
        (call.open.fetch_add(1, Ordering::Relaxed) < MAX_OPEN).then_some(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes of a request's body that are taken from a guest after its receiver lost interest: what a
/// connection would hold in its buffers.
const UNREAD_BYTES: usize = 1 << 20;

/// A body that a guest sends: it is broken off, never ended, when the guest is.
///
/// A receiver may answer without having read the request to its end, and then drops this. The
/// guest must not notice while it writes what it has, as it would not with a connection: so the
/// rest, up to [`UNREAD_BYTES`], is taken and thrown away.
struct OutgoingBody {
    inner: WasiBody,
    call: Arc<Call>,
    io: tokio::runtime::Handle,
    ended: bool,
}

impl Drop for OutgoingBody {
    fn drop(&mut self) {
        if self.ended
            || http_body::Body::is_end_stream(&self.inner)
            || self.call.verdict().is_some()
        {
            return;
        }
        let mut rest = std::mem::replace(
            &mut self.inner,
            http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync(),
        );
        // It ends with the guest, which holds the other side.
        self.io.spawn(async move {
            let mut left = UNREAD_BYTES;
            while let Some(Ok(frame)) = rest.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        });
    }
}

impl http_body::Body for OutgoingBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        self.ended = !matches!(frame, Some(Ok(_)));
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err(error)) => Some(Err(CallError::Guest(error.to_string()).into())),
            None => self.call.verdict().map(|verdict| Err(verdict.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The answer's body, on its way to the guest.
struct IncomingBody {
    inner: Body,
    _open: Open,
    _abort: AbortOnDrop,
}

impl http_body::Body for IncomingBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.inner)
            .poll_frame(cx)
            .map(|frame| frame.map(|frame| frame.map_err(|_| Error::HttpResponseIncomplete)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use http_body_util::channel::Channel;

    use super::*;
    use crate::{config::FunctionConfig, key::CallContext};

    #[tokio::test]
    async fn a_guest_does_not_notice_that_nobody_reads_on_within_a_bound() {
        let (mut guest, body) = Channel::<Bytes, Error>::new(1);
        let now = Instant::now();
        let context = CallContext::until(now + Duration::from_secs(60));
        let call = Arc::new(Call::new(&context, now, &FunctionConfig::default()));
        let io = tokio::runtime::Handle::current();
        drop(OutgoingBody { inner: body.boxed_unsync(), call, io, ended: false });
        for _ in 0..8 {
            guest.send_data(Bytes::from_static(b"x")).await.unwrap();
        }
        let mut taken = 0;
        while guest.send_data(Bytes::from_static(&[0; 64 << 10])).await.is_ok() {
            taken += 64 << 10;
            assert!(taken <= 2 * UNREAD_BYTES, "there must be an end to it");
        }
        assert!(taken >= UNREAD_BYTES / 2, "{taken}");
    }
}
