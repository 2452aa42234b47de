//! Power cuts and killed processes on the simulated disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use swarmer_raft::disk::{SimDisk, Skip};
use swarmer_raft::wal::{Wal, WalConfig};

use super::history::ANSWERS;
use super::history::{Dice, History, Step, think};

/// Crashes of one seed.
const CRASHES: usize = 12;
/// At least so many of each sort must have happened.
const WANTED: usize = 200;
/// A disk in memory answers at once; this is for a machine that is very busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// The sync that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeftOut {
    Nothing,
    /// Of the segment, after entries and everything else.
    Segment,
    /// Of the segment, after a vote that stands alone.
    Vote,
    /// Of the directory, after a segment was created.
    Directory,
    /// Of the segment, while the log is opened.
    Opening,
}

#[derive(Debug, Default)]
struct Count {
    kills: usize,
    cuts: usize,
    /// A process was killed, the next one opened the log, and then the power failed.
    killed_opened_cut: usize,
    acknowledged: usize,
    opened: usize,
}

pub(crate) fn config() -> WalConfig {
    WalConfig {
        segment_bytes: 8 * 1024,
        max_record_bytes: 2 * 1024,
        cache_bytes: 2 * 1024,
        ..WalConfig::new("/log/wal")
    }
}

/// Runs a log through crashes; the error is the violation.
fn run(seed: u64, left_out: LeftOut, count: &mut Count) -> Result<(), String> {
    let mut dice = Dice(seed);
    let mut disk = SimDisk::new();
    let mut history = History::default();
    let mut tags = seed << 32;
    let mut last_was_kill = false;
    for _ in 0..CRASHES {
        disk.die_after(dice.below(120));
        let skip: &[Skip] = match left_out {
            LeftOut::Directory => &[Skip::Dirs],
            LeftOut::Opening => &[Skip::Files],
            _ => &[],
        };
        disk.set_skip(skip);
        let opened = Wal::open(Arc::new(disk.clone()), config());
        if left_out != LeftOut::Directory {
            disk.set_skip(&[]);
        }
        let mut was_opened = false;
        match opened {
            // The next one has to cope with what this one left.
            Err(_) if disk.is_dead() => {}
            Err(error) => return Err(format!("cannot be opened: {error}")),
            Ok((wal, recovered)) => {
                was_opened = true;
                count.opened += 1;
                match history.reopened(&wal, &recovered) {
                    Err(_) if disk.is_dead() => {}
                    checked => {
                        checked?;
                        let mut committed = recovered.committed.map_or(0, |c| {
                            u64::from_le_bytes(c[..].try_into().expect("only words are saved"))
                        });
                        // Some crash before they did anything.
                        if dice.below(4) > 0 {
                            let mut load = Load {
                                wal: &wal,
                                disk: &disk,
                                dice: &mut dice,
                                tags: &mut tags,
                                committed: &mut committed,
                                left_out,
                            };
                            while !disk.is_dead() {
                                count.acknowledged += load.group(&mut history)?;
                            }
                        }
                    }
                }
                // The process dies here at the latest, before a handle can close in good order.
                disk.die_after(0);
                let _ = swarmer_raft::disk::Disk::create_dir(&disk, Path::new("/log"));
                drop(wal);
            }
        }
        if dice.below(2) == 0 {
            count.kills += 1;
            last_was_kill = true;
            disk = disk.restart();
        } else {
            count.cuts += 1;
            count.killed_opened_cut += usize::from(last_was_kill && was_opened);
            last_was_kill = false;
            disk = disk.power_cut(dice.next());
        }
    }
    Ok(())
}

/// Somebody who uses the log.
struct Load<'a> {
    wal: &'a Wal,
    disk: &'a SimDisk,
    dice: &'a mut Dice,
    tags: &'a mut u64,
    committed: &'a mut u64,
    left_out: LeftOut,
}

impl Load<'_> {
    /// Hands in a group of steps and waits for its answers; returns how many were good.
    fn group(&mut self, history: &mut History) -> Result<usize, String> {
        let (tell, told) = mpsc::sync_channel(ANSWERS);
        let hold = self.wal.hold();
        let mut steps = Vec::new();
        for _ in 0..=self.dice.below(4) {
            let step = think(self.dice, self.tags, history.submitted(), *self.committed);
            if let Step::Committed(n) = step {
                *self.committed = n;
            }
            let parts = history.submit(&step);
            let tell = tell.clone();
            step.submit(self.wal, move |result| {
                let _ = tell.send((parts, result));
            });
            steps.push(step);
        }
        let vote_alone = steps.iter().all(|s| matches!(s, Step::Vote(_)));
        let skip = match self.left_out {
            LeftOut::Segment => true,
            LeftOut::Vote => vote_alone,
            _ => false,
        };
        if skip {
            self.disk.set_skip(&[Skip::Files]);
        }
        drop(tell);
        drop(hold);
        let (mut good, mut failed) = (0, false);
        let only_committed = steps.iter().all(|s| matches!(s, Step::Committed(_)));
        for _ in &steps {
            let (parts, result) =
                told.recv_timeout(PATIENCE).map_err(|e| format!("an answer is missing: {e}"))?;
            match result {
                Ok(()) if failed && parts > 0 => {
                    return Err("a call succeeded after one before it failed".to_owned());
                }
                Ok(()) => {
                    history.acknowledge(parts);
                    good += 1;
                }
                Err(error) => {
                    if !self.disk.is_dead() {
                        return Err(format!("a sound disk gave {error}"));
                    }
                    failed = true;
                }
            }
        }
        if !failed && !only_committed {
            history.acknowledge_committed();
        }
        if skip {
            self.disk.set_skip(&[]);
        }
        Ok(good)
    }
}

#[test]
fn no_crash_loses_anything_acknowledged() {
    if let Ok(seed) = std::env::var("SWARMER_CRASH_SEED") {
        let seed = seed.parse().expect("SWARMER_CRASH_SEED is a number");
        run(seed, LeftOut::Nothing, &mut Count::default()).unwrap();
        return;
    }
    let mut count = Count::default();
    for seed in 0..80 {
        if let Err(violation) = run(seed, LeftOut::Nothing, &mut count) {
            panic!("seed {seed}: {violation}");
        }
    }
    println!("seeds 0..80: {count:?}");
    assert!(count.kills >= WANTED && count.cuts >= WANTED, "{count:?}");
    assert!(count.killed_opened_cut >= 50, "{count:?}");
    assert!(count.acknowledged >= 2_000, "{count:?}");
}

/// The harness must see each of these; otherwise it would prove nothing.
fn must_be_seen(left_out: LeftOut) {
    // A vote that stands alone, and then a power cut at once, is rare.
    let seeds = if left_out == LeftOut::Vote { 200 } else { 60 };
    let violations: Vec<(u64, String)> = (0..seeds)
        .filter_map(|seed| run(seed, left_out, &mut Count::default()).err().map(|v| (seed, v)))
        .collect();
    let share = violations.len();
    println!("without {left_out:?}: {share} of {seeds} seeds; first: {:?}", violations.first());
    assert!(share > 0, "no violation in {seeds} seeds without the sync of {left_out:?}");
}

#[test]
fn a_missing_sync_of_the_segment_is_seen() {
    must_be_seen(LeftOut::Segment);
}

#[test]
fn a_missing_sync_of_a_vote_is_seen() {
    must_be_seen(LeftOut::Vote);
}

#[test]
fn a_missing_sync_of_the_directory_is_seen() {
    must_be_seen(LeftOut::Directory);
}

#[test]
fn a_missing_sync_after_opening_is_seen() {
    must_be_seen(LeftOut::Opening);
}
