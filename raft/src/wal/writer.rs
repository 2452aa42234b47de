//! The core that turns operations into bytes of segments. No queue, thread or clock in here.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use swarmer_model::planted::{self, Bug};

use super::config::WalConfig;
use super::error::WalError;
use super::image::{Image, Index, Location};
use super::record::{self, Kind};
use super::segment::{self, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::shared::Op;
use crate::disk::{Disk, DiskFile};

/// Zeros written to the coming segment after each group: a few hundred microseconds, so that no
/// group waits for a whole segment.
const SPARE_STEP_BYTES: u64 = 512 * 1024;
/// Segments removed after each group; a removal is about a millisecond.
const REMOVE_STEP: usize = 2;

/// What a commit changed, for those who read.
#[derive(Debug)]
pub(super) enum Change {
    Append { first: u64, at: Vec<Location> },
    Truncate { next: u64 },
    Purge { first: u64 },
    Opened { segment: u64, file: Arc<dyn DiskFile> },
}

/// The segment that records go to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) id: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) generation: u64,
    /// Size of the file.
    pub(super) capacity: u64,
    /// Where the next write goes; everything below is written.
    pub(super) end: u64,
    /// Everything below is synced.
    pub(super) durable: u64,
}

/// The segment that comes next.
#[derive(Debug)]
struct Spare {
    id: u64,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    filled: u64,
    ready: bool,
}

/// Counts of what went to the disk.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) records: u64,
    pub(super) fsyncs: u64,
}

/// Writes records and keeps the set of segments. After an error it must not be used again.
#[derive(Debug)]
pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    /// As of the last record in `buf`.
    image: Image,
    sequence: u64,
    active: Active,
    spare: Option<Spare>,
    /// Older segments that still hold wanted entries, oldest first.
    older: VecDeque<u64>,
    doomed: VecDeque<u64>,
    /// Encoded, not yet written.
    buf: Vec<u8>,
    pub(super) written: Written,
}

impl Writer {
    /// Goes on with a recovered log.
    pub(super) fn resume(
        disk: Arc<dyn Disk>,
        config: &WalConfig,
        image: Image,
        sequence: u64,
        active: Active,
        older: VecDeque<u64>,
    ) -> Self {
        Self {
            disk,
            dir: config.dir.clone(),
            segment_bytes: config.segment_bytes,
            image,
            sequence,
            active,
            spare: None,
            older,
            doomed: VecDeque::new(),
            buf: Vec::new(),
            written: Written::default(),
        }
    }

    /// Makes the first segment of a new log, durable on return.
    pub(super) fn create(disk: Arc<dyn Disk>, config: &WalConfig) -> Result<Self, WalError> {
        let mut spare = Spare::create(&disk, config.dir.clone(), 1)?;
        while !spare.advance(&disk, &config.dir, config.segment_bytes)? {}
        let active = spare.activate(config.segment_bytes);
        let mut writer = Self::resume(disk, config, Image::default(), 1, active, VecDeque::new());
        writer.begin_segment(0, 0);
        writer.flush()?;
        writer.sync()?;
        Ok(writer)
    }

    pub(super) fn active(&self) -> (u64, Arc<dyn DiskFile>) {
        (self.active.id, Arc::clone(&self.active.file))
    }

    pub(super) fn segments(&self) -> usize {
        self.older.len() + 1
    }

    /// Writes a group of operations, and syncs unless there is nothing but a committed position.
    pub(super) fn commit<'a>(
        &mut self,
        ops: impl Iterator<Item = &'a Op>,
        committed: Option<Bytes>,
    ) -> Result<Vec<Change>, WalError> {
        let mut changes = Vec::new();
        let mut sync = false;
        for op in ops {
            sync |= must_be_synced(op);
            self.encode(op, &mut changes)?;
        }
        // Last, so that it never comes back without the entries that it speaks of.
        if let Some(committed) = committed {
            self.put(Kind::Committed, [&committed, &[]], &mut changes)?;
            self.image.committed = Some(committed);
        }
        self.flush()?;
        if sync {
            self.sync()?;
        }
        Ok(changes)
    }

    fn encode(&mut self, op: &Op, changes: &mut Vec<Change>) -> Result<(), WalError> {
        match op {
            Op::Append { first, entries } => {
                let mut at = Vec::with_capacity(entries.len());
                for (index, data) in (*first..).zip(entries) {
                    let (segment, offset) =
                        self.put(Kind::Entry, [&index.to_le_bytes(), data], changes)?;
                    self.image.append(index, 1);
                    at.push(Location { segment, offset, len: data.len() as u32 });
                }
                changes.push(Change::Append { first: *first, at });
            }
            Op::Vote(vote) => {
                self.put(Kind::Vote, [vote, &[]], changes)?;
                self.image.vote = Some(vote.clone());
            }
            Op::Truncate { next } => {
                self.put(Kind::Truncate, [&next.to_le_bytes(), &[]], changes)?;
                self.image.truncate(*next);
                changes.push(Change::Truncate { next: *next });
            }
            Op::Purge { upto, log_id } => {
                self.put(Kind::Purge, [&upto.to_le_bytes(), log_id], changes)?;
                self.image.purge(*upto, log_id.clone());
                changes.push(Change::Purge { first: self.image.first });
            }
            Op::Refused(_) => {}
        }
        Ok(())
    }

    /// Encodes one record into the buffer, in the next segment if this one has no room.
    fn put(
        &mut self,
        kind: Kind,
        parts: [&[u8]; 2],
        changes: &mut Vec<Change>,
    ) -> Result<(u64, u32), WalError> {
        let need = record::footprint(parts[0].len() + parts[1].len()) as u64;
        if self.active.end + self.buf.len() as u64 + need > self.active.capacity {
            self.roll()?;
            let (segment, file) = self.active();
            changes.push(Change::Opened { segment, file });
        }
        let offset = self.active.end + self.buf.len() as u64;
        self.encode_record(kind, parts);
        let offset = u32::try_from(offset).expect("MAX_SEGMENT_BYTES fits");
        Ok((self.active.id, offset))
    }

    fn encode_record(&mut self, kind: Kind, parts: [&[u8]; 2]) {
        let durable = u32::try_from(self.active.durable).expect("MAX_SEGMENT_BYTES fits");
        record::encode(&mut self.buf, kind, parts, durable, self.active.generation, self.sequence);
        self.sequence += 1;
        self.written.records += 1;
    }

    /// Ends the active segment and begins the next. Everything in the one that ends is synced
    /// before a byte of the next is written.
    fn roll(&mut self) -> Result<(), WalError> {
        self.flush()?;
        self.sync()?;
        while !self.advance_spare()? {}
        let spare = self.spare.take().expect("it was just made ready");
        let (before, before_end) = (self.active.generation, self.active.end);
        self.older.push_back(self.active.id);
        self.active = spare.activate(self.segment_bytes);
        self.begin_segment(before, before_end);
        Ok(())
    }

    /// Puts header and state of the active segment into the buffer.
    fn begin_segment(&mut self, before: u64, before_end: u64) {
        let header = SegmentHeader {
            id: self.active.id,
            generation: self.active.generation,
            before,
            before_end,
            sequence: self.sequence,
        };
        self.buf.extend_from_slice(&header.encode());
        debug_assert_eq!(self.buf.len(), SEGMENT_HEADER_BYTES);
        let state = self.image.encode();
        self.encode_record(Kind::State, [&state, &[]]);
    }

    fn flush(&mut self) -> Result<(), WalError> {
        if self.buf.is_empty() {
            return Ok(());
        }
        let Active { file, path, end, .. } = &mut self.active;
        file.write_at(&self.buf, *end).map_err(|e| WalError::io("write", path, e))?;
        *end += self.buf.len() as u64;
        self.written.bytes += self.buf.len() as u64;
        self.buf.clear();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), WalError> {
        let Active { file, path, end, durable, .. } = &mut self.active;
        file.sync_data().map_err(|e| WalError::io("sync", path, e))?;
        *durable = *end;
        self.written.fsyncs += 1;
        Ok(())
    }

    /// Does a step of the work that nobody waits for; returns whether more is left.
    ///
    /// The next segment is prepared from the half of this one on: a full disk is met while
    /// there is still room, and a roll need not wait.
    pub(super) fn background(&mut self, removed: &mut Vec<u64>) -> Result<bool, WalError> {
        let wants_spare = self.active.end > self.active.capacity / 2;
        let mut more = false;
        if wants_spare && !self.spare.as_ref().is_some_and(|s| s.ready) {
            more |= !self.advance_spare()?;
        }
        for _ in 0..REMOVE_STEP {
            let Some(id) = self.doomed.pop_front() else { break };
            let path = segment::path(&self.dir, id);
            // The directory is not synced for it: a segment that comes back after a power cut
            // is found unwanted and removed again.
            self.disk.remove(&path).map_err(|e| WalError::io("remove", &path, e))?;
            removed.push(id);
        }
        Ok(more || !self.doomed.is_empty())
    }

    fn advance_spare(&mut self) -> Result<bool, WalError> {
        if self.spare.is_none() {
            let id = self.active.id + 1;
            self.spare = Some(Spare::create(&self.disk, self.dir.clone(), id)?);
        }
        let spare = self.spare.as_mut().expect("made above");
        if !spare.ready && spare.advance(&self.disk, &self.dir, self.segment_bytes)? {
            self.written.fsyncs += 1;
        }
        Ok(spare.ready)
    }

    /// Marks the segments below every wanted entry for removal. Called when the operations that
    /// made them unwanted are durable.
    pub(super) fn retire(&mut self, index: &Index) {
        let keep = index.lowest_segment().unwrap_or(self.active.id);
        while self.older.front().is_some_and(|id| *id < keep) {
            self.doomed.extend(self.older.pop_front());
        }
    }

    /// Ends the log in good order: removes what is doomed and says that all is synced.
    pub(super) fn close(&mut self) -> Result<Vec<u64>, WalError> {
        let mut removed = Vec::new();
        while !self.doomed.is_empty() {
            self.background(&mut removed)?;
        }
        self.sync()?;
        self.put(Kind::Mark, [&[], &[]], &mut Vec::new())?;
        self.flush()?;
        self.sync()?;
        Ok(removed)
    }
}

/// Whether an operation is answered only when it is on the disk. All are.
fn must_be_synced(op: &Op) -> bool {
    match op {
        Op::Append { .. } => !planted::is_on(Bug::AckBeforeFsync),
        Op::Vote(_) => !planted::is_on(Bug::VoteWithoutFsync),
        _ => true,
    }
}

impl Spare {
    fn create(disk: &Arc<dyn Disk>, dir: PathBuf, id: u64) -> Result<Self, WalError> {
        let path = segment::path(&dir, id);
        let file = disk.create(&path).map_err(|e| WalError::io("create", &path, e))?;
        Ok(Self { id, path, file, filled: 0, ready: false })
    }

    /// Fills a step; the last one syncs content and name. True when it may be used.
    fn advance(&mut self, disk: &Arc<dyn Disk>, dir: &Path, bytes: u64) -> Result<bool, WalError> {
        let to = bytes.min(self.filled + SPARE_STEP_BYTES);
        self.file
            .preallocate(self.filled, to)
            .map_err(|e| WalError::io("reserve space for", &self.path, e))?;
        self.filled = to;
        if to == bytes {
            self.file.sync_data().map_err(|e| WalError::io("sync", &self.path, e))?;
            disk.sync_dir(dir).map_err(|e| WalError::io("sync", dir, e))?;
            self.ready = true;
        }
        Ok(self.ready)
    }

    fn activate(self, capacity: u64) -> Active {
        // Zero stands for "no segment before".
        let generation = rand::random::<u64>().max(1);
        Active {
            id: self.id,
            path: self.path,
            file: self.file,
            generation,
            capacity,
            end: 0,
            durable: 0,
        }
    }
}
