//! The directory of compiled images.
//!
//! An image is machine code: whoever can write one owns the node. So the directory is for this
//! user alone (0700), names carry the component's digest and what the engine generates code for,
//! and a checksum beside each image is compared before every use: a damaged one is compiled
//! again, never run.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use swarmer_model::{Digest, DigestHasher};

use super::source::{ImageSum, SharedImage};
use crate::error::{LoadError, RuntimeError};

const IMAGE: &str = "image";
const SUM: &str = "sum";
const TEMPORARY: &str = "tmp";

pub(crate) struct ImageDir {
    dir: PathBuf,
    /// The user who owns the directory, and so must own each image.
    owner: u32,
    compatibility: String,
    next: AtomicU64,
}

impl ImageDir {
    pub(crate) fn open(dir: &Path, compatibility: &str) -> Result<Self, RuntimeError> {
        let fail = |error: io::Error| RuntimeError::Cache {
            path: dir.to_owned(),
            reason: error.to_string(),
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
        let meta = fs::metadata(dir).map_err(fail)?;
        if meta.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(fail)?;
        }
        // What a compiler left that was killed.
        for entry in fs::read_dir(dir).map_err(fail)?.flatten() {
            if entry.path().extension().is_some_and(|e| e == TEMPORARY) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            owner: meta.uid(),
            compatibility: compatibility.to_owned(),
            next: AtomicU64::new(0),
        })
    }

    pub(crate) fn compatibility(&self) -> &str {
        &self.compatibility
    }

    fn path(&self, digest: &Digest, extension: &str) -> PathBuf {
        self.dir.join(format!("{}-{}.{extension}", digest.hex(), self.compatibility))
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.path(digest, IMAGE).exists()
    }

    /// The image's path, if it is there and sound.
    pub(crate) fn checked(&self, digest: &Digest) -> Option<PathBuf> {
        let path = self.path(digest, IMAGE);
        match self.check(digest, &path) {
            Ok(()) => Some(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => None,
            Err(error) => {
                tracing::warn!(%digest, %error, "an image is damaged; compiling again");
                self.remove(digest);
                None
            }
        }
    }

    fn check(&self, digest: &Digest, path: &Path) -> io::Result<()> {
        let meta = fs::symlink_metadata(path)?;
        if !meta.is_file() || meta.uid() != self.owner || meta.mode() & 0o022 != 0 {
            return Err(io::Error::other("the image is not a file of this user alone"));
        }
        let sum = self.sum(digest)?;
        if (sum.bytes, sum.crc32c) != checksum(path, |_| ())? {
            return Err(io::Error::other("the checksum of the image is wrong"));
        }
        Ok(())
    }

    fn sum(&self, digest: &Digest) -> io::Result<ImageSum> {
        Ok(serde_json::from_slice(&fs::read(self.path(digest, SUM))?)?)
    }

    /// The image for another node, if it is there and sound.
    pub(crate) fn share(&self, digest: &Digest) -> Option<SharedImage> {
        let path = self.checked(digest)?;
        let (sum, file) = (self.sum(digest).ok()?, File::open(path).ok()?);
        Some(SharedImage { sum, file })
    }

    pub(crate) fn remove(&self, digest: &Digest) {
        for extension in [IMAGE, SUM] {
            let _ = fs::remove_file(self.path(digest, extension));
        }
    }

    /// A name for an image that is being written; the file is deleted if it is not adopted.
    pub(crate) fn temporary(&self) -> Temporary {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}.{TEMPORARY}", std::process::id());
        Temporary(self.dir.join(name))
    }

    /// Takes a written and synced file as the image of this component: one that was compiled
    /// here, or one that must be as another node `announced` it.
    pub(crate) fn adopt(
        &self,
        digest: &Digest,
        temporary: &Temporary,
        announced: Option<ImageSum>,
    ) -> Result<(), LoadError> {
        let fail = |error: io::Error| {
            LoadError::Compile(format!("the image cannot be kept in {:?}: {error}", self.dir))
        };
        let sum = sum_of(temporary.path()).map_err(fail)?;
        if announced.is_some_and(|announced| announced != sum) {
            return Err(fail(io::Error::other("it is not the image that was announced")));
        }
        let sum = serde_json::to_vec(&sum).map_err(|error| fail(error.into()))?;
        let beside = self.temporary();
        write_synced(beside.path(), &sum).map_err(fail)?;
        fs::rename(beside.path(), self.path(digest, SUM)).map_err(fail)?;
        fs::rename(temporary.path(), self.path(digest, IMAGE)).map_err(fail)?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(fail)
    }

    /// Deletes the images of other components, and those of other engines.
    pub(crate) fn prune(&self, wanted: &dyn Fn(&Digest) -> bool) -> usize {
        let mut gone = 0;
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let image = path.extension().is_some_and(|e| e == IMAGE);
            if !image && path.extension().is_none_or(|e| e != SUM) {
                continue;
            }
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let keep = stem.split_once('-').is_some_and(|(digest, compatibility)| {
                let digest = format!("sha256:{digest}").parse::<Digest>();
                compatibility == self.compatibility && digest.is_ok_and(|digest| wanted(&digest))
            });
            if !keep && fs::remove_file(&path).is_ok() && image {
                gone += 1;
            }
        }
        gone
    }
}

/// A file that goes when this does, unless it was renamed.
pub(crate) struct Temporary(PathBuf);

impl Temporary {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes a file that only this user can read, and waits until the disk has it.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sum_of(path: &Path) -> io::Result<ImageSum> {
    let mut hasher = DigestHasher::default();
    let (bytes, crc32c) = checksum(path, |piece| hasher.update(piece))?;
    Ok(ImageSum { bytes, crc32c, sha256: hasher.finish() })
}

/// Length and CRC-32C of a file, each piece of which is shown to `see`.
fn checksum(path: &Path, mut see: impl FnMut(&[u8])) -> io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 256 << 10];
    let (mut bytes, mut crc32c) = (0, 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, crc32c));
        }
        bytes += read as u64;
        crc32c = crc32c::crc32c_append(crc32c, &buffer[..read]);
        see(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(images: &ImageDir, digest: &Digest, bytes: &[u8]) {
        let temporary = images.temporary();
        write_synced(temporary.path(), bytes).unwrap();
        images.adopt(digest, &temporary, None).unwrap();
    }

    #[test]
    fn a_damaged_image_is_never_given_out() {
        let dir = tempfile::tempdir().unwrap();
        let images = ImageDir::open(&dir.path().join("images"), "engine1").unwrap();
        let digest = Digest::of(b"component");
        assert_eq!(images.checked(&digest), None);

        put(&images, &digest, b"machine code");
        let path = images.checked(&digest).unwrap();

        for damage in ["machine c0de", "machine code!", ""] {
            put(&images, &digest, b"machine code");
            fs::write(&path, damage).unwrap();
            assert_eq!(images.checked(&digest), None, "{damage:?}");
            assert!(!path.exists(), "{damage:?} must be gone");
        }
        put(&images, &digest, b"machine code");
        fs::remove_file(path.with_extension(SUM)).unwrap();
        assert_eq!(images.checked(&digest), None, "without its sum");
        put(&images, &digest, b"machine code");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(images.checked(&digest), None, "others could write it");
    }

    #[test]
    fn an_image_of_another_node_is_taken_only_as_it_was_announced() {
        let dir = tempfile::tempdir().unwrap();
        let (there, here) = (dir.path().join("there"), dir.path().join("here"));
        let there = ImageDir::open(&there, "engine1").unwrap();
        let here = ImageDir::open(&here, "engine1").unwrap();
        let digest = Digest::of(b"component");
        assert!(there.share(&digest).is_none());
        put(&there, &digest, b"machine code");
        let announced = there.share(&digest).unwrap().sum;
        assert_eq!(announced.sha256, Digest::of(b"machine code"));
        for (bytes, good) in [(b"machine c0de", false), (b"machine code", true)] {
            let temporary = here.temporary();
            write_synced(temporary.path(), bytes).unwrap();
            assert_eq!(here.adopt(&digest, &temporary, Some(announced)).is_ok(), good);
            assert_eq!(here.checked(&digest).is_some(), good);
        }
        let damaged = there.checked(&digest).unwrap();
        fs::write(damaged, b"machine c0de").unwrap();
        assert!(there.share(&digest).is_none(), "damage is not passed on");
    }

    #[test]
    fn the_directory_is_private_and_cleaned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("images");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(path.join("7-0.tmp"), b"half").unwrap();
        let images = ImageDir::open(&path, "engine1").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert!(!path.join("7-0.tmp").exists());
        let left = images.temporary();
        write_synced(left.path(), b"x").unwrap();
        let left_path = left.path().to_owned();
        drop(left);
        assert!(!left_path.exists());
    }

    #[test]
    fn only_what_is_wanted_by_this_engine_stays() {
        let dir = tempfile::tempdir().unwrap();
        let old = ImageDir::open(dir.path(), "engine1").unwrap();
        let images = ImageDir::open(dir.path(), "engine2").unwrap();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        put(&old, &a, b"old code");
        put(&images, &a, b"code");
        put(&images, &b, b"code");
        assert_eq!(images.prune(&|digest| *digest == a), 2);
        assert!(images.has(&a) && !images.has(&b) && !old.has(&a));
    }
}
