//! The ground floor: ids, resources that users declare, validation and error codes.
//!
//! Pure data. Nothing here does I/O, reads a clock or knows of another room; every other crate
//! of the workspace may depend on this one.

#![forbid(unsafe_code)]

mod code;
mod digest;
mod fields;
mod function;
mod health;
mod ids;
mod keys;
mod lease;
mod metadata;
mod names;
mod node;
mod place;
mod placement;
pub mod planted;
mod quantity;
mod region;
mod schema;
mod token;
mod validation;
pub mod wire;

pub use code::{Code, Coded, EXIT_CODES, codes};
pub use digest::{Digest, DigestHasher, ParseDigestError};
pub use fields::{FieldFault, Step, field_faults};
pub use function::{
    Distribute, Failover, Function, FunctionSpec, FunctionStatus, Limits, PlacementRule, Route,
    Template, TrafficTarget, Version,
};
pub use health::EndpointHealth;
pub use ids::{ClusterId, NodeId, ParseIdError, Revision};
pub use keys::{Key, Kind};
pub use lease::{Lease, LeaseSpec, LeaseStatus, MAX_LEASE_TTL, MIN_LEASE_TTL};
pub use metadata::{API_VERSION, DEFAULT_NAMESPACE, Metadata, Resource};
pub use names::{Labels, check_label_key, check_label_value, check_name, nearest};
pub use node::{Node, NodeSpec};
pub use place::{DEFAULT_REGION, NEVER, Place, VOTE_LABEL};
pub use placement::{Candidates, Placement, PlacementReason};
pub use quantity::{ByteSize, Millis, ParseQuantityError};
pub use region::{Region, RegionSpec, RegionState};
pub use schema::{json_schema, json_schemas};
pub use token::{Role, TokenKind, TokenRecord};
pub use validation::{Invalid, Violation, Violations};
