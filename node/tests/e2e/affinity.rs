//! Functions that are placed near others, or apart from them, and circles that are refused.

use serde_json::{Value, json};
use swarmer_runtime::fixtures;

use crate::{
    bad_input::{problem, refused},
    common::{Answer, Cluster, get, request},
};

fn path(name: &str) -> String {
    format!("/v1/namespaces/default/functions/{name}")
}

/// The node that a function of one copy stands on.
async fn on(cluster: &Cluster, name: &str) -> String {
    let path = format!("/v1/namespaces/default/placements/{name}?consistency=linearizable");
    let placement = get(&cluster.http, &cluster.nodes[0].api_url(&path)).await.unwrap().json();
    let nodes = placement["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 1, "{placement}");
    nodes[0].as_str().unwrap().to_owned()
}

async fn put(cluster: &Cluster, node: usize, function: &Value) -> Answer {
    let url = cluster.nodes[node].api_url(&path(function["metadata"]["name"].as_str().unwrap()));
    request(&cluster.http, "PUT", &url, function.to_string()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_stand_near_others_or_apart_and_circles_are_refused() {
    let cluster = Cluster::found(3).await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    let deploy = |name: &str, flags: &[&str]| {
        let common = ["deploy", &hello, "--name", name, "--replicas", "1"];
        cluster.nodes[0].cli(&[&common[..], flags].concat())
    };
    let deployed = |name: &str, flags: &[&str]| {
        let output = deploy(name, flags);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    deployed("db", &[]);
    let db = on(&cluster, "db").await;
    // Each would go to a node with less to do.
    for name in ["api", "web", "job"] {
        let said = deployed(name, &["--near", "db"]);
        assert!(!said.contains("note:"), "{said}");
        assert_eq!(on(&cluster, name).await, db, "{name}");
    }
    deployed("log", &["--apart", "db", "--apart", "api"]);
    assert_ne!(on(&cluster, "log").await, db);
    let told = cluster.nodes[1].cli_ok(&["explain", "placement", "api"]);
    assert!(
        told.contains("fits, near default/db (on this node), apart from default/log"),
        "{told}"
    );
    assert!(told.contains("fits, not needed, near default/db (in this zone)"), "{told}");
    assert!(told.contains("copy 1 of 1"), "{told}");

    // What is not there is noted.
    let said = deployed("lone", &["--near", "dbb"]);
    let note = "note: there is no function default/dbb to be near to; nearest: db";
    assert!(said.contains(note), "{said}");
    let own = ["default/db", "spec.placement.near"];
    refused(&deploy("db", &["--near", "db"]), 2, "SW-MODEL-INVALID", &own[1..]);

    // A circle is refused, by all ways in.
    let circle = "db → api → db: each is to be near to the next";
    let output = deploy("db", &["--near", "api"]);
    refused(&output, 2, "SW-API-NEAR-CIRCLE", &[circle, own[0]]);
    let url = cluster.nodes[2].api_url(&path("db"));
    let mut function = get(&cluster.http, &url).await.unwrap().json();
    function["spec"]["placement"]["near"] = json!(["web"]);
    let circle = ["db → web → db"];
    problem(&put(&cluster, 2, &function).await, 422, "SW-API-NEAR-CIRCLE", &circle);
    let named = |name: &str, near: &str| {
        let (mut function, route) = (function.clone(), format!("/{name}"));
        function["metadata"] = json!({ "name": name, "namespace": "default" });
        function["spec"]["routes"] = json!([{ "path": route }]);
        function["spec"]["placement"]["near"] = json!([near]);
        function
    };
    let url = cluster.nodes[1].api_url("/v1/namespaces/default/transactions");
    let changes = json!([{ "put": named("x", "y") }, { "put": named("y", "x") }]);
    let body = json!({ "changes": changes }).to_string();
    let answer = request(&cluster.http, "POST", &url, body).await.unwrap();
    problem(&answer, 422, "SW-API-NEAR-CIRCLE", &["x → y → x"]);
    let url = cluster.nodes[1].api_url(&path("x"));
    assert_eq!(get(&cluster.http, &url).await.unwrap().status, 404);

    // Of two that would close it together, at two nodes at once, one is refused.
    for round in 0..20 {
        let (p, q) = (format!("p{round}"), format!("q{round}"));
        let (first, second) = (named(&p, &q), named(&q, &p));
        let answers = tokio::join!(put(&cluster, 0, &first), put(&cluster, 1, &second));
        let answers = [answers.0, answers.1];
        let done = answers.iter().filter(|answer| answer.status == 201).count();
        assert_eq!(done, 1, "{} {}", answers[0].text(), answers[1].text());
        let other = answers.iter().find(|answer| answer.status != 201).unwrap();
        problem(other, 422, "SW-API-NEAR-CIRCLE", &[&*p, &*q]);
    }
}
