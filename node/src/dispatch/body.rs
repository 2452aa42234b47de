//! Bodies of the mesh and of the runtime are the same frames under two error types.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use swarmer_mesh::call::{Body as MeshBody, CallError, check_trailers, strip_hop_by_hop};
use swarmer_runtime::{Body as RuntimeBody, BodyError};

/// What the mesh carries, as the runtime takes it.
pub(crate) fn to_runtime(body: MeshBody) -> RuntimeBody {
    if body.is_end_stream() {
        return swarmer_runtime::empty();
    }
    Bounded(body).map_err(BodyError::source_error).boxed_unsync()
}

/// What the runtime makes, as the mesh carries it.
pub(crate) fn to_mesh(body: RuntimeBody) -> MeshBody {
    Bounded(body.map_err(CallError::body_source)).boxed_unsync()
}

/// A body whose trailers are within the bounds of a call, also where no other node sees them: it
/// fails at others.
struct Bounded<B>(B);

impl<B> http_body::Body for Bounded<B>
where
    B: http_body::Body<Data = Bytes, Error = CallError> + Unpin,
{
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        let frame = ready!(Pin::new(&mut self.0).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let mut frame = frame?;
            if let Some(trailers) = frame.trailers_mut() {
                strip_hop_by_hop(trailers);
                check_trailers(trailers)?;
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// What a hyper connection brings in.
pub(crate) fn from_hyper(body: hyper::body::Incoming) -> MeshBody {
    if body.is_end_stream() {
        return swarmer_mesh::call::empty();
    }
    from_http(body)
}

/// Any body of bytes.
pub(crate) fn from_http<B>(body: B) -> MeshBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Display,
{
    body.map_err(CallError::body_source).boxed_unsync()
}
