//! How a caller knows an answer that no function gave.

use http::{HeaderMap, HeaderName};

/// Marks a problem before which nothing was started. It counts only where no function answered,
/// so that no function can say it.
pub(super) const NOT_STARTED: HeaderName = HeaderName::from_static("x-swarmer-not-started");

/// Among the extensions of an answer that explains why there is none: a problem document, by the
/// node that was asked, not by a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Whether anything was started; if not, the call may go elsewhere.
    pub started: bool,
}

impl Refused {
    /// Takes the mark out of an answer's header fields.
    pub(super) fn take(headers: &mut HeaderMap) -> Self {
        Self { started: headers.remove(NOT_STARTED).is_none() }
    }
}
