//! The stable codes of this room.

use swarmer_model::Code;

/// No majority of the voters answers.
pub const NO_QUORUM: Code = Code::new(
    "SW-RAFT-NO-QUORUM",
    503,
    "A majority of the voters cannot be reached, so the change was refused and did not happen.",
    "Bring voters back or mend the network between them; `swarmer status` names those that are missing.",
);
/// No leader is known.
pub const NO_LEADER: Code = Code::new(
    "SW-RAFT-NO-LEADER",
    503,
    "No leader was elected within the deadline, so the change was not proposed.",
    "Try again; if it lasts for more than a few seconds, `swarmer status` shows which voters disagree.",
);
/// Too much is under way.
pub const BUSY: Code = Code::new(
    "SW-RAFT-BUSY",
    503,
    "More changes are under way than the control state takes at once, so this one was sent away; it did not happen.",
    "Send it again after a pause that grows; if it lasts, look for what writes so much, or for a slow disk of a voter.",
);
/// The outcome is not known.
pub const TIMEOUT_UNKNOWN: Code = Code::new(
    "SW-RAFT-TIMEOUT-UNKNOWN",
    504,
    "The change was sent but not acknowledged within the deadline: it may or may not have happened.",
    "Send it again with the same request id (or Idempotency-Key): it is applied once at most.",
);
/// A barrier or a wait was not reached in time.
pub const TIMEOUT: Code = Code::new(
    "SW-RAFT-TIMEOUT",
    504,
    "This node did not reach the revision asked for within the deadline; nothing was changed.",
    "Try again, with a longer deadline, or at another node.",
);
/// A transaction breaks a bound.
pub const INVALID: Code = Code::new(
    "SW-RAFT-INVALID",
    422,
    "The transaction breaks a bound of the keyspace.",
    "Shorten or split it as the message says.",
);
/// The keyspace is full.
pub const FULL: Code = Code::new(
    "SW-RAFT-FULL",
    507,
    "The keyspace has reached its bound, so the change was refused and did not happen.",
    "Delete what is no longer needed; artifacts and data of functions do not belong here.",
);
/// The revision is no longer in the history.
pub const COMPACTED: Code = Code::new(
    "SW-RAFT-COMPACTED",
    410,
    "The history no longer reaches back to the revision asked for.",
    "List again and watch from the revision of that list.",
);
/// Only the leader does this.
pub const NOT_LEADER: Code = Code::new(
    "SW-RAFT-NOT-LEADER",
    421,
    "Only the leader changes the membership, and this node is not the leader.",
    "Send it to the leader; `swarmer status` names it.",
);
/// A change of membership was refused.
pub const MEMBERSHIP: Code = Code::new(
    "SW-RAFT-MEMBERSHIP",
    409,
    "The change of voters was refused as things stand.",
    "Wait until the change under way has ended and send it again; the message names the reason.",
);
/// Storage failed: the log's code, for snapshots and the keyspace too.
pub use crate::wal::codes::STORAGE;
/// A message could not be understood, or was meant for another node.
pub const BAD_MESSAGE: Code = Code::new(
    "SW-RAFT-BAD-MESSAGE",
    400,
    "A message between nodes is malformed, of an unknown version, or meant for another node.",
    "Check that all nodes run versions that can work together and that addresses are not reused.",
);
/// The feed is broken.
pub const BAD_FEED: Code = Code::new(
    "SW-RAFT-BAD-FEED",
    502,
    "The feed of the desired state has a gap, goes back, or its hash chain does not fit.",
    "The node asks for the feed again by itself; if it lasts, the sender's state is damaged.",
);
/// A frame of the feed is not signed by a voter.
pub const FEED_SIGNATURE: Code = Code::new(
    "SW-RAFT-FEED-SIGNATURE",
    502,
    "The feed of the desired state is not signed by a voter of this cluster.",
    "The node turns to another voter by itself; if it lasts, distrust the node that the message names.",
);
/// The part was shut down.
pub const SHUT_DOWN: Code = Code::new(
    "SW-RAFT-SHUT-DOWN",
    503,
    "This node is stopping.",
    "Send the request to another node.",
);

/// All of them, for the docs.
pub const ALL: &[Code] = &[
    NO_QUORUM,
    NO_LEADER,
    TIMEOUT_UNKNOWN,
    TIMEOUT,
    INVALID,
    FULL,
    COMPACTED,
    NOT_LEADER,
    MEMBERSHIP,
    BAD_MESSAGE,
    BAD_FEED,
    FEED_SIGNATURE,
    SHUT_DOWN,
];
