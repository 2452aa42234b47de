//! Voters that are far apart. One test, as the clock of all engines in a process is one.

mod common;

use std::time::Duration;

use common::{Cluster, until};
use swarmer_raft::{MAX_MULTIPLIER, Txn};

/// A round trip of 300 ms, where a heartbeat's interval on a LAN is 100.
const WAY: Duration = Duration::from_millis(150);
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_on_other_continents_elect_and_keep_a_leader() {
    let mut cluster = Cluster::far(3, WAY, |config| config.adaptive = true).await;
    let leader = cluster.leader().await;
    let handle = cluster.handle(leader.0);
    let term = handle.status().term;
    for i in 0..5 {
        handle.write(Txn::new().put(format!("k/{i}"), "x"), PATIENCE).await.unwrap();
        assert!(handle.status().quorum_ok, "it trusts its quorum");
    }
    assert!((8..MAX_MULTIPLIER).contains(&handle.multiplier()), "{}", handle.multiplier());
    let status = handle.status();
    assert_eq!((status.leader, status.term), (Some(leader), term), "nobody took it for dead");
    // One that is dead is replaced all the same.
    cluster.net.isolate(leader);
    let others: Vec<_> = cluster.nodes.keys().copied().filter(|node| *node != leader).collect();
    let replaced = || {
        let seen = |node: &swarmer_model::NodeId| cluster.handle(node.0).status().leader;
        others.iter().all(|node| seen(node).is_some_and(|other| other != leader))
    };
    until("another one leads", replaced).await;
    cluster.stop_all().await;
}
