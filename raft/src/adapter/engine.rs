//! The engine in our own words.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream::BoxStream};
use openraft::{
    ChangeMembers, EmptyNode, ReadPolicy, ServerState,
    async_runtime::watch::WatchReceiver,
    error::{ClientWriteError, Fatal, InitializeError, LinearizableReadError, RaftError as Error},
    vote::RaftLeaderId,
};
use parking_lot::Mutex;
use swarmer_model::{
    NodeId,
    planted::{self, Bug},
};
use tokio::time::Instant;

use super::{
    clock::real,
    heard::Heard,
    log::{Growth, LogStore},
    machine::{Kept, Machine},
    network::Network,
    open::{Opened, engine_config, open_disk},
    receive::Receiving,
    types::{Command, Types, Vote, encode},
    wire::{Envelope, Proposal, ProposeReply, ReadReply, Reply, Request, decode_framed, framed},
};
use crate::{
    disk::{Disk, blocking},
    error::RaftError,
    gate::Gate,
    keyspace::{Shared, State},
    latency::Latencies,
    members::{Members, Peer},
    raft::Config,
    snapshot::SnapshotStore,
    status::{Leadership, Role, Status},
    transport::Transport,
    txn::{MAX_DEADLINE, Txn},
    wal::{Pace, Wal},
};

/// A quorum's acknowledgement older than so many longest election timeouts is no longer believed:
/// by then the others may have elected another leader.
const QUORUM_AGE_TIMEOUTS: u32 = 3;

/// Within this a snapshot is made, on a disk that works: a quarter of a gigabyte.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(60);

type Core = openraft::Raft<Types, Machine>;

/// A voter's or learner's engine. Cheap to share behind an `Arc`.
pub(crate) struct Engine {
    node: NodeId,
    pub(super) core: Core,
    wal: Wal,
    shared: Arc<Shared>,
    pub(super) store: Arc<SnapshotStore>,
    kept: Arc<Mutex<Kept>>,
    growth: Arc<Growth>,
    pub(super) receiving: tokio::sync::Mutex<Option<Receiving>>,
    pub(super) heard: Arc<Mutex<Heard>>,
    /// The last term in which this node was seen to lead without a word of the others yet, and since
    /// when.
    elected: Mutex<(u64, Instant)>,
    latencies: Arc<Latencies>,
    gate: Arc<Gate>,
    /// How many writes each node asked of this one while it led. Members are few, and so are those that
    /// were some once.
    writers: Mutex<BTreeMap<NodeId, u64>>,
    log_keep_bytes: u64,
    quorum_age: Duration,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Engine {
    pub(crate) async fn open(
        config: &Config,
        disk: Arc<dyn Disk>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, RaftError> {
        let engine_config = engine_config(config)?;
        let (settings, opening) = (config.clone(), disk.clone());
        let opened = blocking(&disk, move || Ok(open_disk(&settings, opening)))
            .await
            .map_err(|error| RaftError::Storage(error.to_string()))??;
        let Opened { wal, store, state, position, applied, log_bytes } = opened;
        let growth = Arc::new(Growth::new(log_bytes, config.snapshot_log_bytes));
        let log = LogStore::new(wal.clone(), growth.clone())
            .map_err(|error| RaftError::Storage(error.to_string()))?;
        let shared = Shared::new(state, config.history_bytes);
        let kept = Arc::new(Mutex::new(Kept { position, applied }));
        let machine = Machine::new(shared.clone(), store.clone(), kept.clone());
        let latencies = Arc::new(Latencies::default());
        let network =
            Network { node: config.node.0, transport, disk, latencies: latencies.clone() };
        let core = Core::new(config.node.0, engine_config, network, log, machine)
            .await
            .map_err(|fatal| fatal_error(&fatal))?;
        Ok(Self {
            node: config.node,
            core,
            wal,
            shared,
            store,
            kept,
            growth,
            receiving: tokio::sync::Mutex::new(None),
            heard: Arc::default(),
            elected: Mutex::new((0, Instant::now())),
            latencies,
            gate: Arc::default(),
            writers: Mutex::default(),
            log_keep_bytes: config.log_keep_bytes,
            quorum_age: config.timing.election_max * QUORUM_AGE_TIMEOUTS,
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// Makes a snapshot whenever the log has grown enough, and drops what is below it but for the
    /// last entries, by number and by bytes. Ends with the engine.
    pub(crate) async fn snapshot_when_due(&self) {
        loop {
            self.growth.due().await;
            match self.snapshot_now(SNAPSHOT_PATIENCE).await {
                // One that takes longer is still made; the next look drops what is below it.
                Ok(()) | Err(RaftError::Timeout { .. }) => {}
                Err(_) => return,
            }
            // Never what no snapshot has: the engine sees to that.
            let keep = self.wal.first_within(self.log_keep_bytes);
            if let Some(upto) = keep.checked_sub(1)
                && self.core.trigger().purge_log(upto).await.is_err()
            {
                return;
            }
        }
    }

    /// Answers a message of another node, with which this version of the wire is spoken.
    pub(crate) async fn handle(
        &self,
        from: NodeId,
        version: u8,
        body: &[u8],
    ) -> Result<bytes::Bytes, RaftError> {
        let Envelope { to, request } = decode_framed(body)?;
        if to != self.node.0 {
            return Err(RaftError::WrongNode { intended: NodeId(to), actual: self.node });
        }
        let since = request.since();
        if since > version {
            let why = format!("it is of version {since} of the wire, and came by {version}");
            return Err(RaftError::BadMessage(why));
        }
        let reply = self.answer(from, request).await?;
        framed(&reply).map_err(|error| RaftError::BadMessage(error.to_string()))
    }

    async fn answer(&self, from: NodeId, request: Request) -> Result<Reply, RaftError> {
        let of_sender = |vote: &Vote| of_sender(from, vote);
        Ok(match request {
            Request::Vote(rpc) => {
                of_sender(&rpc.vote)?;
                Reply::Vote(self.core.vote(rpc).await.map_err(stopped)?)
            }
            Request::PreVote(rpc) => {
                of_sender(&rpc.vote)?;
                Reply::Vote(self.core.pre_vote(rpc).await.map_err(stopped)?)
            }
            Request::Snapshot(chunk) => {
                of_sender(&chunk.vote)?;
                Reply::Snapshot(self.take_chunk(from, chunk).await?)
            }
            Request::Transfer(request) => {
                of_sender(request.from_leader())?;
                let result = self.core.handle_transfer_leader(request).await;
                let result = result.map_err(|fatal| fatal_error(&fatal))?;
                Reply::Transfer(result.map_err(|error| error.to_string()))
            }
            Request::Propose(Proposal { txn, ttl_ms }) => {
                Reply::Propose(self.propose(from, txn, Duration::from_millis(ttl_ms)).await)
            }
            Request::ProposeMany(proposals) => {
                let proposed = proposals.into_iter().map(|Proposal { txn, ttl_ms }| {
                    self.propose(from, txn, Duration::from_millis(ttl_ms))
                });
                Reply::ProposeMany(futures::future::join_all(proposed).await)
            }
            Request::ReadIndex { ttl_ms } => {
                Reply::ReadIndex(self.read_index(Duration::from_millis(ttl_ms)).await)
            }
        })
    }

    /// Proposes a transaction that this node was asked for, if this node leads with a quorum behind it.
    pub(crate) async fn propose(&self, by: NodeId, txn: Txn, ttl: Duration) -> ProposeReply {
        if let Err(error) = txn.validate() {
            return ProposeReply::Invalid(error.to_string());
        }
        let leader = self.leader();
        if leader != Some(self.node.0) {
            return ProposeReply::NotLeader { leader };
        }
        if !self.quorum_ok() {
            return ProposeReply::NoQuorum;
        }
        let Some(_inside) = self.gate.enter(&txn) else { return ProposeReply::Busy };
        *self.writers.lock().entry(by).or_default() += 1;
        let write = self.core.client_write(Command(txn));
        match tokio::time::timeout(ttl.min(MAX_DEADLINE), write).await {
            Ok(Ok(response)) => ProposeReply::Answer(response.data),
            Ok(Err(Error::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                ProposeReply::NotLeader { leader: forward.leader_id }
            }
            Ok(Err(Error::APIError(ClientWriteError::LogEntryDiscarded(forward)))) => {
                ProposeReply::Unknown { leader: forward.leader_id }
            }
            Ok(Err(_)) | Err(_) => ProposeReply::Unknown { leader: None },
        }
    }

    /// The read barrier, if this node leads and a quorum confirms it.
    pub(crate) async fn read_index(&self, ttl: Duration) -> ReadReply {
        if planted::is_on(Bug::ReadWithoutIndex) && self.leader() == Some(self.node.0) {
            return ReadReply::At(self.shared.read(State::revision));
        }
        let read = self.core.ensure_linearizable(ReadPolicy::ReadIndex);
        match tokio::time::timeout(ttl.min(MAX_DEADLINE), read).await {
            Ok(Ok(_)) => ReadReply::At(self.shared.read(State::revision)),
            Ok(Err(Error::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                ReadReply::NotLeader { leader: forward.leader_id }
            }
            Ok(Err(Error::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => {
                ReadReply::NoQuorum
            }
            Ok(Err(Error::Fatal(_))) => ReadReply::NotLeader { leader: None },
        }
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        self.core.metrics().borrow_watched().current_leader
    }

    /// Whether it stopped, by itself or because it was told to.
    pub(crate) fn has_stopped(&self) -> bool {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        metrics.running_state.is_err() || metrics.state == ServerState::Shutdown
    }

    pub(crate) fn term(&self) -> u64 {
        self.core.metrics().borrow_watched().current_term
    }

    fn quorum_ok(&self) -> bool {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.current_leader != Some(self.node.0) {
            let heard = self.heard.lock().silence();
            return metrics.current_leader.is_some()
                && heard.is_some_and(|silence| silence < self.quorum_age());
        }
        let configs = metrics.membership_config.membership().get_joint_config();
        let alone = configs.iter().all(|voters| voters.len() == 1);
        let silence = match &metrics.last_quorum_acked {
            Some(at) => real(openraft::Instant::elapsed(&**at)),
            // Just elected: a quorum voted for it, so it may try; it may be lost since, too.
            None => {
                let mut elected = self.elected.lock();
                if elected.0 != metrics.current_term {
                    *elected = (metrics.current_term, Instant::now());
                }
                elected.1.elapsed()
            }
        };
        alone || silence < self.quorum_age()
    }

    fn quorum_age(&self) -> Duration {
        real(self.quorum_age)
    }

    /// The leader that this node heard last, and when.
    pub(crate) fn heard(&self) -> Option<(NodeId, Instant)> {
        self.heard.lock().last()
    }

    /// Asks the others whether they would elect this node, and stands for election if a majority
    /// would. Nothing happens while they, or it, trust a leader.
    pub(crate) async fn stand(&self) {
        // It fails only where the engine stopped, which whoever runs it is told.
        let _ = self.core.trigger().elect(true).await;
    }

    /// The longest silence since the last look: of the leader, or, on it, of its quorum.
    pub(crate) fn take_silence(&self) -> Duration {
        let longest = self.heard.lock().take_longest();
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.current_leader != Some(self.node.0) {
            return longest;
        }
        let acked = metrics.last_quorum_acked.as_ref();
        acked.map_or(Duration::ZERO, |at| real(openraft::Instant::elapsed(&**at)))
    }

    pub(crate) fn status(&self) -> Status {
        let position = self.shared.read(|state| (state.revision(), state.chain()));
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        let last_log_index = metrics.last_log_index;
        let applied_index = metrics.last_applied.map(|log_id| log_id.index);
        let committed = metrics.cluster_committed.map(|log_id| log_id.index);
        // Another look at the same metrics may wait for whoever writes them.
        drop(metrics);
        let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
        let lag = next(committed).saturating_sub(next(applied_index));
        Status { last_log_index, applied_index, ..Status::of(self.leadership(), position, lag) }
    }

    pub(crate) fn leadership(&self) -> Leadership {
        let quorum_ok = self.quorum_ok();
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        Leadership {
            node: self.node,
            role: match (&metrics.running_state, metrics.state) {
                (Err(_), _) | (_, ServerState::Shutdown) => Role::Stopped,
                (_, ServerState::Learner) => Role::Learner,
                (_, ServerState::Follower) => Role::Voter,
                (_, ServerState::Candidate) => Role::Candidate,
                (_, ServerState::Leader) => Role::Leader,
            },
            leader: metrics.current_leader.map(NodeId),
            term: metrics.current_term,
            voters: metrics.membership_config.voter_ids().map(NodeId).collect(),
            learners: metrics.membership_config.membership().learner_ids().map(NodeId).collect(),
            quorum_ok,
        }
    }

    /// An item for each change of part, leader, term or members; ends with the engine. Keep it: a
    /// new one takes the present state for a change.
    ///
    /// Not of the log's indexes: the engine tells of these a hundred times a second, whether they
    /// changed or not, and whoever listens wakes a thread each time.
    pub(crate) fn changes(&self) -> BoxStream<'static, ()> {
        let metrics = self.core.server_metrics();
        futures::stream::unfold(metrics, |mut metrics| async move {
            metrics.changed().await.is_ok().then_some(((), metrics))
        })
        .boxed()
    }

    /// How fast this node's disk was lately.
    pub(crate) fn pace(&self) -> Pace {
        self.wal.pace()
    }

    /// How many proposals were sent away because too many were under way.
    pub(crate) fn refused(&self) -> u64 {
        self.gate.refused()
    }

    /// See [`crate::Handle::writers`].
    pub(crate) fn writers(&self) -> BTreeMap<NodeId, u64> {
        self.writers.lock().clone()
    }

    /// How long the others took to answer this node's AppendEntries.
    pub(crate) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// Waits until what the engine says of itself fulfils a condition.
    pub(crate) async fn until(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl Fn(&Status) -> bool,
    ) -> Result<(), RaftError> {
        let start = Instant::now();
        let mut metrics = self.core.metrics();
        loop {
            if condition(&self.status()) {
                return Ok(());
            }
            let rest = deadline.saturating_sub(start.elapsed());
            match tokio::time::timeout(rest, metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(RaftError::ShutDown),
                Err(_) => {
                    return Err(RaftError::Timeout {
                        what: what.to_owned(),
                        waited_ms: crate::view::millis(start.elapsed()),
                    });
                }
            }
        }
    }

    pub(crate) async fn initialize(&self, voters: &BTreeSet<NodeId>) -> Result<(), RaftError> {
        let members: BTreeMap<u64, EmptyNode> =
            voters.iter().map(|node| (node.0, EmptyNode {})).collect();
        match self.core.initialize(members).await {
            Ok(()) | Err(Error::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(Error::APIError(error)) => Err(RaftError::Membership(error.to_string())),
            Err(Error::Fatal(fatal)) => Err(fatal_error(&fatal)),
        }
    }

    pub(crate) async fn add_learner(&self, node: NodeId) -> Result<(), RaftError> {
        let result = self.core.add_learner(node.0, EmptyNode {}, true).await;
        result.map(|_| ()).map_err(membership_error)
    }

    pub(crate) async fn remove_learner(&self, node: NodeId) -> Result<(), RaftError> {
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        let result = self.core.change_membership(change, false).await;
        result.map(|_| ()).map_err(membership_error)
    }

    /// See [`Members`].
    pub(crate) fn members(&self) -> Members {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        let effective = metrics.membership_config.membership();
        let committed = &metrics.committed_membership_config;
        let ids = |ids: &BTreeSet<u64>| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        let heard = metrics.heartbeat.iter().flatten();
        let heard: BTreeMap<u64, Duration> = heard
            .filter_map(|(id, at)| Some((*id, real(openraft::Instant::elapsed(&**at.as_ref()?)))))
            .collect();
        let end = metrics.last_log_index.map_or(0, |index| index + 1);
        let peers = metrics.replication.iter().flatten().filter(|(id, _)| **id != self.node.0);
        let peers = peers.map(|(id, matched)| {
            let lag = matched.as_ref().map(|at| end.saturating_sub(at.index + 1));
            (NodeId(*id), Peer { lag, heard: heard.get(id).copied() })
        });
        Members {
            configs: effective.get_joint_config().iter().map(ids).collect(),
            learners: effective.learner_ids().map(NodeId).collect(),
            settled: metrics.membership_config == *committed,
            committed: committed.nodes().map(|(id, _)| NodeId(*id)).collect(),
            committed_voters: committed.voter_ids().map(NodeId).collect(),
            peers: peers.collect(),
        }
    }

    pub(crate) async fn change_voters(&self, voters: &BTreeSet<NodeId>) -> Result<(), RaftError> {
        let known: BTreeSet<u64> = {
            let metrics = self.core.metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.nodes().map(|(id, _)| *id).collect()
        };
        for node in voters {
            if !known.contains(&node.0) {
                self.add_learner(*node).await?;
            }
        }
        let members: BTreeSet<u64> = voters.iter().map(|node| node.0).collect();
        let result = self.core.change_membership(members, false).await;
        result.map(|_| ()).map_err(membership_error)
    }

    pub(crate) async fn transfer_leader(
        &self,
        to: NodeId,
        deadline: Duration,
    ) -> Result<(), RaftError> {
        let trigger = self.core.trigger().transfer_leader(to.0).await;
        trigger.map_err(|fatal| fatal_error(&fatal))?;
        let what = format!("leadership of node {to}");
        self.until(&what, deadline, |status| status.leader == Some(to)).await
    }

    pub(crate) async fn snapshot_now(&self, deadline: Duration) -> Result<(), RaftError> {
        let Some(applied) = self.kept.lock().position.last_applied else { return Ok(()) };
        let start = Instant::now();
        // The engine makes one at a time and forgets a wish that comes meanwhile, the moment in
        // which one is on the disk and not yet known to it included: so its own word counts, and
        // after each one that does not reach far enough the wish is told again.
        let made = || self.core.metrics().borrow_watched().snapshot.map(|log_id| log_id.index);
        loop {
            let before = made();
            if before >= Some(applied.index) {
                return Ok(());
            }
            let trigger = self.core.trigger().snapshot().await;
            trigger.map_err(|fatal| fatal_error(&fatal))?;
            let rest = deadline.saturating_sub(start.elapsed());
            self.until("a snapshot", rest, |_| made() != before).await?;
        }
    }

    /// What the log begins after, for tests and status pages.
    pub(crate) fn purged_index(&self) -> Option<u64> {
        self.wal.purged().map(|(index, _)| index)
    }

    /// Waits for the first fatal error. If the log failed, that is why, in words and by a code of
    /// its own, though the engine may have been the first to be seen stopped.
    pub(crate) async fn fatal(&self) -> RaftError {
        let mut log = self.wal.fatal();
        // Ends when the engine does, and it says why before: see `changes` on why not `metrics`.
        let mut server = self.core.server_metrics();
        let mut ended = false;
        loop {
            // The engine is looked at first: the log says that it failed before it answers the
            // engine, so whatever the log did to this engine is told by now.
            let running = self.core.metrics().borrow_watched().running_state.clone();
            if let Some(error) = log.borrow_and_update().clone() {
                return error.into();
            }
            match running {
                Err(Fatal::Stopped) => std::future::pending().await,
                Err(fatal) => return fatal_error(&fatal),
                Ok(()) if ended => std::future::pending().await,
                Ok(()) => {}
            }
            ended = tokio::select! {
                changed = log.changed() => changed.is_err(),
                changed = server.changed() => changed.is_err(),
            };
        }
    }

    /// Stops the engine, then closes keyspace and log, for readers too.
    pub(crate) async fn shutdown(&self) -> Result<(), RaftError> {
        let stopped = self.stop().await;
        self.shared.close();
        stopped
    }

    /// Stops the engine, then closes keyspace and log.
    pub(crate) async fn stop(&self) -> Result<(), RaftError> {
        let joined = self.core.shutdown().await;
        let (applied, position) = {
            let mut kept = self.kept.lock();
            (kept.applied.take(), kept.position.clone())
        };
        let image = self.shared.read(State::image);
        let wal = self.wal.clone();
        let closed = blocking(self.store.disk(), move || {
            wal.close().map_err(io::Error::other)?;
            let Some(applied) = applied else { return Ok(()) };
            applied.close(&image, encode(&position)?)
        });
        closed.await.map_err(|error| RaftError::Storage(error.to_string()))?;
        joined.map_err(|error| RaftError::Storage(error.to_string()))
    }
}

/// Votes carry who asks for them or leads by them: nobody may speak for another.
pub(super) fn of_sender(from: NodeId, vote: &Vote) -> Result<(), RaftError> {
    if *vote.leader_id.node_id() == from.0 {
        return Ok(());
    }
    Err(RaftError::BadMessage(format!("node {from} speaks by the vote {vote}")))
}

pub(super) fn fatal_error(fatal: &Fatal<Types>) -> RaftError {
    match fatal {
        Fatal::Stopped => RaftError::ShutDown,
        other => RaftError::Storage(other.to_string()),
    }
}

fn stopped(error: Error<Types>) -> RaftError {
    match error {
        Error::Fatal(fatal) => fatal_error(&fatal),
        Error::APIError(never) => RaftError::BadMessage(never.to_string()),
    }
}

fn membership_error(error: Error<Types, ClientWriteError<Types>>) -> RaftError {
    match error {
        Error::Fatal(fatal) => fatal_error(&fatal),
        Error::APIError(
            ClientWriteError::ForwardToLeader(forward)
            | ClientWriteError::LogEntryDiscarded(forward),
        ) => RaftError::NotLeader { leader: forward.leader_id.map(NodeId) },
        Error::APIError(other) => RaftError::Membership(other.to_string()),
    }
}
