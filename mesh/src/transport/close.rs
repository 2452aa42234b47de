//! Why a connection ends: the application error code of CONNECTION_CLOSE, and how to read one.

use quinn::{ConnectionError, VarInt};
use swarmer_model::Code;

use super::error::RefusedBy;
use crate::{codes, identity::tls::without_wrapping};

/// The TLS alert that says that no common protocol was found (RFC 7301).
const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;
/// QUIC transport error codes from here to `0x1ff` carry TLS alerts (RFC 9001, section 4.8).
const CRYPTO_ERROR: u64 = 0x100;
/// A reason longer than this is cut: it comes from outside and goes into logs.
const MAX_REASON: usize = 256;

/// Why a connection was closed by a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseCode(pub u32);

impl CloseCode {
    /// All is done.
    pub const DONE: Self = Self(0);
    /// The node stops.
    pub const SHUTDOWN: Self = Self(1);
    /// The peer is not let in; the reason names the code.
    pub const REFUSED: Self = Self(2);
    /// The peer was removed from the cluster.
    pub const REVOKED: Self = Self(3);
    /// Nothing ran on the connection for long.
    pub const UNUSED: Self = Self(4);
    /// The peer has newer connections of this kind.
    pub const REPLACED: Self = Self(5);
    /// There are too many connections.
    pub const OVERLOADED: Self = Self(6);
    /// The peer did not keep to the protocol or to its time.
    pub const PROTOCOL: Self = Self(7);

    pub(crate) const fn var(self) -> VarInt {
        VarInt::from_u32(self.0)
    }
}

/// What a failed or lost connection means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loss {
    Refused { by: RefusedBy, code: Code, reason: String },
    Unreachable(String),
}

/// Reads why a connection failed. Refusals name their code in the reason, on both sides.
pub(crate) fn loss(error: &ConnectionError) -> Loss {
    let (by, number, reason) = match error {
        ConnectionError::TransportError(error) => {
            (RefusedBy::Us, u64::from(error.code), error.reason.clone())
        }
        ConnectionError::ConnectionClosed(close) => {
            (RefusedBy::Peer, u64::from(close.error_code), text(&close.reason))
        }
        ConnectionError::ApplicationClosed(close) => {
            let reason = text(&close.reason);
            let number = close.error_code.into_inner();
            let refused = number == u64::from(CloseCode::REFUSED.0)
                || number == u64::from(CloseCode::REVOKED.0)
                || number == u64::from(CloseCode::OVERLOADED.0);
            if !refused {
                return Loss::Unreachable(format!("closed by the peer: {reason}"));
            }
            let code = codes::named_in(&reason).unwrap_or(codes::REFUSED);
            return Loss::Refused { by: RefusedBy::Peer, code, reason };
        }
        ConnectionError::TimedOut => {
            return Loss::Unreachable("no answer in time".to_owned());
        }
        ConnectionError::LocallyClosed => {
            return Loss::Unreachable("this node gave the connection up".to_owned());
        }
        other => return Loss::Unreachable(other.to_string()),
    };
    if let Some(code) = codes::named_in(&reason) {
        let reason = without_wrapping(&reason).to_owned();
        return Loss::Refused { by, code, reason };
    }
    if number == NO_APPLICATION_PROTOCOL {
        let reason = "the protocol asked for is not served there now".to_owned();
        return Loss::Refused { by: RefusedBy::Peer, code: codes::NOT_SERVED, reason };
    }
    if (CRYPTO_ERROR..CRYPTO_ERROR + 256).contains(&number) {
        return Loss::Refused { by, code: codes::BAD_CERTIFICATE, reason };
    }
    Loss::Unreachable(error.to_string())
}

/// The code of a lost connection: that of the refusal, where it was one.
pub(crate) fn loss_code(error: &ConnectionError) -> Code {
    match loss(error) {
        Loss::Refused { code, .. } => code,
        Loss::Unreachable(_) => codes::UNREACHABLE,
    }
}

/// A peer's text, made fit for a log.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .take(MAX_REASON)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
