//! From a request to an endpoint: route, version, node. All of it pure: state, randomness and the
//! clock are handed in, and each choice says why it was made.

mod balance;
pub mod codes;
mod outlier;
mod regions;
mod table;
mod version;

pub use balance::{Balancer, Choice, Endpoint, InFlight, Locality, NoEndpoint, Picked, Why};
pub use outlier::{Outlier, OutlierConfig};
pub use regions::{Preference, RegionRules};
pub use table::{
    MAX_PREFIX_BYTES, MAX_ROUTES, RouteError, RouteRule, RouteTable, RouteTarget, Routed,
};
pub use version::pick_version;
