//! Real nodes as processes, on free loopback ports, ended with the test.

use std::{
    collections::BTreeSet,
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;

/// How long anything may take on a busy machine in a debug build.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test; `SWARMER_BIN` names another one, a release build for example.
pub(crate) fn binary() -> String {
    std::env::var("SWARMER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_swarmer").to_owned())
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

pub(crate) type Http = Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>;

pub(crate) fn http() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

pub(crate) async fn request(
    http: &Http,
    method: &str,
    url: &str,
    body: impl Into<Bytes>,
) -> Result<Answer, String> {
    request_with(http, method, url, &[], body).await
}

/// The same with further headers.
pub(crate) async fn request_with(
    http: &Http,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Answer, String> {
    let mut request =
        http::Request::builder().method(method).uri(url).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).map_err(|error| error.to_string())?;
    let answer = async {
        let response = http.request(request).await.map_err(|error| format!("{error:?}"))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    };
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err("no answer".into()))
}

pub(crate) async fn get(http: &Http, url: &str) -> Result<Answer, String> {
    request(http, "GET", url, Bytes::new()).await
}

/// Asks again until it holds. Another process can only be asked; the deadline is generous, and
/// every use of it ends as soon as what it waits for is so.
pub(crate) async fn until<T, F>(what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not so after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a process ends by itself; one that does not is killed, and fails the test.
pub(crate) fn ended(child: &mut Child) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("a process goes on after {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A port of loopback that nothing listens on, given to nobody else in this process. Below the
/// range from which the system takes ports for outgoing connections: there, one that is free now
/// may be taken by the time a node binds it.
pub(crate) fn free() -> SocketAddr {
    static GIVEN: parking_lot::Mutex<BTreeSet<u16>> = parking_lot::Mutex::new(BTreeSet::new());
    loop {
        let port = rand::random_range(10_000..32_000);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let unused = TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok();
        if unused && GIVEN.lock().insert(port) {
            return address;
        }
    }
}

/// One node.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) log: PathBuf,
    pub(crate) extra: Vec<String>,
    /// What the node is started by, if not by itself: a program that becomes the node.
    pub(crate) wrap: Vec<String>,
    child: Option<Child>,
}

impl Node {
    pub(crate) fn new(base: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            dir: base.join(name),
            listen: free(),
            http: free(),
            api: free(),
            log: base.join(format!("{name}.log")),
            extra: Vec::new(),
            wrap: Vec::new(),
            child: None,
        }
    }

    pub(crate) fn command(&self, seeds: &[String], token: Option<&Path>, expect: usize) -> Command {
        let binary = binary();
        let mut words = self.wrap.iter().chain([&binary]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .env_remove("SWARMER_LOG")
            .env_remove("SWARMER_BIN")
            .arg("node")
            .args(["--name", &self.name])
            .arg("--data-dir")
            .arg(&self.dir)
            .args(["--listen", &self.listen.to_string()])
            .args(["--http", &self.http.to_string()])
            .args(["--api", &self.api.to_string()])
            .args(["--bootstrap-expect", &expect.to_string()])
            .args(["--die-with", &std::process::id().to_string()])
            .args(&self.extra);
        if !seeds.is_empty() {
            command.args(["--join", &seeds.join(",")]);
        }
        if let Some(token) = token {
            command.arg("--token-file").arg(token);
        }
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn start(&mut self, seeds: &[String], token: Option<&Path>, expect: usize) {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = self.command(seeds, token, expect);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Takes over a process that was started from its command.
    pub(crate) fn adopt(&mut self, child: Child) {
        self.child = Some(child);
    }

    /// Starts it, which must fail within `limit`; gives what it said.
    pub(crate) fn fails(
        &self,
        seeds: &[String],
        token: Option<&Path>,
        expect: usize,
        limit: Duration,
    ) -> Output {
        let start = Instant::now();
        let mut command = self.command(seeds, token, expect);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && start.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(10));
        }
        let late = child.try_wait().unwrap().is_none();
        if late {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        assert!(!late, "{} runs on: {}", self.name, String::from_utf8_lossy(&output.stderr));
        output
    }

    /// SIGSTOP or SIGCONT.
    pub(crate) fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            let id = child.id().to_string();
            let status = Command::new("kill").args([name, &id]).status().unwrap();
            assert!(status.success());
        }
    }

    /// Anonymous memory that the process has in RAM.
    pub(crate) fn anonymous_bytes(&self) -> u64 {
        let id = self.child.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes * 1024
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM; waits for the end.
    pub(crate) fn stop(&mut self) -> Option<std::process::ExitStatus> {
        let mut child = self.child.take()?;
        let status = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(status.success());
        Some(child.wait().unwrap())
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                self.child = None;
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "{} goes on:\n{}", self.name, self.log_text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    pub(crate) fn api_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.api)
    }

    /// Runs the command line against this node.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(binary())
            .env_remove("SWARMER_LOG")
            .env_remove("SWARMER_BIN")
            .args(["--addr", &format!("http://{}", self.api)])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The same, which must end well; gives standard output.
    pub(crate) fn cli_ok(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        assert!(
            output.status.success(),
            "{arguments:?} ended with {}\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.log_text()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) async fn ready(&mut self, http: &Http) {
        let start = Instant::now();
        loop {
            if get(http, &self.api_url("/readyz")).await.is_ok_and(|answer| answer.status == 200) {
                return;
            }
            assert!(self.is_running(), "{} ended:\n{}", self.name, self.log_text());
            assert!(start.elapsed() < PATIENCE, "{} is not ready:\n{}", self.name, self.log_text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Founders of one cluster, and those that joined.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) seeds: Vec<String>,
    pub(crate) token: PathBuf,
    pub(crate) founders: usize,
    pub(crate) http: Http,
    pub(crate) base: tempfile::TempDir,
}

impl Cluster {
    /// Makes ready for `founders` nodes, without starting them.
    pub(crate) fn prepare(founders: usize) -> Self {
        let base = tempfile::tempdir().unwrap();
        let output = Command::new(binary()).args(["token", "bootstrap"]).output().unwrap();
        assert!(output.status.success());
        let token = base.path().join("founding.token");
        std::fs::write(&token, &output.stdout).unwrap();
        let nodes: Vec<Node> =
            (0..founders).map(|i| Node::new(base.path(), &format!("n{}", i + 1))).collect();
        let seeds = nodes.iter().map(|node| node.listen.to_string()).collect();
        Self { nodes, seeds, token, founders, http: http(), base }
    }

    pub(crate) fn start(&mut self, i: usize) {
        let (seeds, token) = (self.seeds.clone(), self.token.clone());
        self.nodes[i].start(&seeds, Some(&token), self.founders);
    }

    /// A running cluster of founders.
    pub(crate) async fn found(founders: usize) -> Self {
        let mut cluster = Self::prepare(founders);
        for i in 0..founders {
            cluster.start(i);
        }
        cluster.all_ready().await;
        cluster
    }

    pub(crate) async fn all_ready(&mut self) {
        let http = self.http.clone();
        for i in 0..self.nodes.len() {
            // One that ended is the reason why the others wait.
            for node in &mut self.nodes {
                assert!(node.is_running(), "{} ended:\n{}", node.name, node.log_text());
            }
            self.nodes[i].ready(&http).await;
        }
    }

    /// A join token, in a file.
    pub(crate) fn join_token(&self, arguments: &[&str]) -> PathBuf {
        let text = self.nodes[0].cli_ok(&[&["token", "create"], arguments].concat());
        let path = self.base.path().join(format!("join-{:016x}.token", rand::random::<u64>()));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Adds and starts a node that joins.
    pub(crate) async fn join(&mut self, name: &str) -> usize {
        let token = self.join_token(&[]);
        let mut node = Node::new(self.base.path(), name);
        node.start(&self.seeds, Some(&token), 1);
        let http = self.http.clone();
        node.ready(&http).await;
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Writes a component to a file.
    pub(crate) fn component(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.base.path().join(format!("{name}.wasm"));
        std::fs::write(&path, bytes).unwrap();
        path.to_string_lossy().into_owned()
    }

    /// What the node at `i` says of the cluster.
    pub(crate) async fn status(&self, i: usize) -> Value {
        let url = self.nodes[i].api_url("/v1/status");
        get(&self.http, &url).await.map(|answer| answer.json()).unwrap_or(Value::Null)
    }

    /// A metric of the node at `i` that is a whole number, by its name and labels.
    pub(crate) async fn metric(&self, i: usize, name: &str) -> u64 {
        let text = get(&self.http, &self.nodes[i].api_url("/metrics")).await.unwrap().text();
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        values.next().unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// The index of the node that leads, by the word of node `i`.
    pub(crate) async fn leader(&self, i: usize) -> usize {
        until("a leader is known", || async {
            let status = self.status(i).await;
            let name = status["leader"]["name"].as_str()?.to_owned();
            self.nodes.iter().position(|node| node.name == name)
        })
        .await
    }

    /// Waits until every one of these nodes answers 200 on a path.
    pub(crate) async fn serves(&self, nodes: &[usize], path: &str) {
        for i in nodes {
            let url = self.nodes[*i].url(path);
            until(&format!("{url} answers"), || async {
                get(&self.http, &url).await.ok().filter(|answer| answer.status == 200)
            })
            .await;
        }
    }
}
