//! The stable error codes of this crate.

use swarmer_model::Code;

/// The configuration cannot work.
pub const CONFIG: Code = Code::new(
    "SW-GOSSIP-CONFIG",
    400,
    "The membership configuration breaks a rule.",
    "Correct the field that the message names.",
);
/// The membership task has ended.
pub const STOPPED: Code = Code::new(
    "SW-GOSSIP-STOPPED",
    503,
    "Membership on this node has stopped or is stopping.",
    "Ask another node, or start this one again.",
);
/// The membership task did not answer in time.
pub const BUSY: Code = Code::new(
    "SW-GOSSIP-BUSY",
    503,
    "Membership on this node is overloaded and did not take the request in time.",
    "Try again; if it lasts, look for a starved CPU on this node.",
);
/// A peer's message is not what it should be.
pub const MALFORMED: Code = Code::new(
    "SW-GOSSIP-MALFORMED",
    400,
    "A membership message cannot be read, or is over its bounds.",
    "Check that all nodes run compatible versions.",
);
/// The peer is not admitted.
pub const NOT_ADMITTED: Code = Code::new(
    "SW-GOSSIP-NOT-ADMITTED",
    403,
    "The node that sent this is not a member of the cluster.",
    "Join it with a valid token; a removed node must join again as a new member.",
);
/// A datagram or record was refused.
pub const REFUSED: Code = Code::new(
    "SW-GOSSIP-REFUSED",
    403,
    "A membership datagram or record was forged, foreign, replayed or out of date, and was ignored.",
    "See the reason beside it; check the gossip key, the cluster id and who can send to this port.",
);
/// A record is over its bounds.
pub const RECORD: Code = Code::new(
    "SW-GOSSIP-RECORD",
    422,
    "A node's catalog record is over one of its bounds.",
    "Reduce what the message names: endpoints, addresses or the length of a name.",
);
/// The keyring would become unusable.
pub const KEYRING: Code = Code::new(
    "SW-GOSSIP-KEYRING",
    409,
    "The change would leave the gossip keyring without a usable primary key, or over its bound.",
    "`swarmer keys list` shows the keys that were committed; if they can be used, report it with the node's log.",
);
/// The file of known members cannot be read or written.
pub const FILE: Code = Code::new(
    "SW-GOSSIP-FILE",
    500,
    "The file of known members cannot be read or written.",
    "Check space and permissions of the data directory; the file may be deleted at any time.",
);

/// All of them, for the docs.
pub const ALL: &[Code] =
    &[CONFIG, STOPPED, BUSY, MALFORMED, NOT_ADMITTED, REFUSED, RECORD, KEYRING, FILE];
