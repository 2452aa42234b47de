//! One connection per peer and class, and one dial in flight for it.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use swarmer_model::NodeId;
use tokio::{sync::watch, time::Instant};

use super::{
    config::MAX_POOL,
    dial,
    error::OpenError,
    registry::Live,
    shared::{Shared, count},
};
use crate::stream::Class;

type Outcome = Result<Arc<Live>, OpenError>;
type Key = (NodeId, Class);

#[derive(Debug)]
enum Slot {
    Ready(Arc<Live>),
    Dialing { outcome: watch::Receiver<Option<Outcome>>, failures: u32 },
    Failed { until: Instant, failures: u32, address: Option<SocketAddr>, error: OpenError },
}

/// Outbound connections by peer and class.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<HashMap<Key, Slot>>);

/// The pause after so many failures in a row.
fn backoff(min: Duration, max: Duration, failures: u32) -> Duration {
    min.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(max)
}

impl Pool {
    /// A connection to the peer: the standing one, or the outcome of the one dial in flight.
    pub(crate) async fn connect(
        &self,
        shared: &Arc<Shared>,
        peer: NodeId,
        class: Class,
        deadline: Instant,
    ) -> Outcome {
        let mut outcome = match self.look(shared, (peer, class))? {
            Found::Ready(live) => return Ok(live),
            Found::Dialing(outcome) => outcome,
        };
        match tokio::time::timeout_at(deadline, outcome.wait_for(Option::is_some)).await {
            Err(_) => Err(OpenError::Deadline { peer }),
            Ok(Err(_)) => Err(OpenError::Closed),
            Ok(Ok(outcome)) => outcome.clone().unwrap_or(Err(OpenError::Closed)),
        }
    }

    /// The connection that stands to the peer, if new streams would go over it.
    pub(crate) fn standing(&self, peer: NodeId, class: Class) -> Option<Arc<Live>> {
        match self.0.lock().get(&(peer, class)) {
            Some(Slot::Ready(live)) if live.alive() => Some(live.clone()),
            _ => None,
        }
    }

    fn look(&self, shared: &Arc<Shared>, key: Key) -> Result<Found, OpenError> {
        let now = Instant::now();
        let mut slots = self.0.lock();
        let failures = match slots.get(&key) {
            Some(Slot::Ready(live)) if usable(shared, live) => {
                return Ok(Found::Ready(live.clone()));
            }
            // A dial whose task is gone will never have an outcome.
            Some(Slot::Dialing { outcome, .. }) if outcome.has_changed().is_ok() => {
                return Ok(Found::Dialing(outcome.clone()));
            }
            Some(Slot::Failed { until, error, address, .. })
                if now < *until && *address == shared.addresses.address(key.0) =>
            {
                return Err(OpenError::Backoff {
                    peer: key.0,
                    retry_in: *until - now,
                    last: Box::new(error.clone()),
                });
            }
            Some(Slot::Failed { failures, .. } | Slot::Dialing { failures, .. }) => *failures,
            Some(Slot::Ready(_)) | None => 0,
        };
        if shared.stopping.is_cancelled() {
            return Err(OpenError::Closed);
        }
        let Some(address) = shared.addresses.address(key.0) else {
            return Err(OpenError::UnknownAddress { peer: key.0 });
        };
        if slots.len() >= MAX_POOL {
            slots.retain(|_, slot| match slot {
                Slot::Ready(live) => live.alive(),
                Slot::Dialing { .. } => true,
                Slot::Failed { until, .. } => now < *until,
            });
        }
        let (tell, outcome) = watch::channel(None);
        slots.insert(key, Slot::Dialing { outcome: outcome.clone(), failures });
        drop(slots);
        count(&shared.counters.dials);
        let shared = shared.clone();
        // On its own, so that a caller who goes away does not break it off for the others.
        shared.config.io.clone().spawn(async move {
            let outcome = dial::member(&shared, key.0, key.1, address).await;
            shared.pool.settle(&shared, key, address, failures, &outcome);
            // Nobody may be waiting any more.
            let _ = tell.send(Some(outcome));
        });
        Ok(Found::Dialing(outcome))
    }

    fn settle(
        &self,
        shared: &Shared,
        key: Key,
        address: SocketAddr,
        failures: u32,
        outcome: &Outcome,
    ) {
        let slot = match outcome {
            Ok(live) => Slot::Ready(live.clone()),
            Err(error) => {
                count(&shared.counters.dial_failures);
                let failures = failures.saturating_add(1);
                let config = &shared.config;
                let pause = backoff(config.backoff_min, config.backoff_max, failures);
                Slot::Failed {
                    until: Instant::now() + pause,
                    failures,
                    address: Some(address),
                    error: error.clone(),
                }
            }
        };
        self.0.lock().insert(key, slot);
    }

    /// Leaves a connection: what runs on it goes on, new streams dial again.
    pub(crate) fn leave(&self, live: &Arc<Live>) {
        let mut slots = self.0.lock();
        let key = (live.peer.node, live.class);
        if matches!(slots.get(&key), Some(Slot::Ready(other)) if Arc::ptr_eq(other, live)) {
            slots.remove(&key);
        }
    }

    /// The peer was heard of: dials need not wait any longer.
    pub(crate) fn heard_of(&self, peer: NodeId) {
        let mut slots = self.0.lock();
        for class in [Class::Control, Class::Data] {
            if matches!(slots.get(&(peer, class)), Some(Slot::Failed { .. })) {
                slots.remove(&(peer, class));
            }
        }
    }

    /// Forgets a peer.
    pub(crate) fn forget(&self, peer: NodeId) {
        let mut slots = self.0.lock();
        for class in [Class::Control, Class::Data] {
            slots.remove(&(peer, class));
        }
    }
}

enum Found {
    Ready(Arc<Live>),
    Dialing(watch::Receiver<Option<Outcome>>),
}

/// Whether new streams may be opened on a connection. One that was dialled under an older
/// identity, or whose peer's certificate ran out since, is left for one with fresh certificates.
fn usable(shared: &Shared, live: &Live) -> bool {
    live.alive()
        && live.generation == shared.current().generation
        && live.unused_for() < shared.config.unused_timeout
        && (live.born_expired || !live.peer.expired(shared.clock.now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(1));
        let pauses: Vec<_> = (1..8).map(|n| backoff(min, max, n).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(backoff(min, max, u32::MAX), max);
    }
}
