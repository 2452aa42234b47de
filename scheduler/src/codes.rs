//! The error codes of this room.

use swarmer_model::Code;

/// A function has fewer copies than it wants, because no further node fits.
pub const SHORT: Code = Code::new(
    "SW-SCHEDULER-SHORT",
    503,
    "No node fits for all the copies that a function wants.",
    "Add a node that fits, free capacity, or loosen the constraint that the message names.",
);
/// A node holds more than its capacity, and part of it has nowhere to go.
pub const OVERFULL: Code = Code::new(
    "SW-SCHEDULER-OVERFULL",
    503,
    "A node holds more than its capacity.",
    "Raise the node's capacity, add a node, or lower the replicas of a function on it.",
);
/// The planner went round in circles.
pub const UNSETTLED: Code = Code::new(
    "SW-SCHEDULER-UNSETTLED",
    500,
    "The planner found no plan that is final for this input.",
    "Report the recorded decision; placements stay as they are until the input changes.",
);
/// A recorded decision does not come out again.
pub const REPLAY: Code = Code::new(
    "SW-SCHEDULER-REPLAY",
    409,
    "A recorded decision replays to another result.",
    "Replay it with the version of the binary that recorded it.",
);

/// All of them, for the docs.
pub const ALL: &[Code] = &[SHORT, OVERFULL, UNSETTLED, REPLAY];
