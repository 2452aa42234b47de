//! This node's part in the desired state: opened at the start, changed while the node runs.
//!
//! A node that follows and is to vote opens its log beside the feed that it follows. When the log
//! has come to where the feed is, the log's state takes the place of the feed's, in the same views.
//! One that loses its vote follows from where its log ended. What it is, is on the disk before it
//! counts, so that a restart at any point finds it. A log is kept for good: what was promised with
//! it is not forgotten when the vote goes.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use swarmer_gossip::RecordUpdate;
use swarmer_mesh::{stream::StreamKind, transport};
use swarmer_model::{
    ByteSize, ClusterId, NodeId,
    planted::{self, Bug},
};
use swarmer_raft::{
    Client, FeedTrust, Follower, Handle, Leadership, Raft, RaftError, Role, disk::RealDisk,
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    disk::pace,
    wire::{Ask, Told},
};
use crate::{
    agent::{
        admission::PeerBook,
        authority::HeldAuthority,
        control::{Control, Part},
        data_dir::{DataDir, KeptPart},
        identity::KeptGrant,
        raft_transport::RaftTransport,
        streams::{Slots, follow},
    },
    codes,
    problem::{Outcome, Problem, chain},
};

/// How often it is looked at whether the part still fits.
const TICK: Duration = Duration::from_secs(1);
/// A voter that hears of no leader for so long asks whether it is one still. Elections are over
/// sooner, so that nobody asks in the middle of one.
const SILENCE: Duration = Duration::from_secs(3);
/// How long another node may take to answer a question.
pub(super) const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// How often it is looked at whether the log knows of this node, without news.
const LOOK: Duration = Duration::from_millis(200);
/// How long one look lasts at whether the log has come to where the feed is.
const GIVE_WAY: Duration = Duration::from_secs(2);

/// What a keeper works with.
pub(crate) struct KeeperDeps {
    pub(crate) dir: DataDir,
    pub(crate) cluster: ClusterId,
    /// Raft lives on the threads of the connections, not on those of requests.
    pub(crate) io: tokio::runtime::Handle,
    pub(crate) transport: transport::Handle,
    pub(crate) slots: Arc<Slots>,
    pub(crate) book: PeerBook,
    pub(crate) grant: KeptGrant,
    pub(crate) authority: HeldAuthority,
    /// When a snapshot is made, and what stays of the log then; none: the defaults.
    pub(crate) snapshot_log: Option<ByteSize>,
    pub(crate) log_keep: Option<u32>,
    pub(crate) shutdown: CancellationToken,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Keeper {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) deps: KeeperDeps,
    pub(super) node: NodeId,
    control: OnceLock<Control>,
    /// One change of part at a time.
    change: tokio::sync::Mutex<()>,
    /// Of the feed that is followed.
    following: Mutex<CancellationToken>,
    learning: Mutex<Option<Learning>>,
}

/// A log that comes up to date beside the feed.
struct Learning {
    handle: Handle,
    end: CancellationToken,
    over: JoinHandle<()>,
}

impl Keeper {
    pub(crate) fn new(deps: KeeperDeps) -> Self {
        let inner = Inner {
            node: deps.dir.meta().node,
            following: Mutex::new(deps.shutdown.child_token()),
            deps,
            control: OnceLock::new(),
            change: tokio::sync::Mutex::new(()),
            learning: Mutex::new(None),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Opens the desired state as what this node was when it ended.
    pub(crate) async fn open(&self) -> Outcome<Control> {
        let Inner { deps, node, .. } = &*self.inner;
        let meta = deps.dir.meta();
        let founder = deps.grant.get().is_voter(*node);
        let first = if founder { KeptPart::Voter } else { KeptPart::Follower };
        let part = meta.part.unwrap_or(first);
        if part != KeptPart::Follower {
            self.check_log()?;
        }
        let opened = match part {
            KeptPart::Voter => Part::Voter(self.open_log(KeptPart::Voter).await?),
            KeptPart::Follower | KeptPart::Learner => self.open_feed().await?,
        };
        let control = self.inner.control.get_or_init(|| Control::new(opened)).clone();
        if part == KeptPart::Learner {
            let handle = self.open_log(KeptPart::Learner).await?;
            self.learn(handle);
        }
        Ok(control)
    }

    /// Keeps the part that fits, until `shutdown`.
    pub(crate) async fn run(self, gossip: swarmer_gossip::Handle) {
        let Some(control) = self.inner.control.get().cloned() else { return };
        let mut leadership = control.subscribe_leadership();
        let mut told = None;
        let mut silent: Option<Instant> = None;
        loop {
            let now = leadership.borrow_and_update().clone();
            let votes = now.voters.contains(&self.inner.node);
            if told != Some(votes) {
                told = Some(votes);
                let _ = gossip.publish(RecordUpdate::Voter(votes)).await;
            }
            if now.quorum_ok || control.raft().is_none() {
                silent = None;
            } else {
                silent.get_or_insert_with(Instant::now);
            }
            let asks = silent.is_some_and(|since| since.elapsed() >= SILENCE);
            if let Err(problem) = self.keep(&control, &now, asks).await {
                tracing::debug!(target: "swarmer::voting", code = problem.code.name,
                    detail = %problem.detail, "the part of this node is not settled yet");
            }
            tokio::select! {
                () = self.inner.deps.shutdown.cancelled() => return,
                changed = leadership.wait_for(|next| {
                    next.voters != now.voters || next.quorum_ok != now.quorum_ok
                }) => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    async fn keep(&self, control: &Control, now: &Leadership, asks: bool) -> Outcome<()> {
        let Some(handle) = control.raft() else { return Ok(()) };
        let committed = handle.members().committed;
        if committed.is_empty() {
            // Nobody has founded yet.
            return Ok(());
        }
        // Right after a start the log may not know yet what was committed: a voter is asked.
        let gone = !committed.contains(&self.inner.node) && now.role != Role::Leader;
        if asks || gone {
            if self.stands(now).await == Some(false) {
                return self.step_down("a voter says that this node is none any more").await;
            }
            return Ok(());
        }
        self.hold_authority(now).await
    }

    /// Whether this node is a voter or learner, by the word of a voter that has a quorum; none if
    /// none says so.
    async fn stands(&self, now: &Leadership) -> Option<bool> {
        for voter in now.voters.iter().filter(|voter| **voter != self.inner.node) {
            if let Ok(Told::Standing { member }) = self.ask(*voter, &Ask::Standing).await {
                return Some(member);
            }
        }
        None
    }

    /// The log that this node has open.
    pub(super) fn log(&self) -> Outcome<Handle> {
        let raft = self.inner.deps.slots.raft.read().clone();
        raft.ok_or_else(|| Problem::new(codes::FORBIDDEN, "this node is no voter"))
    }

    /// What tells the log of this node from any other; none if it never had one.
    pub(super) fn log_name(&self) -> Option<String> {
        self.inner.deps.dir.meta().log
    }

    /// Asks another node.
    pub(super) async fn ask(&self, node: NodeId, ask: &Ask) -> Outcome<Told> {
        let body = serde_json::to_vec(ask).map_err(|error| internal(&error))?;
        let until = Instant::now() + ASK_DEADLINE;
        let asked = self.inner.deps.transport.request(node, StreamKind::Voting, body.into(), until);
        let answer =
            asked.await.map_err(|error| Problem::new(codes::NO_UPSTREAM, chain(&error)))?;
        serde_json::from_slice(&answer).map_err(|error| internal(&error))
    }

    /// Answers another node.
    pub(crate) async fn answer(&self, peer: NodeId, body: &[u8]) -> Outcome<Bytes> {
        let ask: Ask = serde_json::from_slice(body)
            .map_err(|error| Problem::new(codes::BAD_REQUEST, error.to_string()))?;
        let told = match ask {
            Ask::Prepare => self.prepare(peer).await.map(|log| Told::Prepared { log }),
            Ask::Release => self.release(peer).await.map(|()| Told::Released),
            Ask::Standing => self.standing(peer).await.map(|member| Told::Standing { member }),
            Ask::Authority => self.hand_authority(peer).await,
            Ask::Disk => self.log().map(|log| Told::Disk { pace: pace(&log) }),
        };
        let told = told.unwrap_or_else(|problem| Told::Refused {
            code: problem.code.name.to_owned(),
            detail: problem.detail,
        });
        serde_json::to_vec(&told).map(Bytes::from).map_err(|error| internal(&error))
    }

    fn check_voter(&self, peer: NodeId) -> Outcome<()> {
        if self.inner.deps.book.votes(peer) {
            return Ok(());
        }
        Err(Problem::new(codes::FORBIDDEN, format!("node {peer} is no voter to this node")))
    }

    /// A learner opens its log, once; gives what tells that log from others.
    async fn prepare(&self, leader: NodeId) -> Outcome<String> {
        self.check_voter(leader)?;
        let _change = self.inner.change.lock().await;
        let dir = &self.inner.deps.dir;
        let named = || dir.meta().log.ok_or_else(|| internal("the log has no name"));
        let control = self.inner.control.get().ok_or_else(|| internal("not started"))?;
        if control.raft().is_some() || self.inner.learning.lock().is_some() {
            return named();
        }
        self.check_log()?;
        let handle = self.open_log(KeptPart::Learner).await?;
        self.learn(handle);
        tracing::info!(target: "swarmer::voting", "this node takes the log as a learner");
        named()
    }

    async fn release(&self, leader: NodeId) -> Outcome<()> {
        self.check_voter(leader)?;
        self.step_down("the leader lets this node go").await
    }

    /// Brings the log to where the feed is, then reads from it.
    fn learn(&self, handle: Handle) {
        let end = self.inner.deps.shutdown.child_token();
        let (keeper, until, log) = (self.clone(), end.clone(), handle.clone());
        let over = self.inner.deps.io.spawn(async move {
            if let Err(problem) = keeper.catch_up(&log, &until).await {
                tracing::error!(target: "swarmer::voting", code = problem.code.name,
                    detail = %problem.detail, "the log does not take over");
            }
        });
        *self.inner.learning.lock() = Some(Learning { handle, end, over });
    }

    async fn catch_up(&self, log: &Handle, end: &CancellationToken) -> Outcome<()> {
        let Some(control) = self.inner.control.get() else { return Ok(()) };
        let Part::Follower { follower, .. } = control.part() else { return Ok(()) };
        let mut leadership = log.subscribe_leadership();
        // A log from an earlier vote may be where the feed is before the leader sends anything.
        while !log.members().committed.contains(&self.inner.node) {
            tokio::select! {
                () = end.cancelled() => return Ok(()),
                looked = tokio::time::timeout(LOOK, leadership.changed()) => {
                    if matches!(looked, Ok(Err(_))) {
                        return Ok(());
                    }
                }
            }
        }
        loop {
            // Never dropped half way: what is shown has one writer at any time.
            match follower.give_way(log, GIVE_WAY).await {
                Ok(()) => break,
                Err(RaftError::Timeout { .. }) if end.is_cancelled() => return Ok(()),
                Err(RaftError::Timeout { .. }) => {}
                Err(error) => return Err(Problem::of(&error, "taking over from the feed")),
            }
        }
        self.inner.following.lock().cancel();
        control.turn(Part::Voter(log.clone()));
        self.inner.deps.dir.update(|meta| meta.part = Some(KeptPart::Voter))?;
        *self.inner.learning.lock() = None;
        tracing::info!(target: "swarmer::voting", revision = log.status().revision,
            "this node has the log now");
        Ok(())
    }

    /// Gives up log and vote: this node follows again.
    async fn step_down(&self, why: &str) -> Outcome<()> {
        let _change = self.inner.change.lock().await;
        let Some(control) = self.inner.control.get() else { return Ok(()) };
        let learning = self.inner.learning.lock().take();
        if let Some(Learning { handle, end, over }) = learning {
            end.cancel();
            let _ = over.await;
            if control.raft().is_none() {
                *self.inner.deps.slots.raft.write() = None;
                let _ = handle.retire().await;
                self.inner.deps.dir.update(|meta| meta.part = Some(KeptPart::Follower))?;
                self.forget_authority()?;
                tracing::info!(target: "swarmer::voting", why, "this node is no learner any more");
                return Ok(());
            }
        }
        let Some(handle) = control.raft() else { return Ok(()) };
        // The key first: with the vote goes the right to it, whatever fails after this.
        self.forget_authority()?;
        *self.inner.deps.slots.raft.write() = None;
        if let Err(error) = handle.retire().await {
            tracing::warn!(target: "swarmer::voting", %error, "the log was not closed cleanly");
        }
        let (dir, trust) = (self.feed_dir(), self.trust());
        let ended = handle.clone();
        let opening =
            async move { Follower::succeed(&ended, &dir, Arc::new(RealDisk), trust).await };
        let follower = joined(self.inner.deps.io.spawn(opening).await)?
            .map_err(|error| Problem::of(&error, "following where the log ended"))?;
        keep_private(&self.feed_dir())?;
        self.inner.deps.dir.update(|meta| meta.part = Some(KeptPart::Follower))?;
        control.turn(self.part_of(follower));
        tracing::info!(target: "swarmer::voting", why, "this node has no vote any more and follows");
        Ok(())
    }

    /// Closes a log that had not taken over yet.
    pub(crate) async fn close(&self) {
        let learning = self.inner.learning.lock().take();
        if let Some(Learning { handle, end, over }) = learning {
            end.cancel();
            let _ = over.await;
            let _ = handle.retire().await;
        }
    }

    async fn open_log(&self, part: KeptPart) -> Outcome<Handle> {
        let deps = &self.inner.deps;
        let mut config = swarmer_raft::Config::new(self.inner.node, self.log_dir());
        config.snapshot_log_bytes =
            deps.snapshot_log.map_or(config.snapshot_log_bytes, |bytes| bytes.0);
        config.log_keep_entries = deps.log_keep.map_or(config.log_keep_entries, u64::from);
        config.adaptive = true;
        let transport = Arc::new(RaftTransport(deps.transport.clone()));
        let opened = deps.io.spawn(Raft::open(config, Arc::new(RealDisk), transport)).await;
        let raft =
            joined(opened)?.map_err(|error| Problem::of(&error, "opening the control state"))?;
        let handle = raft.handle();
        keep_private(&self.log_dir())?;
        // Before a message can reach it: from then on it promises.
        deps.dir.update(|meta| {
            meta.part = Some(part);
            let new = || hex::encode(rand::random::<[u8; 16]>());
            meta.log.get_or_insert_with(new);
        })?;
        *deps.slots.raft.write() = Some(handle.clone());
        Ok(handle)
    }

    async fn open_feed(&self) -> Outcome<Part> {
        let (node, dir, trust) = (self.inner.node, self.feed_dir(), self.trust());
        if self.inner.deps.dir.meta().log.is_none() {
            // Where versions before this one kept the feed.
            adopt(&self.log_dir(), &dir).map_err(|error| storage(&dir, &error))?;
        }
        let opening = async move { Follower::open(node, &dir, Arc::new(RealDisk), trust).await };
        let follower = joined(self.inner.deps.io.spawn(opening).await)?
            .map_err(|error| Problem::of(&error, "opening the control state"))?;
        keep_private(&self.feed_dir())?;
        Ok(self.part_of(follower))
    }

    /// The part of a node that follows, with the feed on its way.
    fn part_of(&self, follower: Follower) -> Part {
        let deps = &self.inner.deps;
        let voters = deps.grant.get().voters;
        let client = Client::new(
            self.inner.node,
            Arc::new(RaftTransport(deps.transport.clone())),
            follower.subscribe_leadership(),
            follower.view(),
            voters.iter().copied().collect(),
        );
        let following = deps.shutdown.child_token();
        *self.inner.following.lock() = following.clone();
        let transport = deps.transport.clone();
        deps.io.spawn(follow(follower.clone(), transport, self.inner.node, voters, following));
        Part::Follower { follower, client }
    }

    fn trust(&self) -> FeedTrust {
        let deps = &self.inner.deps;
        FeedTrust { cluster: deps.cluster, voters: Arc::new(deps.book.clone()) }
    }

    fn log_dir(&self) -> PathBuf {
        self.inner.deps.dir.path().join("raft")
    }

    fn feed_dir(&self) -> PathBuf {
        self.inner.deps.dir.path().join("feed")
    }

    /// Refuses to vote without the log that this node had: it may have promised what it no longer
    /// knows of.
    fn check_log(&self) -> Outcome<()> {
        let dir = self.log_dir();
        let had_none = self.inner.deps.dir.meta().log.is_none();
        if had_none || has_log(&dir) || planted::is_on(Bug::ReuseNodeId) {
            return Ok(());
        }
        let why = format!(
            "node {} had a log in {}, and it is not there: what the node promised with it is lost",
            self.inner.node,
            dir.display()
        );
        Err(Problem::new(codes::LOG_LOST, why))
    }
}

fn has_log(dir: &Path) -> bool {
    let Ok(files) = fs::read_dir(dir.join("log")) else { return false };
    files.flatten().any(|file| file.path().extension().is_some_and(|end| end == "wal"))
}

/// Moves what was followed from one place to another that is not there yet.
fn adopt(old: &Path, new: &Path) -> io::Result<()> {
    if old.exists() && !new.exists() {
        fs::rename(old, new)?;
    }
    Ok(())
}

/// The committed state has the keys of gossip in it. Its folder is there by now and has none yet, or
/// has been closed to others since a start before this one.
fn keep_private(dir: &Path) -> Outcome<()> {
    fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(|error| storage(dir, &error))
}

fn storage(dir: &Path, error: &io::Error) -> Problem {
    Problem::new(codes::DATA_DIR, format!("{}: {error}", dir.display()))
}

pub(super) fn internal(error: impl ToString) -> Problem {
    Problem::new(codes::INTERNAL, error.to_string())
}

fn joined<T>(outcome: Result<T, tokio::task::JoinError>) -> Outcome<T> {
    outcome.map_err(|error| internal(&error))
}
