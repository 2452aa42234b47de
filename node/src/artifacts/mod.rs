//! Artifacts: content-addressed files, durable before anything names them, verified by hash.

mod store;

pub(crate) use store::{ArtifactStore, Incoming};
