//! On the leader: ends leases that were not renewed in time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::{StreamExt as _, stream};
use swarmer_model::{
    Kind, Lease,
    planted::{self, Bug},
};
use swarmer_raft::{Expect, Handle, ListAndWatch, Outcome, RaftError, Txn, Update};
use swarmer_scheduler::{Expired, LEASE_LOOK_MS, LeaseClock};
use tokio_util::sync::CancellationToken;

use crate::agent::{Control, control::WRITE_DEADLINE, leading::in_each_term};

/// Leases that are ended at once: each is a transaction of its own, since one that was renewed at
/// the last moment must not keep the others.
const MAX_ENDED: usize = 64;

/// Runs until `shutdown`. Only the leader counts, and it begins anew in each of its terms: whoever
/// held a lease when it was elected has the whole time before it.
pub(crate) async fn run(control: Control, shutdown: CancellationToken) {
    in_each_term(&control, &shutdown, |handle, term| async move { count(&handle, term).await })
        .await;
}

/// Counts the time of all leases and ends those that are over. Ends with the engine.
async fn count(handle: &Handle, term: u64) {
    let start = Instant::now();
    let now_ms = || {
        let passed = match planted::is_on(Bug::LeaseByClock) {
            true => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            false => start.elapsed(),
        };
        u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
    };
    let mut clock = LeaseClock::default();
    let mut leases: ListAndWatch = handle.view().list_and_watch(Kind::Lease.prefix());
    let mut look = tokio::time::interval(Duration::from_millis(LEASE_LOOK_MS));
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Renewals first: one that was committed counts before an end is decided.
            biased;
            update = leases.next() => {
                let Some(update) = update else { return };
                clock.pass(now_ms());
                take(&mut clock, update);
            }
            _ = look.tick() => {
                clock.pass(now_ms());
                let expired = clock.expired(MAX_ENDED);
                let ends = expired.into_iter().map(|expired| end(handle, term, expired));
                let mut ends = stream::iter(ends).buffer_unordered(MAX_ENDED);
                while ends.next().await.is_some() {}
            }
        }
    }
}

fn take(clock: &mut LeaseClock, update: Update) {
    match update {
        Update::Snapshot { entries, .. } => {
            // A listing made anew may come without some that were there before.
            clock.retain(&entries.iter().map(|(key, _)| key.as_str()).collect());
            for (key, entry) in &entries {
                see(clock, key, entry.revision, &entry.value);
            }
        }
        Update::Changes(item) => {
            for event in &item.events {
                match &event.value {
                    Some(value) => see(clock, &event.key, item.revision, value),
                    None => clock.gone(&event.key),
                }
            }
        }
    }
}

fn see(clock: &mut LeaseClock, key: &str, revision: u64, value: &[u8]) {
    match serde_json::from_slice::<Lease>(value) {
        Ok(lease) => clock.see(key, revision, lease.spec.ttl.0),
        // Of a newer version: never ended by one that cannot read how long it lives.
        Err(error) => {
            tracing::error!(target: "swarmer::leases", key, %error, "a lease cannot be read");
        }
    }
}

/// Ends one lease, unless it was renewed or released meanwhile. What fails is tried again at the
/// next look.
async fn end(handle: &Handle, term: u64, expired: Expired) {
    let Expired { key, revision } = expired;
    let txn = Txn::new().check(key.as_str(), Expect::At(revision)).delete(key.as_str());
    match handle.write_leading(txn, term, WRITE_DEADLINE).await {
        Ok(Outcome::Committed { .. }) => {
            tracing::info!(target: "swarmer::leases", key, revision, "a lease was not renewed in time");
        }
        Ok(Outcome::Conflict { .. }) | Err(RaftError::NotLeader { .. }) => {}
        Err(error) => {
            tracing::warn!(target: "swarmer::leases", key, %error, "a lease is not ended yet");
        }
    }
}
