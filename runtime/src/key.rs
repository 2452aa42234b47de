//! Which function, and in the course of which call.

use std::{fmt, sync::Arc, time::Instant};

/// One version of one function.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The function's name.
    pub name: Arc<str>,
    /// The version's number.
    pub version: u32,
}

impl FunctionKey {
    /// The key of this version.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>, version: u32) -> Self {
        Self { namespace: namespace.into(), name: name.into(), version }
    }
}

impl fmt::Display for FunctionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.namespace, self.name, self.version)
    }
}

/// What a call carries besides the request.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// When the caller stops waiting. The function's own timeout may end the call sooner.
    pub deadline: Instant,
    /// The W3C `traceparent` of the span that makes this call, if it is traced.
    pub traceparent: Option<Arc<str>>,
    /// How many functions and nodes the call has passed; handed on to what the guest sends, so
    /// that a circle is noticed.
    pub hop: u8,
}

impl CallContext {
    /// A call that nobody traces.
    pub fn until(deadline: Instant) -> Self {
        Self { deadline, traceparent: None, hop: 0 }
    }

    /// The same call, traced.
    #[must_use]
    pub fn traced(mut self, traceparent: impl Into<Arc<str>>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }
}

/// The trace id inside a `traceparent` (W3C Trace Context, section 3.2): its second field.
pub(crate) fn trace_id(traceparent: &str) -> Option<&str> {
    let id = traceparent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_id_is_the_second_field() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(trace_id(parent), Some("0af7651916cd43dd8448eb211c80319c"));
        for bad in ["", "00", "00-abc-b7ad6b7169203331-01", "00-zzf7651916cd43dd8448eb211c80319c-b"]
        {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
    }
}
