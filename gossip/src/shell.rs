//! The shell around the core: queues in, sockets and streams out. No decisions here.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use swarmer_model::NodeId;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    COMMAND_DEADLINE, COMMAND_QUEUE, Config, Core, DATAGRAM_QUEUE, Deps, Distances, GossipError,
    Keyring, MAX_DATAGRAM_BYTES, MAX_PUSH_PULL_BYTES, Members, RecordUpdate, Stats, Twin,
    config::check_seed,
};

mod persist;
mod run;

/// What handles ask of the task.
enum Command {
    ServePushPull(NodeId, Bytes, oneshot::Sender<Result<Bytes, GossipError>>),
    Publish(RecordUpdate, oneshot::Sender<Result<(), GossipError>>),
    SetSeeds(Vec<String>),
    SetKeyring(Keyring, oneshot::Sender<Result<(), GossipError>>),
    AdmissionChanged,
    LookInto(NodeId),
    Leave(oneshot::Sender<()>),
}

/// State that handles read without asking the task.
struct Shared {
    stats: parking_lot::Mutex<Stats>,
    dropped: std::sync::atomic::AtomicU64,
    distances: parking_lot::Mutex<Arc<Distances>>,
    /// Where the clock of the distances begins.
    started: Instant,
    node: NodeId,
}

/// The membership task. [`build`](Self::build) it, hand out the [`Handle`], and
/// [`run`](Self::run) it on a runtime that guests cannot starve.
pub struct Gossip {
    core: Core,
    deps: Deps,
    timing: crate::Timing,
    members_file: Option<std::path::PathBuf>,
    node: NodeId,
    started: Instant,
    datagrams: mpsc::Receiver<(SocketAddr, Bytes)>,
    commands: mpsc::Receiver<Command>,
    members: watch::Sender<Arc<Members>>,
    twin: watch::Sender<Option<Twin>>,
    shared: Arc<Shared>,
}

/// The only way to the membership task; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    datagrams: mpsc::Sender<(SocketAddr, Bytes)>,
    commands: mpsc::Sender<Command>,
    members: watch::Receiver<Arc<Members>>,
    twin: watch::Receiver<Option<Twin>>,
    shared: Arc<Shared>,
}

impl Gossip {
    /// Makes the task and its handle. Reads the members file if there is one; what is wrong with
    /// that file is logged, never fatal.
    ///
    /// # Errors
    /// [`GossipError::Config`] or [`GossipError::Record`] if the configuration breaks a rule.
    pub fn build(config: Config, deps: Deps) -> Result<(Self, Handle), GossipError> {
        config.check()?;
        let persisted = config.members_file.as_deref().map(persist::load).unwrap_or_default();
        let (datagrams_in, datagrams) = mpsc::channel(DATAGRAM_QUEUE);
        let (commands_in, commands) = mpsc::channel(COMMAND_QUEUE);
        let timing = config.timing.clone();
        let members_file = config.members_file.clone();
        let node = config.node;
        let mut core = Core::new(
            config,
            deps.admission.clone(),
            deps.signer.clone(),
            deps.verifier.clone(),
            deps.liveness.clone(),
            persisted,
            rand::random(),
        )?;
        let (members_in, members) = watch::channel(core.members());
        let (twin_in, twin) = watch::channel(None);
        let started = Instant::now();
        let shared = Arc::new(Shared {
            stats: parking_lot::Mutex::new(Stats::default()),
            dropped: std::sync::atomic::AtomicU64::new(0),
            distances: parking_lot::Mutex::new(core.distances()),
            started,
            node,
        });
        let gossip = Self {
            core,
            deps,
            timing,
            members_file,
            node,
            started,
            datagrams,
            commands,
            members: members_in,
            twin: twin_in,
            shared: shared.clone(),
        };
        let (datagrams, commands) = (datagrams_in, commands_in);
        Ok((gossip, Handle { datagrams, commands, members, twin, shared }))
    }

    /// Runs until `shutdown` fires or a handle called [`Handle::leave`]. Does not leave by
    /// itself: a node that restarts must not look as if it went for good.
    pub async fn run(self, shutdown: CancellationToken) {
        run::run(self, shutdown).await;
    }
}

impl Handle {
    /// Hands over one datagram from the shared port. Never blocks: when the queue is full the
    /// datagram is dropped and counted.
    pub fn datagram(&self, from: SocketAddr, bytes: Bytes) {
        if bytes.len() > MAX_DATAGRAM_BYTES || self.datagrams.try_send((from, bytes)).is_err() {
            self.shared.dropped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Answers a push/pull request that arrived on an authenticated stream of `from`.
    ///
    /// # Errors
    /// Not admitted, malformed, busy or stopped.
    pub async fn serve_push_pull(
        &self,
        from: NodeId,
        request: Bytes,
    ) -> Result<Bytes, GossipError> {
        if request.len() > MAX_PUSH_PULL_BYTES {
            let what = format!("{} bytes, at most {MAX_PUSH_PULL_BYTES}", request.len());
            return Err(GossipError::Malformed { from, what });
        }
        self.ask(|answer| Command::ServePushPull(from, request, answer)).await?
    }

    /// The last sign of another process with this node's id and key; every one marks it changed.
    pub fn twin(&self) -> watch::Receiver<Option<Twin>> {
        self.twin.clone()
    }

    /// All members that this node knows of, itself included, sorted by id. Cheap.
    pub fn members(&self) -> Arc<Members> {
        self.members.borrow().clone()
    }

    /// How long a datagram takes to this member and back: measured if this node asked it within
    /// the last five minutes, else estimated from where both say that they stand, `None` if that
    /// is not known. Cheap, and right away; not to be asked while a value of [`Self::subscribe`] is
    /// borrowed.
    pub fn distance(&self, node: NodeId) -> Option<Duration> {
        if node == self.shared.node {
            return Some(Duration::ZERO);
        }
        let distances = self.shared.distances.lock().clone();
        let members = self.members.borrow();
        let at = members.binary_search_by_key(&node, |member| member.node).ok()?;
        let record = members.get(at)?.record.as_ref();
        let told = record.and_then(|record| record.facts.coordinate.as_ref());
        distances.to(since(self.shared.started), node, told)
    }

    /// The members and every change of them; a slow reader sees the newest, not each one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Members>> {
        self.members.clone()
    }

    /// Changes the local record. Returns once the change is taken; it is sent within
    /// [`crate::Timing::publish_delay`].
    ///
    /// # Errors
    /// [`GossipError::Record`] if the record would be over a bound (nothing changes then), busy
    /// or stopped.
    pub async fn publish(&self, update: RecordUpdate) -> Result<(), GossipError> {
        self.ask(|answer| Command::Publish(update, answer)).await?
    }

    /// Replaces the seeds.
    ///
    /// # Errors
    /// A seed is not `host:port`, there are too many, busy or stopped.
    pub async fn set_seeds(&self, seeds: Vec<String>) -> Result<(), GossipError> {
        if seeds.len() > crate::MAX_SEEDS {
            return Err(GossipError::Config(format!(
                "{} seeds, at most {}",
                seeds.len(),
                crate::MAX_SEEDS
            )));
        }
        seeds.iter().try_for_each(|seed| check_seed(seed))?;
        self.tell(Command::SetSeeds(seeds)).await
    }

    /// Opens and seals with these keys from now on, and says in the record which ones they are.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub async fn set_keyring(&self, keyring: Keyring) -> Result<(), GossipError> {
        self.ask(|answer| Command::SetKeyring(keyring, answer)).await?
    }

    /// Says that the committed members changed: those no longer admitted are dropped at once
    /// instead of within a second.
    ///
    /// # Errors
    /// Busy or stopped.
    pub async fn admission_changed(&self) -> Result<(), GossipError> {
        self.tell(Command::AdmissionChanged).await
    }

    /// Says that nothing was heard from a member for longer than there should have been: it is asked at
    /// once, and suspect if it does not answer. Never blocks; one that comes while the queue is full
    /// is dropped, and found by a probe.
    pub fn look_into(&self, node: NodeId) {
        let _ = self.commands.try_send(Command::LookInto(node));
    }

    /// Leaves the cluster for good and ends the task. Returns when the farewell has been sent
    /// for [`crate::LEAVE_LINGER`]; keep the socket open until then.
    ///
    /// # Errors
    /// Busy or stopped.
    pub async fn leave(&self) -> Result<(), GossipError> {
        self.ask(Command::Leave).await
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        let mut stats = self.shared.stats.lock().clone();
        stats.datagrams_dropped = self.shared.dropped.load(std::sync::atomic::Ordering::Relaxed);
        stats
    }

    async fn tell(&self, command: Command) -> Result<(), GossipError> {
        match tokio::time::timeout(COMMAND_DEADLINE, self.commands.send(command)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(GossipError::Stopped),
            Err(_) => Err(GossipError::Busy),
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, GossipError> {
        let (answer, answered) = oneshot::channel();
        self.tell(command(answer)).await?;
        match tokio::time::timeout(COMMAND_DEADLINE, answered).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(GossipError::Stopped),
            Err(_) => Err(GossipError::Busy),
        }
    }
}

/// Time since the start of this node: the clock of the core.
fn since(started: Instant) -> Duration {
    started.elapsed()
}
