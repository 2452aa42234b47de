//! Reading entries: from memory where they are recent, else from their segment, checked.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::error::WalError;
use super::image::Location;
use super::record::{self, Content, ENTRY_PREFIX_BYTES};
use super::segment;
use super::shared::Shared;
use crate::disk::DiskFile;

/// One read from disk takes in at most this much of neighbouring entries.
const MAX_SPAN_BYTES: u64 = 1024 * 1024;

impl Shared {
    pub(super) fn read(
        &self,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Bytes)>, WalError> {
        let mut stored = Vec::new();
        let mut cached = Vec::new();
        {
            let state = self.state.lock();
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            let (lo, hi) = (range.start.max(state.image.first), range.end.min(state.image.next));
            let mut room = max_bytes;
            for index in lo..hi {
                let from_cache = state.cache.get(index);
                let location = state.index.get(index);
                let len = match (from_cache, location) {
                    (Some(data), _) => data.len(),
                    (None, Some(location)) => location.len as usize,
                    (None, None) => unreachable!("an entry is in the cache until it is indexed"),
                };
                if len > room && index > lo {
                    break;
                }
                room = room.saturating_sub(len);
                match (from_cache, location) {
                    (Some(data), _) => cached.push((index, data.clone())),
                    (None, Some(location)) => {
                        let file = state.files.get(&location.segment);
                        let file = file.expect("the segment of an indexed entry is open");
                        stored.push((index, location, Arc::clone(file)));
                    }
                    (None, None) => {}
                }
            }
        }
        // Open files stay readable when a purge removes them meanwhile.
        let mut out = Vec::with_capacity(stored.len() + cached.len());
        let mut rest = &stored[..];
        while let Some((_, start, _)) = rest.first() {
            let from = u64::from(start.offset);
            let together = rest
                .iter()
                .take_while(|(_, l, _)| {
                    l.segment == start.segment && end_of(l) <= from + MAX_SPAN_BYTES
                })
                .count()
                .max(1);
            let (span, after) = rest.split_at(together);
            self.read_span(span, &mut out).inspect_err(|error| {
                self.fail(&mut self.state.lock(), error.clone());
            })?;
            rest = after;
        }
        out.extend(cached);
        Ok(out)
    }

    /// Reads neighbouring entries of one segment, and checks each.
    fn read_span(
        &self,
        span: &[(u64, Location, Arc<dyn DiskFile>)],
        out: &mut Vec<(u64, Bytes)>,
    ) -> Result<(), WalError> {
        let (Some((_, first, file)), Some((_, last, _))) = (span.first(), span.last()) else {
            return Ok(());
        };
        let path = segment::path(&self.config.dir, first.segment);
        let from = u64::from(first.offset);
        let mut buf = vec![0; usize::try_from(end_of(last) - from).unwrap_or(usize::MAX)];
        let read = file.read_at(&mut buf, from).map_err(|e| WalError::io("read", &path, e))?;
        buf.truncate(read);
        let buf = Bytes::from(buf);
        for (index, location, _) in span {
            let at = (location.offset - first.offset) as usize;
            let bytes = buf.get(at..).unwrap_or_default();
            let sound = record::header(bytes)
                .and_then(|h| Content::decode(h.kind, record::payload(&h, bytes)?));
            match sound {
                Some(Content::Entry { index: found, data }) if found == *index => {
                    out.push((*index, buf.slice_ref(data)));
                }
                _ => {
                    let reason = format!("the record of entry {index} does not check");
                    return Err(WalError::damaged(&path, u64::from(location.offset), reason));
                }
            }
        }
        Ok(())
    }
}

fn end_of(location: &Location) -> u64 {
    let payload = ENTRY_PREFIX_BYTES + location.len as usize;
    u64::from(location.offset) + record::footprint(payload) as u64
}
