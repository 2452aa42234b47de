//! Changes of several resources at once, and changes made at a node that knows an older state.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    bad_input::problem,
    common::{Answer, Cluster, get, request},
};
use swarmer_runtime::fixtures;

const TRANSACTIONS: &str = "/v1/namespaces/default/transactions";

fn path(name: &str) -> String {
    format!("/v1/namespaces/default/functions/{name}")
}

async fn function(cluster: &Cluster, node: usize, name: &str) -> Value {
    let url = cluster.nodes[node].api_url(&format!("{}?consistency=linearizable", path(name)));
    get(&cluster.http, &url).await.unwrap().json()
}

async fn transact(cluster: &Cluster, node: usize, changes: Value) -> Answer {
    let url = cluster.nodes[node].api_url(TRANSACTIONS);
    let body = json!({ "changes": changes }).to_string();
    request(&cluster.http, "POST", &url, body).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_functions_change_together_or_not_at_all() {
    let cluster = Cluster::found(3).await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    for name in ["a", "b"] {
        cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", name]);
    }
    let (a, b) = (function(&cluster, 1, "a").await, function(&cluster, 1, "b").await);
    let noted = |function: &Value, note: &str| {
        let mut function = function.clone();
        function["metadata"]["annotations"] = json!({ "note": note });
        function
    };
    let changes = json!([{ "put": noted(&a, "1") }, { "put": noted(&b, "1") }]);
    let done = transact(&cluster, 1, changes.clone()).await;
    assert_eq!(done.status, 200, "{}", done.text());
    let revision = done.json()["revision"].as_u64().unwrap();
    for (node, name, before) in [(0, "a", &a), (2, "b", &b)] {
        let now = function(&cluster, node, name).await;
        assert_eq!(now["metadata"]["annotations"]["note"], "1");
        assert_eq!(now["metadata"]["revision"], revision, "one change, one revision");
        assert_eq!(now["status"]["versions"], before["status"]["versions"], "no new version");
    }
    // The same again: `a` is not any more as it was seen, so nothing happens to `b` either.
    let b = function(&cluster, 0, "b").await;
    let again = json!([{ "put": noted(&b, "2") }, { "put": noted(&a, "2") }]);
    problem(&transact(&cluster, 2, again).await, 409, "SW-API-CONFLICT", &["default/a"]);
    let check = json!([
        { "put": noted(&b, "3") },
        { "check": { "name": "a", "revision": revision - 1 } },
    ]);
    problem(&transact(&cluster, 0, check).await, 409, "SW-API-CONFLICT", &["default/a"]);
    assert_eq!(function(&cluster, 1, "b").await["metadata"]["annotations"]["note"], "1");
    // A route goes from one to the other without a moment in between.
    let (mut a, mut b) = (function(&cluster, 0, "a").await, b);
    a["spec"]["routes"] = json!([{ "path": "/elsewhere" }]);
    b["spec"]["routes"] = json!([{ "path": "/a" }, { "path": "/b" }]);
    let done = transact(&cluster, 0, json!([{ "put": b }, { "put": a }])).await;
    assert_eq!(done.status, 200, "{}", done.text());
    for route in ["/a", "/b", "/elsewhere"] {
        cluster.serves(&[0, 1, 2], route).await;
    }
    let gone = json!([{ "delete": { "name": "a" } }, { "delete": { "name": "nobody" } }]);
    problem(&transact(&cluster, 0, gone).await, 404, "SW-API-NOT-FOUND", &["default/nobody"]);
    let gone = json!([{ "delete": { "name": "a" } }, { "delete": { "name": "b" } }]);
    assert_eq!(transact(&cluster, 0, gone).await.status, 200);
    let all = cluster.nodes[0].api_url("/v1/namespaces/default/functions");
    assert_eq!(get(&cluster.http, &all).await.unwrap().json()["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_neither_refuses_nor_skips_by_what_it_knew() {
    let cluster = Cluster::found(3).await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", "a"]);
    let away = (cluster.leader(0).await + 1) % 3;
    let other = (away + 1) % 3;
    let wanted = async |note: &str| {
        let mut wanted = function(&cluster, other, "a").await;
        wanted["metadata"]["annotations"] = json!({ "note": note });
        wanted["metadata"].as_object_mut().unwrap().remove("revision");
        wanted.to_string()
    };
    let (old, new) = (wanted("old").await, wanted("new").await);
    let put = async |node: usize, body: &str| {
        let url = cluster.nodes[node].api_url(&path("a"));
        let answer = request(&cluster.http, "PUT", &url, body.to_owned()).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    for _ in 0..10 {
        put(away, &old).await;
        cluster.nodes[away].signal("-STOP");
        put(other, &new).await;
        // It lies in the node's socket when the node comes back: for all that the node knows then,
        // nothing has to be done.
        let address = cluster.nodes[away].api_url("").replace("http://", "");
        let mut client = TcpStream::connect(&address).await.unwrap();
        let head = format!("PUT {} HTTP/1.1\r\nhost: {address}\r\nconnection: close", path("a"));
        let head = format!("{head}\r\ncontent-length: {}\r\n\r\n{old}", old.len());
        client.write_all(head.as_bytes()).await.unwrap();
        cluster.nodes[away].signal("-CONT");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let now = function(&cluster, other, "a").await;
        assert_eq!(now["metadata"]["annotations"]["note"], "old");
    }
}
