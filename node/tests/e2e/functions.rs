//! Functions as their authors deploy them: apps, versions, routes.

use std::time::{Duration, Instant};

use crate::{
    bad_input::refused,
    common::{Cluster, Node, binary, get, until},
};
use swarmer_runtime::fixtures::{self, Behaviour, Behaviour03};

fn app(cluster: &Cluster) -> std::path::PathBuf {
    let dir = cluster.base.path().join("app");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("greeter.wasm"), fixtures::hello_p2()).unwrap();
    std::fs::write(dir.join("front.wasm"), fixtures::caller()).unwrap();
    let manifest = "name = \"shop\"\n\n\
        [[function]]\nname = \"greeter\"\ncomponent = \"greeter.wasm\"\nroute = \"/greeter\"\n\
        [function.env]\nGREETING = \"good day\"\n\n\
        [[function]]\nname = \"front\"\ncomponent = \"front.wasm\"\nroute = \"/\"\n";
    std::fs::write(dir.join("swarmer.toml"), manifest).unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_of_two_functions_calls_inside_and_goes_back_a_version() {
    let cluster = Cluster::found(3).await;
    let dir = app(&cluster);
    cluster.nodes[0].cli_ok(&["deploy", dir.to_str().unwrap()]);
    cluster.serves(&[0, 1, 2], "/greeter").await;
    // `front` passes on what http://greeter.internal/… answers, on whatever nodes both run.
    for node in &cluster.nodes {
        let url = node.url("/greeter.internal/greeter");
        let answer = until("the inner call works", || async {
            get(&cluster.http, &url).await.ok().filter(|answer| answer.status == 200)
        })
        .await;
        assert_eq!(answer.text(), "good day\n");
    }
    // The next version, then back.
    let manifest = std::fs::read_to_string(dir.join("swarmer.toml")).unwrap();
    std::fs::write(dir.join("swarmer.toml"), manifest.replace("good day", "good night")).unwrap();
    cluster.nodes[1].cli_ok(&["deploy", dir.to_str().unwrap(), "--name", "greeter"]);
    answers(&cluster, "/greeter", "good night\n").await;
    cluster.nodes[2].cli_ok(&["rollout", "undo", "greeter"]);
    answers(&cluster, "/greeter", "good day\n").await;
    let list = cluster.nodes[0].cli_ok(&["-o", "json", "get", "functions"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    cluster.nodes[0].cli_ok(&["delete", "function", "greeter"]);
    until("the route is gone", || async {
        let answer = get(&cluster.http, &cluster.nodes[1].url("/greeter/x")).await.ok()?;
        // `front` has the root route, so what is left is its answer, not the greeter's.
        (answer.text() != "good day\n").then_some(())
    })
    .await;
}

/// One call in fifty failed once: the callee answered before its caller had ended the body of its
/// request, and the caller saw that as a broken connection. `late` ends it behind the answer, always.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_calls_of_one_function_to_another_are_all_answered() {
    let cluster = Cluster::found(3).await;
    let dir = app(&cluster);
    cluster.nodes[0].cli_ok(&["deploy", dir.to_str().unwrap()]);
    let late = cluster.component("late", &fixtures::behaviour_p2(Behaviour::LateCaller));
    let paths = ["/greeter.internal/greeter", "/greeter.internal/late"];
    cluster.nodes[0].cli_ok(&["deploy", &late, "--route", paths[1]]);
    for path in paths {
        cluster.serves(&[0, 1, 2], path).await;
    }
    for i in 0..300 {
        let url = cluster.nodes[i % 3].url(paths[i % 2]);
        let answer = get(&cluster.http, &url).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "good day\n"), "call {i}: {url}");
    }
}

/// Bytes that were taken from the guest before the head went out were once not counted in what is
/// left of the length that the guest had told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_with_its_length_arrives_whole_from_here_and_from_elsewhere() {
    let cluster = Cluster::found(3).await;
    for size in [64 << 10, 200_000] {
        let name = format!("sized-{size}");
        let sized = fixtures::behaviour_p3(Behaviour03::Sized(size));
        let component = cluster.component(&name, &sized);
        cluster.nodes[0].cli_ok(&["deploy", &component, "--replicas", "1"]);
        let mut answered = std::collections::BTreeSet::new();
        for node in &cluster.nodes {
            for _ in 0..20 {
                let answer = get(&cluster.http, &node.url(&format!("/{name}"))).await.unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(answer.header("content-length"), size.to_string());
                assert_eq!(answer.body.len(), size as usize);
                assert!((0..size).zip(&answer.body).all(|(i, byte)| i as u8 == *byte));
                let local = answer.header("x-swarmer-node") == node.name;
                answered.insert(local);
            }
        }
        assert_eq!(answered.len(), 2, "one node serves it, the others call that one");
    }
}

async fn answers(cluster: &Cluster, path: &str, text: &str) {
    for node in &cluster.nodes {
        let url = node.url(path);
        until(&format!("{url} says {text:?}"), || async {
            get(&cluster.http, &url).await.ok().filter(|answer| answer.text() == text)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_belongs_to_one_function() {
    let cluster = Cluster::found(3).await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", "a", "--route", "/shop"]);
    let output = cluster.nodes[1].cli(&["deploy", &hello, "--name", "b", "--route", "/shop"]);
    refused(&output, 4, "SW-API-ROUTE-TAKEN", &["/shop", "default/a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redeploy_that_no_node_may_serve_fails_with_its_reason_and_ends_nothing() {
    let cluster = Cluster::found(3).await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    let deploy = |node: usize, arguments: &[&str]| {
        let start = Instant::now();
        let fixed: &[&str] = &["deploy", &hello, "--name", "hello"];
        let output = cluster.nodes[node].cli(&[fixed, arguments].concat());
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
            start.elapsed(),
        )
    };
    assert_eq!(deploy(0, &["--env", "GREETING=one"]).0, Some(0));
    answers(&cluster, "/hello", "one\n").await;
    for node in 0..3 {
        let greeting = format!("GREETING=two{node}");
        let arguments = ["--env", greeting.as_str(), "--label", "disk=gold"];
        let (code, text, took) = deploy(node, &arguments);
        assert_eq!(code, Some(1), "{text}");
        for word in
            ["SW-ROLLOUT-FAILED", "SW-SCHEDULER-SHORT", "disk=gold", "version 1 goes on serving"]
        {
            assert!(text.contains(word), "{word} is not in: {text}");
        }
        assert!(took < Duration::from_secs(30), "{took:?}");
        // Every node has the placement by now, or gets it: none may turn away from version 1.
        for node in &cluster.nodes {
            for _ in 0..20 {
                let answer = get(&cluster.http, &node.url("/hello")).await.unwrap();
                assert_eq!((answer.status, answer.text().as_str()), (200, "one\n"));
            }
        }
    }
    let status = cluster.nodes[1].cli_ok(&["-o", "json", "get", "function", "hello"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["live"]["version"], 1, "{status}");
    assert_eq!(status["live"]["upToDate"], false, "{status}");
    // The label would stay, as all does that no flag says.
    let (code, text, _) = deploy(2, &["--env", "GREETING=three", "--reset"]);
    assert_eq!(code, Some(0), "{text}");
    answers(&cluster, "/hello", "three\n").await;
    // A new one that fits nowhere: there is nothing that could go on.
    let output = cluster.nodes[1].cli(&["deploy", &hello, "--name", "new", "--label", "disk=gold"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("disk=gold") && !text.contains("goes on serving"), "{text}");
}

/// A command that goes on, ended with the test.
struct Follower(std::process::Child);

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_followed_across_a_restart_of_the_node_that_writes_them() {
    let mut cluster = Cluster::found(1).await;
    let token = cluster.join_token(&["--label", "role=writer"]);
    let mut writer = Node::new(cluster.base.path(), "writer");
    writer.start(&cluster.seeds, Some(&token), 1);
    let http = cluster.http.clone();
    writer.ready(&http).await;
    let trap = cluster.component("trap", &fixtures::behaviour_p2(Behaviour::Trap));
    let node = &cluster.nodes[0];
    node.cli_ok(&["deploy", &trap, "--name", "trap", "--label", "role=writer", "--replicas", "1"]);
    let path = cluster.base.path().join("followed");
    let follow = ["-o", "json", "logs", "trap", "--follow", "--tail", "0"];
    let _follower = Follower(
        std::process::Command::new(binary())
            .args(["--addr", &format!("http://{}", node.api)])
            .args(follow)
            .stdout(std::fs::File::create(&path).unwrap())
            .spawn()
            .unwrap(),
    );
    let lines = || -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    // Each trap is a line of the runtime; the follower may start behind the first ones.
    let trapped = async || {
        let answer = get(&http, &node.url("/trap")).await.ok()?;
        (answer.header("x-swarmer-error") == "SW-RUNTIME-TRAP").then_some(())
    };
    until("ten lines are followed", || async {
        trapped().await?;
        (lines().len() >= 10).then_some(())
    })
    .await;
    writer.kill();
    writer.start(&cluster.seeds, None, 1);
    writer.ready(&http).await;
    // Fewer than before: they must not wait until their numbers catch up.
    for _ in 0..3 {
        until("the function answers again", &trapped).await;
    }
    until("the lines from after the restart are followed", || async {
        let late = lines().iter().filter(|line| line["boot"] == 2).count();
        (late >= 3).then_some(())
    })
    .await;
    let mut seen: Vec<String> = lines()
        .iter()
        .map(|line| format!("{} {} {}", line["node"], line["boot"], line["sequence"]))
        .collect();
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), all, "a line came twice");
    cluster.nodes.push(writer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_is_deployed_again_keeps_what_no_flag_says() {
    let cluster = Cluster::found(1).await;
    let node = &cluster.nodes[0];
    let first = cluster.component("first", &fixtures::hello_p2());
    let second = cluster.component("second", &fixtures::echo_p2());
    let words =
        ["deploy", &first, "--name", "f", "--memory", "32MiB", "--cpu", "3s", "--route", "/g"];
    let more = ["--replicas", "1", "--env", "GREETING=good day", "--outgoing", "example.org"];
    node.cli_ok(&[&words[..], &more].concat());
    node.cli_ok(&[
        "deploy",
        &second,
        "--name",
        "f",
        "--timeout",
        "7s",
        "--outgoing",
        "example.org",
    ]);
    let url = node.api_url("/v1/namespaces/default/functions/f");
    let function = get(&cluster.http, &url).await.unwrap().json();
    let spec = &function["spec"];
    let limits = &spec["limits"];
    assert_eq!((&limits["memory"], &limits["cpu"]), (&"32MiB".into(), &"3s".into()), "{function}");
    assert_eq!(limits["timeout"], "7s", "{function}");
    assert_eq!(spec["env"]["GREETING"], "good day", "{function}");
    assert_eq!(spec["outgoing"], serde_json::json!(["example.org"]), "{function}");
    assert_eq!(spec["placement"]["replicas"], 1, "{function}");
    assert_eq!(spec["routes"][0]["path"], "/g", "{function}");
    assert_eq!(function["live"]["target"], 2, "{function}");
}
