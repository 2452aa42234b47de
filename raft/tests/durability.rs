//! What survives power cuts, and what a failing disk does.

mod common;

use std::time::Duration;

use common::{Cluster, SOON};
use swarmer_model::{Coded, NodeId};
use swarmer_raft::{codes, disk::DiskOp};

const EIO: i32 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_power_cuts_of_all_nodes() {
    let mut cluster = Cluster::simulated(3).await;
    let mut written = 0;
    for seed in 1..=6_u64 {
        println!("seed {seed}");
        for i in 0..8 {
            written = cluster.put(1 + i % 3, &format!("k/{seed}/{i}"), "x").await;
        }
        if seed % 2 == 0 {
            let leader = cluster.leader().await;
            cluster.handle(leader.0).snapshot_now(SOON).await.unwrap();
        }
        let (_, chain) = {
            let at = cluster.handle(2).read_index(SOON).await.unwrap();
            assert_eq!(at, written);
            cluster.handle(2).view().position()
        };
        cluster.power_cut(seed).await;
        cluster.leader().await;
        cluster.settle(written).await;
        assert_eq!(cluster.handle(1).view().chain_hash(), chain);
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_stops_the_node_and_the_others_go_on() {
    let mut cluster = Cluster::simulated(3).await;
    cluster.put(1, "before", "x").await;
    let broken = cluster.leader().await;
    let rest: Vec<NodeId> = cluster.nodes.keys().copied().filter(|n| *n != broken).collect();
    cluster.disk(broken).fail(DiskOp::Sync, 0, EIO);
    let handle = cluster.handle(broken.0);
    let waiting = tokio::spawn(async move { handle.fatal().await });
    cluster.put(rest[0].0, "during", "x").await;
    let fatal = tokio::time::timeout(SOON, waiting).await.expect("it is told").unwrap();
    assert_eq!(fatal.code(), codes::STORAGE, "{fatal}");
    assert!(fatal.is_fatal());
    cluster.leader_of(&rest).await;
    let revision = cluster.put(rest[1].0, "after", "x").await;
    for node in &rest {
        cluster.handle(node.0).view().wait_for(revision, Duration::from_secs(5)).await.unwrap();
    }
    let _ = cluster.nodes.remove(&broken).unwrap().handle().shutdown().await;
    cluster.stop_all().await;
}
