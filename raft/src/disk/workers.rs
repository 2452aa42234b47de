//! Who does the work that waits for a disk.

use std::{fmt, io, sync::Arc, thread::JoinHandle};

use futures::future::BoxFuture;

use super::Disk;

/// Does the work that waits for a disk, away from those who must not wait.
///
/// Real disks block, so their work is done by [`Threads`]. A simulated disk takes simulated time:
/// its workers let that pass and then work at once, on the one thread of the simulation.
pub trait Workers: fmt::Debug + Send + Sync + 'static {
    /// Has a piece of work done. It may block.
    fn run(&self, work: Box<dyn FnOnce() + Send>);

    /// Has turns taken for as long as there are any.
    ///
    /// # Errors
    /// If nobody can be had for it.
    fn serve(&self, name: &str, turns: Box<dyn Turns>) -> io::Result<Box<dyn Served>>;
}

/// Work that goes on for long, in turns. It may block.
pub trait Turns: Send + 'static {
    /// Blocks until there is something to do.
    fn wait(&self);

    /// As [`Turns::wait`], without blocking; good until the next turn.
    fn due(&self) -> BoxFuture<'static, ()>;

    /// Does some of what there is to do. False: all is done, for good.
    fn turn(&mut self) -> bool;
}

/// Work in turns that somebody does.
pub trait Served: Send {
    /// Blocks until the last turn was taken, unless called from within one. The work was told to
    /// end before.
    fn join(self: Box<Self>);
}

/// Workers for disks that block: tokio's blocking threads, and a thread for each work in turns.
#[derive(Debug, Clone, Copy)]
pub struct Threads;

struct Thread(JoinHandle<()>);

impl Workers for Threads {
    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        // Whoever waits for the result has a way of its own to get it.
        drop(tokio::task::spawn_blocking(work));
    }

    fn serve(&self, name: &str, mut turns: Box<dyn Turns>) -> io::Result<Box<dyn Served>> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            loop {
                turns.wait();
                if !turns.turn() {
                    return;
                }
            }
        })?;
        Ok(Box::new(Thread(thread)))
    }
}

impl Served for Thread {
    fn join(self: Box<Self>) {
        // A thread cannot wait for itself.
        if self.0.thread().id() != std::thread::current().id() && self.0.join().is_err() {
            tracing::error!(target: "swarmer::raft", "a thread that waits for the disk panicked");
        }
    }
}

/// Has work done by a disk's workers and waits for its result without blocking.
pub(crate) async fn blocking<T: Send + 'static>(
    disk: &Arc<dyn Disk>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    disk.workers().run(Box::new(move || {
        // Nobody waits any more if the engine was stopped meanwhile.
        let _ = sender.send(work());
    }));
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the work panicked or was given up")))
}
