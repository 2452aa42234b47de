//! What a founder must not forget.

use serde::{Deserialize, Serialize};
use swarmer_model::{ClusterId, Code, Coded, NodeId};

use super::{Founder, codes};

/// The record cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It is cut off or not a record of this version.
    #[error("the founding record is damaged or of a newer version")]
    Damaged,
    /// It was made for something else.
    #[error("the founding record is of {what}, not of this one")]
    Foreign {
        /// What does not fit.
        what: &'static str,
    },
}

impl Coded for RecordError {
    fn code(&self) -> Code {
        codes::RECORD
    }
}

/// A founder's memory. The driver writes it so that it survives a power cut (temporary file,
/// fsync, rename, fsync of the directory) before it reports [`Persisted`](super::Input::Persisted).
/// It may hold grants, so its file is for the node's own user only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundingRecord {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    /// The one consent of this founder's life.
    pub(super) consent: Option<Founder>,
    /// Who consented to this founder, itself included.
    pub(super) received: Vec<Founder>,
    /// The N founders of the cluster that this founder makes.
    pub(super) decided: Option<Vec<Founder>>,
    /// What each of them gets; there once the cluster is made.
    pub(super) grants: Option<Vec<(NodeId, Vec<u8>)>>,
    /// This founder has stored its part of the cluster.
    pub(super) granted: bool,
}

impl std::fmt::Debug for FoundingRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FoundingRecord")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .field("consent", &self.consent.as_ref().map(|founder| founder.node))
            .field("received", &self.received.len())
            .field("decided", &self.decided.is_some())
            .field("founded", &self.grants.is_some())
            .field("granted", &self.granted)
            .finish()
    }
}

/// The version of the record, its first byte.
const VERSION: u8 = 2;

impl FoundingRecord {
    pub(super) fn new(cluster: ClusterId, node: NodeId) -> Self {
        Self {
            cluster,
            node,
            consent: None,
            received: Vec::new(),
            decided: None,
            grants: None,
            granted: false,
        }
    }

    /// The cluster that it is about.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The node whose record it is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Whether this founder has made the cluster (it then still answers the others).
    pub fn is_founded(&self) -> bool {
        self.grants.is_some()
    }

    /// Whether this founder has its part of the cluster.
    pub fn is_granted(&self) -> bool {
        self.granted
    }

    /// As bytes: version, checksum (the first 8 bytes of SHA-256), postcard.
    pub fn encode(&self) -> Vec<u8> {
        let body = postcard::to_extend(self, Vec::new()).expect("a record serializes");
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&super::token::checksum(&body));
        bytes.extend_from_slice(&body);
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`RecordError::Damaged`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (&version, rest) = bytes.split_first().ok_or(RecordError::Damaged)?;
        let (sum, body) = rest.split_first_chunk::<8>().ok_or(RecordError::Damaged)?;
        if version != VERSION || super::token::checksum(body) != *sum {
            return Err(RecordError::Damaged);
        }
        postcard::from_bytes(body).map_err(|_| RecordError::Damaged)
    }
}
