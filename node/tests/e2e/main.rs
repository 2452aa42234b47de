//! The product as its users meet it: real processes, real sockets, real deaths. One binary, so
//! that it is linked once.

#![expect(clippy::unwrap_used, reason = "a harness that cannot go on must stop the test")]

mod cluster;
mod common;
mod dev;
mod docs;
mod entitled;
mod foundings;
mod functions;
mod images;
mod kill;
