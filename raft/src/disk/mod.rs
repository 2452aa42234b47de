//! The few file operations that the log and the snapshot files need, behind a seam.
//!
//! [`RealDisk`] is `std::fs`. [`SimDisk`] is a disk in memory that loses power on demand: what
//! was not synced is then dropped or torn, so that a test can prove that nothing acknowledged
//! depended on it.

mod medium;
mod real;
mod sim;
mod workers;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use real::RealDisk;
pub use sim::{DiskOp, SECTOR_BYTES, SimDisk, Skip};
pub(crate) use workers::blocking;
pub use workers::{Served, Threads, Turns, Workers};

/// A file system as far as durable storage needs one. All calls block.
///
/// What a call leaves behind survives the death of the process at once, and a power cut only
/// after the sync that belongs to it: [`DiskFile::sync_data`] for content and length,
/// [`Disk::sync_dir`] for the names in a directory.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Opens an existing file for reading and writing; `NotFound` if there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a file, or empties the one that is there. Its name is durable only after
    /// [`Disk::sync_dir`] on its directory.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file over whatever has the new name. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_dir`]; open handles stay readable.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names of the plain files in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes a directory and its parents; no error if it is there. Durable after
    /// [`Disk::sync_dir`] on the parent.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes every name in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Who does the work that waits for this disk.
    fn workers(&self) -> Arc<dyn Workers> {
        Arc::new(Threads)
    }
}

/// An open file. Cheap to share; every call names its offset, so there is no cursor to race for.
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `buf` at `offset`, lengthening the file with zeros where needed.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no byte.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file, or lengthens it with zeros that may have no space reserved.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Reserves space for `from..to`, which reads as zeros afterwards, so that a full disk is
    /// met here and not by a later write. `from` is the file's length.
    fn preallocate(&self, from: u64, to: u64) -> io::Result<()>;

    /// Makes content and length durable. After an error nothing that was written since the last
    /// success may be relied on, and calling again proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// As [`DiskFile::sync_data`], with times and permissions.
    fn sync_all(&self) -> io::Result<()>;

    /// Writes at the end of the file. Only for files with a single writer.
    fn append(&self, buf: &[u8]) -> io::Result<()> {
        self.write_at(buf, self.len()?)
    }

    /// The whole file. The caller bounds its size by [`DiskFile::len`] where it is not trusted.
    fn read_all(&self) -> io::Result<Vec<u8>> {
        let bytes = usize::try_from(self.len()?)
            .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let mut content = vec![0; bytes];
        let read = self.read_at(&mut content, 0)?;
        content.truncate(read);
        Ok(content)
    }
}
