//! Header fields that belong to one HTTP connection and must not travel on (RFC 9110, 7.6.1).

use http::{HeaderMap, HeaderName, header};

/// Whether `name` is about the connection only: one of the fixed set, or named by the
/// `connection` field of the same `headers`.
pub(super) fn is_hop_by_hop(name: &HeaderName, headers: &HeaderMap) -> bool {
    // `te: trailers` may pass (RFC 9110, 10.1.4): it says that the caller wants trailers.
    if name == header::TE {
        return headers.get(header::TE).is_none_or(|value| value != "trailers");
    }
    if name == header::CONNECTION
        || name == header::TRANSFER_ENCODING
        || name == header::UPGRADE
        || name == header::PROXY_AUTHENTICATE
        || name == header::PROXY_AUTHORIZATION
        || name.as_str() == "keep-alive"
        || name.as_str() == "proxy-connection"
    {
        return true;
    }
    headers.contains_key(header::CONNECTION)
        && headers.get_all(header::CONNECTION).iter().any(|value| {
            value
                .as_bytes()
                .split(|byte| *byte == b',')
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
        })
}

/// Removes all hop-by-hop fields. Calls and answers have this done on both sides; it is public
/// for whoever hands a request to a function on the same node.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Almost no head has one; look before anything is allocated.
    if !headers.keys().any(|name| is_hop_by_hop(name, headers)) {
        return;
    }
    let names: Vec<HeaderName> =
        headers.keys().filter(|name| is_hop_by_hop(name, headers)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}
