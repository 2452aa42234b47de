//! On every member: takes what was committed of the keys, to disk and to those who use it.

use std::time::Duration;

use swarmer_raft::{ListAndWatch, Update};
use tokio_util::sync::CancellationToken;

use super::{
    ring::Ring,
    rotated::{Rotated, read},
};
use crate::{
    agent::{Control, admission::PeerBook, identity::KeptGrant},
    problem::{Outcome, Problem},
};

/// When what failed is tried again: a full disk, or gossip that is busy.
const AGAIN: Duration = Duration::from_secs(1);

/// Who takes what was committed.
pub(crate) trait Taker: Send {
    type What: Rotated;

    /// Takes it; `certain` if the local copy has all that was committed before this start. Repeatable.
    fn take(
        &mut self,
        what: &Self::What,
        certain: bool,
    ) -> impl Future<Output = Outcome<()>> + Send;
}

/// Lets `taker` take each step, until `shutdown`.
pub(crate) async fn follow<T: Taker>(
    control: Control,
    book: PeerBook,
    mut taker: T,
    shutdown: CancellationToken,
) {
    let entry = T::What::entry();
    let mut steps: ListAndWatch = control.view().list_and_watch(entry.as_str());
    let mut settled = book.settled();
    let mut shown: Option<T::What> = None;
    loop {
        let certain = *settled.borrow_and_update();
        let taken = match &shown {
            Some(what) => taker.take(what, certain).await,
            None => Ok(()),
        };
        let failed = taken.is_err();
        if let Err(problem) = taken {
            tracing::warn!(target: "swarmer::keys", code = problem.code.name,
                detail = %problem.detail, "{} are not taken over yet", T::What::WHAT);
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            update = steps.next() => match update {
                Some(update) => see(&mut shown, entry.as_str(), update),
                None => return,
            },
            Ok(()) = settled.changed(), if !certain => {}
            () = tokio::time::sleep(AGAIN), if failed => {}
        }
    }
}

fn see<R: Rotated>(shown: &mut Option<R>, entry: &str, update: Update) {
    let value = match update {
        Update::Snapshot { entries, .. } => {
            entries.into_iter().find(|(key, _)| key == entry).map(|(_, e)| e.value)
        }
        Update::Changes(item) => {
            let mine = item.events.into_iter().filter(|event| event.key == entry);
            mine.last().and_then(|event| event.value)
        }
    };
    let Some(value) = value else { return };
    match read(&value) {
        Ok(what) => *shown = Some(what),
        // Of a newer version: this node goes on with what it has.
        Err(problem) => {
            tracing::error!(target: "swarmer::keys", code = problem.code.name,
                detail = %problem.detail, "{} cannot be read", R::WHAT);
        }
    }
}

/// Whether what the local copy shows is newer than what this node keeps. Right after a start the
/// copy may be older, and a step back would cut the node off; once it is certain to have what was
/// committed before the start, it counts, whatever its number: the cluster may have been recovered
/// from a voter that was behind.
pub(super) fn counts<R: Rotated>(what: &R, held: &R, certain: bool) -> bool {
    certain || what.state().generation > held.state().generation
}

/// Takes the keys of gossip.
pub(crate) struct TakeRing {
    kept: KeptGrant,
    gossip: swarmer_gossip::Handle,
    told: Option<Ring>,
}

impl TakeRing {
    pub(crate) fn new(kept: KeptGrant, gossip: swarmer_gossip::Handle) -> Self {
        // Gossip began with those that were kept.
        let told = Ring::of(&kept.get()).ok();
        Self { kept, gossip, told }
    }
}

impl Taker for TakeRing {
    type What = Ring;

    async fn take(&mut self, ring: &Ring, certain: bool) -> Outcome<()> {
        let mut wanted = self.kept.get();
        let held = Ring::of(&wanted)?;
        // What is kept is compared as it is kept: in its order.
        ring.put_into(&mut wanted);
        let ring = Ring::of(&wanted)?;
        if ring != held && !counts(&ring, &held, certain) {
            return Ok(());
        }
        let stored = match ring == held {
            true => Ok(()),
            false => self.kept.update(|grant| ring.put_into(grant)).map(|_| ()),
        };
        // Gossip takes them even if the disk does not: a start with the old ones gets them again.
        if self.told.as_ref() != Some(&ring) {
            let taken = self.gossip.set_keyring(ring.keyring()?).await;
            taken.map_err(|error| Problem::of(&error, "changing the keys of gossip"))?;
            tracing::info!(target: "swarmer::keys", seals = ring.seals, held = ?ring.ids(),
                phase = ring.phase(), "the keys of gossip changed");
            self.told = Some(ring);
        }
        stored
    }
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
