//! Data directories on file systems of their own, which lose power (what was not synced is gone) and
//! become full.
//!
//! XFS in a file, mounted in a mount namespace that only the nodes share. Its own shutdown
//! (`XFS_IOC_GOINGDOWN` without a flush of the log, which is what `xfs_io -c shutdown` asks for) throws
//! away every page and every log record that is not on the medium; the next mount recovers as after a
//! power cut.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use super::anchor::{Anchor, Holds};

/// The size of one. The smallest that `mkfs.xfs` makes is 300 MiB, 64 of which are its log; the rest
/// is many times what a node writes in a run. The file is sparse.
const BYTES: u64 = 512 << 20;
/// How long a killed node's files may keep its disk busy: its children end a moment after it.
const BUSY: Duration = Duration::from_secs(10);
/// The folder on a disk that is the data directory, and the file beside it that takes all room.
const DATA: &str = "data";
const BALLAST: &str = "ballast";
/// The smallest piece of room: a block.
const BLOCK: u64 = 4_096;

/// Where file systems are mounted for nodes, and for nobody else.
#[derive(Debug)]
pub struct Mounts(Anchor);

impl Mounts {
    /// Nothing is mounted yet.
    ///
    /// # Errors
    /// Not root, or `unshare` is missing.
    pub fn new() -> Result<Self> {
        Ok(Self(Anchor::new(Holds::Mounts)?))
    }

    /// Gives those inside shared memory of their own, which goes with them.
    ///
    /// # Errors
    /// What the tool said.
    pub(super) fn own_shared_memory(&self) -> Result<()> {
        self.0.run(&["mount", "-t", "tmpfs", "chaos", "/dev/shm"], "")
    }

    /// Words before a command that make it see what is mounted.
    pub(super) fn enter(&self) -> [String; 3] {
        self.0.enter()
    }

    /// A path of theirs, as the harness sees it.
    fn seen(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.0.pid()));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// The disk of one node.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
    mounts: Arc<Mounts>,
    full: AtomicBool,
}

impl Disk {
    /// Makes one and mounts it at `at`.
    ///
    /// # Errors
    /// What a tool said.
    pub fn new(mounts: &Arc<Mounts>, at: &Path) -> Result<Self> {
        let disk = Self {
            image: at.with_extension("xfs"),
            at: at.to_owned(),
            mounts: Arc::clone(mounts),
            full: AtomicBool::new(false),
        };
        std::fs::create_dir_all(at)?;
        File::create(&disk.image)?.set_len(BYTES)?;
        disk.run(&["mkfs.xfs", "-q"], &disk.image)?;
        disk.mount()?;
        std::fs::create_dir(disk.seen())?;
        // A cut before the node's first sync must not take the directory away.
        File::open(disk.mounts.seen(&disk.at))?.sync_all()?;
        Ok(disk)
    }

    /// The data directory, as nodes see it.
    pub fn data(&self) -> PathBuf {
        self.at.join(DATA)
    }

    /// The data directory, as the harness sees it.
    pub fn seen(&self) -> PathBuf {
        self.mounts.seen(&self.data())
    }

    /// Takes all the room that there is.
    ///
    /// # Errors
    /// Anything but that there is no room.
    pub fn fill(&self) -> Result<()> {
        let ballast = File::create(self.ballast())?;
        let (mut at, mut piece) = (0, BYTES);
        while piece >= BLOCK {
            match fallocate(&ballast, FallocateFlags::empty(), at, piece) {
                Ok(()) => at += piece,
                Err(Errno::NOSPC) => piece /= 2,
                Err(error) => return Err(error).context("the disk cannot be filled"),
            }
        }
        self.full.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// The file system's.
    pub fn free(&self) -> Result<()> {
        self.full.store(false, Ordering::Relaxed);
        match std::fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Whether all room is taken.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    fn ballast(&self) -> PathBuf {
        self.mounts.seen(&self.at.join(BALLAST))
    }

    /// Drops whatever is not on the medium. From now on everything is refused there.
    ///
    /// # Errors
    /// What the tool said, or it did not do it.
    pub fn lose_power(&self) -> Result<()> {
        self.run(&["xfs_io", "-x", "-c", "shutdown"], &self.at)?;
        ensure!(std::fs::read_dir(self.seen()).is_err(), "{} has power still", self.at.display());
        Ok(())
    }

    /// Mounts it again, with what was on the medium. Nothing may have files open on it.
    ///
    /// # Errors
    /// It is busy, or the file system is broken: a fault of the file system, not of the node.
    pub fn restore(&self) -> Result<()> {
        let began = Instant::now();
        while let Err(error) = self.run(&["umount"], &self.at) {
            if began.elapsed() > BUSY {
                bail!("still busy after {BUSY:?}: {error:#}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.mount().context("after a power cut the file system itself is broken")
    }

    fn mount(&self) -> Result<()> {
        let image = self.image.to_string_lossy().into_owned();
        self.run(&["mount", "-o", "loop", &image], &self.at)
    }

    fn run(&self, words: &[&str], path: &Path) -> Result<()> {
        self.mounts.0.run(&[words, &[&*path.to_string_lossy()]].concat(), "")
    }
}
