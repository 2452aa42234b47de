//! The desired state as this node serves by it: typed, complete, swapped as a whole.

mod snapshot;
mod store;

pub(crate) use snapshot::{Desired, FunctionEntry};
pub(crate) use store::DesiredStore;
