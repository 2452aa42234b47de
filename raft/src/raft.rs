//! A voter or learner: opens what is on the disk and runs the engine.

use std::{path::PathBuf, sync::Arc, time::Duration};

use swarmer_model::NodeId;

use crate::{
    adapter::Engine,
    disk::Disk,
    error::RaftError,
    handle::Handle,
    multiplier,
    transport::Transport,
    view::View,
    wal::{DEFAULT_MAX_RECORD_BYTES, DEFAULT_SEGMENT_BYTES, WalConfig},
};

/// How fast a lost leader is noticed, on a quiet LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader shows that it lives. The engine's own clock ticks five times as often on
    /// every voter, so this decides what a cluster at rest costs.
    pub heartbeat: Duration,
    /// Shortest election timeout; longer than a heartbeat.
    pub election_min: Duration,
    /// Longest election timeout. A follower stands for election at the earliest after this much
    /// silence (its lease) plus a draw between the two.
    pub election_max: Duration,
}

impl Timing {
    /// For voters within a few milliseconds of each other: a new leader in about half a second.
    /// Three heartbeats may be missed before anybody stands for election, at 400 ms of silence.
    /// Failover takes no longer than with more of them: the silence is counted from the last one
    /// that arrived.
    /// Where voters are farther apart all of it is multiplied, see [`Config::adaptive`].
    pub const LAN: Self = Self {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(150),
        election_max: Duration::from_millis(250),
    };
}

impl Default for Timing {
    fn default() -> Self {
        Self::LAN
    }
}

/// How to run a voter or learner.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node; never an id that another data directory had.
    pub node: NodeId,
    /// Where log and snapshots are, on the given disk.
    pub dir: PathBuf,
    /// Where sled keeps the applied keyspace between clean stops, always on the real file system.
    /// None: in memory only; it is then rebuilt from snapshot and log at each start.
    pub applied_dir: Option<PathBuf>,
    /// Heartbeat and election times.
    pub timing: Timing,
    /// Whether they follow the round trips to the other voters and the silences that were seen:
    /// up to [`crate::MAX_MULTIPLIER`] times as long. For the one engine of a process only: it is
    /// the clock of all engines in it that goes slower.
    pub adaptive: bool,
    /// A snapshot is made when the log has grown by so many bytes since the last one.
    pub snapshot_log_bytes: u64,
    /// So many entries stay in the log below a snapshot, so that a follower that is a little
    /// behind needs no snapshot.
    pub log_keep_entries: u64,
    /// And no more than so many bytes of them, however few these are.
    pub log_keep_bytes: u64,
    /// Bytes of changes kept in memory for watches and feeds.
    pub history_bytes: usize,
    /// Size of the log's files in bytes, see [`WalConfig::segment_bytes`].
    pub log_segment_bytes: u64,
    /// The largest entry of the log in bytes, see [`WalConfig::max_record_bytes`].
    pub log_max_record_bytes: usize,
}

impl Config {
    /// The defaults, everything under `dir`.
    pub fn new(node: NodeId, dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self {
            node,
            applied_dir: Some(dir.join("applied")),
            dir,
            timing: Timing::default(),
            adaptive: false,
            snapshot_log_bytes: 32 << 20,
            log_keep_entries: 1000,
            log_keep_bytes: 16 << 20,
            history_bytes: crate::keyspace::HISTORY_MAX_BYTES,
            log_segment_bytes: DEFAULT_SEGMENT_BYTES,
            log_max_record_bytes: DEFAULT_MAX_RECORD_BYTES,
        }
    }
}

impl Config {
    /// How the log is kept.
    pub(crate) fn wal(&self) -> WalConfig {
        WalConfig {
            segment_bytes: self.log_segment_bytes,
            max_record_bytes: self.log_max_record_bytes,
            ..WalConfig::new(self.dir.join("log"))
        }
    }
}

/// A running voter or learner. Keep it for as long as the node takes part; everything is done
/// through its [`Handle`].
#[derive(Debug)]
pub struct Raft {
    handle: Handle,
}

impl Raft {
    /// Opens the log, the snapshot and the keyspace in `config.dir` (creating them the first
    /// time) and starts the engine on the current tokio runtime. A node without log does nothing
    /// until it is named by [`Handle::initialize`], here or elsewhere.
    ///
    /// # Errors
    /// [`RaftError::Storage`] or [`RaftError::Log`] if the disk fails or what it holds is damaged.
    pub async fn open(
        config: Config,
        disk: Arc<dyn Disk>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, RaftError> {
        let engine = Arc::new(Engine::open(&config, disk, transport.clone()).await?);
        if config.adaptive {
            let follow = multiplier::follow(engine.clone(), transport.clone(), config.timing);
            tokio::spawn(follow);
        }
        Ok(Self { handle: Handle::new(engine, transport) })
    }

    /// The way in; clone it freely.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The read side.
    pub fn view(&self) -> View {
        self.handle.view()
    }
}
