//! What is measured: three nodes, and how each of both speaks.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{VALUE_BYTES, etcd};
use crate::{
    cluster::Cluster,
    connection::{Connection, post},
    process::Process,
};

/// A question outside of a measured run may take so long.
const ANSWER: Duration = Duration::from_secs(5);
/// How often one looks whether it is so far.
const POLL: Duration = Duration::from_millis(20);

/// A node, and how it is started again.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) api: SocketAddr,
    pub(super) command: Vec<String>,
    pub(super) process: Option<Process>,
}

/// How its nodes are spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Swarmer,
    Etcd,
}

/// What the load needs to know; shared by its clients.
pub(super) struct Speech {
    kind: Kind,
    pub(super) nodes: Vec<SocketAddr>,
    /// The tokens of the leases, one for each client.
    tokens: Vec<u64>,
}

/// Three nodes.
pub(super) struct Subject {
    kind: Kind,
    members: Vec<Member>,
    folder: PathBuf,
    speech: Arc<Speech>,
}

/// A value of the right length that differs each time.
pub(super) fn value(number: u64) -> String {
    format!("{number:0VALUE_BYTES$}")
}

impl Speech {
    /// The bytes of a put by this client.
    pub(super) fn put(&self, to: SocketAddr, client: usize, number: u64) -> Vec<u8> {
        let value = value(number);
        match self.kind {
            Kind::Swarmer => {
                let token = self.tokens[client % self.tokens.len()];
                let path = format!("{}/renew", lease(client % self.tokens.len()));
                let body = format!("{{\"token\":{token},\"annotations\":{{\"v\":\"{value}\"}}}}");
                post(to, &path, &body)
            }
            Kind::Etcd => {
                let (key, value) = (STANDARD.encode(lease(client)), STANDARD.encode(value));
                let body = format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}");
                post(to, "/v3/kv/put", &body)
            }
        }
    }

    /// The bytes of a linearizable get by this client.
    pub(super) fn get(&self, to: SocketAddr, client: usize) -> Vec<u8> {
        match self.kind {
            Kind::Swarmer => {
                let path = format!("{}?consistency=linearizable", lease(client));
                crate::connection::get(to, &path)
            }
            Kind::Etcd => {
                let key = STANDARD.encode(lease(client));
                post(to, "/v3/kv/range", &format!("{{\"key\":\"{key}\"}}"))
            }
        }
    }

    /// The bytes that open a watch of all keys, and how a value shows in it.
    pub(super) fn watch(&self, to: SocketAddr) -> Vec<u8> {
        match self.kind {
            Kind::Swarmer => crate::connection::get(to, "/v1/watch?prefix=leases/default/"),
            Kind::Etcd => {
                let (key, end) = (STANDARD.encode(lease(0)), STANDARD.encode("/v2"));
                let create = format!("{{\"key\":\"{key}\",\"range_end\":\"{end}\"}}");
                post(to, "/v3/watch", &format!("{{\"create_request\":{create}}}"))
            }
        }
    }

    /// How this value shows in an event.
    pub(super) fn shown(&self, number: u64) -> Vec<u8> {
        match self.kind {
            Kind::Swarmer => value(number).into_bytes(),
            Kind::Etcd => STANDARD.encode(value(number)).into_bytes(),
        }
    }
}

/// The path of a client's lease; in etcd the same text is the key.
fn lease(client: usize) -> String {
    format!("/v1/namespaces/default/leases/bench-{client}")
}

/// Asks once, on a connection of its own; fails unless the answer is good.
pub(super) async fn exchange(to: SocketAddr, request: &[u8]) -> Result<Value> {
    let ask = async {
        let mut connection = Connection::open(to).await?;
        let answer = connection.exchange(request).await?;
        let body = String::from_utf8_lossy(answer.body).into_owned();
        ensure!(answer.status < 300, "status {}: {body}", answer.status);
        Ok(serde_json::from_str(&body).unwrap_or(Value::Null))
    };
    tokio::time::timeout(ANSWER, ask).await.with_context(|| format!("{to} is silent"))?
}

impl Subject {
    pub(super) async fn swarmer(binary: &Path, folder: &Path) -> Result<Self> {
        let cluster = Cluster::found(binary, 3, folder).await?;
        let members = cluster.nodes.into_iter().map(|node| Member {
            name: node.name,
            api: node.api,
            command: node.command,
            process: Some(node.process),
        });
        Ok(Self::new(Kind::Swarmer, members.collect(), folder))
    }

    pub(super) async fn etcd(binary: &Path, folder: &Path) -> Result<Self> {
        let mut subject = Self::new(Kind::Etcd, etcd::members(binary, folder)?, folder);
        subject.start_all()?;
        subject.until_serving().await?;
        Ok(subject)
    }

    fn new(kind: Kind, members: Vec<Member>, folder: &Path) -> Self {
        let nodes = members.iter().map(|member| member.api).collect();
        let speech = Arc::new(Speech { kind, nodes, tokens: Vec::new() });
        Self { kind, members, folder: folder.to_owned(), speech }
    }

    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Swarmer => "Swarmer",
            Kind::Etcd => "etcd",
        }
    }

    pub(super) fn nodes(&self) -> usize {
        self.members.len()
    }

    pub(super) fn speech(&self) -> Arc<Speech> {
        Arc::clone(&self.speech)
    }

    /// Makes a key for each client.
    pub(super) async fn prepare(&mut self, clients: usize) -> Result<()> {
        let to = self.members[0].api;
        let mut tokens = Vec::new();
        for client in 0..clients {
            match self.kind {
                Kind::Swarmer => {
                    let wanted = json!({
                        "holder": "bench", "ttl": "1h", "annotations": { "v": value(0) },
                    });
                    let path = format!("{}/acquire", lease(client));
                    let held = exchange(to, &post(to, &path, &wanted.to_string())).await?;
                    tokens.push(held["status"]["token"].as_u64().context("no token")?);
                }
                Kind::Etcd => {
                    exchange(to, &self.speech.put(to, client, 0)).await?;
                }
            }
        }
        let (kind, nodes) = (self.kind, self.speech.nodes.clone());
        self.speech = Arc::new(Speech { kind, nodes, tokens });
        Ok(())
    }

    /// The term of the leader.
    pub(super) async fn term(&self) -> Result<u64> {
        let to = self.members[0].api;
        match self.kind {
            Kind::Swarmer => {
                let status = exchange(to, &crate::connection::get(to, "/v1/status")).await?;
                status["term"].as_u64().context("no term")
            }
            Kind::Etcd => {
                let status = exchange(to, &post(to, "/v3/maintenance/status", "{}")).await?;
                etcd::number(&status["raftTerm"]).context("no term")
            }
        }
    }

    /// Which of the nodes leads.
    pub(super) async fn leader(&self) -> Result<usize> {
        let start = Instant::now();
        loop {
            for (i, member) in self.members.iter().enumerate() {
                let to = member.api;
                let leads = match self.kind {
                    Kind::Swarmer => {
                        let get = crate::connection::get(to, "/v1/status");
                        exchange(to, &get).await.is_ok_and(|s| s["leader"]["name"] == member.name)
                    }
                    Kind::Etcd => {
                        let post = post(to, "/v3/maintenance/status", "{}");
                        exchange(to, &post).await.is_ok_and(|s| etcd::leads(&s))
                    }
                };
                if leads {
                    return Ok(i);
                }
            }
            if start.elapsed() > ANSWER {
                bail!("{}: no leader after {ANSWER:?}", self.name());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until every node answers a linearizable get.
    pub(super) async fn until_serving(&mut self) -> Result<()> {
        for i in 0..self.members.len() {
            let to = self.members[i].api;
            loop {
                self.check()?;
                let get = self.speech.get(to, 0);
                let answered = async {
                    let mut connection = Connection::open(to).await?;
                    anyhow::Ok(connection.exchange(&get).await?.status)
                };
                // Without the key the answer is that it is not there.
                if let Ok(Ok(200 | 404)) = tokio::time::timeout(ANSWER, answered).await {
                    break;
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    pub(super) fn kill(&mut self, node: usize) {
        self.members[node].process = None;
    }

    pub(super) fn start(&mut self, node: usize) -> Result<()> {
        let member = &mut self.members[node];
        let mut command = std::process::Command::new(&member.command[0]);
        command.args(&member.command[1..]);
        member.process = Some(Process::start(&member.name, &self.folder, &mut command)?);
        Ok(())
    }

    pub(super) fn kill_all(&mut self) {
        (0..self.members.len()).for_each(|node| self.kill(node));
    }

    pub(super) fn start_all(&mut self) -> Result<()> {
        (0..self.members.len()).try_for_each(|node| self.start(node))
    }

    /// Fails if a node ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        let processes = self.members.iter_mut().filter_map(|member| member.process.as_mut());
        processes.into_iter().try_for_each(Process::check)
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.members.iter().filter_map(|member| member.process.as_ref())
    }

    pub(super) fn rss_bytes(&self) -> Vec<u64> {
        self.processes().map(|process| process.usage().rss_bytes).collect()
    }

    pub(super) fn cpu(&self) -> Duration {
        self.processes().map(|process| process.usage().cpu).sum()
    }

    /// What all nodes handed to the disk since they started.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.processes().map(Process::disk_bytes).sum()
    }

    /// What lies in their data directories.
    pub(super) fn folder_bytes(&self) -> u64 {
        self.members.iter().map(|member| bytes_below(&self.folder.join(&member.name))).sum()
    }
}

/// What the files of a folder take, as they are on the disk.
fn bytes_below(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
