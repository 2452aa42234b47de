//! On every member: takes the authorities from the committed state, and says in its record how far it is.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use swarmer_gossip::RecordUpdate;
use swarmer_model::NodeId;
use tokio_util::sync::CancellationToken;

use super::{
    authorities::Authorities,
    follow::{Taker, counts},
    rotated::Rotated as _,
};
use crate::{
    agent::{Context, authority::HeldAuthority, founding, identity::KeptGrant, shown::Shown},
    problem::Outcome,
};

/// Takes the authorities.
pub(crate) struct TakeAuthorities {
    pub(crate) dir: PathBuf,
    pub(crate) kept: KeptGrant,
    pub(crate) shown: Shown,
    pub(crate) authority: HeldAuthority,
    /// Ends what is left of the founding.
    pub(crate) founding_over: CancellationToken,
}

impl Taker for TakeAuthorities {
    type What = Authorities;

    async fn take(&mut self, all: &Authorities, certain: bool) -> Outcome<()> {
        let held = Authorities::of(&self.kept.get())?;
        if *all != held {
            if !counts(all, &held, certain) {
                return Ok(());
            }
            self.kept.try_update(|grant| all.put_into(grant))?;
            tracing::info!(target: "swarmer::keys", issues = all.issues, believed = ?all.ids(),
                phase = all.phase(), "the authorities changed");
        }
        self.authority.follow(&self.kept)?;
        self.forget_founding()?;
        self.shown.show()
    }
}

impl TakeAuthorities {
    /// Once another authority issues, nothing that the founding left may be handed out any more.
    fn forget_founding(&self) -> Outcome<()> {
        let grant = self.kept.get();
        let issuing = Authorities::founded(grant.ca.clone()).bundle()?.fingerprints().next();
        if issuing == Some(grant.founding_authority()?) {
            return Ok(());
        }
        self.founding_over.cancel();
        if grant.maker {
            self.kept.update(|grant| grant.maker = false)?;
        }
        founding::forget(&self.dir)
    }
}

/// Says in the record which authorities this node believes, and whose certificate it shows, until
/// `shutdown`.
pub(crate) async fn tell(
    context: Arc<Context>,
    kept: KeptGrant,
    shown: Shown,
    shutdown: CancellationToken,
) {
    let (mut keeps, mut shows) = (kept.changes(), shown.changes());
    let mut leadership = context.control.subscribe_leadership();
    loop {
        keeps.borrow_and_update();
        shows.borrow_and_update();
        let voters: BTreeSet<NodeId> = leadership.borrow_and_update().voters.clone();
        let (grant, own) = (kept.get(), context.transport.identity().membership);
        if let (Ok(all), Some(own)) = (Authorities::of(&grant), own) {
            let word = all.word_of(&own, &grant, voters.contains(&context.node));
            // Gossip that has ended needs no word.
            let _ = context.gossip.publish(RecordUpdate::Authority(word)).await;
        }
        let other = |now: &swarmer_raft::Leadership| now.voters != voters;
        tokio::select! {
            () = shutdown.cancelled() => return,
            Ok(()) = keeps.changed() => {}
            Ok(()) = shows.changed() => {}
            Ok(_) = leadership.wait_for(other) => {}
            else => return,
        }
    }
}
