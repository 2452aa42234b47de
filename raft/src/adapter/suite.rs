//! The engine's own suite of storage tests, on our log and state machine.

use std::sync::Arc;

use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use parking_lot::Mutex;

use super::{
    log::{Growth, LogStore},
    machine::{Kept, Machine},
    types::{Position, Types},
};
use crate::{
    disk::{Disk, RealDisk},
    keyspace::{Applied, HISTORY_MAX_BYTES, Shared, State},
    snapshot::SnapshotStore,
    wal::{Wal, WalConfig},
};

struct OnDisk;

impl StoreBuilder<Types, LogStore, Machine, tempfile::TempDir> for OnDisk {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError<Types>> {
        let dir = tempfile::tempdir().expect("temp dir");
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let mut config = WalConfig::new(dir.path().join("log"));
        config.segment_bytes = 64 * 1024;
        config.max_record_bytes = 16 * 1024;
        let (wal, _) = Wal::open(disk.clone(), config).expect("log");
        let log = LogStore::new(wal, Arc::new(Growth::new(0, u64::MAX))).expect("store");
        let store = SnapshotStore::open(disk, dir.path().join("snapshots")).expect("snapshots");
        let (mut applied, _) = Applied::open(&dir.path().join("applied")).expect("applied");
        applied.refill(&State::default().image(), &bytes::Bytes::new());
        let shared = Shared::new(State::default(), HISTORY_MAX_BYTES);
        let kept = Kept { position: Position::default(), applied: Some(applied) };
        Ok((dir, log, Machine::new(shared, store, Arc::new(Mutex::new(kept)))))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_suite_of_the_engine() {
    Suite::test_all(OnDisk).await.expect("all cases");
}
