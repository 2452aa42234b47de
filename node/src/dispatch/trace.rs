//! W3C trace context: every request has one, so that logs of all nodes can be put together.

/// A new trace with this request as its first span (version 00, sampled).
pub(crate) fn new_traceparent() -> String {
    let trace: u128 = rand::random::<u128>() | 1;
    let span: u64 = rand::random::<u64>() | 1;
    format!("00-{trace:032x}-{span:016x}-01")
}

/// Whether a caller's `traceparent` can be passed on (Trace Context, section 3.2).
pub(crate) fn valid_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let hex = |part: Option<&str>, length: usize| {
        part.is_some_and(|part| {
            part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    let nonzero = |part: Option<&str>| part.is_some_and(|part| part.bytes().any(|b| b != b'0'));
    let (version, trace, span, flags) = (parts.next(), parts.next(), parts.next(), parts.next());
    hex(version, 2)
        && version != Some("ff")
        && hex(trace, 32)
        && nonzero(trace)
        && hex(span, 16)
        && nonzero(span)
        && hex(flags, 2)
        && (version != Some("00") || parts.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_valid_and_others_are_checked() {
        for _ in 0..100 {
            let ours = new_traceparent();
            assert!(valid_traceparent(&ours), "{ours}");
        }
        assert!(valid_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert!(!valid_traceparent(bad), "{bad}");
        }
    }
}
