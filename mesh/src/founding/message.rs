//! The messages of founding, and the proof of the secret.

use serde::{Deserialize, Serialize};
use swarmer_model::{ClusterId, Code, NodeId};

use super::{Founder, Presence, Secret, Side, TurnedAway, codes};

/// The largest message, in bytes.
pub const MAX_MESSAGE_BYTES: usize = MAX_GRANT_BYTES + 1024;
/// The largest grant, in bytes: certificates and addresses of a handful of members.
pub const MAX_GRANT_BYTES: usize = 64 * 1024;
/// The version of the messages, their first byte.
const VERSION: u8 = 4;
/// Keeps this proof apart from any other use of the secret.
const PURPOSE: &[u8] = b"swarmer-found/1 proof";
/// Likewise, for the word that the cluster of a token stands.
const STANDS: &[u8] = b"swarmer-found/1 stands";

/// Why a founder does not talk to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefuseReason {
    /// The proof does not fit the secret.
    WrongSecret,
    /// The founding token is of another cluster.
    OtherCluster,
    /// The certificate of the connection is not the node's.
    WrongKey,
    /// Two machines show the same node id (a copied data directory).
    SameNode,
    /// The messages cannot be understood.
    Protocol,
    /// Too many at once.
    Full,
    /// The two do not expect the same number of founders.
    OtherExpect,
}

impl RefuseReason {
    /// The stable code of the reason.
    pub fn code(self) -> Code {
        match self {
            Self::WrongSecret | Self::WrongKey => codes::WRONG_SECRET,
            Self::OtherCluster => codes::OTHER_CLUSTER,
            Self::SameNode | Self::Protocol | Self::Full | Self::OtherExpect => codes::PROTOCOL,
        }
    }
}

impl std::fmt::Display for RefuseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::WrongSecret => {
                "the founding secrets differ: give all founders the same token file"
            }
            Self::OtherCluster => "the founding tokens are of different clusters",
            Self::WrongKey => "the connection's certificate is not that of the node",
            Self::SameNode => "two machines have the same node id: was a data directory copied?",
            Self::Protocol => "the messages of the other founder cannot be understood",
            Self::Full => "too many founders at once",
            Self::OtherExpect => "the two nodes have a different --bootstrap-expect",
        })
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// The first of each side.
    Prove {
        cluster: ClusterId,
        node: NodeId,
        spki: Vec<u8>,
        run: [u8; 16],
        mac: [u8; 32],
        /// The same by the witness of the secret: for members, which keep only that.
        known: [u8; 32],
    },
    /// Who I am and how far I am; sent after the peer's proof, and again every second.
    Hello(Hello),
    /// I have consented to you, durably. Also asks for the grant.
    Consent { from: NodeId, to: NodeId },
    /// Your part of the cluster.
    Grant { to: NodeId, grant: Vec<u8> },
    /// The cluster stands without you; join it with a token. `hint` is a member's address.
    AlreadyFounded { hint: String },
    /// A member of a cluster that stands is here; `hint` is its address. Believed only with the
    /// proof, which a member can give of the cluster that the founder's own token founded.
    Standing { cluster: ClusterId, hint: String, proof: Option<[u8; 32]> },
    /// I do not talk to you. Not authenticated: it is logged, nothing else.
    Refuse(RefuseReason),
    /// A member asks who is here.
    Ask(Presence),
    /// Who is here.
    Present(Presence),
}

/// Where a founder stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) founder: Founder,
    pub(super) expect: u8,
    /// To whom it has consented, durably.
    pub(super) consent: Option<NodeId>,
    /// It has its part of the cluster.
    pub(super) granted: bool,
    /// Addresses of other founders that it has met, for those with shorter seed lists.
    pub(super) known: Vec<String>,
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("a message of plain data serializes")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return None;
        }
        let (&version, message) = bytes.split_first()?;
        (version == VERSION).then(|| postcard::from_bytes(message).ok()).flatten()
    }
}

/// Who proves the secret, as it says.
#[derive(Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) spki: &'a [u8],
    pub(super) run: &'a [u8; 16],
}

/// Proves the secret on one connection: bound to the side, so that a proof cannot be sent back,
/// to the TLS exporter (RFC 5705), so that it cannot be relayed, and to who proves.
pub(super) fn prove(
    secret: &Secret,
    claim: &Claim<'_>,
    side: Side,
    exporter: &[u8; 32],
) -> [u8; 32] {
    let (cluster, node) = (claim.cluster.0.to_be_bytes(), claim.node.0.to_be_bytes());
    secret.mac(&parts(&cluster, &node, claim, side, exporter))
}

/// Checks the proof of a peer on the given side.
pub(super) fn check(
    secret: &Secret,
    claim: &Claim<'_>,
    side: Side,
    exporter: &[u8; 32],
    mac: &[u8; 32],
) -> bool {
    let (cluster, node) = (claim.cluster.0.to_be_bytes(), claim.node.0.to_be_bytes());
    secret.verify(&parts(&cluster, &node, claim, side, exporter), mac)
}

fn parts<'a>(
    cluster: &'a [u8],
    node: &'a [u8],
    claim: &Claim<'a>,
    side: Side,
    exporter: &'a [u8],
) -> [&'a [u8]; 7] {
    let side: &[u8] = match side {
        Side::Dialer => b"dialer",
        Side::Acceptor => b"acceptor",
    };
    [PURPOSE, cluster, side, exporter, node, claim.run, claim.spki]
}

/// Shows that the cluster of a token stands: bound to the connection and to what is said.
pub(super) fn prove_standing(
    witness: &Secret,
    cluster: ClusterId,
    hint: &str,
    exporter: &[u8; 32],
) -> [u8; 32] {
    witness.mac(&[STANDS, &cluster.0.to_be_bytes(), hint.as_bytes(), exporter])
}

/// Checks the word that the cluster of a token stands.
pub(super) fn check_standing(
    witness: &Secret,
    cluster: ClusterId,
    hint: &str,
    exporter: &[u8; 32],
    proof: &[u8; 32],
) -> bool {
    witness.verify(&[STANDS, &cluster.0.to_be_bytes(), hint.as_bytes(), exporter], proof)
}

/// A member without the founding secret, as it answers founders.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its address.
    pub address: &'a str,
    /// What the cluster kept of its founding secret; a cluster of an older version kept nothing.
    pub witness: Option<&'a Secret>,
    /// The TLS exporter of the founder's connection.
    pub exporter: &'a [u8; 32],
}

/// What a member without the founding secret makes of a founder's first message: who it says it
/// is, why it is turned away, and the answer. `None` if the message says nothing.
pub fn turn_away(first: &[u8], host: &Host<'_>) -> Option<(NodeId, TurnedAway, Vec<u8>)> {
    let Message::Prove { cluster: claimed, node, spki, run, known, .. } = Message::decode(first)?
    else {
        return None;
    };
    let Host { cluster, address, witness, exporter } = *host;
    let standing = |proof| Message::Standing { cluster, hint: address.to_owned(), proof };
    let claim = Claim { cluster, node, spki: &spki, run: &run };
    let (reason, answer) = match witness {
        _ if claimed != cluster => (TurnedAway::OtherCluster { cluster: claimed }, standing(None)),
        // Nothing was kept to tell a token of this cluster by.
        None => (TurnedAway::Spent, standing(None)),
        // Whoever is not served dials.
        Some(witness) if check(witness, &claim, Side::Dialer, exporter, &known) => {
            let proof = prove_standing(witness, cluster, address, exporter);
            (TurnedAway::Spent, standing(Some(proof)))
        }
        Some(_) => (TurnedAway::WrongSecret, Message::Refuse(RefuseReason::WrongSecret)),
    };
    Some((node, reason, answer.encode()))
}
