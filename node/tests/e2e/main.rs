//! The product as its users meet it: real processes, real sockets, real deaths. One binary, so
//! that it is linked once.

mod cluster;
mod common;
mod dev;
mod functions;
mod kill;
