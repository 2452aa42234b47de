//! The error of this crate.

use swarmer_model::{Code, Coded, NodeId};

use crate::{codes, stats::Refusal};

/// Why a request to membership failed, or why something from outside was refused.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// The configuration cannot work.
    #[error("membership configuration: {0}")]
    Config(String),
    /// The task has ended.
    #[error("membership on this node has stopped")]
    Stopped,
    /// The task did not take or answer the request in time.
    #[error("membership on this node did not answer in time")]
    Busy,
    /// A message is not what it should be.
    #[error("membership message from {from}: {what}")]
    Malformed {
        /// Who sent it.
        from: NodeId,
        /// What is wrong with it.
        what: String,
    },
    /// The sender is no member.
    #[error("node {0} is not admitted to this cluster")]
    NotAdmitted(NodeId),
    /// A datagram or record was refused.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// A record is over its bounds.
    #[error("catalog record: {field} {problem}")]
    Record {
        /// The field.
        field: &'static str,
        /// The rule it breaks, with the value.
        problem: String,
    },
    /// The keyring would become unusable.
    #[error("gossip keyring: {0}")]
    Keyring(String),
    /// The file of known members.
    #[error("file of known members {path}")]
    File {
        /// Which file.
        path: String,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
}

impl Coded for GossipError {
    fn code(&self) -> Code {
        match self {
            Self::Config(_) => codes::CONFIG,
            Self::Stopped => codes::STOPPED,
            Self::Busy => codes::BUSY,
            Self::Malformed { .. } => codes::MALFORMED,
            Self::NotAdmitted(_) => codes::NOT_ADMITTED,
            Self::Refused(_) => codes::REFUSED,
            Self::Record { .. } => codes::RECORD,
            Self::Keyring(_) => codes::KEYRING,
            Self::File { .. } => codes::FILE,
        }
    }
}
