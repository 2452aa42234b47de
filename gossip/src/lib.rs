//! Membership and catalog: who is in the cluster, who is alive, and what each one offers.
//!
//! Observed state only: fresh, eventually consistent, and alive without a quorum. Nothing here
//! grants authority; admission is handed in through [`Admission`].
//!
//! * [`Core`] is the protocol without I/O: SWIM (Das, Gupta, Motivala 2002; by foca), suspicion
//!   that shortens with independent confirmations (Lifeguard, Dadgar et al. 2017), and the
//!   [`Catalog`] of signed records.
//! * [`Locator`] says how far the members are from each other: measured by questions of its own
//!   between members, estimated by network coordinates (Vivaldi, Dabek et al. 2004).
//! * [`Envelope`] seals every datagram and refuses what is forged, foreign or replayed.
//! * [`Gossip`] is the thin shell that carries out what the core says; [`Handle`] is the only
//!   way to it.
#![forbid(unsafe_code)]

mod catalog;
pub mod codes;
mod config;
mod distance;
mod envelope;
mod error;
mod keyring;
mod limits;
mod member;
mod ports;
mod protocol;
mod record;
mod shell;
mod stats;

pub use catalog::{Catalog, Digest, Merge};
pub use config::{Config, Timing};
pub use distance::{Coordinate, DIMENSIONS, Distances, Locator};
pub use envelope::{Envelope, OVERHEAD, Opened, WIRE_VERSION};
pub use error::GossipError;
pub use keyring::{HeldKeys, Key, KeyId, Keyring};
pub use limits::*;
pub use member::{Member, MemberState, Members};
pub use ports::{
    Admission, DatagramSender, Deps, ExchangeError, Liveness, PushPull, Signer, Verifier,
};
#[cfg(feature = "formed")]
pub use protocol::Formed;
pub use protocol::{Core, KnownMember, Output, Twin};
pub use record::{
    Capacity, Endpoint, EndpointState, Facts, Load, Record, RecordUpdate, SignedRecord,
};
pub use shell::{Gossip, Handle};
pub use stats::{Refusal, Stats};
