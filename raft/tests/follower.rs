//! Nodes that follow by the feed.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use common::{Cluster, SOON};
use swarmer_model::{ClusterId, Coded, Digest, NodeId, wire};
use swarmer_raft::{
    Channel, Client, FeedError, FeedKey, FeedSigner, FeedTrust, Follower, Outcome, Transport,
    TransportError, Txn, VoterKeys, codes,
    disk::{DiskOp, RealDisk, SimDisk},
};

const CLUSTER: ClusterId = ClusterId(1);
/// Where the kind of a frame stands: behind version, node, boot, revision, chain, and a signature
/// of 32 bytes with its length.
const KIND: usize = 1 + 1 + 1 + 1 + 32 + 1 + 32;

/// A key that everybody can check: the hash of the node's id and the message.
struct Key(NodeId);

impl FeedKey for Key {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        Digest::of(&[&self.0.0.to_le_bytes(), message].concat()).0.to_vec()
    }
}

/// Nodes 1 to 3 vote.
struct Voters;

impl VoterKeys for Voters {
    fn signed_by_voter(&self, node: NodeId, message: &[u8], signature: &[u8]) -> bool {
        (1..=3).contains(&node.0) && Key(node).sign(message) == signature
    }
}

fn signer(node: u64) -> FeedSigner {
    let node = NodeId(node);
    FeedSigner { cluster: CLUSTER, node, boot: 1, key: Arc::new(Key(node)) }
}

async fn open(cluster: &Cluster) -> Follower {
    let disk = Arc::new(RealDisk);
    let trust = FeedTrust { cluster: CLUSTER, voters: Arc::new(Voters) };
    Follower::open(NodeId(9), &cluster.path(NodeId(9)), disk, trust).await.unwrap()
}

/// Feeds until the follower is at a revision and knows the voters; gives back the frames.
async fn feed(cluster: &Cluster, follower: &Follower, revision: u64) -> Vec<Bytes> {
    let mut feed = cluster.handle(2).feed(follower.position(), signer(2), wire::NEWEST);
    let mut frames = Vec::new();
    while follower.view().revision() < revision || follower.status().voters.is_empty() {
        let frame = tokio::time::timeout(SOON, feed.next()).await.unwrap().unwrap();
        assert!(frame.len() <= 256 * 1024);
        follower.consume(frame.clone()).await.unwrap();
        frames.push(frame);
    }
    frames
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_equals_a_voter_restarts_writes_and_refuses_forgeries() {
    let mut cluster = Cluster::start(3).await;
    let value = "v".repeat(8000);
    for i in 0..40 {
        cluster.put(1, &format!("k/{i}"), &value).await;
    }
    cluster.settle(40).await;
    let follower = open(&cluster).await;
    assert_eq!(follower.position(), None);
    feed(&cluster, &follower, 40).await;
    assert_eq!(follower.view().position(), cluster.handle(1).view().position());
    assert_eq!(follower.view().list(""), cluster.handle(1).view().list(""));
    assert!(follower.status().quorum_ok);
    assert_eq!(follower.status().voters.len(), 3);

    let client = Client::new(
        NodeId(9),
        cluster.net.port(NodeId(9)),
        follower.subscribe_leadership(),
        follower.view(),
        Default::default(),
    );
    let outcome = client.write(Txn::new().put("mine", "1"), SOON).await.unwrap();
    assert_eq!(outcome, Outcome::Committed { revision: 41 });
    cluster.settle(41).await;
    let frames = feed(&cluster, &follower, 41).await;
    assert_eq!(client.read_index(SOON).await.unwrap(), 41);
    follower.shutdown().await.unwrap();
    drop((client, follower));

    let follower = open(&cluster).await;
    assert_eq!(follower.view().position(), cluster.handle(1).view().position());
    assert_eq!(follower.status().voters.len(), 3);
    // What was seen already is refused, and so is what leaves something out or was changed.
    let before = follower.position();
    let batch = frames.iter().find(|f| f[KIND] == 3).unwrap().clone();
    let repeated = follower.consume(batch).await.unwrap_err();
    assert_eq!(repeated, FeedError::Gap { expected: 42, offered: 41 });
    for i in 0..3 {
        cluster.put(1, &format!("n/{i}"), "x").await;
    }
    cluster.settle(44).await;
    let (r43, _) = (43, ());
    let ahead = cluster.handle(2).view();
    let mut watch = ahead.watch(Some(r43), "").unwrap();
    assert_eq!(watch.next().await.unwrap().revision, 44);
    let mut good = cluster.handle(2).feed(before, signer(2), wire::NEWEST);
    let frame = loop {
        let frame = good.next().await.unwrap();
        if frame[KIND] == 3 {
            break frame;
        }
    };
    // What the voter said of the cluster before its last start is refused, whoever kept it.
    let old = signer(2);
    let mut old = cluster.handle(2).feed(before, FeedSigner { boot: 0, ..old }, wire::NEWEST);
    let old = tokio::time::timeout(SOON, old.next()).await.unwrap().unwrap();
    let mut now = cluster.handle(2).feed(Some(ahead.position()), signer(2), wire::NEWEST);
    let heartbeat = tokio::time::timeout(SOON, now.next()).await.unwrap().unwrap();
    follower.consume(heartbeat).await.unwrap();
    let replayed = FeedError::Replayed { node: NodeId(2) };
    assert_eq!(follower.consume(old).await, Err(replayed));
    assert_eq!(follower.position(), before);
    let mut forged = frame.to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let unsigned = FeedError::Signature { node: NodeId(2) };
    assert_eq!(follower.consume(forged.into()).await, Err(unsigned));
    // One that is no voter, and a voter of another cluster, serve the same in vain.
    let stranger = FeedSigner { cluster: ClusterId(2), ..signer(2) };
    for (signer, node) in [(signer(4), NodeId(4)), (stranger, NodeId(2))] {
        let mut bad = cluster.handle(2).feed(before, signer, wire::NEWEST);
        let frame = tokio::time::timeout(SOON, bad.next()).await.unwrap().unwrap();
        let refused = follower.consume(frame).await.unwrap_err();
        assert_eq!(refused, FeedError::Signature { node });
        assert_eq!(refused.code(), codes::FEED_SIGNATURE);
        assert_eq!(follower.position(), before, "nothing of it is applied");
    }
    assert_eq!(follower.consume(vec![7].into()).await.unwrap_err().code(), codes::BAD_FEED);
    // Another feed, of a voter, brings all of it.
    feed(&cluster, &follower, 44).await;
    assert_eq!(follower.view().position(), cluster.handle(1).view().position());
    follower.shutdown().await.unwrap();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_can_keep_nothing_more_says_so() {
    let cluster = Cluster::start(3).await;
    let disk = Arc::new(SimDisk::new());
    let dir = std::path::Path::new("/follower");
    let trust = FeedTrust { cluster: CLUSTER, voters: Arc::new(Voters) };
    let follower = Follower::open(NodeId(9), dir, disk.clone(), trust).await.unwrap();
    cluster.put(1, "k", "1").await;
    cluster.settle(1).await;
    feed(&cluster, &follower, 1).await;
    disk.fail(DiskOp::Sync, 0, libc::ENOSPC);
    cluster.put(1, "k", "2").await;
    cluster.settle(2).await;
    let mut feed = cluster.handle(2).feed(follower.position(), signer(2), wire::NEWEST);
    let eat = async {
        loop {
            // What comes after the failure is refused, or was taken before it was known.
            let _ = follower.consume(feed.next().await.unwrap()).await;
        }
    };
    let error = tokio::select! {
        error = follower.fatal() => error,
        () = eat => unreachable!(),
        () = tokio::time::sleep(SOON) => panic!("a full disk is not told"),
    };
    assert_eq!(error.code().name, "SW-RAFT-DISK-FULL", "{error}");
    assert!(error.is_fatal());
}

/// Counts the calls; none arrives.
#[derive(Default)]
struct Nowhere(AtomicU32);

#[async_trait]
impl Transport for Nowhere {
    fn version(&self, _: NodeId) -> u8 {
        wire::NEWEST
    }

    fn round_trip(&self, _: NodeId) -> Option<Duration> {
        None
    }

    async fn call(&self, _: NodeId, _: u8, _: Bytes, _: Duration) -> Result<Bytes, TransportError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(TransportError::Unreachable("the port is closed".to_owned()))
    }

    async fn open(&self, _: NodeId, _: Duration) -> Result<Channel, TransportError> {
        Err(TransportError::Timeout)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_of_a_follower_that_has_stopped_does_not_spin() {
    let cluster = Cluster::start(3).await;
    cluster.put(1, "k", "1").await;
    cluster.settle(1).await;
    let follower = open(&cluster).await;
    feed(&cluster, &follower, 1).await;
    assert!(follower.status().leader.is_some());
    let nowhere = Arc::new(Nowhere::default());
    let (status, view) = (follower.subscribe_leadership(), follower.view());
    let client = Client::new(NodeId(9), nowhere.clone(), status, view, Default::default());
    let mut told = follower.subscribe_leadership();
    follower.shutdown().await.unwrap();
    drop(follower);
    let gone = async { while told.changed().await.is_ok() {} };
    tokio::time::timeout(SOON, gone).await.unwrap();
    let error = client.write(Txn::new().put("k", "2"), Duration::from_millis(300)).await;
    assert!(error.is_err());
    let calls = nowhere.0.load(Ordering::Relaxed);
    assert!((1..20).contains(&calls), "{calls} calls in 300 ms");
}
