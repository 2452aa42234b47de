//! The product as its users meet it: real processes, real sockets, real deaths. One binary, so
//! that it is linked once.

#![expect(clippy::unwrap_used, reason = "a harness that cannot go on must stop the test")]

mod affinity;
mod audit;
mod authority;
mod backup;
mod bad_input;
mod bad_input_disk;
mod bad_input_gossip;
mod bad_input_guest;
mod bad_input_start;
mod capacity;
mod chaos;
mod cli;
mod cluster;
mod common;
mod dev;
mod docs;
mod encounters;
mod entitled;
mod explained;
mod failing;
mod founding_tokens;
mod foundings;
mod functions;
mod images;
mod keys;
mod kill;
mod leases;
mod links;
mod regions;
mod roles;
mod rotation;
mod same_call;
mod settled;
mod transactions;
mod upgrade;
mod voters;
mod watchers;
