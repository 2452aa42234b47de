//! How large the HTTP part of a call may be. One rule for every call: whoever hands a request to
//! a function of its own node asks it too, so that no answer depends on where the function runs.

use http::HeaderMap;

use super::{CallError, MAX_HEAD_BYTES, MAX_HEADERS, head::too_large, hop::is_hop_by_hop};

/// What a head frame keeps free for all that is not HTTP: source, destination, trace, tags,
/// numbers. Names have at most 63 bytes, a trace at most 256.
const RESERVED_BYTES: usize = 4 * 1024;
/// The most that method, path, authority and header fields of a request, or the header fields of
/// an answer, may have together, in bytes.
pub const MAX_HTTP_HEAD_BYTES: usize = MAX_HEAD_BYTES - RESERVED_BYTES;
/// What the lengths of a field take on the wire.
const FIELD_BYTES: usize = 4;

/// Whether the head of a request can be sent in a call.
///
/// # Errors
/// [`CallError::HeadTooLarge`].
pub fn check_request_head(parts: &http::request::Parts) -> Result<(), CallError> {
    let headers = &parts.headers;
    let long = |name: &str| headers.get(name).map_or(0, http::HeaderValue::len);
    let host = parts.uri.authority().map_or_else(|| long("host"), |named| named.as_str().len());
    let path = parts.uri.path_and_query().map_or(1, |path| path.as_str().len());
    // Authority and trace stand in the head a second time.
    let more = parts.method.as_str().len() + path + host + long("traceparent") + long("tracestate");
    check(headers, more, MAX_HTTP_HEAD_BYTES)
}

/// Whether the head of an answer can be sent back.
///
/// # Errors
/// [`CallError::HeadTooLarge`].
pub fn check_answer_head(headers: &HeaderMap) -> Result<(), CallError> {
    check(headers, 0, MAX_HTTP_HEAD_BYTES)
}

/// Whether trailers can be sent.
///
/// # Errors
/// [`CallError::HeadTooLarge`].
pub fn check_trailers(trailers: &HeaderMap) -> Result<(), CallError> {
    check(trailers, 0, MAX_HTTP_HEAD_BYTES)
}

fn check(headers: &HeaderMap, more: usize, most: usize) -> Result<(), CallError> {
    let (mut fields, mut bytes) = (0, more);
    for (name, value) in headers {
        if !is_hop_by_hop(name, headers) {
            fields += 1;
            bytes += FIELD_BYTES + name.as_str().len() + value.len();
        }
    }
    if fields > MAX_HEADERS {
        return Err(too_large(format!("{fields} header fields, at most {MAX_HEADERS}")));
    }
    if bytes > most {
        return Err(too_large(format!("{bytes} bytes, at most {most}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use http::{HeaderValue, Method, Request};
    use swarmer_model::{ClusterId, Digest};

    use super::*;
    use crate::{
        call::{CallHead, Destination, MAX_HOPS},
        identity::Workload,
    };

    /// A request whose head has exactly so many bytes by this rule.
    fn request(bytes: usize) -> http::request::Parts {
        let host = "h".repeat(200);
        let trace = "t".repeat(256);
        let fixed = 3 + 1 + 2 * host.len() + 2 * trace.len() + "hosttraceparentx".len() + 3 * 4;
        Request::get("/")
            .header("host", host)
            .header("traceparent", trace)
            .header("x", "v".repeat(bytes - fixed))
            .body(())
            .unwrap()
            .into_parts()
            .0
    }

    #[test]
    fn what_the_rule_lets_pass_fits_into_a_frame_with_all_that_is_added() {
        assert!(check_request_head(&request(MAX_HTTP_HEAD_BYTES + 1)).is_err());
        let parts = request(MAX_HTTP_HEAD_BYTES);
        check_request_head(&parts).unwrap();
        let name = "n".repeat(63);
        let destination =
            Destination { namespace: name.clone(), name: name.clone(), version: Some(u32::MAX) };
        let mut head = CallHead::from_parts(parts, destination);
        head.source = Some(Workload {
            cluster: ClusterId(u128::MAX),
            namespace: name.as_str().into(),
            name: name.as_str().into(),
            component: Digest([255; 32]),
        });
        head.hop = MAX_HOPS;
        (head.revision, head.deadline_ms) = (u64::MAX, u64::MAX);
        head.encode(&mut BytesMut::new()).unwrap();
    }

    #[test]
    fn fields_are_counted_without_those_of_the_connection() {
        let mut headers = HeaderMap::new();
        for _ in 0..MAX_HEADERS {
            headers.append("x", HeaderValue::from_static("1"));
        }
        headers.insert("connection", HeaderValue::from_static("close"));
        check_answer_head(&headers).unwrap();
        headers.append("x", HeaderValue::from_static("1"));
        assert!(check_answer_head(&headers).is_err());
        let mut parts = Request::new(()).into_parts().0;
        parts.method = Method::POST;
        parts.headers = headers;
        assert!(check_request_head(&parts).is_err());
    }
}
