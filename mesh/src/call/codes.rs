//! The stable error codes that only calls have; the others stand in the crate's
//! [`codes`](crate::codes).

use swarmer_model::Code;

/// The call broke off after it may have started.
pub const BROKEN: Code = Code::new(
    "SW-MESH-BROKEN",
    502,
    "The call broke off after it was sent; it may have run in part.",
    "Send it again if that does no harm; the log of the other node says why it broke off.",
);
/// The request's body failed where it came from; the other node is not to blame.
pub const BODY_SOURCE: Code = Code::new(
    "SW-MESH-REQUEST-BODY",
    400,
    "The body of the request broke off, or is not what its headers say, before the function had all of it.",
    "Send the whole body, as long as announced and in well-formed chunks; the function may have seen a \
     part of it.",
);
/// The peer said something that is not the call protocol.
pub const PROTOCOL: Code = Code::new(
    "SW-MESH-PROTOCOL",
    502,
    "A node broke the rules of the call protocol.",
    "Compare the versions with `swarmer members`; report it if they are the same.",
);
/// Method, path and headers together are too large for one call.
pub const HEAD_TOO_LARGE: Code = Code::new(
    "SW-MESH-HEAD-TOO-LARGE",
    431,
    "Path, headers and tags of the call are over the limit: 60 KiB and 128 fields.",
    "Send fewer or shorter headers; put large data into the body.",
);
/// The headers of an answer are too large.
pub const ANSWER_TOO_LARGE: Code = Code::new(
    "SW-MESH-ANSWER-TOO-LARGE",
    502,
    "The headers of the function's answer are over the limit: 60 KiB and 128 fields.",
    "Let the function send fewer or shorter headers, and large data in the body.",
);
/// The call went from node to node too often.
pub const LOOP: Code = Code::new(
    "SW-MESH-LOOP",
    508,
    "The call was handed on too many times.",
    "Look with `swarmer trace` for functions that call each other in a circle.",
);

/// All codes of this module, for the docs.
pub const ALL: &[Code] = &[BROKEN, BODY_SOURCE, PROTOCOL, HEAD_TOO_LARGE, ANSWER_TOO_LARGE, LOOP];
