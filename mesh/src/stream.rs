//! What every stream between nodes begins with, the codes that break one off, and framed messages.
//!
//! Wire: two bytes of header (version, kind), then whatever the kind defines. A frame is a
//! big-endian `u32` of its length and the bytes. What the versions mean: [`swarmer_model::wire`].

mod ordered;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, VarInt, WriteError};
use swarmer_model::{Code, Coded};

pub use self::ordered::{FrameReader, FrameWriter};
use crate::codes;

/// The largest frame that any kind allows: a batch of Raft entries with room to spare, and small
/// against a node's memory.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;
/// What is set aside for a frame before its bytes arrive; a length alone never costs more.
const FRAME_UPFRONT: usize = 64 * 1024;

/// Which of the two connections to a peer a stream runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Raft, membership, watch: small and urgent.
    Control,
    /// Calls and artifacts.
    Data,
}

impl Class {
    /// The name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Data => "data",
        }
    }
}

macro_rules! stream_kinds {
    ($($(#[$doc:meta])* $name:ident = $wire:literal, $text:literal, $class:ident;)*) => {
        /// What a stream carries.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum StreamKind {
            $($(#[$doc])* $name = $wire,)*
        }

        impl StreamKind {
            /// Every kind that this build knows.
            pub const ALL: &[StreamKind] = &[$(Self::$name,)*];

            /// The kind with this number on the wire.
            pub const fn from_wire(byte: u8) -> Option<Self> {
                match byte {
                    $($wire => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name in logs and metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The connection that the kind belongs on.
            pub const fn class(self) -> Class {
                match self {
                    $(Self::$name => Class::$class,)*
                }
            }
        }
    };
}

stream_kinds! {
    /// Raft messages between voters and learners.
    Raft = 1, "raft", Control;
    /// Exchange of the whole membership and catalog.
    PushPull = 2, "push-pull", Control;
    /// The watch of the desired state, relayed.
    Feed = 3, "feed", Control;
    /// The bytes of an artifact.
    Artifact = 4, "artifact", Data;
    /// One call of a function or service.
    Call = 5, "call", Data;
    /// A request between nodes that serves the cluster itself: join by way of the leader, drain.
    Admin = 6, "admin", Control;
    /// Renewal of the sender's certificate.
    Renew = 7, "renew", Control;
    /// Nothing but an echo, to find out whether the peer lives.
    Ping = 8, "ping", Control;
    /// A request to the HTTP API that another node must answer.
    Forward = 9, "forward", Control;
    /// A Raft snapshot.
    Snapshot = 10, "snapshot", Data;
    /// Log lines and other observations asked for by an operator.
    Observe = 11, "observe", Data;
    /// AppendEntries of a Raft leader: many messages, each answered in its turn.
    RaftAppend = 12, "raft-append", Control;
    /// A compiled image of a component.
    Image = 13, "image", Data;
    /// Votes: who has the log of the desired state, and what goes with that.
    Voting = 14, "voting", Control;
    /// A fault that an operator has a node struck by.
    Fault = 15, "fault", Control;
}

impl StreamKind {
    /// Whether a peer with an expired certificate may open it, or have it opened to it.
    ///
    /// These bring back a cluster that slept for longer than its certificates live. Raft is in
    /// addition bound to voters (see `Admission::voter`).
    pub const fn allowed_when_expired(self) -> bool {
        matches!(self, Self::Raft | Self::RaftAppend | Self::Renew)
    }

    /// Whether a peer may open it, or have it opened to it, whose certificate no believed authority
    /// signed, and whose key was admitted.
    ///
    /// These bring back a node that slept while the authority changed. It may not know a living
    /// voter's authority, nor they its own, until its copy of the desired state names the new one:
    /// so the watch is open too, to be followed only where a voter serves it.
    pub const fn allowed_when_unbelieved(self) -> bool {
        self.allowed_when_expired() || matches!(self, Self::Feed)
    }

    /// The number on the wire.
    pub const fn wire(self) -> u8 {
        self as u8
    }
}

/// The versions that a node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub oldest: u8,
    /// The newest.
    pub newest: u8,
}

impl Versions {
    /// The newest version that two nodes both speak, if there is one.
    pub fn agree(self, other: Self) -> Option<u8> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

/// The first bytes of every stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamHeader {
    /// The version that is spoken on the stream, in both directions.
    pub version: u8,
    /// What the stream carries.
    pub kind: StreamKind,
}

impl StreamHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 2;

    /// As sent.
    pub const fn encode(self) -> [u8; Self::LEN] {
        [self.version, self.kind.wire()]
    }

    /// As received by a node that speaks these versions. The error is the code to reset the stream
    /// with.
    pub const fn decode(bytes: [u8; Self::LEN], spoken: Versions) -> Result<Self, ResetCode> {
        let [version, kind] = bytes;
        if version < spoken.oldest || version > spoken.newest {
            return Err(ResetCode::UNKNOWN_VERSION);
        }
        match StreamKind::from_wire(kind) {
            Some(kind) => Ok(Self { version, kind }),
            None => Err(ResetCode::UNKNOWN_KIND),
        }
    }
}

/// Why a stream was broken off: the application error code of RESET_STREAM and STOP_SENDING
/// (RFC 9000, section 19.4). Unknown numbers are kept as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResetCode(pub u32);

impl ResetCode {
    /// What quinn sends when a reader is dropped: nobody listens any more.
    pub const DROPPED: Self = Self(0);
    /// The receiver did not begin the work: the same request may go elsewhere.
    pub const NOT_STARTED: Self = Self(0x10);
    /// The one who asked does not want the answer any more.
    pub const CANCELLED: Self = Self(0x11);
    /// The receiver's copy of the desired state is older than the sender's; not started.
    pub const STALE: Self = Self(0x12);
    /// The receiver has no room; not started.
    pub const OVERLOADED: Self = Self(0x13);
    /// The receiver does not allow it; not started.
    pub const REFUSED: Self = Self(0x14);
    /// The receiver does not know the kind of stream; not started.
    pub const UNKNOWN_KIND: Self = Self(0x15);
    /// The receiver does not speak the version; not started.
    pub const UNKNOWN_VERSION: Self = Self(0x16);
    /// A message is larger than its kind allows.
    pub const TOO_LARGE: Self = Self(0x17);
    /// A certificate is expired, and the kind needs a valid one; not started.
    pub const EXPIRED: Self = Self(0x18);
    /// A message cannot be read.
    pub const MALFORMED: Self = Self(0x19);
    /// The receiver failed; what it did is not known.
    pub const INTERNAL: Self = Self(0x1a);
    /// The deadline that came with the request has passed; what was done is not known.
    pub const DEADLINE: Self = Self(0x1b);
    /// The sender speaks for a workload that, to the receiver's knowledge, is not its own; not
    /// started.
    pub const NOT_ENTITLED: Self = Self(0x1c);

    /// Whether the receiver says that it did nothing, so that the request may be sent elsewhere.
    pub const fn not_started(self) -> bool {
        matches!(
            self,
            Self::NOT_STARTED
                | Self::STALE
                | Self::OVERLOADED
                | Self::REFUSED
                | Self::UNKNOWN_KIND
                | Self::UNKNOWN_VERSION
                | Self::EXPIRED
                | Self::NOT_ENTITLED
        )
    }

    /// The stable code that users see.
    pub const fn code(self) -> Code {
        match self {
            Self::NOT_STARTED => codes::NOT_STARTED,
            Self::STALE => codes::STALE,
            Self::OVERLOADED => codes::OVERLOADED,
            Self::REFUSED => codes::REFUSED,
            Self::NOT_ENTITLED => codes::NOT_ENTITLED,
            Self::UNKNOWN_KIND | Self::UNKNOWN_VERSION => codes::UNKNOWN_STREAM,
            Self::TOO_LARGE => codes::TOO_LARGE,
            Self::EXPIRED => codes::EXPIRED,
            Self::MALFORMED => codes::MALFORMED,
            Self::INTERNAL => codes::INTERNAL,
            Self::DEADLINE => codes::DEADLINE,
            _ => codes::CANCELLED,
        }
    }

    /// As quinn wants it.
    pub const fn var(self) -> VarInt {
        VarInt::from_u32(self.0)
    }
}

impl From<VarInt> for ResetCode {
    fn from(code: VarInt) -> Self {
        Self(u32::try_from(code.into_inner()).unwrap_or(u32::MAX))
    }
}

impl std::fmt::Display for ResetCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:#x})", self.code(), self.0)
    }
}

/// A framed message could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FrameError {
    /// The stream ended cleanly where a frame could have begun.
    #[error("the stream ended before a message")]
    Ended,
    /// The stream ended inside of a frame.
    #[error("the stream ended in the middle of a message")]
    Truncated,
    /// The frame is larger than the reader takes or the writer may send.
    #[error("a message of {length} bytes is larger than the {max} allowed")]
    TooLarge {
        /// What was announced, in bytes.
        length: usize,
        /// What is allowed, in bytes.
        max: usize,
    },
    /// The peer broke the stream off.
    #[error("the peer broke the stream off: {0}")]
    Reset(ResetCode),
    /// The connection was lost.
    #[error("the connection was lost: {0}")]
    Connection(quinn::ConnectionError),
    /// The stream was already closed on this side.
    #[error("the stream is closed on this side")]
    Closed,
}

impl FrameError {
    /// Whether the peer said that it did nothing.
    pub fn not_started(&self) -> bool {
        match self {
            Self::Reset(code) => code.not_started(),
            _ => false,
        }
    }
}

impl Coded for FrameError {
    fn code(&self) -> Code {
        match self {
            Self::Ended | Self::Truncated => codes::MALFORMED,
            Self::TooLarge { .. } => codes::TOO_LARGE,
            Self::Reset(code) => code.code(),
            Self::Connection(error) => crate::transport::loss_code(error),
            Self::Closed => codes::CANCELLED,
        }
    }
}

impl From<ReadError> for FrameError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset(code.into()),
            ReadError::ConnectionLost(lost) => Self::Connection(lost),
            ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => Self::Closed,
        }
    }
}

impl From<WriteError> for FrameError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Reset(code.into()),
            WriteError::ConnectionLost(lost) => Self::Connection(lost),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::Closed,
        }
    }
}

/// Reads one frame of at most `max` bytes. Memory grows with what arrives, not with what is
/// announced. Has no deadline of its own and is not cancel-safe: after a cancelled read the
/// stream is of no more use.
pub async fn read_frame(recv: &mut RecvStream, max: usize) -> Result<Bytes, FrameError> {
    read_frame_or_end(recv, max).await?.ok_or(FrameError::Ended)
}

/// Like [`read_frame`]; `None` where the stream ends cleanly between two frames.
pub async fn read_frame_or_end(
    recv: &mut RecvStream,
    max: usize,
) -> Result<Option<Bytes>, FrameError> {
    let mut length = [0; 4];
    match recv.read_exact(&mut length).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => return Err(FrameError::Truncated),
        Err(ReadExactError::ReadError(error)) => return Err(error.into()),
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > max {
        return Err(FrameError::TooLarge { length, max });
    }
    let mut frame = BytesMut::new();
    while frame.len() < length {
        let missing = length - frame.len();
        let Some(chunk) = recv.read_chunk(missing, true).await? else {
            return Err(FrameError::Truncated);
        };
        if chunk.bytes.len() == length {
            // The whole frame came in one piece: no copy.
            return Ok(Some(chunk.bytes));
        }
        if frame.is_empty() {
            frame.reserve(length.min(FRAME_UPFRONT).max(chunk.bytes.len()));
        }
        frame.put(chunk.bytes);
    }
    Ok(Some(frame.freeze()))
}

/// Writes one frame of at most [`MAX_FRAME`] bytes. Has no deadline of its own and is not
/// cancel-safe.
pub async fn write_frame(send: &mut SendStream, frame: Bytes) -> Result<(), FrameError> {
    write_frame_after(send, Bytes::new(), frame).await
}

/// As [`write_frame`], with `prefix`, the header of a fresh stream, before it in the same write.
///
/// # Errors
/// As [`write_frame`].
pub async fn write_frame_after(
    send: &mut SendStream,
    prefix: Bytes,
    frame: Bytes,
) -> Result<(), FrameError> {
    let length = match u32::try_from(frame.len()) {
        Ok(length) if frame.len() <= MAX_FRAME => length,
        _ => return Err(FrameError::TooLarge { length: frame.len(), max: MAX_FRAME }),
    };
    let head = Bytes::copy_from_slice(&length.to_be_bytes());
    send.write_all_chunks(&mut [prefix, head, frame]).await?;
    Ok(())
}

/// Breaks a stream off in both directions. Errors do not matter: the stream is then closed anyway.
pub fn abort(send: &mut SendStream, recv: &mut RecvStream, code: ResetCode) {
    let _ = send.reset(code.var());
    let _ = recv.stop(code.var());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speaks(oldest: u8, newest: u8) -> Versions {
        Versions { oldest, newest }
    }

    #[test]
    fn a_header_comes_back_as_it_went() {
        for &kind in StreamKind::ALL {
            for version in [1, 2] {
                let header = StreamHeader { version, kind };
                assert_eq!(StreamHeader::decode(header.encode(), speaks(1, 2)), Ok(header));
            }
        }
    }

    #[test]
    fn two_nodes_speak_the_newest_version_that_both_know() {
        let agreed = |a: Versions, b: Versions| {
            assert_eq!(a.agree(b), b.agree(a), "{a} and {b}");
            a.agree(b)
        };
        assert_eq!(agreed(speaks(1, 2), speaks(1, 2)), Some(2));
        assert_eq!(agreed(speaks(1, 2), speaks(1, 1)), Some(1));
        assert_eq!(agreed(speaks(1, 3), speaks(2, 7)), Some(3));
        assert_eq!(agreed(speaks(2, 3), speaks(1, 1)), None);
        assert_eq!(agreed(speaks(0, 0), speaks(1, 2)), None);
    }

    #[test]
    fn an_unknown_kind_or_version_has_its_own_code() {
        for kind in [0, 255] {
            let unknown = StreamHeader::decode([1, kind], speaks(1, 2));
            assert_eq!(unknown, Err(ResetCode::UNKNOWN_KIND));
        }
        for (version, spoken) in [(0, speaks(1, 2)), (3, speaks(1, 2)), (2, speaks(1, 1))] {
            let unknown = StreamHeader::decode([version, 1], spoken);
            assert_eq!(unknown, Err(ResetCode::UNKNOWN_VERSION), "{version} of {spoken}");
        }
        assert!(ResetCode::UNKNOWN_KIND.not_started());
        assert!(!ResetCode::CANCELLED.not_started());
        assert!(!ResetCode::DROPPED.not_started());
    }

    #[test]
    fn only_raft_and_renewal_wake_a_sleeping_cluster() {
        let allowed: Vec<_> =
            StreamKind::ALL.iter().filter(|kind| kind.allowed_when_expired()).collect();
        assert_eq!(allowed, [&StreamKind::Raft, &StreamKind::Renew, &StreamKind::RaftAppend]);
        let more: Vec<_> = StreamKind::ALL
            .iter()
            .filter(|kind| kind.allowed_when_unbelieved() && !kind.allowed_when_expired())
            .collect();
        assert_eq!(more, [&StreamKind::Feed], "by which a node that slept hears of the authority");
    }
}
