//! The planner: which function stands on which node, and why.
//!
//! [`plan`] is a pure function of what users want ([`Desired`]), what is there ([`Observed`]) and
//! the time, handed in. Its answer is a list of commands, each with its reason; carrying them out
//! is the caller's work. [`candidates`] says, with no state at all, which nodes start a function
//! that runs nowhere. No I/O, clock or random source in here: a [`Record`] of any decision can be
//! replayed. [`plan_voters`] says in the same manner which nodes keep the log of the desired state.
//!
//! The inputs are this crate's own plain structs, not the cluster's resources: the planner does
//! not change when a resource gains a field that placement does not look at.

#![forbid(unsafe_code)]

mod candidates;
pub mod codes;
mod conflict;
mod eligibility;
mod input;
mod lease;
mod output;
mod planner;
mod reason;
mod record;
mod room;
mod rotation;
mod voters;

pub use candidates::{
    CANDIDATES, CandidateNode, MAX_CANDIDATES, REGION_CANDIDATES, RegionCandidates, candidates,
    candidates_by_region, score,
};
pub use conflict::{Conflict, NO_FURTHER_NODES};
pub use eligibility::{candidate_misfit, misfit, unknown_regions};
pub use input::{
    Capacity, CopyState, DEFAULT_DEAD_GRACE_MS, Desired, FunctionKey, FunctionNeed, NodeFacts,
    NodeRef, Observed, Policy, Spread,
};
pub use lease::{Expired, LEASE_LOOK_MS, LeaseClock, MAX_LEASE_STEP_MS};
pub use output::{Command, Decision, Plan, Verdict};
pub use planner::plan;
pub use reason::{Affinity, Nearest, Pull, Reason, Trouble};
pub use record::{Record, ReplayError};
pub use room::{Demand, Lack, Used};
pub use rotation::{
    KeyRotation, KeyWord, ROTATION_LOST_MS, ROTATION_PATIENCE_MS, ROTATION_SETTLE_MS, RingCommand,
    RingOutlook, RingState, RingStep, RotationAsk,
};
pub use voters::{
    DEFAULT_VOTER_GRACE_MS, DiskPace, FarWriters, MAX_VOTERS, Membership, SlowDisk, SlowLeader,
    Stuck, VoterCommand, VoterInput, VoterNode, VoterPolicy, VoterReason, VoterStep, Writers,
    may_leave, odd_size, plan_voters,
};
