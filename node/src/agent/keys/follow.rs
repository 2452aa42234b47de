//! On every member: takes the keys from the committed state, to disk and to gossip.

use std::time::Duration;

use swarmer_raft::{ListAndWatch, Update};
use tokio_util::sync::CancellationToken;

use super::ring::{Ring, read, ring_key};
use crate::{
    agent::{Control, admission::PeerBook, identity::KeptGrant},
    problem::Outcome,
};

/// When what failed is tried again: a full disk, or gossip that is busy.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs until `shutdown`.
pub(crate) async fn follow(
    control: Control,
    kept: KeptGrant,
    gossip: swarmer_gossip::Handle,
    book: PeerBook,
    shutdown: CancellationToken,
) {
    let mut rings: ListAndWatch = control.view().list_and_watch(ring_key().as_str());
    let mut settled = book.settled();
    // Gossip began with those that were kept.
    let mut told = Ring::of(&kept.get()).ok();
    let mut shown: Option<Ring> = None;
    loop {
        let certain = *settled.borrow_and_update();
        let taken = match &shown {
            Some(ring) => take(ring, certain, &kept, &gossip, &mut told).await,
            None => Ok(()),
        };
        let failed = taken.is_err();
        if let Err(problem) = taken {
            tracing::warn!(target: "swarmer::keys", code = problem.code.name,
                detail = %problem.detail, "the keys of gossip are not taken over yet");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            update = rings.next() => match update {
                Some(update) => see(&mut shown, update),
                None => return,
            },
            Ok(()) = settled.changed(), if !certain => {}
            () = tokio::time::sleep(AGAIN), if failed => {}
        }
    }
}

fn see(shown: &mut Option<Ring>, update: Update) {
    let value = match update {
        Update::Snapshot { entries, .. } => {
            entries.into_iter().find(|(key, _)| key == ring_key().as_str()).map(|(_, e)| e.value)
        }
        Update::Changes(item) => {
            let mine = item.events.into_iter().filter(|event| event.key == ring_key().as_str());
            mine.last().and_then(|event| event.value)
        }
    };
    let Some(value) = value else { return };
    match read(&value) {
        Ok(ring) => *shown = Some(ring),
        // Of a newer version: this node goes on with what it has.
        Err(problem) => {
            tracing::error!(target: "swarmer::keys", code = problem.code.name,
                detail = %problem.detail, "the keys of gossip cannot be read");
        }
    }
}

/// Whether what the local copy shows is newer than what this node keeps. Right after a start the
/// copy may be older, and a step back would cut the node off; once it is certain to have what was
/// committed before the start, it counts, whatever its number: the cluster may have been recovered
/// from a voter that was behind.
fn counts(ring: &Ring, held: &Ring, certain: bool) -> bool {
    certain || ring.generation > held.generation
}

async fn take(
    ring: &Ring,
    certain: bool,
    kept: &KeptGrant,
    gossip: &swarmer_gossip::Handle,
    told: &mut Option<Ring>,
) -> Outcome<()> {
    let held = Ring::of(&kept.get())?;
    // What is kept is compared as it is kept: in its order.
    let mut wanted = kept.get();
    ring.put_into(&mut wanted);
    let ring = Ring::of(&wanted)?;
    if ring != held && !counts(&ring, &held, certain) {
        return Ok(());
    }
    let stored = match ring == held {
        true => Ok(()),
        false => kept.update(|grant| ring.put_into(grant)).map(|_| ()),
    };
    // Gossip takes them even if the disk does not: a start with the old ones gets them again.
    if told.as_ref() != Some(&ring) {
        let taken = gossip.set_keyring(ring.keyring()?).await;
        taken
            .map_err(|error| crate::problem::Problem::of(&error, "changing the keys of gossip"))?;
        tracing::info!(target: "swarmer::keys", seals = ring.seals, held = ?ring.ids(),
            phase = ring.phase(), "the keys of gossip changed");
        *told = Some(ring);
    }
    stored
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::identity::GossipKey;

    #[test]
    fn a_copy_that_is_behind_after_a_start_takes_no_key_away() {
        let ring = |generation, id| Ring {
            generation,
            seals: id,
            keys: vec![GossipKey { id, key: [1; 32] }],
        };
        let held = ring(5, 2);
        assert!(!counts(&ring(4, 1), &held, false));
        assert!(counts(&ring(6, 3), &held, false), "it slept, and no leader is needed for this");
        assert!(counts(&ring(4, 1), &held, true), "of a cluster that was recovered");
    }
}
