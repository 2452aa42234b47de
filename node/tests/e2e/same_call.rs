//! A call to a function of the same node and one over QUIC are the same call: one list of cases,
//! run both ways, with the same assertions; then both answers are compared.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;
use swarmer_runtime::fixtures::{self, Behaviour};

use crate::{
    bad_input::{problem, raw, refused},
    common::{Cluster, Http, Node, PATIENCE, get, until},
};

/// What a client sees of one answer.
#[derive(Debug, PartialEq)]
struct Seen {
    status: u16,
    headers: BTreeMap<String, String>,
    /// None if it was broken off.
    body: Option<String>,
    trailers: BTreeMap<String, String>,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn document(&self) -> Value {
        serde_json::from_str(self.body.as_deref().unwrap_or_default()).unwrap_or(Value::Null)
    }

    /// Without what differs from one call of the same kind to the next.
    fn comparable(mut self, told_by_ingress: bool) -> Self {
        self.headers.remove("date");
        // One way to say how long a body is, or another: HTTP knows several.
        self.headers.remove("content-length");
        self.headers.remove("transfer-encoding");
        let mut document = self.document();
        if document.is_object() {
            if self.header("x-swarmer-error") == "SW-RUNTIME-TIMEOUT" {
                document["detail"] = "no whole answer after …".into();
            }
            if told_by_ingress {
                document["node"] = Value::Null;
                // It has the port that was asked.
                document["detail"] = Value::Null;
            }
            self.body = Some(document.to_string());
        }
        if told_by_ingress {
            self.headers.remove("x-swarmer-node");
        }
        self
    }
}

fn texts(headers: &http::HeaderMap) -> BTreeMap<String, String> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// A function on the one node that may run it, and the ways to call it.
struct Both {
    cluster: Cluster,
    h1: Http,
    h2: Http,
}

impl Both {
    /// Node 0 runs none of the functions, node 1 all.
    async fn start() -> Self {
        let mut cluster = Cluster::found(1).await;
        let token = cluster.join_token(&["--label", "role=only"]);
        let mut only = Node::new(cluster.base.path(), "only");
        only.start(&cluster.seeds, Some(&token), 1);
        only.ready(&cluster.http).await;
        cluster.nodes.push(only);
        let h2 = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        Self { h1: cluster.http.clone(), h2, cluster }
    }

    fn deploy(&self, name: &str, bytes: &[u8], more: &[&str]) {
        let path = self.cluster.component(name, bytes);
        let fixed = ["deploy", &path, "--name", name, "--replicas", "1", "--label", "role=only"];
        self.cluster.nodes[0].cli_ok(&[&fixed, more].concat());
    }

    async fn ask(&self, http: &Http, node: usize, path: &str, headers: &[(&str, &str)]) -> Seen {
        let mut request = http::Request::get(self.cluster.nodes[node].url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let answer = async {
            let response = http.request(request).await.unwrap();
            let (head, body) = response.into_parts();
            let body = body.collect().await.ok();
            let trailers = body.as_ref().and_then(|b| b.trailers()).map(texts).unwrap_or_default();
            let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned());
            Seen { status: head.status.as_u16(), headers: texts(&head.headers), body, trailers }
        };
        tokio::time::timeout(PATIENCE, answer).await.expect("an answer")
    }

    /// Both answers, found equal: the local one.
    async fn same(&self, path: &str, headers: &[(&str, &str)], by_ingress: bool) -> Seen {
        let local = self.ask(&self.h2, 1, path, headers).await.comparable(by_ingress);
        let remote = self.ask(&self.h2, 0, path, headers).await.comparable(by_ingress);
        assert_eq!(local, remote, "{path}: here and over QUIC");
        local
    }

    /// The same problem both ways, told by the node where the function is.
    async fn problem(&self, path: &str, status: u16, code: &str) -> Seen {
        let seen = self.same(path, &[], false).await;
        let document = seen.document();
        assert_eq!((seen.status, seen.header("x-swarmer-error")), (status, code), "{seen:?}");
        assert_eq!(document["type"], format!("urn:swarmer:error:{code}"), "{path}");
        assert_eq!(document["node"], "only", "{path}");
        assert!(document["remedy"].as_str().is_some_and(|text| text.ends_with('.')), "{path}");
        seen
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_told_the_same_way_from_here_and_from_elsewhere() {
    let both = Both::start().await;
    let quick: &[&str] = &["--timeout", "1s", "--memory", "16MiB"];
    for (name, behaviour, more) in [
        ("trap", Behaviour::Trap, quick),
        ("never", Behaviour::NeverAnswer, quick),
        ("allocate", Behaviour::Allocate, quick),
        ("silent", Behaviour::Silent, quick),
        ("hang", Behaviour::HeadersThenHang, quick),
        ("head", Behaviour::HeadersThenTrap, quick),
        ("busy", Behaviour::NeverAnswer, &["--timeout", "120s", "--concurrency", "1"]),
        ("off", Behaviour::Marks, &["--concurrency", "0"]),
    ] {
        both.deploy(name, &fixtures::behaviour_p2(behaviour), more);
    }
    both.problem("/trap", 500, "SW-RUNTIME-TRAP").await;
    both.problem("/never", 504, "SW-RUNTIME-TIMEOUT").await;
    both.problem("/allocate", 500, "SW-RUNTIME-MEMORY-LIMIT").await;
    both.problem("/silent", 502, "SW-RUNTIME-NO-ANSWER").await;
    both.problem("/head", 500, "SW-RUNTIME-TRAP").await;
    let hang = both.same("/hang", &[], false).await;
    assert_eq!((hang.status, &hang.body), (200, &None), "broken off, not ended");
    let invoked = both.cluster.nodes[0].cli(&["invoke", "hang"]);
    refused(&invoked, 1, "SW-CLI-BROKEN-OFF", &["on node only", "after 7 bytes"]);
    assert_eq!(invoked.stdout, b"partial");
    let nowhere = both.same("/nowhere", &[], true).await;
    assert_eq!(nowhere.header("x-swarmer-error"), "SW-MESH-NO-ROUTE");
    let off = both.same("/off", &[], true).await;
    assert_eq!(off.header("x-swarmer-error"), "SW-MESH-SWITCHED-OFF");

    // One runs, two wait: the next is one too many.
    let url = both.cluster.nodes[1].url("/busy");
    let held: Vec<_> = (0..3)
        .map(|_| {
            let (http, url) = (both.h1.clone(), url.clone());
            // A probe below may have taken the place that was meant for it.
            tokio::spawn(async move {
                while get(&http, &url).await.is_ok_and(|answer| answer.status == 429) {}
            })
        })
        .collect();
    until("all places are taken", || async {
        // A probe that gets a place gives it back.
        let probe = tokio::time::timeout(Duration::from_millis(500), get(&both.h1, &url)).await;
        (probe.ok()?.ok()?.status == 429).then_some(())
    })
    .await;
    let busy = both.problem("/busy", 429, "SW-RUNTIME-BUSY").await;
    assert_eq!(busy.header("retry-after"), "1");
    held.iter().for_each(tokio::task::JoinHandle::abort);

    // The trace is the caller's, wherever the function ran.
    for (node, id) in
        [(0, "4bf92f3577b34da6a3ce929d0e0e4736"), (1, "0af7651916cd43dd8448eb211c80319c")]
    {
        let trace = format!("00-{id}-00f067aa0ba902b7-01");
        both.ask(&both.h1, node, "/trap", &[("traceparent", &trace)]).await;
        until("the trace is in the log", || async {
            both.cluster.nodes[0].cli_ok(&["-o", "json", "logs", "trap"]).contains(id).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_call_may_carry_does_not_depend_on_where_the_function_runs() {
    let both = Both::start().await;
    both.deploy("marks", &fixtures::behaviour_p2(Behaviour::Marks), &[]);
    let marks = both.same("/marks", &[("te", "trailers")], false).await;
    assert_eq!((marks.status, marks.body.as_deref()), (418, Some("whole")));
    assert_eq!(marks.header("x-fixture"), "yes");
    assert_eq!(marks.trailers["x-fixture"], "yes");
    assert_eq!(
        (marks.header("x-swarmer-node"), marks.header("x-swarmer-version").starts_with("1-")),
        ("only", true)
    );
    // Below the limit of a call; above it, and below that of a connection; above both.
    let long = |bytes: usize| "v".repeat(bytes / 4);
    for (bytes, status) in [(56 << 10, 418), (62 << 10, 431), (90 << 10, 431)] {
        let value = long(bytes);
        let headers = ["a", "b", "c", "d"].map(|name| (name, value.as_str()));
        for node in [0, 1] {
            let seen = both.ask(&both.h1, node, "/marks", &headers).await;
            assert_eq!(seen.status, status, "{bytes} bytes at node {node}: {seen:?}");
            if bytes == 62 << 10 {
                assert_eq!(seen.header("x-swarmer-error"), "SW-MESH-HEAD-TOO-LARGE");
                assert!(seen.document()["detail"].as_str().unwrap().contains("61440"), "{seen:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_decides_what_becomes_of_a_body_that_breaks_off_wherever_it_runs() {
    let both = Both::start().await;
    both.deploy("echo", &fixtures::echo_p2(), &[]);
    both.cluster.serves(&[0, 1], "/echo").await;
    // A chunk of ten bytes that has four.
    let request = b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\na\r\nhalf";
    for node in [0, 1] {
        let answer = raw(both.cluster.nodes[node].http, &[request]).await;
        // Asked at the other node, the body may have broken off before the call was sent.
        if node == 0 && answer.status == 400 {
            problem(&answer, 400, "SW-MESH-REQUEST-BODY", &["body"]);
            continue;
        }
        // This one dies of it, before its answer went out or after.
        match answer.status {
            200 => assert!(!answer.text().ends_with("0\r\n\r\n"), "whole: {}", answer.text()),
            _ => problem(&answer, 500, "SW-RUNTIME-TRAP", &["before answering"]),
        }
        assert_eq!(answer.header("x-swarmer-node"), "only", "asked at node {node}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_sees_the_same_of_what_it_calls_here_and_elsewhere() {
    let both = Both::start().await;
    for (name, behaviour, timeout) in [
        ("trap", Behaviour::Trap, "5s"),
        ("late", Behaviour::NeverAnswer, "1s"),
        ("never", Behaviour::NeverAnswer, "120s"),
        ("marks", Behaviour::Marks, "5s"),
    ] {
        both.deploy(name, &fixtures::behaviour_p2(behaviour), &["--timeout", timeout]);
    }
    // On both nodes, so that each calls from where it was asked.
    let caller = both.cluster.component("caller", &fixtures::caller());
    let caller = ["deploy", &caller, "--route", "/", "--replicas", "2", "--timeout", "4s"];
    both.cluster.nodes[0].cli_ok(&caller);
    for (node, name) in [(0, "n1"), (1, "only")] {
        until("the caller runs on both nodes", || async {
            let seen = both.ask(&both.h1, node, "/marks.internal/marks", &[]).await;
            (seen.header("x-swarmer-node") == name).then_some(())
        })
        .await;
    }
    let mut bodies = Vec::new();
    for path in ["/marks.internal/x", "/trap.internal/x", "/late.internal/x"] {
        let seen = both.same(path, &[], true).await;
        bodies.push(seen.body.unwrap());
    }
    assert_eq!(bodies[0], "whole");
    assert!(bodies[1].starts_with("error ") && bodies[2].starts_with("error "), "{bodies:?}");
    assert_ne!(bodies[1], bodies[2], "a function can tell a timeout from a trap");
    // The caller's own deadline ends the call of one that would wait for two minutes.
    let start = std::time::Instant::now();
    let seen = both.same("/never.internal/x", &[], true).await;
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(seen.status >= 500, "{seen:?}");
}
