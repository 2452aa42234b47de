//! The log is written by the workers of its disk, whoever they are.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::{
    io,
    path::Path,
    sync::{Arc, mpsc},
};

use futures::FutureExt as _;
use parking_lot::Mutex;
use swarmer_raft::{
    disk::{Disk, DiskFile, Served, SimDisk, Turns, Workers},
    wal::{Wal, WalConfig, WalError},
};

type Slot = Arc<Mutex<Option<Box<dyn Turns>>>>;

/// A disk whose workers do nothing by themselves.
#[derive(Debug)]
struct ByHand {
    disk: SimDisk,
    hands: Hands,
}

#[derive(Clone, Default)]
struct Hands(Slot);

impl std::fmt::Debug for Hands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hands")
    }
}

impl Workers for Hands {
    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }

    fn serve(&self, _: &str, turns: Box<dyn Turns>) -> io::Result<Box<dyn Served>> {
        *self.0.lock() = Some(turns);
        Ok(Box::new(self.clone()))
    }
}

impl Served for Hands {
    fn join(self: Box<Self>) {
        let turns = self.0.try_lock().and_then(|mut slot| slot.take());
        if let Some(mut turns) = turns {
            while turns.turn() {}
        }
    }
}

impl Disk for ByHand {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn workers(&self) -> Arc<dyn Workers> {
        Arc::new(self.hands.clone())
    }
}

fn open(hands: &Hands, disk: &SimDisk) -> Wal {
    let disk = Arc::new(ByHand { disk: disk.clone(), hands: hands.clone() });
    let (wal, _) = Wal::open(disk, WalConfig::new("/log")).unwrap();
    // What a new log has to do before anybody calls.
    let mut slot = hands.0.lock();
    let turns = slot.as_mut().unwrap();
    while turns.due().now_or_never().is_some() {
        assert!(turns.turn());
    }
    drop(slot);
    wal
}

/// No test tells as much before it listens.
const MORE_THAN_TOLD: usize = 16;

#[test]
fn nothing_is_acknowledged_before_a_turn_and_everything_after_it_in_order() {
    let (hands, disk) = (Hands::default(), SimDisk::new());
    let wal = open(&hands, &disk);
    let (told, said) = mpsc::sync_channel(MORE_THAN_TOLD);
    for index in 1..=3 {
        let told = told.clone();
        wal.append(index, vec![vec![7].into()], move |result| {
            told.send((index, result.is_ok())).unwrap();
        });
    }
    assert!(said.try_recv().is_err(), "nobody wrote it");
    let mut slot = hands.0.lock();
    let turns = slot.as_mut().unwrap();
    assert!(turns.due().now_or_never().is_some());
    assert!(turns.turn());
    assert_eq!(said.try_iter().collect::<Vec<_>>(), [(1, true), (2, true), (3, true)]);
    assert!(turns.due().now_or_never().is_none(), "there is nothing more to do");
    drop(slot);
    // Closing takes what turns are left.
    wal.append(4, vec![vec![7].into()], move |result| told.send((4, result.is_ok())).unwrap());
    wal.close().unwrap();
    assert_eq!(said.try_iter().collect::<Vec<_>>(), [(4, true)]);
    let after = disk.power_cut(1);
    assert_eq!(open(&hands, &after).last_index(), Some(4));
}

#[test]
fn who_gives_a_log_up_answers_what_is_queued() {
    let (hands, disk) = (Hands::default(), SimDisk::new());
    let wal = open(&hands, &disk);
    let (told, said) = mpsc::sync_channel(MORE_THAN_TOLD);
    wal.append(1, vec![vec![7].into()], move |result| told.send(result).unwrap());
    *hands.0.lock() = None;
    assert!(matches!(said.try_recv(), Ok(Err(WalError::Closed))));
    let (told, said) = mpsc::sync_channel(MORE_THAN_TOLD);
    wal.append(1, vec![vec![7].into()], move |result| told.send(result).unwrap());
    assert!(matches!(said.try_recv(), Ok(Err(WalError::Closed))));
}
