//! The planner of voters against its promises.

#![expect(clippy::unwrap_used, reason = "tests")]

mod disk;
mod drain;
mod golden;
mod properties;
mod world;
