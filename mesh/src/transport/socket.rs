//! One UDP port for gossip and QUIC.
//!
//! QUIC sets the bit 0x40 of the first byte of every packet (the fixed bit, RFC 9000 section
//! 17; greasing it, RFC 9287, is switched off); gossip never does.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

use super::{
    config::{MAX_GOSSIP_DATAGRAM, SOCKET_BUFFER},
    steer,
};

const FIXED_BIT: u8 = 0x40;

/// Gossip datagrams that were counted instead of delivered or sent.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) received: AtomicU64,
    pub(crate) dropped_full: AtomicU64,
    pub(crate) dropped_large: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) not_sent: AtomicU64,
}

/// The socket as quinn sees it: gossip datagrams are taken out on the way.
pub(crate) struct SharedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    gossip: mpsc::Sender<(SocketAddr, Bytes)>,
    counters: Arc<Counters>,
    v6: bool,
}

impl fmt::Debug for SharedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSocket").finish_non_exhaustive()
    }
}

/// Binds the port with large buffers: the socket of control and gossip, and that of data. An IPv6
/// wildcard takes IPv4 too.
pub(crate) fn bind(address: SocketAddr) -> io::Result<[UdpSocket; 2]> {
    let control = unbound(address)?;
    control.bind(&address.into())?;
    let control = UdpSocket::from(control);
    let data = unbound(address)?;
    // Port 0 was some port of the first.
    let bound = control.local_addr()?;
    steer::join(&control, &data, |socket| socket.bind(&bound.into()))?;
    Ok([control, data.into()])
}

fn unbound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Best effort: the kernel clamps to its own limit, which is still more than the default.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl SharedSocket {
    pub(crate) fn new(
        inner: Arc<dyn AsyncUdpSocket>,
        gossip: mpsc::Sender<(SocketAddr, Bytes)>,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let v6 = inner.local_addr()?.is_ipv6();
        Ok(Self { inner, gossip, counters, v6 })
    }

    /// Sends one gossip datagram, now or never: a full socket drops it, as the network would.
    pub(crate) fn send_gossip(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        match datagram.first() {
            Some(first) if first & FIXED_BIT == 0 && datagram.len() <= MAX_GOSSIP_DATAGRAM => {}
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        let destination = if self.v6 { mapped(to) } else { to };
        let sent = self.inner.try_send(&Transmit {
            destination,
            ecn: None,
            contents: datagram,
            segment_size: None,
            src_ip: None,
        });
        let counter = if sent.is_ok() { &self.counters.sent } else { &self.counters.not_sent };
        counter.fetch_add(1, Ordering::Relaxed);
        sent
    }

    fn deliver(&self, from: SocketAddr, datagram: &[u8]) {
        self.counters.received.fetch_add(1, Ordering::Relaxed);
        if datagram.len() > MAX_GOSSIP_DATAGRAM {
            self.counters.dropped_large.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        // Full: the newest is dropped; gossip repeats itself. Closed: nobody gossips.
        if self.gossip.try_send((from, Bytes::copy_from_slice(datagram))).is_err() {
            self.counters.dropped_full.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Takes the gossip datagrams out of one received buffer, which may hold many datagrams of
/// `stride` bytes each (only the last may be shorter). What is left is moved together, in order;
/// its length is returned.
fn split(buffer: &mut [u8], stride: usize, mut gossip: impl FnMut(&[u8])) -> usize {
    let stride = stride.max(1);
    // The usual case: all QUIC, nothing to move.
    if buffer.chunks(stride).all(|segment| segment[0] & FIXED_BIT != 0) {
        return buffer.len();
    }
    let (mut read, mut kept) = (0, 0);
    while read < buffer.len() {
        let end = buffer.len().min(read + stride);
        if buffer[read] & FIXED_BIT == 0 {
            gossip(&buffer[read..end]);
        } else {
            buffer.copy_within(read..end, kept);
            kept += end - read;
        }
        read = end;
    }
    kept
}

impl AsyncUdpSocket for SharedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.inner.poll_recv(cx, buffers, meta))?;
        for (meta, buffer) in meta.iter_mut().zip(buffers.iter_mut()).take(received) {
            let from = meta.addr;
            // A length of nothing left is fine: quinn then has nothing to do for this buffer.
            meta.len = split(&mut buffer[..meta.len], meta.stride, |datagram| {
                self.deliver(from, datagram);
            });
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(batch: &[&[u8]], stride: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut buffer = batch.concat();
        let mut gossip = Vec::new();
        let kept = split(&mut buffer, stride, |datagram| gossip.push(datagram.to_vec()));
        buffer.truncate(kept);
        (buffer, gossip)
    }

    #[test]
    fn every_segment_of_a_batch_is_looked_at() {
        let (quic, gossip) = run(&[b"@11", b"\x01aa", b"\xc022", b"\x3fbb", b"@3"], 3);
        assert_eq!(quic, b"@11\xc022@3");
        assert_eq!(gossip, [b"\x01aa".to_vec(), b"\x3fbb".to_vec()]);
    }

    #[test]
    fn a_short_last_segment_of_gossip_is_whole() {
        let (quic, gossip) = run(&[b"@11", b"@22", b"\x01"], 3);
        assert_eq!(quic, b"@11@22");
        assert_eq!(gossip, [b"\x01".to_vec()]);
    }

    #[test]
    fn a_batch_of_one_kind_and_an_empty_one() {
        assert_eq!(run(&[b"@11", b"@22"], 3), (b"@11@22".to_vec(), vec![]));
        assert_eq!(run(&[b"\x01a", b"\x02b"], 2).0, b"");
        assert_eq!(run(&[], 0), (vec![], vec![]));
        assert_eq!(run(&[b"\x01a"], 0).1, [b"\x01".to_vec(), b"a".to_vec()][..1].to_vec());
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_reordered_or_made_up(
            stride in 1usize..20,
            mut datagrams in proptest::collection::vec(proptest::collection::vec(0u8..=255, 1..20), 0..40),
        ) {
            let count = datagrams.len();
            for (i, datagram) in datagrams.iter_mut().enumerate() {
                let length = if i + 1 == count { datagram.len().min(stride) } else { stride };
                datagram.resize(length, 7);
            }
            let parts: Vec<&[u8]> = datagrams.iter().map(Vec::as_slice).collect();
            let (quic, gossip) = run(&parts, stride);
            let is_quic = |d: &&[u8]| d[0] & FIXED_BIT != 0;
            let expected: Vec<u8> = parts.iter().filter(|d| is_quic(d)).copied().flatten().copied().collect();
            proptest::prop_assert_eq!(quic, expected);
            let others: Vec<Vec<u8>> = parts.iter().filter(|d| !is_quic(d)).map(|d| d.to_vec()).collect();
            proptest::prop_assert_eq!(gossip, others);
        }
    }
}
