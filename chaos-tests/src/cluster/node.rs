//! One node: a process that can be killed, paused and started again.

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use swarmer_model::wire;

use super::fittings::Fittings;

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

/// Makes the command that starts the node; but for the version of the wire the same at each start.
pub(super) type Start = Arc<dyn Fn() -> Command + Send + Sync>;

/// A node's process.
pub struct Node {
    /// Its name in the cluster.
    pub name: String,
    /// Where its output goes, over all its lives.
    pub log: PathBuf,
    /// Its disk and its clock. Nothing of its disk is touched while the node is not locked: a node that
    /// started without its disk would found anew on the bare mount point.
    pub(super) fittings: Fittings,
    /// Why it should not have ended as it did.
    pub(super) complaints: Vec<String>,
    /// Its disk failed in this life: then it may end.
    excused: bool,
    /// It was asked to stop in this life.
    asked: bool,
    /// From its next start on it speaks only the oldest version of the wire.
    old: bool,
    start: Start,
    child: Option<Child>,
    paused: bool,
}

impl Node {
    /// Not started yet.
    pub(super) fn new(name: String, log: PathBuf, fittings: Fittings, start: Start) -> Self {
        Self {
            name,
            log,
            fittings,
            complaints: Vec::new(),
            excused: false,
            asked: false,
            old: false,
            start,
            child: None,
            paused: false,
        }
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
        self.complain();
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = (self.start)();
        if self.old {
            command.args(["--wire-max", &wire::OLDEST.to_string()]);
        }
        command.stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("{} cannot start", self.name))?);
        self.paused = false;
        self.excused = self.fittings.fails();
        self.asked = false;
        Ok(())
    }

    /// From its next start on it is as of an older binary, or of this one.
    pub(super) fn become_old(&mut self, old: bool) {
        self.old = old;
    }

    /// Whether it is as of an older binary, from its next start on.
    pub(super) fn is_old(&self) -> bool {
        self.old
    }

    /// Its disk fails: it may end now, in this life.
    pub(super) fn excuse(&mut self) {
        self.excused = true;
    }

    /// Takes down an end that should not have been: one that nobody asked for, or one after SIGTERM with
    /// an error. A node whose disk fails stops rather than tell what may not be there: it may.
    pub(super) fn complain(&mut self) {
        let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        let Some(status) = ended else { return };
        self.child = None;
        let expected = self.excused || (self.asked && status.success());
        if !expected {
            let how = if self.asked { "after SIGTERM" } else { "by itself" };
            self.complaints.push(format!("{} ended {how}: {status}", self.name));
        }
    }

    /// SIGTERM. Gives whether there was something to stop.
    pub(super) fn ask_to_stop(&mut self) -> bool {
        let runs = self.state() == State::Running;
        self.asked |= runs && self.signal(Signal::TERM);
        runs
    }

    /// Whether it was asked to stop and still runs.
    pub(super) fn is_stopping(&mut self) -> bool {
        self.asked && matches!(self.state(), State::Running | State::Paused)
    }

    /// kill -9. Gives whether there was something to kill.
    pub fn kill(&mut self) -> bool {
        self.complain();
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
        // Who stands still does not stop in time.
        self.excused |= self.asked;
        runs
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        if self.paused {
            self.signal(Signal::CONT);
            self.paused = false;
        }
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
