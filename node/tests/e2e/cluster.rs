//! Founding, joining, restarting: nodes as their operators start them.

use crate::common::{Cluster, Node, get, until};
use std::path::Path;

use serde_json::Value;
use swarmer_runtime::fixtures;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_found_one_cluster_serve_a_function_and_take_a_fourth() {
    let mut cluster = Cluster::prepare(3);
    // The last one first, and the first one late.
    cluster.start(2);
    cluster.start(1);
    until("two founders wait for the third", || async {
        let url = cluster.nodes[2].api_url("/readyz");
        let answer = get(&cluster.http, &url).await.ok()?;
        (answer.status == 503 && answer.text().contains("founder")).then_some(())
    })
    .await;
    cluster.start(0);
    cluster.all_ready().await;
    let ids: Vec<Value> = futures::future::join_all((0..3).map(|i| cluster.status(i)))
        .await
        .into_iter()
        .map(|status| status["cluster"].clone())
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0] && id.is_string()), "{ids:?}");

    let hello = cluster.component("hello", &fixtures::hello_p2());
    cluster.nodes[1].cli_ok(&["deploy", &hello, "--name", "hello"]);
    cluster.serves(&[0, 1, 2], "/hello").await;

    // A fourth one joins and takes traffic.
    let fourth = cluster.join("n4").await;
    cluster.serves(&[fourth], "/hello").await;
    until("all four are seen alive everywhere", || async {
        for node in &cluster.nodes {
            let answer = get(&cluster.http, &node.api_url("/v1/members")).await.ok()?.json();
            let items = answer["items"].as_array()?.clone();
            let alive = items.iter().filter(|member| member["state"] == "alive").count();
            if alive != 4 {
                return None;
            }
        }
        Some(())
    })
    .await;

    // Restarted with its directory it is the same member, and its old token is of no use to
    // another one.
    let before = member_id(&cluster, "n4").await;
    cluster.nodes[fourth].kill();
    let seeds = cluster.seeds.clone();
    cluster.nodes[fourth].start(&seeds, None, 1);
    let http = cluster.http.clone();
    cluster.nodes[fourth].ready(&http).await;
    assert_eq!(member_id(&cluster, "n4").await, before);
    cluster.serves(&[fourth], "/hello").await;
}

async fn member_id(cluster: &Cluster, name: &str) -> Value {
    let url = cluster.nodes[0].api_url("/v1/members");
    let members = get(&cluster.http, &url).await.unwrap().json();
    let items = members["items"].as_array().unwrap();
    items.iter().find(|member| member["name"] == name).unwrap()["id"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_admit_once_and_strangers_get_nothing() {
    let mut cluster = Cluster::found(1).await;
    let token = cluster.join_token(&[]);
    let mut first = Node::new(cluster.base.path(), "first");
    first.start(&cluster.seeds, Some(&token), 1);
    let http = cluster.http.clone();
    first.ready(&http).await;

    // Used, wrong, expired, of another cluster, none at all: refused with a reason on both sides.
    let wrong = cluster.base.path().join("wrong.token");
    let good = std::fs::read_to_string(cluster.join_token(&[])).unwrap();
    let flipped: String = {
        let (head, secret) = good.trim().rsplit_once('.').unwrap();
        let other = if secret.starts_with('A') { 'B' } else { 'A' };
        format!("{head}.{other}{}", &secret[1..])
    };
    std::fs::write(&wrong, flipped).unwrap();
    // The right authority and secret, for a cluster of another id.
    let elsewhere = cluster.base.path().join("elsewhere.token");
    let status = get(&cluster.http, &cluster.nodes[0].api_url("/v1/status")).await.unwrap();
    let id = status.json()["cluster"].as_str().unwrap().to_owned();
    let other = good.replace(&id, &id.chars().rev().collect::<String>());
    assert_ne!(other, good);
    std::fs::write(&elsewhere, other).unwrap();
    let expired = cluster.join_token(&["--ttl", "1ms"]);
    for (name, token, why) in [
        ("used", Some(token.clone()), "used"),
        ("wrong", Some(wrong), "no such token"),
        ("expired", Some(expired), "expired"),
        ("elsewhere", Some(elsewhere), "the token is for cluster"),
        ("none", None, "SW-NODE-NO-TOKEN"),
    ] {
        let mut stranger = Node::new(cluster.base.path(), name);
        stranger.start(&cluster.seeds, token.as_deref(), 1);
        let status = stranger.wait();
        assert!(!status.success(), "{name}");
        let log = stranger.log_text();
        assert!(log.contains(why), "{name}: {log}");
        if name != "none" {
            assert!(
                cluster.nodes[0].log_text().contains(&format!("name={name:?} (node")),
                "{name}"
            );
        }
    }
    let members = get(&cluster.http, &cluster.nodes[0].api_url("/v1/members")).await.unwrap();
    assert_eq!(members.json()["items"].as_array().unwrap().len(), 2, "{}", members.text());
    cluster.nodes[0].kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stands_where_its_token_says_and_not_where_it_claims() {
    let mut cluster = Cluster::prepare(1);
    let flags = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    // A founder holds the founding secret: it says where it stands.
    cluster.nodes[0].extra = flags("--region us-1 --zone z9 --label disk=nvme");
    cluster.start(0);
    cluster.all_ready().await;
    let http = cluster.http.clone();
    let place = async |name: &str| {
        let url = cluster.nodes[0].api_url(&format!("/v1/nodes/{name}"));
        let spec = get(&http, &url).await.unwrap().json()["spec"].clone();
        (spec["region"].clone(), spec["zone"].clone(), spec["labels"].clone())
    };
    let founder = ("us-1".into(), "z9".into(), serde_json::json!({ "disk": "nvme" }));
    assert_eq!(place("n1").await, founder);

    let flagged = cluster
        .join_token(&["--region", "eu-1", "--zone", "z1", "--label", "disk=ssd", "--uses", "2"]);
    let plain = cluster.join_token(&[]);
    let refused = |name: &str, token: &Path, claim: &str, words: &[&str]| {
        let mut node = Node::new(cluster.base.path(), name);
        node.extra = flags(claim);
        node.start(&cluster.seeds, Some(token), 1);
        assert_eq!(node.wait().code(), Some(5), "{}", node.log_text());
        let (own, member) = (node.log_text(), cluster.nodes[0].log_text());
        for word in [&["SW-NODE-CLAIM", "swarmer token create"], words].concat() {
            assert!(own.contains(word), "{name}: {word} is not in: {own}");
            assert!(member.contains(word), "{name}: {word} is not in the member's log: {member}");
        }
    };
    refused("region", &flagged, "--region eu-2", &["claims region eu-2", "admits region eu-1"]);
    refused("zone", &flagged, "--region eu-1 --zone z2", &["claims zone z2"]);
    refused("label", &flagged, "--label disk=ssd --label gpu=yes", &["claims label gpu=yes"]);
    refused("default", &flagged, "--region local", &["claims region local"]);
    refused("plain", &plain, "--region eu-1", &["admits no region, zone or label"]);

    // No use was taken for these. One claims nothing, one repeats what its token says.
    let given = ("eu-1".into(), "z1".into(), serde_json::json!({ "disk": "ssd" }));
    let mut silent = Node::new(cluster.base.path(), "silent");
    silent.start(&cluster.seeds, Some(&flagged), 1);
    silent.ready(&http).await;
    assert_eq!(place("silent").await, given);
    let mut honest = Node::new(cluster.base.path(), "honest");
    honest.extra = flags("--region eu-1 --zone z1");
    honest.start(&cluster.seeds, Some(&flagged), 1);
    honest.ready(&http).await;
    assert_eq!(place("honest").await, given);
    assert!(!honest.log_text().contains("committed when it was admitted holds"));

    // Told something else later on, it says so, and stands where it stood.
    honest.kill();
    honest.extra = flags("--region us-1 --label gpu=yes");
    honest.start(&cluster.seeds, None, 1);
    honest.ready(&http).await;
    until("the node says that the committed place holds", || async {
        let log = honest.log_text();
        let told = log.contains("committed when it was admitted holds");
        (told && log.contains("region us-1, label gpu=yes")).then_some(())
    })
    .await;
    assert_eq!(place("honest").await, given);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_cluster_comes_back_after_a_kill_and_after_a_stop() {
    let mut cluster = Cluster::found(3).await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", "hello"]);
    for stop in [false, true] {
        for node in &mut cluster.nodes {
            if stop {
                assert!(node.stop().unwrap().success(), "{}", node.log_text());
            } else {
                node.kill();
            }
        }
        for i in 0..3 {
            cluster.start(i);
        }
        cluster.all_ready().await;
        cluster.serves(&[0, 1, 2], "/hello").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_finds_nothing_in_a_healthy_cluster_and_names_what_is_broken() {
    let mut cluster = Cluster::found(3).await;
    let node = &cluster.nodes[0];
    let healthy: Value = until("everybody sees everybody", || async {
        let output = node.cli(&["-o", "json", "doctor"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    })
    .await;
    let items = healthy["items"].as_array().unwrap();
    for check in ["reachable", "clock", "certificate", "data directory", "seeds", "view"] {
        let of = items.iter().filter(|item| item["check"] == check);
        assert_eq!(of.count(), 3, "{check}: {healthy}");
    }
    assert_eq!(healthy["healthy"], true, "{healthy}");
    cluster.nodes[2].kill();
    let node = &cluster.nodes[0];
    let output = node.cli(&["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let address = cluster.nodes[2].listen.to_string();
    for word in ["fail  reachable of n3", &address, "of the voters n3 cannot be reached"] {
        assert!(text.contains(word), "{word} is not in: {text}");
    }
    assert!(String::from_utf8_lossy(&output.stderr).contains("SW-CLI-UNHEALTHY"));
}
