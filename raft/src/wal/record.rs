//! One record: a header of 32 bytes and a payload, at an offset that is a multiple of eight.
//!
//! | bytes | field, little endian |
//! |---|---|
//! | 0..4 | CRC32C of bytes 4..32 |
//! | 4..8 | CRC32C of the payload |
//! | 8..12 | payload length (24 bits), kind (top 8 bits) |
//! | 12..16 | offset up to which the segment was synced when this was written |
//! | 16..24 | generation of the segment |
//! | 24..32 | sequence number |
//!
//! The header has a checksum of its own so that a length is believed, or not, before it is used.

use bytes::Bytes;

/// Size of a record's header.
pub(super) const RECORD_HEADER_BYTES: usize = 32;
/// Records start at multiples of this, so that a search for one has few places to look at.
pub(super) const ALIGN: usize = 8;
/// What 24 bits can say.
pub(super) const MAX_PAYLOAD_BYTES: usize = (1 << 24) - 1;
/// An entry's payload starts with its index.
pub(super) const ENTRY_PREFIX_BYTES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The image; first in each segment.
    State = 1,
    Entry = 2,
    Vote = 3,
    Committed = 4,
    /// The new next index.
    Truncate = 5,
    /// The purged index, then its log id.
    Purge = 6,
    /// Nothing but the news that all before it is synced; written by a clean close.
    Mark = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::State,
            2 => Self::Entry,
            3 => Self::Vote,
            4 => Self::Committed,
            5 => Self::Truncate,
            6 => Self::Purge,
            7 => Self::Mark,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) payload_crc: u32,
    pub(super) len: usize,
    pub(super) kind: Kind,
    pub(super) durable: u32,
    pub(super) generation: u64,
    pub(super) sequence: u64,
}

/// Bytes that a record with this payload takes in a segment.
pub(super) const fn footprint(payload: usize) -> usize {
    (RECORD_HEADER_BYTES + payload).next_multiple_of(ALIGN)
}

/// Appends a record to `out`, whose end is at a multiple of eight in the segment.
pub(super) fn encode(
    out: &mut Vec<u8>,
    kind: Kind,
    parts: [&[u8]; 2],
    durable: u32,
    generation: u64,
    sequence: u64,
) {
    let start = out.len();
    let len = parts[0].len() + parts[1].len();
    assert!(len <= MAX_PAYLOAD_BYTES, "payloads are bounded when they are handed in");
    let crc = crc32c::crc32c_append(crc32c::crc32c(parts[0]), parts[1]);
    let len_kind = (len as u32) | (u32::from(kind as u8) << 24);
    let mut header = [0; RECORD_HEADER_BYTES];
    header[4..8].copy_from_slice(&crc.to_le_bytes());
    header[8..12].copy_from_slice(&len_kind.to_le_bytes());
    header[12..16].copy_from_slice(&durable.to_le_bytes());
    header[16..24].copy_from_slice(&generation.to_le_bytes());
    header[24..32].copy_from_slice(&sequence.to_le_bytes());
    let header_crc = crc32c::crc32c(&header[4..]);
    header[..4].copy_from_slice(&header_crc.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(parts[0]);
    out.extend_from_slice(parts[1]);
    out.resize(start + footprint(len), 0);
}

/// The header at the start of `bytes`, if there is a sound one.
pub(super) fn header(bytes: &[u8]) -> Option<Header> {
    let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
    let mut r = Reader(bytes);
    let header_crc = r.u32()?;
    if header_crc != crc32c::crc32c(&bytes[4..]) {
        return None;
    }
    let (payload_crc, len_kind, durable) = (r.u32()?, r.u32()?, r.u32()?);
    Some(Header {
        payload_crc,
        len: (len_kind & 0x00ff_ffff) as usize,
        kind: Kind::from_byte((len_kind >> 24) as u8)?,
        durable,
        generation: r.u64()?,
        sequence: r.u64()?,
    })
}

/// The payload that belongs to a header, if it is whole and sound.
pub(super) fn payload<'a>(header: &Header, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let payload = bytes.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + header.len)?;
    (crc32c::crc32c(payload) == header.payload_crc).then_some(payload)
}

/// What a payload says.
#[derive(Debug)]
pub(super) enum Content<'a> {
    State(super::image::Image),
    Entry { index: u64, data: &'a [u8] },
    Vote(Bytes),
    Committed(Bytes),
    Truncate { next: u64 },
    Purge { upto: u64, log_id: Bytes },
    Mark,
}

impl<'a> Content<'a> {
    pub(super) fn decode(kind: Kind, payload: &'a [u8]) -> Option<Self> {
        let mut r = Reader(payload);
        Some(match kind {
            Kind::State => Self::State(super::image::Image::decode(payload)?),
            Kind::Entry => Self::Entry { index: r.u64()?, data: r.0 },
            Kind::Vote => Self::Vote(Bytes::copy_from_slice(payload)),
            Kind::Committed => Self::Committed(Bytes::copy_from_slice(payload)),
            Kind::Truncate => Self::Truncate { next: r.u64()? },
            Kind::Purge => Self::Purge { upto: r.u64()?, log_id: Bytes::copy_from_slice(r.0) },
            Kind::Mark => Self::Mark,
        })
    }
}

/// Takes little-endian fields off the front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_record_is_seen() {
        let mut bytes = Vec::new();
        encode(&mut bytes, Kind::Entry, [&7u64.to_le_bytes(), b"hello"], 512, 99, 3);
        assert_eq!(bytes.len(), footprint(13));
        let sound = |b: &[u8]| header(b).is_some_and(|h| payload(&h, b).is_some());
        assert!(sound(&bytes));
        // Padding is not covered; nothing reads it.
        for bit in 0..(RECORD_HEADER_BYTES + 13) * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!sound(&bytes), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
