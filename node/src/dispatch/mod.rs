//! From a request to an answer: route → version → node → the runtime here or a call over QUIC.

mod body;
mod catalog;
mod dispatcher;
mod egress;
mod entitled;
mod incoming;
mod rule;
mod trace;

pub(crate) use body::from_hyper;
pub(crate) use catalog::{Catalog, Index};
pub(crate) use dispatcher::{Call, Deps, Dispatcher};
pub(crate) use egress::MeshEgress;
pub(crate) use entitled::{Refusals, Source};
pub(crate) use trace::{new_traceparent, valid_traceparent};
