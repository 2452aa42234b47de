//! Nodes that become voters while they run, and stop being it: what their readers see.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use common::{Cluster, SOON, until};
use swarmer_model::{ClusterId, NodeId, wire};
use swarmer_raft::{
    Config, FeedKey, FeedSigner, FeedTrust, Follower, RaftError, Role, Status, Timing, Txn,
    VoterKeys, disk::RealDisk,
};

struct Key;

impl FeedKey for Key {
    fn sign(&self, _: &[u8]) -> Vec<u8> {
        b"signed".to_vec()
    }
}

struct Everybody;

impl VoterKeys for Everybody {
    fn signed_by_voter(&self, _: NodeId, _: &[u8], signature: &[u8]) -> bool {
        signature == b"signed"
    }
}

fn trust() -> FeedTrust {
    FeedTrust { cluster: ClusterId(1), voters: Arc::new(Everybody) }
}

fn signer(node: u64) -> FeedSigner {
    FeedSigner { cluster: ClusterId(1), node: NodeId(node), boot: 1, key: Arc::new(Key) }
}

const FOURTH: NodeId = NodeId(4);
/// Writes before anything happens: more than the log is purged by at a time.
const BEFORE: u64 = 150;

/// Node 4 as it follows, in a directory of its own beside that of its log.
async fn follower(cluster: &Cluster) -> Follower {
    let dir = cluster.dir.path().join("feed");
    Follower::open(FOURTH, &dir, Arc::new(RealDisk), trust()).await.unwrap()
}

/// Follows node 1 until there is nothing more to take.
fn follow(cluster: &Cluster, follower: &Follower) -> tokio::task::JoinHandle<()> {
    let mut feed = cluster.handle(1).feed(follower.position(), signer(1), wire::NEWEST);
    let follower = follower.clone();
    tokio::spawn(async move {
        while let Some(frame) = feed.next().await {
            if follower.consume(frame).await.is_err() {
                return;
            }
        }
    })
}

/// Lets the leader have node 4 as a learner.
async fn add_fourth(cluster: &Cluster) {
    let leader = cluster.leader_of(&[1, 2, 3].map(NodeId)).await;
    cluster.handle(leader.0).add_learner(FOURTH, SOON).await.unwrap();
}

async fn make_voters(cluster: &Cluster, voters: &[u64]) {
    let leader = cluster.leader_of(&[1, 2, 3].map(NodeId)).await;
    let voters: BTreeSet<NodeId> = voters.iter().copied().map(NodeId).collect();
    cluster.handle(leader.0).change_voters(voters, SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_becomes_a_voter_and_a_follower_again_without_a_break_in_what_it_shows() {
    // The log is purged, so that the learner is brought up by a snapshot.
    let mut cluster = Cluster::tuned(3, |config| config.log_keep_entries = 1).await;
    for i in 0..BEFORE {
        cluster.put(1, &format!("k/{i}"), "before").await;
    }
    let leader = cluster.leader().await;
    cluster.handle(leader.0).snapshot_now(SOON).await.unwrap();
    until("the log was purged", || {
        cluster.handle(leader.0).purged_index().is_some_and(|index| index > 60)
    })
    .await;
    let follower = follower(&cluster).await;
    let following = follow(&cluster, &follower);
    let view = follower.view();
    view.wait_for(BEFORE, SOON).await.unwrap();
    let mut watch = view.watch(Some(BEFORE), "k/").unwrap();

    cluster.open(FOURTH).await;
    add_fourth(&cluster).await;
    cluster.put(1, "k", "while it learns").await;
    cluster.put(1, "k/while", "it learns").await;
    follower.give_way(&cluster.handle(4), SOON).await.unwrap();
    following.await.unwrap();
    make_voters(&cluster, &[1, 2, 3, 4]).await;
    let revision = cluster.put(1, "k/as", "a voter").await;
    assert_eq!(revision, BEFORE + 3);
    let raft = cluster.handle(4);
    until("it knows that it votes", || raft.status().voters.contains(&FOURTH)).await;
    // The view from before shows what the log brings.
    view.wait_for(revision, SOON).await.unwrap();
    assert_eq!(view.chain_hash(), cluster.handle(1).view().chain_hash());
    assert_eq!(raft.status().revision, revision);

    // Back again. What happens meanwhile comes by the feed.
    make_voters(&cluster, &[1, 2, 3]).await;
    cluster.forget(FOURTH);
    raft.retire().await.unwrap();
    assert_eq!(raft.status().role, Role::Stopped);
    cluster.put(1, "k/as", "nobody").await;
    let dir = cluster.dir.path().join("feed");
    let again = Follower::succeed(&raft, &dir, Arc::new(RealDisk), trust()).await.unwrap();
    assert_eq!(again.position().unwrap().0, revision, "it goes on where it was");
    let following = follow(&cluster, &again);
    view.wait_for(revision + 1, SOON).await.unwrap();
    for expected in revision - 1..=revision + 1 {
        let item = tokio::time::timeout(SOON, watch.next()).await.unwrap().unwrap();
        assert_eq!(item.revision, expected, "nothing twice, nothing left out, no new listing");
    }
    // And once more, on the log that it had.
    cluster.open(FOURTH).await;
    add_fourth(&cluster).await;
    again.give_way(&cluster.handle(4), SOON).await.unwrap();
    following.await.unwrap();
    make_voters(&cluster, &[1, 2, 3, 4]).await;
    let last = cluster.put(1, "k/as", "a voter once more").await;
    view.wait_for(last, SOON).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, last);
    assert_eq!(view.list("").0, last);
    cluster.stop_all().await;
    assert!(watch.next().await.is_err(), "the end is told to the first watch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_behind_is_not_shown_and_the_follower_goes_on() {
    let mut cluster = Cluster::start(3).await;
    cluster.put(1, "a", "1").await;
    let follower = follower(&cluster).await;
    let following = follow(&cluster, &follower);
    follower.view().wait_for(1, SOON).await.unwrap();
    // An engine that nobody sends anything.
    cluster.open(FOURTH).await;
    let short = Duration::from_millis(50);
    let late = follower.give_way(&cluster.handle(4), short).await.unwrap_err();
    assert!(matches!(late, RaftError::Timeout { .. }), "{late}");
    cluster.put(1, "b", "2").await;
    follower.view().wait_for(2, SOON).await.unwrap();
    following.abort();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_left_half_done_is_seen_and_finished_by_the_next_leader() {
    let mut cluster = Cluster::start(3).await;
    cluster.put(1, "a", "1").await;
    cluster.open(FOURTH).await;
    add_fourth(&cluster).await;
    let leader = cluster.leader().await;
    let others: Vec<NodeId> = (1..=3).map(NodeId).filter(|node| *node != leader).collect();
    // Of the old voters a majority answers, of the new ones not: the change stays half done.
    let goal: BTreeSet<NodeId> = [leader, FOURTH, NodeId(5)].into();
    let first = cluster.handle(leader.0);
    let short = Duration::from_millis(300);
    first.add_learner(NodeId(5), SOON).await.unwrap();
    // It hears the leader, and so asks nobody for a vote: the leader stays.
    cluster.net.mute(FOURTH);
    first.change_voters(goal, short).await.unwrap_err();
    until("the change is half done", || first.members().configs.len() == 2).await;
    assert!(!first.members().settled, "and not committed");
    cluster.net.heal();
    until("it is committed", || first.members().settled).await;
    let members = first.members();
    assert_eq!(members.configs.len(), 2);
    assert_eq!(members.peers[&FOURTH].lag, Some(0));
    assert_eq!(members.peers[&NodeId(5)].lag, None);
    // Its end: back to those that are there.
    let stay: BTreeSet<NodeId> = others.iter().copied().chain([leader]).collect();
    first.change_voters(stay.clone(), SOON).await.unwrap();
    assert_eq!(first.members().configs, [stay]);
    let learners = first.members().learners;
    for learner in learners {
        first.remove_learner(learner, SOON).await.unwrap();
    }
    until("nobody else is left", || {
        let members = first.members();
        members.learners.is_empty() && !members.committed.contains(&FOURTH)
    })
    .await;
    cluster.put(2, "b", "2").await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_was_removed_and_goes_on_sending_changes_nothing() {
    let cluster = Cluster::start(4).await;
    cluster.put(1, "a", "1").await;
    let leader = cluster.leader().await;
    let gone = NodeId(if leader == NodeId(4) { 3 } else { 4 });
    let stay: BTreeSet<NodeId> = (1..=4).map(NodeId).filter(|node| *node != gone).collect();
    let removed = cluster.handle(gone.0);
    until("it has what was written", || removed.view().revision() == 1).await;
    // It does not learn that it was removed, and stands for election for as long as it lives.
    cluster.net.isolate(gone);
    cluster.handle(leader.0).change_voters(stay.clone(), SOON).await.unwrap();
    let before: Status = cluster.handle(leader.0).status();
    cluster.net.heal();
    until("it hears of no leader", || !removed.status().quorum_ok).await;
    // It asks for votes at every election timeout; so long are these writes in flight together.
    let start = tokio::time::Instant::now();
    let mut writes = 0;
    while start.elapsed() < Timing::LAN.election_max * 8 {
        cluster.put(leader.0, &format!("k/{writes}"), "x").await;
        writes += 1;
    }
    let after = cluster.handle(leader.0).status();
    assert_eq!((after.leader, after.term), (before.leader, before.term));
    assert_eq!(after.voters, stay);
    assert_eq!(removed.view().revision(), 1, "it gets nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_voter_goes_on_alone_with_everything_that_it_had_when_the_others_are_gone() {
    let mut cluster = Cluster::start(3).await;
    for i in 0..10 {
        cluster.put(1, &format!("k/{i}"), "before").await;
    }
    cluster.settle(10).await;
    let leader = cluster.leader().await;
    let last = (1..=3).map(NodeId).find(|node| *node != leader).unwrap();
    // What it has and nobody acknowledged counts too.
    let third = (1..=3).map(NodeId).find(|node| ![leader, last].contains(node)).unwrap();
    cluster.stop(third).await;
    let revision = cluster.put(leader.0, "k/10", "by two").await;
    let chain = cluster.handle(leader.0).view().chain_hash();
    cluster.stop(leader).await;
    cluster.stop(last).await;
    let config = Config::new(last, cluster.path(last));
    let stranger = Config::new(NodeId(9), cluster.path(NodeId(9)));
    let disk = || Arc::new(RealDisk);
    let none = swarmer_raft::recover(&stranger, disk(), |_, _| Txn::new()).unwrap_err();
    assert!(matches!(none, RaftError::Membership(_)), "{none}");
    let done = swarmer_raft::recover(&config, disk(), |view, voters| {
        assert_eq!(view.get("k/10").unwrap().value, "by two");
        assert_eq!(voters.len(), 3);
        Txn::new().put("recovered", "yes").delete("k/0")
    })
    .unwrap();
    assert_eq!(done.revision, revision);
    // Again, after an end right after the first: no harm.
    let again = swarmer_raft::recover(&config, disk(), |_, voters| {
        assert_eq!(voters.len(), 1);
        Txn::new().put("recovered", "twice")
    });
    assert!(again.unwrap().term > done.term);
    cluster.open(last).await;
    let handle = cluster.handle(last.0);
    handle.read_index(SOON).await.unwrap();
    assert_eq!(handle.status().voters, BTreeSet::from([last]));
    assert_eq!(handle.view().get("recovered").unwrap().value, "twice");
    assert!(handle.view().get("k/0").is_none());
    assert_eq!(handle.view().list("k/").1.len(), 10);
    assert_ne!(handle.view().chain_hash(), chain);
    cluster.put(last.0, "k/11", "alone").await;
    // It grows again, and the others are not asked.
    cluster.open(FOURTH).await;
    handle.add_learner(FOURTH, SOON).await.unwrap();
    handle.change_voters([last, FOURTH].into(), SOON).await.unwrap();
    cluster.put(4, "k/12", "by two").await;
    cluster.stop_all().await;
}
