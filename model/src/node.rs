//! Nodes: members that the cluster admitted.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ids::NodeId,
    metadata::{API_VERSION, Metadata, Resource, check_head, check_labels},
    names::{Labels, check_name},
    place::{NEVER, Place, VOTE_LABEL},
    validation::{Invalid, Violations},
};

/// The longest public key that we take: P-256 in SubjectPublicKeyInfo has 91 bytes.
const MAX_SPKI_BYTES: usize = 256;

/// A member that the cluster admitted. Removing it ends its admission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Node {
    /// Always `swarmer/v1`.
    pub api_version: String,
    /// Always `Node`.
    pub kind: String,
    /// The node's name; nodes are in the namespace `default`.
    pub metadata: Metadata,
    /// What was admitted.
    pub spec: NodeSpec,
}

/// What was admitted: these come from the token and the operator, never from gossip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeSpec {
    /// The member's id, its own for ever.
    pub id: NodeId,
    /// The node's public key: SubjectPublicKeyInfo, in hexadecimal.
    pub public_key: String,
    /// The address that it was reached under when it was admitted.
    pub address: SocketAddr,
    /// The region that it stands in: its token says so, or the node itself if it is a founder.
    #[serde(default)]
    pub region: String,
    /// The zone within the region.
    #[serde(default)]
    pub zone: String,
    /// Labels for placement.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Being emptied: gets no work and no new requests.
    #[serde(default)]
    pub draining: bool,
    /// Hash of the join token that admitted it; none for a founder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl Node {
    /// A node of this name.
    pub fn new(name: impl Into<String>, spec: NodeSpec) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: Self::KIND.to_owned(),
            metadata: Metadata::named(name),
            spec,
        }
    }
}

impl NodeSpec {
    /// Where it stands.
    pub fn place(&self) -> Place {
        let named = |name: &String| (!name.is_empty()).then(|| name.clone());
        Place { region: named(&self.region), zone: named(&self.zone), labels: self.labels.clone() }
    }

    /// Whether it is labelled not to vote.
    pub fn abstains(&self) -> bool {
        self.labels.get(VOTE_LABEL).is_some_and(|value| value == NEVER)
    }

    /// The public key's bytes, if the text is hexadecimal.
    pub fn spki(&self) -> Option<Vec<u8>> {
        hex::decode(&self.public_key).ok()
    }
}

impl Resource for Node {
    const KIND: &'static str = "Node";

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    fn validate(&self) -> Result<(), Invalid> {
        let mut violations = Violations::default();
        check_head(&self.api_version, &self.kind, Self::KIND, &mut violations);
        self.metadata.check(&mut violations);
        let key = self.spec.spki();
        if key.is_none_or(|key| key.is_empty() || key.len() > MAX_SPKI_BYTES) {
            violations.add("spec.publicKey", &self.spec.public_key, "a public key in hexadecimal");
        }
        if self.spec.address.port() == 0 || self.spec.address.ip().is_unspecified() {
            violations.add(
                "spec.address",
                self.spec.address,
                "an address that other nodes reach, with a port",
            );
        }
        for (field, name) in [("spec.region", &self.spec.region), ("spec.zone", &self.spec.zone)] {
            if !name.is_empty() {
                check_name(field, name, &mut violations);
            }
        }
        check_labels("spec.labels", &self.spec.labels, &mut violations);
        violations.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        let spec = NodeSpec {
            id: NodeId(1),
            public_key: "3059".into(),
            address: ([127, 0, 0, 1], 7400).into(),
            region: "eu-1".into(),
            zone: String::new(),
            labels: Labels::new(),
            draining: false,
            token: None,
        };
        Node::new("a", spec)
    }

    #[test]
    fn a_good_node_and_its_faults() {
        assert_eq!(node().validate(), Ok(()));
        let mut bad = node();
        bad.spec.address = ([0, 0, 0, 0], 7400).into();
        bad.spec.public_key = "xyz".into();
        bad.spec.region = "Europe!".into();
        let fields: Vec<String> =
            bad.validate().unwrap_err().violations.into_iter().map(|v| v.field).collect();
        assert_eq!(fields, ["spec.publicKey", "spec.address", "spec.region"]);
    }
}
