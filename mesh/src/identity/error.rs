//! What can go wrong with keys and certificates of our own.

use std::path::PathBuf;

use swarmer_model::{Code, Coded};

use crate::codes;

/// A key or certificate cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("cannot {action} the key file {}", path.display())]
    File {
        /// What was tried: "read", "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The text is no private key of the kind that nodes have.
    #[error("not an ECDSA P-256 private key in PKCS#8 form: {reason}")]
    Key {
        /// What the parser says.
        reason: String,
    },
    /// The bytes are no certificate of the form that nodes or authorities have.
    #[error("not a certificate of a node or authority: {reason}")]
    Certificate {
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate was made over another key.
    #[error("the certificate of node {node} was made over another key than this node's")]
    KeyMismatch {
        /// The node that the certificate names.
        node: swarmer_model::NodeId,
    },
    /// Making a key or a certificate failed.
    #[error("cannot make a {what}: {reason}")]
    Make {
        /// "key", "certificate", ...
        what: &'static str,
        /// What the library says.
        reason: String,
    },
}

impl Coded for IdentityError {
    fn code(&self) -> Code {
        match self {
            Self::Certificate { .. } => codes::BAD_CERTIFICATE,
            _ => codes::KEY_FILE,
        }
    }
}
