//! One call of one function, from the queue to the last byte of the answer.

mod answer;
mod cpu;
mod fresh;
mod gate;
mod job;
mod verdict;
mod worker;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::task::AtomicWaker;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use swarmer_model::Digest;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;
use wasmtime_wasi_config::WasiConfigVariables;

pub(crate) use self::gate::Gate;
use self::{answer::AnswerBody, cpu::CpuClock, gate::Refused, job::Job, worker::Idle};
use crate::{
    body::Body,
    config::FunctionConfig,
    error::CallError,
    interface::{HandlerKind, Prepared},
    key::{CallContext, FunctionKey, trace_id},
    log::RateBound,
    runtime::Node,
    usage::{Meter, Usage, add},
};

/// What a refused caller is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest wait for one of the node's instance slots: if none becomes free in this time the
/// node is overloaded, and the call is better sent elsewhere.
const SLOT_WAIT: Duration = Duration::from_secs(1);

/// What the caller, the instance and the answer's body know of each other.
pub(crate) struct Call {
    pub(crate) traceparent: Option<Arc<str>>,
    pub(crate) hop: u8,
    pub(crate) trace_id: Option<Arc<str>>,
    pub(crate) deadline: Instant,
    pub(crate) cpu: CpuClock,
    pub(crate) cpu_limit: Duration,
    /// Outgoing requests that are open.
    pub(crate) open: AtomicU64,
    accepted: Instant,
    /// The caller went away.
    cancelled: AtomicBool,
    /// The task that runs the guest, to be woken when the caller goes away.
    runner: AtomicWaker,
    /// Why the call failed. Set before the instance is dropped, so that whoever sees a stream
    /// of it end can tell a whole one from a broken one.
    verdict: OnceLock<CallError>,
    answered: AtomicBool,
    body_gone: Notify,
    reader: AtomicWaker,
}

impl Call {
    pub(crate) fn new(context: &CallContext, accepted: Instant, config: &FunctionConfig) -> Self {
        Self {
            trace_id: context.traceparent.as_deref().and_then(trace_id).map(Arc::from),
            traceparent: context.traceparent.clone(),
            hop: context.hop,
            deadline: context.deadline.min(accepted + config.timeout),
            cpu: CpuClock::default(),
            cpu_limit: config.cpu,
            open: AtomicU64::new(0),
            accepted,
            cancelled: AtomicBool::new(false),
            runner: AtomicWaker::new(),
            verdict: OnceLock::new(),
            answered: AtomicBool::new(false),
            body_gone: Notify::new(),
            reader: AtomicWaker::new(),
        }
    }

    /// The call has failed. The first reason stays.
    pub(crate) fn conclude(&self, error: CallError) {
        let _ = self.verdict.set(error);
        self.reader.wake();
    }

    /// The caller went away: the guest is stopped.
    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.runner.wake();
    }

    /// Whether the caller went away; if not, the task is woken when it does.
    fn poll_cancelled(&self, cx: &std::task::Context<'_>) -> bool {
        self.runner.register(cx.waker());
        self.cancelled.load(Ordering::Acquire)
    }

    /// Why it failed, if it did.
    pub(crate) fn verdict(&self) -> Option<CallError> {
        self.verdict.get().cloned()
    }
}

/// One loaded version of a function.
pub(crate) struct Inner {
    pub(crate) key: FunctionKey,
    pub(crate) digest: Digest,
    pub(crate) config: FunctionConfig,
    pub(crate) vars: Arc<WasiConfigVariables>,
    pub(crate) rate: Arc<Mutex<RateBound>>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) node: Arc<Node>,
    prepared: Arc<Prepared>,
    gate: Gate,
    idle: Mutex<Vec<Idle>>,
    draining: AtomicBool,
    stop: CancellationToken,
    /// Set before `stop` is cancelled.
    stopped: AtomicBool,
}

/// The permits that a call holds while it runs, and the instance it found waiting.
struct Slots {
    function: OwnedSemaphorePermit,
    instance: Instance,
}

enum Instance {
    Fresh(OwnedSemaphorePermit),
    Idle(Idle),
}

/// A function that is ready to be called. Cheap to clone.
#[derive(Clone)]
pub struct Function(Arc<Inner>);

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Function")
            .field("key", &self.0.key)
            .field("digest", &self.0.digest)
            .finish_non_exhaustive()
    }
}

impl Function {
    pub(crate) fn new(
        node: Arc<Node>,
        key: FunctionKey,
        digest: Digest,
        prepared: Arc<Prepared>,
        config: FunctionConfig,
    ) -> Self {
        let vars = config.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        Self(Arc::new(Inner {
            key,
            digest,
            gate: Gate::new(config.concurrency as usize, config.queue as usize),
            config,
            vars: Arc::new(vars),
            rate: Arc::new(Mutex::new(RateBound::new(Instant::now()))),
            meter: Arc::default(),
            node,
            prepared,
            idle: Mutex::default(),
            draining: AtomicBool::new(false),
            stop: CancellationToken::new(),
            stopped: AtomicBool::new(false),
        }))
    }

    /// Which one.
    pub fn key(&self) -> &FunctionKey {
        &self.0.key
    }

    /// The component's digest.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// How it runs.
    pub fn config(&self) -> &FunctionConfig {
        &self.0.config
    }

    /// The handler that it exports.
    pub fn kind(&self) -> HandlerKind {
        self.0.prepared.kind()
    }

    /// What it used since it was loaded.
    pub fn usage(&self) -> Usage {
        self.0.meter.snapshot(self.0.gate.waiting() as u64)
    }

    /// Calls the function.
    ///
    /// Gives the answer's head as soon as the guest has given it; the body streams, with its
    /// trailers, and ends with an error if the guest dies, hangs beyond its deadline or uses up
    /// its limits before it has finished. Dropping this future, and dropping the body before its
    /// end, each stop the guest at once.
    ///
    /// The request needs an absolute URI or a `host` header.
    pub async fn call(
        &self,
        request: http::Request<Body>,
        context: CallContext,
    ) -> Result<http::Response<Body>, CallError> {
        let inner = &self.0;
        let call = Arc::new(Call::new(&context, Instant::now(), &inner.config));
        let admitted = match check_request(&request) {
            Ok(()) => inner.admit(&call).await,
            Err(error) => Err(error),
        };
        let slots = admitted.inspect_err(|_| add(&inner.meter.refused, 1))?;
        let head = request.method() == http::Method::HEAD;
        let (answer, answered) = oneshot::channel();
        let stop_guest = StopGuest(Some(&call));
        let job = Job::new(inner, call.clone(), slots.function, request, answer);
        let guests = &inner.node.guests;
        match (slots.instance, &*inner.prepared) {
            (Instance::Idle(idle), _) => {
                if !idle.give(job) {
                    return Err(CallError::Draining);
                }
            }
            (Instance::Fresh(slot), Prepared::Wasi02(pre)) => {
                guests.spawn(fresh::run(inner.clone(), pre.clone(), job, slot));
            }
            (Instance::Fresh(slot), Prepared::Wasi03(pre)) => {
                guests.spawn(worker::run(inner.clone(), pre.clone(), job, slot));
            }
        }
        let response = match answered.await {
            Ok(answer) => answer?,
            // The instance is gone, and has left word why.
            Err(_) => return Err(call.verdict().unwrap_or(CallError::NoAnswer)),
        };
        stop_guest.disarm();
        let status = response.status();
        let bodyless = head
            || status.is_informational()
            || status == http::StatusCode::NO_CONTENT
            || status == http::StatusCode::NOT_MODIFIED;
        let meter = inner.meter.clone();
        let (head, body) = response.into_parts();
        let mut body = AnswerBody::new(body, call, meter, bodyless);
        body.settle().await;
        Ok(http::Response::from_parts(head, body.boxed_unsync()))
    }

    /// Refuses new calls from now on and lets go of instances that wait for one: they hold the
    /// function, so nothing else would ever free them.
    pub(crate) fn retire(&self) {
        self.0.draining.store(true, Ordering::Release);
        self.0.drop_idle(|_| false);
    }

    /// Ends the calls that run.
    pub(crate) fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.0.stop.cancel();
    }

    /// Refuses new calls from now on, waits for those that run, at most this long, then stops
    /// what is left.
    pub(crate) async fn drain(&self, patience: Duration) {
        self.retire();
        if tokio::time::timeout(patience, self.0.gate.idle()).await.is_err() {
            self.stop();
        }
    }

    /// Drops instances that waited longer than this for a request.
    pub(crate) fn expire_idle(&self, age: Duration) {
        self.0.drop_idle(|idle| idle.age() < age);
    }
}

impl Inner {
    async fn admit(&self, call: &Call) -> Result<Slots, CallError> {
        if self.config.concurrency == 0 {
            return Err(CallError::SwitchedOff);
        }
        if self.draining.load(Ordering::Acquire) {
            return Err(CallError::Draining);
        }
        let function = self.gate.enter(call.deadline).await;
        let function = function.map_err(|refused| match refused {
            Refused::Full | Refused::Late => CallError::Busy {
                running: self.config.concurrency as usize,
                waiting: self.gate.waiting(),
                retry_after: RETRY_AFTER,
            },
        })?;
        if self.draining.load(Ordering::Acquire) {
            return Err(CallError::Draining);
        }
        let idle = self.idle.lock().pop();
        let instance = match idle {
            Some(idle) => {
                self.node.idle_instances.fetch_sub(1, Ordering::Relaxed);
                Instance::Idle(idle)
            }
            None => {
                let until = call.deadline.min(Instant::now() + SLOT_WAIT);
                let slot = self.node.pool.enter(until).await;
                Instance::Fresh(slot.map_err(|refused| match refused {
                    Refused::Full | Refused::Late => {
                        CallError::NodeBusy { retry_after: RETRY_AFTER }
                    }
                })?)
            }
        };
        Ok(Slots { function, instance })
    }

    /// Keeps an instance for the next request, unless that would starve other functions; false
    /// if it is not kept.
    fn keep(&self, idle: Idle) -> bool {
        let most = self.node.pool.limit() / 2;
        // Under the lock: whoever retires the function sees either this instance or none.
        let mut waiting = self.idle.lock();
        if self.draining.load(Ordering::Acquire) {
            return false;
        }
        if self.node.idle_instances.fetch_add(1, Ordering::Relaxed) >= most {
            self.node.idle_instances.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        waiting.push(idle);
        true
    }

    fn drop_idle(&self, keep: impl Fn(&Idle) -> bool) {
        let dropped: Vec<Idle> = {
            let mut idle = self.idle.lock();
            let (stay, go) = std::mem::take(&mut *idle).into_iter().partition(|i| keep(i));
            *idle = stay;
            go
        };
        self.node.idle_instances.fetch_sub(dropped.len(), Ordering::Relaxed);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.drop_idle(|_| false);
    }
}

/// Stops the guest if the call's future is dropped before there is an answer.
struct StopGuest<'a>(Option<&'a Call>);

impl StopGuest<'_> {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for StopGuest<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.0 {
            call.cancel();
        }
    }
}

fn check_request(request: &http::Request<Body>) -> Result<(), CallError> {
    let host = request.headers().get(http::header::HOST).map(http::HeaderValue::to_str);
    match (request.uri().authority(), host) {
        (Some(_), _) | (None, Some(Ok(_))) => Ok(()),
        (None, None) => Err(CallError::BadRequest("it has no host".to_owned())),
        (None, Some(Err(_))) => Err(CallError::BadRequest("its host is no text".to_owned())),
    }
}
