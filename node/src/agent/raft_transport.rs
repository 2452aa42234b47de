//! Raft's messages on the control connection.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use swarmer_mesh::{
    stream::{FrameError, FrameReader, FrameWriter, StreamKind},
    transport::{Handle, OpenError, RequestError},
};
use swarmer_model::{NodeId, wire};
use swarmer_raft::{
    Channel, ChannelReceiver, ChannelSender, MAX_MESSAGE_BYTES, Transport, TransportError,
};
use tokio::time::Instant;

/// AppendEntries go before everything else that waits on the control connection (0): a feed or a
/// push/pull may be megabytes, and a follower that hears nothing stands for election.
pub(crate) const RAFT_PRIORITY: i32 = 1;

pub(crate) struct RaftTransport(pub(crate) Handle);

#[async_trait]
impl Transport for RaftTransport {
    fn version(&self, target: NodeId) -> u8 {
        self.0.version(target, StreamKind::Raft.class()).unwrap_or(wire::OLDEST)
    }

    fn round_trip(&self, target: NodeId) -> Option<Duration> {
        self.0.rtt(target)
    }

    async fn call(
        &self,
        target: NodeId,
        since: u8,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError> {
        let until = Instant::now() + deadline;
        match self.0.request_since(since, target, StreamKind::Raft, body, until).await {
            Ok(answer) => Ok(answer),
            Err(error) if error.not_started() => {
                Err(TransportError::Unreachable(crate::problem::chain(&error)))
            }
            Err(RequestError::Deadline { .. }) => Err(TransportError::Timeout),
            Err(error) => Err(TransportError::Failed(crate::problem::chain(&error))),
        }
    }

    async fn open(&self, target: NodeId, deadline: Duration) -> Result<Channel, TransportError> {
        let until = Instant::now() + deadline;
        let kind = StreamKind::RaftAppend;
        let opened = self.0.open_with_prefix(target, kind.class(), kind, until).await;
        let (send, recv, prefix) = opened.map_err(|error| match error {
            OpenError::Deadline { .. } => TransportError::Timeout,
            error => TransportError::Unreachable(crate::problem::chain(&error)),
        })?;
        // It fails on a closed stream only, which the first message finds out.
        let _ = send.set_priority(RAFT_PRIORITY);
        let mut writer = FrameWriter::with_prefix(send, prefix);
        // At once: the first message may be a while, and the other side, which learns of the channel by
        // whatever is opened next, would wait for the header in vain and break it off.
        let written = tokio::time::timeout_at(until, writer.flush()).await;
        written.unwrap_or(Ok(())).map_err(|error| broken(&error))?;
        Ok(Channel {
            sender: Box::new(Sender(writer)),
            receiver: Box::new(Receiver(FrameReader::new(recv, MAX_MESSAGE_BYTES))),
        })
    }
}

struct Sender(FrameWriter);

#[async_trait]
impl ChannelSender for Sender {
    fn push(&mut self, message: Bytes) {
        self.0.push(message);
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        self.0.flush().await.map_err(|error| broken(&error))
    }
}

struct Receiver(FrameReader);

#[async_trait]
impl ChannelReceiver for Receiver {
    async fn receive(&mut self) -> Result<Bytes, TransportError> {
        match self.0.next().await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(broken(&FrameError::Ended)),
            Err(error) => Err(broken(&error)),
        }
    }
}

fn broken(error: &FrameError) -> TransportError {
    let why = crate::problem::chain(error);
    if error.not_started() {
        return TransportError::Unreachable(why);
    }
    TransportError::Failed(why)
}
