//! The file of members for the next start.

use std::{fs, io::Read as _, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use crate::{GossipError, KnownMember, MAX_MEMBERS_FILE_BYTES, MAX_PERSISTED_MEMBERS};

/// Reads the file. It only ever helps: what cannot be read is logged and taken for empty.
pub(super) fn load(path: &Path) -> Vec<KnownMember> {
    let read = || -> std::io::Result<Vec<KnownMember>> {
        let file = match fs::File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?,
        };
        let mut text = Vec::new();
        file.take(MAX_MEMBERS_FILE_BYTES).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    };
    match read() {
        Ok(mut members) => {
            members.truncate(MAX_PERSISTED_MEMBERS);
            members
        }
        Err(error) => {
            tracing::warn!(
                target: "swarmer::gossip", path = %path.display(), %error,
                "the file of known members cannot be read; going by the seeds alone"
            );
            Vec::new()
        }
    }
}

/// Replaces the file: written beside it, synced, renamed.
pub(super) fn store(path: &Path, members: &[KnownMember]) -> Result<(), GossipError> {
    let write = || -> std::io::Result<()> {
        let fresh = path.with_extension("new");
        // For this user alone, as all that a node keeps.
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(members)?)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source| GossipError::File { path: path.display().to_string(), source })
}
