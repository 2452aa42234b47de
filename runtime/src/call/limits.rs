//! What ends a call before its guest does: the caller's leave, the end of the version, time.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Call;
use crate::error::CallError;

/// Made when they are first asked: most calls end before their guest has to wait for anything.
pub(super) struct Limits {
    stop: CancellationToken,
    stopped: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Limits {
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { stop, stopped: None, deadline: None }
    }

    /// From here on they are those of another call.
    pub(super) fn begin(&mut self) {
        self.deadline = None;
    }

    /// Ready with the reason if the call has to end; if not, the task is woken when it has to.
    pub(super) fn poll(&mut self, call: &Call, cx: &mut Context<'_>) -> Poll<CallError> {
        if call.poll_cancelled(cx) {
            return Poll::Ready(CallError::Cancelled);
        }
        let stop = &self.stop;
        let stopped = self.stopped.get_or_insert_with(|| Box::pin(stop.clone().cancelled_owned()));
        if stopped.as_mut().poll(cx).is_ready() {
            let why = "the version was unloaded before the answer was whole";
            return Poll::Ready(CallError::Trap(why.to_owned()));
        }
        let deadline = call.deadline.into();
        self.deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)))
            .as_mut()
            .poll(cx)
            .map(|()| CallError::Timeout { after: call.accepted.elapsed() })
    }
}
