//! The engine's clock: the real one, slowed down where the network or the machine is slow.
//!
//! Every time of the engine (heartbeats, leases, election time-outs, how long a message may take)
//! is fixed when it starts, and fits voters that are some milliseconds apart. Where they are on
//! several continents, all of them have to be longer by the same factor, and the factor is not
//! known before there are connections, and changes. So the times stay and the clock goes slower.
//!
//! Nothing that must hold rests on this clock: reads are confirmed by a quorum, and a lease decides
//! only who may disturb whom. One clock per process, as the engine asks a type for the time and
//! not a value.

use std::{
    future::Future,
    ops::{Add, AddAssign, Sub, SubAssign},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
use parking_lot::{Mutex, RwLock};
use tokio::time;

static RATE: RwLock<Rate> = RwLock::new(Rate { multiplier: 1, since: None });

/// How the engine's time follows from the real one.
#[derive(Debug, Clone, Copy)]
struct Rate {
    multiplier: u32,
    /// What both clocks showed when the multiplier was set: the real one, and the engine's.
    since: Option<(time::Instant, time::Instant)>,
}

impl Rate {
    fn shown(self, real: time::Instant) -> time::Instant {
        let Some((then, shown)) = self.since else { return real };
        match real.checked_duration_since(then) {
            Some(passed) => shown + passed / self.multiplier,
            None => shown.checked_sub((then - real) / self.multiplier).unwrap_or(shown),
        }
    }

    fn real(self, shown: time::Instant) -> time::Instant {
        let Some((real, then)) = self.since else { return shown };
        match shown.checked_duration_since(then) {
            Some(ahead) => real + ahead * self.multiplier,
            None => real.checked_sub((then - shown) * self.multiplier).unwrap_or(real),
        }
    }
}

/// What each engine of this process asks for.
static WISHES: Mutex<Vec<Arc<AtomicU32>>> = Mutex::new(Vec::new());

/// How many times slower than the real one an engine needs the clock to go, until it is dropped.
/// Of several engines in one process the one that needs the slowest decides.
#[derive(Debug)]
pub(crate) struct Wish(Arc<AtomicU32>);

impl Wish {
    pub(crate) fn new() -> Self {
        let wish = Arc::new(AtomicU32::new(1));
        WISHES.lock().push(wish.clone());
        Self(wish)
    }

    pub(crate) fn set(&self, multiplier: u32) {
        self.0.store(multiplier, Ordering::Relaxed);
        follow_wishes(&WISHES.lock());
    }
}

impl Drop for Wish {
    fn drop(&mut self) {
        let mut wishes = WISHES.lock();
        wishes.retain(|wish| !Arc::ptr_eq(wish, &self.0));
        follow_wishes(&wishes);
    }
}

/// From now on the clock is as slow as it is wished. It never jumps.
fn follow_wishes(wishes: &[Arc<AtomicU32>]) {
    let multiplier = wishes.iter().map(|wish| wish.load(Ordering::Relaxed)).max().unwrap_or(1);
    let mut rate = RATE.write();
    if rate.multiplier != multiplier {
        let real = time::Instant::now();
        let shown = rate.shown(real);
        *rate = Rate { multiplier, since: Some((real, shown)) };
    }
}

/// How many times slower than the real one the engine's clock goes.
pub(crate) fn multiplier() -> u32 {
    RATE.read().multiplier
}

/// How long a time of the engine really is.
pub(crate) fn real(duration: Duration) -> Duration {
    duration * multiplier()
}

/// A moment on the engine's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(time::Instant);

impl openraft::Instant for Instant {
    fn now() -> Self {
        Self(RATE.read().shown(time::Instant::now()))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        self.0 += duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0 - duration)
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        self.0 -= duration;
    }
}

/// tokio, by this clock. A wait that began before the multiplier changed keeps its length: all are
/// short, and whoever waited looks at the clock again.
#[derive(Debug)]
pub(crate) struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = time::Sleep;
    type Instant = Instant;
    type TimeoutError = time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = time::Timeout<T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        time::sleep(real(duration))
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        time::sleep_until(RATE.read().real(deadline.0))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        time::timeout(real(duration), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        time::timeout_at(RATE.read().real(deadline.0), future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slower_clock_never_jumps_and_finds_back() {
        let start = time::Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let rate = Rate { multiplier: 4, since: Some((at(1000), at(600))) };
        assert_eq!(rate.shown(at(1000)), at(600));
        assert_eq!(rate.shown(at(1400)), at(700));
        assert_eq!(rate.shown(at(800)), at(550), "a moment before the change is still ordered");
        for ms in [500, 600, 601, 5000] {
            assert_eq!(rate.shown(rate.real(at(ms))), at(ms));
        }
        let plain = Rate { multiplier: 1, since: None };
        assert_eq!((plain.shown(at(7)), plain.real(at(7))), (at(7), at(7)));
    }

    #[test]
    fn the_slowest_that_any_engine_needs_decides() {
        let (near, far) = (Wish::new(), Wish::new());
        assert_eq!(multiplier(), 1);
        far.set(8);
        near.set(1);
        assert_eq!(multiplier(), 8);
        near.set(3);
        drop(far);
        assert_eq!(multiplier(), 3);
        drop(near);
        assert_eq!(multiplier(), 1);
    }
}
