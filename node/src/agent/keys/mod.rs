//! The keys of gossip over time: committed one step after the other by the leader, taken by every
//! member from the committed state.
//!
//! They stand in the desired state under `cluster/keys/`, which neither API nor backup shows. Who
//! reads that state is a member, and a member has the keys anyway. A removed node is fed nothing
//! that was committed after its removal (`streams.rs`), so that it never gets what replaces the keys
//! that it knows. A member that slept needs no gossip to get them: the feed and Raft come over
//! QUIC.

mod follow;
mod leading;
mod ring;

pub(crate) use follow::follow;
pub(crate) use leading::run;
pub(crate) use ring::{Ring, committed, wanted, wanted_key};
