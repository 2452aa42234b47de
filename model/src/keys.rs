//! Where each resource stands in the desired state.

use std::fmt;

use crate::ids::NodeId;

/// The kinds of entries in the desired state; each has its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `functions/<namespace>/<name>`
    Function,
    /// `nodes/<id>`
    Node,
    /// `regions/<name>`
    Region,
    /// `tokens/<hash>`
    Token,
    /// `placements/<namespace>/<name>`
    Placement,
    /// `claims/<host>/<path>`: names the one owner of a route.
    RouteClaim,
    /// `leases/<namespace>/<name>`
    Lease,
    /// `cluster/<what>`
    Cluster,
}

impl Kind {
    /// The prefix of all keys of this kind, with its slash.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Function => "functions/",
            Self::Node => "nodes/",
            Self::Region => "regions/",
            Self::Token => "tokens/",
            Self::Placement => "placements/",
            Self::RouteClaim => "claims/",
            Self::Lease => "leases/",
            Self::Cluster => "cluster/",
        }
    }
}

/// A key of the desired state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// The key of a function.
    pub fn function(namespace: &str, name: &str) -> Self {
        Self(format!("{}{namespace}/{name}", Kind::Function.prefix()))
    }

    /// The key of a node's admission.
    pub fn node(id: NodeId) -> Self {
        Self(format!("{}{id}", Kind::Node.prefix()))
    }

    /// The key of what was said of a region.
    pub fn region(name: &str) -> Self {
        Self(format!("{}{name}", Kind::Region.prefix()))
    }

    /// The key of a token, by the hash of its secret in hexadecimal.
    pub fn token(hash: &str) -> Self {
        Self(format!("{}{hash}", Kind::Token.prefix()))
    }

    /// The key of a function's placement.
    pub fn placement(namespace: &str, name: &str) -> Self {
        Self(format!("{}{namespace}/{name}", Kind::Placement.prefix()))
    }

    /// The key by which a route is claimed: one owner for each host and path.
    pub fn route_claim(host: Option<&str>, path: &str) -> Self {
        Self(format!("{}{}{path}", Kind::RouteClaim.prefix(), host.unwrap_or("*")))
    }

    /// The key of a lease.
    pub fn lease(namespace: &str, name: &str) -> Self {
        Self(format!("{}{namespace}/{name}", Kind::Lease.prefix()))
    }

    /// The key of something that the cluster has once.
    pub fn cluster(what: &str) -> Self {
        Self(format!("{}{what}", Kind::Cluster.prefix()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}
