//! A node's key pair.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
    },
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::error::IdentityError;

/// Bytes of a P-256 SubjectPublicKeyInfo (RFC 5480): a fixed head and an uncompressed point.
pub const SPKI_LEN: usize = 91;
/// Bytes of a signature by [`NodeKey::sign`].
pub const SIGNATURE_LEN: usize = 64;

/// Everything before the point in a P-256 SubjectPublicKeyInfo: id-ecPublicKey, prime256v1.
const SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Signed before every message, so that no signature made here is one of TLS or X.509.
const DOMAIN: &[u8] = b"swarmer signature 1\0";
/// A key file is far smaller; more than this is not read.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// An ECDSA P-256 key pair: it proves the node in TLS and signs its gossip records.
///
/// Cheap to clone. Never shown in debug output.
#[derive(Clone)]
pub struct NodeKey(Arc<Inner>);

struct Inner {
    pair: KeyPair,
    signer: EcdsaKeyPair,
    spki: Vec<u8>,
    random: SystemRandom,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey").finish_non_exhaustive()
    }
}

impl NodeKey {
    /// A new key from the system's random source.
    pub fn generate() -> Result<Self, IdentityError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| IdentityError::Make { what: "key", reason: error.to_string() })?;
        Self::from_pair(pair)
    }

    /// Reads a key from PKCS#8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        let pair = KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)
            .map_err(|error| IdentityError::Key { reason: error.to_string() })?;
        Self::from_pair(pair)
    }

    fn from_pair(pair: KeyPair) -> Result<Self, IdentityError> {
        let random = SystemRandom::new();
        let signer = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            pair.serialized_der(),
            &random,
        )
        .map_err(|error| IdentityError::Key { reason: error.to_string() })?;
        let spki = rcgen::PublicKeyData::subject_public_key_info(&pair);
        Ok(Self(Arc::new(Inner { pair, signer, spki, random })))
    }

    /// The private key as PKCS#8 PEM. Secret.
    pub fn to_pem(&self) -> String {
        self.0.pair.serialize_pem()
    }

    /// Reads a key file.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::File { action: "read", path: path.to_owned(), source };
        let length = fs::metadata(path).map_err(failed)?.len();
        if length > MAX_KEY_FILE {
            return Err(IdentityError::Key {
                reason: format!("{} has {length} bytes, too many for a key", path.display()),
            });
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        Self::from_pem(&text)
    }

    /// Writes the key file: readable by its owner only, whole or not at all, and on the disk
    /// when this returns.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        write_private(path, self.to_pem().as_bytes()).map_err(|source| IdentityError::File {
            action: "write",
            path: path.to_owned(),
            source,
        })
    }

    /// Reads the key file, or makes a key and writes it where there is none.
    pub fn load_or_generate(path: &Path) -> Result<Self, IdentityError> {
        match Self::load(path) {
            Err(IdentityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate()?;
                key.save(path)?;
                Ok(key)
            }
            other => other,
        }
    }

    /// The public key: DER, SubjectPublicKeyInfo, [`SPKI_LEN`] bytes.
    pub fn spki(&self) -> Vec<u8> {
        self.0.spki.clone()
    }

    /// A signature over `message`, bound to this product's domain; [`SIGNATURE_LEN`] bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let message = [DOMAIN, message].concat();
        // ring fails here only when the system has no random numbers, and then nothing works.
        self.0
            .signer
            .sign(&self.0.random, &message)
            .expect("the system's random source works")
            .as_ref()
            .to_vec()
    }

    /// Whether `signature` over `message` was made by the key with this public half. Anything
    /// malformed is simply not valid.
    pub fn verify(spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let Some(point) = point_of(spki) else {
            return false;
        };
        let message = [DOMAIN, message].concat();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(&message, signature).is_ok()
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0.pair
    }

    pub(crate) fn private_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.pair.serialize_der()).into()
    }
}

/// The point in a P-256 SubjectPublicKeyInfo; `None` for any other key.
pub(crate) fn point_of(spki: &[u8]) -> Option<&[u8]> {
    (spki.len() == SPKI_LEN).then_some(spki)?.strip_prefix(&SPKI_HEAD[..])
}

/// Writes a file that only its owner reads: to a new name, synced, renamed, directory synced.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let fresh = directory.join(name);
    // A leftover of a write that was cut short is of no use; it may have other permissions.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_and_message_only() {
        let (ours, theirs) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let signature = ours.sign(b"record");
        assert_eq!(signature.len(), SIGNATURE_LEN);
        assert_eq!(ours.spki().len(), SPKI_LEN);
        assert!(NodeKey::verify(&ours.spki(), b"record", &signature));
        assert!(!NodeKey::verify(&ours.spki(), b"recorD", &signature));
        assert!(!NodeKey::verify(&theirs.spki(), b"record", &signature));
        let mut forged = signature.clone();
        forged[10] ^= 1;
        assert!(!NodeKey::verify(&ours.spki(), b"record", &forged));
    }

    #[test]
    fn malformed_keys_and_signatures_are_only_invalid() {
        let key = NodeKey::generate().unwrap();
        let signature = key.sign(b"x");
        for spki in [&b""[..], &[0; SPKI_LEN], &key.spki()[..90], &[key.spki(), vec![0]].concat()] {
            assert!(!NodeKey::verify(spki, b"x", &signature));
        }
        for signature in [&b""[..], &[0; 64], &signature[..63]] {
            assert!(!NodeKey::verify(&key.spki(), b"x", signature));
        }
    }

    #[test]
    fn a_key_file_is_private_and_comes_back_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        fs::write(directory.path().join("node.key.new"), b"left over").unwrap();
        let key = NodeKey::load_or_generate(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = NodeKey::load_or_generate(&path).unwrap();
        assert_eq!(key.spki(), again.spki());
        assert!(NodeKey::verify(&key.spki(), b"x", &again.sign(b"x")));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_key_file_is_an_error_and_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        fs::write(&path, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
            .unwrap();
        assert!(matches!(NodeKey::load_or_generate(&path), Err(IdentityError::Key { .. })));
        assert!(path.exists());
    }
}
