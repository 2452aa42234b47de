//! The one body type of calls, and small helpers for it.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};

use super::CallError;

/// A body of a call or an answer: data frames of [`Bytes`], then perhaps trailers.
///
/// It is the unsynchronised box, because that is what the component runtime takes and gives;
/// hyper and quinn need no more. Data passes as reference-counted slices: no copy between the
/// QUIC receive buffer and the guest or the HTTP connection. An error of a body means truncation.
/// Dropping a body that came from the network tells the other side at once.
pub type Body = UnsyncBoxBody<Bytes, CallError>;

/// A body of nothing.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Reads a whole body of at most `limit` bytes; trailers are dropped.
///
/// # Errors
/// Those of the body, and [`CallError::Refused`] when it is longer.
pub async fn collect(mut body: Body, limit: usize) -> Result<Bytes, CallError> {
    let mut all: Vec<Bytes> = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            length += data.len();
            if length > limit {
                return Err(CallError::Refused {
                    reason: format!("the body is longer than {limit} bytes"),
                });
            }
            all.push(data);
        }
    }
    Ok(match all.len() {
        1 => all.swap_remove(0),
        _ => all.concat().into(),
    })
}
