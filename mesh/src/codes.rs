//! The error codes of identity and transport.

use swarmer_model::Code;

/// A peer could not be reached.
pub const UNREACHABLE: Code = Code::new(
    "SW-MESH-UNREACHABLE",
    503,
    "Another node could not be reached.",
    "Check that the node runs and that UDP passes between the two addresses named.",
);
/// Time ran out before the peer answered.
pub const DEADLINE: Code = Code::new(
    "SW-MESH-DEADLINE",
    504,
    "Another node did not answer before the deadline.",
    "Look at the load of the node named, and at loss and delay on the way to it.",
);
/// This node has no certificate yet.
pub const NO_IDENTITY: Code = Code::new(
    "SW-MESH-NO-IDENTITY",
    503,
    "This node is not a member of a cluster yet.",
    "Wait until it has founded or joined one; `swarmer status` says what it waits for.",
);
/// The address of a member is not known.
pub const UNKNOWN_ADDRESS: Code = Code::new(
    "SW-MESH-UNKNOWN-ADDRESS",
    503,
    "The address of a member is not known here.",
    "Check with `swarmer members` that the node has come up since this one did.",
);
/// The transport is shutting down.
pub const CLOSED: Code =
    Code::new("SW-MESH-CLOSED", 503, "This node is shutting down.", "Ask another node.");
/// The peer showed no certificate.
pub const NO_CERTIFICATE: Code = Code::new(
    "SW-MESH-NO-CERTIFICATE",
    403,
    "A peer showed no certificate where one is required.",
    "Let the peer join first; if it is no node of yours, block its address.",
);
/// The certificate is not one of ours in form.
pub const BAD_CERTIFICATE: Code = Code::new(
    "SW-MESH-BAD-CERTIFICATE",
    403,
    "A peer's certificate cannot be read or is not of the form that nodes have.",
    "Check which program listens on the address named.",
);
/// The certificate was signed by another authority.
pub const FOREIGN_CA: Code = Code::new(
    "SW-MESH-FOREIGN-CA",
    403,
    "A peer's certificate was not signed by this cluster's authority.",
    "Check that both nodes belong to one cluster; a restored or copied data directory may be the cause.",
);
/// The certificate is of another cluster.
pub const OTHER_CLUSTER: Code = Code::new(
    "SW-MESH-OTHER-CLUSTER",
    403,
    "A peer belongs to another cluster.",
    "Correct the address in the seed list, or join the node to this cluster with an empty data directory.",
);
/// The node was not admitted.
pub const NOT_ADMITTED: Code = Code::new(
    "SW-MESH-NOT-ADMITTED",
    403,
    "A peer is not admitted to this cluster, or not with the key that it showed.",
    "Let it join with a token; a copied certificate needs its own key.",
);
/// The node was removed.
pub const REVOKED: Code = Code::new(
    "SW-MESH-REVOKED",
    403,
    "A peer was removed from this cluster.",
    "Wipe its data directory and let it join again as a new member.",
);
/// The certificate is outside of its time.
pub const EXPIRED: Code = Code::new(
    "SW-MESH-EXPIRED",
    403,
    "A certificate is expired or not yet valid, which only allows its renewal and Raft between voters.",
    "Compare the clocks of the two nodes; if they agree, wait for the renewal.",
);
/// The certificate is of an authority that is not believed.
pub const UNBELIEVED: Code = Code::new(
    "SW-MESH-OUTDATED-CA",
    403,
    "A member's certificate is of an authority that is not believed (any more), which only allows its renewal, Raft between voters and the watch of the desired state.",
    "Wait: whichever of the two nodes slept while the authority changed catches up and renews by itself. If it lasts, let that node reach a voter that it knows.",
);
/// The members are not known yet.
pub const STARTING: Code = Code::new(
    "SW-MESH-STARTING",
    503,
    "A node has just started and does not know yet who the members of its cluster are.",
    "Wait: it learns that from its leader, and the peer tries again by itself. If it lasts, the cluster has no quorum; `swarmer status` shows it.",
);
/// Two processes have one key.
pub const TWIN: Code = Code::new(
    "SW-MESH-TWIN",
    409,
    "Another process runs with this node's id and key: the data directory was copied.",
    "Stop one of the two. To have both machines as members, empty one's data directory and let it join with a token of its own.",
);
/// Another node than the one that was dialled answered.
pub const WRONG_NODE: Code = Code::new(
    "SW-MESH-WRONG-NODE",
    503,
    "Another node than the intended one answers at an address.",
    "Check for two nodes that advertise one address; this heals by itself once the address is updated.",
);
/// The authority is not the pinned one.
pub const WRONG_PIN: Code = Code::new(
    "SW-MESH-WRONG-PIN",
    403,
    "The node at a seed address does not show the authority that the join token names.",
    "Check the seed list. If the cluster's authority was changed since the token was made, make another one there (`swarmer token create`).",
);
/// The peer does not serve the protocol.
pub const NOT_SERVED: Code = Code::new(
    "SW-MESH-NOT-SERVED",
    503,
    "A peer does not serve the protocol asked for at this time.",
    "A node that founds or joins a cluster serves calls when it is done: wait for it, or join where a cluster stands.",
);
/// Too much at once.
pub const OVERLOADED: Code = Code::new(
    "SW-MESH-OVERLOADED",
    503,
    "A node has as many connections or streams as it takes.",
    "Try again a little later; add nodes if it stays so.",
);
/// The sender knows a newer state than the receiver.
pub const STALE: Code = Code::new(
    "SW-MESH-STALE",
    503,
    "A node's copy of the desired state is older than the sender's.",
    "Try again; if it stays so, look at the lag of the node in `swarmer status`.",
);
/// The work was not begun.
pub const NOT_STARTED: Code = Code::new(
    "SW-MESH-NOT-STARTED",
    503,
    "A node did not begin the work that it was asked for.",
    "Nothing has happened: try again, here or elsewhere.",
);
/// The receiver does not allow it.
pub const REFUSED: Code = Code::new(
    "SW-MESH-REFUSED",
    403,
    "A node does not allow what was asked of it.",
    "The log of the node named says which rule decided.",
);
/// A node speaks for, or answers as, a function that is not its own.
pub const NOT_ENTITLED: Code = Code::new(
    "SW-MESH-NOT-ENTITLED",
    403,
    "A node spoke for, or answered as, a function that is neither placed on it nor has it as a candidate.",
    "Look whether the nodes named see the same revision in `swarmer status`; if they do, distrust the node and remove it.",
);
/// The work was broken off.
pub const CANCELLED: Code = Code::new(
    "SW-MESH-CANCELLED",
    503,
    "A stream between nodes was broken off before its end.",
    "Whether the work was done is not known; try again if it may be repeated.",
);
/// The stream is of a kind or version that is not spoken here.
pub const UNKNOWN_STREAM: Code = Code::new(
    "SW-MESH-UNKNOWN-STREAM",
    503,
    "A node does not speak a kind or version of stream.",
    "Bring all nodes to versions that work together; `swarmer members` shows them.",
);
/// A message is larger than allowed.
pub const TOO_LARGE: Code = Code::new(
    "SW-MESH-TOO-LARGE",
    413,
    "A message between nodes is larger than its kind allows.",
    "Split the request; if you did not make it, report it with the log of both nodes.",
);
/// A message cannot be read.
pub const MALFORMED: Code = Code::new(
    "SW-MESH-MALFORMED",
    502,
    "A message between nodes is cut short or not of its form.",
    "Check the versions of both nodes; report it with the log of both if they agree.",
);
/// A key or certificate file is unusable.
pub const KEY_FILE: Code = Code::new(
    "SW-MESH-KEY-FILE",
    500,
    "A key or certificate cannot be made, read or written.",
    "Check the file and the disk that the message names; a lost node key means a new member.",
);
/// The UDP port cannot be had.
pub const BIND: Code = Code::new(
    "SW-MESH-BIND",
    500,
    "The UDP address for traffic between nodes cannot be used.",
    "Stop the program that holds it, or choose another with --listen.",
);
/// A part of the node failed.
pub const INTERNAL: Code = Code::new(
    "SW-MESH-INTERNAL",
    500,
    "A node failed while it served a stream.",
    "Report it with the log of the node named.",
);

/// All of them, for the docs.
pub const ALL: &[Code] = &[
    UNREACHABLE,
    DEADLINE,
    NO_IDENTITY,
    UNKNOWN_ADDRESS,
    CLOSED,
    NO_CERTIFICATE,
    BAD_CERTIFICATE,
    FOREIGN_CA,
    OTHER_CLUSTER,
    NOT_ADMITTED,
    REVOKED,
    EXPIRED,
    UNBELIEVED,
    STARTING,
    TWIN,
    WRONG_NODE,
    WRONG_PIN,
    NOT_SERVED,
    OVERLOADED,
    STALE,
    NOT_STARTED,
    REFUSED,
    NOT_ENTITLED,
    CANCELLED,
    UNKNOWN_STREAM,
    TOO_LARGE,
    MALFORMED,
    KEY_FILE,
    BIND,
    INTERNAL,
];

/// The code that a peer's text begins with or contains, such as the reason of a refusal.
///
/// The longest name wins, so that no code hides behind another's prefix.
pub fn named_in(text: &str) -> Option<Code> {
    ALL.iter().filter(|code| text.contains(code.name)).max_by_key(|code| code.name.len()).copied()
}
