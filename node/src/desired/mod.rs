//! The desired state as this node serves by it: typed, complete, swapped as a whole.

mod draft;
mod snapshot;
mod store;

pub(crate) use snapshot::{Change, Desired, FunctionEntry, plans_key, serving};
pub(crate) use store::DesiredStore;
