//! What goes over connections between members, and when these end.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use swarmer_mesh::{
    bulk::{self, BULK_WINDOW},
    codes,
    stream::{FrameReader, FrameWriter, ResetCode, read_frame, write_frame},
    transport::{Class, RequestError, StreamKind},
};
use swarmer_model::Coded;
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::Instant,
};

use crate::{
    ask, authority, clock, pair,
    support::{acquaint, member_with, soon},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_talk_on_both_connections_and_both_ways() {
    let (_, mut a, b) = pair(&clock());
    for kind in [StreamKind::Raft, StreamKind::Artifact] {
        assert_eq!(ask(&a, &b, kind).await.unwrap(), "hello");
        assert_eq!(ask(&b, &a, kind).await.unwrap(), "hello");
        let (peer, seen) = a.seen.recv().await.unwrap();
        assert_eq!((peer.node, peer.class, peer.limited, seen), (b.id, kind.class(), false, kind));
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

/// A control connection has a time of its own, and one on which a stream lasts stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_connection_is_kept_for_what_lasts_on_it_only() {
    let clock = clock();
    let authority = authority(1, &clock);
    let quick = |config: &mut swarmer_mesh::transport::Config| {
        config.control_unused_timeout = Duration::from_millis(200);
    };
    let (a, b) =
        (member_with(&authority, 1, &clock, quick), member_with(&authority, 2, &clock, quick));
    acquaint(&a, &b);
    let controls = || {
        let all = a.handle.connections();
        all.iter().filter(|connection| connection.class == Class::Control).count()
    };
    let until = async |what: &str, so: &dyn Fn() -> bool| {
        let wait = async {
            while !so() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout_at(soon(), wait).await.unwrap_or_else(|_| panic!("{what}"));
    };
    assert!(ask(&a, &b, StreamKind::Artifact).await.is_ok());
    assert!(ask(&a, &b, StreamKind::Raft).await.is_ok());
    until("one that nothing lasts on is closed", &|| controls() == 0).await;
    assert!(a.handle.has_live_connection(b.id), "that of data has a time of its own");

    let (mut send, mut recv) =
        a.handle.open(b.id, Class::Control, StreamKind::Raft, soon()).await.unwrap();
    // What comes after its time goes by another one.
    let left = async {
        while ask(&a, &b, StreamKind::Raft).await.is_ok() && controls() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    tokio::time::timeout_at(soon(), left).await.unwrap();
    until("the other one is closed", &|| controls() == 1).await;
    write_frame(&mut send, Bytes::from_static(b"goes on")).await.unwrap();
    assert_eq!(read_frame(&mut recv, 100).await.unwrap(), "goes on");
    drop((send, recv));
    until("nothing lasts any more", &|| controls() == 0).await;
}
