//! What a stranger sends on a bare socket, and what it is answered there.

use crate::seed::Seeded;

/// Set in the first byte of every QUIC packet (RFC 9000, section 17) and of nothing else that nodes
/// send each other.
const FIXED: u8 = 0x40;
/// Set in those with a long header.
const LONG: u8 = 0x80;
/// The type of a Retry among those (section 17.2.5).
const RETRY: u8 = 0x30;
/// The least size of a datagram that opens a connection: a smaller one is not even answered by the
/// versions that are spoken (section 14.1).
const OPENING: u64 = 1_200;
/// The most that one datagram has.
const MOST: u64 = 1_400;

fn bytes(random: &mut Seeded, count: u64) -> Vec<u8> {
    (0..count).map(|_| u8::try_from(random.below(256)).unwrap_or(0)).collect()
}

/// Random bytes that are no QUIC.
pub(super) fn noise(random: &mut Seeded) -> Vec<u8> {
    let count = random.between(1, MOST);
    let mut packet = bytes(random, count);
    packet[0] &= !FIXED;
    packet
}

/// Random bytes that are QUIC by their first one; of some version that nobody speaks, or of a
/// connection that nobody has.
pub(super) fn quic_noise(random: &mut Seeded) -> Vec<u8> {
    let count = random.between(OPENING, MOST);
    let mut packet = bytes(random, count);
    packet[0] |= FIXED;
    packet[0] = if random.chance(60) { packet[0] | LONG } else { packet[0] & !LONG };
    packet
}

/// The same packet with one to four bits changed, or without its end. It is no QUIC, as it was none.
pub(super) fn flipped(random: &mut Seeded, packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if random.chance(20) && packet.len() > 1 {
        let length = random.between(1, packet.len() as u64 - 1);
        packet.truncate(usize::try_from(length).unwrap_or(1));
        return packet;
    }
    // Each in a byte of its own: two flips of one bit would be none.
    let (first, most) = (random.index(packet.len()), random.index(4));
    for at in (first..packet.len()).step_by(7).take(most + 1) {
        let bit = random.index(8);
        // Not the bit that says what it is.
        let bit = if at == 0 && 1 << bit == FIXED { 0 } else { bit };
        packet[at] ^= 1 << bit;
    }
    packet
}

/// Whether an answer of QUIC grants nothing: other versions, a demand to prove the address, or the
/// word that there is no such connection.
pub(super) fn is_refusal(answer: &[u8]) -> bool {
    let [first, version @ ..] = answer else { return false };
    let is_long = first & LONG != 0;
    !is_long || version.starts_with(&[0, 0, 0, 0]) || first & RETRY == RETRY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_what_it_says_and_the_same_for_the_same_seed() {
        let (mut random, mut again) = (Seeded::new(7, "x"), Seeded::new(7, "x"));
        let sent: Vec<u8> = (0..=255).map(|byte: u8| byte & !FIXED).collect();
        let mut cut = 0;
        for _ in 0..500 {
            assert_eq!(noise(&mut random)[0] & FIXED, 0);
            let quic = quic_noise(&mut random);
            assert!(quic[0] & FIXED != 0 && quic.len() as u64 >= OPENING);
            let flipped = flipped(&mut random, &sent);
            assert!(flipped != sent && !flipped.is_empty());
            assert_eq!(flipped[0] & FIXED, 0, "it is still no QUIC");
            cut += u32::from(flipped.len() < sent.len());
        }
        assert!((50..200).contains(&cut), "{cut} of 500 lost their end");
        assert_eq!(noise(&mut Seeded::new(1, "x")), noise(&mut Seeded::new(1, "x")));
        assert_ne!(noise(&mut again), noise(&mut random));
    }

    #[test]
    fn only_what_grants_nothing_is_a_refusal() {
        assert!(is_refusal(&[0xc0, 0, 0, 0, 0, 8]), "other versions are spoken");
        assert!(is_refusal(&[0xf0, 0, 0, 0, 1, 8]), "the address is to be proven");
        assert!(is_refusal(&[0x41, 7, 7]), "there is no such connection");
        assert!(!is_refusal(&[0xc0, 0, 0, 0, 1, 8]), "a handshake goes on");
        assert!(!is_refusal(&[]));
    }
}
