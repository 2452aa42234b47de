//! Slots with a bounded queue before them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Every slot is taken and the queue is full.
    Full,
    /// None became free in time.
    Late,
}

/// So many may run, so many more may wait, first come first served.
#[derive(Debug)]
pub(crate) struct Gate {
    slots: Arc<Semaphore>,
    limit: usize,
    queue: usize,
    waiting: AtomicUsize,
}

impl Gate {
    pub(crate) fn new(limit: usize, queue: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { slots: Arc::new(Semaphore::new(limit)), limit, queue, waiting: AtomicUsize::new(0) }
    }

    /// How many may run.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// How many run, or are held.
    pub(crate) fn taken(&self) -> usize {
        self.limit - self.slots.available_permits()
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Waits for a slot. Whoever stops waiting, for whatever reason, leaves the queue.
    pub(crate) async fn enter(&self, until: Instant) -> Result<OwnedSemaphorePermit, Refused> {
        if let Ok(permit) = self.slots.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let _place = Place::take(&self.waiting, self.queue).ok_or(Refused::Full)?;
        let permit = self.slots.clone().acquire_owned();
        match tokio::time::timeout_at(until.into(), permit).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(Refused::Late),
        }
    }

    /// Waits until nobody is inside.
    pub(crate) async fn idle(&self) {
        let all = u32::try_from(self.limit).unwrap_or(u32::MAX);
        // The semaphore is never closed; the permits return at once.
        let _ = self.slots.acquire_many(all).await;
    }
}

struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, queue: usize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Relaxed) < queue).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_queue_is_bounded_and_nobody_waits_for_ever() {
        let gate = Arc::new(Gate::new(1, 1));
        let until = Instant::now() + Duration::from_secs(60);
        let inside = gate.enter(until).await.unwrap();
        let waits = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter(until).await.map(|_| ()) }
        });
        while gate.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.enter(until).await.unwrap_err(), Refused::Full);
        assert_eq!(gate.waiting(), 1, "a refused one leaves no trace");
        waits.abort();
        assert!(waits.await.is_err());
        assert_eq!(gate.waiting(), 0, "who leaves makes room");
        let soon = Instant::now() + Duration::from_millis(10);
        assert_eq!(gate.enter(soon).await.unwrap_err(), Refused::Late);
        drop(inside);
        gate.idle().await;
        assert_eq!(gate.taken(), 0);
    }
}
