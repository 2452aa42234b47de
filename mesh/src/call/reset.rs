//! What the crate's reset codes mean to a call.

use quinn::VarInt;

use super::CallError;
use crate::stream::ResetCode;

/// The reader needs no more of this stream; not an error.
pub(super) const UNWANTED: VarInt = ResetCode::DROPPED.var();
/// The caller is gone or has given up.
pub(super) const CANCELLED: VarInt = ResetCode::CANCELLED.var();
/// The deadline passed.
pub(super) const DEADLINE: VarInt = ResetCode::DEADLINE.var();
/// The other side broke the protocol.
pub(super) const PROTOCOL: VarInt = ResetCode::MALFORMED.var();
/// The sender of this half failed in the middle (a guest that trapped, a body that broke off).
pub(super) const BROKEN: VarInt = ResetCode::INTERNAL.var();

/// What a reset of the other half means to the reader. `answered` says that the head of the
/// message had already come: from then on the call has started, whatever the code says.
pub(super) fn to_error(code: VarInt, answered: bool) -> CallError {
    let code = ResetCode::from(code);
    match code {
        ResetCode::CANCELLED => CallError::Cancelled,
        ResetCode::DEADLINE => CallError::Deadline,
        _ if answered => CallError::broken("the other side broke the body off"),
        ResetCode::STALE => CallError::Stale,
        ResetCode::OVERLOADED => CallError::Overloaded,
        ResetCode::REFUSED => {
            CallError::Refused { reason: "the other node does not serve this call".to_owned() }
        }
        ResetCode::NOT_ENTITLED => CallError::NotEntitled,
        ResetCode::MALFORMED | ResetCode::TOO_LARGE => {
            CallError::protocol("the other node did not understand the call")
        }
        ResetCode::INTERNAL => CallError::broken("the other node failed before it answered"),
        code if code.not_started() => CallError::NotStarted,
        code => CallError::broken(format!("the other node reset the stream: {code}")),
    }
}

/// The code with which our half of the stream ends when this error ends the call.
pub(super) fn of_error(error: &CallError) -> VarInt {
    match error {
        CallError::Stale => ResetCode::STALE,
        CallError::NotStarted | CallError::Unreachable { .. } => ResetCode::NOT_STARTED,
        CallError::Overloaded => ResetCode::OVERLOADED,
        CallError::Deadline => ResetCode::DEADLINE,
        CallError::Refused { .. } | CallError::Loop => ResetCode::REFUSED,
        CallError::NotEntitled => ResetCode::NOT_ENTITLED,
        CallError::WrongServer { .. } => ResetCode::CANCELLED,
        CallError::Protocol { .. } | CallError::HeadTooLarge { .. } => ResetCode::MALFORMED,
        CallError::Cancelled => ResetCode::CANCELLED,
        CallError::Broken { .. } | CallError::BodySource { .. } => ResetCode::INTERNAL,
    }
    .var()
}
