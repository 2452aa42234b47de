//! Compiled images: each component is compiled once in a cluster, and by others when that fails.

use std::time::{Duration, Instant};

use crate::common::{Cluster, request, until};
use swarmer_model::Digest;
use swarmer_runtime::fixtures;

/// How many images a node compiled, and how many it took from others.
async fn images(cluster: &Cluster, node: usize) -> (u64, u64) {
    let compiled = cluster.metric(node, "swarmer_runtime_compilations_total").await;
    (compiled, cluster.metric(node, "swarmer_runtime_images_fetched_total").await)
}

/// Waits until each of these nodes has one image; how many compiled it.
async fn compiled(cluster: &Cluster, nodes: &[usize]) -> u64 {
    let mut sum = 0;
    for node in nodes {
        let (compiled, fetched) = until("every candidate has the image", || async {
            let (compiled, fetched) = images(cluster, *node).await;
            (compiled + fetched > 0).then_some((compiled, fetched))
        })
        .await;
        assert_eq!(compiled + fetched, 1, "node {node}: {compiled} compiled, {fetched} taken");
        sum += compiled;
    }
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_is_compiled_once_and_every_candidate_has_it() {
    let mut cluster = Cluster::found(3).await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    // Placed on one; the other two are its candidates.
    cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", "hello", "--replicas", "1"]);
    assert_eq!(compiled(&cluster, &[0, 1, 2]).await, 1);
    // Another function of the same component, deployed at another node, needs nothing more.
    cluster.nodes[1].cli_ok(&["deploy", &hello, "--name", "again", "--replicas", "3"]);
    cluster.serves(&[0, 1, 2], "/again").await;
    // Nor does a node that comes later compile.
    let fourth = cluster.join("n4").await;
    assert_eq!(compiled(&cluster, &[0, 1, 2, fourth]).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_node_that_compiled_hangs_another_compiles() {
    let cluster = Cluster::found(3).await;
    let hello = fixtures::hello_p2();
    let path = cluster.component("hello", &hello);
    // The third node takes the component in and compiles it; the artifact is on all three.
    let url = cluster.nodes[2].api_url(&format!("/v1/artifacts/{}", Digest::of(&hello)));
    let answer = request(&cluster.http, "PUT", &url, hello).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(images(&cluster, 2).await, (1, 0));
    // It answers nobody from now on. For a while the others think that it lives.
    cluster.nodes[2].signal("-STOP");
    let start = Instant::now();
    until("the deploy succeeds without it", || async {
        cluster.nodes[0]
            .cli(&["deploy", &path, "--name", "hello", "--replicas", "3"])
            .status
            .success()
            .then_some(())
    })
    .await;
    cluster.serves(&[0, 1], "/hello").await;
    assert_eq!(compiled(&cluster, &[0, 1]).await, 1, "one of the two, not both");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
