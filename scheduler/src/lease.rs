//! When leases end: by the time that passes on the node that leads.

use std::collections::{BTreeMap, BTreeSet};

use swarmer_model::planted::{self, Bug};

/// The most that a lease ages between two looks. A leader that stood still, or whose clock leapt,
/// served no renewal meanwhile: that time is not counted against the holders. Two of the looks that
/// its caller promises: one may be late.
pub const MAX_LEASE_STEP_MS: u64 = 2 * LEASE_LOOK_MS;
/// How often the caller looks at least.
pub const LEASE_LOOK_MS: u64 = 250;

/// A lease whose time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// Its key.
    pub key: String,
    /// The revision that was not followed by a renewal: it ends only if it still has this one.
    pub revision: u64,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    revision: u64,
    ends_ms: u64,
}

/// The clock of all leases, on the node that leads.
///
/// A new leader starts with a new one and shows it every lease that there is ([`LeaseClock::see`]):
/// each then has its full life before it. So a lease may last longer than it says, never shorter.
/// Time is handed in as milliseconds of a monotonic clock; no wall clock is read anywhere.
#[derive(Debug, Default)]
pub struct LeaseClock {
    /// Time as leases age by it.
    age_ms: u64,
    /// The time handed in last.
    looked_ms: Option<u64>,
    held: BTreeMap<String, Held>,
    /// By their end.
    order: BTreeSet<(u64, String)>,
}

impl LeaseClock {
    /// Lets time pass. To be called at least every [`LEASE_LOOK_MS`], and before [`Self::see`]
    /// where that comes between.
    pub fn pass(&mut self, now_ms: u64) {
        let before = self.looked_ms.replace(now_ms).unwrap_or(now_ms);
        let most = if planted::is_on(Bug::LeaseByClock) { u64::MAX } else { MAX_LEASE_STEP_MS };
        self.age_ms = self.age_ms.saturating_add(now_ms.saturating_sub(before).min(most));
    }

    /// A lease was acquired or renewed at this revision. Seen again, it does not live longer.
    pub fn see(&mut self, key: &str, revision: u64, ttl_ms: u64) {
        if let Some(held) = self.held.get(key) {
            if held.revision >= revision {
                return;
            }
            self.order.remove(&(held.ends_ms, key.to_owned()));
        }
        let ends_ms = self.age_ms.saturating_add(ttl_ms);
        self.held.insert(key.to_owned(), Held { revision, ends_ms });
        self.order.insert((ends_ms, key.to_owned()));
    }

    /// A lease was released or has ended.
    pub fn gone(&mut self, key: &str) {
        if let Some(held) = self.held.remove(key) {
            self.order.remove(&(held.ends_ms, key.to_owned()));
        }
    }

    /// Only these are left.
    pub fn retain(&mut self, keys: &BTreeSet<&str>) {
        self.held.retain(|key, _| keys.contains(key.as_str()));
        self.order.retain(|(_, key)| keys.contains(key.as_str()));
    }

    /// The leases whose time is over, the longest over first, at most `max` of them. The same
    /// again until they are gone or renewed.
    pub fn expired(&self, max: usize) -> Vec<Expired> {
        let over = self.order.iter().take_while(|(ends_ms, _)| *ends_ms <= self.age_ms);
        over.filter_map(|(_, key)| {
            let held = self.held.get(key)?;
            Some(Expired { key: key.clone(), revision: held.revision })
        })
        .take(max)
        .collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: u64 = 10_000;

    /// Time passes as the caller promises to look.
    fn run(clock: &mut LeaseClock, from_ms: u64, to_ms: u64) {
        for now in (from_ms..to_ms).step_by(LEASE_LOOK_MS as usize).chain([to_ms]) {
            clock.pass(now);
        }
    }

    fn keys(clock: &LeaseClock) -> Vec<String> {
        clock.expired(100).into_iter().map(|expired| expired.key).collect()
    }

    #[test]
    fn a_lease_ends_after_its_time_and_a_renewal_gives_all_of_it_again() {
        let mut clock = LeaseClock::default();
        clock.pass(5_000);
        clock.see("a", 1, TTL);
        clock.see("b", 2, TTL + 1);
        run(&mut clock, 5_000, 5_000 + TTL - 1);
        assert!(keys(&clock).is_empty());
        clock.see("a", 3, TTL);
        run(&mut clock, 5_000 + TTL - 1, 5_000 + TTL + 1);
        assert_eq!(clock.expired(9), [Expired { key: "b".into(), revision: 2 }]);
        // Until it is gone: its end may fail to be committed.
        assert_eq!(keys(&clock), ["b"]);
        clock.gone("b");
        assert!(keys(&clock).is_empty());
        run(&mut clock, 5_000 + TTL + 1, 5_000 + 2 * TTL);
        assert_eq!(clock.expired(9), [Expired { key: "a".into(), revision: 3 }]);
        clock.gone("a");
        assert!(clock.is_empty());
    }

    #[test]
    fn a_revision_seen_again_or_an_older_one_prolongs_nothing() {
        let mut clock = LeaseClock::default();
        clock.pass(0);
        clock.see("a", 7, TTL);
        run(&mut clock, 0, TTL - 1);
        clock.see("a", 7, TTL);
        clock.see("a", 6, TTL);
        run(&mut clock, TTL - 1, TTL);
        assert_eq!(keys(&clock), ["a"]);
    }

    #[test]
    fn a_new_leader_grants_the_full_time_anew() {
        let mut old = LeaseClock::default();
        old.pass(0);
        old.see("a", 1, TTL);
        run(&mut old, 0, TTL - 1);
        // Its clock began elsewhere; what it counts is what passes from now on.
        let mut new = LeaseClock::default();
        new.pass(777_000);
        new.see("a", 1, TTL);
        run(&mut new, 777_000, 777_000 + TTL - 1);
        assert!(keys(&new).is_empty());
        run(&mut new, 777_000 + TTL - 1, 777_000 + TTL);
        assert_eq!(keys(&new), ["a"]);
    }

    #[test]
    fn a_leap_of_the_clock_or_a_leader_that_stood_still_ends_no_lease() {
        let mut clock = LeaseClock::default();
        clock.pass(0);
        clock.see("a", 1, TTL);
        let hour = 3_600_000;
        clock.pass(hour);
        assert!(keys(&clock).is_empty(), "an hour forth");
        clock.pass(10);
        assert!(keys(&clock).is_empty(), "and back");
        // What is left of it is all but the one step.
        run(&mut clock, 10, 10 + TTL - MAX_LEASE_STEP_MS - 1);
        assert!(keys(&clock).is_empty());
        run(&mut clock, 10 + TTL - MAX_LEASE_STEP_MS - 1, 10 + TTL);
        assert_eq!(keys(&clock), ["a"]);
    }

    #[test]
    fn many_end_in_the_order_of_their_time_and_no_more_than_asked_for() {
        let mut clock = LeaseClock::default();
        clock.pass(0);
        for (key, ttl) in [("c", 2_000), ("a", 3_000), ("b", 2_500)] {
            clock.see(key, 1, ttl);
        }
        run(&mut clock, 0, 4_000);
        assert_eq!(keys(&clock), ["c", "b", "a"]);
        assert_eq!(clock.expired(2).len(), 2);
        assert_eq!(clock.len(), 3);
        clock.retain(&BTreeSet::from(["b", "c"]));
        assert_eq!(keys(&clock), ["c", "b"]);
    }
}
