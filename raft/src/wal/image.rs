//! What the log holds besides the entries themselves, and where the entries are.

use std::collections::VecDeque;

use bytes::Bytes;

use super::record::Reader;

/// A vote, a committed index or a log id; they are a few dozen bytes.
pub const MAX_STATE_FIELD_BYTES: usize = 1024;

/// The small state of the log at one point of its order.
///
/// Entries are `first..next`. The front end, the writer and the replay each keep one and apply
/// the same operations to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) purged: Option<(u64, Bytes)>,
    pub(super) first: u64,
    pub(super) next: u64,
}

impl Image {
    /// The index that must come next, or `None` where any may: in a log that never had a purge
    /// and has no entry.
    pub(super) fn expected(&self) -> Option<u64> {
        (self.first < self.next || self.purged.is_some()).then_some(self.next)
    }

    pub(super) fn append(&mut self, first: u64, count: u64) {
        if self.first == self.next {
            self.first = first;
        }
        self.next = first + count;
    }

    /// Keeps the entries below `next`.
    pub(super) fn truncate(&mut self, next: u64) {
        self.next = self.next.min(next.max(self.first));
    }

    /// Drops the entries up to and with `upto`; a purge never goes back.
    pub(super) fn purge(&mut self, upto: u64, log_id: Bytes) {
        if self.purged.as_ref().is_some_and(|(before, _)| *before >= upto) {
            return;
        }
        let first = upto.saturating_add(1);
        if first >= self.next || self.first == self.next {
            (self.first, self.next) = (first, first);
        } else {
            self.first = self.first.max(first);
        }
        self.purged = Some((upto, log_id));
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.next.to_le_bytes());
        let purged = self.purged.as_ref();
        out.extend_from_slice(&purged.map_or(0, |(index, _)| *index).to_le_bytes());
        for field in [self.vote.as_ref(), self.committed.as_ref(), purged.map(|(_, id)| id)] {
            match field {
                None => out.extend_from_slice(&u32::MAX.to_le_bytes()),
                Some(bytes) => {
                    let len = u32::try_from(bytes.len()).expect("checked when it was handed in");
                    out.extend_from_slice(&len.to_le_bytes());
                    out.extend_from_slice(bytes);
                }
            }
        }
        out
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut r = Reader(payload);
        let (first, next, purged_index) = (r.u64()?, r.u64()?, r.u64()?);
        let mut field = || -> Option<Option<Bytes>> {
            match r.u32()? {
                u32::MAX => Some(None),
                len => Some(Some(Bytes::copy_from_slice(r.take(len as usize)?))),
            }
        };
        let (vote, committed, log_id) = (field()?, field()?, field()?);
        let purged = log_id.map(|id| (purged_index, id));
        (r.0.is_empty() && first <= next).then_some(Self { vote, committed, purged, first, next })
    }
}

/// Where the data of one entry lies. 16 bytes, one for each entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) segment: u64,
    /// Offset of the record in its segment.
    pub(super) offset: u32,
    /// Length of the entry's data, without any header.
    pub(super) len: u32,
}

/// The locations of the entries that are written.
#[derive(Debug, Default)]
pub(super) struct Index {
    first: u64,
    at: VecDeque<Location>,
}

impl Index {
    pub(super) fn get(&self, index: u64) -> Option<Location> {
        let slot = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.at.get(slot).copied()
    }

    /// The lowest index from which on the entries are at most so many bytes.
    pub(super) fn first_within(&self, bytes: u64) -> u64 {
        let mut room = bytes;
        let fits = self.at.iter().rev().take_while(|location| {
            let after = room.checked_sub(u64::from(location.len));
            room = after.unwrap_or_default();
            after.is_some()
        });
        let fits = fits.count() as u64;
        self.next() - fits
    }

    /// The index after the last one.
    pub(super) fn next(&self) -> u64 {
        self.first + self.at.len() as u64
    }

    /// The segment of the lowest entry. Entries lie in rising order, so nothing is below it.
    pub(super) fn lowest_segment(&self) -> Option<u64> {
        self.at.front().map(|l| l.segment)
    }

    pub(super) fn covers(&self, first: u64, next: u64) -> bool {
        first == next || (self.first <= first && self.next() >= next)
    }

    pub(super) fn push(&mut self, index: u64, location: Location) {
        if self.next() != index {
            // Only a start on an empty log or after a purge beyond its end.
            self.at.clear();
            self.first = index;
        }
        self.at.push_back(location);
    }

    pub(super) fn truncate(&mut self, next: u64) {
        let keep = next.saturating_sub(self.first);
        self.at.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    pub(super) fn drop_below(&mut self, first: u64) {
        while self.first < first && self.at.pop_front().is_some() {
            self.first += 1;
        }
        if self.at.is_empty() {
            self.at.shrink_to(1024);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_survives_its_encoding() {
        let mut image = Image { vote: Some(Bytes::from_static(b"v")), ..Image::default() };
        image.append(5, 10);
        image.purge(7, Bytes::from_static(b"id"));
        assert_eq!(Image::decode(&image.encode()), Some(image.clone()));
        let cut = image.encode();
        for len in 0..cut.len() {
            assert_eq!(Image::decode(&cut[..len]), None, "cut at {len}");
        }
    }

    #[test]
    fn the_last_entries_are_found_by_their_bytes() {
        let mut index = Index::default();
        for (at, len) in [(5, 100), (6, 50), (7, 30), (8, 20)] {
            index.push(at, Location { segment: 1, offset: 0, len });
        }
        for (bytes, first) in [(0, 9), (19, 9), (20, 8), (49, 8), (50, 7), (199, 6), (200, 5)] {
            assert_eq!(index.first_within(bytes), first, "{bytes} bytes");
        }
        assert_eq!(Index::default().first_within(9), 0);
    }

    #[test]
    fn a_purge_beyond_the_end_moves_the_log_and_never_goes_back() {
        let mut image = Image::default();
        image.append(0, 10);
        image.purge(20, Bytes::new());
        assert_eq!((image.first, image.next, image.expected()), (21, 21, Some(21)));
        image.purge(5, Bytes::from_static(b"old"));
        assert_eq!(image.purged, Some((20, Bytes::new())));
    }
}
