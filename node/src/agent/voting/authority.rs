//! The key of the cluster's authority: it comes with the log and goes with it.

use std::{fs, io, time::Duration};

use swarmer_model::NodeId;
use swarmer_raft::{Handle, Status};

use super::{
    keeper::{Keeper, internal},
    wire::{Ask, Told},
};
use crate::{
    codes,
    problem::{Outcome, Problem},
};

/// How long a voter may take to make sure that it knows the membership of now.
const BARRIER: Duration = Duration::from_secs(3);
/// What the founder that made the cluster keeps of it, with the key.
const MADE: &str = "made.json";

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

    /// The key, to a node that the committed membership of now names.
    pub(super) async fn hand_authority(&self, peer: NodeId) -> Outcome<String> {
        if !self.standing(peer).await? {
            let why = format!("node {peer} is neither voter nor learner");
            return Err(Problem::new(codes::FORBIDDEN, why));
        }
        let key = self.inner.deps.grant.get().ca_key_pem;
        let key = key.ok_or_else(|| Problem::new(codes::FORBIDDEN, "this node has no key yet"))?;
        tracing::info!(target: "swarmer::voting", node = %peer,
            "the authority's key was handed to a voter or learner");
        Ok(key)
    }

    /// Fetches the key, if this node has none.
    pub(super) async fn hold_authority(&self, now: &Status) -> Outcome<()> {
        let deps = &self.inner.deps;
        if deps.authority.get().is_some() {
            return Ok(());
        }
        let mut last = Problem::new(codes::NO_UPSTREAM, "no other voter is known");
        for voter in now.voters.iter().filter(|voter| **voter != self.inner.node) {
            match self.ask(*voter, &Ask::Authority).await {
                Ok(Told::Authority { ca_key_pem }) => {
                    let mut next = deps.grant.get();
                    next.ca_key_pem = Some(ca_key_pem);
                    // A key that is not this authority's is not kept.
                    deps.authority.follow(&next)?;
                    deps.grant.update(|grant| grant.ca_key_pem = next.ca_key_pem)?;
                    tracing::info!(target: "swarmer::voting", from = %voter,
                        "this node holds the cluster's authority");
                    return Ok(());
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
        let without = deps.grant.update(|grant| {
            grant.ca_key_pem = None;
            // Who makes the first state holds the key, and it is made.
            grant.maker = false;
        })?;
        match fs::remove_file(deps.dir.path().join(MADE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(internal(&error)),
            _ => {}
        }
        deps.authority.follow(&without)
    }
}
