//! What this room needs of the network.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use swarmer_model::NodeId;

/// Sends one message to another node and brings its answer back.
///
/// The other side passes the body to [`crate::Handle::handle_message`] with the *authenticated*
/// id of the sender and sends back what that returns. Bodies are at most
/// [`MAX_MESSAGE_BYTES`] long, both ways.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Calls `target`. Must return within `deadline`, with [`TransportError::Timeout`] if need be.
    async fn call(
        &self,
        target: NodeId,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError>;
}

/// The longest body of a message or of its answer: a batch of log entries (4 MiB at most, or one
/// entry) or a snapshot chunk (1 MiB) and their headers.
pub const MAX_MESSAGE_BYTES: usize = 5 << 20;

/// Why a call brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// It certainly did not reach the other side.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No answer in time; it may have been received.
    #[error("no answer in time")]
    Timeout,
    /// The other side answered with an error, or the connection broke: it may have been received.
    #[error("call failed: {0}")]
    Failed(String),
}
