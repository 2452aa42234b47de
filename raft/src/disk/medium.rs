//! Files and directories of the simulated disk, each as the process sees it and as it is durable.

use std::collections::{BTreeMap, BTreeSet};

use super::sim::SECTOR_BYTES;

#[derive(Default)]
pub(super) struct Inode {
    pub(super) durable: Vec<u8>,
    pub(super) current: Vec<u8>,
    pub(super) dirty: BTreeSet<usize>,
}

#[derive(Default)]
pub(super) struct Dir {
    pub(super) durable: BTreeMap<String, u64>,
    pub(super) current: BTreeMap<String, u64>,
    pub(super) pending: Vec<DirChange>,
}

#[derive(Clone)]
pub(super) enum DirChange {
    Link(String, u64),
    Unlink(String),
    Rename(String, String, u64),
}

impl DirChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Link(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
            Self::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

impl Dir {
    pub(super) fn change(&mut self, change: DirChange) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    /// A journal keeps a prefix of the changes; other file systems any of them.
    pub(super) fn lose_power(&mut self, dice: &mut Dice) {
        let journal = dice.below(2) == 0;
        let keep = dice.below(self.pending.len() as u64 + 1);
        for (n, change) in self.pending.drain(..).enumerate() {
            if if journal { (n as u64) < keep } else { dice.below(2) == 0 } {
                change.apply(&mut self.durable);
            }
        }
        self.current = self.durable.clone();
    }
}

impl Inode {
    pub(super) fn resize(&mut self, to: usize) {
        let from = self.current.len();
        self.current.resize(to, 0);
        self.touch(from.min(to), from.max(to));
    }

    pub(super) fn write(&mut self, buf: &[u8], at: usize) {
        let end = at + buf.len();
        if end > self.current.len() {
            self.resize(end);
        }
        self.current[at..end].copy_from_slice(buf);
        self.touch(at, end);
    }

    fn touch(&mut self, from: usize, to: usize) {
        self.dirty.extend(from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES));
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            copy_sector(sector, &self.current, &mut self.durable);
        }
    }

    pub(super) fn lose_power(&mut self, dice: &mut Dice) {
        // How much reached the medium: nothing, all, or something between.
        let percent = [0, 10, 50, 90, 100][dice.below(5) as usize];
        let (shorter, longer) = (
            self.durable.len().min(self.current.len()),
            self.durable.len().max(self.current.len()),
        );
        let len = match dice.below(3) {
            0 => self.durable.len(),
            1 => self.current.len(),
            _ => shorter + dice.below((longer - shorter) as u64 + 1) as usize,
        };
        self.durable.resize(len, 0);
        for sector in std::mem::take(&mut self.dirty) {
            if dice.below(100) < percent {
                copy_sector(sector, &self.current, &mut self.durable);
            }
        }
        self.current = self.durable.clone();
    }
}

fn copy_sector(sector: usize, from: &[u8], to: &mut [u8]) {
    let start = sector * SECTOR_BYTES;
    let end = (start + SECTOR_BYTES).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

/// A small generator whose sequence never changes, so that a seed replays for ever (SplitMix64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }
}
