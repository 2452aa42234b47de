//! The gossip side of the shared port.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::socket::{Counters, SharedSocket};

/// Gossip datagrams in and out.
#[derive(Debug)]
pub struct GossipSocket {
    /// What came in, with its sender's address (an IPv4 one as IPv4). At most
    /// [`super::GOSSIP_QUEUE`] wait; the newest is dropped when it is full. Ends when the
    /// transport is gone.
    pub incoming: mpsc::Receiver<(SocketAddr, Bytes)>,
    pub(crate) sender: GossipSender,
}

impl GossipSocket {
    /// Sends one datagram, see [`GossipSender::send`].
    pub fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.sender.send(to, datagram)
    }

    /// A handle that only sends.
    pub fn sender(&self) -> GossipSender {
        self.sender.clone()
    }
}

/// Sends gossip datagrams. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GossipSender {
    pub(crate) socket: Arc<SharedSocket>,
    pub(crate) counters: Arc<Counters>,
}

impl GossipSender {
    /// Sends one datagram, without waiting: a full socket is an error (`WouldBlock`) and the
    /// datagram is lost, as on the network. It has 1 to [`super::MAX_GOSSIP_DATAGRAM`] bytes and
    /// its first byte has the bit 0x40 clear, else the error is `InvalidInput`. In the first
    /// moment after the port was bound every send may be `WouldBlock`: repeat, as gossip does.
    pub fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.socket.send_gossip(to, datagram)
    }

    /// What was received, sent and dropped so far.
    pub fn stats(&self) -> GossipStats {
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        GossipStats {
            received: get(&self.counters.received),
            dropped_full: get(&self.counters.dropped_full),
            dropped_large: get(&self.counters.dropped_large),
            sent: get(&self.counters.sent),
            not_sent: get(&self.counters.not_sent),
        }
    }
}

/// Counts of gossip datagrams since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GossipStats {
    /// Received, dropped ones included.
    pub received: u64,
    /// Dropped because the queue was full.
    pub dropped_full: u64,
    /// Dropped because they were too large.
    pub dropped_large: u64,
    /// Sent.
    pub sent: u64,
    /// Not sent because the socket was full or failed.
    pub not_sent: u64,
}
