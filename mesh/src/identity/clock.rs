//! The wall clock, handed in so that tests can let a month pass.

use std::{fmt, time::SystemTime};

/// Where certificates get the time from.
pub trait WallClock: fmt::Debug + Send + Sync + 'static {
    /// Now.
    fn now(&self) -> SystemTime;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
