//! A `wasi:http` 0.3 instance: it serves one call after another.
//!
//! One at a time, so that CPU time, log and end of a call are its own. Between two calls the
//! guest stands still: whatever it left to be done later goes on with the next call.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::{AsContextMut, component::Accessor};
use wasmtime_wasi_http::{
    WasiBody, WasiHttpView,
    handler::{Prepared, Proxy},
    p3::bindings::ServicePre,
};

use super::{
    Call, Inner,
    job::{Answer, Entered, Job, Limits},
    verdict,
};
use crate::{
    error::CallError,
    guest::{self, Guest},
};

/// An instance between two calls. It ends when this is dropped.
pub(super) struct Idle {
    next: oneshot::Sender<Job>,
    since: Instant,
}

impl Idle {
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Gives it the next call; false if the instance is gone, and the call with it.
    pub(super) fn give(self, job: Job) -> bool {
        self.next.send(job).is_ok()
    }
}

/// What lies between the task that drives the instance and the code that runs inside of it.
#[derive(Default)]
struct Desk {
    /// The next call, put there just before the inside is polled.
    next: Mutex<Option<Task>>,
    /// The call is done, to its last byte.
    done: AtomicBool,
}

/// What the inside needs of a call.
struct Task {
    call: Arc<Call>,
    request: http::Request<WasiBody>,
    answer: Answer,
}

/// Starts an instance for this call, and serves with it until it is used up, fails, or is no
/// longer wanted. It keeps its slot of the pool for so long.
pub(super) async fn run(
    inner: Arc<Inner>,
    pre: ServicePre<Guest>,
    job: Job,
    slot: OwnedSemaphorePermit,
) {
    let Job { entered, request, answer } = job;
    let call = entered.call.clone();
    let mut limits = Limits::new(&inner, &call);
    let mut store = guest::store(&inner, &call);
    let started = {
        let mut instantiation = pin!(pre.instantiate_async(&mut store));
        poll_fn(|cx| limits.poll_within(&call, instantiation.as_mut(), cx)).await
    };
    let started = started.and_then(|started| {
        started.map_err(|error| verdict::of_instantiation(&inner, store.data(), &error))
    });
    let proxy = match started {
        Ok(service) => Proxy::P3(service),
        Err(error) => {
            entered.fail(error);
            return verdict::finish(&inner, &call, store.data());
        }
    };

    let desk = Desk { next: Mutex::new(Some(Task { call, request, answer })), ..Desk::default() };
    let failed = {
        let inside = pin!(store.run_concurrent(async |accessor| {
            loop {
                let next = poll_fn(|_| desk.next.lock().take().map_or(Poll::Pending, Poll::Ready));
                let task = next.await;
                let call = task.call.clone();
                serve(accessor, &proxy, task).await?;
                accessor.with(|mut store| verdict::finish(&inner, &call, store.data_mut()));
                desk.done.store(true, Relaxed);
            }
        }));
        let mut driver = Driver {
            inner: &inner,
            desk: &desk,
            limits,
            inside,
            state: State::Serving(entered),
            served: 0,
        };
        poll_fn(|cx| driver.poll(cx)).await
    };
    if let Some((entered, failure)) = failed {
        let error = match failure {
            Failure::Ended(error) => error,
            Failure::Guest(error) => verdict::of_guest(&inner, &entered.call, store.data(), &error),
        };
        // Before the instance goes: its streams close with it.
        entered.fail(error);
        verdict::finish(&inner, &entered.call, store.data());
        drop(store);
        drop(slot);
    }
}

enum State {
    Serving(Entered),
    Waiting(oneshot::Receiver<Job>),
}

enum Failure {
    /// Something ended the call.
    Ended(CallError),
    /// The guest died.
    Guest(wasmtime::Error),
}

/// Polls the inside while a call is served, and nothing but the mailbox in between.
struct Driver<'a, F> {
    inner: &'a Arc<Inner>,
    desk: &'a Desk,
    limits: Limits,
    inside: Pin<&'a mut F>,
    state: State,
    served: u32,
}

impl<F> Driver<'_, F>
where
    F: Future<Output = wasmtime::Result<wasmtime::Result<()>>>,
{
    /// Ready when the instance is to end, with the call that it failed, if it did.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Entered, Failure)>> {
        loop {
            match &mut self.state {
                State::Waiting(next) => {
                    let Ok(job) = ready!(Pin::new(next).poll(cx)) else {
                        return Poll::Ready(None);
                    };
                    let Job { entered, request, answer } = job;
                    self.limits.begin(&entered.call);
                    let call = entered.call.clone();
                    *self.desk.next.lock() = Some(Task { call, request, answer });
                    self.state = State::Serving(entered);
                }
                State::Serving(entered) => {
                    let poll = self.limits.poll_within(&entered.call, self.inside.as_mut(), cx);
                    let failure = match poll {
                        Poll::Pending if self.desk.done.swap(false, Relaxed) => {
                            self.served += 1;
                            if self.served >= self.inner.config.reuse {
                                return Poll::Ready(None);
                            }
                            let (next, job) = oneshot::channel();
                            // Kept before the slot of the function is free: whoever gets the
                            // slot finds the instance.
                            if !self.inner.keep(Idle { next, since: Instant::now() }) {
                                return Poll::Ready(None);
                            }
                            self.state = State::Waiting(job);
                            continue;
                        }
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Err(error)) => Failure::Ended(error),
                        Poll::Ready(Ok(Err(error) | Ok(Err(error)))) => Failure::Guest(error),
                        // The inside goes on for ever.
                        Poll::Ready(Ok(Ok(Ok(())))) => return Poll::Ready(None),
                    };
                    let (_, never) = oneshot::channel();
                    let state = std::mem::replace(&mut self.state, State::Waiting(never));
                    let State::Serving(entered) = state else { return Poll::Ready(None) };
                    return Poll::Ready(Some((entered, failure)));
                }
            }
        }
    }
}

/// One call, inside the instance: from the request to the last byte of the answer.
async fn serve(
    accessor: &Accessor<Guest>,
    proxy: &Proxy,
    Task { call, request, answer }: Task,
) -> wasmtime::Result<()> {
    let (head, mut given) = futures::channel::oneshot::channel();
    let prepared = accessor.with(|mut store| {
        store.data_mut().begin(&call);
        Prepared::new(store.as_context_mut(), proxy, request, Guest::http, head)
    })?;
    // Deadlines are kept outside, where they also stop a guest that never yields.
    prepared.run(accessor, std::future::pending()).await?;
    match given.try_recv() {
        Ok(Some(Ok(response))) => {
            call.answered.store(true, Relaxed);
            if answer.send(Ok(response)).is_ok() {
                call.body_gone.notified().await;
            }
        }
        Ok(Some(Err(error))) => return Err(error),
        Ok(None) | Err(_) => wasmtime::bail!("the guest gave no answer"),
    }
    // The guest may work on after its answer.
    poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
    Ok(())
}
