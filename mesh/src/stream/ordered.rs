//! Many frames on one stream, read and written by parts that may be cancelled at any time.

use bytes::{Buf as _, Bytes, BytesMut};
use quinn::{RecvStream, SendStream};

use super::{FrameError, MAX_FRAME, ResetCode};

/// What is read at once: a few small frames, or a part of a large one.
const READ_BYTES: usize = 64 * 1024;

/// Reads the frames of a stream, cancel-safe. Dropped before the end, it tells the other side
/// that nobody listens.
#[derive(Debug)]
pub struct FrameReader {
    recv: RecvStream,
    max: usize,
    buffer: BytesMut,
}

impl FrameReader {
    /// Of frames of at most `max` bytes.
    pub fn new(recv: RecvStream, max: usize) -> Self {
        Self { recv, max, buffer: BytesMut::new() }
    }

    /// The next frame; `None` where the stream ends cleanly between two. Memory grows with what
    /// arrives, not with what is announced. Cancel-safe; has no deadline of its own.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`], or how the stream ended. It is of no more use then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            if let Some(frame) = take(&mut self.buffer, self.max)? {
                return Ok(Some(frame));
            }
            match self.recv.read_chunk(READ_BYTES, true).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(FrameError::Truncated),
            }
        }
    }
}

/// The first frame of what was read, if it is whole.
fn take(buffer: &mut BytesMut, max: usize) -> Result<Option<Bytes>, FrameError> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
    if length > max {
        return Err(FrameError::TooLarge { length, max });
    }
    if buffer.len() - head.len() < length {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Writes frames to a stream, cancel-safe.
#[derive(Debug)]
pub struct FrameWriter {
    send: SendStream,
    /// What is not written yet, in order; the first may be the rest of a piece.
    queue: Vec<Bytes>,
}

impl FrameWriter {
    /// On a stream whose header is written.
    pub fn new(send: SendStream) -> Self {
        Self { send, queue: Vec::new() }
    }

    /// On a fresh stream: its header goes out with the first frame.
    pub fn with_prefix(send: SendStream, prefix: Bytes) -> Self {
        Self { send, queue: vec![prefix] }
    }

    /// Takes a frame of at most [`MAX_FRAME`] bytes. The caller bounds how many it pushes before
    /// it flushes.
    ///
    /// # Panics
    /// If the frame is larger.
    pub fn push(&mut self, frame: Bytes) {
        assert!(frame.len() <= MAX_FRAME, "a frame of {} bytes", frame.len());
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        self.queue.push(Bytes::copy_from_slice(&length.to_be_bytes()));
        self.queue.push(frame);
    }

    /// Writes what was pushed. Cancel-safe; has no deadline of its own.
    ///
    /// # Errors
    /// How the stream ended. It is of no more use then.
    pub async fn flush(&mut self) -> Result<(), FrameError> {
        loop {
            self.queue.retain(|piece| !piece.is_empty());
            if self.queue.is_empty() {
                return Ok(());
            }
            // What was written is cut off the pieces.
            self.send.write_chunks(&mut self.queue).await?;
        }
    }

    /// Ends the stream cleanly. What was not flushed is lost.
    pub fn finish(mut self) {
        // It may have been stopped by the other side: it is closed then as well.
        let _ = self.send.finish();
    }

    /// Breaks the stream off.
    pub fn reset(mut self, code: ResetCode) {
        let _ = self.send.reset(code.var());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_the_bytes_arrive() {
        let mut wire = Vec::new();
        for frame in [&b"one"[..], b"", b"three"] {
            wire.extend_from_slice(&u32::try_from(frame.len()).unwrap().to_be_bytes());
            wire.extend_from_slice(frame);
        }
        for piece in 1..=wire.len() {
            let mut buffer = BytesMut::new();
            let mut frames = Vec::new();
            for part in wire.chunks(piece) {
                buffer.extend_from_slice(part);
                while let Some(frame) = take(&mut buffer, 5).unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [&b"one"[..], b"", b"three"]);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_frame_too_large_is_refused_by_its_length_alone() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 6][..]);
        let refused = take(&mut buffer, 5);
        assert!(matches!(refused, Err(FrameError::TooLarge { length: 6, max: 5 })), "{refused:?}");
    }
}
