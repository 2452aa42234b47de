//! The key of the cluster's authority: it comes with the log and goes with it.

use std::time::Duration;

use swarmer_model::NodeId;
use swarmer_raft::{Handle, Leadership};

use super::{
    keeper::{Keeper, internal},
    wire::{Ask, Told},
};
use crate::{
    agent::founding,
    codes,
    problem::{Outcome, Problem},
};

/// How long a voter may take to make sure that it knows the membership of now.
const BARRIER: Duration = Duration::from_secs(3);

impl Keeper {
    /// The log of a voter that knows everything that was committed before this call.
    async fn certain(&self) -> Outcome<Handle> {
        let raft = self.log()?;
        let barrier = raft.read_index(BARRIER).await;
        barrier.map_err(|error| Problem::of(&error, "reading the membership"))?;
        if !raft.members().committed_voters.contains(&self.inner.node) {
            return Err(Problem::new(codes::FORBIDDEN, "this node is no voter"));
        }
        Ok(raft)
    }

    /// Whether a node is a voter or learner, by the committed membership of now.
    pub(super) async fn standing(&self, peer: NodeId) -> Outcome<bool> {
        Ok(self.certain().await?.members().committed.contains(&peer))
    }

    /// The keys, to a node that the committed membership of now names.
    pub(super) async fn hand_authority(&self, peer: NodeId) -> Outcome<Told> {
        if !self.standing(peer).await? {
            let why = format!("node {peer} is neither voter nor learner");
            return Err(Problem::new(codes::FORBIDDEN, why));
        }
        let grant = self.inner.deps.grant.get();
        let mut keys = grant.ca_key_pem.into_iter().chain(grant.next_ca.map(|next| next.key_pem));
        let first = keys.next();
        let first =
            first.ok_or_else(|| Problem::new(codes::FORBIDDEN, "this node has no key yet"))?;
        tracing::info!(target: "swarmer::voting", node = %peer,
            "the authority's key was handed to a voter or learner");
        Ok(Told::Authority { ca_key_pem: first, more: keys.collect() })
    }

    /// Fetches the keys of the authority that issues, and of the one that is brought in, where this
    /// node lacks them.
    pub(super) async fn hold_authority(&self, now: &Leadership) -> Outcome<()> {
        let deps = &self.inner.deps;
        if !deps.grant.get().lacks_ca_key() {
            return Ok(());
        }
        let mut last = Problem::new(codes::NO_UPSTREAM, "no other voter is known");
        for voter in now.voters.iter().filter(|voter| **voter != self.inner.node) {
            match self.ask(*voter, &Ask::Authority).await {
                Ok(Told::Authority { ca_key_pem, more }) => {
                    let keys = [vec![ca_key_pem], more].concat();
                    // A key that is of no authority believed here is not kept.
                    if !deps.grant.get().take_ca_keys(&keys)? {
                        last = internal("it has no key that this node lacks");
                        continue;
                    }
                    let held =
                        deps.grant.try_update(|grant| grant.take_ca_keys(&keys).map(|_| ()))?;
                    deps.authority.follow(&deps.grant)?;
                    tracing::info!(target: "swarmer::voting", from = %voter,
                        "this node holds the cluster's authority");
                    if !held.lacks_ca_key() {
                        return Ok(());
                    }
                }
                Ok(Told::Refused { detail, .. }) => last = internal(detail),
                Ok(_) => last = internal("the answer does not fit"),
                Err(problem) => last = problem,
            }
        }
        Err(last)
    }

    /// Deletes every copy of the key that this node has.
    pub(super) fn forget_authority(&self) -> Outcome<()> {
        let deps = &self.inner.deps;
        deps.grant.update(|grant| {
            grant.ca_key_pem = None;
            grant.next_ca = None;
            // Who makes the first state holds the key, and it is made.
            grant.maker = false;
        })?;
        deps.slots.founding_over.cancel();
        founding::forget(deps.dir.path())?;
        deps.authority.follow(&deps.grant)
    }
}
