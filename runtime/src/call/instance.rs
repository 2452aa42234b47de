//! An instance, and whoever drives it.
//!
//! It has no task of its own: the call that it serves polls it. So a short call is the work of one
//! task, from the socket to the guest and back, and nobody has to be woken. Only an instance whose
//! call is not done when the answer's head goes out gets a task, to the end of that call.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Inner,
    cpu::metered,
    entered::{Entered, Task},
    fresh,
    limits::Limits,
    worker,
};
use crate::{error::CallError, interface::Prepared};

/// How far the call is that an instance serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The guest waits for something, or gave way.
    Working,
    /// The call is done to its last byte; the instance can take another.
    Served,
    /// The instance is gone. If the call failed, its verdict says why.
    Gone,
}

/// What lies between the one who drives an instance and the code that runs inside of it.
#[derive(Default)]
pub(super) struct Desk {
    /// The next call, put there just before the inside is polled.
    pub(super) next: Mutex<Option<Task>>,
    /// The call is done, to its last byte.
    pub(super) done: AtomicBool,
}

/// One instance: at work for a call, or waiting for the next.
pub(super) struct Instance {
    inner: Arc<Inner>,
    /// The guest and its store. Stands before `serving`: its slot comes free after the guest went.
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    desk: Arc<Desk>,
    serving: Option<Entered>,
    turn: Turn,
    limits: Limits,
    served: u32,
    since: Instant,
}

impl Instance {
    /// One that will be made for this call, in this slot of the pool, when it is first polled.
    pub(super) fn new(
        inner: &Arc<Inner>,
        slot: OwnedSemaphorePermit,
        entered: Entered,
        task: Task,
    ) -> Self {
        let desk = Arc::<Desk>::default();
        let work: Pin<Box<dyn Future<Output = ()> + Send>> = match &*inner.prepared {
            Prepared::Wasi02(pre) => Box::pin(fresh::run(inner.clone(), pre.clone(), task, slot)),
            Prepared::Wasi03(pre) => {
                Box::pin(worker::run(inner.clone(), pre.clone(), task, desk.clone(), slot))
            }
        };
        Self {
            inner: inner.clone(),
            work: Some(work),
            desk,
            turn: Turn::Working,
            limits: Limits::new(inner.stop.clone()),
            since: entered.call.accepted,
            serving: Some(entered),
            served: 0,
        }
    }

    /// Gives it its next call.
    pub(super) fn give(&mut self, entered: Entered, task: Task) {
        debug_assert!(self.serving.is_none() && self.turn == Turn::Served);
        *self.desk.next.lock() = Some(task);
        self.limits.begin();
        self.serving = Some(entered);
        self.turn = Turn::Working;
    }

    /// How long it has waited for a call.
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Lets the guest work until it has to wait. The time counts as the call's CPU time.
    pub(super) fn poll_guest(&mut self, cx: &mut Context<'_>) -> Turn {
        if self.turn != Turn::Working {
            return self.turn;
        }
        let (Some(work), Some(entered)) = (&mut self.work, &self.serving) else {
            return Turn::Gone;
        };
        let poll = || catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        match metered(&entered.call, poll) {
            Ok(Poll::Pending) if self.desk.done.swap(false, Relaxed) => {
                self.served += 1;
                self.turn = Turn::Served;
            }
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(())) => self.turn = Turn::Gone,
            Err(_) => self.fail(CallError::Trap("the host panicked under it".to_owned())),
        }
        self.turn
    }

    /// Lets the guest work, and ends the call if it has to end. Not ready: the task is woken when
    /// there is something to do.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        match self.poll_guest(cx) {
            Turn::Working => self.poll_limits(cx),
            turn => Poll::Ready(turn),
        }
    }

    /// To be called when the guest waits, before the task does.
    pub(super) fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let Some(entered) = &self.serving else { return Poll::Ready(self.turn) };
        let Poll::Ready(error) = self.limits.poll(&entered.call, cx) else {
            return Poll::Pending;
        };
        self.fail(error);
        Poll::Ready(self.turn)
    }

    /// Ends the call, unless it has ended, and the instance with it.
    pub(super) fn fail(&mut self, error: CallError) {
        if self.turn == Turn::Working
            && let Some(entered) = &self.serving
        {
            // Before the instance goes: its streams close with it.
            self.inner.fail(&entered.call, error);
        }
        self.turn = Turn::Gone;
        self.work = None;
    }

    /// To be called when the answer is on its way: what is left of the call goes on by itself.
    pub(super) fn go_on(self: Box<Self>) {
        match self.turn {
            Turn::Working => drop(self.inner.node.guests.clone().spawn(self.finish())),
            Turn::Served => self.park(),
            Turn::Gone => {}
        }
    }

    async fn finish(mut self: Box<Self>) {
        if poll_fn(|cx| self.poll(cx)).await == Turn::Served {
            self.park();
        }
    }

    /// Waits for the next call, if it is worth keeping.
    fn park(mut self: Box<Self>) {
        // The slot of the function comes free after the instance is kept: whoever gets the slot
        // finds the instance.
        let served = self.serving.take();
        if self.served < self.inner.config.reuse {
            self.since = Instant::now();
            let inner = self.inner.clone();
            inner.keep(self);
        }
        drop(served);
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.turn == Turn::Working {
            self.fail(CallError::Cancelled);
        }
    }
}
