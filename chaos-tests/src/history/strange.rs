//! What somebody sends who is no member.

use serde::{Deserialize, Serialize};

/// What a stranger sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strange {
    /// Random bytes that are no QUIC by their first one.
    Noise,
    /// Random bytes that are QUIC by their first one.
    QuicNoise,
    /// What a member sent, with some bits of it changed or its end cut off.
    Flipped,
    /// What a member sent, unchanged, from another address.
    Elsewhere,
    /// First packets of QUIC connections that are never gone on with.
    Initials,
    /// Whole handshakes, with certificates that the stranger made itself.
    Handshakes,
    /// All that a member of another cluster sends that looks for members here.
    Foreign,
}

impl Strange {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Noise,
        Self::QuicNoise,
        Self::Flipped,
        Self::Elsewhere,
        Self::Initials,
        Self::Handshakes,
        Self::Foreign,
    ];

    /// What its packets are called when they are counted.
    pub const fn counted(self) -> &'static str {
        match self {
            Self::Noise => "packets of noise",
            Self::QuicNoise => "packets of noise that look like QUIC",
            Self::Flipped => "packets of members with flipped bits",
            Self::Elsewhere => "packets of members from another address",
            Self::Initials => "first packets of QUIC",
            Self::Handshakes => "packets of handshakes with made-up certificates",
            Self::Foreign => "packets of another cluster's node",
        }
    }
}
