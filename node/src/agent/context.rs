//! What every part of a running member may use.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use swarmer_gossip::Member;
use swarmer_mesh::{founding::Presence, identity::Fingerprint, transport};
use swarmer_model::{ClusterId, NodeId, Place};

use crate::{
    agent::{
        Control, Images, Replicator,
        authority::HeldAuthority,
        decisions::Decisions,
        health::Looks,
        readiness::{Readiness, Signs},
    },
    artifacts::ArtifactStore,
    codes,
    desired::DesiredStore,
    dispatch::{Catalog, Dispatcher},
    functions::{FunctionManager, LogBook},
    problem::{Outcome, Problem},
};

/// A running member. Shared as `Arc<Context>`; every field is a cheap handle.
pub(crate) struct Context {
    pub(crate) node: NodeId,
    /// A random number of this run: a copy of the data directory has the same id and key, and
    /// another run.
    pub(crate) run: [u8; 16],
    pub(crate) name: String,
    pub(crate) cluster: ClusterId,
    /// Where the other nodes reach this one.
    pub(crate) advertise: SocketAddr,
    /// Where this node was told that it stands: a claim.
    pub(crate) claim: Place,
    /// What it was given to find the cluster by.
    pub(crate) seeds: Vec<String>,
    pub(crate) looks: Looks,
    pub(crate) data_dir: PathBuf,
    /// Whether operators may have this node struck by faults.
    pub(crate) allow_faults: bool,
    /// Desired state: reads, writes, status.
    pub(crate) control: Control,
    pub(crate) desired: DesiredStore,
    pub(crate) gossip: swarmer_gossip::Handle,
    pub(crate) transport: transport::Handle,
    pub(crate) runtime: swarmer_runtime::Handle,
    pub(crate) catalog: Catalog,
    pub(crate) functions: FunctionManager,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) artifacts: ArtifactStore,
    pub(crate) replicator: Replicator,
    pub(crate) images: Images,
    pub(crate) logs: LogBook,
    /// Of the authority that the cluster was founded with, which stays what it is known by.
    pub(crate) founding_authority: Fingerprint,
    /// The cluster's authority, on voters.
    pub(crate) authority: HeldAuthority,
    /// What the planner decided lately, on the leader.
    pub(crate) decisions: Decisions,
    pub(crate) started: Instant,
    pub(crate) readiness: Readiness,
}

impl Context {
    /// A member's name, or its id where the name is not known.
    pub(crate) fn node_name(&self, node: NodeId) -> String {
        self.dispatcher.node_name(node)
    }

    /// What this node is to another member that it meets.
    pub(crate) fn presence(&self) -> Presence {
        let authority = self.founding_authority.0;
        Presence { cluster: self.cluster, authority, node: self.node, run: self.run }
    }

    /// What a join token pins: the newest authority that is believed.
    pub(crate) fn pin(&self) -> Outcome<Fingerprint> {
        let own = self.transport.identity().membership;
        let newest = own.and_then(|own| own.bundle.fingerprints().last());
        newest.ok_or_else(|| Problem::new(codes::INTERNAL, "no authority is believed here"))
    }

    /// Why this node cannot serve as a member yet; `None` once it can, for as long as it runs.
    pub(crate) fn not_ready(&self) -> Option<&'static str> {
        self.readiness.look(|| {
            let (status, desired) = (self.control.status(), self.desired.current());
            let now = SystemTime::now();
            let others = self.gossip.members();
            let alive = |member: &Member| member.node != self.node && member.state.is_active();
            let membership = self.transport.identity().membership;
            let taken = self.transport.is_taken();
            Signs {
                state: status.revision > 0,
                leader: status.quorum_ok
                    && status.leader.is_some_and(|leader| leader == self.node || taken),
                admitted: desired.nodes.contains_key(&self.node),
                certified: membership.is_some_and(|own| {
                    let issuer = own.bundle.issuer_of(&own.certificate);
                    issuer.is_some() && !own.certificate.expired(now)
                }),
                answered: others.iter().any(alive) && taken,
            }
        })
    }
}

/// Milliseconds since 1970 by this node's clock.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
