//! A leader that is killed before its own write of what it has already sent, and is back before
//! anybody missed it: it must not give the same place in the log to something else.

mod common;

use std::time::Duration;

use common::{Cluster, SOON, until};
use swarmer_model::NodeId;
use swarmer_raft::{Config, Outcome, Timing, Txn};

/// Patient voters: the leader is back long before one of them stands for election.
const PATIENT: Timing = Timing {
    heartbeat: Duration::from_millis(100),
    election_min: Duration::from_millis(400),
    election_max: Duration::from_millis(600),
};

fn tune(config: &mut Config) {
    config.applied_dir = None;
    config.timing = PATIENT;
}

/// Three voters that agree, and the leader among them.
async fn settled() -> (Cluster, NodeId, Vec<NodeId>) {
    let cluster = Cluster::simulated_and_tuned(3, tune).await;
    let leader = cluster.leader().await;
    let revision = cluster.put(leader.0, "before", "x").await;
    cluster.settle(revision).await;
    let followers = cluster.nodes.keys().copied().filter(|node| *node != leader).collect();
    (cluster, leader, followers)
}

/// Waits until these have one entry more than `before` in their logs.
async fn sent(cluster: &Cluster, to: &[NodeId], before: Option<u64>) {
    for node in to {
        let handle = cluster.handle(node.0);
        until("the entry was sent", || handle.status().last_log_index > before).await;
    }
}

/// Another write at the place of the one that the leader forgot, and all must be equal.
async fn write_again_and_compare(cluster: &Cluster) {
    cluster.net.heal();
    let leader = cluster.leader().await;
    let revision = cluster.put(leader.0, "after", "y").await;
    cluster.settle(revision).await;
}

async fn sent_to_one_and_forgotten(all_die: bool) {
    let (mut cluster, leader, followers) = settled().await;
    cluster.net.cut(leader, followers[1]);
    let before = cluster.handle(leader.0).status().last_log_index;
    cluster.disk(leader).hold();
    let handle = cluster.handle(leader.0);
    let write = tokio::spawn(async move { handle.write(Txn::new().put("held", "x"), SOON).await });
    sent(&cluster, &followers[..1], before).await;
    assert!(!write.is_finished(), "one of three has it: nothing is acknowledged");
    write.abort();
    let dying = if all_die { [&[leader], &*followers].concat() } else { vec![leader] };
    cluster.kill(&dying).await;
    write_again_and_compare(&cluster).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_does_not_reuse_the_place_of_what_one_follower_has() {
    sent_to_one_and_forgotten(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_after_all_were_killed() {
    sent_to_one_and_forgotten(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_followers_made_durable_without_the_leader_is_not_lost_with_it() {
    let (mut cluster, leader, followers) = settled().await;
    let before = cluster.handle(leader.0).status().last_log_index;
    cluster.disk(leader).hold();
    // Two of three have it on their disks: it is acknowledged.
    let written = cluster.handle(leader.0).write(Txn::new().put("held", "x"), SOON).await.unwrap();
    assert!(matches!(written, Outcome::Committed { .. }), "{written:?}");
    sent(&cluster, &followers, before).await;
    cluster.kill(&[leader]).await;
    write_again_and_compare(&cluster).await;
    for raft in cluster.nodes.values() {
        assert!(raft.view().get("held").is_some(), "an acknowledged write was lost");
    }
    cluster.stop_all().await;
}
