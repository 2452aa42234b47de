//! The stable error codes of routing.

use swarmer_model::Code;

/// Two functions want one route.
pub const ROUTE_TAKEN: Code = Code::new(
    "SW-MESH-ROUTE-TAKEN",
    409,
    "Another function has this route already.",
    "Choose another path prefix or host, or delete the function that the message names.",
);
/// A route is malformed.
pub const ROUTE_INVALID: Code = Code::new(
    "SW-MESH-ROUTE-INVALID",
    422,
    "A route's host or path prefix breaks a rule.",
    "Correct the host or prefix that the message names.",
);
/// There are too many routes.
pub const ROUTES_FULL: Code = Code::new(
    "SW-MESH-ROUTES-FULL",
    507,
    "The cluster has as many routes as it can hold.",
    "Delete functions or routes that are not needed any more.",
);
/// No node can take the call.
pub const NO_ENDPOINT: Code = Code::new(
    "SW-MESH-NO-ENDPOINT",
    503,
    "No node that lives can serve this function.",
    "Look at `swarmer status` for the function's candidates; bring one back or add nodes.",
);

/// All codes of this module, for the docs.
pub const ALL: &[Code] = &[ROUTE_TAKEN, ROUTE_INVALID, ROUTES_FULL, NO_ENDPOINT];
