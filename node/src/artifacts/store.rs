//! The files of this node: one per digest, complete or absent.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

use swarmer_model::{ByteSize, Digest, DigestHasher};
use tokio::{
    fs::{self, File},
    io::AsyncWriteExt as _,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    codes,
    problem::{Outcome, Problem},
};

/// The most uploads and downloads at once: each holds a file open and a buffer.
const MAX_INCOMING: usize = 16;

/// The artifacts on this node's disk.
#[derive(Debug, Clone)]
pub(crate) struct ArtifactStore {
    dir: Arc<Path>,
    max: ByteSize,
    incoming: Arc<Semaphore>,
    /// Between "this file is wanted again" and "this file is old": one file at a time.
    sweeping: Arc<Mutex<()>>,
    collected: Arc<Collected>,
}

/// What was deleted because nothing named it, since the start.
#[derive(Debug, Default)]
struct Collected {
    artifacts: AtomicU64,
    bytes: AtomicU64,
}

/// An artifact on its way in; nothing of it is seen before [`Incoming::finish`].
pub(crate) struct Incoming {
    store: ArtifactStore,
    expected: Digest,
    file: File,
    temporary: PathBuf,
    hasher: DigestHasher,
    bytes: u64,
    done: bool,
    _permit: OwnedSemaphorePermit,
}

fn storage(what: &str, error: &io::Error) -> Problem {
    Problem::new(codes::STORAGE, format!("{what}: {error}"))
}

impl ArtifactStore {
    /// Opens the store and removes what an interrupted upload left.
    pub(crate) async fn open(dir: PathBuf, max: ByteSize) -> Outcome<Self> {
        let fail = |error: io::Error| storage(&format!("cannot open {}", dir.display()), &error);
        fs::create_dir_all(&dir).await.map_err(fail)?;
        let mut entries = fs::read_dir(&dir).await.map_err(fail)?;
        while let Some(entry) = entries.next_entry().await.map_err(fail)? {
            if entry.file_name().to_string_lossy().ends_with(".part") {
                fs::remove_file(entry.path()).await.map_err(fail)?;
            }
        }
        let incoming = Arc::new(Semaphore::new(MAX_INCOMING));
        let (sweeping, collected) = (Arc::default(), Arc::default());
        Ok(Self { dir: dir.into(), max, incoming, sweeping, collected })
    }

    /// The file of an artifact, whether it is there or not.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// The artifact as the runtime takes it.
    pub(crate) fn artifact(&self, digest: Digest) -> swarmer_runtime::Artifact {
        swarmer_runtime::Artifact { digest, path: self.path(&digest) }
    }

    /// Whether the artifact is here, whole.
    pub(crate) async fn has(&self, digest: &Digest) -> bool {
        fs::try_exists(self.path(digest)).await.unwrap_or(false)
    }

    /// Whether the artifact is here, whole; if it is, it counts as new from now on, so that it is
    /// not collected before it is named.
    pub(crate) async fn hold(&self, digest: &Digest) -> bool {
        let (path, sweeping) = (self.path(digest), Arc::clone(&self.sweeping));
        let touched = tokio::task::spawn_blocking(move || {
            let _one = sweeping.lock();
            let file = std::fs::File::options().append(true).open(path)?;
            // An age that cannot be set is no reason to send the artifact again.
            let _ = file.set_modified(SystemTime::now());
            io::Result::Ok(())
        });
        matches!(touched.await, Ok(Ok(())))
    }

    /// Deletes what was not written or asked for within `grace` and is not to be kept: artifacts
    /// that nothing names, and what was set aside as damaged. Returns how many and how many bytes.
    pub(crate) async fn collect(
        &self,
        keep: impl Fn(&Digest) -> bool + Send,
        grace: Duration,
    ) -> Outcome<(u64, u64)> {
        let fail = |error: io::Error| storage("cannot look through the artifacts", &error);
        let mut entries = fs::read_dir(&*self.dir).await.map_err(fail)?;
        let mut all = (0, 0);
        while let Some(entry) = entries.next_entry().await.map_err(fail)? {
            let path = entry.path();
            let stem = path.file_stem().map(|stem| format!("sha256:{}", stem.to_string_lossy()));
            let Some(Ok(digest)) = stem.map(|stem| stem.parse::<Digest>()) else { continue };
            let damaged = path.extension().is_some_and(|extension| extension == "damaged");
            if !damaged && (path.extension().is_some() || keep(&digest)) {
                continue;
            }
            let sweeping = Arc::clone(&self.sweeping);
            let deleted = tokio::task::spawn_blocking(move || {
                let _one = sweeping.lock();
                let facts = std::fs::metadata(&path)?;
                // A time to come is the clock's fault; it is looked at again later.
                if facts.modified()?.elapsed().unwrap_or_default() < grace {
                    return Ok(None);
                }
                std::fs::remove_file(&path)?;
                io::Result::Ok(Some(facts.len()))
            });
            match deleted.await {
                Ok(Ok(Some(bytes))) => all = (all.0 + 1, all.1 + bytes),
                Ok(Ok(None)) | Err(_) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Ok(Err(error)) => return Err(storage("cannot delete an artifact", &error)),
            }
        }
        self.collected.artifacts.fetch_add(all.0, Ordering::Relaxed);
        self.collected.bytes.fetch_add(all.1, Ordering::Relaxed);
        Ok(all)
    }

    /// How many artifacts, and bytes, were deleted since the start because nothing named them.
    pub(crate) fn collected(&self) -> (u64, u64) {
        let Collected { artifacts, bytes } = &*self.collected;
        (artifacts.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
    }

    /// The artifact's bytes, verified: damage on disk is told and the file set aside, so that a
    /// whole copy can be fetched from another node.
    pub(crate) async fn read(&self, digest: &Digest) -> Outcome<Option<Vec<u8>>> {
        let path = self.path(digest);
        let bytes = match fs::read(&path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(storage(&format!("cannot read {}", path.display()), &error)),
        };
        if Digest::of(&bytes) == *digest {
            return Ok(Some(bytes));
        }
        tracing::error!(target: "swarmer::artifact", %digest, code = codes::ARTIFACT_DIGEST.name,
            "a stored artifact is damaged; it is set aside");
        let aside = path.with_extension("damaged");
        fs::rename(&path, &aside).await.map_err(|e| storage("cannot set it aside", &e))?;
        Ok(None)
    }

    /// An artifact's file and size, for sending it on.
    pub(crate) async fn open_file(&self, digest: &Digest) -> Outcome<Option<(File, u64)>> {
        let file = match File::open(self.path(digest)).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(storage("cannot open an artifact", &error)),
        };
        let bytes = file.metadata().await.map_err(|e| storage("cannot stat", &e))?.len();
        Ok(Some((file, bytes)))
    }

    /// Starts taking an artifact in. `length` is what the sender announces, if it does.
    pub(crate) async fn begin(&self, expected: Digest, length: Option<u64>) -> Outcome<Incoming> {
        if let Some(length) = length {
            self.check_size(length)?;
        }
        let permit = Arc::clone(&self.incoming).try_acquire_owned().map_err(|_| {
            let detail = format!("{MAX_INCOMING} artifacts are on their way in already");
            Problem::new(codes::BUSY, detail).retry_after(1)
        })?;
        let unique: u64 = rand::random();
        let temporary = self.dir.join(format!("{}-{unique:016x}.part", expected.hex()));
        let file = File::create(&temporary)
            .await
            .map_err(|error| storage("cannot make the artifact's file", &error))?;
        Ok(Incoming {
            store: self.clone(),
            expected,
            file,
            temporary,
            hasher: DigestHasher::default(),
            bytes: 0,
            done: false,
            _permit: permit,
        })
    }

    fn check_size(&self, bytes: u64) -> Outcome<()> {
        if bytes > self.max.0 {
            let detail = format!("it has {bytes} bytes or more; at most {} are taken", self.max);
            return Err(Problem::new(codes::ARTIFACT_TOO_LARGE, detail));
        }
        Ok(())
    }
}

impl Incoming {
    /// Takes the next bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.bytes += bytes.len() as u64;
        self.store.check_size(self.bytes)?;
        self.hasher.update(bytes);
        self.file
            .write_all(bytes)
            .await
            .map_err(|error| storage("cannot write the artifact", &error))
    }

    /// Verifies the hash, makes the file durable and gives it its name.
    pub(crate) async fn finish(mut self) -> Outcome<u64> {
        let found = self.hasher.clone().finish();
        if found != self.expected {
            let detail =
                format!("expected {}, the {} bytes are {found}", self.expected, self.bytes);
            return Err(Problem::new(codes::ARTIFACT_DIGEST, detail));
        }
        let fail = |error: io::Error| storage("cannot keep the artifact", &error);
        self.file.flush().await.map_err(fail)?;
        self.file.sync_all().await.map_err(fail)?;
        fs::rename(&self.temporary, self.store.path(&self.expected)).await.map_err(fail)?;
        self.done = true;
        File::open(&*self.store.dir).await.map_err(fail)?.sync_all().await.map_err(fail)?;
        Ok(self.bytes)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.done {
            // A blocking unlink of one file; what fails here is removed at the next start.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store(dir: &Path) -> ArtifactStore {
        ArtifactStore::open(dir.to_owned(), ByteSize(100)).await.unwrap()
    }

    #[tokio::test]
    async fn an_artifact_is_seen_whole_or_not_at_all() {
        let temp = tempfile::tempdir().unwrap();
        let store = store(temp.path()).await;
        let digest = Digest::of(b"hello");
        let mut incoming = store.begin(digest, None).await.unwrap();
        incoming.write(b"hel").await.unwrap();
        assert!(!store.has(&digest).await);
        drop(incoming);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "a part was left behind");
        let mut incoming = store.begin(digest, Some(5)).await.unwrap();
        incoming.write(b"hello").await.unwrap();
        assert_eq!(incoming.finish().await.unwrap(), 5);
        assert_eq!(store.read(&digest).await.unwrap().unwrap(), b"hello");
    }

    async fn put(store: &ArtifactStore, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut incoming = store.begin(digest, None).await.unwrap();
        incoming.write(bytes).await.unwrap();
        incoming.finish().await.unwrap();
        digest
    }

    fn age(store: &ArtifactStore, digest: &Digest, age: Duration) {
        let file = std::fs::File::options().append(true).open(store.path(digest)).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    #[tokio::test]
    async fn only_what_is_old_and_named_by_nothing_is_collected() {
        let temp = tempfile::tempdir().unwrap();
        let store = store(temp.path()).await;
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86_400));
        let named = put(&store, b"named").await;
        let old = put(&store, b"old").await;
        let again = put(&store, b"uploaded again").await;
        let fresh = put(&store, b"fresh").await;
        for digest in [named, old, again] {
            age(&store, &digest, day);
        }
        // One that is on its way in is not touched either.
        let mut coming = store.begin(Digest::of(b"coming"), None).await.unwrap();
        coming.write(b"com").await.unwrap();
        assert!(store.hold(&again).await);
        assert!(!store.hold(&Digest::of(b"nothing")).await);
        let gone = store.collect(|digest| *digest == named, hour).await.unwrap();
        assert_eq!(gone, (1, 3));
        assert!(!store.has(&old).await);
        for digest in [named, again, fresh] {
            assert!(store.has(&digest).await);
        }
        coming.write(b"ing").await.unwrap();
        coming.finish().await.unwrap();
        // Damage that was set aside goes in the same way.
        std::fs::write(store.path(&fresh), b"damaged").unwrap();
        assert_eq!(store.read(&fresh).await.unwrap(), None);
        let aside = store.path(&fresh).with_extension("damaged");
        assert!(aside.exists());
        assert_eq!(store.collect(|_| true, hour).await.unwrap(), (0, 0));
        let file = std::fs::File::options().append(true).open(&aside).unwrap();
        file.set_modified(SystemTime::now() - day).unwrap();
        assert_eq!(store.collect(|_| true, hour).await.unwrap(), (1, 7));
        assert_eq!(store.collected(), (2, 10));
    }

    #[tokio::test]
    async fn too_many_at_once_are_told_that_the_node_is_busy() {
        let temp = tempfile::tempdir().unwrap();
        let store = store(temp.path()).await;
        let mut coming = Vec::new();
        for i in 0..MAX_INCOMING {
            coming.push(store.begin(Digest::of(&[i as u8]), None).await.unwrap());
        }
        let refused = store.begin(Digest::of(b"one more"), None).await.err().unwrap();
        assert_eq!((refused.code, refused.retry_after_secs), (codes::BUSY, Some(1)));
        coming.pop();
        assert!(store.begin(Digest::of(b"one more"), None).await.is_ok());
    }

    #[tokio::test]
    async fn wrong_or_too_many_bytes_are_refused_and_damage_is_never_served() {
        let temp = tempfile::tempdir().unwrap();
        let store = store(temp.path()).await;
        let digest = Digest::of(b"hello");
        let mut incoming = store.begin(digest, None).await.unwrap();
        incoming.write(b"jello").await.unwrap();
        assert_eq!(incoming.finish().await.unwrap_err().code, codes::ARTIFACT_DIGEST);
        let large = store.begin(digest, Some(101)).await.err().unwrap();
        assert_eq!(large.code, codes::ARTIFACT_TOO_LARGE);
        let mut incoming = store.begin(digest, None).await.unwrap();
        assert_eq!(incoming.write(&[0; 101]).await.unwrap_err().code, codes::ARTIFACT_TOO_LARGE);
        drop(incoming);
        std::fs::write(store.path(&digest), b"damaged").unwrap();
        assert_eq!(store.read(&digest).await.unwrap(), None);
        assert!(!store.has(&digest).await);
    }
}
