//! The janitor of `dev`: when `dev` is gone, by whatever way, so are its nodes and its folder.

use std::{
    collections::BTreeSet,
    fmt,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    str::FromStr,
    time::{Duration, Instant},
};

use clap::Args;
use rustix::process::Signal;

use crate::{
    problem::Outcome,
    process::{is_running, signal, signal_group},
};

/// How long nodes may take to be gone after SIGKILL.
const GONE_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct Janitor {
    /// Folder to remove at the end
    #[arg(long)]
    remove: Option<PathBuf>,
}

/// What `dev` tells its janitor, a line each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JanitorLine {
    /// The process of a node.
    Node(u32),
    /// The process group of a build that began.
    Build(u32),
    /// That build is over.
    Built(u32),
}

impl fmt::Display for JanitorLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node {id}"),
            Self::Build(id) => write!(f, "build {id}"),
            Self::Built(id) => write!(f, "built {id}"),
        }
    }
}

impl FromStr for JanitorLine {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let (what, id) = line.trim().split_once(' ').ok_or(())?;
        let id = id.parse().map_err(|_| ())?;
        match what {
            "node" => Ok(Self::Node(id)),
            "build" => Ok(Self::Build(id)),
            "built" => Ok(Self::Built(id)),
            _ => Err(()),
        }
    }
}

impl Janitor {
    /// Reads what there is to clean up from standard input; its end is the end of `dev`.
    pub(crate) fn run(&self) -> Outcome<()> {
        let mut nodes: Vec<u32> = Vec::new();
        let mut builds = BTreeSet::new();
        for line in BufReader::new(std::io::stdin()).lines() {
            let Ok(line) = line else { break };
            match line.parse() {
                Ok(JanitorLine::Node(id)) => nodes.push(id),
                Ok(JanitorLine::Build(group)) => {
                    builds.insert(group);
                }
                Ok(JanitorLine::Built(group)) => {
                    builds.remove(&group);
                }
                Err(()) => {}
            }
        }
        for group in builds {
            signal_group(group, Signal::KILL);
        }
        for pid in &nodes {
            if is_node(*pid) {
                signal(*pid, Signal::KILL);
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
