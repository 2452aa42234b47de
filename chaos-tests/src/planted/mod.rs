//! Known bugs, switched on in a build for tests, and the scenarios that must find them: a run that
//! cannot fail proves nothing.

mod hunt;
mod trap;

pub use hunt::{Hunt, MAX_SEEDS, hunt};
pub use trap::{TRAPS, Trap};
