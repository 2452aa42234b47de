//! Which requests were already answered, so that a retry is not applied twice.

use std::collections::{HashMap, VecDeque};

use swarmer_model::planted::{self, Bug};

use crate::keyspace::state::Response;

/// How many answers are remembered: at 1,000 writes a second, longer than the longest deadline
/// ([`crate::MAX_DEADLINE`]), within which alone a request is retried.
pub(crate) const MAX_REQUESTS: usize = 65_536;
/// The most bytes that they take (a conflict repeats its key).
pub(crate) const MAX_REQUEST_BYTES: usize = 8 << 20;

/// The answers given last, in order. All kinds of answers are kept: a request that was answered
/// with a conflict must not happen later through a copy of it that was delayed on its way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dedup {
    answers: HashMap<u128, Response>,
    order: VecDeque<u128>,
    bytes: usize,
    /// The sequence number of the first one in `order`.
    first: u64,
}

impl Dedup {
    pub(crate) fn get(&self, id: u128) -> Option<&Response> {
        self.answers.get(&id)
    }

    pub(crate) fn insert(&mut self, id: u128, response: Response) {
        if planted::is_on(Bug::ForgetRequests) {
            return;
        }
        self.bytes += weight(&response);
        self.order.push_back(id);
        self.answers.insert(id, response);
        while self.order.len() > MAX_REQUESTS || self.bytes > MAX_REQUEST_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(gone) = self.answers.remove(&oldest) {
                self.bytes -= weight(&gone);
            }
            self.first += 1;
        }
    }

    /// The sequence numbers of those that are remembered.
    pub(crate) fn range(&self) -> std::ops::Range<u64> {
        self.first..self.first + self.order.len() as u64
    }

    /// In order, with their sequence numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u128, &Response)> {
        (self.first..)
            .zip(&self.order)
            .filter_map(|(sequence, id)| Some((sequence, *id, self.answers.get(id)?)))
    }

    /// The next answer of a table that is being read back; numbers must follow one another.
    pub(crate) fn restore(&mut self, sequence: u64, id: u128, response: Response) -> bool {
        if self.order.is_empty() {
            self.first = sequence;
        }
        if sequence != self.first + self.order.len() as u64 || self.answers.contains_key(&id) {
            return false;
        }
        self.insert(id, response);
        true
    }
}

fn weight(response: &Response) -> usize {
    const FIXED: usize = 96;
    FIXED
        + match response {
            Response::Done(crate::Outcome::Conflict { key, .. }) => key.len(),
            _ => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;

    #[test]
    fn oldest_are_forgotten_first_and_numbers_go_on() {
        let mut dedup = Dedup::default();
        let answer = |revision| Response::Done(Outcome::Committed { revision });
        for i in 0..MAX_REQUESTS as u64 {
            dedup.insert(u128::from(i), answer(i));
        }
        assert_eq!(dedup.range(), 0..MAX_REQUESTS as u64);
        dedup.insert(u128::MAX, answer(7));
        assert_eq!(dedup.range(), 1..1 + MAX_REQUESTS as u64);
        assert_eq!(dedup.get(0), None);
        assert_eq!(dedup.get(1), Some(&answer(1)));
        let mut copy = Dedup::default();
        for (sequence, id, response) in dedup.iter() {
            assert!(copy.restore(sequence, id, response.clone()));
        }
        assert_eq!(copy, dedup);
        assert!(!copy.restore(5, 5, answer(5)));
    }
}
