//! TLS as the transport wants it: what is served and shown on which ALPN, who is believed.
//!
//! TLS 1.3 with ECDSA P-256 only; no resumption and no early data, so that every connection
//! proves its key anew.
//!
//! A server has one configuration for all protocols, and rustls does not tell a verifier which
//! of them was chosen. So the server's verifier lets a founder's self-signed certificate pass
//! while founding is served, and the acceptor, before it reads or sends a byte, verifies the
//! peer once more against the protocol that was chosen.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use swarmer_model::{ClusterId, NodeId};

use super::{
    Identity, IdentityError, Membership,
    admission::Admission,
    authority::self_signed,
    certificate::{Fingerprint, TrustBundle, facts},
    clock::WallClock,
    key::NodeKey,
    verify::{PeerIdentity, Refusal, Side, verify_admitted, verify_pinned},
};

/// Control streams between members.
pub(crate) const ALPN_CONTROL: &[u8] = b"swarmer-control/1";
/// Data streams between members.
pub(crate) const ALPN_DATA: &[u8] = b"swarmer-data/1";
/// Joining: no client certificate.
pub(crate) const ALPN_JOIN: &[u8] = b"swarmer-join/1";
/// Founding: both sides self-signed.
pub(crate) const ALPN_FOUND: &[u8] = b"swarmer-found/1";

/// The name that a client of join and founding dials; nobody checks it.
pub(crate) const ANY_NODE: &str = "node.swarmer";

/// The name that a member dials another by: the verifier reads the intended node out of it. It
/// does not go over the wire.
pub(crate) fn server_name(cluster: ClusterId, node: NodeId) -> String {
    format!("{node}.{cluster}.swarmer")
}

fn intended(name: &ServerName<'_>) -> Option<NodeId> {
    match name {
        ServerName::DnsName(name) => name.as_ref().split('.').next()?.parse().ok(),
        _ => None,
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The only signature that we make or accept.
fn schemes() -> Vec<SignatureScheme> {
    vec![SignatureScheme::ECDSA_NISTP256_SHA256]
}

fn refused(refusal: Refusal) -> Error {
    use swarmer_model::Coded as _;
    // The peer sees this text as the reason of the close, and its log names the code too.
    let text = format!("{}: {refusal}", refusal.code());
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(RefusedText(text)))))
}

#[derive(thiserror::Error)]
#[error("{0}")]
struct RefusedText(String);

// What rustls shows of an error that it does not know: between these marks `without_wrapping` finds it.
impl fmt::Debug for RefusedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text of a refusal, out of what rustls and the peer make of it.
pub(crate) fn without_wrapping(reason: &str) -> &str {
    let inside = reason.split_once("Other(OtherError(").map(|(_, inside)| inside);
    inside.map_or(reason, |inside| inside.strip_suffix("))").unwrap_or(inside))
}

fn cannot_make(error: impl fmt::Display) -> IdentityError {
    IdentityError::Make { what: "TLS configuration", reason: error.to_string() }
}

fn certified(
    key: &NodeKey,
    chain: Vec<CertificateDer<'static>>,
) -> Result<Arc<CertifiedKey>, IdentityError> {
    let signer =
        rustls::crypto::ring::sign::any_ecdsa_type(&key.private_der()).map_err(cannot_make)?;
    Ok(Arc::new(CertifiedKey::new(chain, signer)))
}

/// The believed authorities of a cluster and what its desired state says of members.
#[derive(Clone)]
pub(crate) struct Judge {
    pub(crate) clock: Arc<dyn WallClock>,
    pub(crate) admission: Arc<dyn Admission>,
    cluster: ClusterId,
    bundle: TrustBundle,
}

impl Judge {
    pub(crate) fn new(
        membership: &Membership,
        clock: Arc<dyn WallClock>,
        admission: Arc<dyn Admission>,
    ) -> Self {
        Self { clock, admission, cluster: membership.cluster, bundle: membership.bundle.clone() }
    }

    /// Whether the peer is a member, on whichever side of TLS it is.
    pub(crate) fn member(
        &self,
        chain: &[CertificateDer<'_>],
        side: Side,
    ) -> Result<PeerIdentity, Refusal> {
        let now = self.clock.now();
        verify_admitted(chain, self.cluster, &self.bundle, now, side, &*self.admission)
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// The server's side for an identity; `None` where it serves nothing.
pub(crate) fn server(
    identity: &Identity,
    judge: Option<&Judge>,
) -> Result<Option<ServerConfig>, IdentityError> {
    let mut served = Vec::new();
    if identity.membership.is_some() {
        served.extend([ALPN_CONTROL.to_vec(), ALPN_DATA.to_vec()]);
        if identity.serve_join {
            served.push(ALPN_JOIN.to_vec());
        }
    }
    if identity.serve_found {
        served.push(ALPN_FOUND.to_vec());
    }
    if served.is_empty() {
        return Ok(None);
    }
    let member = match &identity.membership {
        Some(membership) => {
            let leaf = membership.certificate.certificate();
            let mut pinnable = vec![leaf.clone()];
            pinnable.extend_from_slice(membership.bundle.certificates());
            let key = &identity.key;
            Some(Member { plain: certified(key, vec![leaf])?, pinnable: certified(key, pinnable)? })
        }
        None => None,
    };
    let resolver = Certificates {
        member,
        own: certified(&identity.key, vec![self_signed(&identity.key)?])?,
        served: served.clone(),
    };
    let provider = provider();
    let verifier = PeerOfServer {
        provider: provider.clone(),
        judge: judge.cloned(),
        founding: identity.serve_found,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(cannot_make)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = served;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Some(config))
}

#[derive(Debug)]
struct Member {
    plain: Arc<CertifiedKey>,
    /// With the authorities behind it, for those who know only a fingerprint.
    pinnable: Arc<CertifiedKey>,
}

#[derive(Debug)]
struct Certificates {
    member: Option<Member>,
    own: Arc<CertifiedKey>,
    served: Vec<Vec<u8>>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let offered: Vec<&[u8]> = hello.alpn().into_iter().flatten().collect();
        // The choice that rustls makes: the first of ours that the client offers.
        let chosen = self.served.iter().find(|name| offered.contains(&name.as_slice()));
        match (chosen.map(Vec::as_slice), &self.member) {
            (Some(ALPN_JOIN), Some(member)) => Some(member.pinnable.clone()),
            (Some(ALPN_CONTROL | ALPN_DATA), Some(member)) => Some(member.plain.clone()),
            // Founding; or no common protocol, which rustls only finds after this and then
            // answers as what it is, without showing a certificate.
            _ => Some(self.own.clone()),
        }
    }
}

struct PeerOfServer {
    provider: Arc<CryptoProvider>,
    judge: Option<Judge>,
    founding: bool,
}

impl fmt::Debug for PeerOfServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerOfServer").field("founding", &self.founding).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for PeerOfServer {
    fn client_auth_mandatory(&self) -> bool {
        // Those who join have none; the acceptor refuses the others that show none.
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let refusal = match &self.judge {
            Some(judge) => match judge.member(std::slice::from_ref(end_entity), Side::Client) {
                Ok(_) => return Ok(ClientCertVerified::assertion()),
                Err(refusal) => refusal,
            },
            None => Refusal::Malformed("this node is in no cluster yet".to_owned()),
        };
        if self.founding && founder(end_entity).is_ok() {
            return Ok(ClientCertVerified::assertion());
        }
        Err(refused(refusal))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

/// The key of a founder's certificate: P-256 and without a name, so that no member's
/// certificate passes for one.
pub(crate) fn founder(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, Refusal> {
    let facts = facts(certificate).map_err(Refusal::Malformed)?;
    match facts.id {
        None => Ok(facts.spki),
        Some(id) => Err(Refusal::Malformed(format!("a founder has no name yet, this is {id}"))),
    }
}

/// Whom a client believes.
#[derive(Clone)]
enum Belief {
    /// The member that is dialled.
    Member(Judge),
    /// A node of the cluster with this authority.
    Pinned(Fingerprint, Arc<dyn WallClock>),
    /// Anybody with a key; the caller proves the rest.
    Founder,
}

struct PeerOfClient {
    provider: Arc<CryptoProvider>,
    belief: Belief,
}

impl fmt::Debug for PeerOfClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerOfClient").finish_non_exhaustive()
    }
}

impl PeerOfClient {
    fn check(&self, chain: &[CertificateDer<'_>], name: &ServerName<'_>) -> Result<(), Refusal> {
        match &self.belief {
            Belief::Member(judge) => {
                let peer = judge.member(chain, Side::Server)?;
                match intended(name) {
                    Some(expected) if expected == peer.node => Ok(()),
                    expected => Err(Refusal::WrongNode {
                        presented: peer.node,
                        expected: expected.unwrap_or_default(),
                    }),
                }
            }
            Belief::Pinned(pin, clock) => verify_pinned(chain, pin, clock.now()).map(drop),
            Belief::Founder => founder(chain.first().ok_or(Refusal::NoCertificate)?).map(drop),
        }
    }
}

impl ServerCertVerifier for PeerOfClient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut chain = vec![end_entity.clone()];
        chain.extend_from_slice(intermediates);
        self.check(&chain, name).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

fn client(
    alpn: &[u8],
    belief: Belief,
    own: Option<Arc<CertifiedKey>>,
) -> Result<ClientConfig, IdentityError> {
    let provider = provider();
    let verifier = PeerOfClient { provider: provider.clone(), belief };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(cannot_make)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // The name says which node is meant, to our own verifier; the wire need not show it.
    config.enable_sni = false;
    Ok(config)
}

/// A member that dials members.
pub(crate) fn member_client(
    key: &NodeKey,
    membership: &Membership,
    judge: &Judge,
    alpn: &[u8],
) -> Result<ClientConfig, IdentityError> {
    let own = certified(key, vec![membership.certificate.certificate()])?;
    client(alpn, Belief::Member(judge.clone()), Some(own))
}

/// A stranger that dials a node of the cluster with a pinned authority.
pub(crate) fn join_client(
    pin: Fingerprint,
    clock: Arc<dyn WallClock>,
) -> Result<ClientConfig, IdentityError> {
    client(ALPN_JOIN, Belief::Pinned(pin, clock), None)
}

/// A founder that dials another.
pub(crate) fn found_client(key: &NodeKey) -> Result<ClientConfig, IdentityError> {
    client(ALPN_FOUND, Belief::Founder, Some(certified(key, vec![self_signed(key)?])?))
}
