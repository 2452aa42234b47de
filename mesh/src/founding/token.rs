//! Tokens: the texts that let nodes found or join a cluster.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use swarmer_model::{ClusterId, Code, Coded};

use super::codes;

/// Keeps the witness of a secret apart from any other use of it.
const WITNESS: &[u8] = b"swarmer-found/1 witness";

/// A text is not the token that it should be. The text itself is not repeated: it may hold a
/// secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no {what}: {why}")]
pub struct TokenError {
    what: &'static str,
    why: &'static str,
}

impl Coded for TokenError {
    fn code(&self) -> Code {
        codes::TOKEN_MALFORMED
    }
}

/// 32 random bytes that must not be shown. Compared in constant time.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new one from the system's random source.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        rand::rng().fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// From bytes that came over an encrypted channel or from a file.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be sent over an encrypted channel.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// SHA-256 of the secret: what is stored to recognise it later. The secret is 32 random bytes,
    /// so that a plain hash cannot be reversed by guessing.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// What a cluster keeps of its founding secret: by it, members know the founding token again
    /// and show founders that hold the token that the cluster stands. It founds nothing, and the
    /// secret does not follow from it.
    #[must_use]
    pub fn witness(&self) -> Self {
        Self(self.mac(&[WITNESS]))
    }

    /// HMAC-SHA256 of the parts, each with its length before it.
    pub(super) fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.hmac(parts).finalize().into_bytes().into()
    }

    /// Checks a [`mac`](Self::mac) in constant time.
    pub(super) fn verify(&self, parts: &[&[u8]], mac: &[u8; 32]) -> bool {
        self.hmac(parts).verify_slice(mac).is_ok()
    }

    fn hmac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut hmac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        for part in parts {
            hmac.update(&(part.len() as u64).to_be_bytes());
            hmac.update(part);
        }
        hmac
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What the founders of a cluster share: `swf1.<cluster id>.<secret>`. Worthless once the cluster
/// stands. `Debug` leaves the secret out; [`text`](Self::text) does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundingToken {
    /// The cluster to be founded.
    pub cluster: ClusterId,
    /// The secret that founders prove to each other.
    pub secret: Secret,
}

impl FoundingToken {
    /// A new cluster id and a new secret.
    pub fn generate() -> Self {
        Self { cluster: ClusterId::random(), secret: Secret::random() }
    }

    /// The token as it stands in a file.
    pub fn text(&self) -> String {
        format!("swf1.{}.{}", self.cluster, URL_SAFE_NO_PAD.encode(self.secret.0))
    }
}

impl FromStr for FoundingToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let fail = |why| TokenError { what: "founding token", why };
        let mut parts = text.trim().split('.');
        match parts.next() {
            Some("swf1") => {}
            Some("swj1") => {
                return Err(fail("it is a join token; start without --bootstrap-expect"));
            }
            _ => return Err(fail("it does not start with \"swf1.\"")),
        }
        let cluster = parse_cluster(parts.next()).map_err(fail)?;
        let secret = parse_secret(parts.next()).map_err(fail)?;
        match parts.next() {
            None => Ok(Self { cluster, secret }),
            Some(_) => Err(fail("it has too many parts")),
        }
    }
}

/// What lets a node join a cluster: `swj1.<cluster id>.<CA fingerprint>.<secret>`. It pins the
/// cluster's CA. `Debug` leaves the secret out; [`text`](Self::text) does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The cluster.
    pub cluster: ClusterId,
    /// SHA-256 of the CA's public key info (or certificate, as the issuer chose to pin).
    pub ca_fingerprint: [u8; 32],
    /// The secret; the cluster stores its [`hash`](Secret::hash).
    pub secret: Secret,
}

impl JoinToken {
    /// A token with a new secret.
    pub fn generate(cluster: ClusterId, ca_fingerprint: [u8; 32]) -> Self {
        Self { cluster, ca_fingerprint, secret: Secret::random() }
    }

    /// The token as it is handed to an operator.
    pub fn text(&self) -> String {
        format!(
            "swj1.{}.{}.{}",
            self.cluster,
            hex::encode(self.ca_fingerprint),
            URL_SAFE_NO_PAD.encode(self.secret.0)
        )
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let fail = |why| TokenError { what: "join token", why };
        let mut parts = text.trim().split('.');
        match parts.next() {
            Some("swj1") => {}
            Some("swf1") => {
                return Err(fail("it is a founding token; make one with `swarmer token create`"));
            }
            _ => return Err(fail("it does not start with \"swj1.\"")),
        }
        let cluster = parse_cluster(parts.next()).map_err(fail)?;
        let mut ca_fingerprint = [0; 32];
        parts
            .next()
            .and_then(|part| hex::decode_to_slice(part, &mut ca_fingerprint).ok())
            .ok_or_else(|| fail("its CA fingerprint is not 64 hexadecimal digits"))?;
        let secret = parse_secret(parts.next()).map_err(fail)?;
        match parts.next() {
            None => Ok(Self { cluster, ca_fingerprint, secret }),
            Some(_) => Err(fail("it has too many parts")),
        }
    }
}

/// The first bytes of SHA-256: detects damage, proves nothing.
pub(super) fn checksum(bytes: &[u8]) -> [u8; 8] {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    let (sum, _) = hash.split_first_chunk().expect("32 is more than 8");
    *sum
}

fn parse_cluster(part: Option<&str>) -> Result<ClusterId, &'static str> {
    part.and_then(|part| part.parse().ok())
        .ok_or("its cluster id is not 32 lower-case hexadecimal digits")
}

fn parse_secret(part: Option<&str>) -> Result<Secret, &'static str> {
    part.and_then(|part| URL_SAFE_NO_PAD.decode(part).ok())
        .and_then(|bytes| bytes.try_into().ok())
        .map(Secret)
        .ok_or("its secret is not 32 bytes of base64url; it may be cut off")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_their_text() {
        let founding = FoundingToken::generate();
        assert_eq!(format!("{}\n", founding.text()).parse(), Ok(founding.clone()));
        let join = JoinToken::generate(founding.cluster, [7; 32]);
        assert_eq!(join.text().parse(), Ok(join.clone()));
        assert_ne!(founding.secret, join.secret);
        assert_ne!(founding.secret.hash(), join.secret.hash());
    }

    #[test]
    fn what_is_no_token_is_refused_without_repeating_it() {
        let founding = FoundingToken::generate();
        let text = founding.text();
        for bad in ["", "swf1", "swf1..", &text[..text.len() - 1], &format!("{text}.x")] {
            let error = bad.parse::<FoundingToken>().unwrap_err();
            assert!(!error.to_string().contains(text.split('.').next_back().unwrap()));
        }
        let join = JoinToken::generate(founding.cluster, [7; 32]).text();
        assert!(join.parse::<FoundingToken>().unwrap_err().to_string().contains("join token"));
        assert!(text.parse::<JoinToken>().unwrap_err().to_string().contains("founding token"));
    }

    #[test]
    fn debug_shows_no_secret() {
        let token = FoundingToken { cluster: ClusterId(1), secret: Secret([0xab; 32]) };
        let shown = format!("{token:?}");
        assert!(!shown.contains("171") && !shown.contains("ab, ab") && !shown.contains("q6ur"));
    }
}
