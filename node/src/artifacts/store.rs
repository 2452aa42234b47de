//! The files of this node: one per digest, complete or absent.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

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
        Ok(Self { dir: dir.into(), max, incoming })
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
            Problem::new(codes::NO_UPSTREAM, detail).retry_after(1)
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
