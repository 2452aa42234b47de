//! The answering side of the ordered channels on which AppendEntries come.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::raft::{AppendEntriesRequest, StreamAppendError};
use parking_lot::Mutex;
use swarmer_model::NodeId;

use super::{
    engine::{Engine, fatal_error, of_sender},
    types::Types,
    wire::{Append, Appended, decode_framed, framed},
};
use crate::error::RaftError;

impl Engine {
    /// Hands the messages to the engine as they come, many at once, and gives its answers in
    /// their order. The engine takes at most 64 before it has answered the first.
    pub(crate) fn serve_appends(
        &self,
        from: NodeId,
        messages: impl Stream<Item = Bytes> + Send + 'static,
    ) -> impl Stream<Item = Result<Bytes, RaftError>> + Send + 'static {
        let refused = Arc::new(Mutex::new(None));
        let (node, refuse) = (self.node(), refused.clone());
        let requests = messages.scan((), move |(), body| {
            let request = read(node, from, &body);
            futures::future::ready(request.map_err(|error| *refuse.lock() = Some(error)).ok())
        });
        let heard = self.heard.clone();
        let answers = self.core.stream_append(requests).map(move |answer| {
            let answer = answer.map_err(|fatal| fatal_error(&fatal))?;
            if !matches!(answer, Err(StreamAppendError::HigherVote(_))) {
                heard.lock().now(from);
            }
            framed(&Appended(answer)).map_err(|error| RaftError::BadMessage(error.to_string()))
        });
        let last = futures::stream::poll_fn(move |_| {
            std::task::Poll::Ready(refused.lock().take().map(Err))
        });
        answers.chain(last)
    }
}

fn read(node: NodeId, from: NodeId, body: &[u8]) -> Result<AppendEntriesRequest<Types>, RaftError> {
    let Append { to, rpc } = decode_framed(body)?;
    if to != node.0 {
        return Err(RaftError::WrongNode { intended: NodeId(to), actual: node });
    }
    of_sender(from, &rpc.vote)?;
    Ok(rpc)
}
