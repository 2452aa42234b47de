//! Writes the file of a backup from its beginning to its end, without going back.

use std::io::{self, Write};

use swarmer_model::{Digest, DigestHasher};

use super::{FORMAT, Header, Kind, MAGIC};

/// A backup being written; it is none before [`Writer::finish`].
pub(crate) struct Writer<W> {
    out: W,
    /// Of all bytes so far.
    all: DigestHasher,
    artifact: Option<Artifact>,
}

/// The artifact that is being written.
struct Artifact {
    digest: Digest,
    missing: u64,
    hasher: DigestHasher,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// As all functions here: what `out` says.
    pub(crate) fn new(out: W, header: &Header) -> io::Result<Self> {
        let mut writer = Self { out, all: DigestHasher::default(), artifact: None };
        writer.put(MAGIC)?;
        writer.put(&FORMAT.to_be_bytes())?;
        let json = serde_json::to_vec(header)?;
        writer.head(Kind::Header, json.len() as u64, Digest::of(&json))?;
        writer.put(&json)?;
        Ok(writer)
    }

    /// Adds a function, as it stands in the desired state.
    pub(crate) fn function(&mut self, json: &[u8]) -> io::Result<()> {
        self.head(Kind::Function, json.len() as u64, Digest::of(json))?;
        self.put(json)
    }

    /// Begins an artifact; [`Writer::bytes`] adds its bytes.
    ///
    /// # Errors
    /// The one before is not what its digest says.
    pub(crate) fn begin_artifact(&mut self, digest: Digest, length: u64) -> io::Result<()> {
        self.end_artifact()?;
        self.head(Kind::Artifact, length, digest)?;
        let hasher = DigestHasher::default();
        self.artifact = Some(Artifact { digest, missing: length, hasher });
        Ok(())
    }

    /// Adds bytes of the artifact.
    ///
    /// # Errors
    /// There are more than were told.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let artifact = self.artifact.as_mut().expect("an artifact was begun");
        artifact.missing = artifact.missing.checked_sub(bytes.len() as u64).ok_or_else(|| {
            io::Error::other(format!("{} has more bytes than were told", artifact.digest))
        })?;
        artifact.hasher.update(bytes);
        self.put(bytes)
    }

    fn end_artifact(&mut self) -> io::Result<()> {
        let Some(Artifact { digest, missing, hasher }) = self.artifact.take() else {
            return Ok(());
        };
        if missing > 0 {
            return Err(io::Error::other(format!("{missing} bytes of {digest} are missing")));
        }
        if hasher.finish() != digest {
            return Err(io::Error::other(format!("the bytes are not those of {digest}")));
        }
        Ok(())
    }

    /// Ends the file and gives back where it was written to.
    ///
    /// # Errors
    /// The last artifact is not what its digest says.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.end_artifact()?;
        let all = self.all.clone().finish();
        self.head(Kind::End, 0, all)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn head(&mut self, kind: Kind, length: u64, digest: Digest) -> io::Result<()> {
        self.put(&[kind as u8])?;
        self.put(&length.to_be_bytes())?;
        self.put(&digest.0)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.all.update(bytes);
        self.out.write_all(bytes)
    }
}
