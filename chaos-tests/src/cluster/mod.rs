//! Real nodes: processes of the binary under test, each in a network namespace of its own, joined
//! by a bridge in one more. Nothing of it outlives the harness, however that ends.

mod anchor;
mod binary;
mod clock;
mod disk;
mod faults;
mod fittings;
mod folder;
mod gateway;
mod guest;
mod launch;
mod machine;
mod members;
mod namespace;
mod need;
mod network;
mod node;
mod regions;
mod shim;
mod site;
mod stranger;
mod switch;
mod tap;
mod tun;
mod wires;

pub use binary::Binary;
pub use clock::Clock;
pub use disk::{Disk, Mounts};
pub use faults::Illness;
pub use gateway::{Gateway, Lost, Port, Reply, Stream};
pub use guest::{echo, job};
pub use machine::Cluster;
pub use members::Entry;
pub use namespace::Namespace;
pub use need::{Gear, Need, missing_tools};
pub use network::Network;
pub use node::{Node, State};
pub use regions::Regions;
pub use shim::{Calls, Ill, Shim, ShimDisk};
pub use site::Site;
pub use wires::{Quality, Wires};
