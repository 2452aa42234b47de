//! The CPU time of a call: what its thread spends while it is polled.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::Call;
use crate::engine::TICK;

/// Counts the CPU time of one call.
///
/// Asking the kernel for a thread's CPU time is a system call, and a short call is polled some
/// three times. So a poll is first timed by the wall clock, which costs next to nothing; only one
/// that runs into a tick of the engine, when [`spent`](Self::spent) is asked, is measured by the
/// thread's clock from there on. What the wall clock may add is bounded by a tick for each poll.
///
/// Only one thread at a time runs a call, so plain loads and stores are enough.
#[derive(Debug, Default)]
pub(crate) struct CpuClock {
    /// Of finished polls, in nanoseconds.
    done: AtomicU64,
    /// The present poll's wall clock up to the first tick in it, in nanoseconds.
    before_tick: AtomicU64,
    /// The thread's clock at that tick; 0 before one.
    at_tick: AtomicU64,
    /// When the present poll began.
    began: Mutex<Option<Instant>>,
}

impl CpuClock {
    /// Time spent so far. To be asked from inside a poll, at a tick.
    pub(crate) fn spent(&self) -> Duration {
        let thread = thread_cpu_ns();
        if self.at_tick.load(Relaxed) == 0 {
            self.before_tick.store(self.wall_ns(), Relaxed);
            self.at_tick.store(thread, Relaxed);
        }
        Duration::from_nanos(self.done.load(Relaxed).saturating_add(self.this_poll(thread)))
    }

    /// Time spent in finished polls, in nanoseconds.
    pub(crate) fn done_ns(&self) -> u64 {
        self.done.load(Relaxed)
    }

    fn begin(&self) {
        self.at_tick.store(0, Relaxed);
        *self.began.lock() = Some(Instant::now());
    }

    fn end(&self) {
        let this = match self.at_tick.load(Relaxed) {
            0 => self.wall_ns(),
            _ => self.this_poll(thread_cpu_ns()),
        };
        self.done.fetch_add(this, Relaxed);
    }

    fn this_poll(&self, thread: u64) -> u64 {
        let since = thread.saturating_sub(self.at_tick.load(Relaxed));
        self.before_tick.load(Relaxed).saturating_add(since)
    }

    /// Wall clock of the present poll, never more than a tick: a thread that had to wait for its
    /// core used nothing meanwhile.
    fn wall_ns(&self) -> u64 {
        let elapsed = self.began.lock().map_or(Duration::ZERO, |began| began.elapsed());
        u64::try_from(elapsed.min(TICK).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Polls, and counts what that takes as CPU time of the call.
pub(crate) fn metered<T>(call: &Call, poll: impl FnOnce() -> T) -> T {
    call.cpu.begin();
    let result = poll();
    call.cpu.end();
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

    #[test]
    fn a_short_poll_counts_by_the_wall_and_a_long_one_by_the_threads_clock() {
        let clock = CpuClock::default();
        clock.begin();
        clock.end();
        assert!(clock.done_ns() > 0 && clock.done_ns() <= u64::try_from(TICK.as_nanos()).unwrap());
        let before = clock.done_ns();
        clock.begin();
        assert!(clock.spent() >= Duration::from_nanos(before));
        let start = thread_cpu_ns();
        while thread_cpu_ns() - start < 5_000_000 {
            std::hint::spin_loop();
        }
        assert!(clock.spent() >= Duration::from_millis(5), "{:?}", clock.spent());
        clock.end();
        assert!(clock.done_ns() - before >= 5_000_000, "what came after the tick is counted too");
        // A thread that waits uses nothing, whatever the wall clock says.
        let before = clock.done_ns();
        clock.begin();
        std::thread::sleep(10 * TICK);
        clock.end();
        assert!(clock.done_ns() - before <= u64::try_from(TICK.as_nanos()).unwrap());
    }
}
