//! The engine's network on our transport.

use std::{future::Future, sync::Arc, time::Duration};

use openraft::{
    error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, RPCTypes, RaftNetworkFactory, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
    type_config::alias::SnapshotOf,
};
use swarmer_model::NodeId;

use super::wire::decode_reply;
use super::{
    machine::blocking,
    types::{Types, Vote},
    wire::{Reply, Request, SNAPSHOT_CHUNK_BYTES, SnapshotChunk, SnapshotReply, request},
};
use crate::{
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
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _: &openraft::EmptyNode) -> Peer {
        Peer { node: self.node, target, transport: self.transport.clone() }
    }
}

/// Another node.
pub(crate) struct Peer {
    node: u64,
    target: u64,
    transport: Arc<dyn Transport>,
}

impl Peer {
    async fn call(
        &self,
        action: RPCTypes,
        body: Request,
        deadline: Duration,
    ) -> Result<Reply, RPCError<Types>> {
        let broken = |error: &dyn std::fmt::Display| NetworkError::from_string(error);
        let body = request(self.target, body).map_err(|error| broken(&error))?;
        let call = self.transport.call(NodeId(self.target), body, deadline);
        // The transport keeps the deadline too; this is for one that does not.
        let timeout = Timeout { action, id: self.node, target: self.target, timeout: deadline };
        let answer = match tokio::time::timeout(deadline, call).await {
            Err(_) | Ok(Err(TransportError::Timeout)) => return Err(timeout.into()),
            Ok(Err(TransportError::Unreachable(why))) => {
                return Err(Unreachable::from_string(why).into());
            }
            Ok(Err(TransportError::Failed(why))) => {
                return Err(NetworkError::from_string(why).into());
            }
            Ok(Ok(answer)) => answer,
        };
        decode_reply(&answer).map_err(|error| broken(&error).into())
    }

    fn odd(&self) -> RPCError<Types> {
        NetworkError::from_string("the answer does not fit the request").into()
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let starts_log = rpc.prev_log_id.is_none();
        let request = Request::Append(rpc);
        match self.call(RPCTypes::AppendEntries, request, option.hard_ttl()).await? {
            // Nothing can conflict with the beginning of the log.
            Reply::Append(AppendEntriesResponse::Conflict) if starts_log => Err(self.odd()),
            Reply::Append(response) => Ok(response),
            _ => Err(self.odd()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(RPCTypes::Vote, Request::Vote(rpc), option.hard_ttl()).await? {
            Reply::Vote(response) => Ok(response),
            _ => Err(self.odd()),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(RPCTypes::Vote, Request::PreVote(rpc), option.hard_ttl()).await? {
            Reply::Vote(response) => Ok(response),
            _ => Err(self.odd()),
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
            let transfer = rand::random();
            let file = snapshot.snapshot;
            let mut offset = 0;
            loop {
                let source = file.clone();
                let bytes = blocking(move || source.read_chunk(offset, SNAPSHOT_CHUNK_BYTES))
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
                    _ => return Err(self.odd().into()),
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
        match self.call(RPCTypes::TransferLeader, request, option.hard_ttl()).await? {
            Reply::Transfer(Ok(())) => Ok(Ok(())),
            Reply::Transfer(Err(why)) => Err(NetworkError::from_string(why).into()),
            _ => Err(self.odd()),
        }
    }
}
