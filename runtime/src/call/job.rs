//! One call on its way through an instance: what it takes with it, and what may end it early.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Instant,
};

use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Sleep,
};
use tokio_util::sync::WaitForCancellationFutureOwned;
use wasmtime_wasi_http::{Error, WasiBody};

use super::{Call, Inner, cpu::metered};
use crate::{body::Body, engine::Running, error::CallError, usage::add};

/// Where the answer's head goes.
pub(super) type Answer = oneshot::Sender<Result<http::Response<WasiBody>, CallError>>;

/// A call that was admitted.
pub(super) struct Job {
    pub(super) entered: Entered,
    pub(super) request: http::Request<WasiBody>,
    pub(super) answer: Answer,
}

impl Job {
    pub(super) fn new(
        inner: &Arc<Inner>,
        call: Arc<Call>,
        permit: OwnedSemaphorePermit,
        request: http::Request<Body>,
        answer: Answer,
    ) -> Self {
        let meter = inner.meter.clone();
        let request = request.map(|body| {
            if body.is_end_stream() {
                return http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
            }
            body.map_frame(move |frame: Frame<bytes::Bytes>| {
                if let Some(data) = frame.data_ref() {
                    add(&meter.bytes_in, data.len() as u64);
                }
                frame
            })
            .map_err(|_| Error::ConnectionTerminated)
            .boxed_unsync()
        });
        Self { entered: Entered::new(inner, call, permit), request, answer }
    }
}

/// A call that holds its slot of the function. What it used is counted when it is dropped.
pub(super) struct Entered {
    pub(super) call: Arc<Call>,
    inner: Arc<Inner>,
    started: Instant,
    _ticking: Running,
    _permit: OwnedSemaphorePermit,
}

impl Entered {
    fn new(inner: &Arc<Inner>, call: Arc<Call>, permit: OwnedSemaphorePermit) -> Self {
        add(&inner.meter.requests, 1);
        add(&inner.meter.running, 1);
        Self {
            call,
            inner: inner.clone(),
            started: Instant::now(),
            _ticking: inner.node.ticker.running(),
            _permit: permit,
        }
    }

    /// The call is over, and this is why it failed.
    pub(super) fn fail(&self, error: CallError) {
        let meter = &self.inner.meter;
        add(
            if matches!(error, CallError::Cancelled) { &meter.cancelled } else { &meter.failed },
            1,
        );
        self.call.conclude(error);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let meter = &self.inner.meter;
        meter.running.fetch_sub(1, Relaxed);
        add(&meter.cpu_ns, self.call.cpu.done_ns());
        let wall = self.started.elapsed().as_nanos();
        add(&meter.wall_ns, u64::try_from(wall).unwrap_or(u64::MAX));
    }
}

/// What ends a call before its guest does: the caller's leave, the end of the version, time.
pub(super) struct Limits {
    inner: Arc<Inner>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    /// `stop` was polled: it wakes the task, which is always the same, and [`Inner::stopped`]
    /// tells whether it did.
    stop_awaited: bool,
    deadline: Pin<Box<Sleep>>,
}

impl Limits {
    pub(super) fn new(inner: &Arc<Inner>, call: &Call) -> Self {
        Self {
            inner: inner.clone(),
            stop: Box::pin(inner.stop.clone().cancelled_owned()),
            stop_awaited: false,
            deadline: Box::pin(tokio::time::sleep_until(call.deadline.into())),
        }
    }

    /// From here on they are those of this call.
    pub(super) fn begin(&mut self, call: &Call) {
        self.deadline.as_mut().reset(call.deadline.into());
    }

    fn poll(&mut self, call: &Call, cx: &mut Context<'_>) -> Poll<CallError> {
        if call.poll_cancelled(cx) {
            return Poll::Ready(CallError::Cancelled);
        }
        let stopped = if self.stop_awaited {
            self.inner.stopped.load(Relaxed)
        } else {
            self.stop_awaited = true;
            self.stop.as_mut().poll(cx).is_ready()
        };
        if stopped {
            let why = "the version was unloaded before the answer was whole";
            return Poll::Ready(CallError::Trap(why.to_owned()));
        }
        self.deadline
            .as_mut()
            .poll(cx)
            .map(|()| CallError::Timeout { after: call.accepted.elapsed() })
    }

    /// Polls the guest's work as CPU time of this call; an error if the call ends before it.
    pub(super) fn poll_within<F: Future>(
        &mut self,
        call: &Call,
        work: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<F::Output, CallError>> {
        match metered(call, || work.poll(cx)) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll(call, cx).map(Err),
        }
    }
}
