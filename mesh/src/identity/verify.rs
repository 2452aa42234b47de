//! Whether a peer is the member that its certificate says.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use swarmer_model::{ClusterId, Code, Coded, NodeId};
use webpki::{EndEntityCert, KeyUsage};

use super::{
    admission::{Admission, Verdict},
    certificate::{Facts, Fingerprint, TrustBundle, facts},
    spiffe::{SpiffeId, SpiffePath, TrustDomain},
};
use crate::codes;

/// A member whose key and admission were verified, and whose chain, if it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The node.
    pub node: NodeId,
    /// Its public key: DER, SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// From when on its certificate is valid.
    pub not_before: SystemTime,
    /// Until when its certificate is valid.
    pub not_after: SystemTime,
    /// Whether an authority that is believed here signed its certificate. If not, one of the two
    /// slept while the authority changed: what speaks for the peer is its admitted key alone.
    pub believed: bool,
}

impl PeerIdentity {
    /// Whether `now` is outside of the certificate's time.
    pub fn expired(&self, now: SystemTime) -> bool {
        now < self.not_before || now > self.not_after
    }

    /// Whether its certificate opens only what makes it whole again.
    pub fn limited(&self, now: SystemTime) -> bool {
        !self.believed || self.expired(now)
    }
}

/// Why a peer is not let in. The text is sent to the peer too, so that both logs say it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no certificate.
    #[error("no certificate was shown")]
    NoCertificate,
    /// It cannot be read, or is not of the form that nodes have.
    #[error("the certificate is not one of a node: {0}")]
    Malformed(String),
    /// It names another cluster.
    #[error("the certificate is of cluster {presented}, not of {expected}")]
    OtherCluster {
        /// The cluster that it names.
        presented: ClusterId,
        /// Ours.
        expected: ClusterId,
    },
    /// It names this cluster, but another authority signed it.
    #[error("the certificate is not signed by the authority of this cluster: {0}")]
    ForeignAuthority(String),
    /// The node is not admitted, or has another key.
    #[error("node {0} is not admitted with this key")]
    NotAdmitted(NodeId),
    /// Who is a member is not known here yet.
    #[error("this node has just started and does not know yet whether node {0} is a member")]
    Starting(NodeId),
    /// The node was removed.
    #[error("node {0} was removed from the cluster")]
    Revoked(NodeId),
    /// Another node than the intended one.
    #[error("node {presented} answers where node {expected} was dialled")]
    WrongNode {
        /// Who answers.
        presented: NodeId,
        /// Who was meant.
        expected: NodeId,
    },
    /// None of the authorities shown is the pinned one.
    #[error(
        "the authority shown is not the one with fingerprint {0} that the token names: the token is \
         of another cluster, or older than a change of this cluster's authority"
    )]
    WrongPin(Fingerprint),
    /// The certificate is outside of its time, where that matters.
    #[error("the certificate of node {0} is expired or not yet valid by this node's clock")]
    Expired(NodeId),
    /// The certificate is of an authority that is not believed, where that matters.
    #[error(
        "the certificate of node {0} is of an authority that is not believed here: one of the two \
         nodes slept while it changed"
    )]
    Unbelieved(NodeId),
}

impl Coded for Refusal {
    fn code(&self) -> Code {
        match self {
            Self::NoCertificate => codes::NO_CERTIFICATE,
            Self::Malformed(_) => codes::BAD_CERTIFICATE,
            Self::OtherCluster { .. } => codes::OTHER_CLUSTER,
            Self::ForeignAuthority(_) => codes::FOREIGN_CA,
            Self::NotAdmitted(_) => codes::NOT_ADMITTED,
            Self::Starting(_) => codes::STARTING,
            Self::Revoked(_) => codes::REVOKED,
            Self::WrongNode { .. } => codes::WRONG_NODE,
            Self::WrongPin(_) => codes::WRONG_PIN,
            Self::Expired(_) => codes::EXPIRED,
            Self::Unbelieved(_) => codes::UNBELIEVED,
        }
    }
}

/// Which side of TLS the peer is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Verifies a peer's chain (leaf first) as that of an admitted member of `cluster`.
///
/// Possession of the key is proven by TLS, not here. A certificate outside of its time passes:
/// ask [`PeerIdentity::expired`]. Its chain is then verified for the middle of its time. One that
/// no believed authority signed passes too, if it is over exactly the key that was admitted: ask
/// [`PeerIdentity::believed`].
pub fn verify_member(
    chain: &[CertificateDer<'_>],
    cluster: ClusterId,
    bundle: &TrustBundle,
    now: SystemTime,
    admission: &dyn Admission,
) -> Result<PeerIdentity, Refusal> {
    verify_admitted(chain, cluster, bundle, now, Side::Client, admission)
}

/// As [`verify_member`], for a peer on either side of TLS.
pub(crate) fn verify_admitted(
    chain: &[CertificateDer<'_>],
    cluster: ClusterId,
    bundle: &TrustBundle,
    now: SystemTime,
    side: Side,
    admission: &dyn Admission,
) -> Result<PeerIdentity, Refusal> {
    let (peer, signed) = read_chain(chain, cluster, bundle, now, side)?;
    match (admission.check(peer.node, &peer.spki), signed) {
        (Verdict::Admitted, Ok(())) => Ok(peer),
        (Verdict::Admitted, Err(Refusal::ForeignAuthority(_))) => {
            Ok(PeerIdentity { believed: false, ..peer })
        }
        (Verdict::Revoked, _) => Err(Refusal::Revoked(peer.node)),
        (Verdict::NotYet, _) => Err(Refusal::Starting(peer.node)),
        (_, Err(refusal)) => Err(refusal),
        (Verdict::Unknown, Ok(())) => Err(Refusal::NotAdmitted(peer.node)),
    }
}

/// Everything but admission.
pub(crate) fn verify_chain(
    chain: &[CertificateDer<'_>],
    cluster: ClusterId,
    bundle: &TrustBundle,
    now: SystemTime,
    side: Side,
) -> Result<PeerIdentity, Refusal> {
    let (peer, signed) = read_chain(chain, cluster, bundle, now, side)?;
    signed.map(|()| peer)
}

/// Who a chain says that the peer is, and whether a believed authority says so too.
fn read_chain(
    chain: &[CertificateDer<'_>],
    cluster: ClusterId,
    bundle: &TrustBundle,
    now: SystemTime,
    side: Side,
) -> Result<(PeerIdentity, Result<(), Refusal>), Refusal> {
    let leaf = chain.first().ok_or(Refusal::NoCertificate)?;
    let facts = facts(leaf).map_err(Refusal::Malformed)?;
    let (domain, node) = match &facts.id {
        Some(SpiffeId { domain, path: SpiffePath::Node(node) }) => (*domain, *node),
        Some(other) => return Err(Refusal::Malformed(format!("it names {other}, not a node"))),
        None => return Err(Refusal::Malformed("it has no SPIFFE id".to_owned())),
    };
    if domain != TrustDomain(cluster) {
        return Err(Refusal::OtherCluster { presented: domain.0, expected: cluster });
    }
    let signed = verify_path(leaf, &facts, bundle.certificates(), now, side);
    let peer = PeerIdentity {
        node,
        spki: facts.spki,
        not_before: facts.not_before,
        not_after: facts.not_after,
        believed: true,
    };
    Ok((peer, signed))
}

pub(super) fn verify_path(
    leaf: &CertificateDer<'_>,
    facts: &Facts,
    authorities: &[CertificateDer<'_>],
    now: SystemTime,
    side: Side,
) -> Result<(), Refusal> {
    let inside = now >= facts.not_before && now <= facts.not_after;
    let life = facts.not_after.duration_since(facts.not_before).unwrap_or_default();
    let at = if inside { now } else { facts.not_before + life / 2 };
    let at = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let anchors: Vec<TrustAnchor<'_>> =
        authorities.iter().filter_map(|der| webpki::anchor_from_trusted_cert(der).ok()).collect();
    let usage = match side {
        Side::Client => KeyUsage::client_auth(),
        Side::Server => KeyUsage::server_auth(),
    };
    EndEntityCert::try_from(leaf)
        .map_err(|error| Refusal::Malformed(error.to_string()))?
        .verify_for_usage(
            &[webpki::ring::ECDSA_P256_SHA256],
            &anchors,
            // Authorities sign nodes directly.
            &[],
            UnixTime::since_unix_epoch(at),
            usage,
            None,
            None,
        )
        .map_err(|error| match error {
            // All authorities have one name, so that a foreign one is found by its signature.
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                Refusal::ForeignAuthority(error.to_string())
            }
            error => Refusal::Malformed(error.to_string()),
        })?;
    Ok(())
}

/// Verifies the chain of a node that we want to join by: some certificate in it is the pinned
/// authority, and that one signed the leaf. Here an expired certificate is refused: the one who
/// joins cannot ask whether its owner was removed since.
pub(crate) fn verify_pinned(
    chain: &[CertificateDer<'_>],
    pin: &Fingerprint,
    now: SystemTime,
) -> Result<PinnedPeer, Refusal> {
    let leaf = chain.first().ok_or(Refusal::NoCertificate)?;
    let facts = facts(leaf).map_err(Refusal::Malformed)?;
    let authority = chain[1..]
        .iter()
        .take(MAX_PINNED_CHAIN)
        .find(|der| authority_matches(der, pin))
        .ok_or(Refusal::WrongPin(*pin))?;
    let cluster = match &facts.id {
        Some(id) => id.domain.0,
        None => return Err(Refusal::Malformed("it has no SPIFFE id".to_owned())),
    };
    let authority = authority.clone().into_owned();
    let bundle = TrustBundle::new([authority.to_vec()])
        .map_err(|error| Refusal::Malformed(error.to_string()))?;
    let identity = verify_chain(chain, cluster, &bundle, now, Side::Server)?;
    if identity.expired(now) {
        return Err(Refusal::Expired(identity.node));
    }
    Ok(PinnedPeer { cluster, identity, bundle })
}

/// More certificates than this are not searched for the pinned authority.
const MAX_PINNED_CHAIN: usize = 8;

fn authority_matches(der: &CertificateDer<'_>, pin: &Fingerprint) -> bool {
    facts(der).is_ok_and(|facts| Fingerprint::of_spki(&facts.spki) == *pin)
}

/// The node behind a pinned authority.
#[derive(Debug, Clone)]
pub(crate) struct PinnedPeer {
    pub(crate) cluster: ClusterId,
    pub(crate) identity: PeerIdentity,
    pub(crate) bundle: TrustBundle,
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Authority, CERTIFICATE_VALIDITY, NodeKey},
        *,
    };

    struct Says(Verdict);

    impl Admission for Says {
        fn check(&self, _: NodeId, _: &[u8]) -> Verdict {
            self.0
        }

        fn voter(&self, _: NodeId) -> bool {
            true
        }
    }

    const CLUSTER: ClusterId = ClusterId(1);

    #[test]
    fn each_wrong_has_its_own_refusal() {
        let now = SystemTime::now();
        let ours = Authority::create(CLUSTER, now).unwrap();
        let forger = Authority::create(CLUSTER, now).unwrap();
        let other = Authority::create(ClusterId(2), now).unwrap();
        let key = NodeKey::generate().unwrap();
        let leaf = |authority: &Authority| {
            let certificate =
                authority.issue(NodeId(3), &key.spki(), now, CERTIFICATE_VALIDITY).unwrap();
            vec![certificate.certificate()]
        };
        let verify = |chain: &[CertificateDer<'_>], verdict| {
            verify_member(chain, CLUSTER, &ours.bundle(), now, &Says(verdict))
                .map_err(|refusal| refusal.code())
        };
        assert_eq!(verify(&leaf(&ours), Verdict::Admitted).unwrap().node, NodeId(3));
        assert_eq!(verify(&leaf(&ours), Verdict::Unknown), Err(codes::NOT_ADMITTED));
        assert_eq!(verify(&leaf(&ours), Verdict::NotYet), Err(codes::STARTING));
        assert_eq!(verify(&leaf(&ours), Verdict::Revoked), Err(codes::REVOKED));
        assert_eq!(verify(&leaf(&forger), Verdict::Unknown), Err(codes::FOREIGN_CA));
        assert_eq!(verify(&leaf(&other), Verdict::Admitted), Err(codes::OTHER_CLUSTER));
        assert_eq!(verify(&[], Verdict::Admitted), Err(codes::NO_CERTIFICATE));
        let garbage = [CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])];
        assert_eq!(verify(&garbage, Verdict::Admitted), Err(codes::BAD_CERTIFICATE));
        let authority = [CertificateDer::from(ours.certificate_der().to_vec())];
        assert_eq!(verify(&authority, Verdict::Admitted), Err(codes::BAD_CERTIFICATE));
        let mut flipped = leaf(&ours)[0].to_vec();
        let last = flipped.len() - 1;
        flipped[last] ^= 1;
        let flipped = [CertificateDer::from(flipped)];
        assert_eq!(verify(&flipped, Verdict::Unknown), Err(codes::FOREIGN_CA));
        assert!(!verify(&flipped, Verdict::Admitted).unwrap().believed);
    }

    #[test]
    fn of_an_authority_that_is_not_believed_the_admitted_key_alone_is_known_and_limited() {
        struct Knows(NodeId, Vec<u8>);
        impl Admission for Knows {
            fn check(&self, node: NodeId, spki: &[u8]) -> Verdict {
                match node == self.0 && spki == self.1 {
                    true => Verdict::Admitted,
                    false => Verdict::Unknown,
                }
            }

            fn voter(&self, _: NodeId) -> bool {
                true
            }
        }
        let now = SystemTime::now();
        let (old, new) =
            (Authority::create(CLUSTER, now).unwrap(), Authority::create(CLUSTER, now).unwrap());
        let (key, stolen) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let of = |authority: &Authority, key: &NodeKey| {
            let issued = authority.issue(NodeId(3), &key.spki(), now, CERTIFICATE_VALIDITY);
            [issued.unwrap().certificate()]
        };
        let knows = Knows(NodeId(3), key.spki());
        let verify = |chain: &[CertificateDer<'_>], admission: &dyn Admission| {
            verify_member(chain, CLUSTER, &new.bundle(), now, admission)
        };
        let whole = verify(&of(&new, &key), &knows).unwrap();
        assert!(whole.believed && !whole.limited(now));
        let slept = verify(&of(&old, &key), &knows).unwrap();
        assert!(!slept.believed && !slept.expired(now) && slept.limited(now));
        // Another key in that node's name, whoever signed it.
        let code = |refused: Result<PeerIdentity, Refusal>| refused.unwrap_err().code();
        assert_eq!(code(verify(&of(&old, &stolen), &knows)), codes::FOREIGN_CA);
        assert_eq!(code(verify(&of(&new, &stolen), &knows)), codes::NOT_ADMITTED);
        // One that was removed is told so, and one that starts does not call it a stranger.
        assert_eq!(code(verify(&of(&old, &key), &Says(Verdict::Revoked))), codes::REVOKED);
        assert_eq!(code(verify(&of(&old, &key), &Says(Verdict::NotYet))), codes::STARTING);
    }

    #[test]
    fn a_node_certificate_is_no_authority() {
        let now = SystemTime::now();
        let ours = Authority::create(CLUSTER, now).unwrap();
        let key = NodeKey::generate().unwrap();
        let member = ours.issue(NodeId(3), &key.spki(), now, CERTIFICATE_VALIDITY).unwrap();
        // A member signs a certificate for another node with its own key.
        let forged = {
            let params = rcgen::CertificateParams::from_member(NodeId(4));
            let issuer = rcgen::Issuer::new(rcgen::CertificateParams::default(), key.pair());
            params.signed_by(key.pair(), &issuer).unwrap().der().clone()
        };
        let chain = [forged, member.certificate()];
        let result = verify_member(&chain, CLUSTER, &ours.bundle(), now, &Says(Verdict::Unknown));
        assert_eq!(result.map_err(|refusal| refusal.code()), Err(codes::FOREIGN_CA));
        let result = verify_member(&chain, CLUSTER, &ours.bundle(), now, &Says(Verdict::Admitted));
        assert!(!result.unwrap().believed);
    }

    trait FromMember {
        fn from_member(node: NodeId) -> Self;
    }

    impl FromMember for rcgen::CertificateParams {
        fn from_member(node: NodeId) -> Self {
            let mut params = Self::default();
            let uri = SpiffeId::node(CLUSTER, node).to_string().try_into().unwrap();
            params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
            params
        }
    }

    #[test]
    fn an_expired_certificate_still_names_its_node() {
        let then = SystemTime::now();
        let now = then + Duration::from_secs(30 * 86_400);
        let ours = Authority::create(CLUSTER, then).unwrap();
        let key = NodeKey::generate().unwrap();
        let leaf = ours.issue(NodeId(3), &key.spki(), then, CERTIFICATE_VALIDITY).unwrap();
        let chain = [leaf.certificate()];
        let peer =
            verify_member(&chain, CLUSTER, &ours.bundle(), now, &Says(Verdict::Admitted)).unwrap();
        assert!(peer.expired(now));
        assert!(!peer.expired(then));
        let revoked = verify_member(&chain, CLUSTER, &ours.bundle(), now, &Says(Verdict::Revoked));
        assert_eq!(revoked, Err(Refusal::Revoked(NodeId(3))));
    }

    #[test]
    fn a_pin_needs_the_pinned_authority_and_a_valid_leaf() {
        let now = SystemTime::now();
        let ours = Authority::create(CLUSTER, now).unwrap();
        let forger = Authority::create(CLUSTER, now).unwrap();
        let key = NodeKey::generate().unwrap();
        let chain = |signer: &Authority, shown: &Authority| {
            let leaf = signer.issue(NodeId(3), &key.spki(), now, CERTIFICATE_VALIDITY).unwrap();
            [leaf.certificate(), CertificateDer::from(shown.certificate_der().to_vec())]
        };
        let pin = ours.fingerprint();
        let code = |result: Result<PinnedPeer, Refusal>| result.map_err(|error| error.code()).err();
        assert_eq!(code(verify_pinned(&chain(&ours, &ours), &pin, now)), None);
        let wrong = verify_pinned(&chain(&forger, &forger), &pin, now);
        assert_eq!(code(wrong), Some(codes::WRONG_PIN));
        // The pinned authority is public: showing it proves nothing.
        let shown = verify_pinned(&chain(&forger, &ours), &pin, now);
        assert_eq!(code(shown), Some(codes::FOREIGN_CA));
        let later = now + 2 * CERTIFICATE_VALIDITY;
        let expired = verify_pinned(&chain(&ours, &ours), &pin, later);
        assert_eq!(code(expired), Some(codes::EXPIRED));
    }
}
