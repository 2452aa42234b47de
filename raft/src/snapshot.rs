//! Snapshots as files: a whole state and its position, written once, checked whenever read.
//!
//! Layout: 8 bytes of magic, then frames. A frame is its kind (u8), the length of its body (u32,
//! little-endian), the CRC-32C of kind, length and body (u32), and the body. The first frame is
//! the header, then come records, at last the trailer with the number of records and the SHA-256
//! of all bodies before it. Bodies are postcard.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use swarmer_model::Revision;

use crate::{
    disk::{Disk, DiskFile},
    keyspace::{ChainHash, Record, State, StateBuilder, StateImage},
};

const MAGIC: &[u8; 8] = b"SWSNAP01";
const FRAME_HEADER_BYTES: usize = 9;
/// About how large a frame of records is: the unit of memory and of checking.
const FRAME_BYTES: usize = 64 * 1024;
/// The longest frame that is believed: records are far smaller than a frame each.
const MAX_FRAME_BYTES: usize = 1 << 20;
const SUFFIX: &str = ".snap";
const BUILD_TEMP: &str = "build.tmp";
const INCOMING_TEMP: &str = "incoming.tmp";

const KIND_HEADER: u8 = 1;
const KIND_RECORDS: u8 = 2;
const KIND_TRAILER: u8 = 3;

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Orders snapshots of one node: the applied index, or for a follower the revision.
    pub(crate) index: u64,
    /// What the owner needs besides the state (log id and membership), opaque here.
    pub(crate) position: Bytes,
    pub(crate) revision: Revision,
    pub(crate) chain: ChainHash,
}

#[derive(Serialize, Deserialize)]
struct Trailer {
    records: u64,
    digest: [u8; 32],
}

/// A snapshot on the disk, complete and synced. Stays readable while this is held, also after a
/// newer one took its place.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile {
    pub(crate) header: Header,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    bytes: u64,
}

impl SnapshotFile {
    /// Length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Tells this file of this node from any other: the same state is always written the same way.
    pub(crate) fn id(&self, node: u64) -> u64 {
        let Header { index, position, revision, chain } = &self.header;
        let mut hasher = Sha256::new();
        for number in [node, *index, *revision, self.bytes] {
            hasher.update(number.to_le_bytes());
        }
        hasher.update(chain.0);
        hasher.update(position);
        let hash: [u8; 32] = hasher.finalize().into();
        let (first, _) = hash.split_first_chunk::<8>().expect("32 is more than 8");
        u64::from_le_bytes(*first)
    }

    /// Part of the file as it is, to be sent. Blocks.
    pub(crate) fn read_chunk(&self, offset: u64, max_bytes: usize) -> io::Result<Bytes> {
        let rest = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut chunk = vec![0; rest.min(max_bytes)];
        let read = self.file.read_at(&mut chunk, offset)?;
        if read != chunk.len() {
            return Err(damaged(&self.path, "it is shorter than it was"));
        }
        Ok(chunk.into())
    }

    /// Reads the state, checking every byte. Blocks.
    pub(crate) fn load(&self) -> io::Result<State> {
        let mut reader = Reader::new(&self.path, self.file.as_ref(), self.bytes);
        let header = reader.header()?;
        let mut builder = StateBuilder::default();
        let mut records = 0;
        loop {
            let (kind, body) = reader.frame()?;
            match kind {
                KIND_RECORDS => {
                    let list: Vec<Record> = reader.decode(&body)?;
                    records += list.len() as u64;
                    for record in list {
                        builder.add(record).map_err(|what| damaged(&self.path, what))?;
                    }
                    reader.hasher.update(&body);
                }
                KIND_TRAILER => {
                    let trailer: Trailer = reader.decode(&body)?;
                    let digest: [u8; 32] = reader.hasher.clone().finalize().into();
                    if trailer.records != records || trailer.digest != digest {
                        return Err(damaged(&self.path, "its digest does not fit"));
                    }
                    if reader.offset != self.bytes {
                        return Err(damaged(&self.path, "something follows its end"));
                    }
                    return Ok(builder.finish(header.revision, header.chain));
                }
                _ => return Err(damaged(&self.path, "it has a frame of unknown kind")),
            }
        }
    }
}

/// The snapshots of one node. One is current; others are removed.
#[derive(Debug)]
pub(crate) struct SnapshotStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    current: Mutex<Option<SnapshotFile>>,
    /// Only one may be written at a time, as the temporary file has one name.
    building: Mutex<()>,
}

impl SnapshotStore {
    /// Opens the directory, makes it if needed and removes what was left half written. Blocks.
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> io::Result<Arc<Self>> {
        disk.create_dir(&dir)?;
        if let Some(parent) = dir.parent() {
            disk.sync_dir(parent)?;
        }
        let mut newest: Option<String> = None;
        for name in disk.list(&dir)? {
            if name.ends_with(SUFFIX) {
                // Names sort by index; the newest is complete, as it was renamed when synced.
                if let Some(older) = newest.replace(name) {
                    disk.remove(&dir.join(older))?;
                }
            } else if name == BUILD_TEMP || name == INCOMING_TEMP {
                disk.remove(&dir.join(name))?;
            }
        }
        let current = match newest {
            None => None,
            Some(name) => {
                let path = dir.join(name);
                let file = disk.open(&path)?;
                // It may be here thanks to the page cache only: what is acted on must be synced.
                file.sync_all()?;
                let bytes = file.len()?;
                let header = Reader::new(&path, file.as_ref(), bytes).header()?;
                Some(SnapshotFile { header, file, path, bytes })
            }
        };
        disk.sync_dir(&dir)?;
        Ok(Arc::new(Self { disk, dir, current: Mutex::new(current), building: Mutex::new(()) }))
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(crate) fn current(&self) -> Option<SnapshotFile> {
        self.current.lock().clone()
    }

    /// Writes a snapshot and makes it the current one, unless a newer one is there by then.
    /// Blocks.
    pub(crate) fn write(
        &self,
        index: u64,
        position: Bytes,
        image: &StateImage,
    ) -> io::Result<SnapshotFile> {
        let _one_at_a_time = self.building.lock();
        let path = self.dir.join(BUILD_TEMP);
        let file = self.disk.create(&path)?;
        let header = Header { index, position, revision: image.revision(), chain: image.chain() };
        let mut writer = Writer { file: file.as_ref(), offset: 0, hasher: Sha256::new() };
        writer.raw(MAGIC)?;
        writer.frame(KIND_HEADER, &encode(&header)?)?;
        let mut records = 0;
        let mut pending = Vec::new();
        let mut pending_bytes = 0;
        for record in image.records() {
            records += 1;
            pending_bytes += record_bytes(&record);
            pending.push(record);
            if pending_bytes >= FRAME_BYTES {
                writer.frame(KIND_RECORDS, &encode(&pending)?)?;
                pending.clear();
                pending_bytes = 0;
            }
        }
        if !pending.is_empty() {
            writer.frame(KIND_RECORDS, &encode(&pending)?)?;
        }
        let digest = writer.hasher.clone().finalize().into();
        writer.frame(KIND_TRAILER, &encode(&Trailer { records, digest })?)?;
        let bytes = writer.offset;
        file.sync_all()?;
        self.adopt(SnapshotFile { header, file, path, bytes })
    }

    /// Begins to receive a snapshot of another node. There is one at a time: beginning anew
    /// discards what came before.
    pub(crate) fn receive(self: &Arc<Self>) -> io::Result<Incoming> {
        let path = self.dir.join(INCOMING_TEMP);
        let file = self.disk.create(&path)?;
        Ok(Incoming { file, path, bytes: 0 })
    }

    /// Makes a complete, synced file the current snapshot: renamed, its name synced, older ones
    /// removed. If the current one is newer, that stays and this one goes.
    pub(crate) fn adopt(&self, snapshot: SnapshotFile) -> io::Result<SnapshotFile> {
        let mut current = self.current.lock();
        if let Some(there) = current.as_ref() {
            if there.path == snapshot.path {
                return Ok(snapshot);
            }
            if there.header.index > snapshot.header.index {
                self.disk.remove(&snapshot.path)?;
                return Ok(snapshot);
            }
        }
        let path = self.dir.join(format!("{:020}{SUFFIX}", snapshot.header.index));
        self.disk.rename(&snapshot.path, &path)?;
        self.disk.sync_dir(&self.dir)?;
        let adopted = SnapshotFile { path, ..snapshot };
        let before = current.replace(adopted.clone());
        drop(current);
        if let Some(before) = before
            && before.path != adopted.path
        {
            self.disk.remove(&before.path)?;
        }
        Ok(adopted)
    }
}

/// A snapshot that is being received.
#[derive(Debug)]
pub(crate) struct Incoming {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    bytes: u64,
}

impl Incoming {
    /// How much of it is there.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next chunk. Blocks.
    pub(crate) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.file.write_at(chunk, self.bytes)?;
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// Syncs and checks the whole file, to be adopted. Blocks.
    pub(crate) fn finish(self) -> io::Result<SnapshotFile> {
        self.file.sync_all()?;
        let header = Reader::new(&self.path, self.file.as_ref(), self.bytes).header()?;
        let snapshot = SnapshotFile { header, file: self.file, path: self.path, bytes: self.bytes };
        snapshot.load()?;
        Ok(snapshot)
    }
}

struct Writer<'a> {
    file: &'a dyn DiskFile,
    offset: u64,
    hasher: Sha256,
}

impl Writer<'_> {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn frame(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + body.len());
        frame.push(kind);
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(&checksum(kind, length, body).to_le_bytes());
        frame.extend_from_slice(body);
        self.hasher.update(body);
        self.raw(&frame)
    }
}

struct Reader<'a> {
    path: &'a Path,
    file: &'a dyn DiskFile,
    bytes: u64,
    offset: u64,
    hasher: Sha256,
}

impl<'a> Reader<'a> {
    fn new(path: &'a Path, file: &'a dyn DiskFile, bytes: u64) -> Self {
        Self { path, file, bytes, offset: 0, hasher: Sha256::new() }
    }

    fn header(&mut self) -> io::Result<Header> {
        let mut magic = [0; MAGIC.len()];
        self.exactly(&mut magic)?;
        if &magic != MAGIC {
            return Err(damaged(self.path, "it does not start as a snapshot of this version"));
        }
        let (kind, body) = self.frame()?;
        if kind != KIND_HEADER {
            return Err(damaged(self.path, "it has no header"));
        }
        self.hasher.update(&body);
        self.decode(&body)
    }

    fn frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut header = [0; FRAME_HEADER_BYTES];
        self.exactly(&mut header)?;
        let [kind, a, b, c, d, e, f, g, h] = header;
        let length = u32::from_le_bytes([a, b, c, d]);
        if length as usize > MAX_FRAME_BYTES {
            return Err(damaged(self.path, "it has a frame that is too long"));
        }
        let mut body = vec![0; length as usize];
        self.exactly(&mut body)?;
        if checksum(kind, length, &body) != u32::from_le_bytes([e, f, g, h]) {
            return Err(damaged(self.path, "a checksum does not fit"));
        }
        Ok((kind, body))
    }

    fn exactly(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let end = self.offset + buf.len() as u64;
        if end > self.bytes || self.file.read_at(buf, self.offset)? != buf.len() {
            return Err(damaged(self.path, "it ends too early"));
        }
        self.offset = end;
        Ok(())
    }

    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> io::Result<T> {
        match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(value),
            _ => Err(damaged(self.path, "a frame cannot be read")),
        }
    }
}

fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    postcard::to_allocvec(value).map_err(io::Error::other)
}

fn checksum(kind: u8, length: u32, body: &[u8]) -> u32 {
    crc32c::crc32c_append(
        crc32c::crc32c_append(crc32c::crc32c(&[kind]), &length.to_le_bytes()),
        body,
    )
}

fn record_bytes(record: &Record) -> usize {
    const FIXED: usize = 64;
    FIXED
        + match record {
            Record::Entry { key, value, .. } => key.len() + value.len(),
            Record::Request { .. } => crate::MAX_KEY_BYTES,
        }
}

fn damaged(path: &Path, what: &str) -> io::Error {
    let text = format!("snapshot {} is damaged: {what}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Txn, disk::RealDisk};

    fn filled(keys: usize) -> State {
        let mut state = State::default();
        for i in 0..keys {
            let mut txn = Txn::new().put(format!("k/{i:05}"), vec![i as u8; 1000]);
            txn.request_id = i as u128;
            state.apply(&txn);
        }
        state
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_found() {
        let dir = tempfile::tempdir().expect("temp dir");
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let store = SnapshotStore::open(disk.clone(), dir.path().join("s")).expect("open");
        let state = filled(300);
        store.write(7, Bytes::from_static(b"old"), &filled(3).image()).expect("write");
        let file = store.write(9, Bytes::from_static(b"here"), &state.image()).expect("write");
        assert_eq!(file.load().expect("load"), state);
        let reopened = SnapshotStore::open(disk.clone(), dir.path().join("s")).expect("open");
        let current = reopened.current().expect("current");
        assert_eq!(current.header.position, "here");
        assert_eq!(current.load().expect("load"), state);
        assert_eq!(std::fs::read_dir(dir.path().join("s")).expect("list").count(), 1);

        let mut incoming = store.receive().expect("receive");
        let mut offset = 0;
        while offset < current.bytes() {
            let chunk = current.read_chunk(offset, 1000).expect("chunk");
            incoming.write(&chunk).expect("write");
            offset += chunk.len() as u64;
        }
        assert_eq!(incoming.finish().expect("finish").load().expect("load"), state);

        let good = current.read_chunk(0, usize::MAX).expect("all").to_vec();
        for position in (0..good.len()).step_by(97).chain([good.len() - 1]) {
            let mut bad = good.clone();
            bad[position] ^= 0x10;
            let mut incoming = store.receive().expect("receive");
            incoming.write(&bad).expect("write");
            assert!(incoming.finish().is_err(), "flipped bit at {position} was not seen");
        }
        for cut in [0, 5, 40, good.len() / 2, good.len() - 1] {
            let mut incoming = store.receive().expect("receive");
            incoming.write(&good[..cut]).expect("write");
            assert!(incoming.finish().is_err(), "cut at {cut} was not seen");
        }
    }
}
