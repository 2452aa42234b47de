//! Serves the streams that members and strangers open to this node.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use parking_lot::RwLock;
use quinn::{RecvStream, SendStream};
use swarmer_mesh::{
    founding::{self, Host, Presence},
    stream::{FrameReader, FrameWriter, ResetCode, read_frame, write_frame},
    transport::{Entry, JoinHandler, Peer, StreamHandler, StreamKind},
};
use swarmer_model::{Key, NodeId};
use swarmer_raft::{ChainHash, MAX_MESSAGE_BYTES};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{
        Context,
        admission::PeerBook,
        bootstrap::founding_witness,
        control::Part,
        encounters,
        founding::AcceptedLink,
        join::{JoinRequest, MAX_JOIN_BYTES, admit, log_refusal},
        raft_transport::RAFT_PRIORITY,
        renew,
        voting::Keeper,
    },
    problem::Outcome,
};

/// The largest push/pull message.
const MAX_PUSH_PULL: usize = swarmer_gossip::MAX_PUSH_PULL_BYTES;
/// How long a small request may take to come in and be answered.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// How long a founding link may stand.
const FOUND_DEADLINE: Duration = Duration::from_secs(25);

/// Parts come to be one after another while a node starts; what is not there yet is answered
/// with "not started".
#[derive(Default)]
pub(crate) struct Slots {
    /// The log, while this node has it: on voters and learners.
    pub(crate) raft: RwLock<Option<swarmer_raft::Handle>>,
    /// What changes this node's part in the desired state.
    pub(crate) keeper: OnceLock<Keeper>,
    /// What signs the feed, once this node is a member.
    pub(crate) feed_signer: OnceLock<swarmer_raft::FeedSigner>,
    pub(crate) gossip: OnceLock<swarmer_gossip::Handle>,
    pub(crate) context: OnceLock<Arc<Context>>,
    pub(crate) founders: OnceLock<mpsc::Sender<AcceptedLink>>,
    /// Ends the service to founders that were away: their parts are of an authority that is gone, or
    /// no longer this node's to give.
    pub(crate) founding_over: CancellationToken,
}

/// Streams of members.
pub(crate) struct Streams {
    pub(crate) slots: Arc<Slots>,
    pub(crate) book: PeerBook,
}

#[async_trait]
impl StreamHandler for Streams {
    async fn handle(&self, peer: Peer, kind: StreamKind, send: SendStream, recv: RecvStream) {
        match kind {
            StreamKind::Call => match self.slots.context.get() {
                Some(context) => context.dispatcher.serve(&peer, send, recv).await,
                None => not_started(send),
            },
            StreamKind::Artifact => match self.slots.context.get() {
                Some(context) => context.replicator.serve(peer.node, send, recv).await,
                None => not_started(send),
            },
            StreamKind::Image => match self.slots.context.get() {
                Some(context) => context.images.serve(peer.node, send, recv).await,
                None => not_started(send),
            },
            StreamKind::Feed => self.feed(&peer, send, recv).await,
            StreamKind::RaftAppend => self.appends(&peer, send, recv).await,
            kind => {
                let answered = self.request(&peer, kind, send, recv);
                let _ = tokio::time::timeout(REQUEST_DEADLINE, answered).await;
            }
        }
    }
}

fn not_started(mut send: SendStream) {
    let _ = send.reset(ResetCode::NOT_STARTED.var());
}

impl Streams {
    /// One frame in, one frame out.
    async fn request(
        &self,
        peer: &Peer,
        kind: StreamKind,
        mut send: SendStream,
        mut recv: RecvStream,
    ) {
        let max = match kind {
            StreamKind::Raft => MAX_MESSAGE_BYTES,
            StreamKind::PushPull => MAX_PUSH_PULL,
            _ => MAX_JOIN_BYTES,
        };
        let Ok(body) = read_frame(&mut recv, max).await else {
            let _ = send.reset(ResetCode::MALFORMED.var());
            return;
        };
        match self.answer(peer, kind, body).await {
            Ok(answer) => {
                if write_frame(&mut send, answer).await.is_ok() {
                    let _ = send.finish();
                }
            }
            Err(code) => {
                let _ = send.reset(code.var());
            }
        }
    }

    async fn answer(&self, peer: &Peer, kind: StreamKind, body: Bytes) -> Result<Bytes, ResetCode> {
        let context = || self.slots.context.get().ok_or(ResetCode::NOT_STARTED);
        let failed = |why: &dyn std::fmt::Display| {
            tracing::debug!(target: "swarmer::streams", peer = %peer.node, kind = kind.as_str(),
                error = %why, "a request failed");
            ResetCode::INTERNAL
        };
        match kind {
            StreamKind::Ping => Ok(body),
            StreamKind::Raft => {
                let raft = self.slots.raft.read().clone().ok_or(ResetCode::NOT_STARTED)?;
                let answer = raft.handle_message(peer.node, peer.version, body).await;
                answer.map_err(|error| failed(&error))
            }
            StreamKind::PushPull => {
                let gossip = self.slots.gossip.get().ok_or(ResetCode::NOT_STARTED)?;
                gossip.serve_push_pull(peer.node, body).await.map_err(|error| failed(&error))
            }
            StreamKind::Renew => {
                let answer: Outcome<Vec<u8>> = renew::answer(context()?, &self.book, peer.node);
                answer.map(Bytes::from).map_err(|problem| failed(&problem.detail))
            }
            StreamKind::Admin => {
                let request: JoinRequest =
                    serde_json::from_slice(&body).map_err(|_| ResetCode::MALFORMED)?;
                let context = context()?;
                let reply = admit(context, &request, false).await;
                log_refusal(context, peer.addr, &request, &reply);
                serde_json::to_vec(&reply).map(Bytes::from).map_err(|error| failed(&error))
            }
            StreamKind::Voting => {
                let keeper = self.slots.keeper.get().ok_or(ResetCode::NOT_STARTED)?;
                let answer = keeper.answer(peer.node, &body).await;
                answer.map_err(|problem| failed(&problem.detail))
            }
            StreamKind::Fault => {
                context()?.answer_fault(&body).map(Bytes::from).ok_or(ResetCode::MALFORMED)
            }
            StreamKind::Observe => context()?
                .observe(peer.node, &body)
                .await
                .map(Bytes::from)
                .ok_or(ResetCode::MALFORMED),
            _ => Err(ResetCode::UNKNOWN_KIND),
        }
    }

    /// AppendEntries of a leader, for as long as it has some. The connection's own time-outs end
    /// it when the leader is gone.
    async fn appends(&self, peer: &Peer, send: SendStream, recv: RecvStream) {
        let Some(raft) = self.slots.raft.read().clone() else { return not_started(send) };
        // What is sent to a leader is what its next term depends on.
        let _ = send.set_priority(RAFT_PRIORITY);
        let mut writer = FrameWriter::new(send);
        let reader = FrameReader::new(recv, MAX_MESSAGE_BYTES);
        let messages = futures::stream::unfold(reader, |mut reader| async move {
            // However the leader's side ended: no more messages come.
            let message = reader.next().await.ok().flatten()?;
            Some((message, reader))
        });
        let answers = raft.serve_appends(peer.node, messages);
        tokio::pin!(answers);
        while let Some(answer) = answers.next().await {
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::debug!(target: "swarmer::streams", peer = %peer.node, %error,
                        "a leader's messages were refused");
                    return writer.reset(ResetCode::INTERNAL);
                }
            };
            writer.push(answer);
            match tokio::time::timeout(REQUEST_DEADLINE, writer.flush()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return writer.reset(ResetCode::CANCELLED),
            }
        }
        writer.finish();
    }

    /// The watch of the desired state, to a node that follows. One that asks a node which lost its
    /// vote may know of no other voter: it is told what there is to know, and who votes.
    async fn feed(&self, peer: &Peer, mut send: SendStream, mut recv: RecvStream) {
        let raft = self.slots.raft.read().clone();
        let part = match (raft, self.slots.context.get()) {
            (Some(raft), _) => Part::Voter(raft),
            (None, Some(context)) => context.control.part(),
            (None, None) => return not_started(send),
        };
        let Some(signer) = self.slots.feed_signer.get().cloned() else { return not_started(send) };
        let from: Option<Option<(u64, ChainHash)>> = match read_frame(&mut recv, 256).await {
            Ok(frame) => postcard::from_bytes(&frame).ok(),
            Err(_) => None,
        };
        let Some(from) = from else {
            let _ = send.reset(ResetCode::MALFORMED.var());
            return;
        };
        let (view, key) = (part.view(), Key::node(peer.node));
        let feed = match part {
            Part::Voter(raft) => raft.feed(from, signer, peer.version),
            Part::Follower { follower, .. } => follower.feed(from, signer, peer.version),
        };
        let frames = futures::stream::unfold(feed, |mut feed| async move {
            let frame = feed.next().await?;
            Some((frame, feed))
        });
        let frames = for_member(frames, move || view.get(key.as_str()).is_some());
        tokio::pin!(frames);
        while let Some(frame) = frames.next().await {
            if write_frame(&mut send, frame).await.is_err() {
                return;
            }
        }
        let _ = send.finish();
    }
}

/// Ends when whoever gets the frames is no member any more, asked when a frame is there: the state of
/// that moment has all that the frame has. So a removed node gets nothing that was committed after
/// its removal, keys above all.
fn for_member(
    frames: impl Stream<Item = Bytes>,
    is_member: impl Fn() -> bool,
) -> impl Stream<Item = Bytes> {
    frames.take_while(move |_| std::future::ready(is_member()))
}

/// Streams of nodes that are not members yet.
pub(crate) struct Strangers {
    pub(crate) slots: Arc<Slots>,
    pub(crate) book: PeerBook,
}

impl Strangers {
    /// A stream on the protocol of founders: of a founder, or of a member that asks who is here.
    async fn found(&self, mut link: AcceptedLink, ended: oneshot::Receiver<()>) {
        if let Some(context) = self.slots.context.get() {
            // Whoever comes to a member speaks first.
            let first = read_frame(&mut link.recv, founding::MAX_MESSAGE_BYTES);
            let Ok(first) = first.await else { return };
            if let Some(other) = Presence::asking(&first) {
                encounters::asked(context, &other, &link.spki, link.remote);
                return answer(link.send, context.presence().answer()).await;
            }
            link.first = Some(first);
        }
        let founding = match self.slots.founders.get() {
            Some(founders) => founders.send(link).await.map_err(|refused| refused.0),
            None => Err(link),
        };
        match founding {
            Ok(()) => drop(ended.await),
            Err(link) => self.turn_away(link).await,
        }
    }

    /// Answers a founder where nobody founds any more: a cluster stands here.
    async fn turn_away(&self, link: AcceptedLink) {
        let AcceptedLink { spki, exporter, remote, mut send, first, .. } = link;
        let (Some(context), Some(first)) = (self.slots.context.get(), first) else {
            return not_started(send);
        };
        let witness = founding_witness(&context.control.view());
        let address = context.advertise.to_string();
        let host = Host {
            cluster: context.cluster,
            address: &address,
            witness: witness.as_ref(),
            exporter: &exporter,
        };
        let Some((node, reason, word)) = founding::turn_away(&first, &host) else {
            let _ = send.reset(ResetCode::MALFORMED.var());
            return;
        };
        // A founder that was away when the others got their part comes by here too.
        if !self.book.knows(&spki) {
            let why = format!("node {node}: {reason}");
            context.transport.turned_away(reason.code(), remote, "found", &why);
        }
        answer(send, word).await;
    }
}

/// One message, until it has arrived.
async fn answer(mut send: SendStream, word: Vec<u8>) {
    if write_frame(&mut send, Bytes::from(word)).await.is_ok() {
        let _ = send.finish();
        let _ = send.stopped().await;
    }
}

#[async_trait]
impl JoinHandler for Strangers {
    async fn join(
        &self,
        remote: SocketAddr,
        entry: Entry,
        exporter: [u8; 32],
        mut send: SendStream,
        mut recv: RecvStream,
    ) {
        match entry {
            Entry::Found { spki } => {
                let (over, ended) = oneshot::channel();
                let first = None;
                let link = AcceptedLink { spki, exporter, remote, send, recv, first, over };
                let _ = tokio::time::timeout(FOUND_DEADLINE, self.found(link, ended)).await;
            }
            Entry::Join => {
                let Some(context) = self.slots.context.get() else { return not_started(send) };
                let request = read_frame(&mut recv, MAX_JOIN_BYTES).await.ok();
                let request = request.and_then(|r| serde_json::from_slice::<JoinRequest>(&r).ok());
                let Some(request) = request else {
                    tracing::warn!(target: "swarmer::join", %remote, "a join request is unreadable");
                    let _ = send.reset(ResetCode::MALFORMED.var());
                    return;
                };
                let request = JoinRequest { reached: false, ..request };
                let reply = admit(context, &request, true).await;
                log_refusal(context, remote, &request, &reply);
                if let Ok(reply) = serde_json::to_vec(&reply)
                    && write_frame(&mut send, Bytes::from(reply)).await.is_ok()
                {
                    let _ = send.finish();
                }
            }
        }
    }
}

/// Follows the watch of some voter, for ever, until `shutdown`. Each node begins with another voter,
/// so that not all ask the same.
pub(crate) async fn follow(
    follower: swarmer_raft::Follower,
    transport: swarmer_mesh::transport::Handle,
    own: NodeId,
    first_voters: Vec<NodeId>,
    shutdown: CancellationToken,
) {
    let mut turn = own.0;
    loop {
        let mut voters: Vec<_> = follower.status().voters.into_iter().collect();
        if voters.is_empty() {
            voters.clone_from(&first_voters);
        }
        let among = voters.len().max(1) as u64;
        let Some(voter) = voters.get((turn % among) as usize).copied() else { return };
        turn = turn.wrapping_add(1);
        tokio::select! {
            () = shutdown.cancelled() => return,
            why = follow_one(&follower, &transport, voter) => {
                follower.feed_ended();
                tracing::debug!(target: "swarmer::feed", %voter, why, "the feed ended");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
}

/// How long a feed may take to begin.
const FEED_BEGINS: Duration = Duration::from_secs(4);
/// How long it may be silent: it has a frame at least every five seconds. A voter that is lost shows
/// sooner, by its connection.
const FEED_SILENCE: Duration = Duration::from_secs(12);

async fn follow_one(
    follower: &swarmer_raft::Follower,
    transport: &swarmer_mesh::transport::Handle,
    voter: NodeId,
) -> String {
    let deadline = tokio::time::Instant::now() + FEED_BEGINS;
    let kind = StreamKind::Feed;
    let opened = transport.open(voter, kind.class(), kind, deadline).await;
    let (mut send, mut recv) = match opened {
        Ok(streams) => streams,
        Err(error) => return crate::problem::chain(&error),
    };
    let position = match postcard::to_stdvec(&follower.position()) {
        Ok(position) => Bytes::from(position),
        Err(error) => return error.to_string(),
    };
    if let Err(error) = write_frame(&mut send, position).await {
        return error.to_string();
    }
    let _ = send.finish();
    let leadership = follower.subscribe_leadership();
    let mut patience = FEED_BEGINS;
    loop {
        let frame = read_frame(&mut recv, swarmer_mesh::stream::MAX_FRAME);
        match tokio::time::timeout(patience, frame).await {
            Ok(Ok(frame)) => {
                if let Err(error) = follower.consume(frame).await {
                    if matches!(error, swarmer_raft::FeedError::Signature { .. }) {
                        tracing::warn!(target: "swarmer::feed", %voter, %error,
                            code = swarmer_model::Coded::code(&error).name, "a feed is refused");
                    }
                    return crate::problem::chain(&error);
                }
                let known = leadership.borrow();
                if !known.voters.is_empty() && !known.voters.contains(&voter) {
                    return "it has no vote any more".to_owned();
                }
                patience = FEED_SILENCE;
            }
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return "silence".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn a_removed_node_is_fed_nothing_that_was_committed_after_its_removal() {
        let member = AtomicBool::new(true);
        // The second frame is made of a state without the node.
        let frames = futures::stream::iter(0..3_u8).map(|n| {
            member.store(n < 1, Ordering::Relaxed);
            Bytes::from(vec![n])
        });
        let fed: Vec<Bytes> = for_member(frames, || member.load(Ordering::Relaxed)).collect().await;
        assert_eq!(fed, [Bytes::from_static(&[0])]);
    }
}
