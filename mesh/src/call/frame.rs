//! Frames: a kind byte, a 24-bit length, the payload.

use std::{
    pin::pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use quinn::{ReadError, RecvStream, VarInt};

use super::{CallError, MAX_DATA_BYTES, MAX_HEAD_BYTES};

/// Kind byte and length.
pub(super) const FRAME_HEADER_BYTES: usize = 4;
/// Packets that are taken at a time: some tens of kilobytes where packets are small, a tenth of a
/// megabyte where they are large (loopback).
const PACKETS_AT_A_TIME: usize = 16;
/// The bit of the kind byte that marks the last frame of a message.
const LAST: u8 = 0x80;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Call = 1,
    Answer = 2,
    Data = 3,
    Trailers = 4,
}

/// The first four bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) kind: Kind,
    pub(super) last: bool,
    pub(super) length: usize,
}

/// Writes a frame header over the first bytes of `at`.
pub(super) fn put_header(at: &mut [u8], kind: Kind, last: bool, length: usize) {
    debug_assert!(length < 1 << 24);
    let word = ((kind as u32 | if last { u32::from(LAST) } else { 0 }) << 24) | length as u32;
    at[..FRAME_HEADER_BYTES].copy_from_slice(&word.to_be_bytes());
}

/// Marks a frame that is already encoded as the last of its message.
pub(super) fn mark_last(frame: &mut [u8]) {
    frame[0] |= LAST;
}

/// Reads a frame header and checks it against the limits.
pub(super) fn parse_header(bytes: [u8; FRAME_HEADER_BYTES]) -> Result<FrameHeader, CallError> {
    let kind = match bytes[0] & !LAST {
        1 => Kind::Call,
        2 => Kind::Answer,
        3 => Kind::Data,
        4 => Kind::Trailers,
        other => return Err(CallError::protocol(format!("frame of unknown kind {other}"))),
    };
    let length = u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]]) as usize;
    let limit = if kind == Kind::Data { MAX_DATA_BYTES } else { MAX_HEAD_BYTES };
    if length > limit {
        return Err(CallError::protocol(format!("frame of {length} bytes, at most {limit}")));
    }
    Ok(FrameHeader { kind, last: bytes[0] & LAST != 0, length })
}

/// Reads frames from a QUIC stream. What came in one packet is not copied; of several that wait
/// one piece is made, so that a long body costs its reader some tens of kilobytes a step instead of
/// a packet.
///
/// When it is dropped before the message is complete, the stream is stopped with the code that it
/// was made with, so that the other side knows at once.
#[derive(Debug)]
pub(super) struct FrameReader {
    recv: RecvStream,
    chunk: Bytes,
    header: [u8; FRAME_HEADER_BYTES],
    header_filled: usize,
    partial: BytesMut,
    give_up: VarInt,
    ended: bool,
}

impl FrameReader {
    pub(super) fn new(recv: RecvStream, give_up: VarInt) -> Self {
        Self {
            recv,
            chunk: Bytes::new(),
            header: [0; FRAME_HEADER_BYTES],
            header_filled: 0,
            partial: BytesMut::new(),
            give_up,
            ended: false,
        }
    }

    /// Tells the sender to stop; nothing can be read afterwards.
    pub(super) fn stop(&mut self, code: VarInt) {
        if !self.ended {
            self.ended = true;
            // An error means that the stream is closed already, which is what is wanted.
            let _ = self.recv.stop(code);
        }
    }

    /// Makes the current chunk non-empty; `false` at the end of the stream.
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ReadError>> {
        while self.chunk.is_empty() {
            if self.ended {
                return Poll::Ready(Ok(false));
            }
            let mut packets = [const { Bytes::new() }; PACKETS_AT_A_TIME];
            // The future of `read_chunks` holds no state between polls, so it may be made anew.
            let read = ready!(pin!(self.recv.read_chunks(&mut packets)).poll(cx));
            match read {
                Ok(Some(1)) => [self.chunk, ..] = packets,
                Ok(Some(count)) => self.chunk = packets[..count].concat().into(),
                Ok(None) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(true))
    }

    /// The next frame's header; `None` at the end of the stream between two frames.
    pub(super) fn poll_header(
        &mut self,
        cx: &mut Context<'_>,
        answered: bool,
    ) -> Poll<Result<Option<FrameHeader>, CallError>> {
        while self.header_filled < FRAME_HEADER_BYTES {
            if !ready!(self.poll_chunk(cx)).map_err(|e| CallError::from_read(e, answered))? {
                return Poll::Ready(if self.header_filled == 0 {
                    Ok(None)
                } else {
                    Err(CallError::broken("the stream ended inside a frame"))
                });
            }
            let count = self.chunk.len().min(FRAME_HEADER_BYTES - self.header_filled);
            self.header[self.header_filled..][..count].copy_from_slice(&self.chunk[..count]);
            self.header_filled += count;
            self.chunk.advance(count);
        }
        self.header_filled = 0;
        Poll::Ready(parse_header(self.header).map(Some))
    }

    /// Up to `most` bytes (at least one) of the current frame's payload.
    pub(super) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        answered: bool,
    ) -> Poll<Result<Bytes, CallError>> {
        if !ready!(self.poll_chunk(cx)).map_err(|e| CallError::from_read(e, answered))? {
            return Poll::Ready(Err(CallError::broken("the stream ended inside a frame")));
        }
        Poll::Ready(Ok(self.chunk.split_to(self.chunk.len().min(most))))
    }

    /// The whole payload of a head or trailers frame; copied only if it came in several packets.
    pub(super) fn poll_payload(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
        answered: bool,
    ) -> Poll<Result<Bytes, CallError>> {
        if length == 0 {
            return Poll::Ready(Ok(Bytes::new()));
        }
        loop {
            let piece = ready!(self.poll_data(cx, length - self.partial.len(), answered))?;
            if self.partial.is_empty() && piece.len() == length {
                return Poll::Ready(Ok(piece));
            }
            self.partial.extend_from_slice(&piece);
            if self.partial.len() == length {
                return Poll::Ready(Ok(self.partial.split().freeze()));
            }
        }
    }

    /// The message is complete: takes the FIN if it is there, so that no stop is sent.
    pub(super) fn complete(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        if self.poll_chunk(&mut cx).is_pending() {
            self.stop(super::reset::UNWANTED);
        }
        self.ended = true;
    }
}

impl Drop for FrameReader {
    fn drop(&mut self) {
        let code = self.give_up;
        self.stop(code);
    }
}
