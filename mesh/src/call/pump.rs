//! The sending half of a message: head, body, trailers, end.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body as _;
use quinn::{SendStream, VarInt, WriteError};

use super::{
    Body, CallError, MAX_DATA_BYTES,
    frame::{FRAME_HEADER_BYTES, Kind, mark_last, put_header},
    head::encode_trailers,
};

/// Bodies up to this many bytes are copied behind the head, so that the whole message is one
/// write and, mostly, one packet; above it, slices are handed over uncopied.
pub(super) const INLINE_BYTES: usize = 4 * 1024;
/// The most pieces of one batch: a body of single bytes must not make a list of 64 Ki of them.
const MAX_PIECES: usize = 64;

/// A send stream that is reset, never ended cleanly, unless [`finish`](Self::finish) was called.
#[derive(Debug)]
pub(super) struct SendGuard {
    send: SendStream,
    give_up: VarInt,
    done: bool,
}

impl SendGuard {
    pub(super) fn new(send: SendStream, give_up: VarInt) -> Self {
        Self { send, give_up, done: false }
    }

    pub(super) fn stream(&self) -> &SendStream {
        &self.send
    }

    pub(super) async fn write(&mut self, chunk: Bytes) -> Result<(), WriteError> {
        self.send.write_chunk(chunk).await
    }

    pub(super) async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), WriteError> {
        self.send.write_all_chunks(chunks).await
    }

    pub(super) fn finish(&mut self) {
        self.done = true;
        // It fails only if the peer has stopped or closed the stream: then nobody listens.
        let _ = self.send.finish();
    }

    pub(super) fn reset(&mut self, code: VarInt) {
        if !self.done {
            self.done = true;
            // It fails only if the stream is closed already.
            let _ = self.send.reset(code);
        }
    }
}

impl Drop for SendGuard {
    fn drop(&mut self) {
        let code = self.give_up;
        self.reset(code);
    }
}

/// What is ready to be sent of a body.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pieces: Vec<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
}

impl Batch {
    /// Takes what the body has ready, up to about one frame. Ready when there is something to
    /// send or the body ended.
    pub(super) fn poll_fill(
        &mut self,
        body: &mut Body,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CallError>> {
        while !self.ended && self.bytes < MAX_DATA_BYTES && self.pieces.len() < MAX_PIECES {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        self.bytes += data.len();
                        self.pieces.push(data);
                        self.ended = body.is_end_stream();
                    }
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        self.ended = true;
                    }
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending if self.pieces.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The whole body is here and small enough to stand behind the head.
    pub(super) fn is_whole_and_small(&self) -> bool {
        self.ended && self.bytes <= INLINE_BYTES
    }

    /// Appends all of a whole, small body to the head frame at the start of `out`.
    pub(super) fn append_to(self, out: &mut BytesMut) -> Result<(), CallError> {
        if self.bytes == 0 && self.trailers.is_none() {
            mark_last(out);
            return Ok(());
        }
        if self.bytes > 0 {
            let at = out.len();
            out.put_bytes(0, FRAME_HEADER_BYTES);
            put_header(&mut out[at..], Kind::Data, self.trailers.is_none(), self.bytes);
            for piece in &self.pieces {
                out.put_slice(piece);
            }
        }
        if let Some(trailers) = &self.trailers {
            encode_trailers(trailers, out)?;
        }
        Ok(())
    }

    /// Writes the batch, in frames of at most [`MAX_DATA_BYTES`].
    async fn write(&mut self, guard: &mut SendGuard) -> Result<(), PumpEnd> {
        let mut pieces = std::mem::take(&mut self.pieces).into_iter();
        let mut next = pieces.next();
        let mut left = std::mem::take(&mut self.bytes);
        let mut chunks: Vec<Bytes> = Vec::with_capacity(pieces.len() + 2);
        while left > 0 {
            let length = left.min(MAX_DATA_BYTES);
            left -= length;
            let last = self.ended && left == 0 && self.trailers.is_none();
            let mut header = [0; FRAME_HEADER_BYTES];
            put_header(&mut header, Kind::Data, last, length);
            chunks.clear();
            if length <= INLINE_BYTES {
                let mut small = BytesMut::with_capacity(FRAME_HEADER_BYTES + length);
                small.put_slice(&header);
                take(&mut next, &mut pieces, length, |piece| small.put_slice(&piece));
                chunks.push(small.freeze());
            } else {
                chunks.push(Bytes::copy_from_slice(&header));
                take(&mut next, &mut pieces, length, |piece| chunks.push(piece));
            }
            guard.write_chunks(&mut chunks).await?;
            if last {
                return Ok(());
            }
        }
        if self.ended {
            let mut end = BytesMut::new();
            match &self.trailers {
                Some(trailers) => encode_trailers(trailers, &mut end)?,
                None => {
                    end.put_bytes(0, FRAME_HEADER_BYTES);
                    put_header(&mut end, Kind::Data, true, 0);
                }
            }
            guard.write(end.freeze()).await?;
        }
        Ok(())
    }
}

/// Hands the next `length` bytes of the pieces to `sink`, splitting the one on the boundary.
fn take(
    next: &mut Option<Bytes>,
    pieces: &mut impl Iterator<Item = Bytes>,
    mut length: usize,
    mut sink: impl FnMut(Bytes),
) {
    while length > 0 {
        let Some(piece) = next else { return };
        if piece.len() > length {
            sink(piece.split_to(length));
            return;
        }
        length -= piece.len();
        sink(std::mem::take(piece));
        *next = pieces.next();
    }
}

/// Why a pump ended early.
#[derive(Debug, Clone)]
pub(super) enum PumpEnd {
    /// The peer wants no more, for the reason that the code tells.
    Stopped(VarInt),
    /// The connection or the body failed.
    Failed(CallError),
}

impl From<CallError> for PumpEnd {
    fn from(error: CallError) -> Self {
        Self::Failed(error)
    }
}

impl From<WriteError> for PumpEnd {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Stopped(code),
            error => Self::Failed(CallError::from_write(error)),
        }
    }
}

/// Sends the rest of a message: `batch`, then the body to its end. If the body fails, the stream
/// is reset; if the peer stops reading, the body is dropped at once even while it is idle.
pub(super) async fn pump(
    guard: &mut SendGuard,
    mut batch: Batch,
    mut body: Body,
) -> Result<(), PumpEnd> {
    let mut stopped = pin!(guard.stream().stopped());
    loop {
        batch.write(guard).await?;
        if batch.ended {
            guard.finish();
            return Ok(());
        }
        let filled = std::future::poll_fn(|cx| {
            if let Poll::Ready(filled) = batch.poll_fill(&mut body, cx) {
                return Poll::Ready(filled.map_err(PumpEnd::Failed));
            }
            match stopped.as_mut().poll(cx) {
                Poll::Ready(Ok(code)) => {
                    Poll::Ready(Err(PumpEnd::Stopped(code.unwrap_or(super::reset::UNWANTED))))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(WriteError::from(error).into())),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        if let Err(end) = filled {
            if let PumpEnd::Failed(error) = &end {
                guard.reset(error.reset_code());
            }
            return Err(end);
        }
    }
}
