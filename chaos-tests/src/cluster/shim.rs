//! A disk that errs or crawls: `shim.c`, compiled here, loaded into the nodes, and steered through a
//! page of memory that each node shares with the harness.

use std::{
    fmt,
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

const SOURCE: &str = include_str!("shim.c");
/// Bytes of the shared block: seven numbers of 32 bits.
const BLOCK: usize = 28;
/// Where the count of struck calls stands in it.
const STRUCK_AT: u64 = 24;
/// The error of a broken medium.
const EIO: u32 = 5;

/// Which calls of a node are struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Calls {
    /// fsync and its kin.
    Sync,
    /// Writes to files.
    Write,
    /// Reads of files.
    Read,
    /// fsync and its kin, of the write-ahead log alone.
    Log,
}

impl Calls {
    const fn bit(self) -> u32 {
        match self {
            Self::Sync => 1,
            Self::Write => 2,
            Self::Read => 4,
            Self::Log => 8,
        }
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sync => "fsync",
            Self::Write => "write",
            Self::Read => "read",
            Self::Log => "fsync of the log",
        })
    }
}

impl fmt::Display for Ill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, percent, fails, delay_ms, .. } = self;
        write!(f, "{percent} % of {calls} ")?;
        match fails {
            true => f.write_str("fail"),
            false => write!(f, "take {delay_ms} ms longer"),
        }
    }
}

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ill {
    /// With which calls.
    pub calls: Calls,
    /// With how many of a hundred.
    pub percent: u32,
    /// They fail with EIO; otherwise they are only slow.
    pub fails: bool,
    /// They take so many milliseconds longer.
    pub delay_ms: u32,
    /// Which of the calls it is.
    pub seed: u32,
}

/// The library.
#[derive(Debug)]
pub struct Shim {
    library: PathBuf,
}

impl Shim {
    /// Compiles it into `folder`.
    ///
    /// # Errors
    /// There is no C compiler, or what it said.
    pub fn build(folder: &Path) -> Result<Self> {
        let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
        std::fs::write(&source, SOURCE)?;
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
        let output = command.output().context("cc cannot be run")?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cc: {told}");
        Ok(Self { library })
    }

    /// The library, to be loaded before all others.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// The disk of the node whose data are in `data`, as the node sees it; the shared block stands
    /// beside `base`.
    ///
    /// # Errors
    /// The file system's.
    pub fn disk(&self, base: &Path, data: &Path) -> Result<ShimDisk> {
        let at = base.with_extension("ill");
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&at)?;
        file.set_len(BLOCK as u64)?;
        let settings = [
            format!("CHAOS_SHIM_CONTROL={}", at.display()),
            format!("CHAOS_SHIM_BELOW={}", data.display()),
        ];
        Ok(ShimDisk { file, settings, ills: Mutex::default() })
    }
}

/// What the nodes' calls are told about one disk.
#[derive(Debug)]
pub struct ShimDisk {
    file: File,
    settings: [String; 2],
    ills: Mutex<Ills>,
}

#[derive(Debug, Default)]
struct Ills {
    next: u64,
    /// All that go on; the last one holds.
    active: Vec<(u64, Ill)>,
}

impl ShimDisk {
    /// Settings of the environment that tell the library of it.
    pub fn settings(&self) -> [String; 2] {
        self.settings.clone()
    }

    /// From the next call on it is ill, until [`ShimDisk::heal`] is called with what this gives.
    ///
    /// # Errors
    /// The file system's.
    pub fn fall_ill(&self, ill: Ill) -> Result<u64> {
        let mut ills = self.ills.lock();
        ills.next += 1;
        let id = ills.next;
        ills.active.push((id, ill));
        self.tell(&ills)?;
        Ok(id)
    }

    /// Ends one illness.
    ///
    /// # Errors
    /// The file system's.
    pub fn heal(&self, id: u64) -> Result<()> {
        let mut ills = self.ills.lock();
        ills.active.retain(|(other, _)| *other != id);
        self.tell(&ills)
    }

    /// Ends all of them.
    ///
    /// # Errors
    /// The file system's.
    pub fn heal_all(&self) -> Result<()> {
        let mut ills = self.ills.lock();
        ills.active.clear();
        self.tell(&ills)
    }

    /// Whether calls fail now. One that is slow fails nothing.
    pub fn fails(&self) -> bool {
        self.ills.lock().active.iter().any(|(_, ill)| ill.fails)
    }

    /// How many calls were struck so far.
    ///
    /// # Errors
    /// The file system's.
    pub fn struck(&self) -> Result<u32> {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, STRUCK_AT)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    /// `what` is written last, and first when it ends: it makes the rest count.
    fn tell(&self, ills: &Ills) -> Result<()> {
        self.file.write_all_at(&0_u32.to_ne_bytes(), 0)?;
        let Some((_, ill)) = ills.active.last() else { return Ok(()) };
        let error = if ill.fails { EIO } else { 0 };
        let words = [ill.percent, error, ill.delay_ms, ill.seed];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.file.write_all_at(&bytes, 4)?;
        self.file.write_all_at(&ill.calls.bit().to_ne_bytes(), 0)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `dd` does below the data directory.
    fn copies(shim: &Shim, disk: &ShimDisk, to: &Path) -> bool {
        let mut command = Command::new("dd");
        command.env("LD_PRELOAD", shim.library());
        command.args(["if=/dev/zero", "count=1", "conv=fsync"]).arg(format!("of={}", to.display()));
        for setting in disk.settings() {
            let (name, value) = setting.split_once('=').unwrap();
            command.env(name, value);
        }
        command.output().unwrap().status.success()
    }

    #[test]
    fn an_ill_disk_fails_what_it_should_and_nothing_else() {
        if !swarmer_testkit::require(swarmer_testkit::Capability::Cc) {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("n1");
        std::fs::create_dir(&data).unwrap();
        let shim = Shim::build(folder.path()).unwrap();
        let disk = shim.disk(&data, &data).unwrap();
        let copies = |disk: &ShimDisk, to: &Path| copies(&shim, disk, to);
        let (file, other) = (data.join("file"), folder.path().join("n1-other"));
        let ill = |calls| Ill { calls, percent: 100, fails: true, delay_ms: 0, seed: 1 };

        assert!(copies(&disk, &file));
        let sync = disk.fall_ill(ill(Calls::Sync)).unwrap();
        assert!(disk.fails() && !copies(&disk, &file), "fsync must fail");
        assert!(copies(&disk, &other), "not below the data directory");
        assert_eq!(disk.struck().unwrap(), 1);
        let write = disk.fall_ill(ill(Calls::Write)).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(!copies(&disk, &file));
        assert_eq!(std::fs::read(&file).unwrap(), b"", "nothing was written");
        disk.heal(write).unwrap();
        assert!(!copies(&disk, &file), "the first one goes on");
        disk.heal(sync).unwrap();
        assert!(copies(&disk, &file) && !disk.fails());
        let log = disk.fall_ill(ill(Calls::Log)).unwrap();
        assert!(copies(&disk, &file) && !copies(&disk, &data.join("1.wal")), "only of a log");
        disk.heal(log).unwrap();
        let slow = Ill { fails: false, delay_ms: 300, ..ill(Calls::Sync) };
        disk.fall_ill(slow).unwrap();
        let began = std::time::Instant::now();
        assert!(copies(&disk, &file));
        assert!(began.elapsed().as_millis() >= 300);
        disk.fall_ill(Ill { percent: 0, ..ill(Calls::Sync) }).unwrap();
        assert!(copies(&disk, &file), "none of a hundred");
        disk.heal_all().unwrap();
        let before = disk.struck().unwrap();
        assert!(copies(&disk, &file));
        assert_eq!(disk.struck().unwrap(), before);
    }
}
