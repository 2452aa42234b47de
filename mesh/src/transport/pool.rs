//! One connection per peer and class, and one dial in flight for it.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use swarmer_model::NodeId;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    config::MAX_POOL,
    dial,
    error::OpenError,
    registry::Live,
    shared::{Current, Shared, count},
};
use crate::stream::Class;

type Outcome = Result<Arc<Live>, OpenError>;
type Key = (NodeId, Class);

/// What is known of one peer and class. A connection that is to be replaced serves until the dial
/// for the other one has succeeded: nothing waits for a handshake because a certificate was renewed.
#[derive(Debug, Default)]
struct Slot {
    standing: Option<Arc<Live>>,
    dial: Dial,
    /// Dials that failed in a row.
    failures: u32,
}

#[derive(Debug, Default)]
enum Dial {
    #[default]
    None,
    UnderWay {
        outcome: watch::Receiver<Option<Outcome>>,
        /// Has it begun anew.
        again: Arc<Notify>,
    },
    Failed {
        until: Instant,
        address: SocketAddr,
        error: OpenError,
    },
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

    /// Sees to it that a connection stands soon, without waiting for it.
    pub(crate) fn prepare(&self, shared: &Arc<Shared>, peer: NodeId, class: Class) {
        // Whoever needs it meets the error again.
        let _ = self.look(shared, (peer, class));
    }

    /// The connection that stands to the peer, if new streams would go over it.
    pub(crate) fn standing(&self, peer: NodeId, class: Class) -> Option<Arc<Live>> {
        let slots = self.0.lock();
        slots.get(&(peer, class))?.standing.clone().filter(|live| live.alive())
    }

    fn look(&self, shared: &Arc<Shared>, key: Key) -> Result<Found, OpenError> {
        let now = Instant::now();
        let current = shared.current();
        let mut slots = self.0.lock();
        if slots.len() >= MAX_POOL && !slots.contains_key(&key) {
            slots.retain(|_, slot| slot.is_of_use(now));
        }
        let slot = slots.entry(key).or_default();
        let standing = slot.standing.clone().filter(|live| serves(shared, &current, live));
        if let Some(live) = &standing
            && live.generation == current.generation
        {
            return Ok(Found::Ready(live.clone()));
        }
        let address = shared.addresses.address(key.0);
        let failed = match (&slot.dial, address) {
            // A dial whose task is gone will never have an outcome.
            (Dial::UnderWay { outcome, .. }, _) if outcome.has_changed().is_ok() => {
                return Ok(match standing {
                    Some(live) => Found::Ready(live),
                    None => Found::Dialing(outcome.clone()),
                });
            }
            (Dial::Failed { until, address: of, error }, Some(address))
                if now < *until && *of == address =>
            {
                let (retry_in, last) = (*until - now, Box::new(error.clone()));
                Some(OpenError::Backoff { peer: key.0, retry_in, last })
            }
            (_, None) => Some(OpenError::UnknownAddress { peer: key.0 }),
            _ if shared.stopping.is_cancelled() => Some(OpenError::Closed),
            _ => None,
        };
        if let Some(error) = failed {
            return standing.map(Found::Ready).ok_or(error);
        }
        let address = address.ok_or(OpenError::UnknownAddress { peer: key.0 })?;
        let (tell, outcome) = watch::channel(None);
        let again = Arc::new(Notify::new());
        slot.dial = Dial::UnderWay { outcome: outcome.clone(), again: Arc::clone(&again) };
        drop(slots);
        count(&shared.counters.dials);
        let shared = shared.clone();
        // On its own, so that a caller who goes away does not break it off for the others.
        shared.config.io.clone().spawn(async move {
            let outcome = dial::member(&shared, key.0, key.1, address, &again).await;
            shared.pool.settle(&shared, key, address, &outcome);
            // Nobody may be waiting any more.
            let _ = tell.send(Some(outcome));
        });
        Ok(standing.map_or(Found::Dialing(outcome), Found::Ready))
    }

    fn settle(&self, shared: &Shared, key: Key, address: SocketAddr, outcome: &Outcome) {
        let mut slots = self.0.lock();
        let slot = slots.entry(key).or_default();
        match outcome {
            Ok(live) => *slot = Slot { standing: Some(live.clone()), ..Slot::default() },
            Err(error) => {
                count(&shared.counters.dial_failures);
                slot.failures = slot.failures.saturating_add(1);
                let config = &shared.config;
                let pause = backoff(config.backoff_min, config.backoff_max, slot.failures);
                let until = Instant::now() + pause;
                slot.dial = Dial::Failed { until, address, error: error.clone() };
            }
        }
    }

    /// Leaves a connection: what runs on it goes on, new streams dial again.
    pub(crate) fn leave(&self, live: &Arc<Live>) {
        let mut slots = self.0.lock();
        let key = (live.peer.node, live.class);
        if let Some(slot) = slots.get_mut(&key) {
            slot.standing.take_if(|other| Arc::ptr_eq(other, live));
            if slot.standing.is_none() && matches!(slot.dial, Dial::None) {
                slots.remove(&key);
            }
        }
    }

    /// The peer was heard of: dials need not wait any longer, and one whose packets went into the void
    /// begins anew, for those who wait for it.
    pub(crate) fn heard_of(&self, peer: NodeId) {
        let mut slots = self.0.lock();
        for class in [Class::Control, Class::Data] {
            let Some(slot) = slots.get_mut(&(peer, class)) else { continue };
            match &slot.dial {
                Dial::None => {}
                Dial::UnderWay { again, .. } => again.notify_one(),
                Dial::Failed { .. } => (slot.dial, slot.failures) = (Dial::None, 0),
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

impl Slot {
    fn is_of_use(&self, now: Instant) -> bool {
        let dial = match &self.dial {
            Dial::None => false,
            Dial::UnderWay { .. } => true,
            Dial::Failed { until, .. } => now < *until,
        };
        dial || self.standing.as_ref().is_some_and(|live| live.alive())
    }
}

enum Found {
    Ready(Arc<Live>),
    Dialing(watch::Receiver<Option<Outcome>>),
}

/// Whether new streams may be opened on a connection; one of an older identity only until there is
/// another. Not on one for which the certificate of either side is of no use by now: the peer would
/// refuse them, or has a fresh one that only another connection shows.
fn serves(shared: &Shared, current: &Current, live: &Live) -> bool {
    let now = shared.clock.now();
    live.alive()
        && live.generation >= current.oldest_good
        && (live.generation == current.generation || now < live.own_until)
        && live.unused_for() < shared.config.unused(live.class)
        && (live.born_expired || !live.peer.expired(now))
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
