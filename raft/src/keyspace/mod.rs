//! The applied keyspace: a pure state machine, its history, and how it is kept between runs.

mod applied;
mod batch;
mod dedup;
mod shared;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use applied::Applied;
pub(crate) use batch::Batch;
pub use batch::ChainHash;
pub(crate) use shared::{Catchup, Found, HISTORY_MAX_BYTES, NotShown, Progress, Shared, Tail};
pub(crate) use state::{
    BatchRefused, MAX_KEYSPACE_BYTES, Record, Response, State, StateBuilder, StateImage,
};
