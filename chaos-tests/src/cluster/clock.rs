//! A wall clock that jumps: libfaketime, steered through a file that each node has of its own. The
//! monotonic clock goes on as it was.

use std::path::{Path, PathBuf};

use anyhow::Result;
use parking_lot::Mutex;

/// Where distributions put the library: that for programs with several threads first.
const FOLDERS: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib64/faketime",
    "/usr/lib/faketime",
];
const LIBRARY: &str = "libfaketimeMT.so.1";

/// The library; none if it is not installed.
pub(super) fn library() -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| Path::new(folder).join(LIBRARY)).find(|path| path.is_file())
}

/// The wall clock of one node.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
    shifts: Mutex<Shifts>,
}

#[derive(Debug, Default)]
struct Shifts {
    next: u64,
    /// All that go on, in milliseconds; they add up.
    active: Vec<(u64, i64)>,
}

impl Clock {
    /// It goes right. `data` is the node's data directory; the file stands beside it.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(data: &Path) -> Result<Self> {
        let clock = Self { file: data.with_extension("clock"), shifts: Mutex::default() };
        clock.tell(&Shifts::default())?;
        Ok(clock)
    }

    /// Settings of the environment that make a process go by it; `LD_PRELOAD` besides.
    pub fn settings(&self) -> [String; 3] {
        [
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()),
            // Every look at the clock reads the file: a jump is seen at once.
            "FAKETIME_NO_CACHE=1".to_owned(),
            "DONT_FAKE_MONOTONIC=1".to_owned(),
        ]
    }

    /// It jumps by so many milliseconds, until [`Clock::heal`] is called with what this gives.
    ///
    /// # Errors
    /// The file system's.
    pub fn jump(&self, by_ms: i64) -> Result<u64> {
        let mut shifts = self.shifts.lock();
        shifts.next += 1;
        let id = shifts.next;
        shifts.active.push((id, by_ms));
        self.tell(&shifts)?;
        Ok(id)
    }

    /// It jumps back.
    ///
    /// # Errors
    /// The file system's.
    pub fn heal(&self, id: u64) -> Result<()> {
        let mut shifts = self.shifts.lock();
        shifts.active.retain(|(other, _)| *other != id);
        self.tell(&shifts)
    }

    /// It goes right again.
    ///
    /// # Errors
    /// The file system's.
    pub fn heal_all(&self) -> Result<()> {
        let mut shifts = self.shifts.lock();
        shifts.active.clear();
        self.tell(&shifts)
    }

    /// In one step: a node never reads half of it.
    fn tell(&self, shifts: &Shifts) -> Result<()> {
        let by_ms: i64 = shifts.active.iter().map(|(_, by_ms)| by_ms).sum();
        let sign = if by_ms < 0 { '-' } else { '+' };
        let by_ms = by_ms.unsigned_abs();
        let new = self.file.with_extension("clock-new");
        std::fs::write(&new, format!("{sign}{}.{:03}\n", by_ms / 1_000, by_ms % 1_000))?;
        std::fs::rename(&new, &self.file)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::SystemTime};

    use super::*;

    /// What `date` says, in seconds since 1970.
    fn date(clock: &Clock) -> i64 {
        let mut command = Command::new("date");
        command.arg("+%s").env("LD_PRELOAD", library().unwrap());
        for setting in clock.settings() {
            let (name, value) = setting.split_once('=').unwrap();
            command.env(name, value);
        }
        let output = command.output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn a_clock_jumps_and_jumps_back() {
        if !swarmer_testkit::require(swarmer_testkit::Capability::Faketime) {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::new(&folder.path().join("n1")).unwrap();
        let off = || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            date(&clock) - i64::try_from(now.as_secs()).unwrap()
        };
        let near = |wanted: i64| (off() - wanted).abs() <= 10;
        assert!(near(0));
        let first = clock.jump(-3_600_000).unwrap();
        assert!(near(-3_600), "an hour back");
        clock.jump(3_700_000).unwrap();
        assert!(near(100), "they add up");
        clock.heal(first).unwrap();
        assert!(near(3_700));
        clock.heal_all().unwrap();
        assert!(near(0));
    }
}
