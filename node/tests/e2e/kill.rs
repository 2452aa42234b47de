//! Death of a serving node and of the leader, under load, as clients see it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::common::{Cluster, Http, get, http, until};
use swarmer_runtime::fixtures;

/// Requests per second through each survivor.
const RATE: u64 = 50;

/// How many runs of each; `SWARMER_KILL_RUNS=20` is what the promise is measured by.
fn runs() -> usize {
    std::env::var("SWARMER_KILL_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Seconds of load before and after the kill.
fn seconds() -> (u64, u64) {
    if std::env::var_os("SWARMER_KILL_RUNS").is_some() { (5, 15) } else { (1, 4) }
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) good: AtomicU64,
    pub(crate) bad: parking_lot::Mutex<Vec<String>>,
    worst_ms: AtomicU64,
}

/// Sends at a fixed rate, whatever the answers do, until told to stop.
pub(crate) async fn load(http: Http, url: String, seen: Arc<Seen>, stop: Arc<AtomicBool>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(1000 / RATE));
    let mut open = tokio::task::JoinSet::new();
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        while open.try_join_next().is_some() {}
        let (http, url, seen) = (http.clone(), url.clone(), Arc::clone(&seen));
        open.spawn(async move {
            let sent = Instant::now();
            let outcome = get(&http, &url).await;
            let took = u64::try_from(sent.elapsed().as_millis()).unwrap_or(u64::MAX);
            seen.worst_ms.fetch_max(took, Ordering::Relaxed);
            match outcome {
                Ok(answer) if answer.status == 200 => {
                    seen.good.fetch_add(1, Ordering::Relaxed);
                }
                Ok(answer) => {
                    let at = start.elapsed();
                    seen.bad.lock().push(format!(
                        "{at:?} {url} {} {}",
                        answer.status,
                        answer.text()
                    ));
                }
                Err(error) => {
                    let at = start.elapsed();
                    seen.bad.lock().push(format!("{at:?} {url} {error}"));
                }
            }
        });
    }
    while open.join_next().await.is_some() {}
}

async fn four_nodes_with_a_function_on_two() -> Cluster {
    let mut cluster = Cluster::found(3).await;
    cluster.join("n4").await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", "hello", "--replicas", "2"]);
    cluster.serves(&[0, 1, 2, 3], "/hello").await;
    until("two nodes have it ready", || async {
        let url = cluster.nodes[0].api_url("/v1/namespaces/default/functions/hello");
        let answer = get(&cluster.http, &url).await.ok()?.json();
        (answer["live"]["ready"].as_u64()? == 2).then_some(())
    })
    .await;
    cluster
}

async fn placed(cluster: &Cluster) -> Vec<usize> {
    let url = cluster.nodes[0].api_url("/v1/namespaces/default/functions/hello");
    let answer = get(&cluster.http, &url).await.unwrap().json();
    let names = answer["live"]["nodes"].as_array().unwrap().clone();
    let index = |name: &serde_json::Value| cluster.nodes.iter().position(|n| n.name == *name);
    names.iter().filter_map(index).collect()
}

/// Kills a node under load through the others; every answer must be 200.
async fn kill_under_load(cluster: &mut Cluster, victim: usize) {
    let (before, after) = seconds();
    let seen = Arc::new(Seen::default());
    let stop = Arc::new(AtomicBool::new(false));
    let survivors: Vec<usize> = (0..cluster.nodes.len()).filter(|i| *i != victim).collect();
    let loads: Vec<_> = survivors
        .iter()
        .map(|i| {
            let url = cluster.nodes[*i].url("/hello");
            tokio::spawn(load(http(), url, Arc::clone(&seen), Arc::clone(&stop)))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(before)).await;
    cluster.nodes[victim].kill();
    tokio::time::sleep(Duration::from_secs(after)).await;
    stop.store(true, Ordering::Relaxed);
    for load in loads {
        load.await.unwrap();
    }
    let bad = seen.bad.lock().clone();
    println!(
        "killed {}: {} answers of 200, {} others, slowest {} ms",
        cluster.nodes[victim].name,
        seen.good.load(Ordering::Relaxed),
        bad.len(),
        seen.worst_ms.load(Ordering::Relaxed)
    );
    assert!(bad.is_empty(), "not 200: {bad:#?}");
    let least = (before + after) * RATE * survivors.len() as u64 / 4;
    assert!(seen.good.load(Ordering::Relaxed) > least, "the load did not run");
}

async fn back(cluster: &mut Cluster, victim: usize) {
    cluster.start(victim);
    let http = cluster.http.clone();
    cluster.nodes[victim].ready(&http).await;
    cluster.serves(&[victim], "/hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_serving_node_costs_no_request() {
    let mut cluster = four_nodes_with_a_function_on_two().await;
    for _ in 0..runs() {
        let victim = placed(&cluster).await[0];
        kill_under_load(&mut cluster, victim).await;
        back(&mut cluster, victim).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_costs_no_request_and_a_deploy_goes_on_soon() {
    let mut cluster = four_nodes_with_a_function_on_two().await;
    for _ in 0..runs() {
        let leader = cluster.leader(3).await;
        kill_under_load(&mut cluster, leader).await;
        back(&mut cluster, leader).await;
        // Now the time until a change is acknowledged again.
        let leader = cluster.leader(3).await;
        let survivor = (0..3).find(|i| *i != leader).unwrap();
        let url = cluster.nodes[survivor].api_url("/v1/namespaces/default/functions/hello");
        let mut function = get(&cluster.http, &url).await.unwrap().json();
        function["metadata"].as_object_mut().unwrap().remove("revision");
        cluster.nodes[leader].kill();
        let killed = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            function["spec"]["env"]["TRY"] = format!("{tries} {killed:?}").into();
            let put = crate::common::request(&cluster.http, "PUT", &url, function.to_string());
            let answer = tokio::time::timeout(Duration::from_secs(1), put).await;
            if matches!(&answer, Ok(Ok(answer)) if answer.status < 300) {
                break;
            }
            assert!(killed.elapsed() < Duration::from_secs(20), "{answer:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        println!("a deploy was acknowledged {:?} after the leader's death", killed.elapsed());
        assert!(killed.elapsed() < Duration::from_secs(3), "{:?}", killed.elapsed());
        back(&mut cluster, leader).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_restart_costs_no_request() {
    let mut cluster = four_nodes_with_a_function_on_two().await;
    let victim = placed(&cluster).await[0];
    let seen = Arc::new(Seen::default());
    let stop = Arc::new(AtomicBool::new(false));
    let through = (0..4).find(|i| *i != victim).unwrap();
    let url = cluster.nodes[through].url("/hello");
    let load = tokio::spawn(load(http(), url, Arc::clone(&seen), Arc::clone(&stop)));
    until("some answers", || async { (seen.good.load(Ordering::Relaxed) > 20).then_some(()) })
        .await;
    assert!(cluster.nodes[victim].stop().unwrap().success());
    back(&mut cluster, victim).await;
    let now = seen.good.load(Ordering::Relaxed);
    until("more answers", || async {
        (seen.good.load(Ordering::Relaxed) > now + 20).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    let bad = seen.bad.lock().clone();
    assert!(bad.is_empty(), "not 200: {bad:#?}");
}
