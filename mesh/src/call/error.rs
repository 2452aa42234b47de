//! What can become of a call that does not end well.

use quinn::{ConnectionError, ReadError, WriteError};
use swarmer_model::{Code, Coded};

use super::{codes, reset};

/// Why a call, or one of its bodies, failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The peer's state is older than the caller's; nothing was started.
    #[error("the other node has not yet seen the state that this call needs; nothing was started")]
    Stale,
    /// The peer could not take the call; nothing was started.
    #[error("the other node could not take the call; nothing was started")]
    NotStarted,
    /// The peer has no room; nothing was started.
    #[error("the other node has no room for another call; nothing was started")]
    Overloaded,
    /// No stream to the peer; nothing was sent.
    #[error("the other node cannot be reached: {reason}; nothing was started")]
    Unreachable {
        /// What the transport said.
        reason: String,
    },
    /// The deadline passed first.
    #[error("the call did not end before its deadline")]
    Deadline,
    /// It broke off after it may have started; a body that fails with this is truncated.
    #[error("the call broke off: {reason}")]
    Broken {
        /// What happened.
        reason: String,
    },
    /// The peer refused it.
    #[error("the call was refused: {reason}")]
    Refused {
        /// By which rule.
        reason: String,
    },
    /// To the peer's knowledge the caller's workload is not this node's to speak for; nothing was
    /// started.
    #[error(
        "the other node knows no right of this node to speak for the calling function; nothing \
         was started"
    )]
    NotEntitled,
    /// The answer names a server that may not serve the function.
    #[error("the answer is from a server that may not give it: {reason}")]
    WrongServer {
        /// Who, and why not.
        reason: String,
    },
    /// The peer broke the protocol.
    #[error("the call protocol was broken: {reason}")]
    Protocol {
        /// What was wrong.
        reason: String,
    },
    /// A head is over its limit; found before anything was sent.
    #[error("the head of the call is too large: {reason}")]
    HeadTooLarge {
        /// Which limit.
        reason: String,
    },
    /// It was handed on more than [`MAX_HOPS`](super::MAX_HOPS) times.
    #[error("the call was handed on too many times")]
    Loop,
    /// The caller is gone.
    #[error("the caller went away")]
    Cancelled,
    /// The body that was handed in to be sent failed at its source.
    #[error("the body to send failed: {reason}")]
    BodySource {
        /// What its source said.
        reason: String,
    },
}

impl CallError {
    /// The peer is known not to have started anything: the call may be sent elsewhere, whatever
    /// its method (if its body can still be sent).
    pub fn not_started(&self) -> bool {
        matches!(
            self,
            Self::Stale
                | Self::NotStarted
                | Self::Overloaded
                | Self::NotEntitled
                | Self::Unreachable { .. }
        )
    }

    /// Whether the rules allow to send the call again: it was not started, or it is idempotent
    /// and broke off; in both cases only with a body that can be sent again. The retry budget
    /// and the time left are not asked here (see [`decide`](super::retry::decide)).
    pub fn retryable(&self, idempotent: bool, body_replayable: bool) -> bool {
        body_replayable
            && (self.not_started() || (idempotent && matches!(self, Self::Broken { .. })))
    }

    /// An error of whatever makes a body (a guest, an HTTP client), for use in
    /// [`Body`](super::Body).
    pub fn body_source(error: impl std::fmt::Display) -> Self {
        Self::BodySource { reason: error.to_string() }
    }

    /// A failure to open a stream: nothing was sent.
    pub fn unreachable(error: impl std::fmt::Display) -> Self {
        Self::Unreachable { reason: error.to_string() }
    }

    pub(super) fn protocol(reason: impl Into<String>) -> Self {
        Self::Protocol { reason: reason.into() }
    }

    pub(super) fn broken(reason: impl Into<String>) -> Self {
        Self::Broken { reason: reason.into() }
    }

    pub(super) fn lost(error: &ConnectionError) -> Self {
        Self::Broken { reason: format!("the connection was lost: {error}") }
    }

    pub(super) fn from_read(error: ReadError, answered: bool) -> Self {
        match error {
            ReadError::Reset(code) => reset::to_error(code, answered),
            ReadError::ConnectionLost(error) => Self::lost(&error),
            other => Self::broken(other.to_string()),
        }
    }

    pub(super) fn from_write(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => reset::to_error(code, false),
            WriteError::ConnectionLost(error) => Self::lost(&error),
            other => Self::broken(other.to_string()),
        }
    }

    pub(super) fn reset_code(&self) -> quinn::VarInt {
        reset::of_error(self)
    }
}

impl Coded for CallError {
    fn code(&self) -> Code {
        match self {
            Self::Stale => crate::codes::STALE,
            Self::NotStarted => crate::codes::NOT_STARTED,
            Self::Overloaded => crate::codes::OVERLOADED,
            Self::Unreachable { .. } => crate::codes::UNREACHABLE,
            Self::Deadline => crate::codes::DEADLINE,
            Self::Broken { .. } => codes::BROKEN,
            Self::BodySource { .. } => codes::BODY_SOURCE,
            Self::Refused { .. } => crate::codes::REFUSED,
            Self::NotEntitled | Self::WrongServer { .. } => crate::codes::NOT_ENTITLED,
            Self::Protocol { .. } => codes::PROTOCOL,
            Self::HeadTooLarge { .. } => codes::HEAD_TOO_LARGE,
            Self::Loop => codes::LOOP,
            Self::Cancelled => crate::codes::CANCELLED,
        }
    }
}
