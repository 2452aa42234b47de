//! Real nodes: processes of the binary under test, each in a network namespace of its own, joined
//! by a bridge in one more. Nothing of it outlives the harness, however that ends.

mod binary;
mod gateway;
mod guest;
mod machine;
mod namespace;
mod network;
mod node;

pub use binary::Binary;
pub use gateway::{Gateway, Lost, Port, Reply, Stream};
pub use guest::echo;
pub use machine::Cluster;
pub use namespace::Namespace;
pub use network::{Network, missing_tools};
pub use node::{Node, State};
