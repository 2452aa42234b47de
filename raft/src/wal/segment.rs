//! A segment file: its name, its header, and what is in it.

use std::path::{Path, PathBuf};

use super::error::WalError;
use super::image::MAX_STATE_FIELD_BYTES;
use super::record::{self, ALIGN, Content, Header, RECORD_HEADER_BYTES, Reader};

/// The unit that a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;
/// The header has a sector for itself, so it is whole or absent.
pub(super) const SEGMENT_HEADER_BYTES: usize = SECTOR_BYTES;
/// The most that an encoded image takes.
pub(super) const MAX_STATE_BYTES: usize = 3 * MAX_STATE_FIELD_BYTES + 64;
/// The format that this version writes. A later one keeps the place of magic, checksum and
/// version, so that an older program can say what it met.
pub(super) const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"SWRMWAL\n";
const SUFFIX: &str = ".wal";

/// The path of a segment.
pub(super) fn path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:016x}{SUFFIX}"))
}

/// The id in a file's name, if the file is a segment.
pub(super) fn id_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (digits.len() == 16 && plain).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// The first sector of a segment in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) id: u64,
    pub(super) generation: u64,
    /// Generation of the segment before; 0 for the first of a log.
    pub(super) before: u64,
    /// Where the records of the segment before end.
    pub(super) before_end: u64,
    /// Sequence number of the first record.
    pub(super) sequence: u64,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        let fields = [self.id, self.generation, self.before, self.before_end, self.sequence];
        for (slot, field) in out[16..].chunks_exact_mut(8).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        let crc = Self::checksum(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn checksum(sector: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&sector[..12]), &sector[16..])
    }

    /// Reads the header of the segment `id`. `None`: the sector was never written.
    pub(super) fn decode(sector: &[u8], id: u64, path: &Path) -> Result<Option<Self>, WalError> {
        if sector.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let bad = |reason: &str| Err(WalError::damaged(path, 0, reason));
        let mut r = Reader(sector);
        let magic = r.take(8);
        let (Some(version), Some(crc)) = (r.u32(), r.u32()) else {
            return bad("the segment is shorter than its header");
        };
        if sector.len() != SEGMENT_HEADER_BYTES || magic != Some(&MAGIC[..]) {
            return bad("this is not the header of a segment");
        }
        if crc != Self::checksum(sector) {
            return bad("the checksum of the segment's header is wrong");
        }
        if version != FORMAT {
            return Err(WalError::Version {
                path: path.to_path_buf(),
                found: version,
                supported: FORMAT,
            });
        }
        let mut field = || r.u64().expect("the sector has room for all fields");
        let header = Self {
            id: field(),
            generation: field(),
            before: field(),
            before_end: field(),
            sequence: field(),
        };
        if header.id != id {
            return bad(&format!("the file holds segment {:016x} under a foreign name", header.id));
        }
        Ok(Some(header))
    }
}

/// Walks over the records of one segment up to the first place that holds none.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    generation: u64,
    /// The sequence number that the next record must have.
    pub(super) sequence: u64,
    /// Where the next record would start.
    pub(super) offset: usize,
    /// The highest sync position that a record named.
    pub(super) durable: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a [u8], header: &SegmentHeader) -> Self {
        Self {
            bytes,
            generation: header.generation,
            sequence: header.sequence,
            offset: SEGMENT_HEADER_BYTES,
            durable: 0,
        }
    }

    /// The next record with its offset; `None` where there is no sound one.
    pub(super) fn next(&mut self) -> Option<(usize, Content<'a>)> {
        let at = self.bytes.get(self.offset..)?;
        let header = record::header(at)?;
        if header.generation != self.generation || header.sequence != self.sequence {
            return None;
        }
        let payload = record::payload(&header, at)?;
        let content = Content::decode(header.kind, payload)?;
        let offset = self.offset;
        self.offset += record::footprint(header.len);
        self.sequence += 1;
        self.durable = self.durable.max(header.durable as usize);
        Some((offset, content))
    }

    /// Judges the place where [`Scanner::next`] stopped, in the last segment of a log: `Ok` if
    /// the log may end there, or what proves damage.
    ///
    /// New segments are full of zeros and sectors are written whole, so a write that power loss
    /// interrupted leaves at least one sector of zeros in the record that does not check.
    /// Anything else was changed after it was written.
    pub(super) fn judge_end(&self) -> Result<(), String> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        if is_zero(rest) {
            return Ok(());
        }
        if let Some((at, header)) = self.proof_of_more() {
            return Err(format!(
                "no sound record here, but the record at byte {at} was written when everything \
                 below byte {} was synced",
                header.durable
            ));
        }
        let in_sector = SECTOR_BYTES - self.offset % SECTOR_BYTES;
        let (here, beyond) = rest.split_at(in_sector.min(rest.len()));
        if is_zero(here) {
            return Ok(());
        }
        let next_sector = &beyond[..SECTOR_BYTES.min(beyond.len())];
        if in_sector < RECORD_HEADER_BYTES && is_zero(next_sector) {
            return Ok(());
        }
        let Some(header) = record::header(rest) else {
            return Err("the header of a record does not match its checksum".to_owned());
        };
        if header.generation != self.generation {
            // Left over from an earlier use of the same blocks: as good as zeros.
            return Ok(());
        }
        if header.sequence != self.sequence {
            return Err(format!(
                "record {} stands where record {} belongs",
                header.sequence, self.sequence
            ));
        }
        let end = record::footprint(header.len).saturating_sub(in_sector).min(beyond.len());
        let end = end.next_multiple_of(SECTOR_BYTES).min(beyond.len());
        if beyond[..end].chunks(SECTOR_BYTES).any(is_zero) {
            return Ok(());
        }
        Err("the payload of a record does not match its checksum".to_owned())
    }

    /// A record after this place which says that this place had been synced.
    fn proof_of_more(&self) -> Option<(usize, Header)> {
        find_record(self.bytes, self.offset, |h| {
            h.generation == self.generation && h.durable as usize > self.offset
        })
    }
}

/// The first sound record header at or after `from` that `want` accepts.
fn find_record(
    bytes: &[u8],
    from: usize,
    want: impl Fn(&Header) -> bool,
) -> Option<(usize, Header)> {
    let mut at = from.next_multiple_of(ALIGN);
    while at + RECORD_HEADER_BYTES <= bytes.len() {
        // The checksum of a header is hardly ever zero, and most of what is searched is.
        if bytes[at..at + ALIGN] != [0; ALIGN]
            && let Some(header) = record::header(&bytes[at..])
            && want(&header)
        {
            return Some((at, header));
        }
        at += ALIGN;
    }
    None
}

/// Whether a segment without a header holds a record that had been acknowledged, so that the
/// header cannot have been missing when it was written.
pub(super) fn lost_its_header(bytes: &[u8]) -> bool {
    find_record(bytes, SEGMENT_HEADER_BYTES, |h| h.durable > 0).is_some()
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}
