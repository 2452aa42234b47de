//! Nodes of two versions of the wire in one cluster, which is upgraded node by node.

use serde_json::{Value, json};
use swarmer_model::wire;

use crate::common::{Cluster, get, until};

/// What every node says of the versions of the members.
async fn wires(cluster: &Cluster, node: usize) -> Vec<Value> {
    let answer = get(&cluster.http, &cluster.nodes[node].api_url("/v1/members")).await.unwrap();
    let items = answer.json()["items"].as_array().cloned().unwrap();
    items.into_iter().map(|member| member["wire"].clone()).collect()
}

/// Messages with writes that a node sent to the leader, by version of the wire.
async fn sent(cluster: &Cluster, node: usize) -> [u64; 2] {
    let name =
        |version| format!("swarmer_raft_sent_writes_messages_total{{version=\"{version}\"}}");
    [cluster.metric(node, &name(1)).await, cluster.metric(node, &name(2)).await]
}

async fn has_connections_of(cluster: &Cluster, node: usize, versions: &[u8]) {
    until(&format!("node {node} has connections of {versions:?}"), || async {
        let metrics = cluster.nodes[node].api_url("/metrics");
        let text = get(&cluster.http, &metrics).await.ok()?.text();
        let name =
            |version| format!("swarmer_transport_version_connections{{version=\"{version}\"}}");
        let there: Vec<u8> = (wire::OLDEST..=wire::NEWEST)
            .filter(|version| text.contains(&name(*version)))
            .collect();
        (there == versions).then_some(())
    })
    .await;
}

/// Whether the doctor finds that the nodes are of several versions.
async fn is_mixed(cluster: &Cluster) -> bool {
    let answer = get(&cluster.http, &cluster.nodes[0].api_url("/v1/doctor")).await.unwrap().json();
    let mut checks = answer["items"].as_array().unwrap().iter();
    let versions = checks.find(|check| check["check"] == "versions").unwrap();
    versions["state"] == "warn"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_two_versions_of_the_wire_are_one_cluster_until_the_upgrade_is_done() {
    let mut cluster = Cluster::prepare(3);
    cluster.nodes[0].extra = ["--wire-max", "1"].map(str::to_owned).into();
    (0..3).for_each(|node| cluster.start(node));
    cluster.all_ready().await;
    let leader = cluster.leader(0).await;
    for node in (0..3).filter(|node| *node != leader) {
        let before = sent(&cluster, node).await;
        // The second one goes over a connection that stands: whoever sends knows what is understood.
        for _ in 0..2 {
            cluster.nodes[node].cli_ok(&["token", "create"]);
        }
        let after = sent(&cluster, node).await;
        if node == 0 || leader == 0 {
            assert!(after[0] >= before[0] + 2, "{node} to {leader}: {before:?}, {after:?}");
            assert_eq!(after[1], 0, "{node} to {leader}");
        } else {
            assert!(after[1] > before[1], "{node} to {leader}: {before:?}, {after:?}");
        }
    }
    cluster.nodes[leader].cli_ok(&["token", "create"]);
    has_connections_of(&cluster, 0, &[1]).await;
    has_connections_of(&cluster, 1, &[1, wire::NEWEST]).await;
    let old = json!({ "oldest": 1, "newest": 1 });
    let new = json!({ "oldest": 1, "newest": wire::NEWEST });
    assert_eq!(wires(&cluster, 1).await, [old, new.clone(), new.clone()]);
    assert!(is_mixed(&cluster).await);

    assert!(cluster.nodes[0].stop().is_some_and(|status| status.success()));
    cluster.nodes[0].extra.clear();
    cluster.start(0);
    cluster.all_ready().await;
    for node in 0..3 {
        cluster.nodes[node].cli_ok(&["token", "create"]);
        has_connections_of(&cluster, node, &[wire::NEWEST]).await;
    }
    until("all know that the upgrade is done", || async {
        (wires(&cluster, 1).await == vec![new.clone(); 3]).then_some(())
    })
    .await;
    assert!(!is_mixed(&cluster).await);
}
