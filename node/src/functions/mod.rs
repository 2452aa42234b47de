//! The functions of this node: what the desired state wants here, made ready and kept ready.

mod logs;
mod makers;
mod manager;
mod pulse;
mod reconcile;
mod room;
mod wanted;

pub(crate) use logs::{LogBook, LogEntry, LogPage, LogPosition};
pub(crate) use makers::{before, makers};
pub(crate) use manager::{Deps, FetchArtifact, FunctionManager, LocalStatus};
