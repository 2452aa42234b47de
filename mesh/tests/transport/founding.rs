//! Those that are no members yet.

use std::time::Duration;

use bytes::Bytes;
use swarmer_mesh::{
    codes,
    identity::{Identity, NodeKey},
    stream::{read_frame, write_frame},
    transport::{RefusedBy, StreamKind},
};
use swarmer_model::{ClusterId, Coded, NodeId};

use crate::{
    ask, authority, clock, refused,
    support::{know, log, member, membership, soon, start_with},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_finds_the_pinned_cluster_and_no_other() {
    let clock = clock();
    let (ours, other) = (authority(1, &clock), authority(2, &clock));
    let node = member(&ours, 1, &clock);
    let joiner =
        start_with(Identity::outside(NodeId(9), NodeKey::generate().unwrap()), &clock, |_| {});
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
async fn founders_share_an_exporter_and_a_member_still_answers_them() {
    let clock = clock();
    let founder = |id| {
        let key = NodeKey::generate().unwrap();
        start_with(Identity::outside(NodeId(id), key), &clock, |_| {})
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
    // The cluster stands: b becomes a member, which tells late founders so.
    let authority = authority(1, &clock);
    let place = membership(&authority, b.id, &b.key, &clock);
    b.handle.set_identity(Identity::member(b.id, b.key.clone(), place)).unwrap();
    let late = a.handle.dial_found(b.addr, soon()).await.unwrap();
    assert_eq!(late.spki, b.key.spki(), "a member shows a founder its key and nothing else");
    let joined = a.handle.dial_join(b.addr, authority.fingerprint(), soon()).await;
    assert_eq!(joined.unwrap().node, b.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_may_not_speak_as_a_member_while_founding_is_served() {
    let clock = clock();
    let authority = authority(1, &clock);
    let key = NodeKey::generate().unwrap();
    let place = membership(&authority, NodeId(1), &key, &clock);
    let open = Identity::member(NodeId(1), key, place);
    let node = start_with(open, &clock, |_| {});
    // A member of a forged authority: its certificate names a node, so it is no founder's.
    let forged = self::authority(1, &clock);
    let key = NodeKey::generate().unwrap();
    let mut place = membership(&forged, NodeId(2), &key, &clock);
    place.bundle = authority.bundle();
    let b = start_with(Identity::member(NodeId(2), key, place), &clock, |_| {});
    know(&b, &node);
    refused(&b, &node, RefusedBy::Peer, codes::FOREIGN_CA).await;
}
