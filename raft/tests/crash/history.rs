//! What was asked of a log, what of it was acknowledged, and whether a log that was opened again
//! is one that may have come of it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use bytes::Bytes;
use swarmer_raft::wal::{Recovered, Wal};

/// More answers than any test leaves unread.
pub(crate) const ANSWERS: usize = 1024;

/// A generator whose sequence never changes (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// One call on the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Entries from an index on; each is given by a tag and a length.
    Append(u64, Vec<(u64, usize)>),
    Vote(u64),
    Committed(u64),
    /// Keeps what is below.
    Truncate(u64),
    Purge(u64),
}

/// The content of an entry: its tag, then bytes that follow from it; some are all zeros.
pub(crate) fn content(tag: u64, len: usize) -> Bytes {
    let mut bytes = tag.to_le_bytes().to_vec();
    if !tag.is_multiple_of(7) {
        let mut dice = Dice(tag);
        bytes.extend(std::iter::repeat_with(|| dice.next() as u8).take(len));
    }
    bytes.resize(8 + len, 0);
    bytes.into()
}

pub(crate) fn word(n: u64) -> Bytes {
    Bytes::copy_from_slice(&n.to_le_bytes())
}

fn unword(bytes: &Bytes) -> u64 {
    u64::from_le_bytes(bytes[..].try_into().expect("only words are saved"))
}

impl Step {
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Append(first, entries) => {
                let mut line = format!("A {first}");
                for (tag, len) in entries {
                    write!(line, " {tag}:{len}").unwrap();
                }
                line
            }
            Self::Vote(n) => format!("V {n}"),
            Self::Committed(n) => format!("C {n}"),
            Self::Truncate(n) => format!("T {n}"),
            Self::Purge(n) => format!("P {n}"),
        }
    }

    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (kind, n) = (words.next()?, words.next()?.parse().ok()?);
        Some(match kind {
            "A" => {
                let entry = |w: &str| {
                    let (tag, len) = w.split_once(':')?;
                    Some((tag.parse().ok()?, len.parse().ok()?))
                };
                Self::Append(n, words.map(entry).collect::<Option<_>>()?)
            }
            "V" => Self::Vote(n),
            "C" => Self::Committed(n),
            "T" => Self::Truncate(n),
            "P" => Self::Purge(n),
            _ => return None,
        })
    }

    /// Makes the call. `Committed` has no answer, so `done` is told at once.
    pub(crate) fn submit(
        &self,
        wal: &Wal,
        done: impl FnOnce(Result<(), swarmer_raft::wal::WalError>) + Send + 'static,
    ) {
        match self {
            Self::Append(first, entries) => {
                wal.append(*first, entries.iter().map(|(t, l)| content(*t, *l)).collect(), done);
            }
            Self::Vote(n) => wal.save_vote(word(*n), done),
            Self::Committed(n) => {
                wal.save_committed(word(*n));
                done(Ok(()));
            }
            Self::Truncate(next) => wal.truncate_after(next.checked_sub(1), done),
            Self::Purge(upto) => wal.purge(*upto, word(*upto), done),
        }
    }
}

/// The log as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) vote: Option<u64>,
    pub(crate) purged: Option<u64>,
    pub(crate) entries: BTreeMap<u64, (u64, usize)>,
}

impl Model {
    /// Where the next entry goes.
    pub(crate) fn next(&self) -> u64 {
        let last = self.entries.last_key_value().map(|(i, _)| *i).or(self.purged);
        last.map_or(0, |i| i + 1)
    }

    pub(crate) fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(first, entries) => {
                self.entries.extend((*first..).zip(entries.iter().copied()));
            }
            Step::Vote(n) => self.vote = Some(*n),
            Step::Committed(_) => {}
            Step::Truncate(next) => {
                self.entries.split_off(next);
            }
            Step::Purge(upto) => {
                if self.purged.is_none_or(|p| p < *upto) {
                    self.entries = self.entries.split_off(&(upto + 1));
                    self.purged = Some(*upto);
                }
            }
        }
    }

    /// What an open log holds; an error where it is not even well formed.
    pub(crate) fn read(wal: &Wal, recovered: &Recovered) -> Result<Self, String> {
        let next = recovered.last.map_or(recovered.first, |l| l + 1);
        let read = wal
            .read(recovered.first..next, usize::MAX)
            .map_err(|e| format!("a recovered entry cannot be read: {e}"))?;
        if read.len() as u64 != next - recovered.first {
            return Err(format!("{} entries in {recovered:?}", read.len()));
        }
        let mut entries = BTreeMap::new();
        for (index, data) in read {
            let tag = u64::from_le_bytes(data[..8].try_into().map_err(|_| "short entry")?);
            if data != content(tag, data.len() - 8) {
                return Err(format!("entry {index} holds bytes that nobody wrote"));
            }
            entries.insert(index, (tag, data.len() - 8));
        }
        Ok(Self {
            vote: recovered.vote.as_ref().map(unword),
            purged: recovered.purged.as_ref().map(|(index, _)| *index),
            entries,
        })
    }
}

/// The acknowledged state and the steps that came after it.
#[derive(Debug, Default)]
pub(crate) struct History {
    acknowledged: Model,
    /// Not yet acknowledged, an entry a step.
    pending: VecDeque<Step>,
    submitted: Model,
    committed_min: u64,
    committed_max: u64,
}

impl History {
    /// The log as it is if everything asked for is done.
    pub(crate) fn submitted(&self) -> &Model {
        &self.submitted
    }

    /// Notes a step before it is submitted; returns how many parts it has.
    pub(crate) fn submit(&mut self, step: &Step) -> usize {
        self.submitted.apply(step);
        match step {
            Step::Append(first, entries) => {
                let single = |(i, e): (u64, &(u64, usize))| Step::Append(i, vec![*e]);
                self.pending.extend((*first..).zip(entries).map(single));
                entries.len()
            }
            Step::Committed(n) => {
                self.committed_max = *n;
                0
            }
            step => {
                self.pending.push_back(step.clone());
                1
            }
        }
    }

    /// Notes that the oldest parts were acknowledged.
    pub(crate) fn acknowledge(&mut self, parts: usize) {
        for step in self.pending.drain(..parts) {
            self.acknowledged.apply(&step);
        }
    }

    /// Notes that the last committed position is durable.
    pub(crate) fn acknowledge_committed(&mut self) {
        self.committed_min = self.committed_max;
    }

    /// Checks a log that was opened again, and goes on from it: whoever opened it acts on it.
    pub(crate) fn reopened(&mut self, wal: &Wal, recovered: &Recovered) -> Result<(), String> {
        let found = Model::read(wal, recovered)?;
        let committed = recovered.committed.as_ref().map_or(0, unword);
        if !(self.committed_min..=self.committed_max).contains(&committed) {
            return Err(format!(
                "committed {committed} is not in {}..={}",
                self.committed_min, self.committed_max
            ));
        }
        let mut may_be = self.acknowledged.clone();
        let mut pending = self.pending.iter();
        while may_be != found {
            let Some(step) = pending.next() else {
                return Err(self.explain(&found));
            };
            may_be.apply(step);
        }
        self.pending.clear();
        self.committed_min = committed;
        self.committed_max = committed;
        self.submitted = found.clone();
        self.acknowledged = found;
        Ok(())
    }

    fn explain(&self, found: &Model) -> String {
        let brief = |m: &Model| {
            let (first, last) = (m.entries.first_key_value(), m.entries.last_key_value());
            format!(
                "vote {:?}, purged {:?}, entries {:?}..={:?}",
                m.vote,
                m.purged,
                first.map(|(i, _)| i),
                last.map(|(i, _)| i)
            )
        };
        format!(
            "acknowledged: {}; found: {}; {} steps were open",
            brief(&self.acknowledged),
            brief(found),
            self.pending.len()
        )
    }
}

/// Thinks of the next step for a log in this state.
pub(crate) fn think(dice: &mut Dice, tags: &mut u64, model: &Model, committed: u64) -> Step {
    let next = model.next();
    let first = model.entries.first_key_value().map_or(next, |(i, _)| *i);
    match dice.below(20) {
        0..=11 => {
            let count = 1 + dice.below(6);
            let mut entry = || {
                *tags += 1;
                let most = if dice.below(4) == 0 { 1500 } else { 120 };
                (*tags, dice.below(most) as usize)
            };
            Step::Append(next, (0..count).map(|_| entry()).collect())
        }
        12..=14 => Step::Vote(model.vote.unwrap_or(0) + 1),
        15 => Step::Committed(committed + 1),
        16..=17 => Step::Truncate(next - dice.below(next - first + 1)),
        // Now and then beyond the end, as a snapshot from the leader does.
        18 if dice.below(8) == 0 => Step::Purge(next + dice.below(3)),
        _ => Step::Purge(first + dice.below(next - first + 1).saturating_sub(1)),
    }
}
