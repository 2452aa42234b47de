//! A node's disk: loses power, fails, and takes simulated time.

use std::{
    io,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use swarmer_raft::disk::{Disk, DiskFile, Served, SimDisk, Turns, Workers};

/// How long a sound disk takes for a piece of work, in milliseconds.
const SOUND_MS: (u64, u64) = (0, 4);
/// How many changing operations of a piece of work a power cut may still let happen.
const TORN_OPERATIONS: u64 = 6;

/// A machine's disk over all of its starts.
pub(crate) struct Drive {
    disk: SimDisk,
    pace: Arc<Pace>,
}

/// How fast the disk is now, and the logs that are written on it.
#[derive(Debug)]
struct Pace {
    dice: Mutex<StdRng>,
    slow_ms: Mutex<Option<(u64, u64)>>,
    logs: Mutex<Vec<Weak<Slot>>>,
}

type Slot = Mutex<Option<Box<dyn Turns>>>;

impl Drive {
    pub(crate) fn new(seed: u64) -> Self {
        let pace = Pace {
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            slow_ms: Mutex::default(),
            logs: Mutex::default(),
        };
        Self { disk: SimDisk::new(), pace: Arc::new(pace) }
    }

    /// For the process that has it now.
    pub(crate) fn mount(&self) -> Arc<dyn Disk> {
        Arc::new(Mounted { disk: self.disk.clone(), pace: self.pace.clone() })
    }

    /// For faults.
    pub(crate) fn inner(&self) -> &SimDisk {
        &self.disk
    }

    /// Each piece of work takes so long from now on; none: as long as on a sound disk.
    pub(crate) fn slow_down(&self, ms: Option<(u64, u64)>) {
        *self.pace.slow_ms.lock() = ms;
    }

    /// The process dies; what it wrote stays.
    pub(crate) fn kill(&mut self) {
        self.disk = self.disk.restart();
        self.pace.logs.lock().clear();
    }

    /// The power fails, in the middle of whatever was to be written next.
    pub(crate) fn cut_power(&mut self) {
        let (fuse, seed) = {
            let mut dice = self.pace.dice.lock();
            (dice.random_range(0..TORN_OPERATIONS), dice.random())
        };
        self.disk.die_after(fuse);
        let logs: Vec<_> = self.pace.logs.lock().drain(..).collect();
        for slot in logs.iter().filter_map(Weak::upgrade) {
            if let Some(turns) = slot.lock().as_mut() {
                turns.turn();
            }
        }
        self.disk = self.disk.power_cut(seed);
    }

    /// The machine gets an empty disk in the place of its own.
    pub(crate) fn wipe(&mut self) {
        self.kill();
        self.disk = SimDisk::new();
    }
}

/// The disk as one process has it.
#[derive(Debug)]
struct Mounted {
    disk: SimDisk,
    pace: Arc<Pace>,
}

impl Disk for Mounted {
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
        Arc::new(Hands { disk: self.disk.clone(), pace: self.pace.clone() })
    }
}

/// Lets simulated time pass and then does the work at once.
#[derive(Debug)]
struct Hands {
    disk: SimDisk,
    pace: Arc<Pace>,
}

impl Pace {
    fn draw(&self) -> Duration {
        let (from, to) = self.slow_ms.lock().unwrap_or(SOUND_MS);
        Duration::from_millis(self.dice.lock().random_range(from..to))
    }
}

impl Workers for Hands {
    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        let takes = self.pace.draw();
        tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            work();
        });
    }

    fn serve(&self, _: &str, turns: Box<dyn Turns>) -> io::Result<Box<dyn Served>> {
        let slot: Arc<Slot> = Arc::new(Mutex::new(Some(turns)));
        self.pace.logs.lock().push(Arc::downgrade(&slot));
        tokio::spawn(take_turns(slot.clone(), self.disk.clone(), self.pace.clone()));
        Ok(Box::new(Log(slot)))
    }
}

async fn take_turns(slot: Arc<Slot>, disk: SimDisk, pace: Arc<Pace>) {
    loop {
        let due = slot.lock().as_ref().map(|turns| turns.due());
        let Some(due) = due else { return };
        due.await;
        if !disk.is_dead() {
            tokio::time::sleep(pace.draw()).await;
        }
        let mut slot = slot.lock();
        let Some(turns) = slot.as_mut() else { return };
        if !turns.turn() {
            *slot = None;
            return;
        }
    }
}

/// A log that is being written.
struct Log(Arc<Slot>);

impl Served for Log {
    fn join(self: Box<Self>) {
        // In the middle of a turn it cannot be had, and that turn is followed by the rest.
        let turns = self.0.try_lock().and_then(|mut slot| slot.take());
        if let Some(mut turns) = turns {
            while turns.turn() {}
        }
    }
}
