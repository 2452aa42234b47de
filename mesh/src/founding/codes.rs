//! The stable error codes of founding and of its tokens.

use swarmer_model::Code;

/// The text is no token.
pub const TOKEN_MALFORMED: Code = Code::new(
    "SW-FOUND-TOKEN-MALFORMED",
    400,
    "The text is not a token of the kind that is needed here.",
    "Copy the token again, whole; founding tokens start with swf1, join tokens with swj1.",
);
/// The other side does not have the same founding secret.
pub const WRONG_SECRET: Code = Code::new(
    "SW-FOUND-WRONG-SECRET",
    403,
    "A node that wants to found this cluster does not have its founding secret.",
    "Give all founders the same founding token file.",
);
/// The other side belongs to another cluster.
pub const OTHER_CLUSTER: Code = Code::new(
    "SW-FOUND-OTHER-CLUSTER",
    403,
    "A node at a seed address belongs to another cluster, or is founding one.",
    "Check --join and the token: to join that cluster, give a join token of it; to found another one, leave its members out of --join.",
);
/// The cluster stands already.
pub const ALREADY_FOUNDED: Code = Code::new(
    "SW-FOUND-ALREADY-FOUNDED",
    409,
    "The cluster was founded already, without this node.",
    "Make a join token on a member with `swarmer token create` and start this node with it.",
);
/// Founding cannot go on.
pub const STUCK: Code = Code::new(
    "SW-FOUND-STUCK",
    409,
    "Founding cannot come to an end with the nodes that are there.",
    "Stop all founders, remove their data directories (nothing is in them yet), make a new founding token and start again.",
);
/// The record on disk does not fit.
pub const RECORD: Code = Code::new(
    "SW-FOUND-RECORD",
    500,
    "The founding record in the data directory is damaged or belongs to another node or cluster.",
    "Start with the founding token that this directory was made with, or with an empty directory and a new token.",
);
/// The peer said something that is not the founding protocol.
pub const PROTOCOL: Code = Code::new(
    "SW-FOUND-PROTOCOL",
    502,
    "A node broke the rules of the founding protocol.",
    "Compare the versions of the founders.",
);

/// All codes of this module, for the docs.
pub const ALL: &[Code] =
    &[TOKEN_MALFORMED, WRONG_SECRET, OTHER_CLUSTER, ALREADY_FOUNDED, STUCK, RECORD, PROTOCOL];
