//! Raft's transport over the simulated network.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, channel::mpsc};
use swarmer_model::{NodeId, wire};
use swarmer_raft::{Channel, ChannelReceiver, ChannelSender, Transport, TransportError};
use tokio::{
    sync::{Mutex, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::Net;

/// How one process reaches the others: good until the process dies.
pub(crate) struct Port {
    pub(crate) net: Net,
    pub(crate) node: NodeId,
    pub(crate) dead: CancellationToken,
}

fn gone() -> TransportError {
    TransportError::Failed("the connection is gone".to_owned())
}

#[async_trait]
impl Transport for Port {
    fn version(&self, _: NodeId) -> u8 {
        wire::NEWEST
    }

    fn round_trip(&self, _: NodeId) -> Option<Duration> {
        None
    }

    async fn call(
        &self,
        target: NodeId,
        _: u8,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError> {
        if self.dead.is_cancelled() {
            return Err(TransportError::Unreachable("this process is dead".to_owned()));
        }
        let (net, from) = (self.net.clone(), self.node);
        let (sender, receiver) = oneshot::channel();
        // Goes on when the caller does not wait any more: what was sent may still arrive.
        tokio::spawn(async move {
            if !net.travel(from, target).await {
                return;
            }
            let Some(node) = net.node(target) else {
                let _ = sender.send(Err(TransportError::Unreachable("nobody is there".to_owned())));
                return;
            };
            let answer = match node.raft() {
                Some(raft) => raft.handle_message(from, wire::NEWEST, body).await,
                None => return,
            };
            let answer = answer.map_err(|error| TransportError::Failed(error.to_string()));
            // An answer that the process did not live to send.
            if !node.dead.is_cancelled() && net.travel(target, from).await {
                let _ = sender.send(answer);
            }
        });
        let until = Instant::now() + deadline;
        tokio::select! {
            biased;
            () = self.dead.cancelled() => return Err(gone()),
            answer = receiver => if let Ok(answer) = answer { return answer },
            () = sleep_until(until) => {}
        }
        // Nothing comes, or nothing comes any more, which takes its time to be known.
        sleep_until(until).await;
        Err(TransportError::Timeout)
    }

    async fn open(&self, target: NodeId, deadline: Duration) -> Result<Channel, TransportError> {
        if self.dead.is_cancelled() {
            return Err(TransportError::Unreachable("this process is dead".to_owned()));
        }
        let arrives = tokio::time::timeout(deadline, self.net.travel(self.node, target));
        if arrives.await != Ok(true) {
            return Err(TransportError::Timeout);
        }
        let Some((node, raft)) =
            self.net.node(target).and_then(|node| node.raft().map(|raft| (node, raft)))
        else {
            return Err(TransportError::Unreachable("nobody is there".to_owned()));
        };
        let ends = Arc::new([self.dead.clone(), node.dead.clone(), CancellationToken::new()]);
        let (sender, sent) = queue();
        let (deliver, messages) = queue();
        let (answer, answers) = queue();
        let there = raft
            .serve_appends(self.node, messages)
            .map(|answer| answer.map_err(|error| TransportError::Failed(error.to_string())));
        pump(self.net.clone(), (self.node, target), ends.clone(), sent, deliver);
        pump(self.net.clone(), (target, self.node), ends.clone(), there, answer);
        let hangs_up = Arc::new(HangsUp(ends[2].clone()));
        Ok(Channel {
            sender: Box::new(Sender { messages: sender, broken: false, _end: hangs_up.clone() }),
            receiver: Box::new(Receiver { answers: Mutex::new(answers), _end: hangs_up }),
        })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the sender of AppendEntries bounds what is in flight on a channel"
)]
fn queue<T>() -> (mpsc::UnboundedSender<T>, mpsc::UnboundedReceiver<T>) {
    mpsc::unbounded()
}

/// Carries what comes, in order, until one of the ends is gone.
fn pump<T: Send + 'static>(
    net: Net,
    (from, to): (NodeId, NodeId),
    ends: Arc<[CancellationToken; 3]>,
    from_stream: impl futures::Stream<Item = T> + Send + 'static,
    into: mpsc::UnboundedSender<T>,
) {
    tokio::spawn(async move {
        let carry = async {
            let mut stream = std::pin::pin!(from_stream);
            while let Some(item) = stream.next().await {
                if !net.travel(from, to).await || into.unbounded_send(item).is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = ends[0].cancelled() => {}
            () = ends[1].cancelled() => {}
            () = ends[2].cancelled() => {}
            () = carry => {}
        }
    });
}

/// Breaks the channel off when both halves, or all that use them, are gone.
struct HangsUp(CancellationToken);

impl Drop for HangsUp {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

struct Sender {
    messages: mpsc::UnboundedSender<Bytes>,
    broken: bool,
    _end: Arc<HangsUp>,
}

#[async_trait]
impl ChannelSender for Sender {
    fn push(&mut self, message: Bytes) {
        self.broken |= self.messages.unbounded_send(message).is_err();
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        if self.broken { Err(gone()) } else { Ok(()) }
    }
}

struct Receiver {
    answers: Mutex<mpsc::UnboundedReceiver<Result<Bytes, TransportError>>>,
    _end: Arc<HangsUp>,
}

#[async_trait]
impl ChannelReceiver for Receiver {
    async fn receive(&mut self) -> Result<Bytes, TransportError> {
        self.answers.get_mut().next().await.unwrap_or_else(|| Err(gone()))
    }
}
