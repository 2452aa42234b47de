//! A control connection on which something lasts and nothing happens: seldom asked, never broken off, and
//! given up when the peer is gone.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use swarmer_mesh::{
    stream::{read_frame, write_frame},
    transport::{Class, Config, ConnectionInfo, StreamKind},
};
use swarmer_model::wire;
use tokio::net::UdpSocket;

use crate::{
    ask, authority, clock,
    port::UdpProxy,
    support::{TestNode, acquaint, member_with, soon},
};

/// What is needed is asked every 40 ms for a second after a stream was opened, then every 600.
fn quick(config: &mut Config) {
    config.keep_alive = Duration::from_millis(40);
    config.keep_alive_at_rest = Duration::from_millis(600);
}

/// A stream that lasts; the other side answers when its gate opens.
async fn lasting(from: &TestNode, to: &TestNode) -> (SendStream, RecvStream) {
    let (mut send, recv) =
        from.handle.open(to.id, Class::Control, StreamKind::Call, soon()).await.unwrap();
    write_frame(&mut send, Bytes::from_static(b"lasts")).await.unwrap();
    (send, recv)
}

fn control(node: &TestNode) -> ConnectionInfo {
    let mut all = node.handle.connections();
    all.retain(|connection| connection.class == Class::Control);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// Waits until nothing is under way with anybody any more.
async fn at_rest(node: &TestNode) {
    while control(node).age < Duration::from_millis(1_200) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_rest_little_is_said_and_what_lasts_goes_on() {
    let clock = clock();
    let authority = authority(1, &clock);
    let (a, mut b) =
        (member_with(&authority, 1, &clock, quick), member_with(&authority, 2, &clock, quick));
    acquaint(&a, &b);
    let (_send, mut recv) = lasting(&a, &b).await;
    b.seen.recv().await.unwrap();
    at_rest(&a).await;
    let (before, start) = (control(&a), Instant::now());
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let (after, took) = (control(&a), start.elapsed().as_secs_f64());
    assert!(after.age > before.age, "the same connection");
    // Each side asks at most once in 600 ms and answers as often; a packet has 40 bytes. Kept alive every
    // 40 ms it were 25 of them a second.
    let said = (after.sent_bytes - before.sent_bytes) as f64 / took;
    assert!(said > 20.0 && said < 400.0, "{said} bytes a second");
    assert!(a.handle.has_live_connection(b.id) && b.handle.has_live_connection(a.id));
    b.gate.notify_one();
    assert_eq!(read_frame(&mut recv, 100).await.unwrap(), "lasts");
    assert_eq!(a.handle.stats().dials, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_gone_at_rest_is_told_of_and_given_up() {
    let clock = clock();
    let authority = authority(1, &clock);
    let lan = |config: &mut Config| {
        quick(config);
        config.idle_timeout = Duration::from_millis(800);
    };
    let (a, mut b) =
        (member_with(&authority, 1, &clock, lan), member_with(&authority, 2, &clock, lan));
    acquaint(&a, &b);
    let proxy = UdpProxy::start(b.addr).await;
    a.book.addresses.lock().insert(b.id, proxy.addr);
    let (_send, mut recv) = lasting(&a, &b).await;
    b.seen.recv().await.unwrap();
    at_rest(&a).await;
    b.book.addresses.lock().clear();
    // Both of them notice.
    let (mut silent, mut silent_there) = (a.handle.silent_peers(), b.handle.silent_peers());
    proxy.task.abort();
    let killed = Instant::now();
    let told = async {
        let peers = (silent.recv().await.unwrap(), silent_there.recv().await.unwrap());
        (peers, killed.elapsed())
    };
    let given_up = async { (read_frame(&mut recv, 100).await.unwrap_err(), killed.elapsed()) };
    let both = async { tokio::join!(told, given_up) };
    let ((peers, told), (error, noticed)) = tokio::time::timeout_at(soon(), both).await.unwrap();
    assert_eq!(peers, (b.id, a.id));
    assert!(told < noticed, "{told:?}, {noticed:?}: {error}");
    // 600 ms + 800 ms, and room for a loaded test machine.
    assert!(noticed < Duration::from_millis(2_400), "{noticed:?}");
    assert!(!a.handle.has_live_connection(b.id));
}

/// That a connection may rest for long does not make a dial to nobody last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_to_an_address_where_nobody_answers_ends_soon() {
    let clock = clock();
    let authority = authority(1, &clock);
    let lan = |config: &mut Config| config.idle_timeout = Duration::from_millis(800);
    let (a, b) = (member_with(&authority, 1, &clock, lan), member_with(&authority, 2, &clock, lan));
    let hole = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    a.book.addresses.lock().insert(b.id, hole.local_addr().unwrap());
    let start = Instant::now();
    let error = ask(&a, &b, StreamKind::Raft).await.unwrap_err();
    assert!(error.not_started(), "{error}");
    // 1.3 s; the whole dial has eight.
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

/// Who is older is not asked: its connections are kept alive as it expects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lasts_between_older_and_newer_nodes_goes_on_whoever_dialled() {
    let clock = clock();
    let authority = authority(1, &clock);
    let lan = |config: &mut Config| config.idle_timeout = Duration::from_millis(800);
    let old = |config: &mut Config| {
        lan(config);
        config.wire_max = wire::RESTING - 1;
    };
    for newer_dials in [true, false] {
        let (new, old) =
            (member_with(&authority, 1, &clock, lan), member_with(&authority, 2, &clock, old));
        acquaint(&new, &old);
        let (from, mut to) = if newer_dials { (new, old) } else { (old, new) };
        let (_send, mut recv) = lasting(&from, &to).await;
        to.seen.recv().await.unwrap();
        // Three times as long as such a connection may be silent for.
        tokio::time::sleep(Duration::from_millis(2_400)).await;
        assert!(control(&from).age >= Duration::from_millis(2_400));
        to.gate.notify_one();
        assert_eq!(read_frame(&mut recv, 100).await.unwrap(), "lasts");
        assert_eq!(from.handle.stats().dials, 1);
    }
}
