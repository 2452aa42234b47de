//! Is a history linearizable? The search of Wing and Gong (Testing and verifying concurrent
//! objects, 1993) with Lowe's memo of configurations (Testing for linearizability, 2017).
//!
//! An operation with an unknown outcome has no end: it may take effect at any time after it began,
//! or never. The search is exponential in the worst case, so it has a budget and gives up aloud.

use std::{collections::HashSet, hash::Hash};

/// A sequential object.
pub trait Model {
    /// What it is in.
    type State: Clone + Eq + Hash;
    /// An operation with its answer.
    type Op;

    /// The state after `op`; none if an object in `state` does not answer so.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;
}

/// An operation and the time in which it took effect.
#[derive(Debug, Clone)]
pub struct Call<O> {
    /// What was done, with its answer.
    pub op: O,
    /// It took effect after this.
    pub invoked: u64,
    /// And before this; none if that is not known, nor whether it did.
    pub completed: Option<u64>,
}

/// What the search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Search<S> {
    /// There is an order.
    Linearizable,
    /// There is none.
    Not {
        /// The first call, by completion, up to which no order exists.
        stuck: usize,
        /// States that the object could be in just before, at most [`MAX_STATES`].
        states: Vec<S>,
    },
    /// The budget was spent.
    GaveUp,
}

/// How many states an explanation tells.
pub const MAX_STATES: usize = 8;

const HEAD: usize = 0;

/// What still stands in time order, as a doubly linked list that forgets and remembers in O(1).
struct Entries {
    next: Vec<usize>,
    prev: Vec<usize>,
    /// Which call an entry belongs to, and whether it is its end.
    what: Vec<(usize, bool)>,
    begin: Vec<usize>,
    end: Vec<Option<usize>>,
}

impl Entries {
    fn new<O>(calls: &[Call<O>]) -> Self {
        let mut times = Vec::with_capacity(calls.len() * 2);
        for (i, call) in calls.iter().enumerate() {
            times.push((call.invoked, false, i));
            if let Some(completed) = call.completed {
                times.push((completed, true, i));
            }
        }
        // At equal times beginnings come first: such calls overlap.
        times.sort_unstable();
        let count = times.len() + 1;
        let mut entries = Self {
            next: (1..=count).collect(),
            prev: (0..count).map(|i| i.saturating_sub(1)).collect(),
            what: vec![(usize::MAX, false)],
            begin: vec![0; calls.len()],
            end: vec![None; calls.len()],
        };
        entries.prev.push(count - 1);
        for (at, (_, end, call)) in times.into_iter().enumerate() {
            entries.what.push((call, end));
            if end {
                entries.end[call] = Some(at + 1);
            } else {
                entries.begin[call] = at + 1;
            }
        }
        entries
    }

    fn unlink(&mut self, at: usize) {
        let (prev, next) = (self.prev[at], self.next[at]);
        self.next[prev] = next;
        self.prev[next] = prev;
    }

    fn relink(&mut self, at: usize) {
        let (prev, next) = (self.prev[at], self.next[at]);
        self.next[prev] = at;
        self.prev[next] = at;
    }

    fn lift(&mut self, call: usize) {
        self.unlink(self.begin[call]);
        if let Some(end) = self.end[call] {
            self.unlink(end);
        }
    }

    fn unlift(&mut self, call: usize) {
        if let Some(end) = self.end[call] {
            self.relink(end);
        }
        self.relink(self.begin[call]);
    }
}

/// Looks for an order, trying at most `budget` configurations.
pub fn search<M: Model>(
    model: &M,
    initial: M::State,
    calls: &[Call<M::Op>],
    budget: usize,
) -> Search<M::State> {
    let mut entries = Entries::new(calls);
    let mut open = calls.iter().filter(|call| call.completed.is_some()).count();
    let mut chosen = vec![0_u64; calls.len().div_ceil(64)];
    let mut memo: HashSet<(Vec<u64>, M::State)> = HashSet::new();
    let mut stack: Vec<(usize, M::State)> = Vec::new();
    let mut state = initial;
    let mut furthest = HEAD;
    let mut states: Vec<M::State> = Vec::new();
    let mut at = entries.next[HEAD];
    while open > 0 {
        let (call, end) = entries.what[at];
        if !end {
            if let Some(after) = model.step(&state, &calls[call].op) {
                chosen[call / 64] |= 1 << (call % 64);
                if memo.insert((chosen.clone(), after.clone())) {
                    if memo.len() > budget {
                        return Search::GaveUp;
                    }
                    stack.push((call, std::mem::replace(&mut state, after)));
                    open -= usize::from(calls[call].completed.is_some());
                    entries.lift(call);
                    at = entries.next[HEAD];
                    continue;
                }
                chosen[call / 64] &= !(1 << (call % 64));
            }
            at = entries.next[at];
            continue;
        }
        // This call has ended and could not be put before its end: another order.
        if at > furthest {
            furthest = at;
            states.clear();
        }
        if at == furthest && states.len() < MAX_STATES && !states.contains(&state) {
            states.push(state.clone());
        }
        let Some((last, before)) = stack.pop() else {
            return Search::Not { stuck: entries.what[furthest].0, states };
        };
        state = before;
        chosen[last / 64] &= !(1 << (last % 64));
        open += usize::from(calls[last].completed.is_some());
        entries.unlift(last);
        at = entries.next[entries.begin[last]];
    }
    Search::Linearizable
}
