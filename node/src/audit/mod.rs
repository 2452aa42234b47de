//! The audit log: every change that was made by way of this node, and everything that it refused.
//!
//! One chain of records ([`chain`]) in bounded files ([`files`]) in the data directory. A change is
//! written before it is answered and fsynced within a second, so a kill loses nothing, a power cut
//! at most the last second. When the log cannot be written, what was under way is kept in memory
//! until it can, and further changes from outside are refused: none goes by unseen. What the node
//! does by itself (placement, its own address) goes on, because functions must not stop for it.

mod chain;
mod event;
mod files;
mod limit;
mod trail;

pub(crate) use event::Who;
pub(crate) use trail::{
    Noted, Refusal, WHO, follow_refusals, init, keep, ready, refused, tail, verify,
};
