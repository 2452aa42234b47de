//! What a node is fitted with, so that its disk and its clock can be struck.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};

use super::{
    clock::{self, Clock},
    disk::{Disk, Mounts},
    need::Need,
    shim::{Shim, ShimDisk},
};

/// What makes fittings; one for all nodes of a cluster.
pub(super) struct Fitter {
    mounts: Option<Arc<Mounts>>,
    disks: bool,
    shim: Option<Shim>,
    clocks: Option<PathBuf>,
}

impl Fitter {
    /// For faults that need this; `folder` is the cluster's.
    ///
    /// # Errors
    /// The machine lacks something.
    pub(super) fn new(needs: &BTreeSet<Need>, folder: &Path) -> Result<Self> {
        let needs = |need| needs.contains(&need);
        let (disks, clocks) = (needs(Need::Disk), needs(Need::Clock));
        let mounts = (disks || clocks).then(Mounts::new).transpose()?.map(Arc::new);
        if let Some(mounts) = mounts.as_ref().filter(|_| clocks) {
            // libfaketime keeps a piece of it for each process, and one that is killed leaves it.
            mounts.own_shared_memory()?;
        }
        Ok(Self {
            mounts,
            disks,
            shim: needs(Need::Shim).then(|| Shim::build(folder)).transpose()?,
            clocks: clocks
                .then(|| clock::library().context("libfaketime is not installed"))
                .transpose()?,
        })
    }

    /// The fittings of one node. What belongs to it stands at `base` and beside it.
    ///
    /// # Errors
    /// What a tool said.
    pub(super) fn fit(&self, base: &Path) -> Result<Fittings> {
        let mounts = self.mounts.as_ref().filter(|_| self.disks);
        let disk = mounts.map(|mounts| Disk::new(mounts, base)).transpose()?;
        let data = disk.as_ref().map_or_else(|| base.to_owned(), Disk::data);
        let shim = self.shim.as_ref().map(|shim| shim.disk(base, &data)).transpose()?;
        let clock = self.clocks.is_some().then(|| Clock::new(base)).transpose()?;
        let mut settings: Vec<String> = Vec::new();
        settings.extend(shim.iter().flat_map(ShimDisk::settings));
        settings.extend(clock.iter().flat_map(Clock::settings));
        let libraries = self.shim.iter().map(Shim::library).chain(self.clocks.as_deref());
        let libraries: Vec<String> = libraries.map(|path| path.display().to_string()).collect();
        let mut by: Vec<String> = self.mounts.iter().flat_map(|mounts| mounts.enter()).collect();
        if !libraries.is_empty() {
            by.extend(["env".to_owned(), format!("LD_PRELOAD={}", libraries.join(":"))]);
            by.append(&mut settings);
        }
        let mounts = self.mounts.clone();
        Ok(Fittings { data, by, disk, shim, clock, _mounts: mounts })
    }
}

/// Those of one node.
#[derive(Debug)]
pub(super) struct Fittings {
    /// The data directory, as the node sees it.
    pub(super) data: PathBuf,
    /// Words before its command.
    pub(super) by: Vec<String>,
    disk: Option<Disk>,
    shim: Option<ShimDisk>,
    clock: Option<Clock>,
    /// What its command enters must be there as long as it may be started.
    _mounts: Option<Arc<Mounts>>,
}

impl Fittings {
    /// Its own disk.
    ///
    /// # Errors
    /// It has none.
    pub(super) fn disk(&self) -> Result<&Disk> {
        self.disk.as_ref().context("it has no disk of its own")
    }

    /// What stands between it and its disk.
    ///
    /// # Errors
    /// There is nothing.
    pub(super) fn shim(&self) -> Result<&ShimDisk> {
        self.shim.as_ref().context("nothing stands between it and its disk")
    }

    /// Its wall clock.
    ///
    /// # Errors
    /// It has that of the machine.
    pub(super) fn clock(&self) -> Result<&Clock> {
        self.clock.as_ref().context("it has the clock of the machine")
    }

    /// The data directory, as the harness sees it.
    pub(super) fn seen(&self) -> PathBuf {
        self.disk.as_ref().map_or_else(|| self.data.clone(), Disk::seen)
    }

    /// Whether its disk fails now, so that it may end.
    pub(super) fn fails(&self) -> bool {
        self.shim.as_ref().is_some_and(ShimDisk::fails)
            || self.disk.as_ref().is_some_and(Disk::is_full)
    }

    /// Ends all that strikes it.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn heal(&self) -> Result<()> {
        self.shim.as_ref().map_or(Ok(()), ShimDisk::heal_all)?;
        self.disk.as_ref().map_or(Ok(()), Disk::free)?;
        self.clock.as_ref().map_or(Ok(()), Clock::heal_all)
    }
}
