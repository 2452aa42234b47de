//! The threads that requests are served on, guests included.

use crate::error::RuntimeError;

/// Polls of tasks between two looks at timers and sockets, and at what other threads sent. A
/// guest that loops takes a tick for each poll; with tokio's default of 61 a busy thread would
/// see a new request only after 61 of them.
const LOOK_AROUND: u32 = 8;

/// Owns the threads that run guests, and whatever else a request passes on its way: the sockets
/// it comes from and the handlers of calls belong here too, since a request that changes threads
/// pays a wake-up each time, which costs more than a small guest. A guest gives way to them at
/// every tick. Nothing that a cluster's life depends on may run here.
///
/// Dropped without waiting for what runs: a guest that loops would never let go.
#[derive(Debug)]
pub struct WorkThreads(Option<tokio::runtime::Runtime>);

impl WorkThreads {
    /// Starts one thread per core.
    pub fn start() -> Result<Self, RuntimeError> {
        Self::with(std::thread::available_parallelism().map_or(2, usize::from))
    }

    /// Starts this many threads, at least one.
    pub fn with(threads: usize) -> Result<Self, RuntimeError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("swarmer-work")
            .event_interval(LOOK_AROUND)
            .global_queue_interval(LOOK_AROUND)
            .enable_all()
            .build()
            .map_err(|error| RuntimeError::Threads(error.to_string()))?;
        Ok(Self(Some(runtime)))
    }

    /// Spawns on these threads.
    pub fn handle(&self) -> &tokio::runtime::Handle {
        self.0.as_ref().expect("taken only when it is dropped").handle()
    }
}

impl Drop for WorkThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
