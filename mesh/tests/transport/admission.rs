//! Who may speak with whom, by which certificate, and until when.

use std::time::Duration;

use bytes::Bytes;
use swarmer_mesh::{
    codes,
    identity::{Identity, NodeKey, TrustBundle, Verdict},
    stream::{FrameError, ResetCode, read_frame, write_frame},
    transport::{Class, Config, OpenError, RefusedBy, RequestError, StreamKind},
};
use swarmer_model::{Coded, NodeId, wire};

use crate::{
    ask, authority, clock, pair, refused, stranger,
    support::{acquaint, log, member, member_with, membership, soon, start_with},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_cluster_is_refused_and_both_logs_say_why() {
    let clock = clock();
    let (ours, theirs) = (authority(1, &clock), authority(2, &clock));
    let (a, b) = (member(&ours, 1, &clock), member(&theirs, 2, &clock));
    acquaint(&a, &b);
    refused(&a, &b, RefusedBy::Us, codes::OTHER_CLUSTER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_whose_versions_do_not_meet_refuse_each_other_and_both_logs_say_why() {
    let clock = clock();
    let authority = authority(1, &clock);
    let old = |config: &mut Config| config.wire_max = wire::OLDEST - 1;
    let (a, b) = (member(&authority, 1, &clock), member_with(&authority, 2, &clock, old));
    acquaint(&a, &b);
    refused(&a, &b, RefusedBy::Us, codes::UNKNOWN_STREAM).await;
    refused(&b, &a, RefusedBy::Us, codes::UNKNOWN_STREAM).await;
    // Two that are equally old understand each other's word of it.
    let c = member_with(&authority, 3, &clock, old);
    acquaint(&b, &c);
    let denied = ask(&b, &c, StreamKind::Artifact).await;
    assert!(!matches!(&denied, Err(RequestError::Open(OpenError::Refused { .. }))), "{denied:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_speak_the_newest_version_that_both_know_whoever_dials() {
    let clock = clock();
    let authority = authority(1, &clock);
    let old = |config: &mut Config| config.wire_max = wire::NEWEST - 1;
    let (mut a, mut b) = (member(&authority, 1, &clock), member(&authority, 2, &clock));
    let mut c = member_with(&authority, 3, &clock, old);
    for (one, other) in [(&a, &b), (&a, &c), (&b, &c)] {
        acquaint(one, other);
    }
    assert_eq!(a.handle.version(b.id, Class::Data), None, "nothing was said yet");
    let all = [(&a, &b, wire::NEWEST), (&a, &c, wire::NEWEST - 1), (&c, &a, wire::NEWEST - 1)];
    for (from, to, version) in all {
        assert_eq!(ask(from, to, StreamKind::Artifact).await.unwrap(), "hello");
        assert_eq!(from.handle.version(to.id, Class::Data), Some(version));
        for (node, peer) in [(from, to), (to, from)] {
            let connections = node.handle.connections();
            let mut here = connections.iter().filter(|c| c.peer == peer.id);
            assert!(here.all(|c| c.version == version), "{connections:?}");
        }
    }
    let served = [(&mut a, wire::NEWEST - 1), (&mut b, wire::NEWEST), (&mut c, wire::NEWEST - 1)];
    for (node, version) in served {
        assert_eq!(node.seen.recv().await.unwrap().0.version, version, "{}", node.id);
    }
    // What the older one would not understand is not sent to it, what it understands is.
    let hello = Bytes::from_static(b"hello");
    let say =
        |since| a.handle.request_since(since, c.id, StreamKind::Artifact, hello.clone(), soon());
    let error = say(wire::NEWEST).await.unwrap_err();
    assert!(matches!(error, RequestError::Open(OpenError::TooOld { .. })), "{error}");
    assert!(error.not_started());
    assert_eq!(error.code(), codes::UNKNOWN_STREAM);
    assert_eq!(say(wire::NEWEST - 1).await.unwrap(), "hello");
    assert_eq!(c.handle.stats().streams_served, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_a_version_that_a_node_does_not_speak_is_reset_as_not_started() {
    let clock = clock();
    let authority = authority(1, &clock);
    let old = |config: &mut Config| config.wire_max = wire::NEWEST - 1;
    let (a, b) = (member(&authority, 1, &clock), member_with(&authority, 2, &clock, old));
    acquaint(&a, &b);
    for (from, to, version) in [(&a, &b, wire::NEWEST), (&b, &a, wire::NEWEST + 1)] {
        let kind = StreamKind::Artifact;
        let (mut send, mut recv, _) =
            from.handle.open_with_prefix(to.id, Class::Data, kind, soon()).await.unwrap();
        send.write_all(&[version, kind.wire()]).await.unwrap();
        send.finish().unwrap();
        let error = read_frame(&mut recv, 100).await.unwrap_err();
        assert!(matches!(error, FrameError::Reset(ResetCode::UNKNOWN_VERSION)), "{error}");
        assert_eq!(to.handle.stats().streams_served, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_authority_of_the_same_cluster_id_is_refused() {
    let clock = clock();
    let (ours, forged) = (authority(1, &clock), authority(1, &clock));
    let (a, b) = (member(&ours, 1, &clock), member(&forged, 2, &clock));
    acquaint(&a, &b);
    // The right id with another key, as of a cluster that was founded twice.
    a.book.members.lock().get_mut(&b.id).unwrap().0 = a.key.spki();
    refused(&a, &b, RefusedBy::Us, codes::FOREIGN_CA).await;
    // One that believes everything still does not get in.
    let key = NodeKey::generate().unwrap();
    let mut place = membership(&forged, NodeId(3), &key, &clock);
    place.bundle = ours.bundle();
    let c = start_with(Identity::member(NodeId(3), key, place), &clock, |_| {});
    acquaint(&a, &c);
    a.book.members.lock().remove(&c.id);
    refused(&c, &a, RefusedBy::Peer, codes::FOREIGN_CA).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_slept_while_the_authority_changed_gets_what_makes_it_whole_and_nothing_else() {
    let clock = clock();
    let (old, new) = (authority(1, &clock), authority(1, &clock));
    let (mut slept, mut voter) = (member(&old, 1, &clock), member(&new, 2, &clock));
    acquaint(&slept, &voter);
    // It votes itself, as the other one knows.
    let open = [StreamKind::Raft, StreamKind::RaftAppend, StreamKind::Renew, StreamKind::Feed];
    for kind in StreamKind::ALL.iter().copied().filter(|kind| *kind != StreamKind::Observe) {
        let (out, back) = (ask(&slept, &voter, kind).await, ask(&voter, &slept, kind).await);
        if open.contains(&kind) {
            assert_eq!((out.unwrap(), back.unwrap()), ("hello".into(), "hello".into()), "{kind:?}");
            for seen in [&mut slept.seen, &mut voter.seen] {
                assert!(seen.recv().await.unwrap().0.limited, "{kind:?}");
            }
        } else {
            for error in [out.unwrap_err(), back.unwrap_err()] {
                assert_eq!(error.code(), codes::UNBELIEVED, "{kind:?}: {error}");
                assert!(error.not_started());
            }
        }
    }
    assert!(!slept.handle.is_taken() && !voter.handle.is_taken());
    // Raft is for voters, and only of a voter the watch is followed.
    for node in [&slept, &voter] {
        node.book.members.lock().values_mut().for_each(|member| member.2 = false);
    }
    for kind in [StreamKind::Raft, StreamKind::Feed] {
        assert_eq!(ask(&slept, &voter, kind).await.unwrap_err().code(), codes::UNBELIEVED);
    }
    slept.book.members.lock().get_mut(&voter.id).unwrap().2 = true;
    assert_eq!(ask(&slept, &voter, StreamKind::Feed).await.unwrap(), "hello");
    assert_eq!(
        ask(&slept, &voter, StreamKind::Raft).await.unwrap_err().reset(),
        Some(ResetCode::EXPIRED),
        "the voter knows that the other one is none"
    );
    log().refusal("us", slept.addr, codes::UNBELIEVED.name).await;

    // Once it believes the new authority, it opens all to whoever shows that one; to the other it is
    // limited until it is renewed.
    let mut place = membership(&old, slept.id, &slept.key, &clock);
    place.certificate = slept.handle.identity().membership.unwrap().certificate;
    place.bundle = new.bundle();
    slept.handle.set_identity(Identity::member(slept.id, slept.key.clone(), place)).unwrap();
    let dials = slept.handle.stats().dials;
    let error = ask(&slept, &voter, StreamKind::Artifact).await.unwrap_err();
    assert_eq!(error.reset(), Some(ResetCode::EXPIRED), "{error}");
    // On the connection that stood.
    assert_eq!(slept.handle.stats().dials, dials);
    assert!(!slept.handle.is_taken(), "to believe is not to be believed");
    assert_eq!(ask(&slept, &voter, StreamKind::Renew).await.unwrap(), "hello");
    let place = membership(&new, slept.id, &slept.key, &clock);
    slept.handle.set_identity(Identity::member(slept.id, slept.key.clone(), place)).unwrap();
    // Nothing goes by a connection on which the certificate was shown that nobody took.
    assert_eq!(ask(&slept, &voter, StreamKind::Artifact).await.unwrap(), "hello");
    assert!(slept.handle.is_taken());
    voter.handle.disconnect(slept.id, "dial again");
    assert_eq!(ask(&voter, &slept, StreamKind::Artifact).await.unwrap(), "hello");

    // Revoked is revoked, whatever it shows.
    voter.book.set(slept.id, Verdict::Revoked);
    let place = membership(&old, slept.id, &slept.key, &clock);
    slept.handle.set_identity(Identity::member(slept.id, slept.key.clone(), place)).unwrap();
    assert_eq!(ask(&slept, &voter, StreamKind::Feed).await.unwrap_err().code(), codes::REVOKED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_bundle_leaves_no_connection_and_another_certificate_does() {
    let clock = clock();
    let (authority, a, b) = pair(&clock);
    assert!(ask(&a, &b, StreamKind::Artifact).await.is_ok());
    let next = crate::authority(1, &clock);
    let mut place = a.handle.identity().membership.unwrap();
    let both = [authority.certificate_der().to_vec(), next.certificate_der().to_vec()];
    place.bundle = TrustBundle::new(both).unwrap();
    a.handle.set_identity(Identity::member(a.id, a.key.clone(), place.clone())).unwrap();
    assert!(ask(&a, &b, StreamKind::Artifact).await.is_ok());
    assert_eq!(a.handle.stats().dials, 1);
    // And what is dialled from now on is judged by it.
    let c = member(&next, 3, &clock);
    acquaint(&a, &c);
    let both = place.bundle.clone();
    let mut place = c.handle.identity().membership.unwrap();
    place.bundle = both;
    c.handle.set_identity(Identity::member(c.id, c.key.clone(), place)).unwrap();
    assert_eq!(ask(&a, &c, StreamKind::Artifact).await.unwrap(), "hello");
    let place = membership(&authority, a.id, &a.key, &clock);
    a.handle.set_identity(Identity::member(a.id, a.key.clone(), place)).unwrap();
    assert!(ask(&a, &b, StreamKind::Artifact).await.is_ok());
    assert_eq!(a.handle.stats().dials, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_admitted_or_was_removed_is_refused() {
    let (_, a, b) = pair(&clock());
    b.book.members.lock().remove(&a.id);
    refused(&a, &b, RefusedBy::Peer, codes::NOT_ADMITTED).await;

    let (_, a, b) = pair(&clock());
    b.book.set(a.id, Verdict::Revoked);
    refused(&a, &b, RefusedBy::Peer, codes::REVOKED).await;

    // One that has just started cannot tell yet: no alarm.
    let (_, a, b) = pair(&clock());
    b.book.set(a.id, Verdict::NotYet);
    refused(&a, &b, RefusedBy::Peer, codes::STARTING).await;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_no_byte_is_exchanged() {
    let clock = clock();
    let node = member(&authority(1, &clock), 1, &clock);
    // A founder has no certificate of the cluster, but it shows its key.
    for protocol in ["swarmer-control/1", "swarmer-data/1", "swarmer-found/1"] {
        let endpoint = stranger::endpoint(protocol);
        let connection = endpoint.connect(node.addr, "x.swarmer").unwrap().await.unwrap();
        let reason = match connection.accept_uni().await.map(drop).unwrap_err() {
            quinn::ConnectionError::ApplicationClosed(close) => close.reason,
            other => panic!("{other}"),
        };
        assert!(reason.starts_with(codes::NO_CERTIFICATE.name.as_bytes()), "{reason:?}");
        log().refusal("us", endpoint.local_addr().unwrap(), codes::NO_CERTIFICATE.name).await;
    }
    let unknown = stranger::endpoint("swarmer-other/1");
    let error = unknown.connect(node.addr, "x.swarmer").unwrap().await.unwrap_err();
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
        assert!(b.seen.recv().await.unwrap().0.limited);
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
    // The old connection serves until there is one by which the new certificate is shown.
    loop {
        assert_eq!(ask(&a, &b, StreamKind::Artifact).await.unwrap(), "hello");
        if b.seen.recv().await.unwrap().0.not_after > before.not_after {
            break;
        }
    }
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
