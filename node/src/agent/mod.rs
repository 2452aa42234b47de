//! One node: its parts, put together, started, drained and stopped.

mod admission;
mod api_tls;
mod artifacts;
mod authority;
mod bootstrap;
mod collect;
mod context;
mod control;
pub(crate) mod data_dir;
mod encounters;
mod founding;
mod gossip;
mod health;
mod identity;
mod images;
mod io_runtime;
mod join;
mod link;
mod members;
mod node;
mod observe;
mod placement;
mod raft_transport;
mod readiness;
mod renew;
mod streams;
mod troubles;

pub(crate) use artifacts::Replicator;
pub(crate) use context::Context;
pub(crate) use control::{Control, TxnExt};
pub(crate) use health::HealthReport;
pub(crate) use images::Images;
pub(crate) use node::Agent;
pub(crate) use observe::{FunctionReport, LogQuery, NodeLogs};
pub(crate) use troubles::{Failure, MAX_FAILURES, is_of_node};
