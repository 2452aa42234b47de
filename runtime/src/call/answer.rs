//! The answer's body: whole, or broken off with the reason.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use wasmtime_wasi_http::WasiBody;

use super::Call;
use crate::{
    error::{BodyError, CallError},
    usage::{Meter, add},
};

/// Wraps what the guest writes. A guest that dies closes its stream just as one that is done
/// does; the call's verdict tells them apart.
pub(crate) struct AnswerBody {
    inner: WasiBody,
    call: Arc<Call>,
    meter: Arc<Meter>,
    /// Nobody will read it: HTTP sends no body with this answer.
    bodyless: bool,
    /// The last frame was given.
    ended: bool,
}

impl AnswerBody {
    pub(crate) fn new(inner: WasiBody, call: Arc<Call>, meter: Arc<Meter>, bodyless: bool) -> Self {
        Self { inner, call, meter, bodyless, ended: false }
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
        let this = &mut *self;
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

    fn is_end_stream(&self) -> bool {
        self.ended || (self.inner.is_end_stream() && self.call.verdict.get().is_none())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
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
