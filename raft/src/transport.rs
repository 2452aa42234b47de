//! What this room needs of the network.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use swarmer_model::NodeId;

/// Sends one message to another node and brings its answer back.
///
/// The other side passes the body to [`crate::Handle::handle_message`] with the *authenticated*
/// id of the sender and the version of the wire that the two speak, and sends back what that
/// returns. Bodies are at most [`MAX_MESSAGE_BYTES`] long, both ways.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// The version of the wire ([`swarmer_model::wire`]) that `target` is known to speak, from memory:
    /// the oldest where nothing is known yet.
    fn version(&self, target: NodeId) -> u8;

    /// The round trip to `target` as the network measures it; none where it is not connected.
    fn round_trip(&self, target: NodeId) -> Option<Duration>;

    /// Calls `target`, with a body that is understood since this version of the wire; if it turns out to
    /// be older: [`TransportError::Unreachable`]. Must return within `deadline`, with
    /// [`TransportError::Timeout`] if need be.
    async fn call(
        &self,
        target: NodeId,
        since: u8,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError>;

    /// Opens an ordered channel to `target` for many messages, each answered in its turn. The
    /// other side passes them to [`crate::Handle::serve_appends`] with the *authenticated* id of
    /// the sender. Must return within `deadline`. Dropping a half breaks the channel off.
    async fn open(&self, target: NodeId, deadline: Duration) -> Result<Channel, TransportError>;
}

/// Both halves of an ordered channel, see [`Transport::open`].
pub struct Channel {
    /// For messages.
    pub sender: Box<dyn ChannelSender>,
    /// For their answers.
    pub receiver: Box<dyn ChannelReceiver>,
}

/// Sends the messages of a [`Channel`], in order.
#[async_trait]
pub trait ChannelSender: Send + Sync {
    /// Takes a message that [`ChannelSender::flush`] sends.
    fn push(&mut self, message: Bytes);

    /// Hands what was pushed to the network. Cancel-safe. After an error the channel is broken.
    async fn flush(&mut self) -> Result<(), TransportError>;
}

/// Receives the answers of a [`Channel`], in the order of the messages.
#[async_trait]
pub trait ChannelReceiver: Send + Sync {
    /// Waits for the next answer, for ever if need be. Cancel-safe. After an error the channel is
    /// broken.
    async fn receive(&mut self) -> Result<Bytes, TransportError>;
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
