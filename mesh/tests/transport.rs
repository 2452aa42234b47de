//! The transport's promises, over loopback.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use support::{
    TestClock, TestNode, acquaint, know, log, member, member_with, membership, soon, start_with,
};
use swarmer_mesh::{
    bulk::{self, BULK_WINDOW},
    codes,
    identity::{Authority, Identity, NodeKey, Verdict, WallClock},
    stream::{FrameError, FrameReader, FrameWriter, ResetCode, read_frame, write_frame},
    transport::{Class, OpenError, RefusedBy, RequestError, StreamKind},
};
use swarmer_model::{ClusterId, Coded, NodeId};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::UdpSocket,
    time::Instant,
};

fn clock() -> Arc<TestClock> {
    Arc::default()
}

fn authority(cluster: u128, clock: &TestClock) -> Authority {
    Authority::create(ClusterId(cluster), clock.now()).unwrap()
}

fn pair(clock: &Arc<TestClock>) -> (Authority, TestNode, TestNode) {
    let authority = authority(1, clock);
    let (a, b) = (member(&authority, 1, clock), member(&authority, 2, clock));
    acquaint(&a, &b);
    (authority, a, b)
}

async fn ask(from: &TestNode, to: &TestNode, kind: StreamKind) -> Result<Bytes, RequestError> {
    from.handle.request(to.id, kind, Bytes::from_static(b"hello"), soon()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_talk_on_both_connections_and_both_ways() {
    let (_, mut a, b) = pair(&clock());
    for kind in [StreamKind::Raft, StreamKind::Artifact] {
        assert_eq!(ask(&a, &b, kind).await.unwrap(), "hello");
        assert_eq!(ask(&b, &a, kind).await.unwrap(), "hello");
        let (peer, seen) = a.seen.recv().await.unwrap();
        assert_eq!((peer.node, peer.class, peer.expired, seen), (b.id, kind.class(), false, kind));
    }
    let large = Bytes::from(vec![7; 5 * 1024 * 1024]);
    let answer = a.handle.request(b.id, StreamKind::Artifact, large.clone(), soon()).await.unwrap();
    assert_eq!(answer, large);
    assert!(a.handle.has_live_connection(b.id));
    assert!(a.handle.rtt(b.id).unwrap() < Duration::from_secs(1));
    assert_eq!((a.handle.stats().inbound, a.handle.stats().outbound), (2, 2));
    assert_eq!(a.handle.connections().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_codes_sizes_and_deadlines_arrive_as_what_they_are() {
    let (_, a, b) = pair(&clock());
    let error = ask(&a, &b, StreamKind::Observe).await.unwrap_err();
    assert_eq!(error.reset(), Some(ResetCode::STALE));
    assert!(error.not_started());
    assert_eq!(error.code(), codes::STALE);
    let large = Bytes::from(vec![0; 17 * 1024 * 1024]);
    let error = a.handle.request(b.id, StreamKind::Ping, large, soon()).await.unwrap_err();
    assert_eq!(error.code(), codes::TOO_LARGE);
    let late = Instant::now() + Duration::from_millis(100);
    let error = a.handle.request(b.id, StreamKind::Call, Bytes::new(), late).await.unwrap_err();
    assert!(matches!(error, RequestError::Deadline { .. }) && !error.not_started());
}

/// Endless zeros, counted as they are read.
struct Zeros(Arc<AtomicUsize>);

impl AsyncRead for Zeros {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.0.fetch_add(buffer.remaining(), Ordering::SeqCst);
        let room = buffer.initialize_unfilled().len();
        buffer.advance(room);
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_to_a_peer_that_takes_none_stops_at_its_window_and_calls_go_on() {
    let (_, a, b) = pair(&clock());
    let (budget, read) = (bulk::Budget::default(), Arc::new(AtomicUsize::new(0)));
    let mut transfers = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let kind = StreamKind::Artifact;
        let (send, recv) = a.handle.open(b.id, kind.class(), kind, soon()).await.unwrap();
        let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(recv, 64));
        writer.push(Bytes::from_static(b"bulk"));
        writer.flush().await.unwrap();
        let (window, mut source) = (budget.of(b.id), Zeros(read.clone()));
        transfers.spawn(async move {
            bulk::send(&window, &mut writer, &mut reader, &mut source, 16 << 20).await
        });
    }
    while read.load(Ordering::SeqCst) < BULK_WINDOW {
        tokio::task::yield_now().await;
    }
    // Six streams' windows would be more than the connection may hold unacknowledged.
    for _ in 0..100 {
        assert_eq!(ask(&a, &b, StreamKind::Snapshot).await.unwrap(), "hello");
    }
    assert_eq!(read.load(Ordering::SeqCst), BULK_WINDOW);
    // Whoever gives up leaves the window to the others.
    transfers.shutdown().await;
    assert_eq!(ask(&a, &b, StreamKind::Snapshot).await.unwrap(), "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_opens_at_once_are_one_handshake() {
    let (_, a, b) = pair(&clock());
    let opens = (0..64).map(|_| ask(&a, &b, StreamKind::Artifact));
    for answer in futures::future::join_all(opens).await {
        assert_eq!(answer.unwrap(), "hello");
    }
    assert_eq!(a.handle.stats().dials, 1);
    assert_eq!(b.handle.stats().inbound, 1);
}

/// A dial that must fail with a code on the dialler's side, found in both logs.
async fn refused(from: &TestNode, to: &TestNode, by: RefusedBy, code: swarmer_model::Code) {
    let error = ask(from, to, StreamKind::Artifact).await.unwrap_err();
    assert!(error.not_started());
    match &error {
        RequestError::Open(OpenError::Refused { by: found, code: named, .. }) => {
            assert_eq!((*found, *named), (by, code), "{error}");
        }
        other => panic!("{other}"),
    }
    let (dialler, accepter) = match by {
        RefusedBy::Us => ("us", "peer"),
        RefusedBy::Peer => ("peer", "us"),
    };
    log().refusal(dialler, to.addr, code.name).await;
    log().refusal(accepter, from.addr, code.name).await;
    assert_eq!(to.handle.stats().streams_served, 0);
    assert!(!from.handle.has_live_connection(to.id) && !to.handle.has_live_connection(from.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_cluster_is_refused_and_both_logs_say_why() {
    let clock = clock();
    let (ours, theirs) = (authority(1, &clock), authority(2, &clock));
    let (a, b) = (member(&ours, 1, &clock), member(&theirs, 2, &clock));
    acquaint(&a, &b);
    refused(&a, &b, RefusedBy::Us, codes::OTHER_CLUSTER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_authority_of_the_same_cluster_id_is_refused() {
    let clock = clock();
    let (ours, forged) = (authority(1, &clock), authority(1, &clock));
    let (a, b) = (member(&ours, 1, &clock), member(&forged, 2, &clock));
    acquaint(&a, &b);
    refused(&a, &b, RefusedBy::Us, codes::FOREIGN_CA).await;
    // One that believes everything still does not get in.
    let key = NodeKey::generate().unwrap();
    let mut place = membership(&forged, NodeId(3), &key, &clock);
    place.bundle = ours.bundle();
    let c = start_with(Identity::member(NodeId(3), key, place), &clock, |_| {});
    acquaint(&a, &c);
    refused(&c, &a, RefusedBy::Peer, codes::FOREIGN_CA).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_admitted_or_was_removed_is_refused() {
    let (_, a, b) = pair(&clock());
    b.book.members.lock().remove(&a.id);
    refused(&a, &b, RefusedBy::Peer, codes::NOT_ADMITTED).await;

    let (_, a, b) = pair(&clock());
    b.book.set(a.id, Verdict::Revoked);
    refused(&a, &b, RefusedBy::Peer, codes::REVOKED).await;

    // The right node with another key.
    let (_, a, b) = pair(&clock());
    b.book.members.lock().get_mut(&a.id).unwrap().0 = b.key.spki();
    refused(&a, &b, RefusedBy::Peer, codes::NOT_ADMITTED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_at_the_address_is_not_talked_to() {
    let clock = clock();
    let authority = authority(1, &clock);
    let (a, b, c) = (
        member(&authority, 1, &clock),
        member(&authority, 2, &clock),
        member(&authority, 3, &clock),
    );
    acquaint(&a, &b);
    acquaint(&a, &c);
    a.book.addresses.lock().insert(b.id, c.addr);
    let error = ask(&a, &b, StreamKind::Raft).await.unwrap_err();
    assert_eq!(error.code(), codes::WRONG_NODE, "{error}");
    assert_eq!(c.handle.stats().streams_served, 0);
    // A corrected address is tried at once, whatever the pause after the failure.
    a.book.addresses.lock().insert(b.id, b.addr);
    assert_eq!(ask(&a, &b, StreamKind::Raft).await.unwrap(), "hello");
}

/// A stranger that speaks QUIC and TLS, believes everybody and shows nothing.
mod stranger {
    use super::*;
    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    };
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    #[derive(Debug)]
    struct Anybody;

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }

    pub(super) fn endpoint(alpn: &str) -> quinn::Endpoint {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut client = quinn::ClientConfig::new(Arc::new(crypto));
        let mut transport = quinn::TransportConfig::default();
        // It keeps asking, so that a lost word of refusal is said again.
        transport.keep_alive_interval(Some(Duration::from_millis(200)));
        client.transport_config(Arc::new(transport));
        endpoint.set_default_client_config(client);
        endpoint
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_no_byte_is_exchanged() {
    let clock = clock();
    let node = member(&authority(1, &clock), 1, &clock);
    for protocol in ["swarmer-control/1", "swarmer-data/1"] {
        let endpoint = stranger::endpoint(protocol);
        let connection = endpoint.connect(node.addr, "x.swarmer").unwrap().await.unwrap();
        let reason = match connection.accept_uni().await.map(drop).unwrap_err() {
            quinn::ConnectionError::ApplicationClosed(close) => close.reason,
            other => panic!("{other}"),
        };
        assert!(reason.starts_with(codes::NO_CERTIFICATE.name.as_bytes()), "{reason:?}");
        log().refusal("us", endpoint.local_addr().unwrap(), codes::NO_CERTIFICATE.name).await;
    }
    let founding = stranger::endpoint("swarmer-found/1");
    let error = founding.connect(node.addr, "x.swarmer").unwrap().await.unwrap_err();
    assert!(error.to_string().contains("120"), "no common protocol: {error}");
    assert_eq!(node.handle.stats().streams_served, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_month_asleep_only_raft_of_voters_and_renewal_are_open() {
    let clock = clock();
    let (authority, a, mut b) = pair(&clock);
    clock.jump(Duration::from_secs(30 * 86_400));
    for kind in [StreamKind::Raft, StreamKind::Renew] {
        assert_eq!(ask(&a, &b, kind).await.unwrap(), "hello");
        assert!(b.seen.recv().await.unwrap().0.expired);
    }
    for kind in [StreamKind::Artifact, StreamKind::Feed, StreamKind::PushPull, StreamKind::Admin] {
        let error = ask(&a, &b, kind).await.unwrap_err();
        assert_eq!(error.code(), codes::EXPIRED);
        assert!(error.not_started());
    }
    // The accepting side holds to it too: only the dialler is expired.
    let place = membership(&authority, b.id, &b.key, &clock);
    b.handle.set_identity(Identity::member(b.id, b.key.clone(), place)).unwrap();
    a.handle.disconnect(b.id, "dial again");
    let error = ask(&a, &b, StreamKind::Artifact).await.unwrap_err();
    assert_eq!(error.reset(), Some(ResetCode::EXPIRED), "{error}");
    log().refusal("us", a.addr, codes::EXPIRED.name).await;
    // Raft is for voters.
    b.book.members.lock().get_mut(&a.id).unwrap().2 = false;
    assert_eq!(ask(&a, &b, StreamKind::Raft).await.unwrap_err().reset(), Some(ResetCode::EXPIRED));
    assert!(ask(&a, &b, StreamKind::Renew).await.is_ok());
    // With its own certificate renewed, all is open again.
    let place = membership(&authority, a.id, &a.key, &clock);
    a.handle.set_identity(Identity::member(a.id, a.key.clone(), place)).unwrap();
    assert_eq!(ask(&a, &b, StreamKind::Artifact).await.unwrap(), "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewal_swaps_the_identity_and_cuts_no_stream() {
    let clock = clock();
    let (authority, a, mut b) = pair(&clock);
    let deadline = soon();
    let open = a.handle.open(b.id, Class::Data, StreamKind::Call, deadline).await;
    let (mut send, mut recv) = open.unwrap();
    write_frame(&mut send, Bytes::from_static(b"long call")).await.unwrap();
    let before = b.seen.recv().await.unwrap().0;
    clock.jump(Duration::from_secs(12 * 3600));
    for node in [&a, &b] {
        let place = membership(&authority, node.id, &node.key, &clock);
        node.handle.set_identity(Identity::member(node.id, node.key.clone(), place)).unwrap();
    }
    assert_eq!(ask(&a, &b, StreamKind::Artifact).await.unwrap(), "hello");
    let after = b.seen.recv().await.unwrap().0;
    assert!(after.not_after > before.not_after, "the new certificate is shown");
    assert_eq!(a.handle.stats().dials, 2);
    b.gate.notify_one();
    assert_eq!(read_frame(&mut recv, 100).await.unwrap(), "long call");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_key_or_node_is_not_taken_as_ours() {
    let clock = clock();
    let (authority, a, b) = pair(&clock);
    let place = membership(&authority, a.id, &b.key, &clock);
    assert!(a.handle.set_identity(Identity::member(a.id, a.key.clone(), place)).is_err());
    let place = membership(&authority, b.id, &a.key, &clock);
    assert!(a.handle.set_identity(Identity::member(a.id, a.key.clone(), place)).is_err());
    assert!(ask(&a, &b, StreamKind::Raft).await.is_ok(), "nothing changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_cuts_live_connections_on_both_sides() {
    let (_, a, b) = pair(&clock());
    let (mut send, mut recv) =
        a.handle.open(b.id, Class::Data, StreamKind::Call, soon()).await.unwrap();
    write_frame(&mut send, Bytes::from_static(b"x")).await.unwrap();
    assert!(ask(&b, &a, StreamKind::Raft).await.is_ok());
    b.book.set(a.id, Verdict::Revoked);
    b.handle.disconnect(a.id, "removed by an operator");
    let error = read_frame(&mut recv, 100).await.unwrap_err();
    assert!(matches!(error, FrameError::Connection(_)), "{error}");
    assert_eq!(error.code(), codes::REVOKED);
    assert!(!b.handle.has_live_connection(a.id));
    assert_eq!(ask(&a, &b, StreamKind::Artifact).await.unwrap_err().code(), codes::REVOKED);
    log().refusal("us", a.addr, codes::REVOKED.name).await;
    let error = ask(&b, &a, StreamKind::Raft).await.unwrap_err();
    assert_eq!(error.code(), codes::REVOKED, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_stops_new_streams_even_on_a_connection_that_nobody_cut() {
    let (_, a, b) = pair(&clock());
    assert!(ask(&a, &b, StreamKind::Artifact).await.is_ok());
    b.book.set(a.id, Verdict::Revoked);
    let served = b.handle.stats().streams_served;
    assert!(ask(&a, &b, StreamKind::Artifact).await.unwrap_err().not_started());
    assert_eq!(b.handle.stats().streams_served, served);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_and_quic_share_the_port() {
    let (_, mut a, mut b) = pair(&clock());
    let bulk = Bytes::from(vec![1; 8 * 1024 * 1024]);
    let transfer = {
        let (handle, to, bulk) = (a.handle.clone(), b.id, bulk.clone());
        tokio::spawn(async move { handle.request(to, StreamKind::Artifact, bulk, soon()).await })
    };
    // While QUIC runs in batches, each datagram of gossip comes through as it was sent.
    let datagram = |n: usize| vec![u8::try_from(n).unwrap() & 0x3f; 1 + n * 6];
    let mut received = 0;
    for n in 0..200 {
        if b.gossip.send(a.addr, &datagram(n)).is_err() {
            continue;
        }
        // One that is late is read in a later round; UDP may lose some on a loaded machine.
        let next = tokio::time::timeout(Duration::from_millis(100), a.gossip.incoming.recv());
        if let Ok(Some((from, bytes))) = next.await {
            assert_eq!((from, bytes.as_ref()), (b.addr, &datagram((bytes.len() - 1) / 6)[..]));
            received += 1;
        }
    }
    assert!(received > 100, "{received} of 200");
    assert_eq!(transfer.await.unwrap().unwrap(), bulk);
    assert_eq!(b.gossip.sender().stats().dropped_full, 0);
    assert!(b.gossip.incoming.try_recv().is_err(), "no QUIC packet came as gossip");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_is_bounded_and_only_takes_its_own_kind() {
    let (_, a, b) = pair(&clock());
    assert!(a.gossip.send(b.addr, b"").is_err());
    assert!(a.gossip.send(b.addr, b"@quic").is_err());
    assert!(a.gossip.send(b.addr, &[0; 4_096]).is_err());
    // Nobody reads at b: what does not fit is counted.
    let stats = || b.gossip.sender().stats();
    let mut sent = 0u32;
    while stats().dropped_full == 0 {
        assert!(sent < 100_000, "{:?}", stats());
        for _ in 0..64 {
            let _ = a.gossip.send(b.addr, b"\x01gossip");
            sent += 1;
        }
        // For the reactor to say that the socket takes more.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(stats().received - stats().dropped_full <= 1_024);
    assert!(ask(&a, &b, StreamKind::Raft).await.is_ok(), "QUIC does not mind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_finds_the_pinned_cluster_and_no_other() {
    let clock = clock();
    let (ours, other) = (authority(1, &clock), authority(2, &clock));
    let node = member(&ours, 1, &clock);
    let joiner =
        start_with(Identity::joining(NodeId(9), NodeKey::generate().unwrap()), &clock, |_| {});
    let mut stream = joiner.handle.dial_join(node.addr, ours.fingerprint(), soon()).await.unwrap();
    assert_eq!((stream.node, stream.cluster), (NodeId(1), ClusterId(1)));
    assert_eq!(stream.bundle, ours.bundle());
    write_frame(&mut stream.send, Bytes::from_static(b"token")).await.unwrap();
    stream.send.finish().unwrap();
    let answer = read_frame(&mut stream.recv, 1_000).await.unwrap();
    assert_eq!(answer, &stream.exporter[..], "the exporter is the same on both ends");

    let error = joiner.handle.dial_join(node.addr, other.fingerprint(), soon()).await.unwrap_err();
    assert_eq!(error.code(), codes::WRONG_PIN, "{error}");
    log().refusal("us", node.addr, codes::WRONG_PIN.name).await;
    log().refusal("peer", joiner.addr, codes::WRONG_PIN.name).await;

    clock.jump(Duration::from_secs(2 * 86_400));
    let error = joiner.handle.dial_join(node.addr, ours.fingerprint(), soon()).await.unwrap_err();
    assert_eq!(error.code(), codes::EXPIRED, "{error}");
    // A joiner has no identity to call members with.
    know(&joiner, &node);
    let error = ask(&joiner, &node, StreamKind::Raft).await.unwrap_err();
    assert_eq!(error.code(), codes::NO_IDENTITY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_share_an_exporter_and_stop_serving_when_told() {
    let clock = clock();
    let founder = |id| {
        let key = NodeKey::generate().unwrap();
        start_with(Identity::founding(NodeId(id), key), &clock, |_| {})
    };
    let (a, b) = (founder(1), founder(2));
    let mut stream = a.handle.dial_found(b.addr, soon()).await.unwrap();
    assert_eq!(stream.spki, b.key.spki());
    write_frame(&mut stream.send, Bytes::from_static(b"proof")).await.unwrap();
    let answer = read_frame(&mut stream.recv, 1_000).await.unwrap();
    assert_eq!(answer, [&stream.exporter[..], &a.key.spki()].concat());
    let other = a.handle.dial_found(b.addr, soon()).await.unwrap();
    assert_ne!(other.exporter, stream.exporter, "another connection, another exporter");

    let error = a.handle.dial_join(b.addr, authority(1, &clock).fingerprint(), soon()).await;
    assert_eq!(error.unwrap_err().code(), codes::NOT_SERVED);
    // The cluster stands: b becomes a member and founding is over.
    let authority = authority(1, &clock);
    let place = membership(&authority, b.id, &b.key, &clock);
    b.handle.set_identity(Identity::member(b.id, b.key.clone(), place)).unwrap();
    let error = a.handle.dial_found(b.addr, soon()).await.unwrap_err();
    assert_eq!(error.code(), codes::NOT_SERVED, "{error}");
    let joined = a.handle.dial_join(b.addr, authority.fingerprint(), soon()).await;
    assert_eq!(joined.unwrap().node, b.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_may_not_speak_as_a_member_while_founding_is_served() {
    let clock = clock();
    let authority = authority(1, &clock);
    let key = NodeKey::generate().unwrap();
    let place = membership(&authority, NodeId(1), &key, &clock);
    let open = Identity::member(NodeId(1), key, place).with_found(true);
    let node = start_with(open, &clock, |_| {});
    // A member of a forged authority: its certificate names a node, so it is no founder's.
    let forged = self::authority(1, &clock);
    let key = NodeKey::generate().unwrap();
    let mut place = membership(&forged, NodeId(2), &key, &clock);
    place.bundle = authority.bundle();
    let b = start_with(Identity::member(NodeId(2), key, place), &clock, |_| {});
    acquaint(&node, &b);
    refused(&b, &node, RefusedBy::Peer, codes::FOREIGN_CA).await;
}

/// Passes datagrams on until it is dropped: then the two sides hear nothing of each other, as
/// after kill -9 or a pulled cable.
struct UdpProxy {
    addr: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl UdpProxy {
    async fn start(to: SocketAddr) -> Self {
        let (front, back) = (udp().await, udp().await);
        let addr = front.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (mut there, mut here) = (vec![0; 65_536], vec![0; 65_536]);
            let mut client = None;
            loop {
                tokio::select! {
                    Ok((n, from)) = front.recv_from(&mut there) => {
                        client = Some(from);
                        let _ = back.send_to(&there[..n], to).await;
                    }
                    Ok((n, _)) = back.recv_from(&mut here) => {
                        if let Some(client) = client {
                            let _ = front.send_to(&here[..n], client).await;
                        }
                    }
                }
            }
        });
        Self { addr, task }
    }
}

async fn udp() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_peer_is_noticed_within_about_a_second_and_dialled_again() {
    let clock = clock();
    let authority = authority(1, &clock);
    let lan = |config: &mut swarmer_mesh::transport::Config| {
        config.idle_timeout = Duration::from_millis(800);
        config.dial_timeout = Duration::from_millis(500);
    };
    let (a, b) = (member_with(&authority, 1, &clock, lan), member_with(&authority, 2, &clock, lan));
    acquaint(&a, &b);
    let proxy = UdpProxy::start(b.addr).await;
    a.book.addresses.lock().insert(b.id, proxy.addr);
    assert!(ask(&a, &b, StreamKind::Artifact).await.is_ok());
    let (mut send, mut recv) =
        a.handle.open(b.id, Class::Data, StreamKind::Call, soon()).await.unwrap();
    write_frame(&mut send, Bytes::from_static(b"x")).await.unwrap();
    proxy.task.abort();
    let killed = Instant::now();
    let error = read_frame(&mut recv, 100).await.unwrap_err();
    let noticed = killed.elapsed();
    assert!(matches!(error, FrameError::Connection(_)), "{error}");
    // 800 ms + 200 ms, and room for a loaded test machine.
    assert!(noticed < Duration::from_millis(1_800), "{noticed:?}");
    assert!(!a.handle.has_live_connection(b.id));
    // While it is away, opens fail fast, and say that nothing was started.
    let error = ask(&a, &b, StreamKind::Artifact).await.unwrap_err();
    assert_eq!(error.code(), codes::UNREACHABLE, "{error}");
    let started = Instant::now();
    let error = ask(&a, &b, StreamKind::Artifact).await.unwrap_err();
    assert!(matches!(error, RequestError::Open(OpenError::Backoff { .. })), "{error}");
    assert!(started.elapsed() < Duration::from_millis(40));
    // It is back, and is the first to speak: no pause is waited for.
    a.book.addresses.lock().insert(b.id, b.addr);
    assert!(ask(&b, &a, StreamKind::Raft).await.is_ok());
    assert!(ask(&a, &b, StreamKind::Artifact).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_strangers_is_bounded_and_members_still_get_through() {
    let (_, a, b) = pair(&clock());
    // Handshakes that never go on: a first packet each, from one socket, without end.
    let flood = {
        let to = a.addr;
        tokio::spawn(async move {
            let endpoint = stranger::endpoint("swarmer-join/1");
            let mut held = Vec::new();
            for n in 0..400 {
                let Ok(connecting) = endpoint.connect(to, "x.swarmer") else { continue };
                held.push(tokio::spawn(connecting));
                if n % 20 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            let mut stood = Vec::new();
            for connecting in held {
                if let Ok(Ok(Ok(connection))) =
                    tokio::time::timeout(Duration::from_secs(2), connecting).await
                {
                    stood.push(connection);
                }
            }
            // Those that were one too many are told so; the others may stay for a while.
            let told = stood.iter().map(|connection| async {
                let closed = connection.closed();
                tokio::time::timeout(Duration::from_millis(1_500), closed).await.is_err()
            });
            let stay = futures::future::join_all(told).await;
            stay.into_iter().filter(|stays| *stays).count()
        })
    };
    let mut most = 0;
    let mut answered = 0;
    while !flood.is_finished() {
        let stats = a.handle.stats();
        most = most.max(stats.handshakes);
        assert!(stats.strangers <= 64, "{stats:?}");
        answered += usize::from(ask(&b, &a, StreamKind::Raft).await.is_ok());
        tokio::task::yield_now().await;
    }
    let stood = flood.await.unwrap();
    assert!(most <= 64, "{most} handshakes of one address at once");
    assert!(stood <= 64, "{stood} strangers at once");
    assert!(answered > 0);
    assert!(ask(&b, &a, StreamKind::Raft).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_port_changes_nothing() {
    let (_, mut a, b) = pair(&clock());
    let socket = udp().await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for length in 1..1_200usize {
        let mut datagram = vec![0; length];
        for byte in &mut datagram {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (seed >> 33) as u8;
        }
        datagram[0] |= 0x40;
        socket.send_to(&datagram, a.addr).await.unwrap();
    }
    assert!(ask(&b, &a, StreamKind::Raft).await.is_ok());
    assert!(a.gossip.incoming.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_not_started_and_lets_running_streams_end() {
    let (_, a, mut b) = pair(&clock());
    let (mut send, mut recv) =
        a.handle.open(b.id, Class::Data, StreamKind::Call, soon()).await.unwrap();
    write_frame(&mut send, Bytes::from_static(b"running")).await.unwrap();
    b.seen.recv().await.unwrap();
    b.shutdown.cancel();
    let error = loop {
        // Until the stop has begun, streams are still served.
        match ask(&a, &b, StreamKind::Artifact).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(error.not_started(), "{error}");
    b.gate.notify_one();
    assert_eq!(read_frame(&mut recv, 100).await.unwrap(), "running");
    tokio::time::timeout_at(soon(), &mut b.task).await.unwrap().unwrap();
    let error = ask(&a, &b, StreamKind::Artifact).await.unwrap_err();
    assert_eq!(error.code(), codes::UNREACHABLE, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unused_connections_are_left_and_closed() {
    let clock = clock();
    let authority = authority(1, &clock);
    let quick = |config: &mut swarmer_mesh::transport::Config| {
        config.unused_timeout = Duration::from_millis(200);
    };
    let (a, b) =
        (member_with(&authority, 1, &clock, quick), member_with(&authority, 2, &clock, quick));
    acquaint(&a, &b);
    assert!(ask(&a, &b, StreamKind::Artifact).await.is_ok());
    let gone = async {
        while a.handle.has_live_connection(b.id) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout_at(soon(), gone).await.unwrap();
    assert!(ask(&a, &b, StreamKind::Artifact).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let config = swarmer_mesh::transport::Config::new(listen, tokio::runtime::Handle::current());
    let book = Arc::new(support::Book::default());
    let dependencies = swarmer_mesh::transport::Dependencies {
        admission: book.clone(),
        addresses: book,
        clock: clock(),
    };
    let identity = Identity::joining(NodeId(1), NodeKey::generate().unwrap());
    let error = swarmer_mesh::transport::Transport::build(config, identity, dependencies)
        .map(drop)
        .unwrap_err();
    assert_eq!(error.code(), codes::BIND);
    assert!(error.to_string().contains(&listen.to_string()));
}
