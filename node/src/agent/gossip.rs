//! What membership needs of the network, over the shared port and its streams.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use swarmer_gossip::{DatagramSender, Deps, ExchangeError, Liveness, PushPull};
use swarmer_mesh::{
    identity::NodeKey,
    stream::StreamKind,
    transport::{GossipSender, Handle},
};
use swarmer_model::NodeId;
use tokio::{sync::broadcast::error::RecvError, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::agent::admission::{PeerBook, SigningKey};

/// How long an exchange may take; the room puts its own, shorter one around it.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a peer may take to answer a ping.
const PING_DEADLINE: Duration = Duration::from_millis(800);

struct Port(GossipSender);

impl DatagramSender for Port {
    fn send(&self, to: SocketAddr, bytes: Bytes) {
        // A full socket drops it, as the network would.
        let _ = self.0.send(to, &bytes);
    }
}

struct Streams {
    transport: Handle,
    book: PeerBook,
}

#[async_trait]
impl PushPull for Streams {
    async fn exchange(
        &self,
        node: Option<NodeId>,
        addr: SocketAddr,
        request: Bytes,
    ) -> Result<Bytes, ExchangeError> {
        let Some(node) = node.or_else(|| self.book.at(addr)) else {
            return Err(ExchangeError(format!("nobody knows yet which member is at {addr}")));
        };
        let deadline = Instant::now() + EXCHANGE_DEADLINE;
        let answer = self.transport.request(node, StreamKind::PushPull, request, deadline).await;
        answer.map_err(|error| ExchangeError(crate::problem::chain(&error)))
    }
}

#[async_trait]
impl Liveness for Streams {
    fn has_live_connection(&self, node: NodeId) -> bool {
        self.transport.has_live_connection(node)
    }

    async fn confirm_alive(&self, node: NodeId, _addr: SocketAddr) -> bool {
        let deadline = Instant::now() + PING_DEADLINE;
        self.transport.request(node, StreamKind::Ping, Bytes::new(), deadline).await.is_ok()
    }
}

/// All that the gossip room needs.
pub(crate) fn deps(sender: GossipSender, transport: Handle, book: PeerBook, key: NodeKey) -> Deps {
    let streams = Arc::new(Streams { transport, book: book.clone() });
    Deps {
        sender: Arc::new(Port(sender)),
        push_pull: Arc::clone(&streams) as Arc<dyn PushPull>,
        liveness: streams,
        admission: Arc::new(book.clone()),
        signer: Arc::new(SigningKey(key)),
        verifier: Arc::new(book),
    }
}

/// Has membership ask whom the transport hears nothing of, until `shutdown`.
pub(crate) async fn look_into_silence(
    transport: Handle,
    gossip: swarmer_gossip::Handle,
    shutdown: CancellationToken,
) {
    let mut silent = transport.silent_peers();
    loop {
        let peer = tokio::select! {
            () = shutdown.cancelled() => return,
            peer = silent.recv() => peer,
        };
        match peer {
            Ok(peer) => gossip.look_into(peer),
            // Whoever is still silent is found by a probe.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
