//! The one history, put together from what nodes were seen to apply; and a replay of it by rules
//! of its own, not by the code that is under test.

use std::collections::BTreeMap;

use bytes::Bytes;
use swarmer_model::{Digest, NodeId, Revision};
use swarmer_raft::{ChainHash, Event};

/// A state: the value of each key and the revision of its last change.
pub(crate) type Entries = BTreeMap<String, (Revision, Bytes)>;

/// The batches and the chain hashes that were seen.
#[derive(Default)]
pub(crate) struct History {
    batches: BTreeMap<Revision, (NodeId, Vec<Event>)>,
    chains: BTreeMap<Revision, (NodeId, ChainHash)>,
}

impl History {
    pub(crate) fn applied(
        &mut self,
        node: NodeId,
        revision: Revision,
        events: &[Event],
    ) -> Result<(), String> {
        match self.batches.get(&revision) {
            None => {
                self.batches.insert(revision, (node, events.to_vec()));
                Ok(())
            }
            Some((_, before)) if before == events => Ok(()),
            Some((other, before)) => Err(format!(
                "revision {revision}: node {} applied {}, node {} applied {}",
                other.0,
                shown(before),
                node.0,
                shown(events)
            )),
        }
    }

    pub(crate) fn seen_at(
        &mut self,
        node: NodeId,
        revision: Revision,
        chain: ChainHash,
    ) -> Result<(), String> {
        let (other, before) = *self.chains.entry(revision).or_insert((node, chain));
        if before == chain {
            return Ok(());
        }
        Err(format!(
            "revision {revision}: node {} has chain {before:?}, node {} has {chain:?}",
            other.0, node.0
        ))
    }

    pub(crate) fn last(&self) -> Revision {
        self.batches.last_key_value().map_or(0, |(revision, _)| *revision)
    }

    pub(crate) fn events(&self, revision: Revision) -> Option<&[Event]> {
        self.batches.get(&revision).map(|(_, events)| events.as_slice())
    }

    /// All batches after one revision and up to another.
    pub(crate) fn range(
        &self,
        after: Revision,
        upto: Revision,
    ) -> impl Iterator<Item = (Revision, &[Event])> {
        let range = if after < upto { after + 1..upto + 1 } else { 0..0 };
        self.batches.range(range).map(|(revision, (_, events))| (*revision, events.as_slice()))
    }

    pub(crate) fn chain(&self, revision: Revision) -> Option<ChainHash> {
        self.chains.get(&revision).map(|(_, chain)| *chain)
    }

    pub(crate) fn replay(&self) -> Replay<'_> {
        Replay { history: self, revision: 0, chain: ChainHash::default(), entries: Entries::new() }
    }
}

/// The state after more and more of the history.
pub(crate) struct Replay<'a> {
    history: &'a History,
    revision: Revision,
    chain: ChainHash,
    entries: Entries,
}

impl Replay<'_> {
    /// The state at a revision; not before the last one asked for. None where the history has a
    /// hole.
    pub(crate) fn at(&mut self, revision: Revision) -> Option<(&Entries, ChainHash)> {
        assert!(revision >= self.revision, "a replay goes forward");
        while self.revision < revision {
            let next = self.revision + 1;
            let events = self.history.events(next)?;
            self.chain = chain_after(self.chain, next, events);
            for event in events {
                match &event.value {
                    Some(value) => {
                        self.entries.insert(event.key.clone(), (next, value.clone()));
                    }
                    None => {
                        self.entries.remove(&event.key);
                    }
                }
            }
            self.revision = next;
        }
        Some((&self.entries, self.chain))
    }
}

/// The chain as it is documented, computed anew: chain before, revision, number of events, and of
/// each event the key and what became of it, all with lengths, little-endian.
fn chain_after(before: ChainHash, revision: Revision, events: &[Event]) -> ChainHash {
    let mut bytes = before.0.to_vec();
    bytes.extend(revision.to_le_bytes());
    let length = |bytes: &mut Vec<u8>, n: usize| bytes.extend((n as u32).to_le_bytes());
    length(&mut bytes, events.len());
    for event in events {
        length(&mut bytes, event.key.len());
        bytes.extend(event.key.as_bytes());
        bytes.push(u8::from(event.value.is_some()));
        if let Some(value) = &event.value {
            length(&mut bytes, value.len());
            bytes.extend(value);
        }
    }
    ChainHash(Digest::of(&bytes).0)
}

/// Events in a few words.
pub(crate) fn shown(events: &[Event]) -> String {
    let one = |event: &Event| match &event.value {
        Some(value) => format!("{}={}", event.key, String::from_utf8_lossy(value)),
        None => format!("{} deleted", event.key),
    };
    let mut text = events.iter().map(one).collect::<Vec<_>>().join(", ");
    text.truncate(text.floor_char_boundary(300));
    text
}
