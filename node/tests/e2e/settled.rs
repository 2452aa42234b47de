//! What `deploy` says when it is done, and where a function goes that does not come up on a node.

use std::{
    process::Child,
    time::{Duration, Instant},
};

use swarmer_runtime::fixtures;

use crate::{
    bad_input::refused,
    common::{Cluster, Node, binary, get, until},
};

fn deploying(cluster: &Cluster, node: usize, arguments: &[&str]) -> Child {
    std::process::Command::new(binary())
        .env_remove("SWARMER_LOG")
        .args(["--addr", &format!("http://{}", cluster.nodes[node].api), "deploy"])
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

/// Where a function serves, by the word of one node; empty until the newest version does.
async fn serving_on(cluster: &Cluster, node: usize, name: &str) -> Vec<String> {
    let url = cluster.nodes[node].api_url(&format!("/v1/namespaces/default/functions/{name}"));
    let Ok(answer) = get(&cluster.http, &url).await else { return Vec::new() };
    let live = answer.json()["live"].clone();
    let nodes = live["nodes"].as_array().cloned().unwrap_or_default();
    let nodes: Vec<String> = nodes.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect();
    let all = live["upToDate"] == true && live["ready"].as_u64() == Some(nodes.len() as u64);
    if all { nodes } else { Vec::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_is_done_when_every_living_node_knows_the_route() {
    let mut cluster = Cluster::found(3).await;
    let fourth = cluster.join("n4").await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    // Compiled and copied before it counts.
    cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", "first"]);
    for round in 0..8 {
        let name = format!("hello{round}");
        cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", &name]);
        for node in &cluster.nodes {
            let answer = get(&cluster.http, &node.url(&format!("/{name}"))).await.unwrap();
            assert_eq!(answer.status, 200, "{name} on {}: {}", node.name, answer.text());
        }
    }
    // One that hangs holds it up for a while only, and is named, unless it is dead by then.
    cluster.nodes[fourth].signal("-STOP");
    let start = Instant::now();
    let output = cluster.nodes[0].cli(&["deploy", &hello, "--name", "late"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let members = get(&cluster.http, &cluster.nodes[0].api_url("/v1/members")).await.unwrap();
    let dead = members.json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .any(|member| member["name"] == "n4" && member["state"] != "alive");
    assert!(dead || text.contains("n4 has not seen that yet"), "{text}");
    cluster.nodes[fourth].signal("-CONT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_goes_elsewhere_when_a_node_cannot_keep_it_and_says_why() {
    let mut cluster = Cluster::found(3).await;
    let fourth = cluster.join("n4").await;
    // Its artifacts can no longer be written, as on a full disk.
    let artifacts = cluster.nodes[fourth].dir.join("artifacts");
    std::fs::remove_dir_all(&artifacts).unwrap();
    std::fs::write(&artifacts, b"").unwrap();
    let hello = cluster.component("hello", &fixtures::hello_p2());
    let names = ["a", "b", "c", "d"];
    // Three of four nodes each: one of these is placed on the fourth first, but for one in 256.
    let deployed: Vec<Child> = names
        .iter()
        .map(|name| deploying(&cluster, 0, &[&hello, "--name", name, "--replicas", "3"]))
        .collect();
    for child in deployed {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for name in names {
        until("it serves on the three others", || async {
            let on = serving_on(&cluster, 0, name).await;
            (on.len() == 3 && !on.contains(&"n4".to_owned())).then_some(())
        })
        .await;
    }
    let told = cluster.nodes[0].cli_ok(&["-o", "json", "get", "placements"]);
    let moved = told.contains("in place of n4 (does not come up there: SW-NODE-STORAGE");
    let avoided = !cluster.nodes[fourth].log_text().contains("a function does not load");
    assert!(moved || avoided, "{told}\n{}", cluster.nodes[fourth].log_text());
}

fn signal(child: &Child, name: &str) {
    let status = std::process::Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// What a look at a function may take while a node that it asks hangs.
const LOOK: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_that_another_overtakes_says_so_and_a_node_that_hangs_holds_up_no_look() {
    let cluster = Cluster::found(3).await;
    let token = cluster.join_token(&["--label", "role=only"]);
    let mut only = Node::new(cluster.base.path(), "only");
    only.start(&cluster.seeds, Some(&token), 1);
    only.ready(&cluster.http).await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", "f"]);
    // Version 2 is accepted, and does not come up.
    only.signal("-STOP");
    let slow = ["--env", "GREETING=one", "--label", "role=only", "--replicas", "1"];
    let loser = deploying(&cluster, 0, &[&[&*hello, "--name", "f"], &slow[..]].concat());
    let url = cluster.nodes[1].api_url("/v1/namespaces/default/functions/f");
    until("the function is placed on the node that hangs, which says nothing", || async {
        let start = Instant::now();
        let live = get(&cluster.http, &url).await.ok()?.json()["live"].clone();
        assert!(start.elapsed() < LOOK, "{:?}: {live}", start.elapsed());
        (live["target"] == 2 && live["silent"] == serde_json::json!(["only"])).then_some(())
    })
    .await;
    signal(&loser, "-STOP");
    let winner = ["deploy", &hello, "--name", "f", "--env", "GREETING=two", "--no-wait"];
    cluster.nodes[1].cli_ok(&winner);
    signal(&loser, "-CONT");
    let output = loser.wait_with_output().unwrap();
    refused(&output, 4, "SW-ROLLOUT-OVERTAKEN", &["revision", "version 2", "version 3"]);
}
