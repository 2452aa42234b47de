//! The node's own directory: who it is, locked to one process, written durably.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use swarmer_model::{ClusterId, NodeId};

use crate::{
    codes,
    problem::{Outcome, Problem},
};

/// The layout that this version writes. A newer one is refused; an older one would be converted.
const FORMAT: u32 = 1;
/// No file of the node's own settings is larger; a larger one is not ours.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Who the node is; written when the directory is made, the boot counter at every start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeMeta {
    pub(crate) format: u32,
    pub(crate) node: NodeId,
    pub(crate) name: String,
    /// Counts starts: a restarted node is newer than what is said of it, whatever its clock says.
    pub(crate) boot: u64,
    /// The cluster that the node belongs to, once it does.
    pub(crate) cluster: Option<ClusterId>,
    /// Its part in the desired state; none yet: a founder's or a follower's.
    #[serde(default)]
    pub(crate) part: Option<KeptPart>,
    /// Tells the log that this node opened from any other; none: it never had one. With it, the
    /// node may have promised its vote, so a directory without that log is not this node's any more.
    #[serde(default)]
    pub(crate) log: Option<String>,
}

/// What a node was to the desired state when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KeptPart {
    /// It followed the watch.
    Follower,
    /// It followed the watch while its log came up to date.
    Learner,
    /// It read from its log, with or without a vote.
    Voter,
}

/// An open data directory; the lock is held as long as any clone of it lives.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    meta: Mutex<NodeMeta>,
    /// The number of this start.
    boot: u64,
    _lock: File,
}

impl DataDir {
    /// Opens the directory, or makes a new one, and counts this start.
    pub(crate) fn open(path: &Path, name: &str) -> Outcome<Self> {
        let fail = |what: &str, error: &io::Error| {
            Problem::new(codes::DATA_DIR, format!("{what} {}: {error}", path.display()))
        };
        fs::create_dir_all(path).map_err(|error| fail("cannot make", &error))?;
        let path = path.canonicalize().map_err(|error| fail("cannot find", &error))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(|error| fail("cannot write in", &error))?;
        lock_exclusive(&lock, &path)?;
        let meta = match read_json::<NodeMeta>(&path.join("node.json"))? {
            Some(meta) => checked(meta, name, &path)?,
            None => {
                // A directory with other files is most likely a typing error in the path.
                let others = fs::read_dir(&path).map_err(|error| fail("cannot read", &error))?;
                // A first start that met a full disk, or was killed, left these two.
                let ours = |name: &OsString| name == "lock" || name == "node.new";
                let foreign = others.flatten().map(|entry| entry.file_name()).find(|n| !ours(n));
                if let Some(foreign) = foreign {
                    return Err(Problem::new(
                        codes::DATA_DIR_FOREIGN,
                        format!(
                            "{} holds {foreign:?} but no node.json: it is not a node's directory",
                            path.display()
                        ),
                    ));
                }
                NodeMeta {
                    format: FORMAT,
                    node: NodeId::random(),
                    name: name.to_owned(),
                    boot: 0,
                    cluster: None,
                    part: None,
                    log: None,
                }
            }
        };
        let boot = meta.boot + 1;
        let inner = Inner { path, meta: Mutex::new(meta), boot, _lock: lock };
        let dir = Self { inner: Arc::new(inner) };
        dir.update(|meta| meta.boot = boot)?;
        Ok(dir)
    }

    /// Opens the directory of whatever node it is.
    pub(crate) fn open_as_it_is(path: &Path) -> Outcome<Self> {
        let Some(meta) = read_json::<NodeMeta>(&path.join("node.json"))? else {
            let why = format!("{} is not a node's directory", path.display());
            return Err(Problem::new(codes::DATA_DIR_FOREIGN, why));
        };
        Self::open(path, &meta.name)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Who the node is, with the number of this start.
    pub(crate) fn meta(&self) -> NodeMeta {
        NodeMeta { boot: self.inner.boot, ..self.inner.meta.lock().clone() }
    }

    /// The next start has a higher number than this one, which a copy of the directory had.
    pub(crate) fn outrun(&self, boot: u64) -> Outcome<()> {
        if self.inner.meta.lock().boot >= boot {
            return Ok(());
        }
        self.update(|meta| meta.boot = boot)
    }

    /// Changes and durably writes who the node is.
    pub(crate) fn update(&self, change: impl FnOnce(&mut NodeMeta)) -> Outcome<()> {
        let mut kept = self.inner.meta.lock();
        let mut meta = kept.clone();
        change(&mut meta);
        write_json(&self.inner.path.join("node.json"), &meta)?;
        *kept = meta;
        Ok(())
    }
}

fn checked(meta: NodeMeta, name: &str, path: &Path) -> Outcome<NodeMeta> {
    let refuse = |why: String| {
        Err(Problem::new(codes::DATA_DIR_FOREIGN, format!("{}: {why}", path.display())))
    };
    if meta.format > FORMAT {
        return refuse(format!(
            "written by a newer version (format {}, this one knows {FORMAT})",
            meta.format
        ));
    }
    if meta.name != name {
        return refuse(format!("belongs to the node {:?}, this one is {name:?}", meta.name));
    }
    Ok(meta)
}

pub(crate) fn lock_exclusive(file: &File, path: &Path) -> Outcome<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(fs::TryLockError::WouldBlock) => Err(Problem::new(
            codes::DATA_DIR_LOCKED,
            format!("{} is locked by another process", path.display()),
        )),
        Err(fs::TryLockError::Error(error)) => Err(Problem::new(
            codes::DATA_DIR,
            format!("cannot lock {} (fd {}): {error}", path.display(), file.as_raw_fd()),
        )),
    }
}

/// Reads a file of ours; `None` if there is none.
pub(crate) fn read_bytes(path: &Path) -> Outcome<Option<Vec<u8>>> {
    let fail = |why: String| Problem::new(codes::DATA_DIR, format!("{}: {why}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error.to_string())),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| fail(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(fail("is too large to be one of the node's files".to_owned()));
    }
    Ok(Some(bytes))
}

/// Reads a JSON file of ours; `None` if there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Outcome<Option<T>> {
    let Some(bytes) = read_bytes(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Problem::new(codes::DATA_DIR, format!("{} is damaged: {error}", path.display()))
    })
}

/// Writes a JSON file durably and at once: afterwards it is the old one or the new one.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Outcome<()> {
    let bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
    write_bytes(path, &bytes)
}

/// Writes a file durably and at once, readable by its owner only.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Outcome<()> {
    write_durably(path, bytes).map_err(|error| {
        Problem::new(codes::STORAGE, format!("cannot write {}: {error}", path.display()))
    })
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("new");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_the_same_node_with_a_higher_boot() {
        let temp = tempfile::tempdir().unwrap();
        let first = DataDir::open(&temp.path().join("d"), "a").unwrap();
        let id = first.meta().node;
        assert_eq!(first.meta().boot, 1);
        let locked = DataDir::open(&temp.path().join("d"), "a").unwrap_err();
        assert_eq!(locked.code, codes::DATA_DIR_LOCKED);
        drop(first);
        let again = DataDir::open(&temp.path().join("d"), "a").unwrap();
        assert_eq!((again.meta().node, again.meta().boot), (id, 2));
    }

    #[test]
    fn a_directory_of_another_node_newer_version_or_other_thing_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temp.path(), "a").unwrap();
        let meta = dir.meta();
        drop(dir);
        let other = DataDir::open(temp.path(), "b").unwrap_err();
        assert_eq!(other.code, codes::DATA_DIR_FOREIGN);
        let newer = NodeMeta { format: FORMAT + 1, ..meta };
        write_json(&temp.path().join("node.json"), &newer).unwrap();
        let newer = DataDir::open(temp.path(), "a").unwrap_err();
        assert!(newer.detail.contains("newer version"), "{newer}");
        let unfinished = tempfile::tempdir().unwrap();
        fs::write(unfinished.path().join("node.new"), b"{\"form").unwrap();
        DataDir::open(unfinished.path(), "a").unwrap();
        let photos = tempfile::tempdir().unwrap();
        fs::write(photos.path().join("cat.jpg"), b"meow").unwrap();
        let wrong = DataDir::open(photos.path(), "a").unwrap_err();
        assert!(wrong.detail.contains("cat.jpg"), "{wrong}");
    }

    #[test]
    fn a_damaged_file_is_told_not_guessed() {
        let temp = tempfile::tempdir().unwrap();
        drop(DataDir::open(temp.path(), "a").unwrap());
        fs::write(temp.path().join("node.json"), b"{\"format\":1,").unwrap();
        assert!(DataDir::open(temp.path(), "a").unwrap_err().detail.contains("damaged"));
    }
}
