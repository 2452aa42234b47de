//! The pure state machine: (state, transaction) -> (answer, changes).

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use swarmer_model::Revision;

use super::{
    batch::{Batch, ChainHash},
    dedup::Dedup,
};
use crate::{
    txn::{Expect, Op, Outcome, Txn},
    view::{Entry, Event},
};

/// The most bytes of keys and values. The whole keyspace is mirrored in memory, so this bounds a
/// node's memory; tens of thousands of functions fit into a tenth of it.
pub(crate) const MAX_KEYSPACE_BYTES: u64 = 256 << 20;

/// What applying a transaction answers; the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Response {
    /// It was judged.
    Done(Outcome),
    /// There is no room; nothing happened.
    Full { used_bytes: u64 },
    /// The entry was no transaction.
    Nothing,
}

/// The state after some prefix of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    entries: BTreeMap<Arc<str>, Entry>,
    bytes: u64,
    revision: Revision,
    chain: ChainHash,
    dedup: Dedup,
}

impl State {
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn chain(&self) -> ChainHash {
        self.chain
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Entries whose key starts with `prefix`, in the order of keys.
    pub(crate) fn list<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Entry)> {
        self.entries
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Applies a transaction; there is a batch if there is a new revision. Depends on nothing but
    /// the state and the transaction.
    pub(crate) fn apply(&mut self, txn: &Txn) -> (Response, Option<Arc<Batch>>) {
        if let Some(answer) = self.dedup.get(txn.request_id) {
            return (answer.clone(), None);
        }
        let (response, batch) = self.judge(txn);
        self.dedup.insert(txn.request_id, response.clone());
        (response, batch)
    }

    fn judge(&mut self, txn: &Txn) -> (Response, Option<Arc<Batch>>) {
        for check in &txn.checks {
            let found = self.entries.get(check.key.as_str()).map(|entry| entry.revision);
            let holds = match check.revision {
                Expect::Absent => found.is_none(),
                Expect::At(revision) => found == Some(revision),
                Expect::Exists => found.is_some(),
            };
            if !holds {
                let outcome =
                    Outcome::Conflict { key: check.key.clone(), found, revision: self.revision };
                return (Response::Done(outcome), None);
            }
        }
        let events: Vec<Event> = txn.ops.iter().filter_map(|op| self.event(op)).collect();
        if events.is_empty() {
            let outcome = Outcome::Committed { revision: self.revision };
            return (Response::Done(outcome), None);
        }
        let grows: u64 = events.iter().filter(|e| e.value.is_some()).map(event_bytes).sum();
        let frees: u64 = events.iter().map(|event| self.held(&event.key)).sum();
        let after = self.bytes.saturating_sub(frees) + grows;
        if after > MAX_KEYSPACE_BYTES && grows > frees {
            return (Response::Full { used_bytes: self.bytes }, None);
        }
        let revision = self.revision + 1;
        let chain = self.chain.after(revision, &events);
        let batch = Arc::new(Batch { revision, chain, events });
        self.advance(&batch);
        (Response::Done(Outcome::Committed { revision }), Some(batch))
    }

    /// Applies a batch that another node made.
    ///
    /// # Errors
    /// What is wrong with it, if it is not the next one or its chain does not fit; the state is
    /// unchanged then.
    pub(crate) fn apply_batch(&mut self, batch: &Batch) -> Result<(), BatchRefused> {
        let expected = self.revision + 1;
        if batch.revision != expected {
            return Err(BatchRefused::Gap { expected });
        }
        if self.chain.after(batch.revision, &batch.events) != batch.chain {
            return Err(BatchRefused::Chain);
        }
        self.advance(batch);
        Ok(())
    }

    fn event(&self, op: &Op) -> Option<Event> {
        match op {
            Op::Put { key, value } => Some(Event { key: key.clone(), value: Some(value.clone()) }),
            Op::Delete { key } => self
                .entries
                .contains_key(key.as_str())
                .then(|| Event { key: key.clone(), value: None }),
        }
    }

    fn held(&self, key: &str) -> u64 {
        self.entries.get(key).map_or(0, |entry| (key.len() + entry.value.len()) as u64)
    }

    fn advance(&mut self, batch: &Batch) {
        for event in &batch.events {
            self.bytes -= self.held(&event.key);
            match &event.value {
                None => {
                    self.entries.remove(event.key.as_str());
                }
                Some(value) => {
                    self.bytes += event_bytes(event);
                    let created = self
                        .entries
                        .get(event.key.as_str())
                        .map_or(batch.revision, |entry| entry.created);
                    // A copy, so that one value does not keep the whole message alive that
                    // brought it.
                    let value = Bytes::copy_from_slice(value);
                    let entry = Entry { value, revision: batch.revision, created };
                    self.entries.insert(event.key.as_str().into(), entry);
                }
            }
        }
        self.revision = batch.revision;
        self.chain = batch.chain;
    }

    /// A frozen copy that shares all keys and values with the state.
    pub(crate) fn image(&self) -> StateImage {
        StateImage { state: self.clone() }
    }
}

fn event_bytes(event: &Event) -> u64 {
    (event.key.len() + event.value.as_ref().map_or(0, Bytes::len)) as u64
}

/// Why a batch was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchRefused {
    Gap { expected: Revision },
    Chain,
}

/// One piece of a state that is stored or sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    Entry { key: String, value: Bytes, revision: Revision, created: Revision },
    Request { sequence: u64, id: u128, response: Response },
}

impl Record {
    /// The record of an entry.
    pub(crate) fn entry(key: &str, entry: &Entry) -> Self {
        Self::Entry {
            key: key.to_owned(),
            value: entry.value.clone(),
            revision: entry.revision,
            created: entry.created,
        }
    }

    /// The key of an entry.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Entry { key, .. } => key,
            Self::Request { .. } => "",
        }
    }
}

/// A state that does not change any more, to be written out piece by piece.
#[derive(Debug, Clone)]
pub(crate) struct StateImage {
    state: State,
}

impl StateImage {
    pub(crate) fn revision(&self) -> Revision {
        self.state.revision
    }

    pub(crate) fn chain(&self) -> ChainHash {
        self.state.chain
    }

    /// All records: entries in the order of keys, then answered requests in their order.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> {
        let entries = self.state.entries.iter().map(|(key, entry)| Record::entry(key, entry));
        entries.chain(self.requests_from(0))
    }

    /// The entry of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.state.get(key)
    }

    /// The answered requests in their order, from this sequence number on.
    pub(crate) fn requests_from(&self, first: u64) -> impl Iterator<Item = Record> {
        let requests = self.state.dedup.iter().filter(move |(sequence, _, _)| *sequence >= first);
        requests.map(|(sequence, id, response)| Record::Request {
            sequence,
            id,
            response: response.clone(),
        })
    }

    /// The sequence numbers of the answered requests.
    pub(crate) fn request_range(&self) -> std::ops::Range<u64> {
        self.state.dedup.range()
    }

    /// Entries after a key, about `max_bytes` of them; none after the last.
    pub(crate) fn entries_after(&self, after: Option<&str>, max_bytes: usize) -> Vec<Record> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut records = Vec::new();
        let mut bytes = 0;
        for (key, entry) in self.state.entries.range::<str, _>((from, Bound::Unbounded)) {
            bytes += key.len() + entry.value.len() + 32;
            if bytes > max_bytes && !records.is_empty() {
                break;
            }
            records.push(Record::entry(key, entry));
        }
        records
    }

    /// A digest of everything in it, to tell after a restart that nothing was lost or changed.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(self.state.revision.to_le_bytes());
        hasher.update(self.state.chain.0);
        for record in self.records() {
            let bytes = postcard::to_allocvec(&record).unwrap_or_default();
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(&bytes);
        }
        hasher.finalize().into()
    }
}

/// Puts a state together from its records.
#[derive(Debug, Default)]
pub(crate) struct StateBuilder {
    state: State,
}

impl StateBuilder {
    /// Takes a record.
    ///
    /// # Errors
    /// If it is out of order or breaks a bound.
    pub(crate) fn add(&mut self, record: Record) -> Result<(), &'static str> {
        let state = &mut self.state;
        match record {
            Record::Entry { key, value, revision, created } => {
                if state.entries.last_key_value().is_some_and(|(last, _)| **last >= *key) {
                    return Err("keys are out of order");
                }
                state.bytes += (key.len() + value.len()) as u64;
                if state.bytes > MAX_KEYSPACE_BYTES + crate::MAX_TXN_BYTES as u64 {
                    return Err("more bytes than a keyspace may hold");
                }
                let value = Bytes::copy_from_slice(&value);
                state.entries.insert(key.into(), Entry { value, revision, created });
            }
            Record::Request { sequence, id, response } => {
                if !state.dedup.restore(sequence, id, response) {
                    return Err("answered requests are out of order");
                }
            }
        }
        Ok(())
    }

    pub(crate) fn finish(mut self, revision: Revision, chain: ChainHash) -> State {
        self.state.revision = revision;
        self.state.chain = chain;
        self.state
    }
}
