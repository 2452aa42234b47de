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

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use chacha20poly1305::{XNonce, aead::Aead, aead::Payload};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use swarmer_model::{
    ClusterId, NodeId,
    planted::{self, Bug},
};

use crate::{Admission, Keyring, MAX_DATAGRAM_BYTES, MAX_MEMBERS, Refusal};

/// The version of envelope and messages that this build speaks.
pub const WIRE_VERSION: u8 = 1;
/// The bit that a QUIC packet has set in its first byte.
pub(crate) const QUIC_FIXED_BIT: u8 = 0x40;
const _: () = assert!(WIRE_VERSION & QUIC_FIXED_BIT == 0, "the port is shared with QUIC");

const HEADER: usize = 61;
const NONCE: usize = 24;
const TAG: usize = 16;
/// Bytes that the envelope adds to a payload.
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

    /// Seals a payload for a node and start, or with `None` for whoever is at the address.
    /// `None` if the payload is too large for one datagram.
    pub fn seal(&mut self, to: Option<(NodeId, u64)>, payload: &[u8]) -> Option<Bytes> {
        if payload.len() > MAX_PAYLOAD {
            return None;
        }
        self.sequence += 1;
        let (receiver, receiver_boot) = to.unwrap_or((NodeId(0), 0));
        let (key_id, cipher) = self.keyring.sealing();
        let mut datagram = BytesMut::with_capacity(OVERHEAD + payload.len());
        datagram.put_u8(WIRE_VERSION);
        datagram.put_u32(key_id);
        datagram.put_u128(self.cluster.0);
        datagram.put_u64(self.node.0);
        datagram.put_u64(self.boot);
        datagram.put_u64(self.sequence);
        datagram.put_u64(receiver.0);
        datagram.put_u64(receiver_boot);
        let nonce: [u8; NONCE] = self.nonces.random();
        let sealed =
            cipher.encrypt(&XNonce::from(nonce), Payload { msg: payload, aad: &datagram }).ok()?;
        datagram.put_slice(&nonce);
        datagram.put_slice(&sealed);
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
        if datagram.len() < OVERHEAD || datagram.len() > MAX_DATAGRAM_BYTES {
            return Err((Refusal::Garbage, None));
        }
        let u64_at = |at: usize| {
            u64::from_be_bytes(datagram[at..at + 8].try_into().expect("eight bytes are eight"))
        };
        let fixed: [u8; 4] = datagram[1..5].try_into().expect("four bytes are four");
        let cluster: [u8; 16] = datagram[5..21].try_into().expect("sixteen bytes are sixteen");
        if datagram[0] & QUIC_FIXED_BIT != 0 {
            return Err((Refusal::Garbage, None));
        }
        if datagram[0] != WIRE_VERSION {
            return Err((Refusal::Version, None));
        }
        let (sender, boot, sequence) = (NodeId(u64_at(21)), u64_at(29), u64_at(37));
        let refuse = |reason| Err((reason, Some(sender)));
        if u128::from_be_bytes(cluster) != self.cluster.0 {
            return refuse(Refusal::ForeignCluster);
        }
        if sender == self.node {
            return refuse(Refusal::FromOurselves);
        }
        let addressed = match (u64_at(45), u64_at(53)) {
            (0, 0) => false,
            (node, boot) if node == self.node.0 && boot == self.boot => true,
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
        let Some(cipher) = self.keyring.opening(u32::from_be_bytes(fixed)) else {
            return refuse(Refusal::UnknownKey);
        };
        let nonce: [u8; NONCE] =
            datagram[HEADER..HEADER + NONCE].try_into().expect("the length was checked");
        let sealed = Payload { msg: &datagram[HEADER + NONCE..], aad: &datagram[..HEADER] };
        let Ok(payload) = cipher.decrypt(&XNonce::from(nonce), sealed) else {
            return refuse(Refusal::Forged);
        };
        self.senders
            .entry(sender)
            .or_insert(Window { boot, highest: 0, seen: 0 })
            .take(boot, sequence);
        Ok(Opened { sender, boot, addressed, payload })
    }
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
        let sealed: Vec<Bytes> = (0..100_u8).map(|n| a.seal(to, &[n]).expect("it fits")).collect();
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
        let late = old.seal(to, b"late").expect("it fits");
        assert!(b.open(&new.seal(to, b"new").expect("it fits"), &All).is_ok());
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
        let good = a.seal(to, b"good").expect("it fits");
        let mut forged = good.to_vec();
        // A far later sequence, and a far later boot.
        forged[37] = 1;
        assert_eq!(b.open(&forged, &All), Err((Refusal::Forged, Some(NodeId(1)))));
        forged[29] = 1;
        assert_eq!(b.open(&forged, &All), Err((Refusal::Forged, Some(NodeId(1)))));
        assert!(b.open(&good, &All).is_ok());
    }

    #[test]
    fn the_largest_payload_makes_the_largest_datagram() {
        let mut a = envelope(1, 1);
        let sealed = a.seal(None, &[0; MAX_PAYLOAD]).expect("it fits");
        assert_eq!(sealed.len(), MAX_DATAGRAM_BYTES);
        assert!(a.seal(None, &[0; MAX_PAYLOAD + 1]).is_none());
    }

    #[test]
    fn senders_are_bounded() {
        let mut b = envelope(u64::MAX, 1);
        for node in 1..=MAX_MEMBERS as u64 {
            b.expect_boot(NodeId(node), 1);
        }
        let packet = envelope(MAX_MEMBERS as u64 + 1, 1)
            .seal(Some((NodeId(u64::MAX), 1)), b"one more")
            .expect("it fits");
        let refused = b.open(&packet, &All).map(|_| ());
        assert_eq!(refused.map_err(|(reason, _)| reason), Err(Refusal::TooManySenders));
    }
}
