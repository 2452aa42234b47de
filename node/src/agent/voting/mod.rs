//! Who keeps the log of the desired state: the leader chooses voters, each node becomes what it is
//! chosen to be while it runs.

mod authority;
mod disk;
mod keeper;
mod leading;
mod observe;
mod wire;

pub(crate) use keeper::{Keeper, KeeperDeps};
pub(crate) use leading::run;
pub(crate) use observe::{
    has_held_authority, lead_region, lead_region_key, leaving_key, log_key, may_leave,
};
