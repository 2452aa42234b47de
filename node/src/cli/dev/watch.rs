//! Notices that a file of an app changed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// How often files are looked at.
const POLL: Duration = Duration::from_millis(300);
/// The most files that are looked at; folders with more are watched in part.
const MAX_FILES: usize = 10_000;
/// Folders that never hold sources.
const SKIPPED: [&str; 3] = ["target", "node_modules", ".git"];

/// Polls modification times: works on every file system, network and container mounts included.
pub(super) struct Changes {
    paths: Vec<PathBuf>,
    seen: Option<(SystemTime, usize)>,
}

impl Changes {
    pub(super) fn new(paths: &[PathBuf]) -> Self {
        let mut changes = Self { paths: paths.to_vec(), seen: None };
        changes.seen = Some(changes.look());
        changes
    }

    /// Waits for the next change, and until it has settled for a moment.
    pub(super) async fn next(&mut self) {
        loop {
            tokio::time::sleep(POLL).await;
            let now = self.look();
            if self.seen != Some(now) {
                self.seen = Some(now);
                tokio::time::sleep(POLL).await;
                if self.look() == now {
                    return;
                }
            }
        }
    }

    /// The newest modification and the number of files: together they change with every change.
    fn look(&self) -> (SystemTime, usize) {
        let mut newest = SystemTime::UNIX_EPOCH;
        let mut count = 0;
        for path in &self.paths {
            // A component's or manifest's neighbours matter too: the manifest names files.
            let manifest = path.extension().is_some_and(|e| e == "toml");
            let root = if manifest { path.parent().unwrap_or(path) } else { path };
            visit(root, &mut newest, &mut count);
        }
        (newest, count)
    }
}

fn visit(path: &Path, newest: &mut SystemTime, count: &mut usize) {
    if *count >= MAX_FILES {
        return;
    }
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if metadata.is_file() {
        *count += 1;
        *newest = (*newest).max(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
    } else if metadata.is_dir() {
        let name = path.file_name().unwrap_or_default();
        if SKIPPED.iter().any(|skipped| name == *skipped) {
            return;
        }
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            visit(&entry.path(), newest, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_and_a_changed_file_are_seen() {
        let temp = tempfile::tempdir().unwrap();
        let changes = Changes::new(&[temp.path().to_owned()]);
        let empty = changes.look();
        let file = temp.path().join("a");
        fs::write(&file, b"1").unwrap();
        let one = changes.look();
        assert_ne!(empty, one);
        let later = SystemTime::now() + Duration::from_secs(5);
        fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
        assert_ne!(one, changes.look());
        fs::create_dir(temp.path().join("target")).unwrap();
        let before = changes.look();
        fs::write(temp.path().join("target/b"), b"1").unwrap();
        assert_eq!(before, changes.look());
    }
}
