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
/// And so much longer for each node.
const JOINING: Duration = Duration::from_secs(5);
/// A command of the client may take so long.
const COMMAND: Duration = Duration::from_secs(150);
/// A deployed function may take so long until every ingress answers.
const SERVING: Duration = Duration::from_secs(60);
/// How often one looks whether it is so far.
const POLL: Duration = Duration::from_millis(50);

/// What is added to the command of a node, told by its index, whenever it is started.
pub(crate) type Dress = fn(usize, &mut Command);

/// One node.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) listen: SocketAddr,
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
    folder: PathBuf,
    dress: Dress,
}

impl Cluster {
    /// Starts so many nodes with a founding token and waits until each is ready and sees all.
    pub(crate) async fn found(swarmer: &Path, count: usize, folder: &Path) -> Result<Self> {
        Self::found_dressed(swarmer, count, folder, |_, _| {}).await
    }

    /// The same, each with what `dress` adds to its command; so are those that join later.
    pub(crate) async fn found_dressed(
        swarmer: &Path,
        count: usize,
        folder: &Path,
        dress: Dress,
    ) -> Result<Self> {
        let mut bootstrap = Command::new(swarmer);
        bootstrap.args(["token", "bootstrap"]);
        let token = succeeded(output(bootstrap).await?)?;
        let token_file = folder.join("founding.token");
        std::fs::write(&token_file, token)?;
        let (swarmer, folder) = (swarmer.to_owned(), folder.to_owned());
        let mut cluster = Self { nodes: Vec::new(), swarmer, folder, dress };
        let addresses = free_addresses(3 * count)?;
        let seeds = &addresses[..count];
        for addresses in split(&addresses) {
            cluster.start(addresses, seeds, &token_file, Some(count))?;
        }
        cluster.until_whole().await?;
        Ok(cluster)
    }

    /// Starts so many further nodes, which join by a token, and does not wait for them.
    pub(crate) async fn join(&mut self, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let mut create = Command::new(&self.swarmer);
        create.args(["token", "create", "--uses", &count.to_string()]);
        create.args(["--addr", &format!("http://{}", self.nodes[0].api)]);
        let token_file = self.folder.join("join.token");
        std::fs::write(&token_file, succeeded(output(create).await?)?)?;
        let seeds: Vec<SocketAddr> = self.nodes.iter().map(|node| node.listen).collect();
        for addresses in split(&free_addresses(3 * count)?) {
            self.start(addresses, &seeds, &token_file, None)?;
        }
        Ok(())
    }

    fn start(
        &mut self,
        [listen, http, api]: [SocketAddr; 3],
        seeds: &[SocketAddr],
        token_file: &Path,
        founders: Option<usize>,
    ) -> Result<()> {
        let index = self.nodes.len();
        let name = format!("bench-{}", index + 1);
        let seeds: Vec<String> = seeds.iter().map(SocketAddr::to_string).collect();
        let mut command = Command::new(&self.swarmer);
        command
            .args(["node", "--name", &name])
            .arg("--data-dir")
            .arg(self.folder.join(&name))
            .args(["--listen", &listen.to_string()])
            .args(["--http", &http.to_string()])
            .args(["--api", &api.to_string()])
            .args(["--join", &seeds.join(",")])
            .arg("--token-file")
            .arg(token_file);
        if let Some(founders) = founders {
            command.args(["--bootstrap-expect", &founders.to_string()]);
        }
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words = words.map(|word| word.to_string_lossy().into_owned()).collect();
        (self.dress)(index, &mut command);
        let process = Process::start(&name, &self.folder, &mut command)?;
        self.nodes.push(Node { name, listen, http, api, process, command: words });
        Ok(())
    }

    /// Starts a node again that ended; its log begins anew.
    pub(crate) fn start_again(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        node.process.kill();
        let mut command = Command::new(&node.command[0]);
        command.args(&node.command[1..]);
        (self.dress)(index, &mut command);
        node.process = Process::start(&node.name, &self.folder, &mut command)?;
        Ok(())
    }

    /// Waits until each node is ready and sees all.
    pub(crate) async fn until_whole(&mut self) -> Result<()> {
        let start = Instant::now();
        let count = self.nodes.len();
        let patience = FOUNDING + JOINING * u32::try_from(count)?;
        for node in &mut self.nodes {
            loop {
                node.process.check()?;
                let why = match not_whole(node, count).await {
                    Ok(None) => break,
                    Ok(Some(why)) => why,
                    Err(error) => format!("{error:#}"),
                };
                if start.elapsed() > patience {
                    let lines = node.process.last_lines();
                    bail!("{}: {why} after {patience:?}; its last lines:\n{lines}", node.name);
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

/// Addresses by threes: one for each of a node's ports.
fn split(addresses: &[SocketAddr]) -> impl Iterator<Item = [SocketAddr; 3]> {
    let count = addresses.len() / 3;
    (0..count).map(move |i| [addresses[i], addresses[count + i], addresses[2 * count + i]])
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
