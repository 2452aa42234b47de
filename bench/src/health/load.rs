//! Clients: one for each node's ingress, which begins a request at a steady pace whatever became
//! of those before.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{MissedTickBehavior, timeout},
};

use crate::{
    cluster::Cluster,
    component::ANSWER,
    connection::{Connection, get},
};

/// A request may take so long; longer than its function may.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests of one client under way at most; beyond that it waits.
const MAX_OPEN: usize = 64;
/// Connections that a client keeps for the next requests.
const KEPT: usize = 4;

/// One request.
#[derive(Debug)]
pub(super) struct Seen {
    /// The node whose ingress was asked.
    pub(super) from: usize,
    pub(super) sent: Instant,
    pub(super) ended: Instant,
    /// The node that answered, by `x-swarmer-node`; for an error that which tells of it.
    pub(super) server: Option<usize>,
    /// Whether Swarmer answered instead of the function, by `x-swarmer-error`.
    pub(super) refused: bool,
    /// Why it is no right answer.
    pub(super) fault: Option<String>,
}

struct Target {
    http: SocketAddr,
    request: Vec<u8>,
    paused: AtomicBool,
    kept: Mutex<Vec<Connection>>,
}

struct Shared {
    targets: Vec<Target>,
    names: Vec<String>,
    every: Duration,
    /// Taken after each step, so it holds what came in that.
    seen: Mutex<Vec<Seen>>,
}

/// The running clients; they end when this is dropped.
pub(super) struct Load {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    /// Starts them on a thread of their own; to be called on the main thread, in whose network the
    /// new one is then.
    pub(super) fn start(cluster: &Cluster, path: &str, every: Duration) -> Result<Self> {
        let targets = cluster.nodes.iter().map(|node| Target {
            http: node.http,
            request: get(node.http, path),
            paused: AtomicBool::new(false),
            kept: Mutex::new(Vec::new()),
        });
        let names = cluster.nodes.iter().map(|node| node.name.clone()).collect();
        let (targets, seen) = (targets.collect(), Mutex::new(Vec::new()));
        let shared = Arc::new(Shared { targets, names, every, seen });
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let clients = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("load".into()).spawn(move || {
            runtime.block_on(async move {
                let mut tasks = JoinSet::new();
                for from in 0..clients.targets.len() {
                    tasks.spawn(client(Arc::clone(&clients), from));
                }
                // Ended by a word, or by the end of the one that would say it.
                let _ = stopped.await;
            });
        })?;
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Whether this node's client rests: its node is away.
    pub(super) fn pause(&self, node: usize, rests: bool) {
        let target = &self.shared.targets[node];
        target.paused.store(rests, Ordering::Relaxed);
        target.kept.lock().clear();
    }

    /// The requests that ended since this was last asked.
    pub(super) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.seen.lock())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn client(shared: Arc<Shared>, from: usize) {
    // Not all at the same moment.
    let offset = shared.every * u32::try_from(from).unwrap_or(0) / shared.targets.len() as u32;
    tokio::time::sleep(offset).await;
    let mut tick = tokio::time::interval(shared.every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut open = JoinSet::new();
    loop {
        tick.tick().await;
        while open.try_join_next().is_some() {}
        if open.len() >= MAX_OPEN {
            open.join_next().await;
        }
        if !shared.targets[from].paused.load(Ordering::Relaxed) {
            open.spawn(request(Arc::clone(&shared), from));
        }
    }
}

async fn request(shared: Arc<Shared>, from: usize) {
    let sent = Instant::now();
    let outcome = timeout(PATIENCE, exchange(&shared, from)).await;
    let outcome =
        outcome.with_context(|| format!("no answer in {PATIENCE:?}")).and_then(|done| done);
    let (server, refused, fault) = match outcome {
        Ok(answer) => answer,
        Err(error) => (None, false, Some(format!("{error:#}"))),
    };
    let ended = Instant::now();
    shared.seen.lock().push(Seen { from, sent, ended, server, refused, fault });
}

/// One request and its answer: who answered, whether it was Swarmer, what is wrong with it.
async fn exchange(shared: &Shared, from: usize) -> Result<(Option<usize>, bool, Option<String>)> {
    let target = &shared.targets[from];
    let kept = target.kept.lock().pop();
    if let Some(connection) = kept
        && let Ok(answer) = on(shared, from, connection).await
    {
        return Ok(answer);
    }
    // A kept connection may have been closed meanwhile: once more, as clients do.
    on(shared, from, Connection::open(target.http).await?).await
}

async fn on(
    shared: &Shared,
    from: usize,
    mut connection: Connection,
) -> Result<(Option<usize>, bool, Option<String>)> {
    let target = &shared.targets[from];
    let answer = connection.exchange(&target.request).await?;
    let text = |name: &str| answer.header(name).map(String::from_utf8_lossy);
    let server = text("x-swarmer-node").and_then(|name| {
        let name: &str = &name;
        shared.names.iter().position(|known| known == name)
    });
    let code = text("x-swarmer-error").map(|code| code.into_owned());
    let right = answer.status == 200 && answer.body == ANSWER;
    let fault = (!right).then(|| {
        let document: Value = serde_json::from_slice(answer.body).unwrap_or_default();
        let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)]);
        let why = document["detail"].as_str().unwrap_or(&body);
        format!("status {} {}: {why}", answer.status, code.as_deref().unwrap_or_default())
    });
    let keeps_alive = answer.keeps_alive();
    let mut kept = target.kept.lock();
    if keeps_alive && kept.len() < KEPT {
        kept.push(connection);
    }
    Ok((server, code.is_some(), fault))
}
