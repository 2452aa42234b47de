//! `swarmer chaos` against a cluster that allows it, and one that does not.

use serde_json::Value;
use swarmer_runtime::fixtures;

use crate::common::{Cluster, request, until};

fn allowing(founders: usize) -> Cluster {
    let mut cluster = Cluster::prepare(founders);
    for node in &mut cluster.nodes {
        node.extra.push("--allow-faults".to_owned());
    }
    for i in 0..founders {
        cluster.start(i);
    }
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_allows_it_is_struck_and_keeps_its_promises() {
    let mut cluster = allowing(3);
    cluster.all_ready().await;
    let path = cluster.component("hello", &fixtures::hello_p2());
    cluster.nodes[0].cli_ok(&["deploy", &path, "--name", "hello", "--replicas", "3"]);
    cluster.serves(&[0, 1, 2], "/hello").await;
    let url = cluster.nodes[1].url("/hello");
    let words = ["chaos", "--for", "9s", "--faults", "pause,isolate,loss", "--longest", "2s"];
    let words = [&words[..], &["--seed", "4", "--url", &url, "-o", "json"]].concat();
    let report: Value = serde_json::from_str(&cluster.nodes[0].cli_ok(&words)).unwrap();
    assert_eq!(report["broken"], Value::Array(Vec::new()), "{report}");
    let faults = report["faults"].as_array().unwrap();
    assert!(!faults.is_empty(), "{report}");
    for seen in report["seen"].as_array().unwrap() {
        assert!(seen["well"].as_u64().unwrap() > 10, "{report}");
    }
    let struck = faults[0]["node"].as_str().unwrap();
    let node = cluster.nodes.iter().find(|node| node.name == struck).unwrap();
    assert!(node.log_text().contains("event=\"fault\""), "{}", node.log_text());

    // What is cut off is seen to be: a fault that does nothing would pass all of the above.
    let victim = cluster.nodes[2].name.clone();
    let url = cluster.nodes[0].api_url(&format!("/v1/nodes/{victim}/faults"));
    // A connection that was dialled while the node was cut off may still be waited for.
    let strike = async |body: &'static str| {
        until("the node is told", || async {
            let answer = request(&cluster.http, "POST", &url, body).await.unwrap();
            let code = answer.header("x-swarmer-error");
            let away = answer.status == 503 && code == "SW-MESH-UNREACHABLE";
            assert!(answer.status == 200 || away, "{}", answer.text());
            (answer.status == 200).then_some(())
        })
        .await;
    };
    strike(r#"{"fault":"isolate","lasts":"4s"}"#).await;
    for wanted in ["dead", "alive"] {
        until(&format!("{victim} is {wanted}"), || async {
            let status = cluster.status(0).await;
            let mut members = status["members"].as_array()?.iter();
            let found = members.any(|m| m["name"] == *victim && m["state"] == wanted);
            found.then_some(())
        })
        .await;
    }

    // A crash is one: nothing starts the node again here.
    strike(r#"{"fault":"crash","lasts":"1s"}"#).await;
    let status = cluster.nodes[2].wait();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_allow_it_is_not_struck() {
    let mut cluster = allowing(1);
    cluster.all_ready().await;
    // The second one was not told that it may be struck.
    cluster.join("n2").await;
    let output = cluster.nodes[0].cli(&["chaos", "--for", "1s"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("SW-FAULT-NOT-ALLOWED") && told.contains("node n2"), "{told}");
    let url = cluster.nodes[0].api_url("/v1/nodes/n1/faults");
    let answer =
        request(&cluster.http, "POST", &url, r#"{"fault":"isolate","lasts":"2m"}"#).await.unwrap();
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("at most 60 s"), "{}", answer.text());
}
