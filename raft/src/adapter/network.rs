//! The engine's network on our transport.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::{
    OptionalSend,
    base::{BoxFuture, BoxStream},
    error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, RPCTypes, RaftNetworkFactory, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
        StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
        VoteResponse,
    },
    type_config::alias::SnapshotOf,
};
use swarmer_model::NodeId;

use super::wire::decode_reply;
use super::{
    append::Appender,
    clock::real,
    types::{Types, Vote},
    wire::{Reply, Request, SNAPSHOT_CHUNK_BYTES, SnapshotChunk, SnapshotReply, request},
};
use crate::{
    disk::{Disk, blocking},
    latency::Latencies,
    snapshot::SnapshotFile,
    transport::{Transport, TransportError},
};

/// How long one snapshot chunk may take; the last one includes checking and installing it.
const CHUNK_DEADLINE: Duration = Duration::from_secs(20);

/// Makes a [`Peer`] for every other node.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) node: u64,
    pub(crate) transport: Arc<dyn Transport>,
    /// Where the snapshots are that are sent.
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) latencies: Arc<Latencies>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _: &openraft::EmptyNode) -> Peer {
        let transport = self.transport.clone();
        let latency = self.latencies.of(NodeId(target));
        let appender = Appender::new(self.node, target, transport.clone(), latency);
        Peer { node: self.node, target, transport, disk: self.disk.clone(), appender }
    }
}

/// Another node, for one use: the engine has one for heartbeats, one for entries and more for the
/// rest, so that a heartbeat never waits for entries that the other side still writes to its disk.
pub(crate) struct Peer {
    node: u64,
    target: u64,
    transport: Arc<dyn Transport>,
    disk: Arc<dyn Disk>,
    appender: Appender,
}

impl Peer {
    async fn call(
        &self,
        action: RPCTypes,
        body: Request,
        deadline: Duration,
    ) -> Result<Reply, RPCError<Types>> {
        let broken = |error: &dyn std::fmt::Display| NetworkError::from_string(error);
        let (since, body) = request(self.target, body).map_err(|error| broken(&error))?;
        let call = self.transport.call(NodeId(self.target), since, body, deadline);
        // The transport keeps the deadline too; this is for one that does not.
        let timeout = Timeout { action, id: self.node, target: self.target, timeout: deadline };
        let answer = match tokio::time::timeout(deadline, call).await {
            Err(_) => return Err(timeout.into()),
            Ok(Err(error)) => return Err(rpc_error(error, timeout)),
            Ok(Ok(answer)) => answer,
        };
        decode_reply(&answer).map_err(|error| broken(&error).into())
    }
}

/// The answers to a stream of AppendEntries.
pub(super) type Answers<'s> = BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>;

/// An answer that no request could have.
pub(super) fn odd() -> RPCError<Types> {
    NetworkError::from_string("the answer does not fit the request").into()
}

/// What became of a message, in the engine's words.
pub(super) fn rpc_error(error: TransportError, timeout: Timeout<Types>) -> RPCError<Types> {
    match error {
        TransportError::Timeout => timeout.into(),
        TransportError::Unreachable(why) => Unreachable::from_string(why).into(),
        TransportError::Failed(why) => NetworkError::from_string(why).into(),
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let one = futures::stream::iter([rpc]);
        let mut answers = self.appender.run(one, real(option.hard_ttl())).await?;
        let answer = answers.next().await.unwrap_or_else(|| Err(odd()))?;
        Ok(match answer {
            Ok(matching) => AppendEntriesResponse::PartialSuccess(matching),
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<Answers<'s>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move { self.appender.run(input, real(option.hard_ttl())).await })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(RPCTypes::Vote, Request::Vote(rpc), real(option.hard_ttl())).await? {
            Reply::Vote(response) => Ok(response),
            _ => Err(odd()),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(RPCTypes::Vote, Request::PreVote(rpc), real(option.hard_ttl())).await? {
            Reply::Vote(response) => Ok(response),
            _ => Err(odd()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let send = async {
            let file = snapshot.snapshot;
            // The same for the same file: what an earlier sending of it brought over stays there.
            let transfer = file.id(self.node);
            let ask =
                SnapshotChunk { vote, transfer, offset: 0, bytes: Bytes::new(), finish: None };
            let asked = self
                .call(RPCTypes::InstallSnapshot, Request::Snapshot(ask), CHUNK_DEADLINE)
                .await?;
            let mut offset = match asked {
                Reply::Snapshot(SnapshotReply::Done(response)) => return Ok(response),
                Reply::Snapshot(SnapshotReply::Continue { received })
                    if received <= file.bytes() =>
                {
                    received
                }
                _ => return Err(odd().into()),
            };
            loop {
                let source = file.clone();
                let read = move || source.read_chunk(offset, SNAPSHOT_CHUNK_BYTES);
                let bytes = blocking(&self.disk, read)
                    .await
                    .map_err(|error| NetworkError::from_string(error.to_string()))?;
                let next = offset + bytes.len() as u64;
                let last = next == file.bytes();
                let finish = last.then(|| snapshot.meta.clone());
                let chunk = SnapshotChunk { vote, transfer, offset, bytes, finish };
                let reply = self
                    .call(RPCTypes::InstallSnapshot, Request::Snapshot(chunk), CHUNK_DEADLINE)
                    .await?;
                match reply {
                    Reply::Snapshot(SnapshotReply::Done(response)) => return Ok(response),
                    Reply::Snapshot(SnapshotReply::Continue { received })
                        if received == next && !last =>
                    {
                        offset = next;
                    }
                    Reply::Snapshot(SnapshotReply::Restart(why)) => {
                        return Err(NetworkError::from_string(why).into());
                    }
                    _ => return Err(odd().into()),
                }
            }
        };
        tokio::select! {
            result = send => result,
            closed = cancel => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = Request::Transfer(req);
        match self.call(RPCTypes::TransferLeader, request, real(option.hard_ttl())).await? {
            Reply::Transfer(Ok(())) => Ok(Ok(())),
            Reply::Transfer(Err(why)) => Err(NetworkError::from_string(why).into()),
            _ => Err(odd()),
        }
    }
}
