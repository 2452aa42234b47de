//! The one UDP port: gossip beside QUIC, floods, garbage, and peers that fall silent.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use swarmer_mesh::{
    codes,
    identity::{Identity, NodeKey},
    stream::{FrameError, read_frame, write_frame},
    transport::{Class, OpenError, RequestError, StreamKind},
};
use swarmer_model::{Coded, NodeId};
use tokio::{net::UdpSocket, time::Instant};

use crate::{
    ask, authority, clock, pair, stranger,
    support::{acquaint, member_with, soon},
};

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

/// Passes datagrams on until it is dropped: then the two sides hear nothing of each other, as
/// after kill -9 or a pulled cable.
pub(crate) struct UdpProxy {
    pub(crate) addr: SocketAddr,
    pub(crate) task: tokio::task::JoinHandle<()>,
    /// How many milliseconds each datagram takes, either way.
    pub(crate) slow_ms: Arc<AtomicU64>,
}

impl UdpProxy {
    pub(crate) async fn start(to: SocketAddr) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), to).await
    }

    pub(crate) async fn start_at(at: SocketAddr, to: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind(at).await.unwrap());
        let back = Arc::new(udp().await);
        let addr = front.local_addr().unwrap();
        let slow_ms: Arc<AtomicU64> = Arc::default();
        let slow = slow_ms.clone();
        let pass = move |by: &Arc<UdpSocket>, datagram: &[u8], to: SocketAddr| {
            let (by, datagram, slow) = (by.clone(), datagram.to_vec(), slow.clone());
            async move {
                match slow.load(Ordering::Relaxed) {
                    0 => drop(by.send_to(&datagram, to).await),
                    ms => drop(tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        by.send_to(&datagram, to).await
                    })),
                }
            }
        };
        let task = tokio::spawn(async move {
            let (mut there, mut here) = (vec![0; 65_536], vec![0; 65_536]);
            let mut client = None;
            loop {
                tokio::select! {
                    Ok((n, from)) = front.recv_from(&mut there) => {
                        client = Some(from);
                        pass(&back, &there[..n], to).await;
                    }
                    Ok((n, _)) = back.recv_from(&mut here) => {
                        if let Some(client) = client {
                            pass(&front, &here[..n], client).await;
                        }
                    }
                }
            }
        });
        Self { addr, task, slow_ms }
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
    // Dead as far as anybody can tell: it says nothing by another way either.
    b.book.addresses.lock().clear();
    let mut silent = a.handle.silent_peers();
    proxy.task.abort();
    let killed = Instant::now();
    // Before it is given up its silence is told of.
    let told = async { (silent.recv().await, killed.elapsed()) };
    let given_up = async { (read_frame(&mut recv, 100).await.unwrap_err(), killed.elapsed()) };
    let ((peer, told), (error, noticed)) = tokio::join!(told, given_up);
    assert_eq!(peer.unwrap(), b.id);
    assert!(told < noticed, "{told:?}, {noticed:?}");
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
    b.book.addresses.lock().insert(a.id, a.addr);
    assert!(ask(&b, &a, StreamKind::Raft).await.is_ok());
    assert!(ask(&a, &b, StreamKind::Artifact).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_into_the_void_begins_anew_when_the_peer_is_heard_of() {
    let (_, a, b) = pair(&clock());
    let proxy = UdpProxy::start(b.addr).await;
    a.book.addresses.lock().insert(b.id, proxy.addr);
    // Nothing passes, and nothing of what was sent meanwhile is sent again soon.
    proxy.task.abort();
    let began = Instant::now();
    let asked = async { ask(&a, &b, StreamKind::Raft).await };
    let heard = async {
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        a.book.addresses.lock().insert(b.id, b.addr);
        ask(&b, &a, StreamKind::Raft).await
    };
    let (asked, heard) = tokio::join!(asked, heard);
    assert!(asked.is_ok() && heard.is_ok(), "{asked:?} {heard:?}");
    assert_eq!(a.handle.stats().dial_failures, 0);
    println!("{:?}", began.elapsed());
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
async fn a_port_in_use_is_named() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let config = swarmer_mesh::transport::Config::new(listen, tokio::runtime::Handle::current());
    let book = Arc::new(crate::support::Book::default());
    let dependencies = swarmer_mesh::transport::Dependencies {
        admission: book.clone(),
        addresses: book,
        clock: clock(),
    };
    let identity = Identity::outside(NodeId(1), NodeKey::generate().unwrap());
    let error = swarmer_mesh::transport::Transport::build(config, identity, dependencies)
        .map(drop)
        .unwrap_err();
    assert_eq!(error.code(), codes::BIND);
    assert!(error.to_string().contains(&listen.to_string()));
}
