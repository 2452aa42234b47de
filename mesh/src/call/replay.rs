//! A body that can be sent from its start again while it is small.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;

use super::{Body, CallError};

/// The most bytes that are kept of a body for a retry.
pub const MAX_REPLAY_BYTES: usize = 64 * 1024;

/// Wraps a request's body so that a failed call can be sent again, as long as no more than
/// [`MAX_REPLAY_BYTES`] of it were read. It never reads ahead: bytes are kept as they pass.
#[derive(Clone)]
pub struct ReplayableBody {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    source: Body,
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// Too much was read to keep it, or the source failed.
    lost: bool,
    /// The attempt that may read now; an older one that is still being dropped must not.
    attempt: u64,
    waker: Option<Waker>,
}

impl ReplayableBody {
    /// Wraps a body.
    pub fn new(source: Body) -> Self {
        Self {
            shared: Arc::new(Mutex::new(Shared {
                ended: source.is_end_stream(),
                source,
                kept: VecDeque::new(),
                kept_bytes: 0,
                trailers: None,
                lost: false,
                attempt: 0,
                waker: None,
            })),
        }
    }

    /// Whether the body can (still) be sent from its start.
    pub fn is_replayable(&self) -> bool {
        !self.shared.lock().lost
    }

    /// The body from its start, or `None` if too much of it is gone. An earlier attempt's body
    /// fails from now on.
    pub fn attempt(&self) -> Option<Body> {
        let mut shared = self.shared.lock();
        if shared.lost {
            return None;
        }
        shared.attempt += 1;
        if let Some(waker) = shared.waker.take() {
            waker.wake();
        }
        if shared.ended && shared.kept.is_empty() && shared.trailers.is_none() {
            return Some(super::empty());
        }
        let attempt = Replay {
            shared: Arc::clone(&self.shared),
            attempt: shared.attempt,
            next: 0,
            ended: false,
        };
        Some(attempt.boxed_unsync())
    }
}

struct Replay {
    shared: Arc<Mutex<Shared>>,
    attempt: u64,
    /// How many of the kept pieces were given out.
    next: usize,
    ended: bool,
}

impl http_body::Body for Replay {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let shared = &mut *this.shared.lock();
        if shared.attempt != this.attempt {
            this.ended = true;
            return Poll::Ready(Some(Err(CallError::body_source("the call is being sent again"))));
        }
        if let Some(piece) = shared.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if shared.ended {
            this.ended = true;
            return Poll::Ready(shared.trailers.clone().map(|t| Ok(Frame::trailers(t))));
        }
        shared.waker = Some(cx.waker().clone());
        let frame = match Pin::new(&mut shared.source).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame,
        };
        match frame {
            None => {
                shared.ended = true;
                this.ended = true;
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                shared.lost = true;
                this.ended = true;
                Poll::Ready(Some(Err(error)))
            }
            Some(Ok(frame)) => {
                match frame.data_ref() {
                    // It is past keeping: only this attempt sees it.
                    Some(_) if shared.lost => {}
                    Some(data) => {
                        shared.kept_bytes += data.len();
                        if shared.kept_bytes > MAX_REPLAY_BYTES {
                            shared.lost = true;
                            shared.kept = VecDeque::new();
                            this.next = 0;
                        } else {
                            shared.kept.push_back(data.clone());
                            this.next += 1;
                        }
                    }
                    None => {
                        shared.trailers = frame.trailers_ref().cloned();
                        shared.ended = true;
                        this.ended = true;
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.shared.lock();
        self.ended || (shared.ended && shared.trailers.is_none() && self.next >= shared.kept.len())
    }

    fn size_hint(&self) -> SizeHint {
        let shared = self.shared.lock();
        if self.next == 0 && shared.kept.is_empty() && !shared.lost {
            return shared.source.size_hint();
        }
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{collect, full};

    #[tokio::test]
    async fn a_small_body_is_sent_as_often_as_needed() {
        let body = ReplayableBody::new(full("hello"));
        for _ in 0..3 {
            let attempt = body.attempt().unwrap();
            assert_eq!(collect(attempt, 100).await.unwrap(), "hello");
        }
    }

    #[tokio::test]
    async fn a_large_body_passes_once() {
        let large = vec![7u8; MAX_REPLAY_BYTES + 1];
        let body = ReplayableBody::new(full(large.clone()));
        let attempt = body.attempt().unwrap();
        assert!(body.is_replayable());
        assert_eq!(collect(attempt, usize::MAX).await.unwrap(), large);
        assert!(!body.is_replayable());
        assert!(body.attempt().is_none());
    }

    #[tokio::test]
    async fn an_older_attempt_cannot_steal_from_a_newer_one() {
        let body = ReplayableBody::new(full("hello"));
        let old = body.attempt().unwrap();
        let new = body.attempt().unwrap();
        assert!(collect(old, 100).await.is_err());
        assert_eq!(collect(new, 100).await.unwrap(), "hello");
    }
}
