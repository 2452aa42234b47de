//! The cluster's certificate authority.

use std::time::{Duration, SystemTime};

use rand::RngExt as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use swarmer_model::{ClusterId, NodeId};

use super::{
    certificate::{Fingerprint, NodeCertificate, TrustBundle, facts},
    error::IdentityError,
    key::{NodeKey, point_of},
    spiffe::{SpiffeId, SpiffePath},
};

/// How long an authority's certificate is valid: it is rotated by command or when a voter is
/// removed, not by age.
pub const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a node's certificate is valid.
pub const CERTIFICATE_VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// Certificates begin this much in the past, for nodes whose clocks are behind; shorter ones a
/// twenty-fourth of their life, so that half of their life is still to come when they are made.
pub const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// The certificate authority of one cluster: a key and its self-signed certificate.
///
/// Whoever holds it can make any node: it lives on voters only, sealed.
#[derive(Debug, Clone)]
pub struct Authority {
    cluster: ClusterId,
    key: NodeKey,
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// A new authority for a cluster, valid from `now` for [`AUTHORITY_VALIDITY`].
    pub fn create(cluster: ClusterId, now: SystemTime) -> Result<Self, IdentityError> {
        let key = NodeKey::generate()?;
        let mut params = parameters(&SpiffeId::authority(cluster), now, AUTHORITY_VALIDITY)?;
        params.distinguished_name = distinguished_name("swarmer authority");
        // Only nodes below it, no further authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(key.pair()).map_err(cannot_make)?;
        Ok(Self { cluster, key, certificate: certificate.der().clone() })
    }

    /// An authority from what [`Self::key_pem`] and [`Self::certificate_der`] gave.
    pub fn from_parts(
        key_pem: &str,
        certificate_der: impl Into<Vec<u8>>,
    ) -> Result<Self, IdentityError> {
        let key = NodeKey::from_pem(key_pem)?;
        let certificate = CertificateDer::from(certificate_der.into());
        let facts = facts(&certificate).map_err(|reason| IdentityError::Certificate { reason })?;
        let refuse = |reason: &str| IdentityError::Certificate { reason: reason.to_owned() };
        if facts.spki != key.spki() {
            return Err(refuse("the authority's certificate was made over another key"));
        }
        match facts.id {
            Some(SpiffeId { domain, path: SpiffePath::Authority }) => {
                Ok(Self { cluster: domain.0, key, certificate })
            }
            _ => Err(refuse("it is not the certificate of an authority")),
        }
    }

    /// The private key as PKCS#8 PEM. The most secret thing of the cluster.
    pub fn key_pem(&self) -> String {
        self.key.to_pem()
    }

    /// The authority's own certificate. Public.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// The cluster that it speaks for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// What a join token pins.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_spki(&self.key.spki())
    }

    /// Whether `key_pem` is the key of the authority with this certificate.
    pub fn fits(key_pem: &str, certificate_der: &[u8]) -> bool {
        Self::from_parts(key_pem, certificate_der).is_ok()
    }

    /// A bundle that believes this authority alone.
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::new([self.certificate.to_vec()])
            .expect("an authority's own certificate was checked when it was made or read")
    }

    /// Signs a node's public key (DER, SubjectPublicKeyInfo, P-256) into its certificate, valid
    /// from `now` (less [`CLOCK_SKEW`]) for `validity`; usually [`CERTIFICATE_VALIDITY`].
    ///
    /// The caller has checked that the node is admitted with this key.
    ///
    /// # Errors
    /// The key is of another kind.
    pub fn issue(
        &self,
        node: NodeId,
        spki: &[u8],
        now: SystemTime,
        validity: Duration,
    ) -> Result<NodeCertificate, IdentityError> {
        self.issue_named(node, spki, &[], now, validity)
    }

    /// As [`Self::issue`], good also for these DNS names and IP addresses: those under which
    /// people reach the node's API. Between nodes only the SPIFFE id counts.
    ///
    /// # Errors
    /// The key is of another kind, or a name is none.
    pub fn issue_named(
        &self,
        node: NodeId,
        spki: &[u8],
        names: &[String],
        now: SystemTime,
        validity: Duration,
    ) -> Result<NodeCertificate, IdentityError> {
        if point_of(spki).is_none() {
            return Err(IdentityError::Key { reason: "the public key is of another kind".into() });
        }
        let subject = SubjectPublicKeyInfo::from_der(spki)
            .map_err(|error| IdentityError::Key { reason: error.to_string() })?;
        let mut params = parameters(&SpiffeId::node(self.cluster, node), now, validity)?;
        params.distinguished_name = distinguished_name(&format!("swarmer node {node}"));
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into().map_err(cannot_make)?),
            });
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer =
            Issuer::from_ca_cert_der(&self.certificate, self.key.pair()).map_err(cannot_make)?;
        let certificate = params.signed_by(&subject, &issuer).map_err(cannot_make)?;
        NodeCertificate::from_der(certificate.der().to_vec())
    }
}

fn parameters(
    id: &SpiffeId,
    now: SystemTime,
    validity: Duration,
) -> Result<CertificateParams, IdentityError> {
    let uri = id.to_string().try_into().map_err(cannot_make)?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri)];
    let skew = CLOCK_SKEW.min(validity / 24);
    params.not_before = now.checked_sub(skew).unwrap_or(SystemTime::UNIX_EPOCH).into();
    params.not_after = (now + validity).into();
    let mut serial: [u8; 16] = rand::rng().random();
    // Positive, and 16 bytes long whatever was drawn (RFC 5280, section 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn distinguished_name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn cannot_make(error: rcgen::Error) -> IdentityError {
    IdentityError::Make { what: "certificate", reason: error.to_string() }
}

/// A certificate over a node's key that nobody has signed but the key itself, for founding. It
/// does not depend on a clock: it proves the key and nothing else.
pub(crate) fn self_signed(key: &NodeKey) -> Result<CertificateDer<'static>, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name("swarmer founder");
    params.is_ca = IsCa::ExplicitNoCa;
    let certificate = params.self_signed(key.pair()).map_err(cannot_make)?;
    Ok(certificate.der().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issued_certificate_names_node_key_and_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let authority = Authority::create(ClusterId(5), now).unwrap();
        let key = NodeKey::generate().unwrap();
        let certificate =
            authority.issue(NodeId(9), &key.spki(), now, CERTIFICATE_VALIDITY).unwrap();
        assert_eq!(certificate.node(), NodeId(9));
        assert_eq!(certificate.cluster(), ClusterId(5));
        assert_eq!(certificate.spki(), key.spki());
        assert_eq!(certificate.not_before(), now - CLOCK_SKEW);
        assert_eq!(certificate.not_after(), now + CERTIFICATE_VALIDITY);
        assert!(!certificate.expired(now));
        assert!(certificate.expired(now + Duration::from_secs(86_401)));
        assert!(certificate.expired(now - Duration::from_secs(3_601)));
        assert!(certificate.half_life() > now + Duration::from_secs(11 * 3600));
        assert!(certificate.half_life() < now + Duration::from_secs(12 * 3600));
    }

    #[test]
    fn an_authority_comes_back_from_its_parts() {
        let now = SystemTime::now();
        let authority = Authority::create(ClusterId(5), now).unwrap();
        let again =
            Authority::from_parts(&authority.key_pem(), authority.certificate_der()).unwrap();
        assert_eq!(again.cluster(), ClusterId(5));
        assert_eq!(again.fingerprint(), authority.fingerprint());
        assert_eq!(authority.bundle().fingerprints().next(), Some(again.fingerprint()));
        assert!(Authority::fits(&authority.key_pem(), authority.certificate_der()));
        let text = authority.fingerprint().to_string();
        assert_eq!(text.parse::<Fingerprint>().unwrap(), authority.fingerprint());

        let other = Authority::create(ClusterId(5), now).unwrap();
        assert!(Authority::from_parts(&other.key_pem(), authority.certificate_der()).is_err());
        assert!(!Authority::fits(&other.key_pem(), authority.certificate_der()));
        let key = NodeKey::generate().unwrap();
        let leaf = authority.issue(NodeId(1), &key.spki(), now, CERTIFICATE_VALIDITY).unwrap();
        assert!(Authority::from_parts(&key.to_pem(), leaf.der()).is_err());
        // Which of several signed it.
        let both = [&other, &authority].map(|one| one.certificate_der().to_vec());
        let both = TrustBundle::new(both).unwrap();
        assert_eq!(both.issuer_of(&leaf), Some(authority.fingerprint()));
        assert_eq!(other.bundle().issuer_of(&leaf), None);
    }

    #[test]
    fn half_of_a_short_life_is_still_to_come() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let authority = Authority::create(ClusterId(5), now).unwrap();
        let key = NodeKey::generate().unwrap();
        for validity in [4, 60, 300].map(Duration::from_secs) {
            let certificate = authority.issue(NodeId(9), &key.spki(), now, validity).unwrap();
            assert!(!certificate.expired(now));
            assert!(certificate.half_life() > now + validity / 4, "{validity:?}");
            assert!(certificate.half_life() <= now + validity / 2, "{validity:?}");
        }
    }

    #[test]
    fn foreign_key_kinds_are_not_signed() {
        let authority = Authority::create(ClusterId(5), SystemTime::now()).unwrap();
        for spki in [&b""[..], &[0x30; 91], b"not a key"] {
            let result = authority.issue(NodeId(1), spki, SystemTime::now(), CERTIFICATE_VALIDITY);
            assert!(result.is_err());
        }
    }
}
