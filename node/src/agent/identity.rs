//! What a member keeps of its membership on disk, and what the cluster hands to a new one.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use swarmer_mesh::{
    founding::{FoundingToken, JoinToken},
    identity::{Identity, Membership, NodeCertificate, NodeKey, TrustBundle},
};
use swarmer_model::{ClusterId, Coded as _, Labels, NodeId};

use crate::{
    agent::data_dir::{DataDir, read_json, write_json},
    codes,
    problem::{Outcome, Problem},
};

/// Name of the file in the data directory.
const FILE: &str = "identity.json";
/// Characters in a line of PEM (RFC 7468).
const PEM_LINE: usize = 64;

/// A member that a new one is told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerInfo {
    pub(crate) node: NodeId,
    pub(crate) name: String,
    #[serde(with = "hex::serde")]
    pub(crate) spki: Vec<u8>,
    pub(crate) address: SocketAddr,
    pub(crate) region: String,
    pub(crate) zone: String,
    pub(crate) labels: Labels,
}

/// One key of the gossip keyring.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GossipKey {
    pub(crate) id: u32,
    #[serde(with = "hex::serde")]
    pub(crate) key: [u8; 32],
}

/// Everything that makes a node a member. Handed over when it is admitted, over a channel that
/// proved the cluster's authority or the founding secret; kept in a file for its owner only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) cluster: ClusterId,
    /// The authority's certificate.
    #[serde(with = "hex::serde")]
    pub(crate) ca: Vec<u8>,
    /// The node's certificate.
    #[serde(with = "hex::serde")]
    pub(crate) certificate: Vec<u8>,
    /// The last one seals.
    pub(crate) gossip_keys: Vec<GossipKey>,
    /// Counts what was committed of them; 0 for what the founding made.
    #[serde(default)]
    pub(crate) gossip_generation: u64,
    /// Members to begin with: the voters.
    pub(crate) peers: Vec<PeerInfo>,
    /// The first voters, for a founder.
    pub(crate) voters: Vec<NodeId>,
    /// The authority's key, for a voter.
    pub(crate) ca_key_pem: Option<String>,
    /// Whether this node makes the first state of the cluster.
    pub(crate) maker: bool,
    /// For the maker: what the cluster keeps of its founding secret, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) witness: Option<String>,
}

impl Grant {
    /// The wire form.
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Outcome<Self> {
        serde_json::from_slice(bytes).map_err(|error| {
            Problem::new(
                codes::INTERNAL,
                format!("what the cluster handed over is unreadable: {error}"),
            )
        })
    }

    /// The membership that was kept, if there is one.
    pub(crate) fn load(dir: &Path) -> Outcome<Option<Self>> {
        read_json(&dir.join(FILE))
    }

    /// Refuses the membership of another node or cluster: files of two data directories in one.
    pub(crate) fn check_owner(&self, dir: &DataDir, key: &NodeKey) -> Outcome<()> {
        let meta = dir.meta();
        let foreign = |why: String| {
            let why = format!("{}: {why}", dir.path().display());
            Err(Problem::new(codes::DATA_DIR_FOREIGN, why))
        };
        if let Some(cluster) = meta.cluster
            && cluster != self.cluster
        {
            return foreign(format!(
                "node.json is of cluster {cluster}, {FILE} of cluster {}",
                self.cluster
            ));
        }
        let certificate = NodeCertificate::from_der(self.certificate.clone())
            .map_err(|error| identity_problem(&error))?;
        if certificate.node() != meta.node {
            return foreign(format!(
                "node.json is of node {}, {FILE} of node {}",
                meta.node,
                certificate.node()
            ));
        }
        if certificate.spki() != key.spki() {
            return foreign(format!("node.key is not the key that {FILE} speaks of"));
        }
        Ok(())
    }

    /// Refuses a token of another cluster: this directory would not get into it.
    pub(crate) fn check_token(&self, dir: &Path, token: &str) -> Outcome<()> {
        let cluster = match (token.parse::<FoundingToken>(), token.parse::<JoinToken>()) {
            (Ok(token), _) => token.cluster,
            (_, Ok(token)) => token.cluster,
            // A member needs none, so what stands there does not matter.
            (Err(_), Err(_)) => return Ok(()),
        };
        if cluster == self.cluster {
            return Ok(());
        }
        let why = format!(
            "{} is of a member of cluster {}, the token is of cluster {cluster}",
            dir.display(),
            self.cluster
        );
        Err(Problem::new(codes::DATA_DIR_FOREIGN, why))
    }

    /// Makes it durable.
    pub(crate) fn save(&self, dir: &Path) -> Outcome<()> {
        write_json(&dir.join(FILE), self)
    }

    /// The authority's certificate as PEM: what clients of an API with TLS trust.
    pub(crate) fn ca_pem(&self) -> String {
        let text = STANDARD.encode(&self.ca);
        let lines: Vec<&str> = (0..text.len())
            .step_by(PEM_LINE)
            .map(|at| &text[at..text.len().min(at + PEM_LINE)])
            .collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    /// Whether `node` votes.
    pub(crate) fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node)
    }

    pub(crate) fn bundle(&self) -> Outcome<TrustBundle> {
        TrustBundle::new([self.ca.clone()]).map_err(|error| identity_problem(&error))
    }

    /// What the transport shows.
    pub(crate) fn identity(&self, node: NodeId, key: &NodeKey) -> Outcome<Identity> {
        let certificate = NodeCertificate::from_der(self.certificate.clone())
            .map_err(|error| identity_problem(&error))?;
        let membership = Membership { cluster: self.cluster, certificate, bundle: self.bundle()? };
        Ok(Identity::member(node, key.clone(), membership))
    }
}

/// The membership on disk, shared by those who change it: renewal, and votes that come and go.
#[derive(Clone)]
pub(crate) struct KeptGrant(Arc<(PathBuf, Mutex<Grant>)>);

impl KeptGrant {
    pub(crate) fn new(dir: &Path, grant: Grant) -> Self {
        Self(Arc::new((dir.to_owned(), Mutex::new(grant))))
    }

    pub(crate) fn get(&self) -> Grant {
        self.0.1.lock().clone()
    }

    /// Changes it, durably; gives what it is then.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Grant)) -> Outcome<Grant> {
        let mut kept = self.0.1.lock();
        let mut next = kept.clone();
        change(&mut next);
        next.save(&self.0.0)?;
        kept.clone_from(&next);
        Ok(next)
    }
}

/// An identity error as a user is told of it.
pub(crate) fn identity_problem(error: &swarmer_mesh::identity::IdentityError) -> Problem {
    Problem::new(error.code(), crate::problem::chain(error))
}
