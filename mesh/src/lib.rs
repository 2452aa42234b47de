//! The mesh: who a node is, how bytes go between nodes, and how a call finds its way.
//!
//! - [`identity`]: keys, the cluster's authority, SPIFFE ids, verification of peers.
//! - [`transport`]: one UDP port for gossip and QUIC, two connections per peer, the pool.
//! - [`stream`]: the typed, versioned header of every stream, and framed messages.
//! - [`founding`]: how the first nodes make exactly one cluster (sans-I/O).
//! - [`bulk`]: artifacts beside calls, within a window for each peer.
//! - [`call`]: the call protocol on a stream.
//! - [`routing`]: from a request to an endpoint.

// One call of the kernel in `transport::steer`.
#![deny(unsafe_code)]

pub mod bulk;
pub mod call;
pub mod codes;
pub mod founding;
pub mod identity;
pub mod routing;
pub mod stream;
pub mod transport;
