//! Functions as their authors deploy them: apps, versions, bad components, misbehaving guests.

use std::time::{Duration, Instant};

use crate::common::{Cluster, Node, binary, get, request, until};
use swarmer_runtime::fixtures::{self, Behaviour};

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
async fn what_is_no_good_component_is_refused_with_its_reason() {
    let cluster = Cluster::found(1).await;
    let node = &cluster.nodes[0];
    let refuse = |name: &str, bytes: &[u8], words: &[&str]| {
        let path = cluster.component(name, bytes);
        let output = node.cli(&["deploy", &path]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{name} was taken");
        for word in words {
            assert!(text.contains(word), "{name}: {word} is not in: {text}");
        }
        text
    };
    refuse("text", b"hello", &["not WebAssembly"]);
    refuse("core", &fixtures::core_module(), &["component"]);
    refuse("strange", &fixtures::unknown_imports(), &["acme"]);
    let good = fixtures::hello_p2();
    refuse("cut", &good[..good.len() / 2], &["SW-"]);
    let http = &cluster.http;
    // Bytes that are not the digest's, and a digest that is none.
    let digest = swarmer_model::Digest::of(&good);
    let wrong = node.api_url(&format!("/v1/artifacts/{digest}"));
    let answer = request(http, "PUT", &wrong, fixtures::hello_p3()).await.unwrap();
    assert_eq!((answer.status, answer.json()["code"].as_str()), (422, Some("SW-ARTIFACT-DIGEST")));
    let answer = request(http, "PUT", &node.api_url("/v1/artifacts/banana"), "x").await.unwrap();
    assert_eq!(answer.status / 100, 4, "{}", answer.text());
    // A function whose bytes nobody has; a field that does not exist; rules.
    let url = node.api_url("/v1/namespaces/default/functions/ghost");
    let ghost = |spec: &str| {
        format!(
            r#"{{"apiVersion":"swarmer/v1","kind":"Function","metadata":{{"name":"ghost"}},"spec":{spec}}}"#
        )
    };
    let missing = ghost(&format!(r#"{{"component":"{digest}"}}"#));
    let answer = request(http, "PUT", &url, missing).await.unwrap();
    assert_eq!(answer.json()["code"], "SW-ARTIFACT-MISSING", "{}", answer.text());
    let unknown = ghost(&format!(r#"{{"component":"{digest}","limtis":{{}}}}"#));
    let answer = request(http, "PUT", &url, unknown).await.unwrap();
    assert!(answer.text().contains("limtis"), "{}", answer.text());
    let rule = ghost(&format!(r#"{{"component":"{digest}","limits":{{"memory":"9999GiB"}}}}"#));
    let answer = request(http, "PUT", &url, rule).await.unwrap();
    assert!(answer.text().contains("spec.limits.memory"), "{}", answer.text());
    let answer = request(http, "PUT", &url, "{").await.unwrap();
    assert_eq!(answer.status, 400, "{}", answer.text());
    let answer = get(http, &node.url("/nowhere")).await.unwrap();
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("x-swarmer-error"), "SW-MESH-NO-ROUTE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_belongs_to_one_function_and_a_name_to_the_last_writer() {
    let cluster = Cluster::found(3).await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", "a", "--route", "/shop"]);
    let output = cluster.nodes[1].cli(&["deploy", &hello, "--name", "b", "--route", "/shop"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("SW-API-ROUTE-TAKEN") && text.contains("default/a"), "{text}");
    assert_eq!(output.status.code(), Some(4));
    // One name from two nodes at once: both are taken, one after the other, and all agree.
    let (one, two) = (&cluster.nodes[1], &cluster.nodes[2]);
    let (left, right) = std::thread::scope(|scope| {
        let left =
            scope.spawn(|| one.cli(&["deploy", &hello, "--name", "c", "--env", "GREETING=1"]));
        let right =
            scope.spawn(|| two.cli(&["deploy", &hello, "--name", "c", "--env", "GREETING=2"]));
        (left.join().unwrap(), right.join().unwrap())
    });
    assert!(left.status.success() && right.status.success(), "{left:?} {right:?}");
    let url = cluster.nodes[0].api_url("/v1/namespaces/default/functions/c");
    let function = get(&cluster.http, &url).await.unwrap().json();
    let last = function["spec"]["env"]["GREETING"].as_str().unwrap().to_owned();
    answers(&cluster, "/c", &format!("{last}\n")).await;
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
        for word in ["SW-ROLLOUT-FAILED", "SW-SCHEDULER-SHORT", "disk=gold", "version 1 goes on"] {
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
    let (code, text, _) = deploy(2, &["--env", "GREETING=three"]);
    assert_eq!(code, Some(0), "{text}");
    answers(&cluster, "/hello", "three\n").await;
    // A new one that fits nowhere: there is nothing that could go on.
    let output = cluster.nodes[1].cli(&["deploy", &hello, "--name", "new", "--label", "disk=gold"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("disk=gold") && !text.contains("goes on"), "{text}");
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
async fn a_misbehaving_function_gets_its_own_error_and_harms_no_other() {
    let cluster = Cluster::found(1).await;
    let node = &cluster.nodes[0];
    let hello = cluster.component("hello", &fixtures::hello_p2());
    node.cli_ok(&["deploy", &hello, "--name", "hello"]);
    for (name, behaviour) in [
        ("trap", Behaviour::Trap),
        ("loop", Behaviour::Loop),
        ("allocate", Behaviour::Allocate),
        ("flood", Behaviour::Flood),
        ("never", Behaviour::NeverAnswer),
        ("silent", Behaviour::Silent),
        ("hang", Behaviour::HeadersThenHang),
    ] {
        let path = cluster.component(name, &fixtures::behaviour_p2(behaviour));
        node.cli_ok(&["deploy", &path, "--name", name, "--timeout", "1s", "--memory", "16MiB"]);
    }
    let calls = ["trap", "loop", "allocate", "flood", "never", "silent", "hang"].map(|name| {
        let (http, url) = (cluster.http.clone(), node.url(&format!("/{name}")));
        tokio::spawn(async move { (name, get(&http, &url).await) })
    });
    let start = Instant::now();
    let mut answered = 0;
    while start.elapsed() < Duration::from_secs(2) {
        let answer = get(&cluster.http, &node.url("/hello")).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answered += 1;
    }
    assert!(answered > 5, "hello was answered {answered} times in 2 s");
    for call in calls {
        let (name, answer) = call.await.unwrap();
        if name == "hang" {
            // Its head was sent: the answer must be seen to break off.
            assert!(answer.is_err(), "hang ended as if it were whole: {answer:?}");
            continue;
        }
        let answer = answer.unwrap();
        assert!(answer.status >= 500, "{name}: {} {}", answer.status, answer.text());
        assert!(answer.header("x-swarmer-error").starts_with("SW-RUNTIME-"), "{name}: {answer:?}");
    }
    // What it wrote can be read.
    let logs = node.cli_ok(&["logs", "flood"]);
    assert!(!logs.is_empty());
}
