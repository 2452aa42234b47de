//! Listens at a node's door: the gossip datagrams that come to it, as anybody on the way could take
//! them down.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with},
};

/// The port between nodes.
pub(super) const PORT: u16 = 7400;
/// The largest packet that is looked at: larger ones are no gossip.
const MAX_PACKET: usize = 2_048;
/// Between two looks at an empty socket.
const LOOK: Duration = Duration::from_millis(5);
/// The most datagrams that are kept.
const MAX_KEPT: usize = 64;

/// A socket that sees every packet that comes in.
#[derive(Debug)]
pub(super) struct Tap(OwnedFd);

impl Tap {
    /// In the namespace of the calling thread.
    ///
    /// # Errors
    /// Not root.
    pub(super) fn open() -> Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, Some(eth::IP))?;
        Ok(Self(socket))
    }

    /// The gossip that comes in the given time.
    ///
    /// # Errors
    /// The socket's.
    pub(super) async fn listen(&self, lasts: Duration) -> Result<Vec<Vec<u8>>> {
        let (began, mut kept) = (Instant::now(), Vec::new());
        let mut packet = vec![0; MAX_PACKET];
        while began.elapsed() < lasts {
            match recv(&self.0, packet.as_mut_slice(), RecvFlags::empty()) {
                Ok((length, _)) => {
                    let gossip = gossip_of(&packet[..length]).filter(|_| kept.len() < MAX_KEPT);
                    kept.extend(gossip.map(<[u8]>::to_vec));
                }
                Err(Errno::AGAIN | Errno::INTR) => tokio::time::sleep(LOOK).await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(kept)
    }
}

/// What a packet (IPv4, RFC 791) carries, if it is a whole UDP datagram between nodes and not of
/// QUIC, whose first byte has the bit 0x40 set (RFC 9000, 17.2).
fn gossip_of(packet: &[u8]) -> Option<&[u8]> {
    const UDP: u8 = 17;
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let udp = packet.get(header..)?;
    let word = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
    if *packet.get(9)? != UDP || word(2)? != PORT {
        return None;
    }
    let payload = udp.get(8..usize::from(word(4)?))?;
    (payload.first()? & 0x40 == 0).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_gossip_between_nodes_is_taken_down() {
        let packet = |protocol: u8, port: u16, payload: &[u8]| {
            let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
            bytes.extend([10, 77, 0, 1, 10, 77, 0, 2]);
            bytes.extend(PORT.to_be_bytes());
            bytes.extend(port.to_be_bytes());
            bytes.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(payload);
            bytes
        };
        assert_eq!(gossip_of(&packet(17, PORT, &[1, 2, 3])), Some(&[1, 2, 3][..]));
        for other in [
            packet(17, PORT, &[0x41, 2, 3]),
            packet(17, PORT + 1, &[1, 2, 3]),
            packet(6, PORT, &[1, 2, 3]),
            packet(17, PORT, &[]),
            packet(17, PORT, &[1, 2, 3])[..30].to_vec(),
            Vec::new(),
        ] {
            assert_eq!(gossip_of(&other), None, "{other:?}");
        }
    }
}
