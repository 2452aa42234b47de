//! What was refused, and how much of everything there was.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::KeyId;

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $text:literal),* $(,)?) => {
        /// Why a datagram, or a record inside one, changed nothing.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Refusal { $($(#[$doc])* $variant),* }

        impl Refusal {
            /// All of them, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// A stable short text, fit for a metric label.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

refusals! {
    /// Too short, too long, or not ours at all.
    Garbage = "garbage",
    /// A wire version that we do not speak.
    Version = "version",
    /// Another cluster's id.
    ForeignCluster = "foreign-cluster",
    /// For another node, or for an earlier start of this one.
    NotForUs = "not-for-us",
    /// It says that it is from this node.
    FromOurselves = "from-ourselves",
    /// The sender is not admitted.
    NotAdmitted = "not-admitted",
    /// Sealed with a key that we do not hold.
    UnknownKey = "unknown-key",
    /// The seal does not match: forged or damaged.
    Forged = "forged",
    /// Seen before, or older than the replay window.
    Replayed = "replayed",
    /// From an earlier start of the sender.
    OldBoot = "old-boot",
    /// More senders than we track.
    TooManySenders = "too-many-senders",
    /// Opened, but the content cannot be read.
    Malformed = "malformed",
    /// An answer to a question that was not asked, or not lately, or was answered before.
    Unasked = "unasked",
    /// A record whose signature is not its node's.
    ForgedRecord = "forged-record",
    /// A record older than the one held, or another one with the same version.
    StaleRecord = "stale-record",
    /// A record over its bounds.
    OversizedRecord = "oversized-record",
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Counters since the start; they only grow, except the gauges `members_*`, `records`, `key` and `keys`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams taken from the socket.
    pub datagrams_in: u64,
    /// Datagrams handed to the socket.
    pub datagrams_out: u64,
    /// Bytes handed to the socket.
    pub bytes_out: u64,
    /// Datagrams dropped because the queue was full.
    pub datagrams_dropped: u64,
    /// Push/pull exchanges that succeeded, either way.
    pub push_pulls: u64,
    /// Push/pull exchanges that failed.
    pub push_pulls_failed: u64,
    /// Probes of ours that nobody answered.
    pub probes_failed: u64,
    /// Members asked out of turn that said nothing.
    pub inquiries_failed: u64,
    /// Deaths that a live connection or an answered probe over QUIC held back.
    pub vetoes: u64,
    /// Times that this node itself was late by more than the stall limit.
    pub stalls: u64,
    /// Round trips to members that were measured.
    pub round_trips: u64,
    /// Members alive now, this node included.
    pub members_alive: u64,
    /// Members suspect now.
    pub members_suspect: u64,
    /// Members down now.
    pub members_down: u64,
    /// Records in the catalog now.
    pub records: u64,
    /// The id of the key that seals now.
    pub key: KeyId,
    /// Keys that open now.
    pub keys: u64,
    /// What was refused, by the order of [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
}

impl Stats {
    /// How often something was refused for this reason.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize]
    }

    pub(crate) fn refuse(&mut self, reason: Refusal) {
        self.refused[reason as usize] += 1;
    }
}
