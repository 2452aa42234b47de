//! Foundings in random order, with kills and pauses in the middle: each ends in one cluster.

use std::{collections::BTreeSet, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::common::{Cluster, get, until};

/// How many foundings; `SWARMER_FOUNDING_RUNS=50` is what the promise is measured by.
fn runs() -> u64 {
    std::env::var("SWARMER_FOUNDING_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(2)
}

fn first_seed() -> u64 {
    std::env::var("SWARMER_FOUNDING_SEED")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(rand::random)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_and_pauses_in_the_middle_of_a_founding_make_one_cluster() {
    let first = first_seed();
    for run in 0..runs() {
        let seed = first.wrapping_add(run);
        println!("founding with SWARMER_FOUNDING_SEED={seed}");
        found(seed).await;
    }
}

async fn found(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::prepare(3);
    let mut waiting: Vec<usize> = vec![0, 1, 2];
    while !waiting.is_empty() {
        let next = waiting.swap_remove(rng.random_range(0..waiting.len()));
        cluster.start(next);
        pause(&mut rng, 600).await;
    }
    // Kills and pauses at random moments of the first seconds, when all of founding happens.
    for _ in 0..rng.random_range(1..6) {
        let victim = rng.random_range(0..3);
        if rng.random_bool(0.5) {
            cluster.nodes[victim].kill();
            pause(&mut rng, 700).await;
            cluster.start(victim);
        } else {
            cluster.nodes[victim].signal("-STOP");
            pause(&mut rng, 1500).await;
            cluster.nodes[victim].signal("-CONT");
        }
        pause(&mut rng, 500).await;
    }
    cluster.all_ready().await;
    let mut seen = BTreeSet::new();
    for i in 0..3 {
        let status = cluster.status(i).await;
        seen.insert((status["cluster"].to_string(), ca(&cluster, i)));
    }
    assert_eq!(seen.len(), 1, "seed {seed}: {seen:?}");
    until("all three see each other", || async {
        let members =
            get(&cluster.http, &cluster.nodes[0].api_url("/v1/members")).await.ok()?.json();
        let items = members["items"].as_array()?.clone();
        let alive = items.iter().filter(|member| member["state"] == "alive").count();
        (alive == 3 && items.len() == 3).then_some(())
    })
    .await;
    cluster.nodes[1].cli_ok(&["token", "create"]);
}

/// The authority that a node believes: two clusters of one id would have two.
fn ca(cluster: &Cluster, i: usize) -> String {
    let text = std::fs::read_to_string(cluster.nodes[i].dir.join("identity.json")).unwrap();
    let identity: serde_json::Value = serde_json::from_str(&text).unwrap();
    identity["ca"].to_string()
}

async fn pause(rng: &mut StdRng, most_ms: u64) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..most_ms))).await;
}
