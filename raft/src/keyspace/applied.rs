//! Keeps the applied keyspace in sled between clean stops.
//!
//! Nothing here is synced while the node runs: snapshot and log can rebuild all of it. A clean
//! stop flushes and syncs everything and leaves a marker with a digest. Without the marker, or
//! when anything about the store is odd, it is wiped and filled again. Every write is one sled
//! batch that moves keys and position together.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use swarmer_model::Revision;

use super::{
    batch::ChainHash,
    state::{Changes, Record, State, StateBuilder, StateImage},
};

/// Goes up when the layout changes; another one is wiped and rebuilt.
const FORMAT: u32 = 1;
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

/// The store, with writes that were not handed to sled yet.
#[derive(Debug)]
pub(crate) struct Applied {
    dir: PathBuf,
    db: Option<sled::Db>,
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
                    return Ok((Self { dir: dir.to_owned(), db: Some(db) }, Some(loaded)));
                }
                Err(why) => {
                    tracing::warn!(target: "swarmer::raft", %why, "applied keyspace is rebuilt");
                }
            }
        }
        Ok((Self { dir: dir.to_owned(), db: None }, None))
    }

    /// Replaces all content. Blocks; on failure the store is given up, as it is not needed to go
    /// on.
    pub(crate) fn refill(&mut self, image: &StateImage, position: &Bytes) {
        let result = self.try_refill(image, position);
        self.keep(result);
    }

    fn try_refill(&mut self, image: &StateImage, position: &Bytes) -> Result<(), String> {
        self.db = None;
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

    /// Writes what some entries changed, and the position after them, in one step.
    pub(crate) fn write(
        &mut self,
        changes: &[Changes],
        position: &Bytes,
        state: (Revision, ChainHash),
        read: impl Fn(&str) -> Option<crate::Entry>,
    ) {
        let Some(db) = &self.db else { return };
        let result = (|| {
            let mut batch = sled::Batch::default();
            for change in changes {
                if let Some(events) = &change.batch {
                    for event in &events.events {
                        // The newest value, which a later entry of these may have written.
                        match read(&event.key) {
                            None => batch.remove(entry_key(&event.key)),
                            Some(entry) => insert(
                                &mut batch,
                                Record::Entry {
                                    key: event.key.clone(),
                                    value: entry.value,
                                    revision: entry.revision,
                                    created: entry.created,
                                },
                            )?,
                        }
                    }
                }
                if let Some((sequence, id, response)) = change.dedup.added.clone() {
                    insert(&mut batch, Record::Request { sequence, id, response })?;
                }
                for sequence in change.dedup.removed.clone() {
                    batch.remove(request_key(sequence));
                }
            }
            let (revision, chain) = state;
            let head = Head { position: position.clone(), revision, chain };
            batch.insert(HEAD_KEY, postcard::to_allocvec(&head).map_err(text)?);
            db.apply_batch(batch).map_err(text)
        })();
        self.keep(result);
    }

    /// Flushes and syncs everything and leaves the marker. Blocks.
    ///
    /// # Errors
    /// If that failed: the next start rebuilds.
    pub(crate) fn close(self, image: &StateImage) -> io::Result<()> {
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
