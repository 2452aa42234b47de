//! The seal around every datagram.
//!
//! ```text
//!  0  wire version (bit 0x40 clear: QUIC, RFC 9000 §17.2, has it set on the same port)
//!  1  key id          5  cluster id      21  sender   29  sender's boot   37  sequence
//! 45  receiver       53  receiver's boot 61  nonce    85  ciphertext and tag
//! ```
//!
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) with a random nonce; the first 61 bytes are
//! authenticated. Receiver and its boot are bound too, so that a packet recorded on its way to
//! one node means nothing to another one, nor to the same one after a restart.
//!
//! To a member that understands it ([`swarmer_model::wire::BRIEF`]) goes a brief one, without what the
//! receiver knows. The same header is authenticated, with the first byte of this one; the nonce is made of
//! sender, sequence with the boot in its upper bits, and the random number.
//!
//! ```text
//!  0  2      1  sender      9  random number     17  mark of receiver and its boot
//! 19  key id, sender's boot and sequence, LEB128 each; then ciphertext and tag
//! ```

use std::collections::HashMap;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use chacha20poly1305::{XNonce, aead::Aead, aead::Payload};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use swarmer_model::{
    ClusterId, NodeId,
    planted::{self, Bug},
};

use crate::{Admission, Keyring, MAX_DATAGRAM_BYTES, MAX_MEMBERS, Refusal};

/// The first byte of an envelope that says everything, and of the first version of the messages in it.
pub const WIRE_VERSION: u8 = 1;
/// The bit that a QUIC packet has set in its first byte.
pub(crate) const QUIC_FIXED_BIT: u8 = 0x40;
/// The first byte of a brief envelope.
const BRIEF_FORM: u8 = 2;
const _: () =
    assert!((WIRE_VERSION | BRIEF_FORM) & QUIC_FIXED_BIT == 0, "the port is shared with QUIC");

const HEADER: usize = 61;
const NONCE: usize = 24;
const TAG: usize = 16;
/// Where the numbers of a brief envelope begin.
const BRIEF_NUMBERS: usize = 19;
/// Bytes that an envelope which says everything adds to a payload; a brief one adds some 60 less.
pub const OVERHEAD: usize = HEADER + NONCE + TAG;
/// Largest payload of one datagram.
pub(crate) const MAX_PAYLOAD: usize = MAX_DATAGRAM_BYTES - OVERHEAD;

/// What a good datagram carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Who sealed it.
    pub sender: NodeId,
    /// The sender's start counter.
    pub boot: u64,
    /// Whether it is addressed to this very node and start; else to whoever is at the address.
    pub addressed: bool,
    /// The content.
    pub payload: Vec<u8>,
}

/// What was seen of one sender: RFC 4303 §3.4.3 with a window of 64.
struct Window {
    boot: u64,
    highest: u64,
    /// Bit n: `highest - n` was seen.
    seen: u64,
}

impl Window {
    fn check(&self, boot: u64, sequence: u64) -> Result<(), Refusal> {
        if boot != self.boot {
            return if boot < self.boot { Err(Refusal::OldBoot) } else { Ok(()) };
        }
        if sequence > self.highest {
            return Ok(());
        }
        let age = self.highest - sequence;
        let seen = age < 64 && self.seen & (1 << age) != 0;
        if age >= 64 || (seen && !planted::is_on(Bug::AcceptReplay)) {
            return Err(Refusal::Replayed);
        }
        Ok(())
    }

    fn take(&mut self, boot: u64, sequence: u64) {
        if boot > self.boot {
            *self = Self { boot, highest: sequence, seen: 1 };
        } else if sequence > self.highest {
            let ahead = sequence - self.highest;
            self.seen = if ahead >= 64 { 1 } else { (self.seen << ahead) | 1 };
            self.highest = sequence;
        } else {
            self.seen |= 1 << (self.highest - sequence);
        }
    }
}

/// Seals what goes out and opens what comes in, for one node and one start of it.
pub struct Envelope {
    cluster: ClusterId,
    node: NodeId,
    boot: u64,
    sequence: u64,
    keyring: Keyring,
    nonces: StdRng,
    senders: HashMap<NodeId, Window>,
}

impl Envelope {
    /// For this node and start. `seed` feeds the nonces and must come from the system's random
    /// source outside of tests.
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        boot: u64,
        keyring: Keyring,
        seed: [u8; 32],
    ) -> Self {
        Self {
            cluster,
            node,
            boot,
            sequence: 0,
            keyring,
            nonces: StdRng::from_seed(seed),
            senders: HashMap::new(),
        }
    }

    /// The keys, to be changed.
    pub fn keyring_mut(&mut self) -> &mut Keyring {
        &mut self.keyring
    }

    /// The keys.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Refuses datagrams of this node from before the boot, known from an earlier run.
    pub(crate) fn expect_boot(&mut self, node: NodeId, boot: u64) {
        if self.senders.len() < MAX_MEMBERS {
            self.senders.entry(node).or_insert(Window { boot, highest: 0, seen: 1 });
        }
    }

    /// Forgets a sender that is no longer admitted.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.senders.remove(&node);
    }

    /// Seals a payload for a node and start, or with `None` for whoever is at the address; `brief` if that
    /// node understands it. `None` if the payload is too large for one datagram.
    pub fn seal(
        &mut self,
        to: Option<(NodeId, u64)>,
        payload: &[u8],
        brief: bool,
    ) -> Option<Bytes> {
        if payload.len() > MAX_PAYLOAD {
            return None;
        }
        self.sequence += 1;
        let (key_id, cipher) = self.keyring.sealing();
        let header = Header {
            form: if brief && to.is_some() { BRIEF_FORM } else { WIRE_VERSION },
            key_id,
            cluster: self.cluster,
            sender: self.node,
            boot: self.boot,
            sequence: self.sequence,
            receiver: to.unwrap_or((NodeId(0), 0)),
        };
        let mut datagram = BytesMut::with_capacity(OVERHEAD + payload.len());
        let nonce = if header.form == BRIEF_FORM {
            let random: [u8; 8] = self.nonces.random();
            datagram.put_u8(BRIEF_FORM);
            datagram.put_u64(self.node.0);
            datagram.put_slice(&random);
            datagram.put_u16(receiver_mark(header.receiver));
            put_number(&mut datagram, key_id.into());
            put_number(&mut datagram, self.boot);
            put_number(&mut datagram, self.sequence);
            header.brief_nonce(random)
        } else {
            let nonce: [u8; NONCE] = self.nonces.random();
            datagram.put_slice(&header.bytes());
            datagram.put_slice(&nonce);
            nonce
        };
        let sealed = Payload { msg: payload, aad: &header.bytes() };
        datagram.put_slice(&cipher.encrypt(&XNonce::from(nonce), sealed).ok()?);
        Some(datagram.freeze())
    }

    /// Opens a datagram. Whatever is refused changes nothing.
    ///
    /// # Errors
    /// The reason, and the sender that it claims if it got that far.
    pub fn open(
        &mut self,
        datagram: &[u8],
        admission: &dyn Admission,
    ) -> Result<Opened, (Refusal, Option<NodeId>)> {
        let garbage = (Refusal::Garbage, None);
        let Sealed { header, nonce, bytes } = match datagram.first() {
            _ if datagram.len() > MAX_DATAGRAM_BYTES => return Err(garbage),
            Some(&BRIEF_FORM) => self.read_brief(datagram)?,
            Some(first) if first & QUIC_FIXED_BIT != 0 || datagram.len() < OVERHEAD => {
                return Err(garbage);
            }
            Some(&WIRE_VERSION) => Sealed::read(datagram).ok_or(garbage)?,
            Some(_) => return Err((Refusal::Version, None)),
            None => return Err(garbage),
        };
        let Header { sender, boot, sequence, .. } = header;
        let refuse = |reason| Err((reason, Some(sender)));
        if header.cluster != self.cluster {
            return refuse(Refusal::ForeignCluster);
        }
        if sender == self.node {
            return refuse(Refusal::FromOurselves);
        }
        let addressed = match header.receiver {
            (NodeId(0), 0) => false,
            receiver if receiver == (self.node, self.boot) => true,
            _ => return refuse(Refusal::NotForUs),
        };
        if !admission.admitted(sender) {
            return refuse(Refusal::NotAdmitted);
        }
        let known = self.senders.get(&sender);
        if known.is_none() && self.senders.len() >= MAX_MEMBERS {
            return refuse(Refusal::TooManySenders);
        }
        // Before the seal is opened: a replay must cost nothing.
        if let Some(Err(reason)) = known.map(|window| window.check(boot, sequence)) {
            return refuse(reason);
        }
        let Some(cipher) = self.keyring.opening(header.key_id) else {
            return refuse(Refusal::UnknownKey);
        };
        let sealed = Payload { msg: bytes, aad: &header.bytes() };
        let Ok(payload) = cipher.decrypt(&XNonce::from(nonce), sealed) else {
            return refuse(Refusal::Forged);
        };
        self.senders
            .entry(sender)
            .or_insert(Window { boot, highest: 0, seen: 0 })
            .take(boot, sequence);
        Ok(Opened { sender, boot, addressed, payload })
    }

    /// What a brief envelope leaves out is what this node is: to another one it does not open.
    fn read_brief<'a>(&self, datagram: &'a [u8]) -> Result<Sealed<'a>, (Refusal, Option<NodeId>)> {
        let garbage = (Refusal::Garbage, None);
        let (fixed, rest) = datagram.split_first_chunk::<BRIEF_NUMBERS>().ok_or(garbage)?;
        let mut fields = &fixed[1..];
        let (sender, random) = (NodeId(fields.get_u64()), fields.get_u64().to_be_bytes());
        let numbers = postcard::take_from_bytes(rest);
        let ((key_id, boot, sequence), bytes): ((u32, _, _), _) = numbers.map_err(|_| garbage)?;
        // Each number has one form: else whoever passes it on could change how it looks.
        let shortest = number_len(key_id.into()) + number_len(boot) + number_len(sequence);
        if rest.len() - bytes.len() != shortest {
            return Err(garbage);
        }
        let receiver = (self.node, self.boot);
        if fields.get_u16() != receiver_mark(receiver) {
            return Err((Refusal::NotForUs, Some(sender)));
        }
        let (form, cluster) = (BRIEF_FORM, self.cluster);
        let header = Header { form, key_id, cluster, sender, boot, sequence, receiver };
        Ok(Sealed { header, nonce: header.brief_nonce(random), bytes })
    }
}

/// Whether it is one that leaves out what the receiver knows, if it is any.
pub(crate) fn is_brief(datagram: &[u8]) -> bool {
    datagram.first() == Some(&BRIEF_FORM)
}

/// Tells apart, nearly always, for which start of which node an envelope is.
fn receiver_mark((node, boot): (NodeId, u64)) -> u16 {
    let mixed = (node.0 ^ boot.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let [a, b, ..] = mixed.to_be_bytes();
    u16::from_be_bytes([a, b])
}

/// What is authenticated of every envelope.
#[derive(Debug, Clone, Copy)]
struct Header {
    form: u8,
    key_id: u32,
    cluster: ClusterId,
    sender: NodeId,
    boot: u64,
    sequence: u64,
    /// Node and boot; zeros if the receiver is not known.
    receiver: (NodeId, u64),
}

impl Header {
    fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut rest = &mut bytes[..];
        rest.put_u8(self.form);
        rest.put_u32(self.key_id);
        rest.put_u128(self.cluster.0);
        rest.put_u64(self.sender.0);
        rest.put_u64(self.boot);
        rest.put_u64(self.sequence);
        rest.put_u64(self.receiver.0.0);
        rest.put_u64(self.receiver.1);
        bytes
    }

    /// Two datagrams of one node have the same only if its boots were counted twice and the random
    /// numbers are the same, too. (Of boots beyond 2^24 and sequences beyond 2^40 the random numbers alone
    /// say that.)
    fn brief_nonce(&self, random: [u8; 8]) -> [u8; NONCE] {
        let mut nonce = [0; NONCE];
        let mut rest = &mut nonce[..];
        rest.put_u64(self.sender.0);
        rest.put_u64(self.sequence ^ self.boot.rotate_right(24));
        rest.put_slice(&random);
        nonce
    }
}

/// An envelope that is read and not opened.
struct Sealed<'a> {
    header: Header,
    nonce: [u8; NONCE],
    /// Ciphertext and tag.
    bytes: &'a [u8],
}

impl<'a> Sealed<'a> {
    /// One that says everything.
    fn read(datagram: &'a [u8]) -> Option<Self> {
        let (mut header, rest) = datagram.split_at_checked(HEADER)?;
        let (nonce, bytes) = rest.split_first_chunk::<NONCE>()?;
        let header = Header {
            form: header.get_u8(),
            key_id: header.get_u32(),
            cluster: ClusterId(header.get_u128()),
            sender: NodeId(header.get_u64()),
            boot: header.get_u64(),
            sequence: header.get_u64(),
            receiver: (NodeId(header.get_u64()), header.get_u64()),
        };
        Some(Self { header, nonce: *nonce, bytes })
    }
}

/// The bytes of its shortest LEB128.
fn number_len(number: u64) -> usize {
    (u64::BITS - number.leading_zeros()).div_ceil(7).max(1) as usize
}

/// LEB128, as postcard has it.
fn put_number(datagram: &mut BytesMut, number: u64) {
    let mut room = [0; 10];
    let bytes = postcard::to_slice(&number, &mut room).expect("ten bytes are enough for 64 bits");
    datagram.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;

    struct All;

    impl Admission for All {
        fn admitted(&self, _: NodeId) -> bool {
            true
        }
    }

    fn envelope(node: u64, boot: u64) -> Envelope {
        let keyring = Keyring::new(1, Key([9; 32]));
        Envelope::new(ClusterId(1), NodeId(node), boot, keyring, [node as u8; 32])
    }

    #[test]
    fn what_is_sealed_opens_once_and_in_any_order_within_the_window() {
        let (mut a, mut b) = (envelope(1, 1), envelope(2, 5));
        let to = Some((NodeId(2), 5));
        let mut seal = |n: u8| a.seal(to, &[n], n.is_multiple_of(2)).expect("it fits");
        let sealed: Vec<Bytes> = (0..100).map(&mut seal).collect();
        let mut open = |n: usize| b.open(&sealed[n], &All).map(|opened| opened.payload);
        assert_eq!(open(70), Ok(vec![70]));
        // The window reaches 63 back from the newest.
        assert_eq!(open(7), Ok(vec![7]));
        assert_eq!(open(6), Err((Refusal::Replayed, Some(NodeId(1)))));
        assert_eq!(open(7), Err((Refusal::Replayed, Some(NodeId(1)))));
        assert_eq!(open(70), Err((Refusal::Replayed, Some(NodeId(1)))));
        assert_eq!(open(99), Ok(vec![99]));
        assert_eq!(open(7), Err((Refusal::Replayed, Some(NodeId(1)))));
        assert_eq!(open(71), Ok(vec![71]));
    }

    #[test]
    fn a_new_start_of_the_sender_ends_the_old_one() {
        let (mut old, mut new, mut b) = (envelope(1, 1), envelope(1, 2), envelope(2, 1));
        let to = Some((NodeId(2), 1));
        let late = old.seal(to, b"late", true).expect("it fits");
        assert!(b.open(&new.seal(to, b"new", true).expect("it fits"), &All).is_ok());
        assert_eq!(b.open(&late, &All), Err((Refusal::OldBoot, Some(NodeId(1)))));
        // Known from the file of the last run.
        let mut fresh = envelope(2, 1);
        fresh.expect_boot(NodeId(1), 2);
        assert_eq!(fresh.open(&late, &All), Err((Refusal::OldBoot, Some(NodeId(1)))));
    }

    #[test]
    fn a_forged_packet_does_not_move_the_window() {
        let (mut a, mut b) = (envelope(1, 1), envelope(2, 1));
        let to = Some((NodeId(2), 1));
        let good = a.seal(to, b"good", false).expect("it fits");
        let mut forged = good.to_vec();
        // A far later sequence, and a far later boot.
        forged[37] = 1;
        assert_eq!(b.open(&forged, &All), Err((Refusal::Forged, Some(NodeId(1)))));
        forged[29] = 1;
        assert_eq!(b.open(&forged, &All), Err((Refusal::Forged, Some(NodeId(1)))));
        assert!(b.open(&good, &All).is_ok());
    }

    #[test]
    fn a_brief_one_opens_for_its_receiver_alone_and_every_bit_of_it_counts() {
        let (mut a, mut b) = (envelope(1, 300), envelope(2, 5));
        let receiver = (NodeId(2), 5);
        let brief = a.seal(Some(receiver), b"hello", true).expect("it fits");
        let said = a.seal(Some(receiver), b"hello", false).expect("it fits");
        assert_eq!((brief.len(), said.len()), (39 + 5, OVERHEAD + 5));
        for (node, boot) in [(2, 4), (2, 6), (3, 5)] {
            let opened = envelope(node, boot).open(&brief, &All);
            assert_eq!(opened, Err((Refusal::NotForUs, Some(NodeId(1)))), "{node}, {boot}");
        }
        // One whose mark happens to be the same.
        let namesake =
            (6..).find(|boot| receiver_mark((NodeId(2), *boot)) == receiver_mark(receiver));
        let opened = envelope(2, namesake.expect("there is one")).open(&brief, &All);
        assert_eq!(opened, Err((Refusal::Forged, Some(NodeId(1)))));
        let mut foreign = envelope(2, 5);
        foreign.cluster = ClusterId(2);
        assert_eq!(foreign.open(&brief, &All), Err((Refusal::Forged, Some(NodeId(1)))));
        for bit in 0..brief.len() * 8 {
            let mut damaged = brief.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(b.open(&damaged, &All).is_err(), "bit {bit}");
        }
        // The same numbers in a byte more each.
        let mut longer = brief[..BRIEF_NUMBERS].to_vec();
        longer.extend([0x81, 0x00, 0xac, 0x82, 0x00, 0x81, 0x00]);
        assert_eq!(brief[BRIEF_NUMBERS..BRIEF_NUMBERS + 4], [1, 0xac, 2, 1]);
        longer.extend_from_slice(&brief[BRIEF_NUMBERS + 4..]);
        assert_eq!(b.open(&longer, &All), Err((Refusal::Garbage, None)));
        for len in 0..brief.len() {
            assert!(b.open(&brief[..len], &All).is_err(), "{len} bytes");
        }
        let opened = b.open(&brief, &All).expect("it is whole");
        let payload = b"hello".to_vec();
        assert_eq!(opened, Opened { sender: NodeId(1), boot: 300, addressed: true, payload });
        assert_eq!(b.open(&brief, &All), Err((Refusal::Replayed, Some(NodeId(1)))));
        // Who is at an address is not known: nothing can be left out.
        assert_eq!(a.seal(None, b"hello", true).expect("it fits")[0], WIRE_VERSION);
    }

    #[test]
    fn no_two_starts_have_a_nonce_in_common() {
        let header = |boot, sequence| Header {
            form: BRIEF_FORM,
            key_id: 1,
            cluster: ClusterId(1),
            sender: NodeId(1),
            boot,
            sequence,
            receiver: (NodeId(2), 1),
        };
        let nonces = |boot| (0..100).map(move |n| header(boot, n).brief_nonce([7; 8]));
        let all: std::collections::HashSet<_> = (1..100).flat_map(nonces).collect();
        assert_eq!(all.len(), 99 * 100);
        for (number, len) in [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (u64::MAX, 10)]
        {
            let mut bytes = BytesMut::new();
            put_number(&mut bytes, number);
            assert_eq!((bytes.len(), number_len(number)), (len, len), "{number}");
        }
    }

    #[test]
    fn the_largest_payload_makes_the_largest_datagram() {
        let mut a = envelope(1, 1);
        let sealed = a.seal(None, &[0; MAX_PAYLOAD], true).expect("it fits");
        assert_eq!(sealed.len(), MAX_DATAGRAM_BYTES);
        assert!(a.seal(None, &[0; MAX_PAYLOAD + 1], true).is_none());
    }

    #[test]
    fn senders_are_bounded() {
        let mut b = envelope(u64::MAX, 1);
        for node in 1..=MAX_MEMBERS as u64 {
            b.expect_boot(NodeId(node), 1);
        }
        let packet = envelope(MAX_MEMBERS as u64 + 1, 1)
            .seal(Some((NodeId(u64::MAX), 1)), b"one more", false)
            .expect("it fits");
        let refused = b.open(&packet, &All).map(|_| ());
        assert_eq!(refused.map_err(|(reason, _)| reason), Err(Refusal::TooManySenders));
    }
}
