//! Trust over time, on real nodes and under load: who is removed is cut off at once, and
//! certificates are renewed without a failed request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use swarmer_runtime::fixtures;

use crate::{
    common::{Cluster, get, http, request, until},
    kill::{Seen, load},
};

/// How long after its commit a removal may take to reach every member.
const CUT_WITHIN: Duration = Duration::from_secs(2);

/// Load on a function through some nodes, until it is stopped.
pub(crate) struct Load {
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    pub(crate) fn on(cluster: &Cluster, nodes: &[usize]) -> Self {
        let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let task = |i: &usize| {
            let url = cluster.nodes[*i].url("/hello");
            tokio::spawn(load(http(), url, Arc::clone(&seen), Arc::clone(&stop)))
        };
        Self { tasks: nodes.iter().map(task).collect(), seen, stop }
    }

    pub(crate) fn good(&self) -> u64 {
        self.seen.good.load(Ordering::Relaxed)
    }

    /// Ends it; not one request may have failed.
    pub(crate) async fn none_failed(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let bad = self.seen.bad.lock();
        assert!(bad.is_empty(), "{} failed: {:#?}", bad.len(), &bad[..bad.len().min(10)]);
        assert!(self.seen.good.load(Ordering::Relaxed) > 50, "there was a load");
    }
}

pub(crate) async fn with_hello_on_all(cluster: &Cluster, replicas: &str) {
    let hello = cluster.component("hello", &fixtures::hello_p2());
    cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", "hello", "--replicas", replicas]);
    let all: Vec<usize> = (0..cluster.nodes.len()).collect();
    cluster.serves(&all, "/hello").await;
}

/// Connections of a node that stand, by its own count.
async fn connections(cluster: &Cluster, i: usize) -> u64 {
    let of = |direction| format!("swarmer_transport_connections{{direction=\"{direction}\"}}");
    cluster.metric(i, &of("inbound")).await + cluster.metric(i, &of("outbound")).await
}

/// When a log line was written.
fn time_of(line: &str) -> SystemTime {
    humantime::parse_rfc3339(line.split_whitespace().next().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_is_cut_off_by_every_member_within_two_seconds_and_says_why() {
    let mut cluster = Cluster::found(3).await;
    let removed = cluster.join("n4").await;
    let other = cluster.join("n5").await;
    with_hello_on_all(&cluster, "5").await;
    let members = [0, 1, 2, other];
    let load = Load::on(&cluster, &members);
    // The one that goes has load too, and so live connections of both kinds to the others.
    let lost = Load::on(&cluster, &[removed]);
    until("there is load everywhere", || async {
        (load.good() > 100 && lost.good() > 20).then_some(())
    })
    .await;
    assert!(connections(&cluster, removed).await > 0);
    let id = {
        let url = cluster.nodes[0].api_url("/v1/nodes/n4");
        let node = get(&cluster.http, &url).await.unwrap().json();
        node["spec"]["id"].as_str().unwrap().to_owned()
    };

    let url = cluster.nodes[0].api_url("/v1/nodes/n4");
    let answer = request(&cluster.http, "DELETE", &url, "").await.unwrap();
    let (committed, clock) = (Instant::now(), SystemTime::now());
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Gone are all connections of all kinds, by its own count too.
    until("it has no connection any more", || async {
        (connections(&cluster, removed).await == 0).then_some(())
    })
    .await;
    println!("no connection {:?} after the answer to the removal", committed.elapsed());
    // Each member has cut it by itself, within the promised time by its own log.
    for i in members {
        let line = until("a member tells that it cut the removed one off", || async {
            let log = cluster.nodes[i].log_text();
            log.lines()
                .find(|line| line.contains("a member was removed") && line.contains(&id))
                .map(str::to_owned)
        })
        .await;
        let late = time_of(&line).duration_since(clock).unwrap_or_default();
        assert!(late < CUT_WITHIN, "{}: {late:?}: {line}", cluster.nodes[i].name);
    }
    // It knows why, and calls itself ready no more.
    until("the removed one says why", || async {
        let log = cluster.nodes[removed].log_text();
        log.lines()
            .any(|line| line.contains("SW-MESH-REVOKED") && line.contains("this node was removed"))
            .then_some(())
    })
    .await;
    let url = cluster.nodes[removed].api_url("/readyz");
    let answer = get(&cluster.http, &url).await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("SW-MESH-REVOKED"), "{}", answer.text());

    // What it goes on sending changes nothing: its datagrams are refused, its writes reach nobody,
    // its connections are turned away, and no member counts it.
    until("a member refuses what it sends", || async {
        let refused = "swarmer_gossip_refused_total{reason=\"not-admitted\"}";
        (cluster.metric(0, refused).await > 3).then_some(())
    })
    .await;
    let hello = cluster.component("again", &fixtures::hello_p2());
    let output = cluster.nodes[removed].cli(&["deploy", &hello, "--name", "evil", "--no-wait"]);
    assert!(!output.status.success(), "{output:?}");
    let url = cluster.nodes[0].api_url("/v1/namespaces/default/functions/evil");
    assert_eq!(get(&cluster.http, &url).await.unwrap().status, 404);
    for i in members {
        let url = cluster.nodes[i].api_url("/v1/members");
        let text = get(&cluster.http, &url).await.unwrap().text();
        assert!(!text.contains(&id), "{}: {text}", cluster.nodes[i].name);
    }
    assert_eq!(connections(&cluster, removed).await, 0);
    lost.stop.store(true, Ordering::Relaxed);
    load.none_failed().await;
}

/// How long certificates live and how long the load lasts at least:
/// `SWARMER_CERTIFICATE_RUN=5m,60m` is what the promise is measured by.
fn certificate_run() -> (String, Duration) {
    let asked = std::env::var("SWARMER_CERTIFICATE_RUN").unwrap_or("10s,0s".to_owned());
    let (life, run) = asked.split_once(',').unwrap();
    humantime::parse_duration(life).unwrap();
    (life.to_owned(), humantime::parse_duration(run).unwrap())
}

/// Whose lease it is that is renewed under load.
const HOLDER: &str = r#"{"holder": "load", "ttl": "1h"}"#;

/// Writes of the control state at a fixed pace through one node after the other, until told to
/// stop: how many were acknowledged, and the answers to the others.
async fn writes(apis: Vec<String>, stop: Arc<AtomicBool>) -> (u64, Vec<String>) {
    let (http, mut written, mut failed) = (http(), 0, Vec::new());
    let held = request(&http, "POST", &(apis[0].clone() + "/acquire"), HOLDER).await.unwrap();
    let renewal = serde_json::json!({ "token": held.json()["status"]["token"] }).to_string();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    for api in apis.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        ticks.tick().await;
        let answer =
            request(&http, "POST", &(api.clone() + "/renew"), renewal.clone()).await.unwrap();
        match answer.status {
            200 => written += 1,
            status => failed.push(format!("{api} {status} {}", answer.text())),
        }
    }
    (written, failed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_seconds_are_renewed_under_load_without_a_failed_request() {
    let (life, run) = certificate_run();
    let mut cluster = Cluster::prepare(3);
    for node in &mut cluster.nodes {
        node.extra = ["--certificate-ttl", &life].map(str::to_owned).to_vec();
    }
    for i in 0..3 {
        cluster.start(i);
    }
    cluster.all_ready().await;
    let follower = cluster.join("n4").await;
    with_hello_on_all(&cluster, "2").await;
    let all = [0, 1, 2, follower];
    let load = Load::on(&cluster, &all);
    let stop = Arc::new(AtomicBool::new(false));
    let lease = |i: &usize| cluster.nodes[*i].api_url("/v1/namespaces/default/leases/load");
    let writer = tokio::spawn(writes(all.iter().map(lease).collect(), Arc::clone(&stop)));
    let term = async || cluster.status(0).await["term"].as_u64().unwrap();
    let (began, term_before) = (Instant::now(), term().await);
    let renewals =
        |i: usize| cluster.nodes[i].log_text().matches("certificate was renewed").count();
    let started: Vec<usize> = all.map(renewals).to_vec();
    tokio::time::sleep(run).await;
    // Long enough that each of the first ones would be out of its time.
    until("every node has renewed its certificate three times", || async {
        let far = all.iter().all(|i| renewals(*i) >= started[*i] + 3);
        far.then_some(())
    })
    .await;
    let lasted = began.elapsed();
    assert!(lasted > humantime::parse_duration(&life).unwrap(), "the first ones are out of time");
    let name = "again";
    let hello = cluster.component(name, &fixtures::hello_p2());
    cluster.nodes[follower].cli_ok(&["deploy", &hello, "--name", name]);
    for i in all {
        let log = cluster.nodes[i].log_text();
        assert!(!log.contains("SW-MESH-EXPIRED"), "{log}");
    }
    stop.store(true, Ordering::Relaxed);
    let (written, failed) = writer.await.unwrap();
    let elections = term().await - term_before;
    println!(
        "{lasted:?} of certificates that live {life}: {:?} renewals, {} answers of 200, \
        {written} writes and {} others, {elections} elections",
        all.map(|i| renewals(i) - started[i]),
        load.good(),
        failed.len(),
    );
    // A machine that is slow enough elects a leader, which may cost a write its answer; a
    // renewal may not.
    assert!(failed.is_empty() || elections > 0, "{failed:#?}");
    assert!(written > 0);
    load.none_failed().await;
}
