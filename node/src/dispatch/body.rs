//! Bodies of the mesh and of the runtime are the same frames under two error types.

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use swarmer_mesh::call::{Body as MeshBody, CallError};
use swarmer_runtime::{Body as RuntimeBody, BodyError};

/// What the mesh carries, as the runtime takes it.
pub(crate) fn to_runtime(body: MeshBody) -> RuntimeBody {
    if body.is_end_stream() {
        return swarmer_runtime::empty();
    }
    body.map_err(BodyError::source_error).boxed_unsync()
}

/// What the runtime makes, as the mesh carries it.
pub(crate) fn to_mesh(body: RuntimeBody) -> MeshBody {
    body.map_err(CallError::body_source).boxed_unsync()
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
