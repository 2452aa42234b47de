//! A network namespace that lives as long as its harness.

use std::{fs::File, os::fd::AsFd as _, sync::mpsc};

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{runtime::Handle, sync::oneshot};

use super::anchor::{Anchor, Holds};

/// One namespace, with a thread inside on which sockets are opened and nodes are started.
#[derive(Debug)]
pub struct Namespace {
    anchor: Anchor,
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Namespace {
    /// Makes one.
    ///
    /// # Errors
    /// Not root, or `unshare` is missing.
    pub fn new() -> Result<Self> {
        let anchor = Anchor::new(Holds::Network)?;
        let file = File::open(anchor.file())?;
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
        self.anchor.pid()
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
        self.anchor.run(words, input)
    }
}
