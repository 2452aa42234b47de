//! A disk in memory that can lose power, fail and fill up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::medium::{Dice, Dir, DirChange, Inode};
use super::{Disk, DiskFile};

/// The unit that a power cut leaves either old or new.
pub const SECTOR_BYTES: usize = 512;

/// A sort of operation, for counts and injected faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the operation of the trait with that name")]
pub enum DiskOp {
    Open,
    Create,
    Rename,
    Remove,
    List,
    CreateDir,
    SyncDir,
    Read,
    Write,
    SetLen,
    Preallocate,
    Sync,
}

/// A sort of sync that the disk acknowledges without doing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// Content and length of files.
    Files,
    /// The names in directories.
    Dirs,
}

/// A file system in memory for crash tests. Clones are handles of the same process.
///
/// Two states are kept: what the running process sees, and what is durable. [`SimDisk::restart`]
/// is the death of the process: all handles from before fail, and everything written stays.
/// [`SimDisk::power_cut`] also drops what was not synced: of each unsynced sector the old or the
/// new content remains, of each unsynced change of a directory all or nothing, as the seed has
/// it. A sync that was made to fail leaves its sectors lost: they stay readable, and only writing
/// them again can make them durable, as on Linux. Directories themselves are durable at once.
#[derive(Clone)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
    /// Told when a hold ends.
    unheld: Arc<Condvar>,
    boot: u64,
}

#[derive(Default)]
struct World {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    dirs: BTreeMap<PathBuf, Dir>,
    boot: u64,
    /// Changing operations until the process dies.
    fuse: Option<u64>,
    dead: bool,
    /// Whether changing operations wait for the death of the process.
    held: bool,
    capacity: Option<u64>,
    skip: Vec<Skip>,
    faults: Vec<Fault>,
    counts: BTreeMap<DiskOp, u64>,
}

struct Fault {
    op: DiskOp,
    after: u64,
    errno: i32,
}

impl SimDisk {
    /// An empty disk without limit.
    pub fn new() -> Self {
        Self { world: Arc::default(), unheld: Arc::default(), boot: 0 }
    }

    /// The process dies and another one starts: the disk as that one sees it.
    pub fn restart(&self) -> Self {
        let boot = self.world.lock().reboot();
        self.next(boot)
    }

    /// The power fails: the disk as it is after the machine came back. The seed decides what
    /// of the unsynced remains.
    pub fn power_cut(&self, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut world = self.world.lock();
        for inode in world.inodes.values_mut() {
            inode.lose_power(&mut dice);
        }
        for dir in world.dirs.values_mut() {
            dir.lose_power(&mut dice);
        }
        let linked: BTreeSet<u64> =
            world.dirs.values().flat_map(|d| d.current.values().copied()).collect();
        world.inodes.retain(|id, _| linked.contains(id));
        // Under the same lock: nothing of the process from before is written after the cut.
        let boot = world.reboot();
        drop(world);
        self.next(boot)
    }

    /// The handle of the next process.
    fn next(&self, boot: u64) -> Self {
        self.unheld.notify_all();
        Self { world: Arc::clone(&self.world), unheld: Arc::clone(&self.unheld), boot }
    }

    /// Lets the process die after so many more changing operations. The last one is left half
    /// done if it is a write; all later ones fail.
    pub fn die_after(&self, operations: u64) {
        self.world.lock().fuse = Some(operations);
    }

    /// Whether the process of this handle is dead.
    pub fn is_dead(&self) -> bool {
        let world = self.world.lock();
        world.dead || world.boot != self.boot
    }

    /// Lets every further changing operation wait, as on a disk that is slow, until the process is
    /// dead ([`SimDisk::restart`], [`SimDisk::power_cut`]); it then fails and changed nothing.
    pub fn hold(&self) {
        self.world.lock().held = true;
    }

    /// Lets the operation of this sort after `after` more of them fail with a system error.
    pub fn fail(&self, op: DiskOp, after: u64, errno: i32) {
        self.world.lock().faults.push(Fault { op, after, errno });
    }

    /// Sets the space for the content of all files; `None` is without limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world.lock().capacity = bytes;
    }

    /// Sets which syncs are acknowledged and not done.
    pub fn set_skip(&self, skip: &[Skip]) {
        self.world.lock().skip = skip.to_vec();
    }

    /// How often an operation was called.
    pub fn count(&self, op: DiskOp) -> u64 {
        self.world.lock().counts.get(&op).copied().unwrap_or(0)
    }

    /// Changes a byte on the medium, behind everybody's back: in what is read and in what is
    /// durable.
    ///
    /// # Errors
    /// `NotFound` if there is no such file, `UnexpectedEof` beyond its end.
    pub fn corrupt(&self, path: &Path, offset: u64, xor: u8) -> io::Result<()> {
        let mut world = self.world.lock();
        let inode = world.lookup(path)?;
        let offset = to_usize(offset)?;
        let inode = world.inode(inode)?;
        for content in [&mut inode.current, &mut inode.durable] {
            let byte = content.get_mut(offset);
            *byte.ok_or(io::ErrorKind::UnexpectedEof)? ^= xor;
        }
        Ok(())
    }

    fn file(&self, inode: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), inode })
    }

    fn enter(&self, op: DiskOp) -> io::Result<MutexGuard<'_, World>> {
        let mut world = self.world.lock();
        if world.dead || world.boot != self.boot {
            return Err(io::Error::other("the process that had this disk is dead"));
        }
        *world.counts.entry(op).or_default() += 1;
        let mut failed = None;
        world.faults.retain_mut(|fault| {
            if fault.op != op || failed.is_some() {
                return true;
            }
            if fault.after == 0 {
                failed = Some(fault.errno);
                return false;
            }
            fault.after -= 1;
            true
        });
        match failed {
            // A failed sync does its harm in `sync`.
            Some(errno) if op == DiskOp::Sync => {
                world.faults.insert(0, Fault { op, after: 0, errno });
                Ok(world)
            }
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(world),
        }
    }

    /// As `enter`, for what changes something: burns the fuse. True: this is the last one.
    fn enter_change(&self, op: DiskOp) -> io::Result<(MutexGuard<'_, World>, bool)> {
        {
            let mut world = self.world.lock();
            while world.held && world.boot == self.boot {
                self.unheld.wait(&mut world);
            }
        }
        let mut world = self.enter(op)?;
        let last = match &mut world.fuse {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        };
        world.dead |= last;
        Ok((world, last))
    }
}

fn died<T>() -> io::Result<T> {
    Err(io::Error::other("the process died in this operation"))
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("boot", &self.boot).finish_non_exhaustive()
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.enter(DiskOp::Open)?.lookup(path)?;
        Ok(self.file(inode))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let (mut world, last) = self.enter_change(DiskOp::Create)?;
        if last {
            return died();
        }
        let inode = match world.lookup(path) {
            Ok(inode) => {
                world.inode(inode)?.resize(0);
                inode
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let (dir, name) = split(path)?;
                let inode = world.next_inode;
                world.next_inode += 1;
                world.inodes.insert(inode, Inode::default());
                world.dir(dir)?.change(DirChange::Link(name, inode));
                inode
            }
            Err(e) => return Err(e),
        };
        drop(world);
        Ok(self.file(inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut world, last) = self.enter_change(DiskOp::Rename)?;
        if last {
            return died();
        }
        let inode = world.lookup(from)?;
        let ((from_dir, from), (to_dir, to)) = (split(from)?, split(to)?);
        if from_dir != to_dir {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        world.dir(from_dir)?.change(DirChange::Rename(from, to, inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut world, last) = self.enter_change(DiskOp::Remove)?;
        if last {
            return died();
        }
        world.lookup(path)?;
        let (dir, name) = split(path)?;
        world.dir(dir)?.change(DirChange::Unlink(name));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut world = self.enter(DiskOp::List)?;
        Ok(world.dir(dir)?.current.keys().cloned().collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut world, last) = self.enter_change(DiskOp::CreateDir)?;
        if last {
            return died();
        }
        for dir in dir.ancestors() {
            world.dirs.entry(dir.to_path_buf()).or_default();
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut world, last) = self.enter_change(DiskOp::SyncDir)?;
        if last {
            return died();
        }
        let skip = world.skip.contains(&Skip::Dirs);
        let dir = world.dir(dir)?;
        if !skip {
            dir.pending.clear();
            dir.durable = dir.current.clone();
        }
        Ok(())
    }
}

impl World {
    /// Whatever had the disk is dead; the number of who has it now.
    fn reboot(&mut self) -> u64 {
        self.boot += 1;
        self.dead = false;
        self.held = false;
        self.fuse = None;
        self.faults.clear();
        self.boot
    }

    fn dir(&mut self, dir: &Path) -> io::Result<&mut Dir> {
        self.dirs.get_mut(dir).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn lookup(&mut self, path: &Path) -> io::Result<u64> {
        let (dir, name) = split(path)?;
        let inode = self.dir(dir)?.current.get(&name).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Refuses to make a file longer than the capacity allows.
    fn grow(&mut self, inode: u64, to: usize) -> io::Result<()> {
        let now = self.inode(inode)?.current.len();
        let used: usize = self.inodes.values().map(|i| i.current.len()).sum();
        let after = (used + to.saturating_sub(now)) as u64;
        if to > now && self.capacity.is_some_and(|capacity| after > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
}

impl SimFile {
    fn sync(&self) -> io::Result<()> {
        let (mut world, last) = self.disk.enter_change(DiskOp::Sync)?;
        if last {
            return died();
        }
        let failed = world.faults.first().is_some_and(|f| f.op == DiskOp::Sync && f.after == 0);
        if failed {
            let fault = world.faults.remove(0);
            world.inode(self.inode)?.dirty.clear();
            return Err(io::Error::from_raw_os_error(fault.errno));
        }
        if !world.skip.contains(&Skip::Files) {
            world.inode(self.inode)?.sync();
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut world = self.disk.enter(DiskOp::Read)?;
        let content = &world.inode(self.inode)?.current;
        let from = to_usize(offset)?.min(content.len());
        let n = buf.len().min(content.len() - from);
        buf[..n].copy_from_slice(&content[from..from + n]);
        Ok(n)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let (mut world, last) = self.disk.enter_change(DiskOp::Write)?;
        let at = to_usize(offset)?;
        if last {
            // A killed process leaves the first part of its write, up to some sector.
            let half = (at + buf.len() / 2) / SECTOR_BYTES * SECTOR_BYTES;
            let kept = half.saturating_sub(at).min(buf.len());
            world.inode(self.inode)?.write(&buf[..kept], at);
            return died();
        }
        world.grow(self.inode, at + buf.len())?;
        world.inode(self.inode)?.write(buf, at);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut world = self.disk.enter(DiskOp::Read)?;
        Ok(world.inode(self.inode)?.current.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let (mut world, last) = self.disk.enter_change(DiskOp::SetLen)?;
        if last {
            return died();
        }
        world.inode(self.inode)?.resize(to_usize(bytes)?);
        Ok(())
    }

    fn preallocate(&self, from: u64, to: u64) -> io::Result<()> {
        let (mut world, last) = self.disk.enter_change(DiskOp::Preallocate)?;
        if last {
            return died();
        }
        let (from, to) = (to_usize(from)?, to_usize(to)?);
        world.grow(self.inode, to)?;
        world.inode(self.inode)?.write(&vec![0; to.saturating_sub(from)], from);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }
}

fn split(path: &Path) -> io::Result<(&Path, String)> {
    match (path.parent(), path.file_name().and_then(|n| n.to_str())) {
        (Some(dir), Some(name)) => Ok((dir, name.to_owned())),
        _ => Err(io::ErrorKind::InvalidFilename.into()),
    }
}

fn to_usize(n: u64) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/d";

    fn disk() -> SimDisk {
        let disk = SimDisk::new();
        disk.create_dir(Path::new(DIR)).unwrap();
        disk
    }

    #[test]
    fn what_was_synced_survives_every_cut_and_the_rest_some() {
        let path = Path::new(DIR).join("a");
        let (mut new, mut old, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let disk = disk();
            let file = disk.create(&path).unwrap();
            file.write_at(&[1; 2048], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir(Path::new(DIR)).unwrap();
            file.write_at(&[2; 2048], 0).unwrap();
            let after = disk.power_cut(seed);
            let content = after.open(&path).unwrap().read_all().unwrap();
            assert_eq!(content.len(), 2048);
            for sector in content.chunks(SECTOR_BYTES) {
                assert!(sector.iter().all(|b| *b == sector[0]), "sectors are whole");
            }
            match content.iter().filter(|b| **b == 2).count() {
                0 => old += 1,
                2048 => new += 1,
                _ => torn += 1,
            }
            assert!(file.sync_data().is_err(), "the handle is of a dead process");
        }
        assert!(new > 10 && old > 10 && torn > 10, "{new} {old} {torn}");
    }

    #[test]
    fn a_name_needs_a_sync_of_its_directory() {
        let path = Path::new(DIR).join("a");
        let there = |synced: bool| {
            (0..100)
                .filter(|seed| {
                    let disk = disk();
                    disk.create(&path).unwrap().sync_all().unwrap();
                    if synced {
                        disk.sync_dir(Path::new(DIR)).unwrap();
                    }
                    disk.power_cut(*seed).open(&path).is_ok()
                })
                .count()
        };
        assert_eq!(there(true), 100);
        assert!((20..80).contains(&there(false)));
    }

    #[test]
    fn a_failed_sync_loses_what_it_covered_though_it_still_reads() {
        let path = Path::new(DIR).join("a");
        let disk = disk();
        let file = disk.create(&path).unwrap();
        file.preallocate(0, 512).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        file.write_at(b"x", 0).unwrap();
        disk.fail(DiskOp::Sync, 0, libc::EIO);
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(libc::EIO));
        file.sync_data().unwrap();
        assert_eq!(file.read_all().unwrap()[0], b'x');
        let after = disk.power_cut(1);
        assert_eq!(after.open(&path).unwrap().read_all().unwrap()[0], 0);
    }
}
