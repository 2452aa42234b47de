//! How SWIM messages look on the wire, and what is read of them before SWIM sees them.

use std::net::SocketAddr;

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, Message, State};
use serde::{Deserialize, Serialize};
use swarmer_model::NodeId;

use super::peer::Peer;

/// Not a SWIM message, or no room for one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("not a SWIM message: {0}")]
    Decode(#[from] postcard::Error),
    #[error("no room left in the datagram")]
    Full,
    #[error("not a SWIM message: {0}")]
    Shape(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Ping(u8),
    Ack(u8),
    PingReq(Peer, u8),
    IndirectPing(Peer, u8),
    IndirectAck(Peer, u8),
    ForwardedAck(Peer, u8),
    Announce,
    Feed,
    Gossip,
    Broadcast,
    TurnUndead,
}

/// Header of a SWIM message.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Head {
    src: Peer,
    incarnation: u16,
    dst: Peer,
    kind: Kind,
}

/// The header of a SWIM message in an envelope that says who sends it to whom.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Brief {
    addr: SocketAddr,
    renewal: u32,
    incarnation: u16,
    /// The receiver's renewal.
    to: u32,
    kind: Kind,
}

impl Brief {
    /// A message of this node to this peer with a brief header; `None` if it is of or to another one.
    pub(crate) fn of(data: &[u8], own: &Peer, to: &Peer) -> Option<Vec<u8>> {
        let (head, rest) = postcard::take_from_bytes::<Head>(data).ok()?;
        if head.src != *own || head.dst != *to {
            return None;
        }
        let Head { src: Peer { addr, renewal, .. }, incarnation, kind, .. } = head;
        let brief = Self { addr, renewal, incarnation, to: to.renewal, kind };
        let mut bytes = postcard::to_stdvec(&brief).ok()?;
        bytes.extend_from_slice(rest);
        Some(bytes)
    }

    /// What [`Self::of`] made it from, if it is of this start of this node.
    pub(crate) fn whole(
        data: &[u8],
        src: (NodeId, u64),
        own: &Peer,
    ) -> Result<Vec<u8>, CodecError> {
        let (brief, rest) = postcard::take_from_bytes::<Self>(data)?;
        let Self { addr, renewal, incarnation, to, kind } = brief;
        let (node, boot) = src;
        let src = Peer { node, addr, boot, renewal };
        let dst = Peer { renewal: to, ..*own };
        let mut bytes = postcard::to_stdvec(&Head { src, incarnation, dst, kind })?;
        bytes.extend_from_slice(rest);
        Ok(bytes)
    }
}

/// One statement about a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) peer: Peer,
    pub(crate) incarnation: u16,
    pub(crate) state: RowState,
}

/// SWIM's own three states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RowState {
    Alive,
    Suspect,
    Down,
}

impl From<&Member<Peer>> for Row {
    fn from(member: &Member<Peer>) -> Self {
        let state = match member.state() {
            State::Alive => RowState::Alive,
            State::Suspect => RowState::Suspect,
            State::Down => RowState::Down,
        };
        Self { peer: *member.id(), incarnation: member.incarnation(), state }
    }
}

impl From<Row> for Member<Peer> {
    fn from(row: Row) -> Self {
        let state = match row.state {
            RowState::Alive => State::Alive,
            RowState::Suspect => State::Suspect,
            RowState::Down => State::Down,
        };
        Self::new(row.peer, row.incarnation, state)
    }
}

/// postcard (its specification is the wire format), one value after the other.
pub(crate) struct PeerCodec;

fn put<T: Serialize>(value: &T, mut buf: impl BufMut) -> Result<(), CodecError> {
    // A peer is at most 40 bytes, and a header has three of them.
    let mut scratch = [0; 160];
    let bytes = postcard::to_slice(value, &mut scratch)?;
    if bytes.len() > buf.remaining_mut() {
        return Err(CodecError::Full);
    }
    buf.put_slice(bytes);
    Ok(())
}

fn take<T: for<'a> Deserialize<'a>>(mut buf: impl Buf) -> Result<T, CodecError> {
    let chunk = buf.chunk();
    let (value, rest) = postcard::take_from_bytes(chunk)?;
    let used = chunk.len() - rest.len();
    buf.advance(used);
    Ok(value)
}

impl Codec<Peer> for PeerCodec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &Header<Peer>, buf: impl BufMut) -> Result<(), CodecError> {
        let kind = match header.message {
            Message::Ping(n) => Kind::Ping(n),
            Message::Ack(n) => Kind::Ack(n),
            Message::PingReq { target, probe_number } => Kind::PingReq(target, probe_number),
            Message::IndirectPing { origin, probe_number } => {
                Kind::IndirectPing(origin, probe_number)
            }
            Message::IndirectAck { target, probe_number } => {
                Kind::IndirectAck(target, probe_number)
            }
            Message::ForwardedAck { origin, probe_number } => {
                Kind::ForwardedAck(origin, probe_number)
            }
            Message::Announce => Kind::Announce,
            Message::Feed => Kind::Feed,
            Message::Gossip => Kind::Gossip,
            Message::Broadcast => Kind::Broadcast,
            Message::TurnUndead => Kind::TurnUndead,
        };
        let (src, dst, incarnation) = (header.src, header.dst, header.src_incarnation);
        put(&Head { src, incarnation, dst, kind }, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Peer>, CodecError> {
        let head: Head = take(buf)?;
        let message = match head.kind {
            Kind::Ping(n) => Message::Ping(n),
            Kind::Ack(n) => Message::Ack(n),
            Kind::PingReq(target, probe_number) => Message::PingReq { target, probe_number },
            Kind::IndirectPing(origin, probe_number) => {
                Message::IndirectPing { origin, probe_number }
            }
            Kind::IndirectAck(target, probe_number) => {
                Message::IndirectAck { target, probe_number }
            }
            Kind::ForwardedAck(origin, probe_number) => {
                Message::ForwardedAck { origin, probe_number }
            }
            Kind::Announce => Message::Announce,
            Kind::Feed => Message::Feed,
            Kind::Gossip => Message::Gossip,
            Kind::Broadcast => Message::Broadcast,
            Kind::TurnUndead => Message::TurnUndead,
        };
        Ok(Header { src: head.src, src_incarnation: head.incarnation, dst: head.dst, message })
    }

    fn encode_member(&mut self, member: &Member<Peer>, buf: impl BufMut) -> Result<(), CodecError> {
        put(&Row::from(member), buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Peer>, CodecError> {
        take::<Row>(buf).map(Member::from)
    }
}

/// A SWIM message, read before SWIM sees it: SWIM believes every well-formed message, so who may
/// be spoken of is decided here.
pub(crate) struct Inspected {
    pub(crate) src: Peer,
    pub(crate) incarnation: u16,
    /// A third node that the message makes us speak to.
    pub(crate) third: Option<Peer>,
    /// Whether that one has answered the sender, whom we had asked to probe it.
    pub(crate) third_answered: bool,
    /// The statements that were kept.
    pub(crate) rows: Vec<Row>,
    /// The message without the others, if there were any.
    pub(crate) rewritten: Option<Vec<u8>>,
}

impl Inspected {
    /// Reads a message and drops every statement for which `keep` says no.
    pub(crate) fn read(data: &[u8], keep: impl Fn(&Row) -> bool) -> Result<Self, CodecError> {
        let (head, mut rest) = postcard::take_from_bytes::<Head>(data)?;
        let third = match head.kind {
            Kind::PingReq(p, _)
            | Kind::IndirectPing(p, _)
            | Kind::IndirectAck(p, _)
            | Kind::ForwardedAck(p, _) => Some(p),
            _ => None,
        };
        let mut inspected = Self {
            src: head.src,
            incarnation: head.incarnation,
            third,
            third_answered: matches!(head.kind, Kind::ForwardedAck(..)),
            rows: Vec::new(),
            rewritten: None,
        };
        if rest.is_empty() {
            return Ok(inspected);
        }
        if rest.len() < 2 {
            return Err(CodecError::Shape("a single byte follows the header"));
        }
        let head_len = data.len() - rest.len();
        let count = rest.get_u16();
        let mut dropped = false;
        for _ in 0..count {
            let (row, after) = postcard::take_from_bytes::<Row>(rest)?;
            rest = after;
            if keep(&row) {
                inspected.rows.push(row);
            } else {
                dropped = true;
            }
        }
        if !rest.is_empty() {
            return Err(CodecError::Shape("bytes follow the last statement"));
        }
        if dropped {
            let mut bytes = data[..head_len].to_vec();
            bytes.put_u16(inspected.rows.len().try_into().unwrap_or(u16::MAX));
            for row in &inspected.rows {
                bytes.extend_from_slice(&postcard::to_stdvec(row)?);
            }
            inspected.rewritten = Some(bytes);
        }
        Ok(inspected)
    }
}

/// Whether a SWIM message asks its receiver whether it lives.
pub(crate) fn is_ping(data: &[u8]) -> bool {
    let head = postcard::take_from_bytes::<Head>(data);
    head.is_ok_and(|(head, _)| matches!(head.kind, Kind::Ping(_) | Kind::IndirectPing(..)))
}

/// Whether any of these nodes is `node`.
pub(crate) fn mentions(rows: &[Row], node: NodeId) -> bool {
    rows.iter().any(|row| row.peer.node == node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node: u64, renewal: u32) -> Peer {
        let addr = SocketAddr::from(([10, 0, 0, node as u8], 7400));
        Peer { node: NodeId(node), addr, boot: node * 1_000, renewal }
    }

    fn message(kind: Kind, rows: &[Row]) -> Vec<u8> {
        let head = Head { src: peer(1, 2), incarnation: 3, dst: peer(2, 0), kind };
        let mut bytes = postcard::to_stdvec(&head).unwrap();
        if !rows.is_empty() {
            bytes.put_u16(rows.len() as u16);
            rows.iter().for_each(|row| bytes.extend(postcard::to_stdvec(row).unwrap()));
        }
        bytes
    }

    #[test]
    fn what_is_left_out_is_what_the_envelope_says() {
        let (own, to, third) = (peer(1, 2), peer(2, 0), peer(3, 1));
        let rows = [Row { peer: third, incarnation: 1, state: RowState::Suspect }];
        let kinds = [
            Kind::Ping(7),
            Kind::Ack(7),
            Kind::PingReq(third, 7),
            Kind::IndirectPing(third, 7),
            Kind::IndirectAck(third, 7),
            Kind::ForwardedAck(third, 7),
            Kind::Announce,
            Kind::Feed,
            Kind::Gossip,
            Kind::Broadcast,
            Kind::TurnUndead,
        ];
        for kind in kinds {
            for rows in [&rows[..], &[]] {
                let whole = message(kind, rows);
                let brief = Brief::of(&whole, &own, &to).unwrap();
                assert!(brief.len() < whole.len(), "{kind:?}");
                assert_eq!(Brief::whole(&brief, (own.node, own.boot), &to).unwrap(), whole);
                // Whoever renewed its identity meanwhile is not the one that it is to.
                let renewed = Brief::whole(&brief, (own.node, own.boot), &peer(2, 1)).unwrap();
                assert_eq!(renewed, whole, "{kind:?}");
                // It cannot be told of another one, or to one.
                assert!(Brief::of(&whole, &peer(1, 3), &to).is_none());
                assert!(Brief::of(&whole, &own, &peer(2, 1)).is_none());
            }
        }
        for len in 0..12 {
            assert!(Brief::whole(&vec![0xff; len], (own.node, own.boot), &to).is_err());
        }
    }
}
