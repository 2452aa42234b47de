//! All that knows the consensus engine (openraft, pinned exactly): its log on our write-ahead
//! log, its state machine on our keyspace, its network on our transport.

mod append;
mod clock;
mod engine;
mod heard;
mod log;
mod machine;
mod network;
mod open;
mod receive;
mod recover;
mod serve;
#[cfg(test)]
mod suite;
mod types;
mod wire;

pub(crate) use clock::{Wish, multiplier};
pub(crate) use engine::Engine;
pub(crate) use recover::recover;
pub(crate) use wire::{
    Proposal, ProposeReply, ReadReply, Reply, decode_reply, propose_many_request, propose_request,
    read_request,
};
