//! The identity of code that calls.

use std::{fmt, sync::Arc};

use swarmer_model::{ClusterId, Digest};

use super::SpiffeId;

/// A function as a caller: whose SPIFFE id it bears, and which component runs under it. Cheap to
/// clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// The cluster, which is the trust domain.
    pub cluster: ClusterId,
    /// The function's namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The digest of the component that runs.
    pub component: Digest,
}

impl Workload {
    /// The SPIFFE id, which does not name the component.
    pub fn spiffe_id(&self) -> SpiffeId {
        SpiffeId::function(self.cluster, &*self.namespace, &*self.name)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with component {}", self.spiffe_id(), self.component)
    }
}
