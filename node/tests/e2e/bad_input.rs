//! What users hand over that cannot be taken: refused by its code, with what, why and what to do,
//! and nobody else suffers.

use std::{
    net::SocketAddr,
    process::Output,
    time::{Duration, Instant},
};

use serde_json::Value;
use swarmer_model::Digest;
use swarmer_runtime::fixtures;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use crate::common::{Answer, Cluster, Http, Node, get, request};

/// What a request to a function that does nothing wrong may take while another does.
const NORMAL: Duration = Duration::from_secs(2);
/// So many of them are asked at least.
const REQUESTS: usize = 20;
/// Between two of them.
const PACE: Duration = Duration::from_millis(20);
/// The largest component, by default.
const MAX_COMPONENT: u64 = 64 << 20;
/// The eight bytes that a component begins with.
const COMPONENT: [u8; 8] = [0, b'a', b's', b'm', 13, 0, 1, 0];

/// Asks for a well-behaved function of a node all the time, from now until [`Neighbour::fine`].
pub(crate) struct Neighbour {
    over: CancellationToken,
    asking: tokio::task::JoinHandle<usize>,
}

impl Neighbour {
    /// Every answer must be 200, within the time that is normal.
    pub(crate) fn of(http: &Http, node: &Node) -> Self {
        let over = CancellationToken::new();
        let (http, url, end) = (http.clone(), node.url("/hello"), over.clone());
        let asking = tokio::spawn(async move {
            let mut pace = tokio::time::interval(PACE);
            let mut asked = 0;
            while asked < REQUESTS || !end.is_cancelled() {
                pace.tick().await;
                let start = Instant::now();
                let answer = get(&http, &url).await.unwrap();
                assert_eq!(answer.status, 200, "{url}: {}", answer.text());
                let took = start.elapsed();
                assert!(took < NORMAL, "{url} took {took:?}");
                asked += 1;
            }
            asked
        });
        Self { over, asking }
    }

    /// The bad one is over: all was well until now.
    pub(crate) async fn fine(self) {
        self.over.cancel();
        assert!(self.asking.await.unwrap() >= REQUESTS);
    }
}

/// Deploys the neighbour.
pub(crate) async fn with_hello(cluster: &Cluster) {
    let hello = cluster.component("hello", &fixtures::hello_p2());
    let replicas = cluster.nodes.len().to_string();
    cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", "hello", "--replicas", &replicas]);
    let all: Vec<usize> = (0..cluster.nodes.len()).collect();
    cluster.serves(&all, "/hello").await;
}

/// A command ended with this code, its exit status, and all that a user has to know.
pub(crate) fn refused(output: &Output, exit: i32, code: &str, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{code}: {text}");
    told(&text, code, words);
}

/// The three lines of an error are there: what, why with these words, what to do.
pub(crate) fn told(text: &str, code: &str, words: &[&str]) {
    let at = text.find(&format!("error: {code} ")).unwrap_or_else(|| panic!("no {code}: {text}"));
    let lines: Vec<&str> = text[at..].lines().collect();
    let why = lines.get(1).copied().unwrap_or_default();
    assert!(why.starts_with("  why:  "), "{text}");
    // A reason may have several lines.
    assert!(lines.iter().any(|line| line.starts_with("  do:   ")), "{text}");
    for word in words {
        assert!(text[at..].contains(word), "{code}: {word:?} is not in: {text}");
    }
}

/// The API's answer is a whole problem document of this code.
pub(crate) fn problem(answer: &Answer, status: u16, code: &str, words: &[&str]) {
    let document = answer.json();
    assert_eq!(document["code"], code, "{}", answer.text());
    assert_eq!((answer.status, &document["status"]), (status, &Value::from(status)), "{code}");
    assert_eq!(answer.header("x-swarmer-error"), code);
    assert_eq!(answer.header("content-type"), "application/problem+json", "{code}");
    for field in ["title", "detail", "remedy"] {
        assert!(document[field].as_str().is_some_and(|text| !text.is_empty()), "{code}: {field}");
    }
    let detail = document["detail"].as_str().unwrap();
    for word in words {
        assert!(detail.contains(word), "{code}: {word:?} is not in: {detail}");
    }
}

/// Sends bytes as they are, says that no more come, and reads the answer. HTTP libraries do not
/// break off in the middle.
pub(crate) async fn raw(to: SocketAddr, pieces: &[&[u8]]) -> Answer {
    let mut stream = TcpStream::connect(to).await.unwrap();
    for piece in pieces {
        stream.write_all(piece).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    read_answer(&mut stream).await
}

async fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    // The other side may reset a connection whose bytes it did not want, after its answer.
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = http::HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let name: http::HeaderName = name.parse().unwrap();
        headers.insert(name, value.parse().unwrap());
    }
    Answer { status, headers, body: body.to_owned().into() }
}

fn put(node: &Node, digest: &Digest, header: &str) -> Vec<u8> {
    format!(
        "PUT /v1/artifacts/{digest} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{header}\r\n\r\n",
        node.api
    )
    .into_bytes()
}

/// The files of the artifacts that a node holds, parts included.
pub(crate) fn artifacts(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("artifacts")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_good_component_is_refused_with_its_reason() {
    let cluster = Cluster::found(1).await;
    let node = &cluster.nodes[0];
    with_hello(&cluster).await;
    let neighbour = Neighbour::of(&cluster.http, node);
    let before = artifacts(&node.dir);
    let refuse = |name: &str, bytes: &[u8], exit: i32, code: &str, words: &[&str]| {
        let path = cluster.component(name, bytes);
        // Again too: what was found out once may be kept, but not for an acceptance.
        for _ in 0..2 {
            refused(&node.cli(&["deploy", &path]), exit, code, words);
        }
    };
    refuse("text", b"hello", 2, "SW-RUNTIME-NOT-WASM", &["deploying default/text"]);
    refuse("empty", b"", 2, "SW-CLI-NO-COMPONENT", &["empty.wasm"]);
    refuse("core", &fixtures::core_module(), 2, "SW-RUNTIME-CORE-MODULE", &["component new"]);
    // All that is missing, in one go.
    let missing = ["acme:db/sql@1.0.0", "acme:db/cache@1.2.0"];
    let strange = fixtures::unknown_imports();
    refuse("strange", &strange, 2, "SW-RUNTIME-MISSING-IMPORTS", &missing);
    refuse("mute", &fixtures::no_handler(), 2, "SW-RUNTIME-NO-HANDLER", &["wasi:http"]);
    let good = fixtures::hello_p3();
    refuse("cut", &good[..good.len() / 2], 2, "SW-RUNTIME-INVALID-COMPONENT", &["default/cut"]);
    let http = &cluster.http;
    let digest = Digest::of(&good);
    let wrong = node.api_url(&format!("/v1/artifacts/{digest}"));
    let answer = request(http, "PUT", &wrong, fixtures::echo_p2()).await.unwrap();
    problem(&answer, 422, "SW-ARTIFACT-DIGEST", &[&digest.to_string()]);
    let answer = request(http, "PUT", &node.api_url("/v1/artifacts/banana"), "x").await.unwrap();
    problem(&answer, 400, "SW-API-BAD-REQUEST", &["banana"]);
    // Nothing of all this is kept, and no function was made.
    assert_eq!(artifacts(&node.dir), before);
    let list: Value =
        serde_json::from_str(&node.cli_ok(&["-o", "json", "get", "functions"])).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    let answer = get(http, &node.url("/nowhere")).await.unwrap();
    problem(&answer, 404, "SW-MESH-NO-ROUTE", &["/nowhere"]);
    neighbour.fine().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_too_large_or_breaks_off_leaves_nothing() {
    let cluster = Cluster::found(1).await;
    let node = &cluster.nodes[0];
    with_hello(&cluster).await;
    let neighbour = Neighbour::of(&cluster.http, node);
    let before = artifacts(&node.dir);
    let large = cluster.component("large", &COMPONENT);
    std::fs::File::options().append(true).open(&large).unwrap().set_len(MAX_COMPONENT + 1).unwrap();
    // Whoever announces it is stopped at once, and sees the answer although it is still sending.
    for _ in 0..10 {
        let start = Instant::now();
        let output = node.cli(&["deploy", &large]);
        refused(&output, 2, "SW-ARTIFACT-TOO-LARGE", &["67108865", "64MiB", "--max-component"]);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
    // Whoever does not is stopped when it is over.
    let digest = Digest::of(b"whatever");
    let mut stream = TcpStream::connect(node.api).await.unwrap();
    let chunk = {
        let mut chunk = format!("{:x}\r\n", 1 << 20).into_bytes();
        chunk.extend(COMPONENT.iter().copied().chain(std::iter::repeat(0)).take(1 << 20));
        chunk.extend(b"\r\n");
        chunk
    };
    stream.write_all(&put(node, &digest, "transfer-encoding: chunked")).await.unwrap();
    for _ in 0..65 {
        stream.write_all(&chunk).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    problem(&read_answer(&mut stream).await, 413, "SW-ARTIFACT-TOO-LARGE", &["64MiB"]);

    // Broken off in the middle: with a length, and in chunks.
    let good = fixtures::hello_p3();
    let (digest, half) = (Digest::of(&good), &good[..good.len() / 2]);
    let head = put(node, &digest, &format!("content-length: {}", good.len()));
    let told = format!("after {} bytes", half.len());
    problem(&raw(node.api, &[&head, half]).await, 400, "SW-ARTIFACT-TRUNCATED", &[&told]);
    let head = put(node, &digest, "transfer-encoding: chunked");
    let size = format!("{:x}\r\n", half.len());
    let answer = raw(node.api, &[&head, size.as_bytes(), half]).await;
    problem(&answer, 400, "SW-ARTIFACT-TRUNCATED", &[&told]);
    assert_eq!(artifacts(&node.dir), before, "a part was left behind");
    // The next one is whole.
    let url = node.api_url(&format!("/v1/artifacts/{digest}"));
    let answer = request(&cluster.http, "PUT", &url, good).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    neighbour.fine().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_is_refused_by_file_line_column_and_the_nearest_name() {
    let cluster = Cluster::found(1).await;
    let node = &cluster.nodes[0];
    with_hello(&cluster).await;
    let neighbour = Neighbour::of(&cluster.http, node);
    let base = cluster.base.path();
    // swarmer.toml: syntax, an unknown field, a wrong type, a rule, a component that is not there.
    let dir = base.join("app");
    std::fs::create_dir(&dir).unwrap();
    let toml = dir.join("swarmer.toml");
    let file = toml.to_str().unwrap().to_owned();
    let entry = "name = \"x\"\n\n[[function]]\nname = \"x\"\ncomponent = \"x.wasm\"\n";
    for (text, place, words) in [
        ("name = \n".to_owned(), ":1:", vec![]),
        (format!("{entry}timout = \"5s\"\n"), ":6:1", vec!["timout", "did you mean `timeout`"]),
        (format!("{entry}concurrency = \"many\"\n"), ":6:15", vec!["u32"]),
        (format!("{entry}memory = \"12 bananas\"\n"), ":6:10", vec!["bananas"]),
        (entry.replace("\"x\"\ncomp", "\"X!\"\ncomp"), ":3:1", vec!["metadata.name", "X!"]),
        (format!("{entry}{}", &entry[12..]), ":6:1", vec!["two functions"]),
        ("name = \"x\"\n".to_owned(), "", vec!["[[function]]"]),
    ] {
        std::fs::write(&toml, &text).unwrap();
        let place = format!("{file}{place}");
        let words: Vec<&str> = words.into_iter().chain([place.as_str()]).collect();
        refused(&node.cli(&["deploy", dir.to_str().unwrap()]), 2, "SW-CLI-MANIFEST", &words);
    }
    std::fs::write(&toml, entry).unwrap();
    refused(&node.cli(&["deploy", &file]), 3, "SW-CLI-FILE", &["x.wasm"]);

    // Resources: YAML that is none, an unknown field, a rule.
    let digest = Digest::of(&fixtures::hello_p2());
    let resource = |spec: &str| {
        format!(
            "apiVersion: swarmer/v1\nkind: Function\nmetadata:\n  name: y\nspec:\n  \
             component: {digest}\n{spec}"
        )
    };
    let yaml = base.join("y.yaml");
    let file = yaml.to_str().unwrap();
    let apply = |text: &str| {
        std::fs::write(&yaml, text).unwrap();
        node.cli(&["apply", "-f", file])
    };
    let output = apply(&resource("  env: [unclosed\n"));
    refused(&output, 2, "SW-CLI-MANIFEST", &[file, "line", "column"]);
    let output = apply("kind: Function\n");
    refused(&output, 2, "SW-CLI-MANIFEST", &[file, "metadata.name"]);
    // By file, line and column, and all in one go; `diff` refuses what `apply` refuses.
    let at = |place: &str| format!("{file}:{place}");
    for (text, code, words) in [
        (
            resource("  limtis: {}\n"),
            "SW-CLI-MANIFEST",
            vec![at("7:3"), "spec.limtis".into(), "did you mean `limits`".into()],
        ),
        (
            resource("  limits: {timout: 5s}\n  routes:\n  - pth: /a\n"),
            "SW-CLI-MANIFEST",
            vec![
                at("7:12"),
                "spec.limits.timout".into(),
                "did you mean `timeout`".into(),
                at("9:5"),
                "spec.routes[0].pth".into(),
            ],
        ),
        (
            resource("").replace("component", "componnt"),
            "SW-CLI-MANIFEST",
            vec![at("6:3"), "did you mean `component`".into(), "`component` is missing".into()],
        ),
        (
            resource("  limits:\n    memory: 12 bananas\n"),
            "SW-CLI-MANIFEST",
            vec![at("8:5"), "spec.limits.memory".into(), "bananas".into()],
        ),
        (
            resource("  limits:\n    memory: 9999GiB\n"),
            "SW-MODEL-INVALID",
            vec![at("8:5"), "spec.limits.memory".into(), "9999GiB".into(), "4GiB".into()],
        ),
        (
            resource("").replace("Function", "Funktion"),
            "SW-CLI-USAGE",
            vec![at("2:1"), "Funktion".into(), "did you mean function".into()],
        ),
        (
            resource("").replace(&digest.to_string(), &Digest::of(b"nobody").to_string()),
            "SW-ARTIFACT-MISSING",
            vec!["default/y".into()],
        ),
    ] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        refused(&apply(&text), 2, code, &words);
        refused(&node.cli(&["diff", "-f", file]), 2, code, &words);
    }
    let output = apply(&resource("  routes: [{path: /hello}]\n"));
    refused(&output, 4, "SW-API-ROUTE-TAKEN", &["/hello"]);
    refused(&node.cli(&["diff", "-f", file]), 4, "SW-API-ROUTE-TAKEN", &["/hello"]);
    // JSON is placed as well, and no resource is written if another one cannot be read.
    let function = |name: &str, field: &str| {
        format!(
            "{{\"apiVersion\": \"swarmer/v1\", \"kind\": \"Function\",\n  \
             \"metadata\": {{\"name\": \"{name}\"}},\n  \"spec\": {{\"{field}\": \"{digest}\"}}}}"
        )
    };
    let (good, bad) = (function("good", "component"), function("bad", "componant"));
    let output = apply(&format!("{{\"items\": [\n{good},\n{bad}\n]}}\n"));
    refused(&output, 2, "SW-CLI-MANIFEST", &[&at("7:12"), "did you mean `component`"]);
    let output = node.cli(&["get", "function", "good"]);
    refused(&output, 3, "SW-API-NOT-FOUND", &["good"]);
    let output = node.cli(&["apply", "-f", "/no/such/file"]);
    refused(&output, 3, "SW-CLI-FILE", &["/no/such/file"]);

    // The same by the API alone.
    let url = node.api_url("/v1/namespaces/default/functions/ghost");
    let ghost = |spec: &str| {
        format!(
            r#"{{"apiVersion":"swarmer/v1","kind":"Function","metadata":{{"name":"ghost"}},"spec":{spec}}}"#
        )
    };
    let http = &cluster.http;
    let missing = Digest::of(b"nobody has this");
    let body = ghost(&format!(r#"{{"component":"{missing}"}}"#));
    let answer = request(http, "PUT", &url, body).await.unwrap();
    problem(&answer, 422, "SW-ARTIFACT-MISSING", &[&missing.short().to_string()]);
    let body =
        ghost(&format!(r#"{{"component":"{digest}","routes":[{{"path":"/g","hsts":[]}}]}}"#));
    let answer = request(http, "PUT", &url, body).await.unwrap();
    let words = ["spec.routes[0].hsts", "did you mean `hosts`"];
    problem(&answer, 400, "SW-MODEL-MALFORMED", &words);
    assert_eq!(answer.json()["violations"][0]["field"], words[0]);
    let answer = request(http, "PUT", &format!("{url}?dryrun=true"), "{}").await.unwrap();
    problem(&answer, 400, "SW-API-BAD-REQUEST", &["dryrun"]);
    let answer = request(http, "PUT", &url, "{\n  \"kind\":").await.unwrap();
    problem(&answer, 400, "SW-MODEL-MALFORMED", &["line 2", "column"]);
    let answer = request(http, "PUT", &url, vec![b' '; 100 << 10]).await.unwrap();
    problem(&answer, 413, "SW-API-BODY-TOO-LARGE", &["65536"]);

    // The node's own file.
    let mut other = Node::new(base, "other");
    let config = base.join("node.toml");
    std::fs::write(&config, "region = \"eu\"\nadvertize = \"10.0.0.1:7400\"\n").unwrap();
    other.extra = vec!["--config".into(), config.to_str().unwrap().into()];
    let output = other.fails(&[], None, 1, Duration::from_secs(10));
    let place = format!("{}:2:1", config.display());
    refused(&output, 2, "SW-NODE-CONFIG", &[&place, "did you mean `advertise`"]);
    other.extra = vec!["--region".into(), "Not A Region".into()];
    let output = other.fails(&[], None, 1, Duration::from_secs(10));
    refused(&output, 2, "SW-NODE-CONFIG", &["region", "Not A Region"]);
    neighbour.fine().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_name_from_two_nodes_at_once_is_ordered_or_refused_never_lost() {
    let cluster = Cluster::found(3).await;
    with_hello(&cluster).await;
    let neighbour = Neighbour::of(&cluster.http, &cluster.nodes[0]);
    let hello = cluster.component("hello", &fixtures::hello_p2());
    let (one, two) = (&cluster.nodes[1], &cluster.nodes[2]);
    let both = |left: &[&str], right: &[&str]| {
        std::thread::scope(|scope| {
            let left = scope.spawn(|| one.cli(left));
            let right = scope.spawn(|| two.cli(right));
            [left.join().unwrap(), right.join().unwrap()]
        })
    };
    // Nobody said what it had seen: both are taken, one after the other; the one that came first
    // is the version before, to which `rollout undo` goes back.
    let deploy = |greeting| ["deploy", &hello, "--name", "c", "--env", greeting];
    let outputs = both(&deploy("GREETING=1"), &deploy("GREETING=2"));
    let url = |i: usize| cluster.nodes[i].api_url("/v1/namespaces/default/functions/c");
    let newest = format!("{}?consistency=linearizable", url(0));
    let function = get(&cluster.http, &newest).await.unwrap().json();
    let versions = function["status"]["versions"].as_array().unwrap();
    let mut greetings: Vec<&str> =
        versions.iter().map(|version| version["env"]["GREETING"].as_str().unwrap()).collect();
    let last = function["spec"]["env"]["GREETING"].as_str().unwrap();
    assert_eq!(greetings.last(), Some(&last), "{function}");
    greetings.sort_unstable();
    assert_eq!(greetings, ["1", "2"], "both were acknowledged: {function}, {outputs:?}");
    let last = if last == "1" { 0 } else { 1 };
    assert!(outputs[last].status.success(), "{outputs:?}");
    // The other one came to serve before it was overtaken, or is told that it was.
    if !outputs[1 - last].status.success() {
        refused(&outputs[1 - last], 4, "SW-ROLLOUT-OVERTAKEN", &["version 1", "version 2"]);
    }

    // Both changed the one that they had read: one of them is told that it is not so any more.
    for round in 0..3 {
        let function = get(&cluster.http, &url(0)).await.unwrap().json();
        let revision = function["metadata"]["revision"].as_u64().unwrap();
        let files = ["left", "right"].map(|side| {
            let mut function = function.clone();
            function["spec"]["env"]["GREETING"] = format!("{side}{round}").into();
            let path = cluster.base.path().join(format!("{side}.json"));
            std::fs::write(&path, function.to_string()).unwrap();
            path.to_str().unwrap().to_owned()
        });
        // The followers of the write must have what was read.
        for i in [1, 2] {
            crate::common::until("the revision is there", || async {
                let function = get(&cluster.http, &url(i)).await.ok()?.json();
                (function["metadata"]["revision"] == revision).then_some(())
            })
            .await;
        }
        let outputs = both(&["apply", "-f", &files[0]], &["apply", "-f", &files[1]]);
        let winner = outputs.iter().position(|output| output.status.success());
        let winner = winner.unwrap_or_else(|| panic!("both were refused: {outputs:?}"));
        let seen = format!("revision {revision}");
        refused(&outputs[1 - winner], 4, "SW-API-CONFLICT", &["default/c", &seen]);
        let wanted = format!("{}{round}", ["left", "right"][winner]);
        let now = get(&cluster.http, &url(winner + 1)).await.unwrap().json();
        assert_eq!(now["spec"]["env"]["GREETING"], wanted.as_str(), "{now}");
    }
    neighbour.fine().await;
}
