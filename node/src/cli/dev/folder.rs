//! The folder of a local cluster: a temporary one, or one that is kept and carried on with.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::nodes::Ports;
use crate::{
    agent::data_dir::{lock_exclusive, read_json, write_json},
    codes,
    problem::{Outcome, Problem},
};

/// Name of the file that says what is in the folder.
const FILE: &str = "dev.json";
/// Name of the file that is locked while the cluster runs.
const LOCK: &str = "dev.lock";

/// What a local cluster is made of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Nodes that founded it; the others joined.
    pub(super) founders: usize,
    /// Where each node listens.
    pub(super) ports: Vec<Ports>,
}

/// The folder with the nodes' data.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) temporary: bool,
    /// Of the cluster that is there already.
    pub(super) plan: Option<Plan>,
    /// Of a kept folder, until this process ends.
    _lock: Option<File>,
}

impl Folder {
    /// Opens the folder for a cluster of `nodes` nodes.
    pub(super) fn open(given: Option<&Path>, nodes: u32) -> Outcome<Self> {
        let Some(path) = given else {
            let folder = tempfile::Builder::new().prefix("swarmer-dev-").tempdir();
            let folder = folder
                .map_err(|error| Problem::new(codes::DATA_DIR, format!("a new folder: {error}")))?;
            // The janitor removes it, whichever way this process ends.
            return Ok(Self { path: folder.keep(), temporary: true, plan: None, _lock: None });
        };
        let fail = |error: std::io::Error| {
            Problem::new(codes::DATA_DIR, format!("{}: {error}", path.display()))
        };
        std::fs::create_dir_all(path).map_err(fail)?;
        let path = &path.canonicalize().map_err(fail)?;
        // Before anything in it is read: what is there belongs to the one that runs.
        let lock = File::create(path.join(LOCK)).map_err(fail)?;
        lock_exclusive(&lock, path)?;
        let plan: Option<Plan> = read_json(&path.join(FILE))?;
        let there = plan.as_ref().map_or(0, |plan| plan.ports.len());
        if there > nodes as usize {
            let why = format!(
                "--nodes is {nodes}, but {} holds a cluster of {there}: give --nodes {there} or \
                 another --dir",
                path.display()
            );
            return Err(Problem::new(codes::USAGE, why));
        }
        Ok(Self { path: path.clone(), temporary: false, plan, _lock: Some(lock) })
    }

    /// Keeps what the cluster is made of, for the next time.
    pub(super) fn keep(&self, plan: &Plan) -> Outcome<()> {
        if self.temporary { Ok(()) } else { write_json(&self.path.join(FILE), plan) }
    }
}
