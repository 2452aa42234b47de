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
    identity::{
        Authority, Fingerprint, Identity, Membership, NodeCertificate, NodeKey, TrustBundle,
    },
};
use swarmer_model::{ClusterId, Coded as _, Labels, NodeId};
use tokio::sync::watch;

use crate::{
    agent::{
        data_dir::{DataDir, read_json, write_json},
        keys::{Authorities, Rotated as _},
    },
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

/// An authority whose key this node has and that issues nothing yet.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldCa {
    #[serde(with = "hex::serde")]
    pub(crate) ca: Vec<u8>,
    pub(crate) key_pem: String,
}

/// Everything that makes a node a member. Handed over when it is admitted, over a channel that
/// proved the cluster's authority or the founding secret; kept in a file for its owner only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) cluster: ClusterId,
    /// The certificate of the authority that issues certificates.
    #[serde(with = "hex::serde")]
    pub(crate) ca: Vec<u8>,
    /// All that are believed; none while there was never another than the founding's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) authorities: Option<Authorities>,
    /// The fingerprint of the founding's, in hex, once there was another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) founding_ca: Option<String>,
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
    /// The key of the authority that issues certificates, for a voter.
    pub(crate) ca_key_pem: Option<String>,
    /// For a voter: the authority that is brought in, or that this node made to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next_ca: Option<HeldCa>,
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

    /// The certificates of all believed authorities as PEM: what clients of an API with TLS trust.
    pub(crate) fn ca_pem(&self) -> Outcome<String> {
        let bundle = self.bundle()?;
        Ok(bundle.ders().map(pem).collect())
    }

    /// Tells this cluster from one with the same id, whatever authority it has by now.
    pub(crate) fn founding_authority(&self) -> Outcome<Fingerprint> {
        if let Some(text) = &self.founding_ca {
            let unreadable = |_| Problem::new(codes::DATA_DIR, "founding_ca is no fingerprint");
            return text.parse().map_err(unreadable);
        }
        let founded = Authorities::founded(self.ca.clone()).bundle()?;
        let none = || Problem::new(codes::INTERNAL, "the trust bundle is empty");
        founded.fingerprints().next().ok_or_else(none)
    }

    /// Keeps those of these keys that it lacks and certificates are issued by, or will be; whether
    /// there was one.
    pub(crate) fn take_ca_keys(&mut self, keys: &[String]) -> Outcome<bool> {
        let before = (self.ca_key_pem.clone(), self.next_ca.clone());
        let key_of = |ca: &[u8]| keys.iter().find(|key| Authority::fits(key, ca)).cloned();
        if self.ca_key_pem.is_none() {
            self.ca_key_pem = key_of(&self.ca);
        }
        let all = Authorities::of(self)?;
        if all.lacks(self) {
            let newest = all.newest()?;
            let held = key_of(newest).map(|key_pem| HeldCa { ca: newest.to_vec(), key_pem });
            self.next_ca = held.or(self.next_ca.take());
        }
        Ok(before != (self.ca_key_pem.clone(), self.next_ca.clone()))
    }

    /// Whether a voter with this lacks a key that it needs.
    pub(crate) fn lacks_ca_key(&self) -> bool {
        self.ca_key_pem.is_none() || Authorities::of(self).is_ok_and(|all| all.lacks(self))
    }

    /// Whether `node` votes.
    pub(crate) fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node)
    }

    pub(crate) fn bundle(&self) -> Outcome<TrustBundle> {
        Authorities::of(self)?.bundle()
    }

    /// What the transport shows.
    pub(crate) fn identity(&self, node: NodeId, key: &NodeKey) -> Outcome<Identity> {
        let certificate = NodeCertificate::from_der(self.certificate.clone())
            .map_err(|error| identity_problem(&error))?;
        let membership = Membership { cluster: self.cluster, certificate, bundle: self.bundle()? };
        Ok(Identity::member(node, key.clone(), membership))
    }
}

/// A certificate (RFC 7468).
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len())
        .step_by(PEM_LINE)
        .map(|at| &text[at..text.len().min(at + PEM_LINE)])
        .collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The membership on disk, shared by those who change it: renewal, keys that rotate, and votes that
/// come and go.
#[derive(Clone)]
pub(crate) struct KeptGrant(Arc<Kept>);

struct Kept {
    dir: PathBuf,
    grant: Mutex<Grant>,
    changes: watch::Sender<()>,
}

impl KeptGrant {
    pub(crate) fn new(dir: &Path, grant: Grant) -> Self {
        let (grant, (changes, _)) = (Mutex::new(grant), watch::channel(()));
        Self(Arc::new(Kept { dir: dir.to_owned(), grant, changes }))
    }

    pub(crate) fn get(&self) -> Grant {
        self.0.grant.lock().clone()
    }

    /// Changes it, durably; gives what it is then.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Grant)) -> Outcome<Grant> {
        self.try_update(|grant| {
            change(grant);
            Ok(())
        })
    }

    /// The same with a change that can fail; nothing is changed then.
    pub(crate) fn try_update(
        &self,
        change: impl FnOnce(&mut Grant) -> Outcome<()>,
    ) -> Outcome<Grant> {
        let mut kept = self.0.grant.lock();
        let mut next = kept.clone();
        change(&mut next)?;
        next.save(&self.0.dir)?;
        kept.clone_from(&next);
        drop(kept);
        self.0.changes.send_replace(());
        Ok(next)
    }

    /// Tells that it has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }
}

/// An identity error as a user is told of it.
pub(crate) fn identity_problem(error: &swarmer_mesh::identity::IdentityError) -> Problem {
    Problem::new(error.code(), crate::problem::chain(error))
}
