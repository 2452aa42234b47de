//! The audit log on real nodes: who changed what, who was refused, and that damage of it is found.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};
use swarmer_runtime::fixtures;

use crate::{
    common::{Cluster, Node, until},
    roles::{ask, make_token, with_access_control},
};

fn records(cluster: &Cluster, admin: &str) -> Vec<Value> {
    let text =
        cluster.nodes[0].cli_ok(&["--token", admin, "-o", "json", "audit", "--tail", "10000"]);
    let value: Value = serde_json::from_str(&text).unwrap();
    value["items"].as_array().unwrap().clone()
}

/// Whether a record has these fields.
fn has(record: &Value, fields: &Value) -> bool {
    let fields = fields.as_object().unwrap();
    fields.iter().all(|(name, value)| record[name] == *value)
}

fn newest(node: &Node) -> PathBuf {
    let files = fs::read_dir(node.dir.join("audit")).unwrap();
    files.map(|entry| entry.unwrap().path()).max().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_and_refused_is_told_and_damage_of_it_is_found() {
    let (mut cluster, admin) = with_access_control().await;
    let http = cluster.http.clone();
    let what = json!({ "kind": "api", "ttl": "1h", "role": "viewer" });
    let (viewer, viewer_id) = make_token(&cluster, &admin, what).await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    cluster.nodes[0].cli_ok(&["--token", &admin, "deploy", &hello, "--name", "hello"]);
    let url = cluster.nodes[0].api_url("/v1/nodes/n1");
    assert_eq!(ask(&http, "DELETE", &url, &viewer, "").await.status, 403);
    assert_eq!(ask(&http, "DELETE", &url, "swa1.AAAA", "").await.status, 401);
    let (join, _) = make_token(&cluster, &admin, json!({ "kind": "join", "ttl": "1h" })).await;
    let token = cluster.base.path().join("join.token");
    // One is admitted by the token, the next one is not any more.
    fs::write(&token, &join).unwrap();
    let mut second = Node::new(cluster.base.path(), "second");
    second.start(&cluster.seeds, Some(&token), 1);
    second.ready(&http).await;
    let mut third = Node::new(cluster.base.path(), "third");
    third.start(&cluster.seeds, Some(&token), 1);
    assert!(!third.wait().success());

    let admin_id = {
        let list =
            ask(&http, "GET", &cluster.nodes[0].api_url("/v1/tokens"), &admin, "").await.json();
        let items = list["items"].as_array().unwrap();
        let of_founding = items.iter().find(|item| item["role"] == "admin").unwrap();
        of_founding["id"].as_str().unwrap().to_owned()
    };
    let node_id: Value =
        serde_json::from_slice(&fs::read(second.dir.join("node.json")).unwrap()).unwrap();
    let wanted = [
        json!({ "action": "start", "boot": 1 }),
        json!({ "action": "change", "who": { "token": admin_id }, "changes":
            [{ "verb": "create", "kind": "Token", "name": viewer_id }] }),
        json!({ "action": "refuse", "who": { "token": viewer_id }, "code": "SW-API-FORBIDDEN",
            "what": "DELETE /v1/nodes/n1" }),
        json!({ "action": "refuse", "who": "nobody", "code": "SW-API-UNAUTHORIZED",
            "what": "DELETE /v1/nodes/n1" }),
        json!({ "action": "change", "who": { "joiner": node_id["node"] } }),
        json!({ "action": "refuse", "who": "nobody", "code": "SW-NODE-TOKEN", "what": "join" }),
    ];
    let all = until("all is recorded", || async {
        let all = records(&cluster, &admin);
        wanted.iter().all(|wanted| all.iter().any(|one| has(one, wanted))).then_some(all)
    })
    .await;
    let deployed = all.iter().find(|record| {
        let changes = record["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
        changes
            .iter()
            .any(|change| change["name"] == "default/hello" && change["kind"] == "Function")
    });
    let deployed = deployed.unwrap_or_else(|| panic!("no deploy in {all:?}"));
    assert_eq!(deployed["who"], json!({ "token": admin_id }));
    assert!(deployed["revision"].as_u64().unwrap() > 1, "{deployed}");
    // The planner's own decisions are there too, as the node's.
    assert!(all.iter().any(|record| record["who"] == "node" && record["action"] == "change"));
    let text = fs::read_to_string(newest(&cluster.nodes[0])).unwrap();
    for secret in [&admin, &viewer, &join] {
        assert!(!text.contains(secret.rsplit('.').next().unwrap()), "a secret is in the log");
    }

    // Only who governs may read it.
    let output = cluster.nodes[0].cli(&["--token", &viewer, "audit"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let table = cluster.nodes[0].cli_ok(&["--token", &admin, "audit"]);
    assert!(table.contains(&format!("token {admin_id}")), "{table}");
    let whole = cluster.nodes[0].cli_ok(&["--token", &admin, "audit", "--verify"]);
    assert!(whole.contains("are as they were written"), "{whole}");

    // A kill loses nothing that was answered.
    let count = records(&cluster, &admin).len();
    cluster.nodes[0].kill();
    cluster.start(0);
    cluster.all_ready().await;
    let after = records(&cluster, &admin);
    assert!(after.len() > count && has(&after[count], &json!({ "action": "start", "boot": 2 })));
    cluster.nodes[0].cli_ok(&["--token", &admin, "audit", "--verify"]);

    // A record that somebody touched up is found, at once and after a restart.
    let path = newest(&cluster.nodes[0]);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("SW-API-FORBIDDEN", "SW-API-FORGIVEN!")).unwrap();
    let line = text.lines().position(|line| line.contains("SW-API-FORBIDDEN")).unwrap() + 1;
    let damaged = |node: &Node| {
        let output = node.cli(&["--token", &admin, "audit", "--verify"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("SW-AUDIT-DAMAGED") && said.contains(&format!("line {line}:")),
            "{said}"
        );
    };
    damaged(&cluster.nodes[0]);
    cluster.nodes[0].kill();
    cluster.start(0);
    cluster.all_ready().await;
    damaged(&cluster.nodes[0]);
    assert!(cluster.nodes[0].log_text().contains("SW-AUDIT-DAMAGED"));
}
