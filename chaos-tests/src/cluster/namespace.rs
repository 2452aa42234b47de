//! A network namespace that lives as long as its harness.
//!
//! It is held by a child that waits for the end of its standard input, which the kernel closes when
//! the harness ends, even by kill -9; nodes in it end by their own parent-death signal. So nothing
//! is left, and there is nothing to clean up at the next start.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{runtime::Handle, sync::oneshot};

/// One namespace, with a thread inside on which sockets are opened and nodes are started.
#[derive(Debug)]
pub struct Namespace {
    anchor: Child,
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Namespace {
    /// Makes one.
    ///
    /// # Errors
    /// Not root, or `unshare` is missing.
    pub fn new() -> Result<Self> {
        let mut anchor = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec cat >/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare cannot be run")?;
        let mut line = String::new();
        if let Some(out) = anchor.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        ensure!(line == "ready\n", "no network namespace can be made here");
        let file = File::open(format!("/proc/{}/ns/net", anchor.id()))?;
        let (tell, told) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("chaos-namespace".into()).spawn(move || {
            let inside = || -> Result<tokio::runtime::Runtime> {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
            };
            match inside() {
                Ok(runtime) => {
                    let _ = tell.send(Ok(runtime.handle().clone()));
                    let _ = runtime.block_on(stopped);
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        })?;
        let handle = told.recv().context("the namespace's thread ended")??;
        Ok(Self { anchor, handle, _stop: stop })
    }

    /// The process that holds it.
    pub fn pid(&self) -> u32 {
        self.anchor.id()
    }

    /// Tasks spawned here run inside.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs a tool inside, to its end.
    ///
    /// # Errors
    /// It cannot be run or fails; with what it said.
    pub fn run(&self, words: &[&str], input: &str) -> Result<()> {
        let mut child = Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", self.pid()))
            .arg("--")
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("nsenter cannot be run")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {told}", words.join(" "));
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.anchor.kill();
        let _ = self.anchor.wait();
    }
}
