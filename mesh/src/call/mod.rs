//! The call protocol: one request and its answer on one bidirectional QUIC stream.
//!
//! After the stream's typed header, which whoever opens the stream writes, each direction is a
//! message: one head frame, data frames, at most one trailers frame, FIN. A frame is a kind byte,
//! a 24-bit length and the payload; the high bit of the kind marks the last frame of a message, so
//! that a FIN that comes without it (a sender that was dropped in the middle) is seen as the
//! truncation that it is. Cancel is a reset of what one sends and a stop of what one reads.
//!
//! ```text
//! caller                                   server
//!   CALL head, DATA…, [TRAILERS], FIN  →
//!                                      ←   ANSWER head, DATA…, [TRAILERS], FIN
//! ```
//!
//! Both directions flow at once, under QUIC's own flow control: neither side buffers more than
//! one batch of [`MAX_DATA_BYTES`] beyond quinn's windows.

mod body;
mod client;
pub mod codes;
mod error;
mod frame;
mod head;
mod hop;
mod limit;
mod pump;
mod receive;
mod refused;
mod replay;
mod reset;
pub mod retry;
mod server;
#[cfg(test)]
mod tests;

pub use body::{Body, collect, empty, full};
pub use client::{send_call, send_call_with_prefix};
pub use error::CallError;
pub use head::{CallHead, Destination, Scheme, Served, TraceContext};
pub use hop::strip_hop_by_hop;
pub use limit::{MAX_HTTP_HEAD_BYTES, check_answer_head, check_request_head, check_trailers};
pub use refused::Refused;
pub use replay::{MAX_REPLAY_BYTES, ReplayableBody};
pub use server::{Cancelled, IncomingCall, Refusal, Responder, receive_call};

/// The largest head frame (call or answer) and the largest trailers frame, in bytes. Of it, HTTP
/// may take [`MAX_HTTP_HEAD_BYTES`], more than common HTTP servers take.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The most header fields of one head or trailers frame.
pub const MAX_HEADERS: usize = 128;
/// The most tags of one call.
pub const MAX_TAGS: usize = 16;
/// The largest data frame, in bytes: large enough that framing costs nothing, small enough that
/// one batch a direction is no memory worth counting.
pub const MAX_DATA_BYTES: usize = 64 * 1024;
/// The most nodes that one call may pass through.
pub const MAX_HOPS: u8 = 8;
/// The version of the frames and heads, the first byte of each head.
pub const WIRE_VERSION: u8 = 1;
