//! The keys that all members share in, over time: that of gossip, and the authority. Each is committed
//! one step after the other by the leader ([`leading`]), taken by every member from the committed state
//! ([`follow()`]), and the next step waits for what the members say in their records.
//!
//! They stand in the desired state under `cluster/keys/`, which neither API nor backup shows. Who
//! reads that state is a member, and a member has the keys of gossip and the certificates of the
//! authorities anyway; the keys of authorities are not there, they go from voter to voter. A removed
//! node is fed nothing that was committed after its removal (`streams.rs`), so that it never gets what
//! replaces the keys that it knows. A member that slept needs no gossip to get them: the feed and Raft
//! come over QUIC, and are open to it whatever authority it knows.

mod authorities;
mod believe;
mod follow;
mod leading;
mod ring;
mod rotated;

pub(crate) use authorities::{Authorities, is_current};
pub(crate) use believe::{TakeAuthorities, tell};
pub(crate) use follow::{TakeRing, follow};
pub(crate) use leading::run;
pub(crate) use ring::Ring;
pub(crate) use rotated::{Rotated, SETTLED, committed, wanted};
