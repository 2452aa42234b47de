//! The heads of a call and of its answer, and how they stand on the wire.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use swarmer_model::{ClusterId, Digest, NodeId, Revision};

use super::{
    Body, CallError, MAX_HEAD_BYTES, MAX_HEADERS, MAX_HOPS, MAX_TAGS, WIRE_VERSION,
    frame::{FRAME_HEADER_BYTES, Kind, put_header},
    hop::is_hop_by_hop,
};
use crate::identity::Workload;

/// The scheme of the URI that the caller used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheme {
    /// `http`.
    #[default]
    Http,
    /// `https`.
    Https,
}

/// The function that is called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Destination {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The version that the caller chose by weight; `None` leaves the choice to the receiver.
    pub version: Option<u32>,
}

/// The W3C trace context, passed on unread; empty strings stand for "none".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TraceContext {
    /// The `traceparent` header.
    pub traceparent: String,
    /// The `tracestate` header.
    pub tracestate: String,
}

/// All that a receiver must know to serve a call, except its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallHead {
    /// The HTTP method.
    pub method: Method,
    /// Path with query, as the caller gave it.
    pub path: String,
    /// Host and port that the caller named.
    pub authority: String,
    /// The scheme that the caller named.
    pub scheme: Scheme,
    /// The header fields; hop-by-hop fields are left out when the call is sent.
    pub headers: HeaderMap,
    /// The workload that calls; `None` for a call that came in from outside. The receiver asks
    /// [`may_speak`](crate::identity::may_speak) whether the sender may say so.
    pub source: Option<Workload>,
    /// What is called.
    pub destination: Destination,
    /// The revision of the state by which the sender chose the destination.
    pub revision: Revision,
    /// Milliseconds that remain until the call's deadline. Written by
    /// [`send_call`](super::send_call) from the deadline it is given.
    pub deadline_ms: u64,
    /// The trace that the call belongs to.
    pub trace: TraceContext,
    /// How many nodes the call has passed, at most [`MAX_HOPS`].
    pub hop: u8,
    /// Tags that travel along the whole chain of calls, at most [`MAX_TAGS`].
    pub tags: Vec<(String, String)>,
}

/// Who served a call. The caller finds it among the answer's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// The node that served it.
    pub node: NodeId,
    /// The version of the function that served it; `None` if no function did (a problem).
    pub version: Option<u32>,
    /// The revision of the state by which it was served.
    pub revision: Revision,
}

#[derive(Serialize, Deserialize)]
struct WireCall<'a> {
    method: &'a str,
    path: &'a str,
    authority: &'a str,
    https: bool,
    #[serde(borrow)]
    source: Option<WireWorkload<'a>>,
    namespace: &'a str,
    name: &'a str,
    version: Option<u32>,
    revision: u64,
    deadline_ms: u64,
    traceparent: &'a str,
    tracestate: &'a str,
    hop: u8,
    #[serde(borrow)]
    tags: Vec<(&'a str, &'a str)>,
}

#[derive(Serialize, Deserialize)]
struct WireWorkload<'a> {
    cluster: u128,
    namespace: &'a str,
    name: &'a str,
    component: [u8; 32],
}

impl<'a> WireWorkload<'a> {
    fn of(workload: &'a Workload) -> Self {
        Self {
            cluster: workload.cluster.0,
            namespace: &workload.namespace,
            name: &workload.name,
            component: workload.component.0,
        }
    }

    fn to_workload(&self) -> Workload {
        Workload {
            cluster: ClusterId(self.cluster),
            namespace: self.namespace.into(),
            name: self.name.into(),
            component: Digest(self.component),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct WireAnswer {
    status: u16,
    revision: u64,
    version: Option<u32>,
    node: u64,
}

/// What the fixed-size fields of a head take at most, with all their length prefixes.
const FIXED_BYTES: usize = 192;

impl CallHead {
    /// The head of a call of `destination` with this method and path, everything else empty.
    pub fn new(method: Method, path: impl Into<String>, destination: Destination) -> Self {
        Self {
            method,
            path: path.into(),
            authority: String::new(),
            scheme: Scheme::Http,
            headers: HeaderMap::new(),
            source: None,
            destination,
            revision: 0,
            deadline_ms: 0,
            trace: TraceContext::default(),
            hop: 0,
            tags: Vec::new(),
        }
    }

    /// The head of a call that hands an HTTP request on. Method, path, authority (from the URI,
    /// else from `host`), scheme and headers are taken; `traceparent` and `tracestate` fill the
    /// trace context.
    pub fn from_parts(parts: http::request::Parts, destination: Destination) -> Self {
        let text = |name: &str| {
            parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
        };
        let authority = match parts.uri.authority() {
            Some(authority) => authority.as_str(),
            None => text("host"),
        };
        Self {
            path: parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            authority: authority.to_owned(),
            scheme: if parts.uri.scheme_str() == Some("https") {
                Scheme::Https
            } else {
                Scheme::Http
            },
            trace: TraceContext {
                traceparent: text("traceparent").to_owned(),
                tracestate: text("tracestate").to_owned(),
            },
            method: parts.method,
            headers: parts.headers,
            source: None,
            destination,
            revision: 0,
            deadline_ms: 0,
            hop: 0,
            tags: Vec::new(),
        }
    }

    /// The time that remained when the call was sent.
    pub fn time_left(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }

    /// The call as an HTTP request in absolute form, as a component expects it. What is not HTTP
    /// (source, destination, revision, deadline, hop, tags) stays behind.
    ///
    /// # Errors
    /// [`CallError::Protocol`] if path or authority make no URI.
    pub fn to_request(&self, body: Body) -> Result<http::Request<Body>, CallError> {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let mut uri = Uri::builder().path_and_query(self.path.as_str());
        if !self.authority.is_empty() {
            uri = uri.scheme(scheme).authority(self.authority.as_str());
        }
        let uri = uri
            .build()
            .map_err(|error| CallError::protocol(format!("path or authority: {error}")))?;
        let mut request = http::Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    /// Appends the head as a frame.
    pub(super) fn encode(&self, out: &mut BytesMut) -> Result<(), CallError> {
        if self.hop > MAX_HOPS {
            return Err(CallError::Loop);
        }
        if self.tags.len() > MAX_TAGS {
            return Err(too_large(format!("{} tags, at most {MAX_TAGS}", self.tags.len())));
        }
        let wire = WireCall {
            method: self.method.as_str(),
            path: &self.path,
            authority: &self.authority,
            https: self.scheme == Scheme::Https,
            source: self.source.as_ref().map(WireWorkload::of),
            namespace: &self.destination.namespace,
            name: &self.destination.name,
            version: self.destination.version,
            revision: self.revision,
            deadline_ms: self.deadline_ms,
            traceparent: &self.trace.traceparent,
            tracestate: &self.trace.tracestate,
            hop: self.hop,
            tags: self.tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        };
        let texts = wire.method.len()
            + wire.path.len()
            + wire.authority.len()
            + wire.source.as_ref().map_or(0, |source| source.namespace.len() + source.name.len())
            + wire.namespace.len()
            + wire.name.len()
            + wire.traceparent.len()
            + wire.tracestate.len()
            + wire.tags.iter().map(|(key, value)| key.len() + value.len() + 8).sum::<usize>();
        encode_head(out, Kind::Call, &wire, texts, &self.headers)
    }

    /// Reads the payload of a head frame.
    pub(super) fn decode(payload: &Bytes) -> Result<Self, CallError> {
        let (wire, rest) = take::<WireCall<'_>>(payload)?;
        if wire.hop > MAX_HOPS {
            return Err(CallError::Loop);
        }
        if wire.tags.len() > MAX_TAGS {
            return Err(CallError::protocol("too many tags"));
        }
        let method = Method::from_bytes(wire.method.as_bytes())
            .map_err(|_| CallError::protocol("the method is no HTTP method"))?;
        Ok(Self {
            method,
            path: wire.path.to_owned(),
            authority: wire.authority.to_owned(),
            scheme: if wire.https { Scheme::Https } else { Scheme::Http },
            headers: decode_headers(payload, rest)?,
            source: wire.source.as_ref().map(WireWorkload::to_workload),
            destination: Destination {
                namespace: wire.namespace.to_owned(),
                name: wire.name.to_owned(),
                version: wire.version,
            },
            revision: wire.revision,
            deadline_ms: wire.deadline_ms,
            trace: TraceContext {
                traceparent: wire.traceparent.to_owned(),
                tracestate: wire.tracestate.to_owned(),
            },
            hop: wire.hop,
            tags: wire
                .tags
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        })
    }
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AnswerHead {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) served: Served,
}

impl AnswerHead {
    pub(super) fn encode(&self, out: &mut BytesMut) -> Result<(), CallError> {
        let wire = WireAnswer {
            status: self.status.as_u16(),
            revision: self.served.revision,
            version: self.served.version,
            node: self.served.node.0,
        };
        encode_head(out, Kind::Answer, &wire, 0, &self.headers)
    }

    pub(super) fn decode(payload: &Bytes) -> Result<Self, CallError> {
        let (wire, rest) = take::<WireAnswer>(payload)?;
        Ok(Self {
            status: StatusCode::from_u16(wire.status)
                .map_err(|_| CallError::protocol("the status is no HTTP status"))?,
            headers: decode_headers(payload, rest)?,
            served: Served {
                node: NodeId(wire.node),
                version: wire.version,
                revision: wire.revision,
            },
        })
    }
}

pub(super) fn too_large(reason: String) -> CallError {
    CallError::HeadTooLarge { reason }
}

/// Version byte, postcard fields, header block. What a newer version appends after the block is
/// skipped by an older one.
fn take<'a, T: Deserialize<'a>>(payload: &'a Bytes) -> Result<(T, &'a [u8]), CallError> {
    match payload.split_first() {
        Some((&WIRE_VERSION, fields)) => postcard::take_from_bytes(fields)
            .map_err(|error| CallError::protocol(format!("the head cannot be read: {error}"))),
        Some((version, _)) => Err(CallError::protocol(format!(
            "call protocol version {version}, this node speaks {WIRE_VERSION}"
        ))),
        None => Err(CallError::protocol("the head is empty")),
    }
}

fn encode_head<T: Serialize>(
    out: &mut BytesMut,
    kind: Kind,
    wire: &T,
    text_bytes: usize,
    headers: &HeaderMap,
) -> Result<(), CallError> {
    let at = out.len();
    out.put_bytes(0, FRAME_HEADER_BYTES);
    out.put_u8(WIRE_VERSION);
    if text_bytes > MAX_HEAD_BYTES {
        return Err(too_large(format!("{text_bytes} bytes, at most {MAX_HEAD_BYTES}")));
    }
    let fields = out.len();
    out.put_bytes(0, FIXED_BYTES + text_bytes);
    let used =
        postcard::to_slice(wire, &mut out[fields..]).expect("the bound covers every field").len();
    out.truncate(fields + used);
    encode_headers(headers, out)?;
    let payload = out.len() - at - FRAME_HEADER_BYTES;
    if payload > MAX_HEAD_BYTES {
        return Err(too_large(format!("{payload} bytes, at most {MAX_HEAD_BYTES}")));
    }
    put_header(&mut out[at..], kind, false, payload);
    Ok(())
}

/// Appends a trailers frame, marked as the last of its message.
pub(super) fn encode_trailers(headers: &HeaderMap, out: &mut BytesMut) -> Result<(), CallError> {
    let at = out.len();
    out.put_bytes(0, FRAME_HEADER_BYTES);
    encode_headers(headers, out)?;
    let payload = out.len() - at - FRAME_HEADER_BYTES;
    if payload > MAX_HEAD_BYTES {
        return Err(too_large(format!("trailers of {payload} bytes, at most {MAX_HEAD_BYTES}")));
    }
    put_header(&mut out[at..], Kind::Trailers, true, payload);
    Ok(())
}

/// Reads the payload of a trailers frame.
pub(super) fn decode_trailers(payload: &Bytes) -> Result<HeaderMap, CallError> {
    decode_headers(payload, payload)
}

/// A header block: count, then for each field name length, name, value length, value; all
/// numbers 16 bits, big-endian.
fn encode_headers(headers: &HeaderMap, out: &mut BytesMut) -> Result<(), CallError> {
    let count_at = out.len();
    out.put_u16(0);
    let mut count: u16 = 0;
    for (name, value) in headers {
        if is_hop_by_hop(name, headers) {
            continue;
        }
        count += 1;
        if usize::from(count) > MAX_HEADERS {
            return Err(too_large(format!("more than {MAX_HEADERS} header fields")));
        }
        for part in [name.as_str().as_bytes(), value.as_bytes()] {
            let length = u16::try_from(part.len())
                .map_err(|_| too_large(format!("header field {name} is over 64 KiB")))?;
            out.put_u16(length);
            out.put_slice(part);
        }
    }
    out[count_at..count_at + 2].copy_from_slice(&count.to_be_bytes());
    Ok(())
}

/// Reads the header block at the start of `rest`, a part of `payload`; values are slices of it.
fn decode_headers(payload: &Bytes, mut rest: &[u8]) -> Result<HeaderMap, CallError> {
    fn number(rest: &mut &[u8]) -> Result<usize, CallError> {
        let (number, tail) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
        *rest = tail;
        Ok(usize::from(u16::from_be_bytes(*number)))
    }
    fn part<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], CallError> {
        let length = number(rest)?;
        let (part, tail) = rest.split_at_checked(length).ok_or_else(cut)?;
        *rest = tail;
        Ok(part)
    }
    fn cut() -> CallError {
        CallError::protocol("the header fields are cut off")
    }

    let count = number(&mut rest)?;
    if count > MAX_HEADERS {
        return Err(CallError::protocol(format!("{count} header fields, at most {MAX_HEADERS}")));
    }
    let mut headers = HeaderMap::with_capacity(count);
    for _ in 0..count {
        let name = HeaderName::from_bytes(part(&mut rest)?)
            .map_err(|_| CallError::protocol("a header field has no valid name"))?;
        let value = HeaderValue::from_maybe_shared(payload.slice_ref(part(&mut rest)?))
            .map_err(|_| CallError::protocol(format!("header field {name} has no valid value")))?;
        headers.append(name, value);
    }
    super::hop::strip_hop_by_hop(&mut headers);
    Ok(headers)
}
