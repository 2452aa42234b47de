//! A cluster of real nodes on loopback, founded as users found one.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    component::ANSWER,
    connection::ask,
    process::{Process, free_addresses},
};

/// Founding may take so long, on a machine that does other things too.
const FOUNDING: Duration = Duration::from_secs(90);
/// A command of the client may take so long.
const COMMAND: Duration = Duration::from_secs(150);
/// A deployed function may take so long until every ingress answers.
const SERVING: Duration = Duration::from_secs(60);
/// How often one looks whether it is so far.
const POLL: Duration = Duration::from_millis(50);

/// One node.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) http: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) process: Process,
    /// How it was started: the program and its arguments.
    pub(crate) command: Vec<String>,
}

/// The nodes; they are killed when this is dropped.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    swarmer: PathBuf,
}

impl Cluster {
    /// Starts so many nodes with a founding token and waits until each is ready and sees all.
    pub(crate) async fn found(swarmer: &Path, count: usize, folder: &Path) -> Result<Self> {
        let mut bootstrap = Command::new(swarmer);
        bootstrap.args(["token", "bootstrap"]);
        let token = succeeded(output(bootstrap).await?)?;
        let token_file = folder.join("founding.token");
        std::fs::write(&token_file, token)?;
        let addresses = free_addresses(3 * count)?;
        let seeds: Vec<String> = addresses[..count].iter().map(SocketAddr::to_string).collect();
        let mut nodes = Vec::new();
        for (i, listen) in addresses[..count].iter().enumerate() {
            let (http, api) = (addresses[count + i], addresses[2 * count + i]);
            let name = format!("bench-{}", i + 1);
            let mut command = Command::new(swarmer);
            command
                .args(["node", "--name", &name])
                .arg("--data-dir")
                .arg(folder.join(&name))
                .args(["--listen", &listen.to_string()])
                .args(["--http", &http.to_string()])
                .args(["--api", &api.to_string()])
                .args(["--join", &seeds.join(",")])
                .args(["--bootstrap-expect", &count.to_string()])
                .arg("--token-file")
                .arg(&token_file);
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            let words = words.map(|word| word.to_string_lossy().into_owned()).collect();
            let process = Process::start(&name, folder, &mut command)?;
            nodes.push(Node { name, http, api, process, command: words });
        }
        let mut cluster = Self { nodes, swarmer: swarmer.to_owned() };
        cluster.until_whole().await?;
        Ok(cluster)
    }

    async fn until_whole(&mut self) -> Result<()> {
        let start = Instant::now();
        let count = self.nodes.len();
        for node in &mut self.nodes {
            loop {
                node.process.check()?;
                let why = match not_whole(node, count).await {
                    Ok(None) => break,
                    Ok(Some(why)) => why,
                    Err(error) => format!("{error:#}"),
                };
                if start.elapsed() > FOUNDING {
                    let lines = node.process.last_lines();
                    bail!("{}: {why} after {FOUNDING:?}; its last lines:\n{lines}", node.name);
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Deploys a component by the command line, as a user does.
    pub(crate) async fn deploy(&self, node: usize, file: &Path, more: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.swarmer);
        command.arg("deploy").arg(file).args(more);
        command.args(["--addr", &format!("http://{}", self.nodes[node].api)]);
        succeeded(output(command).await?)?;
        Ok(())
    }

    /// Waits until every ingress answers this path with an answer of one and the same node, and
    /// gives that node.
    pub(crate) async fn server_of(&mut self, path: &str) -> Result<usize> {
        let start = Instant::now();
        loop {
            let mut servers = Vec::new();
            let mut seen = String::new();
            for node in &self.nodes {
                let (status, server, body) = ask(node.http, path, "x-swarmer-node").await?;
                if status == 200 && body == ANSWER {
                    servers.extend(server);
                } else {
                    let body = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
                    seen = format!("{} answered {status}: {body}", node.name);
                }
            }
            servers.dedup();
            if let [server] = &servers[..]
                && seen.is_empty()
                && let Some(index) = self.nodes.iter().position(|node| node.name == *server)
            {
                return Ok(index);
            }
            if start.elapsed() > SERVING {
                bail!("{path}: no one node serves it after {SERVING:?}; by {servers:?}; {seen}");
            }
            self.check()?;
            tokio::time::sleep(POLL).await;
        }
    }

    /// Fails if a node ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(|node| node.process.check())
    }
}

/// Why this node does not see the whole cluster, if it does not.
async fn not_whole(node: &Node, count: usize) -> Result<Option<String>> {
    let (status, _, _) = ask(node.api, "/readyz", "").await?;
    if status != 200 {
        return Ok(Some(format!("/readyz answers {status}")));
    }
    let (_, _, status) = ask(node.api, "/v1/status", "").await?;
    let status: Value = serde_json::from_slice(&status)?;
    if !status["leader"]["name"].is_string() {
        return Ok(Some("no leader".to_owned()));
    }
    let (_, _, members) = ask(node.api, "/v1/members", "").await?;
    let members: Value = serde_json::from_slice(&members)?;
    let members = members["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let alive = members.iter().filter(|member| member["state"] == "alive").count();
    Ok((alive != count).then(|| format!("{alive} of {count} members are alive")))
}

/// Runs a command of the client.
pub(crate) async fn output(mut command: Command) -> Result<Output> {
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("SWARMER_") {
            command.env_remove(key);
        }
    }
    let mut command = tokio::process::Command::from(command);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(COMMAND, output).await;
    output.with_context(|| format!("it took more than {COMMAND:?}: {command:?}"))?.context("run it")
}

/// What it printed, if it succeeded.
fn succeeded(output: Output) -> Result<Vec<u8>> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "swarmer ended with {}: {errors}", output.status);
    Ok(output.stdout)
}
