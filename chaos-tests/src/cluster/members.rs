//! What is done to a node that leaves, comes, or comes back as what it is no longer.

use std::{
    io::{Read as _, Seek as _, SeekFrom},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{machine::Cluster, node::State};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// What the codes of the product begin with.
const CODE: &str = "SW-";

/// What became of a node that should not get in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// It is ready.
    LetIn,
    /// It ended; with the last code that it told.
    Refused(String),
    /// Neither, for as long as it was waited.
    Pending,
}

impl Cluster {
    /// The token that a node has from its next start on.
    ///
    /// # Errors
    /// The file system's.
    pub fn give_token(&self, node: usize, token: &str) -> Result<()> {
        Ok(std::fs::write(self.folder.path().join(format!("{}.token", self.name(node))), token)?)
    }

    /// Nothing is expected of a node in this life any more: it is no member, and may end.
    pub fn excuse(&self, node: usize) {
        self.nodes[node].lock().excuse();
    }

    /// kill -9, and all that was on its disk is gone, or only its log of the control state.
    ///
    /// # Errors
    /// The file system's.
    pub async fn wipe(&self, node: usize, only_log: bool) -> Result<()> {
        let process = Arc::clone(&self.nodes[node]);
        let work = move || {
            let mut process = process.lock();
            process.kill();
            let data = process.fittings.seen();
            let gone = if only_log { data.join("raft") } else { data };
            match std::fs::remove_dir_all(gone) {
                // It may never have been started.
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        Ok(tokio::task::spawn_blocking(work).await??)
    }

    /// Starts a node that should be refused, until it is, or gets in, or `patience` is over.
    ///
    /// # Errors
    /// The process cannot be started.
    pub async fn intrude(&self, node: usize, patience: Duration) -> Result<Entry> {
        let log = self.nodes[node].lock().log.clone();
        let before = std::fs::metadata(&log).map_or(0, |file| file.len());
        self.start(node).await?;
        self.excuse(node);
        let began = Instant::now();
        while began.elapsed() < patience {
            if self.state(node) == State::Ended {
                let mut file = std::fs::File::open(&log)?;
                file.seek(SeekFrom::Start(before))?;
                let mut told = Vec::new();
                file.read_to_end(&mut told)?;
                return Ok(Entry::Refused(last_code(&String::from_utf8_lossy(&told))));
            }
            if self.is_ready(node).await {
                return Ok(Entry::LetIn);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(Entry::Pending)
    }

    /// Waits until a node that was started is ready. Gives whether it is.
    pub async fn comes(&self, node: usize, patience: Duration) -> bool {
        let began = Instant::now();
        while began.elapsed() < patience {
            if self.is_ready(node).await {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }

    /// The end of a node's log.
    pub fn last_words(&self, node: usize) -> String {
        self.last_lines(node)
    }
}

/// The last code in a log; empty if there is none.
fn last_code(log: &str) -> String {
    let Some(at) = log.rfind(CODE) else { return String::new() };
    let ends = |c: char| !(c.is_ascii_uppercase() || c == '-');
    log[at..].split(ends).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_code_of_a_log_is_found() {
        let log = "WARN code=\"SW-RAFT-NO-LEADER\" x\nswarmer: SW-NODE-LOG-LOST: node 3 had\n";
        assert_eq!(last_code(log), "SW-NODE-LOG-LOST");
        assert_eq!(last_code("all is well"), "");
    }
}
