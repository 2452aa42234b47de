//! One UDP port with two sockets, so that a packet of a call wakes the threads that serve it and
//! no others.
//!
//! Both sockets are bound to the same address (SO_REUSEPORT). A classic BPF program on the pair
//! tells the kernel which of them a datagram is for: the lowest bit of the first byte of the
//! destination connection id (RFC 9000, section 5.1), which whoever issues the id sets by the
//! class of the connection; a dialler sets it in the id that it makes up for its first packet
//! (section 7.2). What is no QUIC goes to the control socket. A datagram on the wrong socket
//! would be answered all the same, by other threads.

use std::{io, mem::size_of, net::UdpSocket, os::fd::AsRawFd as _};

use quinn::{ConnectionId, ConnectionIdGenerator};
use rand::RngExt as _;
use socket2::SockRef;

use crate::stream::Class;

/// Bytes of a connection id: enough that nobody guesses one, and no id is met twice.
const CID_BYTES: usize = 8;
/// The bit of an id's first byte that says the class.
const CLASS_BIT: u8 = 0x01;
/// Set in the first byte of QUIC packets with a long header (RFC 9000, section 17.2).
const LONG_HEADER: u32 = 0x80;
/// Where the destination's connection id begins in those, and in all others (section 17.3).
const CID_OFFSET_LONG: u32 = 6;
const CID_OFFSET_SHORT: u32 = 1;
/// Set in the first byte of every QUIC packet and in no gossip.
const FIXED_BIT: u32 = 0x40;

const fn bit(class: Class) -> u8 {
    match class {
        Class::Control => 0,
        Class::Data => CLASS_BIT,
    }
}

/// An id that leads packets to the socket of its class.
pub(crate) fn connection_id(class: Class) -> ConnectionId {
    let mut bytes: [u8; CID_BYTES] = rand::rng().random();
    bytes[0] = bytes[0] & !CLASS_BIT | bit(class);
    ConnectionId::new(&bytes)
}

/// Issues such ids for the connections of an endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ids(pub(crate) Class);

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        connection_id(self.0)
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// Joins `second`, not bound yet, to the port of `first` by `bind`; from then on the kernel
/// steers. `first` was bound alone, so a port that anybody has is found taken.
pub(crate) fn join(
    first: &UdpSocket,
    second: &socket2::Socket,
    bind: impl FnOnce(&socket2::Socket) -> io::Result<()>,
) -> io::Result<()> {
    SockRef::from(first).set_reuse_port(true)?;
    second.set_reuse_port(true)?;
    bind(second)?;
    attach(first)
}

/// Index 0 is the socket that was bound first, 1 the one that joined it. A load past the end of
/// a datagram ends the program with 0.
fn program() -> [libc::sock_filter; 9] {
    const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    const JUMP_IF_SET: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    const RETURN_A: u32 = libc::BPF_RET | 0x10; // BPF_A, which libc does not name
    let op = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).expect("codes of classic BPF have 16 bits"),
        jt,
        jf,
        k,
    };
    [
        op(LOAD_BYTE, 0, 0, 0),
        op(JUMP_IF_SET, 1, 0, FIXED_BIT),
        op(RETURN, 0, 0, 0),
        op(JUMP_IF_SET, 0, 2, LONG_HEADER),
        op(LOAD_BYTE, 0, 0, CID_OFFSET_LONG),
        op(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1),
        op(LOAD_BYTE, 0, 0, CID_OFFSET_SHORT),
        op(AND, 0, 0, u32::from(CLASS_BIT)),
        op(RETURN_A, 0, 0, 0),
    ]
}

#[expect(unsafe_code, reason = "no safe wrapper sets SO_ATTACH_REUSEPORT_CBPF")]
fn attach(socket: &UdpSocket) -> io::Result<()> {
    let mut program = program();
    let length = u16::try_from(program.len()).expect("the program is short");
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).expect("it is small");
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; `filter` is a whole
    // sock_fprog of `size` bytes, and its pointer is to `len` instructions that live until the
    // end of this function; the kernel copies both before the call returns and writes to neither.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            std::ptr::from_ref(&filter).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transport::socket::bind;

    /// Which of the two gets it. Loopback delivers before `send_to` returns.
    fn taken_by(sockets: &[UdpSocket; 2], datagram: &[u8]) -> Vec<usize> {
        // A new sender each time: without the program the kernel chooses by the sender.
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(datagram, sockets[0].local_addr().unwrap()).unwrap();
        let mut buffer = [0; 64];
        (0..2).filter(|i| sockets[*i].recv(&mut buffer).is_ok()).collect()
    }

    #[test]
    fn packets_reach_the_socket_of_their_class_from_whomever_they_come() {
        let [control, data] = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        for socket in [&control, &data] {
            socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        }
        assert_eq!(control.local_addr().unwrap(), data.local_addr().unwrap());
        let sockets = [control, data];
        for _ in 0..32 {
            for (class, index) in [(Class::Control, 0), (Class::Data, 1)] {
                let id = connection_id(class);
                let short = [&[0x40][..], &id, &[7; 20]].concat();
                let long = [&[0xc0, 0, 0, 0, 1, 8][..], &id, &[7; 20]].concat();
                assert_eq!(taken_by(&sockets, &short), [index], "{class:?} {id}");
                assert_eq!(taken_by(&sockets, &long), [index], "{class:?} {id}");
            }
            assert_eq!(taken_by(&sockets, &[0x01; 30]), [0], "gossip");
            assert_eq!(taken_by(&sockets, &[0x41]), [0], "a datagram that ends too early");
        }
    }

    #[test]
    fn a_port_that_somebody_has_is_not_shared_with_him() {
        let [control, _data] = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let again = bind(control.local_addr().unwrap());
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
