//! SPIFFE ids (SPIFFE-ID standard, sections 2 and 3).

use std::{fmt, str::FromStr};

use swarmer_model::{ClusterId, NodeId, Violations, check_name};

/// What follows the cluster id in the name of its trust domain.
const SUFFIX: &str = ".swarmer";
const SCHEME: &str = "spiffe://";
/// The standard's bound on a whole id, in bytes.
const MAX_ID: usize = 2048;

/// The trust domain of one cluster: `<cluster id>.swarmer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrustDomain(pub ClusterId);

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{SUFFIX}", self.0)
    }
}

/// What a SPIFFE id names inside of its trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SpiffePath {
    /// The cluster's authority itself: no path.
    Authority,
    /// `/node/<id>`.
    Node(NodeId),
    /// `/ns/<namespace>/fn/<name>`.
    Function {
        /// The namespace.
        namespace: String,
        /// The function's name in it.
        name: String,
    },
}

/// `spiffe://<trust domain>/<path>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    /// The cluster.
    pub domain: TrustDomain,
    /// Who in it.
    pub path: SpiffePath,
}

impl SpiffeId {
    /// The id of a cluster's authority.
    pub const fn authority(cluster: ClusterId) -> Self {
        Self { domain: TrustDomain(cluster), path: SpiffePath::Authority }
    }

    /// The id of a node.
    pub const fn node(cluster: ClusterId, node: NodeId) -> Self {
        Self { domain: TrustDomain(cluster), path: SpiffePath::Node(node) }
    }

    /// The id of a workload. The names are taken as validated.
    pub fn function(
        cluster: ClusterId,
        namespace: impl Into<String>,
        name: impl Into<String>,
    ) -> Self {
        Self {
            domain: TrustDomain(cluster),
            path: SpiffePath::Function { namespace: namespace.into(), name: name.into() },
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.domain)?;
        match &self.path {
            SpiffePath::Authority => Ok(()),
            SpiffePath::Node(node) => write!(f, "/node/{node}"),
            SpiffePath::Function { namespace, name } => write!(f, "/ns/{namespace}/fn/{name}"),
        }
    }
}

/// The text is no SPIFFE id of a cluster of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a SPIFFE id such as spiffe://<cluster>.swarmer/node/<id>")]
pub struct ParseSpiffeError(String);

impl FromStr for SpiffeId {
    type Err = ParseSpiffeError;

    fn from_str(text: &str) -> Result<Self, ParseSpiffeError> {
        parse(text).ok_or_else(|| ParseSpiffeError(text.chars().take(256).collect()))
    }
}

fn parse(text: &str) -> Option<SpiffeId> {
    if text.len() > MAX_ID {
        return None;
    }
    let rest = text.strip_prefix(SCHEME)?;
    let (domain, path) = match rest.split_once('/') {
        Some((domain, path)) => (domain, Some(path)),
        None => (rest, None),
    };
    let domain = TrustDomain(domain.strip_suffix(SUFFIX)?.parse().ok()?);
    let Some(path) = path else {
        return Some(SpiffeId { domain, path: SpiffePath::Authority });
    };
    let parts: Vec<&str> = path.splitn(5, '/').collect();
    let path = match parts[..] {
        ["node", id] => SpiffePath::Node(id.parse().ok()?),
        ["ns", namespace, "fn", name] if is_name(namespace) && is_name(name) => {
            SpiffePath::Function { namespace: namespace.to_owned(), name: name.to_owned() }
        }
        _ => return None,
    };
    Some(SpiffeId { domain, path })
}

fn is_name(text: &str) -> bool {
    let mut violations = Violations::default();
    check_name("name", text, &mut violations);
    violations.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_as_they_went() {
        let cluster = ClusterId::random();
        for id in [
            SpiffeId::authority(cluster),
            SpiffeId::node(cluster, NodeId(7)),
            SpiffeId::function(cluster, "default", "hello"),
        ] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        let domain = TrustDomain(ClusterId(1)).to_string();
        for text in [
            String::new(),
            "spiffe://".into(),
            "spiffe://example.org/node/0000000000000001".into(),
            format!("http://{domain}/node/0000000000000001"),
            format!("spiffe://{domain}/"),
            format!("spiffe://{domain}/node/1"),
            format!("spiffe://{domain}/node/0000000000000001/"),
            format!("spiffe://{domain}/ns/a/fn/"),
            format!("spiffe://{domain}/ns/a/fn/b/c"),
            format!("spiffe://{domain}/ns/A b/fn/c"),
            format!("spiffe://{domain}/ns/a/fn/{}", "x".repeat(4000)),
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
    }
}
