//! What nodes can hold, and who gets it when there is not enough.

use swarmer_runtime::fixtures;

use crate::{
    bad_input::refused,
    common::{Cluster, get, until},
    explained::explained,
};

/// The nodes that a function stands on, in the order of their names.
async fn on(cluster: &Cluster, name: &str) -> Vec<String> {
    let path = format!("/v1/namespaces/default/placements/{name}?consistency=linearizable");
    let placement = get(&cluster.http, &cluster.nodes[0].api_url(&path)).await.unwrap().json();
    let nodes = placement["nodes"].as_array().unwrap().iter();
    let mut nodes: Vec<String> = nodes.map(|node| node.as_str().unwrap().to_owned()).collect();
    nodes.sort();
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_is_given_more_than_it_holds_and_the_important_comes_first() {
    let mut cluster = Cluster::prepare(3);
    for node in &mut cluster.nodes {
        node.extra = ["--capacity-memory", "100MiB"].map(str::to_owned).to_vec();
    }
    (0..3).for_each(|i| cluster.start(i));
    cluster.all_ready().await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    let deploy = |name: &str, flags: &[&str]| {
        let common = ["deploy", &hello, "--name", name, "--placement-memory", "60MiB"];
        cluster.nodes[0].cli_ok(&[&common[..], flags].concat());
    };
    // It fills two of three nodes.
    deploy("low", &["--replicas", "2", "--min-available", "1"]);
    let low = on(&cluster, "low").await;
    assert_eq!(low.len(), 2);
    // The third takes one copy; there is no room for the other.
    deploy("plain", &["--replicas", "2"]);
    let told = until("the shortage is told", || async {
        let told = explained(&cluster.nodes[1], "plain");
        (told["conflicts"][0]["code"] == "SW-SCHEDULER-SHORT").then_some(told)
    })
    .await;
    let why = told["conflicts"][0]["text"].as_str().unwrap();
    assert!(why.contains("40MiB of memory left, needs 60MiB"), "{why}");
    assert_eq!(on(&cluster, "low").await, low, "nobody is moved for an equal");
    // The important one takes a copy of each, and leaves the last of each.
    deploy("high", &["--replicas", "2", "--priority", "7"]);
    let high = on(&cluster, "high").await;
    assert_eq!(high.len(), 1, "of the others one copy serves each");
    let (low, plain) = (on(&cluster, "low").await, on(&cluster, "plain").await);
    assert_eq!((low.len(), plain.len()), (1, 1));
    let nodes: std::collections::BTreeSet<&String> =
        low.iter().chain(&plain).chain(&high).collect();
    assert_eq!(nodes.len(), 3, "one on each node: {low:?} {plain:?} {high:?}");
    let told = explained(&cluster.nodes[2], "low");
    let moved = told["moved"]["decisions"].as_array().unwrap();
    let makes_room = "makes room for default/high of priority 7";
    assert!(moved.iter().any(|decision| decision["text"] == makes_room), "{told}");
    // All the time each was served.
    for name in ["low", "plain", "high"] {
        let answer = get(&cluster.http, &cluster.nodes[0].url(&format!("/{name}"))).await.unwrap();
        assert_eq!(answer.status, 200, "{name}");
    }
    let members = get(&cluster.http, &cluster.nodes[0].api_url("/v1/members")).await.unwrap();
    for member in members.json()["items"].as_array().unwrap() {
        assert_eq!(member["capacity"]["memory"], "100MiB", "{member}");
        assert_eq!(member["capacity"]["functions"], 1_000, "{member}");
    }

    let bad = ["deploy", &hello, "--name", "bad", "--replicas", "1", "--min-available", "2"];
    refused(&cluster.nodes[0].cli(&bad), 2, "SW-MODEL-INVALID", &["minAvailable", "replicas"]);
    let bad = ["deploy", &hello, "--name", "bad", "--priority", "-1001"];
    refused(&cluster.nodes[0].cli(&bad), 2, "SW-MODEL-INVALID", &["priority", "-1000 to 1000"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_room_is_not_started_where_it_is_called() {
    let mut cluster = Cluster::prepare(3);
    for node in &mut cluster.nodes {
        let flags = ["--capacity-memory", "100MiB", "--capacity-concurrency", "150"];
        node.extra = flags.map(str::to_owned).to_vec();
    }
    (0..3).for_each(|i| cluster.start(i));
    cluster.all_ready().await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    let command = |name: &'static str, flags: &[&'static str]| {
        [&["deploy", &hello, "--name", name][..], flags].concat()
    };
    let answer = |i: usize, name: &str| {
        let (http, url) = (cluster.http.clone(), cluster.nodes[i].url(&format!("/{name}")));
        async move { get(&http, &url).await.unwrap() }
    };
    // One that makes room for others altogether.
    let low = ["--replicas", "1", "--min-available", "0", "--placement-memory", "60MiB"];
    cluster.nodes[0].cli_ok(&command("low", &low));
    let served = |i: usize, name: &'static str| {
        until(
            "it is served",
            move || async move { (answer(i, name).await.status == 200).then_some(()) },
        )
    };
    for i in 0..3 {
        served(i, "low").await;
    }
    // With 60 of 100 MiB and 100 of 150 requests of each node taken nothing of that size fits.
    let all = ["--replicas", "3", "--placement-memory", "60MiB", "--priority", "5"];
    cluster.nodes[0].cli_ok(&command("all", &all));
    let refused = |name: &'static str| {
        until("it is refused everywhere", move || async move {
            for i in 0..3 {
                let answer = answer(i, name).await;
                let code = answer.headers.get("x-swarmer-error").map(|code| code.to_str().unwrap());
                if (answer.status, code) != (503, Some("SW-NODE-NO-ROOM")) {
                    return None;
                }
            }
            Some(())
        })
    };
    refused("low").await;
    let large = ["--replicas", "1", "--placement-memory", "50MiB", "--concurrency", "1"];
    let ran = cluster.nodes[0].cli(&command("large", &large));
    assert!(!ran.status.success(), "{ran:?}");
    refused("large").await;
    let ran = cluster.nodes[0].cli(&command("busy", &["--replicas", "1", "--concurrency", "60"]));
    assert!(!ran.status.success(), "{ran:?}");
    refused("busy").await;
    let told = explained(&cluster.nodes[1], "busy").to_string();
    assert!(told.contains("50 requests at once left, needs 60"), "{told}");
    // What fits is placed, and of copies that are wanted and do not stand there is a note.
    let ran = cluster.nodes[0].cli(&command("small", &["--replicas", "4", "--concurrency", "10"]));
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(
        ran.status.success() && told.contains("note: default/small: 3 of 4 copies placed"),
        "{told}"
    );
    for (what, name) in [("delete", "all"), ("delete", "small")] {
        cluster.nodes[0].cli_ok(&[what, "function", name]);
    }
    for name in ["low", "large", "busy"] {
        served(2, name).await;
    }
}
