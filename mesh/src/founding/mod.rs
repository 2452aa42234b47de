//! How the first nodes make exactly one cluster.
//!
//! The founders share a secret from an offline token. Each pair that meets proves it, bound to
//! the TLS channel. A founder that has met all N (itself included) consents, once in its life and
//! durably before anybody hears of it, to the one with the lowest id. The founder that holds N
//! consents, its own among them, founds the cluster and gives the others their part.
//!
//! # Why there is never a second cluster
//! A founding needs N consents of different founders, and each founder gives only one, ever. Two
//! foundings would need 2 N founders: with fewer nodes that hold the token they cannot be. (With
//! N = 1 two nodes are 2 N: a single founder is the operator's promise that there is one.)
//!
//! # Beside a cluster that stands
//! The founding secret is forgotten with the founding. What the cluster keeps is its witness
//! ([`Secret::witness`]): a member proves by it that the cluster of a founder's token stands, and
//! that founder gives up. A word that nothing proves, such as that of a member of another cluster,
//! ends no founding that expects others: whoever holds a seed's address could say it. The founder
//! says who told it, goes on looking, and founds when the others are there. One that founds alone
//! has nobody to wait for: it asks all its seeds first, and any such word ends it.
//!
//! [`Founding`] is the whole protocol without I/O. The driver dials and accepts `swarmer-found/1`
//! streams, frames the messages (each at most [`MAX_MESSAGE_BYTES`]), and writes the record.

pub mod codes;
mod core;
mod interface;
mod message;
mod presence;
mod record;
#[cfg(test)]
mod simulation;
mod stage;
#[cfg(test)]
mod tests;
mod token;

pub use self::core::{Founding, MAX_FOUNDERS, MAX_LINKS, RESEND_EVERY};
pub use interface::{CloseReason, FoundingConfig, GiveUp, Input, LinkId, Output, Side, TurnedAway};
pub use message::{Host, MAX_GRANT_BYTES, MAX_MESSAGE_BYTES, RefuseReason, turn_away};
pub use presence::{Meeting, Presence};
pub use record::{FoundingRecord, RecordError};
pub use stage::Stage;
pub use token::{FoundingToken, JoinToken, Secret, TokenError};

use serde::{Deserialize, Serialize};
use swarmer_model::{Labels, NodeId};

/// What a founder says of itself, once it has proven the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    /// Its id.
    pub node: NodeId,
    /// Its public key, as the DER of a SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// Its name.
    pub name: String,
    /// The address that others reach it at, `host:port`.
    pub advertise: String,
    /// Its region; empty if none.
    pub region: String,
    /// Its zone; empty if none.
    pub zone: String,
    /// Its labels.
    pub labels: Labels,
}
