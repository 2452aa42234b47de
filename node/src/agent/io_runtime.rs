//! Threads of their own for everything that must not wait behind a request or a guest.

use crate::{
    codes,
    problem::{Outcome, Problem},
};

/// Cores for each thread of Raft, gossip and the connections between nodes. Few threads, since
/// every packet that goes from one to another costs a wake-up; never those that guests run on.
const CORES_PER_IO_THREAD: usize = 4;
/// Their niceness, where the system allows it: a machine with too much to do is late with requests
/// before it is late with heartbeats, and elects no leader and loses no peer for being busy.
const NICENESS: i32 = -10;

/// The threads of Raft, gossip and the connections. Dropped without waiting for what runs there:
/// waiting is not allowed where requests are served.
pub(crate) struct IoRuntime(Option<tokio::runtime::Runtime>);

impl IoRuntime {
    pub(crate) fn new() -> Outcome<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(cores.div_ceil(CORES_PER_IO_THREAD))
            .thread_name("swarmer-io")
            .on_thread_start(|| {
                // Of the calling thread alone, as Linux has it. Refused without CAP_SYS_NICE, or
                // without a limit that allows it (LimitNICE of systemd): then all are equal.
                let _ = rustix::process::setpriority_process(None, NICENESS);
            })
            .enable_all()
            .build();
        let fail = |error: std::io::Error| Problem::new(codes::INTERNAL, error.to_string());
        Ok(Self(Some(runtime.map_err(fail)?)))
    }
}

impl std::ops::Deref for IoRuntime {
    type Target = tokio::runtime::Runtime;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("taken only when it is dropped")
    }
}

impl Drop for IoRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
