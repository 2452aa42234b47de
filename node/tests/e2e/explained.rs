//! Why a function stands where it stands, and that the decision comes out again from its record.

use serde_json::Value;
use swarmer_runtime::fixtures;

use crate::{
    bad_input::refused,
    common::{Cluster, Node, binary, get, until},
};

/// The explanation of a function's placement, as JSON.
pub(crate) fn explained(node: &Node, name: &str) -> Value {
    let told = node.cli_ok(&["-o", "json", "explain", "placement", name]);
    serde_json::from_str(&told).unwrap()
}

/// Verdict and reason of a function on a node.
fn on<'a>(told: &'a Value, node: &str) -> (&'a str, &'a str) {
    let nodes = told["nodes"].as_array().unwrap();
    let found = nodes.iter().find(|decision| decision["node"] == node);
    let found = found.unwrap_or_else(|| panic!("nothing is said of {node}: {told}"));
    (found["verdict"].as_str().unwrap(), found["text"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_has_its_reason_and_a_recorded_decision_comes_out_again() {
    let cluster = Cluster::found(3).await;
    let token = cluster.join_token(&["--label", "role=only"]);
    let mut only = Node::new(cluster.base.path(), "only");
    only.start(&cluster.seeds, Some(&token), 1);
    only.ready(&cluster.http).await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    let on_one = ["--label", "role=only", "--replicas", "1"];
    only.cli_ok(&[&["deploy", &hello, "--name", "f"], &on_one[..]].concat());

    // Any node tells it, with a reason for each.
    for node in cluster.nodes.iter().chain([&only]) {
        let told = explained(node, "f");
        assert_eq!(told["wanted"], 1);
        assert_eq!(told["conflicts"], serde_json::json!([]));
        assert_eq!(on(&told, "only"), ("kept", "fits"));
        for other in ["n1", "n2", "n3"] {
            assert_eq!(on(&told, other), ("refused", "no label role=only"));
        }
        let moved = &told["moved"]["decisions"][0];
        assert_eq!((&moved["node"], &moved["verdict"]), (&"only".into(), &"placed".into()));
    }
    let table = only.cli_ok(&["explain", "placement", "f"]);
    assert!(table.contains("on 1 of 4 nodes, 1 wanted"), "{table}");
    assert!(table.contains("no label role=only"), "{table}");
    assert!(table.contains("last moved at"), "{table}");

    // What it was decided from, and that the same comes of it.
    let record = only.cli_ok(&["explain", "placement", "f", "--record"]);
    let file = cluster.base.path().join("decision.json");
    let replay = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = std::process::Command::new(binary());
        command.env_remove("SWARMER_LOG").args(["explain", "replay"]).arg(&file).output().unwrap()
    };
    let output = replay(&record);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        text.contains("the same comes of it again: 1 command, for 1 function on 4 nodes"),
        "{text}"
    );
    assert!(text.contains("add default/f on only"), "{text}");
    let mut other: Value = serde_json::from_str(&record).unwrap();
    other["record"]["desired"]["functions"][0]["labels"]["role"] = "none".into();
    refused(
        &replay(&other.to_string()),
        4,
        "SW-SCHEDULER-REPLAY",
        &["the record has the command", "comes out"],
    );
    refused(&replay("{}"), 2, "SW-CLI-USAGE", &["not a recorded decision", "record"]);

    // What cannot be had is named, and what was never there.
    let nowhere = ["--label", "role=onyl", "--replicas", "1"];
    only.cli_ok(&[&["deploy", &hello, "--name", "g", "--no-wait"], &nowhere[..]].concat());
    let told = until("the planner has looked at it", || async {
        let path = "/v1/namespaces/default/placements/g/explanation";
        let answer = get(&cluster.http, &only.api_url(path)).await.ok()?;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    assert_eq!(told["conflicts"][0]["code"], "SW-SCHEDULER-SHORT");
    let why = told["conflicts"][0]["text"].as_str().unwrap();
    assert!(why.contains("nearest: role=only"), "{why}");
    let output = only.cli(&["explain", "placement", "none"]);
    refused(&output, 3, "SW-API-NOT-FOUND", &["none"]);
}
