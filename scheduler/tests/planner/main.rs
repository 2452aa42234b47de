//! The planner against its promises.

#![expect(clippy::unwrap_used, reason = "tests")]

mod candidates;
mod golden;
mod properties;
mod rules;
mod world;
