//! Keeps the applied keyspace in sled between clean stops.
//!
//! Nothing here is synced while the node runs: snapshot and log can rebuild all of it. A clean
//! stop writes what is still missing, flushes and syncs everything and leaves a marker with a
//! digest. Without the marker, or when anything about the store is odd, it is wiped and filled
//! again. So what changes is only noted at first: a key that changes often is written once.

use std::{
    collections::BTreeSet,
    fs, io,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use swarmer_model::Revision;

use super::{
    batch::{Batch, ChainHash},
    state::{Record, State, StateBuilder, StateImage},
};

/// Goes up when the layout changes; another one is wiped and rebuilt.
const FORMAT: u32 = 1;
/// Keys noted before any is written: what a clean stop has to write at most, beside the answered
/// requests, in a second or two.
const MAX_NOTED: usize = 16_384;
/// Keys written at a time once so many are noted: a millisecond, as entries are applied meanwhile.
const WRITE_STEP: usize = 64;
/// sled's page cache: the keyspace is mirrored in memory, so sled is read only when it opens.
const CACHE_BYTES: u64 = 4 << 20;
/// Records a batch while it is filled anew: keeps each step short.
const FILL_RECORDS: usize = 512;
const MARKER: &str = "CLEAN";
const STORE: &str = "sled";
const HEAD_KEY: &[u8] = b"h";
const ENTRY_PREFIX: u8 = b'k';
const REQUEST_PREFIX: u8 = b'r';

/// Where the state stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    position: Bytes,
    revision: Revision,
    chain: ChainHash,
}

#[derive(Serialize, Deserialize)]
struct Marker {
    format: u32,
    digest: [u8; 32],
}

/// What was found after a clean stop.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) state: State,
    /// What the owner stored with it: log id and membership.
    pub(crate) position: Bytes,
}

/// The store, with what is not yet in it.
#[derive(Debug)]
pub(crate) struct Applied {
    dir: PathBuf,
    db: Option<sled::Db>,
    /// Keys that changed and are not written.
    noted: BTreeSet<String>,
    /// The answered requests that are in the store; they are written by a clean stop alone, as
    /// most of them are forgotten before it.
    requests: Range<u64>,
}

impl Applied {
    /// Opens the store and reads it if it was left clean; else starts an empty one, which the
    /// owner fills with [`Applied::refill`]. Blocks.
    ///
    /// # Errors
    /// If the directory cannot be used at all.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, Option<Loaded>)> {
        fs::create_dir_all(dir)?;
        let marker = read_marker(&dir.join(MARKER));
        // The marker goes first, durably: from here on the store is not clean.
        remove_if_there(&dir.join(MARKER))?;
        fs::File::open(dir)?.sync_all()?;
        if let Some(marker) = marker {
            match load(&dir.join(STORE), &marker) {
                Ok((db, loaded)) => {
                    let requests = loaded.state.image().request_range();
                    let applied = Self { db: Some(db), requests, ..Self::empty(dir) };
                    return Ok((applied, Some(loaded)));
                }
                Err(why) => {
                    tracing::warn!(target: "swarmer::raft", %why, "applied keyspace is rebuilt");
                }
            }
        }
        Ok((Self::empty(dir), None))
    }

    fn empty(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), db: None, noted: BTreeSet::new(), requests: 0..0 }
    }

    /// Replaces all content. Blocks; on failure the store is given up, as it is not needed to go
    /// on.
    pub(crate) fn refill(&mut self, image: &StateImage, position: &Bytes) {
        let result = self.try_refill(image, position);
        self.keep(result);
    }

    fn try_refill(&mut self, image: &StateImage, position: &Bytes) -> Result<(), String> {
        self.db = None;
        self.noted.clear();
        self.requests = image.request_range();
        let store = self.dir.join(STORE);
        if let Err(error) = fs::remove_dir_all(&store)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error.to_string());
        }
        let db = open_sled(&store)?;
        let mut batch = sled::Batch::default();
        for (count, record) in image.records().enumerate() {
            insert(&mut batch, record)?;
            if (count + 1) % FILL_RECORDS == 0 {
                db.apply_batch(std::mem::take(&mut batch)).map_err(text)?;
            }
        }
        let head =
            Head { position: position.clone(), revision: image.revision(), chain: image.chain() };
        batch.insert(HEAD_KEY, postcard::to_allocvec(&head).map_err(text)?);
        db.apply_batch(batch).map_err(text)?;
        self.db = Some(db);
        Ok(())
    }

    /// Notes what some entries changed. Writes a few keys once there are many; `read` gives their
    /// values as they are now.
    pub(crate) fn note(
        &mut self,
        batches: &[std::sync::Arc<Batch>],
        read: impl Fn(&str) -> Option<crate::Entry>,
    ) {
        if self.db.is_none() {
            return;
        }
        for event in batches.iter().flat_map(|batch| &batch.events) {
            if !self.noted.contains(event.key.as_str()) {
                self.noted.insert(event.key.clone());
            }
        }
        while self.noted.len() > MAX_NOTED {
            let result = self.write_some(&read);
            self.keep(result);
        }
    }

    /// Writes a step of what is noted.
    fn write_some(&mut self, read: impl Fn(&str) -> Option<crate::Entry>) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for _ in 0..WRITE_STEP {
            let Some(key) = self.noted.pop_first() else { break };
            match read(&key) {
                None => batch.remove(entry_key(&key)),
                Some(entry) => insert(&mut batch, Record::entry(&key, &entry))?,
            }
        }
        self.db.as_ref().map_or(Ok(()), |db| db.apply_batch(batch).map_err(text))
    }

    /// Writes all that is missing, with the position that belongs to it.
    fn write_rest(&mut self, image: &StateImage, position: Bytes) -> Result<(), String> {
        while !self.noted.is_empty() {
            self.write_some(|key| image.get(key).cloned())?;
        }
        let Some(db) = &self.db else { return Ok(()) };
        let now = image.request_range();
        let mut batch = sled::Batch::default();
        let mut filled = 0;
        let gone = self.requests.start..now.start.min(self.requests.end);
        let changes = gone.map(Err).chain(image.requests_from(self.requests.end).map(Ok));
        for change in changes {
            match change {
                Err(gone) => batch.remove(request_key(gone)),
                Ok(record) => insert(&mut batch, record)?,
            }
            filled += 1;
            if filled % FILL_RECORDS == 0 {
                db.apply_batch(std::mem::take(&mut batch)).map_err(text)?;
            }
        }
        let head = Head { position, revision: image.revision(), chain: image.chain() };
        batch.insert(HEAD_KEY, postcard::to_allocvec(&head).map_err(text)?);
        db.apply_batch(batch).map_err(text)
    }

    /// Writes what is missing, flushes and syncs everything and leaves the marker. Blocks.
    ///
    /// # Errors
    /// If that failed: the next start rebuilds.
    pub(crate) fn close(mut self, image: &StateImage, position: Bytes) -> io::Result<()> {
        self.write_rest(image, position).map_err(io::Error::other)?;
        let Some(db) = self.db else { return Ok(()) };
        db.flush().map_err(io::Error::other)?;
        drop(db);
        // sled itself syncs no directory and on Linux no file.
        sync_tree(&self.dir)?;
        let marker = Marker { format: FORMAT, digest: image.digest() };
        let bytes = postcard::to_allocvec(&marker).map_err(io::Error::other)?;
        let temp = self.dir.join("CLEAN.tmp");
        fs::write(&temp, bytes)?;
        fs::File::open(&temp)?.sync_all()?;
        fs::rename(&temp, self.dir.join(MARKER))?;
        fs::File::open(&self.dir)?.sync_all()
    }

    fn keep(&mut self, result: Result<(), String>) {
        if let Err(error) = result {
            tracing::warn!(
                target: "swarmer::raft", %error,
                "applied keyspace is no longer kept on disk; the next start rebuilds it",
            );
            self.db = None;
            self.noted.clear();
        }
    }
}

fn load(store: &Path, marker: &Marker) -> Result<(sled::Db, Loaded), String> {
    if marker.format != FORMAT {
        return Err(format!("it has format {}, not {FORMAT}", marker.format));
    }
    // sled may panic on files that it did not expect.
    let result = catch_unwind(AssertUnwindSafe(|| {
        let db = open_sled(store)?;
        let mut builder = StateBuilder::default();
        for item in db.iter().values_of_interest() {
            builder.add(item?).map_err(str::to_owned)?;
        }
        let head = db.get(HEAD_KEY).map_err(text)?.ok_or("it has no head")?;
        let head: Head = postcard::from_bytes(&head).map_err(text)?;
        let state = builder.finish(head.revision, head.chain);
        if state.image().digest() != marker.digest {
            return Err("its digest does not fit".to_owned());
        }
        Ok((db, Loaded { state, position: head.position }))
    }));
    result.unwrap_or_else(|_| Err("sled panicked while it opened".to_owned()))
}

trait Records {
    fn values_of_interest(self) -> impl Iterator<Item = Result<Record, String>>;
}

impl Records for sled::Iter {
    fn values_of_interest(self) -> impl Iterator<Item = Result<Record, String>> {
        self.filter_map(|item| match item {
            Err(error) => Some(Err(text(error))),
            Ok((key, _)) if key.as_ref() == HEAD_KEY => None,
            Ok((_, value)) => Some(postcard::from_bytes(&value).map_err(text)),
        })
    }
}

fn open_sled(path: &Path) -> Result<sled::Db, String> {
    sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
        .open()
        .map_err(text)
}

fn insert(batch: &mut sled::Batch, record: Record) -> Result<(), String> {
    let key = match &record {
        Record::Entry { key, .. } => entry_key(key),
        Record::Request { sequence, .. } => request_key(*sequence),
    };
    batch.insert(key, postcard::to_allocvec(&record).map_err(text)?);
    Ok(())
}

/// Sorts as keys do, and before requests.
fn entry_key(key: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + key.len());
    bytes.push(ENTRY_PREFIX);
    bytes.extend_from_slice(key.as_bytes());
    bytes
}

fn request_key(sequence: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9);
    bytes.push(REQUEST_PREFIX);
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes
}

fn read_marker(path: &Path) -> Option<Marker> {
    postcard::from_bytes(&fs::read(path).ok()?).ok()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_tree(dir: &Path) -> io::Result<()> {
    for item in fs::read_dir(dir)? {
        let item = item?;
        if item.file_type()?.is_dir() {
            sync_tree(&item.path())?;
        } else {
            fs::File::open(item.path())?.sync_all()?;
        }
    }
    fs::File::open(dir)?.sync_all()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
