//! How much of a node is taken, and what still fits.

use swarmer_model::planted::{self, Bug};

use crate::input::Capacity;

/// What one copy of a function takes of its node, beside its place among the functions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand {
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Requests at once.
    pub concurrency: u32,
}

/// How much of a node is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    pub(crate) functions: u32,
    /// Wider than any one input, so that sums never overflow.
    memory_bytes: u128,
    concurrency: u64,
}

/// What there is too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Places for functions.
    Functions,
    /// Memory.
    Memory,
    /// Requests at once.
    Concurrency,
}

impl Used {
    /// One more copy.
    pub fn put(&mut self, copy: Demand) {
        self.functions = self.functions.saturating_add(1);
        self.memory_bytes += u128::from(copy.memory_bytes);
        self.concurrency = self.concurrency.saturating_add(copy.concurrency.into());
    }

    /// One copy less.
    pub fn take(&mut self, copy: Demand) {
        self.functions = self.functions.saturating_sub(1);
        self.memory_bytes = self.memory_bytes.saturating_sub(copy.memory_bytes.into());
        self.concurrency = self.concurrency.saturating_sub(copy.concurrency.into());
    }

    /// What there is too little of for one more copy; `None`: it fits.
    #[inline]
    pub fn lacks(&self, copy: Demand, capacity: Capacity) -> Option<Lack> {
        if planted::is_on(Bug::OverfillNode) {
            return None;
        }
        let mut with = *self;
        with.put(copy);
        with.over(capacity)
    }

    /// What more of is taken than there is.
    #[inline]
    pub(crate) fn over(&self, capacity: Capacity) -> Option<Lack> {
        if self.functions > capacity.functions {
            return Some(Lack::Functions);
        }
        if self.memory_bytes > u128::from(capacity.memory_bytes) {
            return Some(Lack::Memory);
        }
        let bound = capacity.concurrency;
        bound.is_some_and(|bound| self.concurrency > bound).then_some(Lack::Concurrency)
    }

    /// In thousandths, the fullest of what the node has.
    #[inline]
    pub(crate) fn permille(&self, capacity: Capacity) -> u32 {
        let functions = permille(self.functions.into(), capacity.functions.into());
        let memory = permille(self.memory_bytes, capacity.memory_bytes.into());
        let bound = capacity.concurrency;
        let concurrency = bound.map_or(0, |bound| permille(self.concurrency.into(), bound.into()));
        functions.max(memory).max(concurrency)
    }

    /// The memory as the inputs measure it.
    pub(crate) fn memory(&self) -> u64 {
        u64::try_from(self.memory_bytes).unwrap_or(u64::MAX)
    }

    /// The requests at once.
    pub(crate) fn concurrency(&self) -> u64 {
        self.concurrency
    }
}

/// In thousandths; full where there is nothing to fill.
#[inline]
fn permille(part: u128, whole: u128) -> u32 {
    if whole == 0 {
        return 1000;
    }
    // Division of 128 bits takes ten times as long, and no machine needs it.
    let short = |x: u128| u64::try_from(x).ok();
    let share = match (short(part.saturating_mul(1000)), short(whole)) {
        (Some(part), Some(whole)) => u128::from(part / whole),
        _ => part.saturating_mul(1000) / whole,
    };
    u32::try_from(share).unwrap_or(u32::MAX)
}
