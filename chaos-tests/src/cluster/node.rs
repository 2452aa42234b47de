//! One node: a process that can be killed, paused and started again.

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::disk::Disk;

/// How a node's process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// It is stopped by SIGSTOP.
    Paused,
    /// It was killed, or was never started.
    Down,
    /// It ended by itself.
    Ended,
}

/// Makes the command that starts the node; the same at each start.
pub(super) type Start = Arc<dyn Fn() -> Command + Send + Sync>;

/// A node's process.
pub struct Node {
    /// Its name in the cluster.
    pub name: String,
    /// Where its output goes, over all its lives.
    pub log: PathBuf,
    /// Its data directory, if that is on a disk of its own. Nothing of it is touched while the node is
    /// not locked: a node that started without its disk would found anew on the bare mount point.
    pub(super) disk: Option<Disk>,
    start: Start,
    child: Option<Child>,
    paused: bool,
}

impl Node {
    /// Not started yet.
    pub(super) fn new(name: String, log: PathBuf, disk: Option<Disk>, start: Start) -> Self {
        Self { name, log, disk, start, child: None, paused: false }
    }

    /// How it is.
    pub fn state(&mut self) -> State {
        let Some(child) = &mut self.child else { return State::Down };
        match child.try_wait() {
            Ok(None) if self.paused => State::Paused,
            Ok(None) => State::Running,
            _ => State::Ended,
        }
    }

    /// Starts it; on the thread of its namespace, which must live on as long as the node.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(&mut self) -> Result<()> {
        if matches!(self.state(), State::Running | State::Paused) {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = (self.start)();
        command.stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("{} cannot start", self.name))?);
        self.paused = false;
        Ok(())
    }

    /// kill -9. Gives whether there was something to kill.
    pub fn kill(&mut self) -> bool {
        let alive = matches!(self.state(), State::Running | State::Paused);
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.paused = false;
        alive
    }

    /// SIGSTOP. Gives whether there was something to stop.
    pub fn pause(&mut self) -> bool {
        let runs = self.state() == State::Running;
        self.paused |= runs && self.signal(Signal::STOP);
        runs
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        if self.paused {
            self.signal(Signal::CONT);
            self.paused = false;
        }
    }

    /// Its own disk.
    ///
    /// # Errors
    /// It has none.
    pub(super) fn disk(&self) -> Result<&Disk> {
        self.disk.as_ref().with_context(|| format!("{} has no disk of its own", self.name))
    }

    fn signal(&self, signal: Signal) -> bool {
        let pid = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        // The child was not waited for, so the number is still its own.
        pid.and_then(Pid::from_raw).is_some_and(|pid| kill_process(pid, signal).is_ok())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
