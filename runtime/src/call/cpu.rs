//! The CPU time of a call: what its thread spends while it is polled.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::Call;

/// Counts the CPU time of one call. Only one thread at a time runs a call, so plain loads and
/// stores are enough.
#[derive(Debug, Default)]
pub(crate) struct CpuClock {
    /// Of finished polls, in nanoseconds.
    done: AtomicU64,
    /// The thread's clock when the present poll began.
    since: AtomicU64,
}

impl CpuClock {
    /// Time spent so far. To be asked from inside a poll.
    pub(crate) fn spent(&self) -> Duration {
        let now = thread_cpu_ns().saturating_sub(self.since.load(Relaxed));
        Duration::from_nanos(self.done.load(Relaxed).saturating_add(now))
    }

    /// Time spent in finished polls, in nanoseconds.
    pub(crate) fn done_ns(&self) -> u64 {
        self.done.load(Relaxed)
    }
}

/// Polls, and counts what that takes as CPU time of the call.
pub(crate) fn metered<T>(call: &Call, poll: impl FnOnce() -> T) -> T {
    let clock = &call.cpu;
    let start = thread_cpu_ns();
    clock.since.store(start, Relaxed);
    let result = poll();
    clock.done.fetch_add(thread_cpu_ns().saturating_sub(start), Relaxed);
    result
}

/// CPU time of the calling thread in nanoseconds.
fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a valid timespec that the call fills.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    if status != 0 {
        return 0;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threads_clock_runs_with_work() {
        let start = thread_cpu_ns();
        let mut sum = 0_u64;
        for i in 0..2_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_add(i));
        }
        assert!(thread_cpu_ns() > start, "{sum}");
    }
}
