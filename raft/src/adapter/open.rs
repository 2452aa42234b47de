//! What an engine starts from: the disk, read and checked, and its settings.

use std::{io, sync::Arc, time::Duration};

use openraft::SnapshotPolicy;

use super::types::{Position, decode, encode};
use crate::{
    disk::Disk,
    error::RaftError,
    keyspace::{Applied, State},
    raft::Config,
    snapshot::SnapshotStore,
    view::millis,
    wal::Wal,
};

/// Entries of one AppendEntries at most; their bytes are bounded by the log's reader.
const MAX_PAYLOAD_ENTRIES: u64 = 300;
/// The engine's pauses before it sends to a node again that could not be reached, one heartbeat at most.
/// They are on its clock, which may go ten times slower, and lie between the opening of a channel and the
/// first message on it, for which the other side waits a few seconds only: with pauses of a second, the
/// engine's own, it broke off every channel before anything came, for ever.
const BACKOFF: &str = "50ms ...100ms";
/// How long sending a whole snapshot may take before the engine starts again.
const SNAPSHOT_TIMEOUT_MS: u64 = 120_000;
/// Entries purged at once, so that the log drops whole segments.
const PURGE_BATCH: u64 = 64;
/// Requests that wait for the engine before callers wait.
const API_QUEUE: u64 = 4096;
/// Bytes of log read at a time to learn how much there is since the last snapshot.
const SCAN_BYTES: usize = 4 << 20;

/// What is on the disk, read and checked.
pub(super) struct Opened {
    pub(super) wal: Wal,
    pub(super) store: Arc<SnapshotStore>,
    pub(super) state: State,
    pub(super) position: Position,
    pub(super) applied: Option<Applied>,
    pub(super) log_bytes: u64,
}

pub(super) fn open_disk(config: &Config, disk: Arc<dyn Disk>) -> Result<Opened, RaftError> {
    let failed = |error: io::Error| RaftError::Storage(error.to_string());
    disk.create_dir(&config.dir).map_err(failed)?;
    let store = SnapshotStore::open(disk.clone(), config.dir.join("snapshots")).map_err(failed)?;
    let (wal, recovered) = Wal::open(disk, config.wal())?;
    let mut state = State::default();
    let mut position = Position::default();
    let mut applied = None;
    let mut filled = false;
    if let Some(dir) = &config.applied_dir {
        let (store, loaded) = Applied::open(dir).map_err(failed)?;
        if let Some(loaded) = loaded {
            position = decode("the keyspace's position", &loaded.position).map_err(failed)?;
            state = loaded.state;
            filled = true;
        }
        applied = Some(store);
    }
    let snapshot = store.current();
    let mut snapshot_index = None;
    if let Some(snapshot) = snapshot {
        snapshot_index = Some(snapshot.header.index);
        let of_snapshot: Position =
            decode("a snapshot's position", &snapshot.header.position).map_err(failed)?;
        if position.last_applied < of_snapshot.last_applied {
            state = snapshot.load().map_err(failed)?;
            position = of_snapshot;
            filled = false;
        }
    }
    if !filled && let Some(applied) = &mut applied {
        let bytes = encode(&position).map_err(failed)?;
        applied.refill(&state.image(), &bytes);
    }
    let purged = recovered.purged.as_ref().map(|(index, _)| *index);
    let reached = position.last_applied.map(|log_id| log_id.index);
    if purged > reached {
        return Err(RaftError::Storage(format!(
            "the log starts after index {purged:?}, but snapshot and keyspace end at {reached:?}: \
             a snapshot is missing in {}",
            config.dir.display()
        )));
    }
    let mut log_bytes = 0;
    let mut next = snapshot_index.map_or(recovered.first, |index| recovered.first.max(index + 1));
    while recovered.last.is_some_and(|last| next <= last) {
        let entries = wal.read(next..u64::MAX, SCAN_BYTES)?;
        let Some((last, _)) = entries.last() else { break };
        next = last + 1;
        log_bytes += entries.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
    }
    Ok(Opened { wal, store, state, position, applied, log_bytes })
}

pub(super) fn engine_config(config: &Config) -> Result<Arc<openraft::Config>, RaftError> {
    let ms = |duration: Duration| millis(duration);
    let election_max = ms(config.timing.election_max);
    let engine = openraft::Config {
        cluster_name: "swarmer".to_owned(),
        heartbeat_interval: ms(config.timing.heartbeat),
        election_timeout_min: ms(config.timing.election_min),
        election_timeout_max: election_max,
        install_snapshot_timeout: SNAPSHOT_TIMEOUT_MS,
        max_payload_entries: MAX_PAYLOAD_ENTRIES,
        // By bytes instead, see `Growth`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: config.log_keep_entries,
        purge_batch_size: PURGE_BATCH,
        api_channel_size: Some(API_QUEUE),
        backoff: BACKOFF.to_owned(),
        enable_pre_vote: Some(true),
        // A leader sends entries while it still writes them. If it is killed between the two and
        // led on in its old term, it would give their ids to other entries.
        enable_leader_restore: Some(false),
        // A leader that lost its quorum falls silent, so that under a bridge partition those that
        // still hear it can elect one that has a quorum.
        quorum_loss_probe_interval: Some(election_max * 3),
        ..openraft::Config::default()
    };
    let checked = engine.validate().map_err(|error| RaftError::Invalid(error.to_string()))?;
    Ok(Arc::new(checked))
}

#[cfg(test)]
mod tests {
    use swarmer_model::NodeId;

    use super::*;
    use crate::multiplier::MAX_MULTIPLIER;

    #[test]
    fn a_pause_before_another_try_is_short_however_slow_the_clock_goes() {
        let config = Config::new(NodeId(1), "nowhere");
        let pauses = engine_config(&config).unwrap().build_backoff();
        for pause in pauses.take(100) {
            assert!(pause <= config.timing.heartbeat, "{pause:?}");
            // Much less than the time in which the header of a stream has to come.
            assert!(pause * MAX_MULTIPLIER <= Duration::from_secs(1), "{pause:?}");
        }
    }
}
