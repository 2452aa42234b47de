//! Leases: one holder at a time, higher tokens each time, ends that the leader decides.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    bad_input::problem,
    common::{Answer, Cluster, get, request_with, until},
};

fn path(name: &str, verb: &str) -> String {
    format!("/v1/namespaces/default/leases/{name}{verb}")
}

/// Posts to a lease at a node; with a key, as a client that may send it again.
async fn post(
    cluster: &Cluster,
    node: usize,
    (name, verb): (&str, &str),
    key: Option<&str>,
    body: Value,
) -> Answer {
    let url = cluster.nodes[node].api_url(&path(name, verb));
    let key: Vec<(&str, &str)> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
    request_with(&cluster.http, "POST", &url, &key, body.to_string()).await.unwrap()
}

async fn acquire(cluster: &Cluster, node: usize, name: &str, holder: &str, ttl: &str) -> u64 {
    let wanted = json!({ "holder": holder, "ttl": ttl });
    let answer = post(cluster, node, (name, "/acquire"), None, wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["status"]["token"].as_u64().unwrap()
}

async fn holder(cluster: &Cluster, node: usize, name: &str) -> Option<String> {
    let url = cluster.nodes[node].api_url(&path(name, "?consistency=linearizable"));
    let answer = get(&cluster.http, &url).await.ok()?;
    match answer.status {
        200 => Some(answer.json()["spec"]["holder"].as_str().unwrap().to_owned()),
        404 => Some(String::new()),
        _ => None,
    }
}

/// Waits until nobody holds it.
async fn until_free(cluster: &Cluster, node: usize, name: &str) {
    until(&format!("{name} is free"), || async {
        holder(cluster, node, name).await.filter(String::is_empty)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_has_one_holder_and_each_has_a_higher_token() {
    let cluster = Cluster::found(3).await;
    let token = acquire(&cluster, 0, "boss", "a", "1h").await;
    let wanted = json!({ "holder": "b", "ttl": "1h" });
    let refused = post(&cluster, 1, ("boss", "/acquire"), None, wanted.clone()).await;
    problem(&refused, 409, "SW-LEASE-HELD", &["\"a\"", &token.to_string()]);
    assert_eq!(refused.header("retry-after"), "1");
    // Its own holder has it already too: two processes of one name are two holders.
    let again = json!({ "holder": "a", "ttl": "1h" });
    problem(&post(&cluster, 2, ("boss", "/acquire"), None, again).await, 409, "SW-LEASE-HELD", &[]);

    let renewal = json!({ "token": token, "annotations": { "at": "here" } });
    let renewed = post(&cluster, 2, ("boss", "/renew"), None, renewal).await;
    assert_eq!(renewed.status, 200, "{}", renewed.text());
    let renewed = renewed.json();
    assert_eq!(renewed["status"]["token"], token, "the same until it ends");
    assert_eq!(renewed["metadata"]["annotations"]["at"], "here");
    assert!(renewed["metadata"]["revision"].as_u64().unwrap() > token);
    for (verb, body) in [("/renew", json!({ "token": 1 })), ("/release", json!({ "token": 1 }))] {
        let refused = post(&cluster, 1, ("boss", verb), None, body).await;
        problem(&refused, 409, "SW-LEASE-LOST", &["\"a\" holds it now"]);
    }
    let bad = json!({ "holder": "", "ttl": "1s" });
    let refused = post(&cluster, 1, ("other", "/acquire"), None, bad).await;
    assert_eq!(refused.json()["violations"].as_array().unwrap().len(), 2, "{}", refused.text());

    let released = post(&cluster, 1, ("boss", "/release"), None, json!({ "token": token })).await;
    assert_eq!(released.status, 200, "{}", released.text());
    let next = acquire(&cluster, 2, "boss", "b", "1h").await;
    assert!(next > token, "{next} after {token}");
    let late = post(&cluster, 0, ("boss", "/renew"), None, json!({ "token": token })).await;
    problem(&late, 409, "SW-LEASE-LOST", &["\"b\" holds it now"]);

    // The same by the command line.
    let node = &cluster.nodes[1];
    let cli = node.cli_ok(&["lease", "acquire", "job", "--holder", "c", "--annotation", "k=v"]);
    let token = cli.trim().to_owned();
    assert!(node.cli_ok(&["lease", "list"]).contains(&token));
    let held = node.cli(&["lease", "acquire", "job", "--holder", "d"]);
    assert_eq!(held.status.code(), Some(4), "a conflict");
    let renewed = node.cli_ok(&["lease", "renew", "job", "--lease-token", &token, "--ttl", "1m"]);
    assert_eq!(renewed.trim(), token);
    node.cli_ok(&["lease", "release", "job", "--lease-token", &token]);
    let lost = node.cli(&["lease", "renew", "job", "--lease-token", &token]);
    assert_eq!(lost.status.code(), Some(4), "lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_renewed_ends_and_what_is_stays() {
    let cluster = Cluster::found(3).await;
    let start = Instant::now();
    acquire(&cluster, 0, "left", "a", "2s").await;
    let kept = acquire(&cluster, 1, "kept", "b", "5s").await;
    // Twice its own life.
    while start.elapsed() < Duration::from_secs(10) {
        let renewed = post(&cluster, 2, ("kept", "/renew"), None, json!({ "token": kept })).await;
        assert_eq!(renewed.status, 200, "{}", renewed.text());
        let left = holder(&cluster, 0, "left").await;
        let early = start.elapsed() < Duration::from_secs(2);
        assert!(!early || left.is_none_or(|left| left == "a"), "ended too early");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until_free(&cluster, 0, "left").await;
    assert_eq!(holder(&cluster, 0, "kept").await.unwrap(), "b");
    assert!(acquire(&cluster, 0, "left", "c", "2s").await > kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_grants_the_whole_time_anew() {
    const TTL: Duration = Duration::from_secs(4);
    let mut cluster = Cluster::found(3).await;
    let leader = cluster.leader(0).await;
    let other = (leader + 1) % 3;
    let start = Instant::now();
    acquire(&cluster, other, "boss", "a", "4s").await;
    // Most of its time passes under the first leader.
    while start.elapsed() < TTL - Duration::from_millis(1500) {
        assert!(holder(&cluster, other, "boss").await.is_none_or(|holder| holder == "a"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.nodes[leader].kill();
    let killed = Instant::now();
    until_free(&cluster, other, "boss").await;
    let lived = killed.elapsed();
    assert!(lived >= TTL, "ended {lived:?} after its leader died");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acquisition_sent_again_is_answered_as_it_was() {
    let cluster = Cluster::found(3).await;
    let wanted = json!({ "holder": "a", "ttl": "1h" });
    let boss = |verb| ("boss", verb);
    let first = post(&cluster, 0, boss("/acquire"), Some("k1"), wanted.clone()).await;
    let again = post(&cluster, 1, boss("/acquire"), Some("k1"), wanted.clone()).await;
    assert_eq!((first.status, again.status), (201, 201), "{}", again.text());
    let token = first.json()["status"]["token"].clone();
    assert_eq!(again.json()["status"]["token"], token);
    let other = post(&cluster, 1, boss("/acquire"), Some("k2"), wanted.clone()).await;
    problem(&other, 409, "SW-LEASE-HELD", &[]);
    for node in [2, 0] {
        let renewal = json!({ "token": token });
        let renewed = post(&cluster, node, boss("/renew"), Some("k3"), renewal).await;
        assert_eq!(renewed.status, 200, "{}", renewed.text());
    }
    for node in [2, 0] {
        let release = json!({ "token": token });
        let released = post(&cluster, node, boss("/release"), Some("k4"), release).await;
        assert_eq!(released.status, 200, "{}", released.text());
    }
    // What it made it the holder of is over: it is no acquisition any more.
    let late = post(&cluster, 0, boss("/acquire"), Some("k1"), wanted).await;
    problem(&late, 409, "SW-LEASE-LOST", &["nobody holds it now"]);
    assert!(acquire(&cluster, 0, "boss", "b", "1h").await > token.as_u64().unwrap());
}
