//! The call protocol between two real QUIC endpoints in this process.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, StreamBody, channel::Channel};
use proptest::prelude::*;
use quinn::{Connection, Endpoint, VarInt};
use swarmer_model::{ClusterId, Coded as _, Digest, NodeId};
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};

use super::{
    frame::{FRAME_HEADER_BYTES, parse_header},
    head::AnswerHead,
    *,
};
use crate::{identity::Workload, stream::ResetCode};

const SERVED: Served = Served { node: NodeId(7), version: Some(3), revision: 42 };

struct Pair {
    client: Connection,
    server: Connection,
    _endpoints: (Endpoint, Endpoint),
}

async fn pair() -> Pair {
    let cert = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(cert.signing_key.serialize_der());
    let der = cert.cert.der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key.into())
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = quinn::crypto::rustls::QuicServerConfig::try_from(server).unwrap();
    let client = quinn::crypto::rustls::QuicClientConfig::try_from(client).unwrap();
    let local = (Ipv4Addr::LOCALHOST, 0).into();
    let accepting =
        Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(server)), local).unwrap();
    let dialing = Endpoint::client(local).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(client));
    let address = accepting.local_addr().unwrap();
    let connecting = dialing.connect_with(config, address, "localhost").unwrap();
    let (client, server) =
        tokio::join!(connecting, async { accepting.accept().await.unwrap().await });
    Pair { client: client.unwrap(), server: server.unwrap(), _endpoints: (dialing, accepting) }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn head() -> CallHead {
    let destination =
        Destination { namespace: "default".into(), name: "hello".into(), version: Some(3) };
    CallHead::new(Method::POST, "/hello?x=1", destination)
}

impl Pair {
    async fn call(&self, head: CallHead, body: Body) -> Result<http::Response<Body>, CallError> {
        let (send, recv) = self.client.open_bi().await.unwrap();
        send_call(send, recv, head, body, soon()).await
    }

    /// Takes the next call on the other side.
    fn accept(&self) -> JoinHandle<Result<IncomingCall, CallError>> {
        let server = self.server.clone();
        tokio::spawn(async move {
            let (send, recv) = server.accept_bi().await.unwrap();
            receive_call(send, recv).await
        })
    }

    /// Answers the next call with its own body and trailers.
    fn echo(&self) -> JoinHandle<Result<(), CallError>> {
        let accept = self.accept();
        tokio::spawn(async move {
            let call = accept.await.unwrap()?;
            call.responder.respond(http::Response::new(call.body), SERVED).await
        })
    }
}

/// A body that makes `total` bytes as they are asked for, and counts them.
fn counted(total: usize, made: Arc<AtomicUsize>) -> Body {
    let chunk = Bytes::from(vec![5u8; 256 * 1024]);
    let stream = futures::stream::unfold(total, move |left| {
        let (chunk, made) = (chunk.clone(), Arc::clone(&made));
        async move {
            let piece = chunk.slice(..left.min(chunk.len()));
            let left = left.checked_sub(piece.len())?;
            (!piece.is_empty()).then(|| {
                made.fetch_add(piece.len(), Ordering::SeqCst);
                (Ok(Frame::data(piece)), left)
            })
        }
    });
    StreamBody::new(stream).boxed_unsync()
}

#[tokio::test]
async fn head_body_and_trailers_arrive_as_they_went() {
    let pair = pair().await;
    let accept = pair.accept();
    let mut sent = head();
    sent.authority = "hello.internal".into();
    let source = Workload {
        cluster: ClusterId(7),
        namespace: "default".into(),
        name: "caller".into(),
        component: Digest::of(b"component"),
    };
    sent.source = Some(source.clone());
    sent.trace.traceparent = "00-1-2-01".into();
    sent.tags.push(("lane".into(), "grey".into()));
    sent.headers.append("x-a", HeaderValue::from_static("1"));
    sent.headers.append("x-a", HeaderValue::from_bytes(b"\xff2").unwrap());
    sent.headers.append("connection", HeaderValue::from_static("close, x-hop"));
    sent.headers.append("x-hop", HeaderValue::from_static("gone"));
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("abc"));
    let body = full("question")
        .with_trailers(std::future::ready(Some(Ok(trailers.clone()))))
        .boxed_unsync();
    let server = async {
        let call = accept.await.unwrap().unwrap();
        assert_eq!(call.head.hop, 1);
        assert!(call.head.time_left() > Duration::from_secs(10));
        assert_eq!(call.head.tags, [("lane".to_owned(), "grey".to_owned())]);
        assert_eq!(call.head.source, Some(source));
        let (request, _, responder) = call.into_request().unwrap();
        assert_eq!(request.uri().to_string(), "http://hello.internal/hello?x=1");
        assert_eq!(request.headers().get_all("x-a").iter().count(), 2);
        assert_eq!(request.headers().len(), 2, "hop-by-hop fields stay behind");
        let body = request.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap(), &trailers);
        assert_eq!(body.to_bytes(), "question");
        let answer = full("answer")
            .with_trailers(std::future::ready(Some(Ok(trailers.clone()))))
            .boxed_unsync();
        let response = http::Response::builder().status(418).body(answer).unwrap();
        responder.respond(response, SERVED).await.unwrap();
    };
    let (response, ()) = tokio::join!(pair.call(sent, body), server);
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(response.extensions().get::<Served>(), Some(&SERVED));
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap(), &trailers);
    assert_eq!(body.to_bytes(), "answer");
}

#[tokio::test]
async fn empty_and_middling_bodies_come_back_whole() {
    let pair = pair().await;
    for length in [0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 300_000] {
        let server = pair.echo();
        let sent = Bytes::from((0..length).map(|at| at as u8).collect::<Vec<u8>>());
        let response = pair.call(head(), full(sent.clone())).await.unwrap();
        assert_eq!(collect(response.into_body(), usize::MAX).await.unwrap(), sent);
        server.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_large_body_goes_both_ways_in_constant_memory() {
    const TOTAL: usize = 24 * 1024 * 1024;
    let pair = pair().await;
    let server = pair.echo();
    let made = Arc::new(AtomicUsize::new(0));
    let response = pair.call(head(), counted(TOTAL, Arc::clone(&made))).await.unwrap();
    let mut body = response.into_body();
    let (mut got, mut most) = (0, 0);
    while let Some(frame) = body.frame().await {
        got += frame.unwrap().into_data().unwrap().len();
        most = most.max(made.load(Ordering::SeqCst) - got);
    }
    assert_eq!(got, TOTAL);
    // quinn's windows in both directions and a batch each; measured, it is under 6 MB.
    assert!(most < 8 * 1024 * 1024, "{most} bytes were in between");
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reader_that_stops_reading_stops_the_writer() {
    let pair = pair().await;
    let accept = pair.accept();
    let made = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&made);
    let server = tokio::spawn(async move {
        let call = accept.await.unwrap()?;
        let body = counted(usize::MAX, counting);
        call.responder.respond(http::Response::new(body), SERVED).await
    });
    let response = pair.call(head(), empty()).await.unwrap();
    // Nothing is read: the number settles. Each round trip lets the server make what it can.
    let mut last = usize::MAX;
    while last != made.load(Ordering::SeqCst) {
        last = made.load(Ordering::SeqCst);
        for _ in 0..5 {
            let echo = tokio::spawn({
                let server = pair.server.clone();
                async move {
                    let (send, recv) = server.accept_bi().await.unwrap();
                    let call = receive_call(send, recv).await.unwrap();
                    call.responder.refuse(Refusal::Overloaded, SERVED).await
                }
            });
            assert_eq!(pair.call(head(), empty()).await.unwrap_err(), CallError::Overloaded);
            echo.await.unwrap().unwrap();
        }
    }
    assert!(last < 4 * 1024 * 1024, "{last} bytes for a reader that does not read");
    drop(response);
    assert_eq!(server.await.unwrap(), Err(CallError::Cancelled));
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    let pair = pair().await;
    let server = pair.echo();
    let (mut send, body) = Channel::<Bytes, CallError>::new(1);
    send.send_data("a".into()).await.unwrap();
    let response = pair.call(head(), body.boxed_unsync()).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
    for text in ["b", "c"] {
        send.send_data(text.into()).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), text);
    }
    drop(send);
    assert!(body.frame().await.is_none());
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_cancel_reaches_the_server_before_and_after_the_answer() {
    let pair = pair().await;
    // Before: the future of the call is dropped.
    let accept = pair.accept();
    let calling = pair.call(head(), empty());
    let call = tokio::select! {
        _ = calling => panic!("nobody answered"),
        call = accept => call.unwrap().unwrap(),
    };
    call.responder.cancelled().await;
    drop(call);
    // After: the answer's body is dropped while the server's body is idle.
    let accept = pair.accept();
    let (dropped, is_dropped) = oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let call = accept.await.unwrap()?;
        let idle = StreamBody::new(futures::stream::unfold(dropped, |dropped| async move {
            std::future::pending::<()>().await;
            drop(dropped);
            None::<(Result<Frame<Bytes>, CallError>, _)>
        }));
        call.responder.respond(http::Response::new(idle.boxed_unsync()), SERVED).await
    });
    let response = pair.call(head(), empty()).await.unwrap();
    drop(response);
    assert!(is_dropped.await.is_err(), "the body was dropped");
    assert_eq!(server.await.unwrap(), Err(CallError::Cancelled));
}

#[tokio::test]
async fn an_answer_that_fails_is_broken_off_never_ended() {
    let pair = pair().await;
    for dies in [false, true] {
        let accept = pair.accept();
        let (mut send, body) = Channel::<Bytes, CallError>::new(1);
        let server = tokio::spawn(async move {
            let call = accept.await.unwrap()?;
            call.responder.respond(http::Response::new(body.boxed_unsync()), SERVED).await
        });
        send.send_data("part".into()).await.unwrap();
        let mut body = pair.call(head(), empty()).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
        if dies {
            // The task is gone, as after a panic.
            server.abort();
        } else {
            send.abort(CallError::body_source("the guest trapped"));
        }
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error, CallError::Broken { .. }), "{error}");
        assert!(!error.not_started());
    }
}

#[tokio::test]
async fn a_clean_fin_without_a_last_frame_is_a_truncation() {
    let pair = pair().await;
    let server = pair.server.clone();
    tokio::spawn(async move {
        let (mut send, recv) = server.accept_bi().await.unwrap();
        let head = AnswerHead { status: StatusCode::OK, headers: HeaderMap::new(), served: SERVED };
        let mut out = BytesMut::new();
        head.encode(&mut out).unwrap();
        send.write_all(&out).await.unwrap();
        send.finish().unwrap();
        let _ = send.stopped().await;
        drop(recv);
    });
    let response = pair.call(head(), empty()).await.unwrap();
    let error = collect(response.into_body(), 10).await.unwrap_err();
    assert!(matches!(error, CallError::Broken { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_dies_is_an_error_on_the_client() {
    let pair = pair().await;
    let accept = pair.accept();
    let (mut send, body) = Channel::<Bytes, CallError>::new(1);
    tokio::spawn(async move {
        let call = accept.await.unwrap().unwrap();
        let _ = call.responder.respond(http::Response::new(body.boxed_unsync()), SERVED).await;
    });
    send.send_data("part".into()).await.unwrap();
    let mut body = pair.call(head(), empty()).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
    pair.server.close(VarInt::from_u32(1), b"killed");
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Broken { .. }), "{error}");
    pair.client.closed().await;
    assert!(pair.client.open_bi().await.is_err());
}

#[tokio::test]
async fn a_call_whose_request_body_failed_may_be_answered() {
    let pair = pair().await;
    let accept = pair.accept();
    let (mut send, body) = Channel::<Bytes, CallError>::new(1);
    send.send_data("part".into()).await.unwrap();
    let server = async {
        let call = accept.await.unwrap().unwrap();
        send.abort(CallError::body_source("half of it is missing"));
        collect(call.body, 100).await.unwrap_err();
        let mut response = http::Response::new(full("only a part"));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        call.responder.respond(response, SERVED).await.unwrap();
    };
    let (answer, ()) = tokio::join!(pair.call(head(), body.boxed_unsync()), server);
    assert_eq!(answer.unwrap().status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_request_body_that_fails_is_seen_on_both_sides() {
    let pair = pair().await;
    let accept = pair.accept();
    let (mut send, body) = Channel::<Bytes, CallError>::new(1);
    send.send_data("part".into()).await.unwrap();
    let server = async {
        let call = accept.await.unwrap().unwrap();
        send.abort(CallError::body_source("the client is gone"));
        let error = collect(call.body, 100).await.unwrap_err();
        assert!(!matches!(error, CallError::Protocol { .. }), "{error}");
        drop(call.responder);
    };
    let (answer, ()) = tokio::join!(pair.call(head(), body.boxed_unsync()), server);
    assert!(matches!(answer.unwrap_err(), CallError::BodySource { .. }));
}

#[tokio::test]
async fn the_deadline_ends_a_call_before_its_answer_and_in_its_body() {
    let pair = pair().await;
    let deadline = || Instant::now() + Duration::from_millis(50);
    let accept = pair.accept();
    let (send, recv) = pair.client.open_bi().await.unwrap();
    let error = send_call(send, recv, head(), empty(), deadline()).await.unwrap_err();
    assert_eq!(error, CallError::Deadline);
    accept.await.unwrap().unwrap().responder.cancelled().await;

    let accept = pair.accept();
    let (_hold, body) = Channel::<Bytes, CallError>::new(1);
    let server = tokio::spawn(async move {
        let call = accept.await.unwrap()?;
        call.responder.respond(http::Response::new(body.boxed_unsync()), SERVED).await
    });
    let (send, recv) = pair.client.open_bi().await.unwrap();
    let response = send_call(send, recv, head(), empty(), deadline()).await.unwrap();
    assert_eq!(collect(response.into_body(), 1).await, Err(CallError::Deadline));
    assert_eq!(server.await.unwrap(), Err(CallError::Deadline));

    let (send, recv) = pair.client.open_bi().await.unwrap();
    let error = send_call(send, recv, head(), empty(), Instant::now()).await.unwrap_err();
    assert_eq!(error, CallError::Deadline);
}

#[tokio::test]
async fn a_refusal_says_whether_anything_was_started() {
    let pair = pair().await;
    for (refusal, expected, not_started) in [
        (Refusal::NotStarted, CallError::NotStarted, true),
        (Refusal::Stale, CallError::Stale, true),
        (Refusal::Overloaded, CallError::Overloaded, true),
        (Refusal::Deadline, CallError::Deadline, false),
    ] {
        let accept = pair.accept();
        let server = async {
            let call = accept.await.unwrap().unwrap();
            call.responder.refuse(refusal, SERVED).await.unwrap();
        };
        let made = Arc::new(AtomicUsize::new(0));
        let (answer, ()) = tokio::join!(pair.call(head(), counted(1 << 20, made)), server);
        let error = answer.unwrap_err();
        assert_eq!(error.code(), expected.code());
        assert_eq!(error.not_started(), not_started);
    }
    for started in [true, false] {
        let accept = pair.accept();
        let problem = Refusal::Problem {
            status: StatusCode::FORBIDDEN,
            headers: HeaderMap::from_iter([(http::header::RETRY_AFTER, HeaderValue::from(1))]),
            document: "why".into(),
            started,
        };
        let server = async {
            accept.await.unwrap().unwrap().responder.refuse(problem, SERVED).await.unwrap();
        };
        let (answer, ()) = tokio::join!(pair.call(head(), empty()), server);
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 403);
        assert_eq!(answer.headers().len(), 1, "{:?}", answer.headers());
        assert_eq!(answer.extensions().get(), Some(&Refused { started }));
        assert_eq!(answer.extensions().get::<Served>().unwrap().version, None);
        assert_eq!(collect(answer.into_body(), 4096).await.unwrap(), "why");
    }
}

#[tokio::test]
async fn no_function_can_say_that_it_was_not_started() {
    let pair = pair().await;
    let accept = pair.accept();
    let server = async {
        let call = accept.await.unwrap().unwrap();
        let mut response = http::Response::new(full("x"));
        response.headers_mut().insert("x-swarmer-not-started", HeaderValue::from_static("1"));
        call.responder.respond(response, SERVED).await.unwrap();
    };
    let (answer, ()) = tokio::join!(pair.call(head(), empty()), server);
    assert_eq!(answer.unwrap().extensions().get::<Refused>(), None);
}

#[tokio::test]
async fn a_head_over_the_limits_is_refused_on_both_sides() {
    let pair = pair().await;
    let mut long = head();
    long.path = format!("/{}", "a".repeat(MAX_HEAD_BYTES));
    let mut many = head();
    for at in 0..=MAX_HEADERS {
        many.headers.append("x", HeaderValue::from(at));
    }
    for head in [long, many] {
        let error = pair.call(head, empty()).await.unwrap_err();
        assert!(matches!(error, CallError::HeadTooLarge { .. }), "{error}");
    }
    let mut looping = head();
    looping.hop = MAX_HOPS;
    assert_eq!(pair.call(looping, empty()).await.unwrap_err(), CallError::Loop);
}

#[tokio::test]
async fn garbage_is_answered_with_a_reset() {
    let pair = pair().await;
    let garbage: [&[u8]; 6] = [
        &[0x7f, 0, 0, 1, 0],                // unknown kind
        &[1, 0xff, 0xff, 0xff],             // oversized
        &[3, 0, 0, 1, 0],                   // data before a head
        &[1, 0, 0, 2, 99, 0],               // unknown version
        &[1, 0, 0, 4, 1, 0xff, 0xff, 0xff], // nonsense in the head
        &[1, 0],                            // cut off
    ];
    for bytes in garbage {
        let server = pair.server.clone();
        let receiving = tokio::spawn(async move {
            // Streams that failed before anything was written are not seen here.
            let (send, recv) = server.accept_bi().await.unwrap();
            receive_call(send, recv).await.err()
        });
        let (mut send, mut recv) = pair.client.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        send.finish().unwrap();
        let error = receiving.await.unwrap().expect("garbage is no call");
        let expected = match error {
            CallError::Broken { .. } => ResetCode::INTERNAL,
            CallError::Protocol { .. } => ResetCode::MALFORMED,
            other => panic!("{other}"),
        };
        let reset = recv.read_to_end(10).await.unwrap_err();
        let quinn::ReadToEndError::Read(quinn::ReadError::Reset(code)) = reset else {
            panic!("{reset}")
        };
        assert_eq!(ResetCode::from(code), expected);
    }
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}

prop_compose! {
    fn any_head()(
        (path, authority, namespace, name) in (text(), text(), text(), text()),
        source in prop::option::of((any::<u128>(), text(), text(), any::<[u8; 32]>())),
        version in any::<Option<u32>>(),
        (revision, deadline_ms, https) in any::<(u64, u64, bool)>(),
        (traceparent, tracestate) in (text(), text()),
        hop in 0..=MAX_HOPS,
        tags in prop::collection::vec((text(), text()), 0..MAX_TAGS),
        headers in prop::collection::vec(("x-[a-z]{1,8}", prop::collection::vec(32u8..127, 0..40)), 0..20),
    ) -> CallHead {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_bytes(&value).unwrap());
        }
        CallHead {
            method: Method::PATCH,
            path,
            authority,
            scheme: if https { Scheme::Https } else { Scheme::Http },
            headers: map,
            source: source.map(|(cluster, namespace, name, component)| Workload {
                cluster: ClusterId(cluster),
                namespace: namespace.into(),
                name: name.into(),
                component: Digest(component),
            }),
            destination: Destination { namespace, name, version },
            revision,
            deadline_ms,
            trace: TraceContext { traceparent, tracestate },
            hop,
            tags,
        }
    }
}

proptest! {
    #[test]
    fn a_head_survives_the_wire(head in any_head()) {
        let mut out = BytesMut::new();
        head.encode(&mut out).unwrap();
        let frame = out.freeze();
        let header = parse_header(frame[..FRAME_HEADER_BYTES].try_into().unwrap()).unwrap();
        prop_assert_eq!(header.length, frame.len() - FRAME_HEADER_BYTES);
        prop_assert_eq!(CallHead::decode(&frame.slice(FRAME_HEADER_BYTES..)).unwrap(), head);
    }

    #[test]
    fn garbage_never_panics(
        head in any_head(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut out = BytesMut::new();
        head.encode(&mut out).unwrap();
        let mut bytes = out[FRAME_HEADER_BYTES..].to_vec();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        for bytes in [bytes, noise] {
            let payload = Bytes::from(bytes);
            let _ = CallHead::decode(&payload);
            let _ = AnswerHead::decode(&payload);
            let _ = head::decode_trailers(&payload);
        }
    }
}

#[test]
fn a_body_of_this_type_goes_through_hyper() {
    fn takes<B: http_body::Body<Data = Bytes> + Send + 'static>(_: &B)
    where
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
    }
    let body = full("x");
    takes(&body);
    assert_eq!(body.size_hint().exact(), Some(1));
}
