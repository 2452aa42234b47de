//! Certificates of nodes, and the authorities that are believed.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use swarmer_model::{ClusterId, NodeId};
use x509_parser::{extensions::GeneralName, prelude::X509Certificate};

use super::{
    error::IdentityError,
    key::point_of,
    spiffe::{SpiffeId, SpiffePath},
    verify::{Side, verify_path},
};

/// More authorities than this at once is a mistake: one, or two while they rotate.
const MAX_AUTHORITIES: usize = 8;

/// What pins an authority: SHA-256 of its public key (DER, SubjectPublicKeyInfo). It stays the
/// same when the authority's certificate is made again over the same key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a public key.
    pub fn of_spki(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

/// What we read out of any certificate, ours or a peer's. Nothing here is verified.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) id: Option<SpiffeId>,
    pub(crate) spki: Vec<u8>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Reads a certificate of a peer. The error says what is wrong with it.
pub(crate) fn facts(der: &[u8]) -> Result<Facts, String> {
    let (rest, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|error| error.to_string())?;
    if !rest.is_empty() {
        return Err("bytes follow the certificate".to_owned());
    }
    let spki = certificate.public_key().raw;
    if point_of(spki).is_none() {
        return Err("its key is not ECDSA P-256".to_owned());
    }
    Ok(Facts {
        id: spiffe_id(&certificate)?,
        spki: spki.to_vec(),
        not_before: system_time(certificate.validity().not_before.timestamp()),
        not_after: system_time(certificate.validity().not_after.timestamp()),
    })
}

/// The one SPIFFE id; an SVID has exactly one URI (X509-SVID, section 2).
fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<Option<SpiffeId>, String> {
    let Some(names) = certificate.subject_alternative_name().map_err(|error| error.to_string())?
    else {
        return Ok(None);
    };
    let mut id = None;
    for name in &names.value.general_names {
        if let GeneralName::URI(uri) = name {
            let parsed: SpiffeId = uri.parse().map_err(|error| format!("{error}"))?;
            if id.replace(parsed).is_some() {
                return Err("it has more than one URI name".to_owned());
            }
        }
    }
    Ok(id)
}

fn system_time(unix_seconds: i64) -> SystemTime {
    let span = Duration::from_secs(unix_seconds.unsigned_abs());
    let time =
        if unix_seconds < 0 { UNIX_EPOCH.checked_sub(span) } else { UNIX_EPOCH.checked_add(span) };
    time.unwrap_or(UNIX_EPOCH)
}

/// The certificate of a node: an X.509 SVID.
///
/// Read, not verified: who trusts it verifies it (`verify_member`).
#[derive(Debug, Clone)]
pub struct NodeCertificate {
    der: CertificateDer<'static>,
    cluster: ClusterId,
    node: NodeId,
    facts: Facts,
}

impl NodeCertificate {
    /// Reads a certificate in DER.
    pub fn from_der(der: impl Into<Vec<u8>>) -> Result<Self, IdentityError> {
        let der = CertificateDer::from(der.into());
        let facts = facts(&der).map_err(|reason| IdentityError::Certificate { reason })?;
        match &facts.id {
            Some(SpiffeId { domain, path: SpiffePath::Node(node) }) => {
                Ok(Self { cluster: domain.0, node: *node, der, facts })
            }
            _ => Err(IdentityError::Certificate { reason: "it names no node".to_owned() }),
        }
    }

    /// The certificate as DER, to store or send.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.der.clone()
    }

    /// The cluster that it names.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The node that it names.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The node's public key: DER, SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.facts.spki
    }

    /// From when on it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.facts.not_before
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.facts.not_after
    }

    /// When it is to be renewed: at half of its life.
    pub fn half_life(&self) -> SystemTime {
        let life = self.facts.not_after.duration_since(self.facts.not_before).unwrap_or_default();
        self.facts.not_before + life / 2
    }

    /// Whether `now` is outside of its time, before or after.
    pub fn expired(&self, now: SystemTime) -> bool {
        now < self.facts.not_before || now > self.facts.not_after
    }
}

/// The certificates of the authorities that are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    authorities: Vec<CertificateDer<'static>>,
}

impl TrustBundle {
    /// A bundle of one to a few authorities, each in DER.
    pub fn new(authorities: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, IdentityError> {
        let refuse = |reason: String| IdentityError::Certificate { reason };
        let authorities: Vec<_> =
            authorities.into_iter().take(MAX_AUTHORITIES + 1).map(CertificateDer::from).collect();
        if authorities.is_empty() || authorities.len() > MAX_AUTHORITIES {
            return Err(refuse(format!("a trust bundle has 1 to {MAX_AUTHORITIES} authorities")));
        }
        for authority in &authorities {
            facts(authority).map_err(refuse)?;
            webpki::anchor_from_trusted_cert(authority)
                .map_err(|error| refuse(error.to_string()))?;
        }
        Ok(Self { authorities })
    }

    /// The authorities' certificates in DER, to store or send.
    pub fn ders(&self) -> impl Iterator<Item = &[u8]> {
        self.authorities.iter().map(AsRef::as_ref)
    }

    /// The authorities' fingerprints.
    pub fn fingerprints(&self) -> impl Iterator<Item = Fingerprint> {
        self.authorities
            .iter()
            .filter_map(|der| facts(der).ok())
            .map(|facts| Fingerprint::of_spki(&facts.spki))
    }

    /// Which of these authorities signed a node's certificate, whatever the time.
    pub fn issuer_of(&self, certificate: &NodeCertificate) -> Option<Fingerprint> {
        let NodeCertificate { der, facts: of_node, .. } = certificate;
        let signed = |authority: &&CertificateDer<'static>| {
            let alone = std::slice::from_ref(*authority);
            verify_path(der, of_node, alone, of_node.not_before, Side::Server).is_ok()
        };
        let authority = self.authorities.iter().find(signed)?;
        Some(Fingerprint::of_spki(&facts(authority).ok()?.spki))
    }

    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }
}
