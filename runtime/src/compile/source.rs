//! Compiled images from other nodes.
//!
//! An image is machine code that runs with all rights of the node: it is only ever taken from
//! members of the cluster, never from a user. Who those are, and how they prove it, is the word of
//! whoever implements [`ImageSource`]. What is checked here is that the bytes are those that the
//! compiling node made: length and SHA-256 travel with an image from the moment it was compiled.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use swarmer_model::Digest;
use tokio::io::AsyncWriteExt as _;

use super::cache::Temporary;

/// How many times larger than the largest component an image may be. One of a JavaScript engine
/// is three times its component; small ones are larger, but small.
pub(super) const IMAGE_FACTOR: u64 = 8;

/// What is known of an image since it was compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSum {
    /// Its length.
    pub bytes: u64,
    /// A checksum that is cheap enough for every load.
    pub crc32c: u32,
    /// The digest, for those who take the image from another node.
    pub sha256: Digest,
}

/// An image of this node, for another one.
#[derive(Debug)]
pub struct SharedImage {
    /// What it must be on the other side.
    pub sum: ImageSum,
    /// The bytes.
    pub file: File,
}

/// Brings compiled images from other nodes of the cluster, so that each component is compiled
/// once. Implemented by the node.
#[async_trait]
pub trait ImageSource: Send + Sync + 'static {
    /// Writes the image of this component, for an engine of this compatibility, into `image`, if
    /// a node that may be trusted with code has it or is about to have it. It is compiled here if
    /// this ends without a whole image; so it must end in bounded time, whatever others do.
    async fn bring(&self, digest: Digest, compatibility: &str, image: &mut NewImage);
}

/// An [`ImageSource`] that has none: everything is compiled here.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoImages;

#[async_trait]
impl ImageSource for NoImages {
    async fn bring(&self, _: Digest, _: &str, _: &mut NewImage) {}
}

/// An image on its way in. Nothing of it is used before it is whole and its digest is right.
pub struct NewImage {
    pub(super) temporary: Temporary,
    max_bytes: u64,
    coming: Option<Coming>,
    whole: Option<ImageSum>,
}

struct Coming {
    file: tokio::fs::File,
    sum: ImageSum,
    written: u64,
}

impl NewImage {
    pub(super) fn new(temporary: Temporary, max_bytes: u64) -> Self {
        Self { temporary, max_bytes, coming: None, whole: None }
    }

    /// Begins with an image that a node announced; what came before of another is dropped.
    ///
    /// # Errors
    /// It is larger than any image of a component that is taken, or the disk does not take it.
    pub async fn begin(&mut self, sum: ImageSum) -> io::Result<()> {
        (self.coming, self.whole) = (None, None);
        if sum.bytes > self.max_bytes {
            let why = format!("an image of {} bytes; at most {}", sum.bytes, self.max_bytes);
            return Err(io::Error::other(why));
        }
        let file = create(self.temporary.path())?;
        self.coming = Some(Coming { file: tokio::fs::File::from_std(file), sum, written: 0 });
        Ok(())
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// There are more than announced, or the disk does not take them.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(coming) = &mut self.coming else {
            return Err(io::Error::other("bytes of an image that was not announced"));
        };
        coming.written += bytes.len() as u64;
        if coming.written > coming.sum.bytes {
            return Err(io::Error::other("more bytes than announced"));
        }
        coming.file.write_all(bytes).await
    }

    /// The image is here: makes it durable. Its digest is checked before it is used.
    ///
    /// # Errors
    /// There are fewer bytes than announced, or the disk does not keep them.
    pub async fn finish(&mut self) -> io::Result<()> {
        let Some(mut coming) = self.coming.take() else {
            return Err(io::Error::other("the end of an image that was not announced"));
        };
        if coming.written != coming.sum.bytes {
            return Err(io::Error::other("fewer bytes than announced"));
        }
        coming.file.flush().await?;
        coming.file.sync_all().await?;
        self.whole = Some(coming.sum);
        Ok(())
    }

    /// What was announced of it, once all of it is here.
    pub(super) fn whole(&self) -> Option<ImageSum> {
        self.whole
    }
}

/// A new file for this user alone, in place of what lies there.
fn create(path: &Path) -> io::Result<File> {
    let _ = fs::remove_file(path);
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
