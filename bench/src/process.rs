//! Processes that are measured: started together with what they start, read, and ended.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// A subject may take so long until it answers.
const START: Duration = Duration::from_secs(60);
/// How many of a subject's last log lines are shown when it failed.
const LAST_LINES: usize = 12;

/// What a process, and those that it started, used since it began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// User and system time; the kernel counts it in steps of 10 ms.
    pub(crate) cpu: Duration,
    /// Resident memory now.
    pub(crate) rss_bytes: u64,
    /// What of it is its own, not pages of files that others share.
    pub(crate) anonymous_bytes: u64,
}

/// What a process used by itself, without those that it started.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Alone {
    /// As in [`Usage`].
    pub(crate) cpu: Duration,
    /// Resident memory now.
    pub(crate) rss_bytes: u64,
    /// The same with each page that others share divided among them (proc(5), `smaps_rollup`).
    pub(crate) pss_bytes: u64,
}

/// A process in a group of its own; the whole group is killed when this is dropped, and the
/// process also when the bench itself is killed.
pub(crate) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    /// It was killed and waited for: its number may be another one's by now.
    over: bool,
}

impl Process {
    /// Starts it, with its output in a file of this folder. To be called on the main thread:
    /// the kernel ends the child when the thread that started it ends.
    pub(crate) fn start(name: &str, folder: &Path, command: &mut Command) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log)?;
        // A configuration meant for a real node must not leak into this one.
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("SWARMER_") && key != "SWARMER_LOG" {
                command.env_remove(key);
            }
        }
        command.process_group(0).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        die_with_us(command);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { child, name: name.to_owned(), log, over: false })
    }

    /// Where its output goes.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Kills its group as by kill -9 and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if !self.over {
            signal(self.child.id(), true, libc::SIGKILL);
            self.over = self.child.wait().is_ok();
        }
    }

    /// Asks it to end in good order, and waits until it did.
    pub(crate) async fn stop(&mut self, within: Duration) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            signal(self.child.id(), false, libc::SIGTERM);
        }
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > within {
                bail!("{} does not stop within {within:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.over = true;
        Ok(())
    }

    /// What it used by itself; cheaper than [`Process::usage`] where there are many.
    pub(crate) fn alone(&self) -> Alone {
        let read = |file: &str| {
            std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_default()
        };
        let memory = read("smaps_rollup");
        Alone {
            cpu: Stat::parse(&read("stat")).map(|stat| stat.cpu).unwrap_or_default(),
            rss_bytes: bytes_of(&memory, "Rss:"),
            pss_bytes: bytes_of(&memory, "Pss:"),
        }
    }

    /// What its group used.
    pub(crate) fn usage(&self) -> Usage {
        let group = self.child.id();
        let mut sum = Usage::default();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(stat) = std::fs::read_to_string(path.join("stat")) else { continue };
            let Some(stat) = Stat::parse(&stat).filter(|stat| stat.group == group) else {
                continue;
            };
            sum.cpu += stat.cpu;
            let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
            sum.rss_bytes += bytes_of(&status, "VmRSS:");
            sum.anonymous_bytes += bytes_of(&status, "RssAnon:");
        }
        sum
    }

    /// Bytes that it handed to the disk since it started (proc(5), `write_bytes`).
    pub(crate) fn disk_bytes(&self) -> u64 {
        let path = format!("/proc/{}/io", self.child.id());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("write_bytes:"));
        line.and_then(|line| line.trim().parse().ok()).unwrap_or_default()
    }

    /// Waits until it takes connections; fails at once if it ended.
    pub(crate) async fn until_listening(&mut self, address: SocketAddr) -> Result<()> {
        let start = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            self.check()?;
            if start.elapsed() > START {
                bail!(
                    "{} does not listen on {address}; its last lines:\n{}",
                    self.name,
                    self.last_lines()
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Fails if it ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended with {status}; its last lines:\n{}", self.name, self.last_lines())
            }
        }
    }

    /// The last lines of its log.
    pub(crate) fn last_lines(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LAST_LINES);
        lines[from..].iter().map(|line| format!("    {line}\n")).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Signals a child, or with `group` the whole group that it leads.
#[expect(unsafe_code, reason = "the standard library can only kill, and no group")]
fn signal(id: u32, group: bool, signal: i32) {
    if let Ok(id) = i32::try_from(id)
        && id > 1
    {
        // SAFETY: kill takes two integers; `id` is a child of this process that leads a group,
        // and it was not waited for yet, so the number is still its own.
        let _ = unsafe { libc::kill(if group { -id } else { id }, signal) };
    }
}

#[expect(unsafe_code, reason = "only the child itself can ask to end with its parent")]
fn die_with_us(command: &mut Command) {
    let ask = || {
        // SAFETY: PR_SET_PDEATHSIG takes a signal number; no memory is passed.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    let _ = unsafe { command.pre_exec(ask) };
}

struct Stat {
    group: u32,
    cpu: Duration,
}

impl Stat {
    /// Reads /proc/PID/stat (proc(5)): the fields after the name, which may contain anything.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        let cpu = Duration::from_secs(ticks) / ticks_per_second();
        Some(Self { group: fields.get(2)?.parse().ok()?, cpu })
    }
}

#[expect(unsafe_code, reason = "the length of a tick is known to sysconf alone")]
fn ticks_per_second() -> u32 {
    // SAFETY: sysconf takes and gives a number.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u32::try_from(ticks).ok().filter(|ticks| *ticks > 0).unwrap_or(100)
}

/// A line of /proc/PID/status.
fn bytes_of(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

/// So many different free TCP ports of loopback. Each is free for UDP of the same number with
/// near certainty; a subject that finds its port taken says so.
pub(crate) fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    // All at once, so that none is given twice.
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<std::io::Result<_>>()?;
    Ok(listeners.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_is_no_trouble() {
        let stat = "7 (a) S (b) R 1 42 42 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 1 1 1";
        let stat = Stat::parse(stat).unwrap();
        assert_eq!(stat.group, 42);
        assert_eq!(stat.cpu, Duration::from_secs(200) / ticks_per_second());
        assert!(Stat::parse("7 a").is_none());
    }

    #[test]
    fn the_whole_group_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $!; wait"]);
        let process = Process::start("sh", folder.path(), &mut command).unwrap();
        let grandchild = loop {
            let line = std::fs::read_to_string(&process.log).unwrap();
            if line.ends_with('\n') {
                break line.trim().to_owned();
            }
            std::thread::yield_now();
        };
        assert!(process.usage().rss_bytes > 0);
        drop(process);
        // Its new parent may not have taken note of its death yet, or it is gone.
        let state = || std::fs::read_to_string(format!("/proc/{grandchild}/stat"));
        while let Ok(stat) = state() {
            let state = stat.rsplit_once(')').unwrap().1.trim_start();
            if state.starts_with('Z') || state.starts_with('X') {
                break;
            }
            std::thread::yield_now();
        }
    }
}
