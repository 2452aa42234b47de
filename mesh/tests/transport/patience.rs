//! Who is slow is not gone: nothing is broken off, and nothing waits for a new connection, while an
//! old one serves.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use swarmer_mesh::{
    identity::Identity,
    stream::{read_frame, write_frame},
    transport::{Class, ConnectionInfo, Direction, StreamKind},
};
use tokio::net::UdpSocket;

use crate::{
    ask, authority, clock, pair,
    port::UdpProxy,
    support::{TestNode, acquaint, member, member_with, membership, soon, start_with},
};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_holds_nothing_up() {
    let clock = clock();
    let authority = authority(1, &clock);
    let short = |config: &mut swarmer_mesh::transport::Config| {
        config.dial_timeout = Duration::from_millis(300);
        config.data_idle_timeout = Duration::from_secs(5);
    };
    let (a, mut b) = (member_with(&authority, 1, &clock, short), member(&authority, 2, &clock));
    acquaint(&a, &b);
    assert!(ask(&a, &b, StreamKind::Artifact).await.is_ok());
    let before = b.seen.recv().await.unwrap().0;
    // No dial gets through for now: nobody reads there.
    let hole = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    a.book.addresses.lock().insert(b.id, hole.local_addr().unwrap());
    let renew = |node: &TestNode| {
        let place = membership(&authority, node.id, &node.key, &clock);
        let identity = Identity::member(node.id, node.key.clone(), place);
        node.handle.set_identity(identity).unwrap();
    };
    clock.jump(HOUR * 11);
    renew(&a);
    clock.jump(HOUR);
    renew(&b);
    let mut by_the_old = 0;
    while a.handle.stats().dial_failures < 2 {
        assert_eq!(ask(&a, &b, StreamKind::Artifact).await.unwrap(), "hello");
        by_the_old += u64::from(b.seen.recv().await.unwrap().0.not_after == before.not_after);
    }
    assert!(by_the_old > 0);
    // Once one gets through, the new certificate is shown.
    a.book.addresses.lock().insert(b.id, b.addr);
    while b.seen.try_recv().is_ok() {}
    loop {
        assert_eq!(ask(&a, &b, StreamKind::Artifact).await.unwrap(), "hello");
        if b.seen.recv().await.unwrap().0.not_after > before.not_after {
            break;
        }
    }
    // One is asked by in the last half hour of its certificate, and no more half an hour later.
    a.book.addresses.lock().insert(b.id, hole.local_addr().unwrap());
    clock.jump(HOUR * 45 / 2);
    renew(&a);
    assert!(ask(&a, &b, StreamKind::Artifact).await.is_ok());
    clock.jump(HOUR);
    let error = ask(&a, &b, StreamKind::Artifact).await.unwrap_err();
    assert!(error.not_started(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_guests_take_all_its_threads_is_not_given_up() {
    let clock = clock();
    let authority = authority(1, &clock);
    let work = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let work = work.unwrap();
    let lan = |config: &mut swarmer_mesh::transport::Config| {
        config.idle_timeout = Duration::from_millis(800);
    };
    let a = member_with(&authority, 1, &clock, lan);
    let mut b = member_with(&authority, 2, &clock, |config| {
        lan(config);
        config.data = work.handle().clone();
    });
    acquaint(&a, &b);
    let (mut send, mut recv) =
        a.handle.open(b.id, Class::Data, StreamKind::Call, soon()).await.unwrap();
    write_frame(&mut send, Bytes::from_static(b"long call")).await.unwrap();
    b.seen.recv().await.unwrap();
    // The one thread of its data connections stands still, for three times what a peer may be silent.
    let still = work.spawn(async { std::thread::sleep(Duration::from_millis(2_400)) });
    b.gate.notify_one();
    assert_eq!(read_frame(&mut recv, 100).await.unwrap(), "long call");
    still.await.unwrap();
    let asked =
        |one: &&ConnectionInfo| (one.class, one.direction) == (Class::Control, Direction::Outbound);
    assert_eq!(a.handle.connections().iter().filter(asked).count(), 1);
    assert_eq!(ask(&a, &b, StreamKind::Artifact).await.unwrap(), "hello");
    assert_eq!(a.handle.stats().dials, 2, "and the data connection is the same");
    drop((a, b));
    work.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_killed_and_back_at_once_is_not_taken_for_the_one_before() {
    let clock = clock();
    let authority = authority(1, &clock);
    let lan = |config: &mut swarmer_mesh::transport::Config| {
        config.idle_timeout = Duration::from_millis(800);
    };
    // With a control connection beside the data connection, and without.
    for with_control in [true, false] {
        let a = member_with(&authority, 1, &clock, lan);
        let mut b = member_with(&authority, 2, &clock, lan);
        acquaint(&a, &b);
        // What is killed speaks to nobody any more.
        b.book.addresses.lock().clear();
        let proxy = UdpProxy::start(b.addr).await;
        a.book.addresses.lock().insert(b.id, proxy.addr);
        if with_control {
            assert!(ask(&a, &b, StreamKind::Raft).await.is_ok());
            b.seen.recv().await.unwrap();
        }
        let (mut send, mut recv) =
            a.handle.open(b.id, Class::Data, StreamKind::Call, soon()).await.unwrap();
        write_frame(&mut send, Bytes::from_static(b"long call")).await.unwrap();
        b.seen.recv().await.unwrap();
        // The next run of the same node, at the same address.
        let place = membership(&authority, b.id, &b.key, &clock);
        let next = start_with(Identity::member(b.id, b.key.clone(), place), &clock, lan);
        next.book.members.lock().clone_from(&b.book.members.lock());
        proxy.task.abort();
        let _ = proxy.task.await;
        let _proxy = UdpProxy::start_at(proxy.addr, next.addr).await;
        let killed = Instant::now();
        assert!(read_frame(&mut recv, 100).await.is_err());
        let noticed = killed.elapsed();
        println!("noticed after {noticed:?}");
        assert!(noticed < Duration::from_millis(2_000), "{noticed:?}");
        assert_eq!(ask(&a, &next, StreamKind::Artifact).await.unwrap(), "hello");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_grew_longer_is_known_though_a_connection_has_nothing_to_say() {
    let (_, a, b) = pair(&clock());
    let (there, back) = (UdpProxy::start(b.addr).await, UdpProxy::start(a.addr).await);
    a.book.addresses.lock().insert(b.id, there.addr);
    b.book.addresses.lock().insert(a.id, back.addr);
    assert!(ask(&a, &b, StreamKind::Raft).await.is_ok());
    assert!(ask(&b, &a, StreamKind::Raft).await.is_ok());
    assert!(a.handle.rtt(b.id).unwrap() < Duration::from_millis(100));
    // From now on only a says anything, on the connection that it dialled.
    there.slow_ms.store(80, Ordering::Relaxed);
    back.slow_ms.store(80, Ordering::Relaxed);
    let began = Instant::now();
    while a.handle.rtt(b.id).unwrap() < Duration::from_millis(100) {
        assert!(ask(&a, &b, StreamKind::Raft).await.is_ok());
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", a.handle.connections());
    }
    assert_eq!(a.handle.connections().len(), 2, "none was dialled anew");
}
