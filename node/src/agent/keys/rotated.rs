//! What is rotated in the same steps: the key of gossip, and the authority.

use serde::{Serialize, de::DeserializeOwned};
use swarmer_gossip::{Facts, HeldKeys};
use swarmer_model::{Key, Revision};
use swarmer_raft::View;
use swarmer_scheduler::{RingCommand, RingState};

use crate::{
    agent::identity::{Grant, KeptGrant},
    codes,
    problem::{Outcome, Problem},
};

/// The phase in which nothing is being rotated.
pub(crate) const SETTLED: &str = "settled";

/// Something that all members share in, at one step of its rotation.
pub(crate) trait Rotated:
    Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync
{
    /// What it is, in log lines.
    const WHAT: &'static str;

    /// Where it is committed; nothing is there before the first rotation: the founding made it.
    fn entry() -> Key;

    /// What is there while another one than that of now is wanted.
    fn wanted() -> Key;

    /// What a member keeps of it.
    fn of(grant: &Grant) -> Outcome<Self>;

    /// As the planner of rotations takes it.
    fn state(&self) -> RingState;

    /// Whether a member lacks the secret of the newest one, which a leader needs.
    fn lacks(&self, grant: &Grant) -> bool;

    /// After one more step. What is made for it is durable on this node when this returns.
    fn next(&self, command: &RingCommand, kept: &KeptGrant) -> Outcome<Self>;

    /// What a member says of it in its record.
    fn word(facts: &Facts) -> HeldKeys;

    /// Where a rotation is, in one word.
    fn phase(&self) -> &'static str {
        let RingState { keys, seals, .. } = self.state();
        match keys.last() {
            _ if keys.len() < 2 => SETTLED,
            Some(newest) if *newest == seals => "switching",
            _ => "spreading",
        }
    }
}

/// What the committed state says, with the revision of the entry; none before the first rotation.
pub(crate) fn committed<R: Rotated>(view: &View) -> Outcome<Option<(R, Revision)>> {
    let Some(entry) = view.get(R::entry().as_str()) else { return Ok(None) };
    Ok(Some((read(&entry.value)?, entry.revision)))
}

/// Whether another one is wanted.
pub(crate) fn wanted<R: Rotated>(view: &View) -> bool {
    view.get(R::wanted().as_str()).is_some()
}

/// Reads an entry. What is wrong with it is told without the text, which may hold keys.
pub(super) fn read<R: Rotated>(value: &[u8]) -> Outcome<R> {
    serde_json::from_slice(value).map_err(|error| {
        let (what, line, column) = (R::WHAT, error.line(), error.column());
        let why = format!("{what}: what is committed is unreadable at line {line} column {column}");
        Problem::new(codes::INTERNAL, why)
    })
}
