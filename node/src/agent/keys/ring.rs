//! The keys as they are committed and kept.

use std::fmt;

use serde::{Deserialize, Serialize};
use swarmer_gossip::{Facts, HeldKeys, Key as Secret, Keyring};
use swarmer_model::Key;
use swarmer_scheduler::{RingCommand, RingState};

use super::rotated::Rotated;
use crate::{
    agent::identity::{GossipKey, Grant, KeptGrant},
    codes,
    problem::{Outcome, Problem},
};

/// All keys at one step of a rotation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ring {
    /// Counts the steps.
    pub(crate) generation: u64,
    /// Which key seals.
    pub(crate) seals: u32,
    /// All that open.
    pub(crate) keys: Vec<GossipKey>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("generation", &self.generation)
            .field("seals", &self.seals)
            .field("ids", &self.ids())
            .finish()
    }
}

impl Ring {
    /// Puts them where a member keeps them: the one that seals comes last.
    pub(crate) fn put_into(&self, grant: &mut Grant) {
        grant.gossip_keys.clone_from(&self.keys);
        grant.gossip_keys.sort_by_key(|key| (key.id == self.seals, key.id));
        grant.gossip_generation = self.generation;
    }

    /// For the envelope of gossip.
    pub(crate) fn keyring(&self) -> Outcome<Keyring> {
        let fail = |error: &dyn fmt::Display| {
            Problem::new(codes::DATA_DIR, format!("the keys of gossip: {error}"))
        };
        let mut keys = self.keys.iter();
        let first = keys.next().ok_or_else(|| fail(&"there is none"))?;
        let mut ring = Keyring::new(first.id, Secret(first.key));
        for key in keys {
            ring.add(key.id, Secret(key.key)).map_err(|error| fail(&error))?;
        }
        ring.set_primary(self.seals).map_err(|error| fail(&error))?;
        Ok(ring)
    }

    /// The numbers of all keys, ascending.
    pub(crate) fn ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.keys.iter().map(|key| key.id).collect();
        ids.sort_unstable();
        ids
    }

    /// After one more step. `fresh` makes a key.
    fn after(&self, command: &RingCommand, fresh: impl FnOnce() -> [u8; 32]) -> Self {
        let mut next = Self { generation: self.generation + 1, ..self.clone() };
        match command {
            RingCommand::Add(id) => next.keys.push(GossipKey { id: *id, key: fresh() }),
            RingCommand::Seal(id) => next.seals = *id,
            RingCommand::Keep(id) => {
                next.seals = *id;
                next.keys.retain(|key| key.id == *id);
            }
        }
        next
    }
}

impl Rotated for Ring {
    const WHAT: &'static str = "the keys of gossip";

    fn entry() -> Key {
        Key::cluster("keys/ring")
    }

    fn wanted() -> Key {
        Key::cluster("keys/wanted")
    }

    fn of(grant: &Grant) -> Outcome<Self> {
        let fail = || Problem::new(codes::DATA_DIR, "there is no gossip key in identity.json");
        let seals = grant.gossip_keys.last().ok_or_else(fail)?.id;
        let keys = grant.gossip_keys.clone();
        Ok(Self { generation: grant.gossip_generation, seals, keys })
    }

    fn state(&self) -> RingState {
        let keys = self.ids().into_iter().collect();
        RingState { generation: self.generation, keys, seals: self.seals }
    }

    fn lacks(&self, _: &Grant) -> bool {
        // It is committed with the ring.
        false
    }

    fn next(&self, command: &RingCommand, _: &KeptGrant) -> Outcome<Self> {
        Ok(self.after(command, rand::random))
    }

    fn word(facts: &Facts) -> HeldKeys {
        facts.keys
    }
}

#[cfg(test)]
mod tests {
    use super::{super::rotated::read, *};

    fn ring() -> Ring {
        Ring { generation: 0, seals: 1, keys: vec![GossipKey { id: 1, key: [0xab; 32] }] }
    }

    #[test]
    fn a_rotation_goes_through_its_phases_and_every_ring_of_it_can_be_used() {
        let settled = ring();
        let spreading = settled.after(&RingCommand::Add(2), || [2; 32]);
        let switching = spreading.after(&RingCommand::Seal(2), || [9; 32]);
        let done = switching.after(&RingCommand::Keep(2), || [9; 32]);
        let told: Vec<_> = [&settled, &spreading, &switching, &done]
            .map(|ring| (ring.generation, ring.phase(), ring.keyring().unwrap().held()))
            .into_iter()
            .map(|(generation, phase, held)| (generation, phase, held.newest, held.seals))
            .collect();
        let expected = [(0, "settled", 1, 1), (1, "spreading", 2, 1), (2, "switching", 2, 2)];
        assert_eq!(told[..3], expected);
        assert_eq!(told[3], (3, "settled", 2, 2));
        assert_eq!(done.ids(), [2]);
        assert!(done.keys[0].key == [2; 32]);
    }

    #[test]
    fn keys_are_never_printed() {
        let spreading = ring().after(&RingCommand::Add(2), || [0xcd; 32]);
        let shown = format!("{spreading:?}");
        assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
        let mut damaged = serde_json::to_vec(&spreading).unwrap();
        damaged.truncate(damaged.len() - 4);
        let problem = read::<Ring>(&damaged).unwrap_err();
        assert!(!problem.detail.contains("abab"), "{}", problem.detail);
    }
}
