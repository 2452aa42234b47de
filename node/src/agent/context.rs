//! What every part of a running member may use.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use swarmer_mesh::{identity::Fingerprint, transport};
use swarmer_model::{ClusterId, NodeId, Place};

use crate::{
    agent::{Control, Images, Replicator, authority::NodeAuthority, health::Looks},
    artifacts::ArtifactStore,
    desired::DesiredStore,
    dispatch::{Catalog, Dispatcher},
    functions::{FunctionManager, LogBook},
};

/// A running member. Shared as `Arc<Context>`; every field is a cheap handle.
pub(crate) struct Context {
    pub(crate) node: NodeId,
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
    /// What a join token pins.
    pub(crate) ca_fingerprint: Fingerprint,
    /// The cluster's authority, on voters.
    pub(crate) authority: Option<Arc<NodeAuthority>>,
    pub(crate) started: Instant,
}

impl Context {
    /// A member's name, or its id where the name is not known.
    pub(crate) fn node_name(&self, node: NodeId) -> String {
        self.dispatcher.node_name(node)
    }

    /// Why this node cannot serve yet; `None` once it can.
    pub(crate) fn not_ready(&self) -> Option<String> {
        let status = self.control.status();
        if status.revision == 0 {
            return Some(match status.leader {
                None => "waiting for a leader of the control state".to_owned(),
                Some(_) => "waiting for the first copy of the control state".to_owned(),
            });
        }
        if !self.desired.current().nodes.contains_key(&self.node) {
            return Some("waiting for this node's admission to arrive".to_owned());
        }
        None
    }
}

/// Milliseconds since 1970 by this node's clock.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
