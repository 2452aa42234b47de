//! Bytes in bulk (artifacts) on a stream beside others, within a window for each peer.
//!
//! Wire: frames of at most [`CHUNK`] bytes; against them, for each that the receiver has put
//! away, a frame with its length as a big-endian `u32`.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;
use swarmer_model::{Code, Coded, NodeId};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    codes,
    stream::{FrameError, FrameReader, FrameWriter},
};

/// Bytes that may be on their way to one peer in bulk, over all streams: sent, and not yet put
/// away there. Whatever else goes to that peer waits behind at most this much: a millisecond's
/// work of the thread that encrypts for Raft too, and a fraction of the socket's buffer, where a
/// flood would push Raft's datagrams out. At a round trip of 100 ms it still carries 5 MB/s.
pub const BULK_WINDOW: usize = 512 * 1024;
/// The longest frame: an eighth of the window, so that acknowledging does not stall the sender.
pub const CHUNK: usize = 64 * 1024;
/// The priority of bulk streams: below calls (0) on the same connection.
pub const BULK_PRIORITY: i32 = -1;

/// The windows of all peers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Budget(Arc<Mutex<HashMap<NodeId, Weak<Semaphore>>>>);

/// What may be on its way to one peer.
#[derive(Debug, Clone)]
pub struct Window(Arc<Semaphore>);

impl Budget {
    /// The peer's window; the same one for all who send to it at the time.
    pub fn of(&self, peer: NodeId) -> Window {
        let mut windows = self.0.lock();
        if let Some(window) = windows.get(&peer).and_then(Weak::upgrade) {
            return Window(window);
        }
        windows.retain(|_, window| window.strong_count() > 0);
        let window = Arc::new(Semaphore::new(BULK_WINDOW));
        windows.insert(peer, Arc::downgrade(&window));
        Window(window)
    }
}

/// A transfer in bulk that failed.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The stream.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// What was to be sent cannot be read, or ended too early.
    #[error("cannot read what is to be sent: {0}")]
    Source(#[from] std::io::Error),
    /// The other side does not keep to the protocol.
    #[error("the other side sent {0}")]
    Malformed(&'static str),
    /// The other side says something in place of an acknowledgement: why it takes no more, in
    /// the words of whoever uses this.
    #[error("the other side takes no more")]
    Refused(Bytes),
}

impl Coded for BulkError {
    fn code(&self) -> Code {
        match self {
            Self::Frame(error) => error.code(),
            Self::Source(_) => codes::CANCELLED,
            Self::Malformed(_) => codes::MALFORMED,
            Self::Refused(_) => codes::REFUSED,
        }
    }
}

/// Sends the next `bytes` of `source` and returns when the other side has put all of them away.
/// Has no deadline of its own; when it is dropped, what it held of the window is free again.
///
/// # Errors
/// [`BulkError`]; the stream is of no more use then.
pub async fn send(
    window: &Window,
    writer: &mut FrameWriter,
    reader: &mut FrameReader,
    source: &mut (impl AsyncRead + Unpin),
    bytes: u64,
) -> Result<(), BulkError> {
    let mut left = bytes;
    let mut held: Option<OwnedSemaphorePermit> = None;
    loop {
        let out = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if left == 0 && out == 0 {
            return Ok(());
        }
        let next = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
        let room = Arc::clone(&window.0).acquire_many_owned(u32::try_from(next).unwrap_or(0));
        let permit = tokio::select! {
            biased;
            acknowledged = reader.next(), if out > 0 => {
                let frame = acknowledged?.ok_or(FrameError::Truncated)?;
                let Ok(put_away) = frame.as_ref().try_into().map(u32::from_be_bytes) else {
                    return Err(BulkError::Refused(frame));
                };
                let put_away = usize::try_from(put_away).unwrap_or(usize::MAX).max(1);
                let freed = held.as_mut().and_then(|held| held.split(put_away));
                drop(freed.ok_or(BulkError::Malformed("an acknowledgement of what was not sent"))?);
                continue;
            }
            permit = room, if left > 0 => permit.map_err(|_| FrameError::Closed)?,
        };
        let mut chunk = vec![0; next];
        source.read_exact(&mut chunk).await?;
        left -= next as u64;
        match &mut held {
            Some(held) => held.merge(permit),
            None => held = Some(permit),
        }
        writer.push(chunk.into());
        writer.flush().await?;
    }
}

/// Receives what [`send`] sends.
#[derive(Debug)]
pub struct BulkReceiver<'a> {
    writer: &'a mut FrameWriter,
    reader: &'a mut FrameReader,
    left: u64,
    /// Bytes given out and not acknowledged.
    given: u32,
}

impl<'a> BulkReceiver<'a> {
    /// Of so many bytes.
    pub fn new(writer: &'a mut FrameWriter, reader: &'a mut FrameReader, bytes: u64) -> Self {
        Self { writer, reader, left: bytes, given: 0 }
    }

    /// The next bytes; `None` after the last. Asking for more acknowledges what was given
    /// before: put it away first.
    ///
    /// # Errors
    /// [`BulkError`]; the stream is of no more use then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BulkError> {
        if self.given > 0 {
            self.writer.push(Bytes::copy_from_slice(&self.given.to_be_bytes()));
            self.writer.flush().await?;
            self.given = 0;
        }
        if self.left == 0 {
            return Ok(None);
        }
        let chunk = self.reader.next().await?.ok_or(FrameError::Truncated)?;
        let length = chunk.len() as u64;
        if length == 0 || length > self.left || chunk.len() > CHUNK {
            return Err(BulkError::Malformed("another length than announced"));
        }
        self.left -= length;
        self.given = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        Ok(Some(chunk))
    }
}
