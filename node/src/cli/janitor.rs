//! The janitor of `dev`: when `dev` is gone, by whatever way, so are its nodes and its folder.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    problem::Outcome,
    process::{is_running, signal},
};

/// How long nodes may take to be gone after SIGKILL.
const GONE_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct Janitor {
    /// Folder to remove at the end
    #[arg(long)]
    remove: Option<PathBuf>,
}

impl Janitor {
    /// Reads the ids of the nodes from standard input; its end is the end of `dev`.
    pub(crate) fn run(&self) -> Outcome<()> {
        let mut nodes: Vec<u32> = Vec::new();
        for line in BufReader::new(std::io::stdin()).lines() {
            let Ok(line) = line else { break };
            if let Ok(pid) = line.trim().parse() {
                nodes.push(pid);
            }
        }
        for pid in &nodes {
            if is_node(*pid) {
                signal(*pid, libc::SIGKILL);
            }
        }
        let start = Instant::now();
        while nodes.iter().any(|pid| is_node(*pid)) && start.elapsed() < GONE_DEADLINE {
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(folder) = &self.remove {
            let _ = std::fs::remove_dir_all(folder);
        }
        Ok(())
    }
}

/// Whether the process is still one of ours: an id may have been given to another one since.
fn is_node(pid: u32) -> bool {
    is_running(pid)
        && std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|b| *b == 0).any(|word| word == b"--die-with"))
}
