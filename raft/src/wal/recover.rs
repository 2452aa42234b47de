//! Opening: find the segments of the log, replay them, and make durable what was read.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use swarmer_model::planted::{self, Bug};

use super::config::{MAX_SEGMENT_BYTES, WalConfig};
use super::error::WalError;
use super::image::{Image, Index, Location};
use super::record::Content;
use super::segment::{self, SEGMENT_HEADER_BYTES, Scanner, SegmentHeader};
use super::writer::{Active, Writer};
use crate::disk::{Disk, DiskFile};

/// Everything that an opened log starts from.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) writer: Writer,
    pub(super) image: Image,
    pub(super) index: Index,
    pub(super) files: BTreeMap<u64, Arc<dyn DiskFile>>,
}

/// A segment file whose header was read.
struct Found {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    header: SegmentHeader,
}

/// What the replay of one segment ended with.
struct End {
    offset: usize,
    durable: usize,
    sequence: u64,
}

/// Opens the log or makes a new one. What it returns is durable.
pub(super) fn recover(disk: &Arc<dyn Disk>, config: &WalConfig) -> Result<Recovery, WalError> {
    let dir = &config.dir;
    disk.create_dir(dir).map_err(|e| WalError::io("create", dir, e))?;
    if let Some(parent) = dir.parent() {
        disk.sync_dir(parent).map_err(|e| WalError::io("sync", parent, e))?;
    }
    let names = disk.list(dir).map_err(|e| WalError::io("list", dir, e))?;
    let ids: Vec<u64> = names.iter().filter_map(|name| segment::id_of(name)).collect();
    let (run, unwanted) = find_run(disk, dir, &ids)?;

    let mut recovery = match run.last() {
        None => {
            remove(disk, dir, &unwanted)?;
            let writer = Writer::create(Arc::clone(disk), config)?;
            let files = BTreeMap::from([writer.active()]);
            Recovery { writer, image: Image::default(), index: Index::default(), files }
        }
        Some(_) => {
            let recovery = replay(disk, config, &run)?;
            // The names that were relied on, and only then the removal of others.
            disk.sync_dir(dir).map_err(|e| WalError::io("sync", dir, e))?;
            remove(disk, dir, &unwanted)?;
            recovery
        }
    };
    recovery.writer.retire(&recovery.index);
    Ok(recovery)
}

fn remove(disk: &Arc<dyn Disk>, dir: &Path, ids: &[u64]) -> Result<(), WalError> {
    for id in ids {
        let path = segment::path(dir, *id);
        disk.remove(&path).map_err(|e| WalError::io("remove", &path, e))?;
    }
    Ok(())
}

/// The segments that make up the log, oldest first, and the ids of files that do not belong to
/// it: one that was prepared but never used, and those below the first gap, which were removed
/// once and came back with a power cut. Whether the run is whole is found out by the replay.
fn find_run(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    ids: &[u64],
) -> Result<(Vec<Found>, Vec<u64>), WalError> {
    let mut run: Vec<Found> = Vec::new();
    let mut unwanted = Vec::new();
    let mut rest = ids.iter().rev().copied().peekable();
    while let Some(id) = rest.peek().copied() {
        if run.last().is_some_and(|above| above.header.id != id + 1) {
            break;
        }
        rest.next();
        let path = segment::path(dir, id);
        let file = disk.open(&path).map_err(|e| WalError::io("open", &path, e))?;
        let header = read_up_to(&file, &path, SEGMENT_HEADER_BYTES)?;
        let header = SegmentHeader::decode(&header, id, &path)?;
        match header {
            Some(header) if run.is_empty() && !has_state(&file, &path, &header)? => {
                unwanted.push(id);
            }
            Some(header) => run.push(Found { path, file, header }),
            None if run.is_empty() => {
                if segment::lost_its_header(&read_all(&file, &path)?) {
                    let reason = "the segment's header is gone, but records in it had been synced";
                    return Err(WalError::damaged(&path, 0, reason));
                }
                unwanted.push(id);
            }
            None => {
                unwanted.push(id);
                break;
            }
        }
    }
    unwanted.extend(rest);
    run.reverse();
    Ok((run, unwanted))
}

/// Whether the newest segment got as far as its state record; if not, nothing in it was ever
/// acknowledged.
fn has_state(
    file: &Arc<dyn DiskFile>,
    path: &Path,
    header: &SegmentHeader,
) -> Result<bool, WalError> {
    let bytes = read_all(file, path)?;
    let mut scanner = Scanner::new(&bytes, header);
    match scanner.next() {
        Some((_, Content::State(_))) => Ok(true),
        Some((offset, _)) => {
            Err(WalError::damaged(path, offset as u64, "the first record is not the state"))
        }
        None => {
            let at = scanner.offset as u64;
            scanner.judge_end().map_err(|reason| WalError::damaged(path, at, reason))?;
            Ok(false)
        }
    }
}

fn replay(disk: &Arc<dyn Disk>, config: &WalConfig, run: &[Found]) -> Result<Recovery, WalError> {
    let mut image: Option<Image> = None;
    let mut index = Index::default();
    let mut files = BTreeMap::new();
    let mut tail = None;
    for (n, found) in run.iter().enumerate() {
        let bytes = read_all(&found.file, &found.path)?;
        let end = replay_segment(found, &bytes, &mut image, &mut index)?;
        match run.get(n + 1) {
            Some(after) => {
                check_seal(found, &end, after)?;
                // A process that was killed may have left it written and not synced.
                found.file.sync_data().map_err(|e| WalError::io("sync", &found.path, e))?;
            }
            None => {
                settle_tail(found, &bytes, &end)?;
                tail = Some((end, bytes.len() as u64));
            }
        }
        files.insert(found.header.id, Arc::clone(&found.file));
    }
    let (Some(image), Some((end, capacity)), Some(last)) = (image, tail, run.last()) else {
        return Err(WalError::damaged(&config.dir, 0, "the log has no segment"));
    };
    index.drop_below(image.first);
    if !index.covers(image.first, image.next) {
        let reason = format!(
            "entries {}..{} belong to the log, but a segment that holds some of them is missing",
            image.first, image.next
        );
        return Err(WalError::damaged(&config.dir, 0, reason));
    }
    let active = Active {
        id: last.header.id,
        path: last.path.clone(),
        file: Arc::clone(&last.file),
        generation: last.header.generation,
        capacity,
        end: end.offset as u64,
        durable: end.offset as u64,
    };
    let older: VecDeque<u64> = run[..run.len() - 1].iter().map(|f| f.header.id).collect();
    let writer =
        Writer::resume(Arc::clone(disk), config, image.clone(), end.sequence, active, older);
    Ok(Recovery { writer, image, index, files })
}

fn replay_segment(
    found: &Found,
    bytes: &[u8],
    image: &mut Option<Image>,
    index: &mut Index,
) -> Result<End, WalError> {
    let mut scanner = Scanner::new(bytes, &found.header);
    while let Some((offset, content)) = scanner.next() {
        let bad = |reason: &str| Err(WalError::damaged(&found.path, offset as u64, reason));
        if let Content::State(state) = content {
            if offset != SEGMENT_HEADER_BYTES {
                return bad("a state record in the middle of a segment");
            }
            if image.as_ref().is_some_and(|replayed| *replayed != state) {
                return bad("the state record contradicts the segments before it");
            }
            *image = Some(state);
            continue;
        }
        let Some(image) = image.as_mut() else {
            return bad("the first record is not the state");
        };
        match content {
            Content::State(_) | Content::Mark => {}
            Content::Entry { index: at, data } => {
                if image.expected().is_some_and(|next| next != at) {
                    return bad("an entry that does not continue the log");
                }
                image.append(at, 1);
                let location = Location {
                    segment: found.header.id,
                    offset: offset as u32,
                    len: data.len() as u32,
                };
                index.push(at, location);
            }
            Content::Vote(vote) => image.vote = Some(vote),
            Content::Committed(committed) => image.committed = Some(committed),
            Content::Truncate { next } => {
                image.truncate(next);
                index.truncate(next);
            }
            Content::Purge { upto, log_id } => {
                image.purge(upto, log_id);
                index.drop_below(image.first);
            }
        }
    }
    Ok(End { offset: scanner.offset, durable: scanner.durable, sequence: scanner.sequence })
}

/// A segment that is not the last must hold exactly what the next one says it held.
fn check_seal(found: &Found, end: &End, after: &Found) -> Result<(), WalError> {
    let header = &after.header;
    if header.before != found.header.generation {
        let reason = "the segment is not the one that the next segment continues";
        return Err(WalError::damaged(&found.path, 0, reason));
    }
    if header.before_end != end.offset as u64 || header.sequence != end.sequence {
        let reason = format!(
            "no sound record here, but the next segment continues this one at byte {}",
            header.before_end
        );
        return Err(WalError::damaged(&found.path, end.offset as u64, reason));
    }
    Ok(())
}

/// Makes the last segment durable as it was read, and its unused part zeros again.
///
/// The records since the last known sync are written once more: after a failed sync the kernel
/// may hold them as clean, and syncing again would not bring them to the disk.
fn settle_tail(found: &Found, bytes: &[u8], end: &End) -> Result<(), WalError> {
    let Found { path, file, header } = found;
    let mut scanner = Scanner::new(bytes, header);
    while scanner.next().is_some() {}
    scanner.judge_end().map_err(|reason| WalError::damaged(path, end.offset as u64, reason))?;
    let from = end.durable.min(end.offset);
    file.write_at(&bytes[from..end.offset], from as u64)
        .map_err(|e| WalError::io("write", path, e))?;
    let rest = &bytes[end.offset..];
    if !segment::is_zero(rest) {
        tracing::warn!(
            target: "swarmer::raft::wal",
            path = %path.display(),
            offset = end.offset,
            "cut an unfinished write off the end of the log"
        );
        file.write_at(&vec![0; rest.len()], end.offset as u64)
            .map_err(|e| WalError::io("write", path, e))?;
    }
    if planted::is_on(Bug::OpenWithoutSync) {
        return Ok(());
    }
    file.sync_data().map_err(|e| WalError::io("sync", path, e))
}

fn read_all(file: &Arc<dyn DiskFile>, path: &Path) -> Result<Vec<u8>, WalError> {
    let bytes = file.len().map_err(|e| WalError::io("read", path, e))?;
    if bytes > MAX_SEGMENT_BYTES {
        return Err(WalError::damaged(
            path,
            MAX_SEGMENT_BYTES,
            "the file is larger than a segment",
        ));
    }
    let bytes = usize::try_from(bytes)
        .map_err(|_| WalError::io("read", path, io::Error::from(io::ErrorKind::FileTooLarge)))?;
    read_up_to(file, path, bytes)
}

fn read_up_to(file: &Arc<dyn DiskFile>, path: &Path, bytes: usize) -> Result<Vec<u8>, WalError> {
    let mut buf = vec![0; bytes];
    let read = file.read_at(&mut buf, 0).map_err(|e| WalError::io("read", path, e))?;
    buf.truncate(read);
    Ok(buf)
}
