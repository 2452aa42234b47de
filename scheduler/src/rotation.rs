//! How a key that all members share in is replaced, that of gossip or that of the authority: the next
//! step, on the node that leads.

use std::{collections::BTreeSet, fmt};

use swarmer_model::NodeId;

/// A step stands for at least so long before the next one: what was sealed under the one before is
/// still on its way, and what members say of themselves may be older than it.
pub const ROTATION_SETTLE_MS: u64 = 2_000;
/// How long a step waits for a living member that could take the keys and does not: it is cut off
/// from the committed state, and takes them when it is back. Longer than an election and than a feed
/// that is looked for anew.
pub const ROTATION_PATIENCE_MS: u64 = 60_000;

/// How long nobody may have the secret of the newest key before another takes its place: who has it
/// may be starting again. Longer than an election and than a voter takes to fetch it.
pub const ROTATION_LOST_MS: u64 = 10_000;

/// The keys as they are committed, by their ascending numbers. Of authorities, to open is to believe,
/// and to seal is to issue certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingState {
    /// Counts what was committed; another number is another step.
    pub generation: u64,
    /// All that open. Never empty.
    pub keys: BTreeSet<u32>,
    /// The one that seals.
    pub seals: u32,
}

/// What a living member says of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyWord {
    /// Nothing yet in this run of it.
    Nothing,
    /// Nothing ever: it is of a version that cannot change its keys.
    TooOld,
    /// The newest that it opens with, and the one that it seals with.
    Holds {
        /// The newest one.
        newest: u32,
        /// The one that seals.
        seals: u32,
    },
}

/// What is asked of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationAsk {
    /// Nothing: what was begun is finished.
    Nothing,
    /// Another key than those of now. Asked during a rotation it means one more after it, because
    /// whoever was removed meanwhile may know the key that is being brought in.
    Another,
    /// The leader does not have the secret of the newest key, and nobody whom it asks has: it went
    /// with a leader that died.
    Lost,
}

/// What is to be committed next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RingCommand {
    /// A new key opens too, under this number.
    Add(u32),
    /// It seals.
    Seal(u32),
    /// It is the only one.
    Keep(u32),
}

impl fmt::Display for RingCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(id) => write!(f, "number {id} opens too"),
            Self::Seal(id) => write!(f, "number {id} seals"),
            Self::Keep(id) => write!(f, "only number {id} is left"),
        }
    }
}

/// A command with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingStep {
    /// What to commit.
    pub command: RingCommand,
    /// Living members that are not ready for it and are waited for no longer. Mostly none.
    pub behind: Vec<NodeId>,
}

/// Where a rotation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RingOutlook {
    /// One key, and nobody wants another.
    Settled,
    /// The next step waits, for these members or, if there are none, for time to pass.
    Waits(Vec<NodeId>),
    /// The next step.
    Step(RingStep),
}

/// The rotation as a leader sees it. A new leader begins with a new one: each step then has its full
/// time anew, so that it may last longer, never shorter.
///
/// A new key opens everywhere before it seals anywhere, and seals everywhere before the old one is
/// dropped, so that no living member ever gets a datagram that it cannot open. Only what living
/// members say is waited for: one that sleeps gets the keys with the committed state when it wakes.
#[derive(Debug, Default)]
pub struct KeyRotation {
    /// Which step stands, and since when on this leader's clock.
    standing: Option<(u64, u64)>,
}

impl KeyRotation {
    /// What comes next. `living`: the admitted members that live, the leader among them. `now_ms`: of
    /// a monotonic clock.
    pub fn next(
        &mut self,
        ring: &RingState,
        ask: RotationAsk,
        living: &[(NodeId, KeyWord)],
        now_ms: u64,
    ) -> RingOutlook {
        let since = match self.standing {
            Some((generation, since)) if generation == ring.generation => since,
            _ => now_ms,
        };
        self.standing = Some((ring.generation, since));
        let newest = ring.keys.last().copied().unwrap_or(ring.seals);
        let stands_for = now_ms.saturating_sub(since);
        let step = |command, behind| RingOutlook::Step(RingStep { command, behind });
        // Nobody is to be waited for: one that does not know the key yet loses nothing by it.
        let another = step(RingCommand::Add(newest.saturating_add(1)), Vec::new());
        if ask == RotationAsk::Lost {
            return match stands_for < ROTATION_LOST_MS {
                true => RingOutlook::Waits(Vec::new()),
                false => another,
            };
        }
        if ring.keys.len() < 2 {
            return match ask {
                RotationAsk::Another => another,
                _ => RingOutlook::Settled,
            };
        }
        let spreads = ring.seals != newest;
        let ready = |word: &KeyWord| match word {
            KeyWord::Holds { newest: held, .. } if spreads => *held >= newest,
            KeyWord::Holds { seals, .. } => *seals >= newest,
            KeyWord::Nothing | KeyWord::TooOld => false,
        };
        let behind: Vec<NodeId> =
            living.iter().filter(|(_, word)| !ready(word)).map(|(node, _)| *node).collect();
        // One that can never follow would be cut off for good: it is updated first, or removed.
        let hopeless = living.iter().any(|(_, word)| *word == KeyWord::TooOld);
        let patient = !behind.is_empty() && (hopeless || stands_for < ROTATION_PATIENCE_MS);
        if patient || stands_for < ROTATION_SETTLE_MS {
            return RingOutlook::Waits(behind);
        }
        match spreads {
            true => step(RingCommand::Seal(newest), behind),
            false => step(RingCommand::Keep(newest), behind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{RotationAsk::*, *};

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn ring(generation: u64, keys: &[u32], seals: u32) -> RingState {
        RingState { generation, keys: keys.iter().copied().collect(), seals }
    }

    fn holds(newest: u32, seals: u32) -> KeyWord {
        KeyWord::Holds { newest, seals }
    }

    fn step(command: RingCommand) -> RingOutlook {
        RingOutlook::Step(RingStep { command, behind: Vec::new() })
    }

    #[test]
    fn a_key_opens_everywhere_before_it_seals_and_seals_everywhere_before_the_old_one_goes() {
        let mut rotation = KeyRotation::default();
        let mut next = |ring: &RingState, living: &[(NodeId, KeyWord)], now_ms| {
            rotation.next(ring, Nothing, living, now_ms)
        };
        let spreading = ring(1, &[1, 2], 1);
        let both = [(A, holds(2, 1)), (B, holds(2, 1))];
        assert_eq!(next(&spreading, &both, 0), RingOutlook::Waits(vec![]), "it has just begun");
        let one = [(A, holds(2, 1)), (B, holds(1, 1))];
        assert_eq!(next(&spreading, &one, 5_000), RingOutlook::Waits(vec![B]));
        let silent = [(A, holds(2, 1)), (B, KeyWord::Nothing)];
        assert_eq!(next(&spreading, &silent, 5_000), RingOutlook::Waits(vec![B]));
        assert_eq!(next(&spreading, &both, 5_000), step(RingCommand::Seal(2)));
        let switching = ring(2, &[1, 2], 2);
        assert_eq!(next(&switching, &both, 5_500), RingOutlook::Waits(vec![A, B]));
        let one = [(A, holds(2, 2)), (B, holds(2, 1))];
        assert_eq!(next(&switching, &one, 9_000), RingOutlook::Waits(vec![B]));
        let both = [(A, holds(2, 2)), (B, holds(2, 2))];
        assert_eq!(next(&switching, &both, 9_000), step(RingCommand::Keep(2)));
        assert_eq!(next(&ring(3, &[2], 2), &both, 9_500), RingOutlook::Settled);
    }

    #[test]
    fn what_is_wanted_during_a_rotation_is_one_more_after_it() {
        let mut rotation = KeyRotation::default();
        let living = [(A, holds(2, 2))];
        let switching = ring(2, &[1, 2], 2);
        assert_eq!(rotation.next(&switching, Another, &living, 0), RingOutlook::Waits(vec![]));
        assert_eq!(rotation.next(&switching, Another, &living, 2_000), step(RingCommand::Keep(2)));
        assert_eq!(
            rotation.next(&ring(3, &[2], 2), Another, &living, 2_000),
            step(RingCommand::Add(3))
        );
    }

    #[test]
    fn one_that_does_not_follow_is_waited_for_no_longer_than_the_patience_and_told() {
        let mut rotation = KeyRotation::default();
        let spreading = ring(1, &[1, 2], 1);
        let living = [(A, holds(2, 1)), (B, holds(1, 1))];
        let mut at = |now_ms| rotation.next(&spreading, Nothing, &living, now_ms);
        assert_eq!(at(7), RingOutlook::Waits(vec![B]));
        assert_eq!(at(6 + ROTATION_PATIENCE_MS), RingOutlook::Waits(vec![B]));
        let behind = vec![B];
        let given_up = RingOutlook::Step(RingStep { command: RingCommand::Seal(2), behind });
        assert_eq!(at(7 + ROTATION_PATIENCE_MS), given_up);
        // Another leader has its own patience.
        let mut other = KeyRotation::default();
        let late = 9 * ROTATION_PATIENCE_MS;
        assert_eq!(other.next(&spreading, Nothing, &living, late), RingOutlook::Waits(vec![B]));
    }

    #[test]
    fn a_key_whose_secret_went_with_a_leader_is_replaced_once_nobody_had_it_for_long() {
        // Nobody can have taken it, so nobody says that it has; a new leader finds it so.
        let living = [(A, holds(1, 1)), (B, holds(1, 1))];
        for state in [ring(1, &[1, 2], 1), ring(2, &[1, 2], 2), ring(3, &[2], 2)] {
            let mut rotation = KeyRotation::default();
            let mut at = |ask, now_ms| rotation.next(&state, ask, &living, now_ms);
            assert_eq!(at(Lost, 5), RingOutlook::Waits(vec![]));
            assert_eq!(at(Lost, 4 + ROTATION_LOST_MS), RingOutlook::Waits(vec![]));
            // It comes back with one that has it: the rotation goes on as if nothing had been.
            assert_ne!(at(Nothing, 5 + ROTATION_LOST_MS), step(RingCommand::Add(3)));
            assert_eq!(at(Lost, 5 + ROTATION_LOST_MS), step(RingCommand::Add(3)));
        }
        // With the next one all goes on.
        let mut rotation = KeyRotation::default();
        let living = [(A, holds(3, 2)), (B, holds(3, 2))];
        let mut next = |state: &RingState, now_ms| rotation.next(state, Nothing, &living, now_ms);
        let state = ring(4, &[1, 2, 3], 2);
        assert_eq!(next(&state, 0), RingOutlook::Waits(vec![]));
        assert_eq!(next(&state, ROTATION_SETTLE_MS), step(RingCommand::Seal(3)));
    }

    #[test]
    fn one_that_can_never_follow_is_not_cut_off() {
        let mut rotation = KeyRotation::default();
        let living = [(A, holds(2, 1)), (B, KeyWord::TooOld)];
        let mut at = |now_ms| rotation.next(&ring(1, &[1, 2], 1), Nothing, &living, now_ms);
        assert_eq!(at(0), RingOutlook::Waits(vec![B]));
        assert_eq!(at(100 * ROTATION_PATIENCE_MS), RingOutlook::Waits(vec![B]));
    }

    #[test]
    fn every_rotation_ends_with_one_newer_key_whatever_the_members_say() {
        // A step a second, and members that follow, sleep and wake in all orders of two.
        for order in 0..4_u32 {
            let mut rotation = KeyRotation::default();
            let (mut state, mut ask, mut now_ms) = (ring(0, &[1], 1), Another, 0);
            while ask == Another || state.keys.len() > 1 {
                let follows = (now_ms / 1_000 + u64::from(order)) % 2 == 0 || order < 2;
                let newest = *state.keys.last().unwrap();
                let b = if follows { holds(newest, state.seals) } else { holds(1, 1) };
                let living = [(A, holds(newest, state.seals)), (B, b)];
                if let RingOutlook::Step(step) = rotation.next(&state, ask, &living, now_ms) {
                    state.generation += 1;
                    match step.command {
                        RingCommand::Add(id) => {
                            ask = Nothing;
                            assert!(state.keys.insert(id));
                        }
                        RingCommand::Seal(id) => state.seals = id,
                        RingCommand::Keep(id) => state.keys.retain(|key| *key == id),
                    }
                    assert!(state.keys.contains(&state.seals));
                }
                now_ms += 1_000;
                assert!(now_ms < 3 * ROTATION_PATIENCE_MS, "{state:?}");
            }
            assert_eq!((state.keys.len(), state.seals), (1, 2));
        }
    }
}
