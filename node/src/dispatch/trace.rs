//! W3C trace context: every request has one, so that logs of all nodes can be put together.

use std::sync::Arc;

/// The longest `traceparent` that is passed on. Version 00 has 55 bytes; later ones may have more,
/// but not without end: it travels with every call.
const MAX_BYTES: usize = 256;

/// A new trace with this request as its first span (version 00, sampled).
pub(crate) fn new_traceparent() -> Arc<str> {
    let trace = (rand::random::<u128>() | 1).to_be_bytes();
    let span = (rand::random::<u64>() | 1).to_be_bytes();
    // By hand: every request needs one.
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    for (digits, byte) in text[3..35].chunks_exact_mut(2).zip(trace) {
        digits.copy_from_slice(&hex(byte));
    }
    for (digits, byte) in text[36..52].chunks_exact_mut(2).zip(span) {
        digits.copy_from_slice(&hex(byte));
    }
    std::str::from_utf8(&text).expect("it is hexadecimal digits and dashes").into()
}

fn hex(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
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
    text.len() <= MAX_BYTES
        && hex(version, 2)
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
        let later = |length| {
            format!(
                "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-{}",
                "x".repeat(length)
            )
        };
        assert!(valid_traceparent(&later(200)) && !valid_traceparent(&later(201)));
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
