//! The planner against its promises.

#![expect(clippy::unwrap_used, reason = "tests")]

mod affinity;
mod candidates;
mod golden;
mod properties;
mod rules;
mod world;
