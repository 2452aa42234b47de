//! A connection whose client must go on reading.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How long a client may take nothing of what is written to it.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    /// Without bound if none: who answers large bodies to slow clients waits for them.
    pub(crate) limit: Option<Duration>,
    /// Connections that were broken off for it.
    pub(crate) stalled: Arc<AtomicU64>,
}

impl Patience {
    /// Waits for ever.
    pub(crate) fn endless() -> Self {
        Self { limit: None, stalled: Arc::default() }
    }
}

/// A connection that fails when nothing could be written to it for so long. Nothing else would
/// notice: what is to be written next is asked for only when there is room.
pub(crate) struct Impatient<I> {
    io: I,
    patience: Patience,
    /// Since the last write found no room.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<I> Impatient<I> {
    pub(crate) fn new(io: I, patience: Patience) -> Self {
        Self { io, patience, waits: None }
    }

    /// What became of a write.
    fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waits = None;
            return written;
        }
        let Some(limit) = self.patience.limit else { return Poll::Pending };
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(waits.as_mut().poll(context));
        self.patience.stalled.fetch_add(1, Ordering::Relaxed);
        let why = format!("the client took nothing for {limit:?}");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Impatient<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Impatient<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.written(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(context);
        self.written(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    fn patient(limit: Option<Duration>) -> (Impatient<DuplexStream>, DuplexStream, Patience) {
        let patience = Patience { limit, stalled: Arc::default() };
        let (here, there) = tokio::io::duplex(8);
        (Impatient::new(here, patience.clone()), there, patience)
    }

    #[tokio::test]
    async fn who_reads_nothing_is_not_waited_for() {
        const LIMIT: Duration = Duration::from_millis(50);
        let (mut here, _there, patience) = patient(Some(LIMIT));
        let start = Instant::now();
        let error = here.write_all(&[7; 16]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= LIMIT);
        assert_eq!(patience.stalled.load(Ordering::Relaxed), 1);
    }

    /// Writes what there is room for; whether there was none.
    fn write(here: &mut Impatient<DuplexStream>) -> bool {
        let mut context = Context::from_waker(std::task::Waker::noop());
        Pin::new(here).poll_write(&mut context, &[7; 8]).is_pending()
    }

    #[tokio::test]
    async fn the_time_begins_anew_with_every_byte_that_is_read() {
        let (mut here, mut there, patience) = patient(Some(Duration::from_secs(3600)));
        assert!(!write(&mut here) && here.waits.is_none());
        assert!(write(&mut here) && here.waits.is_some());
        there.read_exact(&mut [0]).await.unwrap();
        assert!(!write(&mut here) && here.waits.is_none(), "a byte was taken");
        assert!(write(&mut here) && here.waits.is_some());
        assert_eq!(patience.stalled.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn without_a_limit_there_is_no_time() {
        let (mut here, _there, _) = patient(None);
        assert!(!write(&mut here) && write(&mut here));
        assert!(here.waits.is_none());
    }
}
