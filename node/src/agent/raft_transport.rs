//! Raft's messages on the control connection.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use swarmer_mesh::{
    stream::StreamKind,
    transport::{Handle, RequestError},
};
use swarmer_model::NodeId;
use swarmer_raft::{Transport, TransportError};
use tokio::time::Instant;

pub(crate) struct RaftTransport(pub(crate) Handle);

#[async_trait]
impl Transport for RaftTransport {
    async fn call(
        &self,
        target: NodeId,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError> {
        let until = Instant::now() + deadline;
        match self.0.request(target, StreamKind::Raft, body, until).await {
            Ok(answer) => Ok(answer),
            Err(error) if error.not_started() => {
                Err(TransportError::Unreachable(crate::problem::chain(&error)))
            }
            Err(RequestError::Deadline { .. }) => Err(TransportError::Timeout),
            Err(error) => Err(TransportError::Failed(crate::problem::chain(&error))),
        }
    }
}
