//! One stream between two nodes for messages and, after them, bytes in bulk.

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use serde::{Serialize, de::DeserializeOwned};
use swarmer_mesh::{
    bulk::{self, BULK_PRIORITY, BulkError, BulkReceiver, CHUNK},
    stream::{FrameError, FrameReader, FrameWriter, ResetCode},
};
use tokio::fs::File;

/// The two directions of one stream, below calls in priority. A message, like a piece of the
/// bytes, has at most [`CHUNK`] bytes. Nothing here has a deadline of its own.
pub(super) struct Link {
    writer: FrameWriter,
    reader: FrameReader,
}

/// A message that did not come or go.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// The stream.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// What came is no such message.
    #[error("not a message of this protocol: {0}")]
    Message(#[from] postcard::Error),
}

impl Link {
    pub(super) fn new(send: SendStream, recv: RecvStream) -> Self {
        // It fails on a closed stream only, which the first message finds out.
        let _ = send.set_priority(BULK_PRIORITY);
        Self { writer: FrameWriter::new(send), reader: FrameReader::new(recv, CHUNK) }
    }

    pub(super) async fn write<T: Serialize>(&mut self, message: &T) -> Result<(), LinkError> {
        self.writer.push(Bytes::from(postcard::to_stdvec(message)?));
        Ok(self.writer.flush().await?)
    }

    pub(super) async fn read<T: DeserializeOwned>(&mut self) -> Result<T, LinkError> {
        let frame = self.reader.next().await?.ok_or(FrameError::Ended)?;
        Ok(postcard::from_bytes(&frame)?)
    }

    /// Gives the bytes of a file; all are put away at the other side when it returns.
    pub(super) async fn give(
        &mut self,
        window: &bulk::Window,
        file: &mut File,
        bytes: u64,
    ) -> Result<(), BulkError> {
        bulk::send(window, &mut self.writer, &mut self.reader, file, bytes).await
    }

    /// Takes what the other side gives.
    pub(super) fn take(&mut self, bytes: u64) -> BulkReceiver<'_> {
        BulkReceiver::new(&mut self.writer, &mut self.reader, bytes)
    }

    /// Ends the stream in good order.
    pub(super) fn finish(self) {
        self.writer.finish();
    }

    /// Breaks the stream off.
    pub(super) fn reset(self, code: ResetCode) {
        self.writer.reset(code);
    }
}
