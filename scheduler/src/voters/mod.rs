//! Who votes: which nodes keep the log of the desired state, and what is done next about it.
//!
//! [`plan_voters`] looks at the membership of the log, the admitted nodes and the time, and says at
//! most one command with its reason. The caller carries it out and asks again with what is then so:
//! no plan has to be remembered, and a change that was left half done is simply seen.
//!
//! The order of the steps keeps two things. No command leaves fewer living voters than a majority
//! of the voters that it makes. And a voter gets its vote only after it has caught up as a learner,
//! so that no command waits for a copy of the whole state.

mod choice;
mod command;
mod disk;
mod input;
mod plan;
mod writers;

pub use command::{VoterCommand, VoterReason, VoterStep};
pub use disk::{DiskPace, SlowDisk, SlowLeader};
pub use input::{
    DEFAULT_VOTER_GRACE_MS, MAX_VOTERS, Membership, VoterInput, VoterNode, VoterPolicy, odd_size,
};
pub use plan::{Stuck, may_leave, plan_voters};
pub use writers::{FarWriters, Writers};
