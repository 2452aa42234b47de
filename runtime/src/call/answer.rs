//! The answer's body: whole, or broken off with the reason.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use wasmtime_wasi_http::WasiBody;

use super::{Call, Turn};
use crate::{
    error::{BodyError, CallError},
    usage::{Meter, add},
};

/// Turns that a guest gets to end its body before the head of the answer goes out: a 0.2 guest
/// waits for each of its writes to be taken. Each costs about a microsecond.
const SETTLE_TURNS: usize = 4;
/// Bytes that are taken ahead meanwhile.
const SETTLE_BYTES: usize = 16 << 10;
/// And pieces.
const SETTLE_FRAMES: usize = 16;

/// Wraps what the guest writes. A guest that dies closes its stream just as one that is done
/// does; the call's verdict tells them apart.
pub(crate) struct AnswerBody {
    inner: WasiBody,
    call: Arc<Call>,
    meter: Arc<Meter>,
    /// Nobody will read it: HTTP sends no body with this answer.
    bodyless: bool,
    /// Taken from the guest already, to be given first.
    ahead: VecDeque<Result<Frame<Bytes>, BodyError>>,
    /// So many bytes were taken ahead.
    ahead_bytes: usize,
    /// The last frame was taken from the guest.
    ended: bool,
    /// The reader was given a moment to pass on what it has, before the error.
    warned: bool,
}

impl AnswerBody {
    pub(crate) fn new(inner: WasiBody, call: Arc<Call>, meter: Arc<Meter>, bodyless: bool) -> Self {
        Self {
            inner,
            call,
            meter,
            bodyless,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            ended: false,
            warned: false,
        }
    }

    fn poll_guest(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self;
        if this.ended {
            return Poll::Ready(None);
        }
        let mut poll = Pin::new(&mut this.inner).poll_frame(cx);
        if poll.is_pending() {
            // A body that the guest only passes through does not end with the guest.
            this.call.reader.register(cx.waker());
            if let Some(error) = this.call.verdict() {
                // What was written before the end is still given.
                poll = Pin::new(&mut this.inner).poll_frame(cx);
                if poll.is_pending() {
                    return this.end(Some(error));
                }
            }
        }
        match poll {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                let error = this.call.verdict();
                this.end(error)
            }
            Poll::Ready(Some(Err(error))) => {
                let error = this.call.verdict().unwrap_or(CallError::Guest(error.to_string()));
                this.end(Some(error))
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    add(&this.meter.bytes_out, data.len() as u64);
                } else {
                    let _ = this.end(None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    /// Lets the guest go on for a few turns. Most give a short body right after the head: then the
    /// answer is one write with a known length, here and to another node, in place of three.
    pub(super) fn settle(
        &mut self,
        cx: &mut Context<'_>,
        mut guest: impl FnMut(&mut Context<'_>) -> Turn,
    ) {
        if self.bodyless {
            return;
        }
        for _ in 0..SETTLE_TURNS {
            self.take_ahead(cx);
            if self.full() || guest(cx) != Turn::Working {
                break;
            }
        }
        self.take_ahead(cx);
    }

    /// Why the guest failed, if it did while nobody had seen anything of its answer.
    pub(super) fn failed_early(&self) -> Option<CallError> {
        self.ahead.iter().find_map(|frame| match frame {
            Err(BodyError::Broken(error)) => Some(error.clone()),
            _ => None,
        })
    }

    fn full(&self) -> bool {
        self.ahead_bytes >= SETTLE_BYTES || self.ahead.len() >= SETTLE_FRAMES
    }

    fn take_ahead(&mut self, cx: &mut Context<'_>) {
        while !self.ended && !self.full() {
            let Poll::Ready(Some(frame)) = self.poll_guest(cx) else { break };
            self.ahead_bytes += frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
            self.ahead.push_back(frame);
        }
    }

    fn end(&mut self, error: Option<CallError>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.ended = true;
        self.call.body_gone.notify_one();
        Poll::Ready(error.map(|error| Err(BodyError::Broken(error))))
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let poll = match self.ahead.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => self.poll_guest(cx),
        };
        // A connection that ends with an error drops what it has not sent: head and body so far.
        if let Poll::Ready(Some(Err(error))) = poll {
            if self.warned {
                return Poll::Ready(Some(Err(error)));
            }
            self.warned = true;
            self.ahead.push_front(Err(error));
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty()
            && (self.ended || (self.inner.is_end_stream() && self.call.verdict.get().is_none()))
    }

    fn size_hint(&self) -> SizeHint {
        if !self.ended {
            // What the guest still has to give, and what was taken from it already.
            let ahead = self.ahead.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref());
            let ahead = ahead.map(|data| data.len() as u64).sum::<u64>();
            let rest = self.inner.size_hint();
            let mut hint = SizeHint::new();
            hint.set_lower(rest.lower().saturating_add(ahead));
            if let Some(upper) = rest.upper() {
                hint.set_upper(upper.saturating_add(ahead));
            }
            return hint;
        }
        // All of it is here; what failed, or has trailers, has no length to promise.
        let lengths =
            self.ahead.iter().map(|frame| frame.as_ref().ok()?.data_ref().map(Bytes::len));
        match lengths.sum::<Option<usize>>() {
            Some(bytes) => SizeHint::with_exact(bytes as u64),
            None => SizeHint::default(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if !self.bodyless && !self.inner.is_end_stream() {
            self.call.cancel();
        }
        self.call.body_gone.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use http_body::Body as _;
    use http_body_util::{BodyExt, channel::Channel};
    use wasmtime_wasi_http::Error;

    use super::*;
    use crate::{config::FunctionConfig, key::CallContext};

    /// A guest that writes so many pieces of one byte, then ends if it is to, and its answer.
    fn written(pieces: usize, ends: bool) -> (Pin<Box<dyn Future<Output = ()>>>, AnswerBody) {
        let (mut guest, body) = Channel::<Bytes, Error>::new(1);
        let guest = async move {
            for _ in 0..pieces {
                if guest.send_data(Bytes::from_static(b"x")).await.is_err() {
                    return;
                }
            }
            if !ends {
                std::future::pending::<()>().await;
            }
        };
        (Box::pin(guest), answer(body.boxed_unsync()))
    }

    async fn settle<G: Future<Output = ()> + ?Sized>(
        guest: &mut Pin<Box<G>>,
        body: &mut AnswerBody,
    ) {
        let turn = |guest: &mut Pin<Box<G>>, cx: &mut Context<'_>| match guest.as_mut().poll(cx) {
            Poll::Pending => Turn::Working,
            Poll::Ready(()) => Turn::Gone,
        };
        std::future::poll_fn(|cx| {
            body.settle(cx, |cx| turn(guest, cx));
            Poll::Ready(())
        })
        .await;
    }

    fn answer(body: WasiBody) -> AnswerBody {
        let now = Instant::now();
        let context = CallContext::until(now + Duration::from_secs(60));
        let call = Arc::new(Call::new(&context, now, &FunctionConfig::default()));
        AnswerBody::new(body, call, Arc::default(), false)
    }

    #[tokio::test]
    async fn a_short_body_is_whole_before_the_head_goes_out() {
        let (mut guest, mut body) = written(2, true);
        settle(&mut guest, &mut body).await;
        assert_eq!(body.size_hint().exact(), Some(2));
        assert!(!body.is_end_stream());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "xx");
    }

    #[tokio::test]
    async fn a_long_or_slow_body_is_neither_waited_for_nor_kept() {
        let (mut guest, mut slow) = written(2, false);
        settle(&mut guest, &mut slow).await;
        assert_eq!((slow.size_hint().exact(), slow.ahead.len()), (None, 2));
        let (mut guest, mut long) = written(1000, true);
        settle(&mut guest, &mut long).await;
        assert!(long.ahead.len() <= SETTLE_FRAMES, "{}", long.ahead.len());
        assert_eq!(long.size_hint().exact(), None);
        let ((), whole) = tokio::join!(guest, long.collect());
        assert_eq!(whole.unwrap().to_bytes().len(), 1000);
    }

    #[tokio::test]
    async fn a_promised_length_counts_what_was_taken_already() {
        let pieces = [vec![b'x'; SETTLE_BYTES], vec![b'y'; 10]].map(Bytes::from);
        let whole = pieces.iter().map(|piece| piece.len() as u64).sum();
        let mut body = answer(Promised(pieces.into_iter().collect()).boxed_unsync());
        settle(&mut Box::pin(std::future::pending()), &mut body).await;
        assert!(!body.ended && body.ahead.len() == 1, "the test is of a body that goes on");
        assert_eq!(body.size_hint().exact(), Some(whole));
        assert_eq!(body.collect().await.unwrap().to_bytes().len() as u64, whole);
    }

    #[tokio::test]
    async fn the_reader_can_pass_on_what_it_has_before_the_error() {
        let (mut guest, mut body) = written(1, false);
        settle(&mut guest, &mut body).await;
        body.frame().await.unwrap().unwrap();
        body.call.conclude(CallError::NoAnswer);
        let mut polls = 0;
        let last = std::future::poll_fn(|cx| {
            polls += 1;
            Pin::new(&mut body).poll_frame(cx)
        });
        assert!(matches!(last.await, Some(Err(BodyError::Broken(CallError::NoAnswer)))));
        assert_eq!(polls, 2, "a connection sends what it holds between the two");
    }

    /// Knows how much is left of it.
    struct Promised(VecDeque<Bytes>);

    impl http_body::Body for Promised {
        type Data = Bytes;
        type Error = Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
        }
    }
}
