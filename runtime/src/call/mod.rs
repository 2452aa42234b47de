//! One call of one function, from the queue to the last byte of the answer.

mod answer;
mod cpu;
mod entered;
mod fresh;
mod gate;
mod instance;
mod limits;
mod verdict;
mod worker;

use std::{
    future::poll_fn,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use futures::task::AtomicWaker;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use swarmer_model::Digest;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::WasiBody;

pub(crate) use self::gate::Gate;
use self::{
    answer::AnswerBody,
    cpu::CpuClock,
    entered::{Entered, Task},
    gate::Refused,
    instance::{Instance, Turn},
};
use crate::{
    body::Body,
    config::FunctionConfig,
    error::CallError,
    interface::{HandlerKind, Prepared},
    key::{CallContext, FunctionKey},
    log::RateBound,
    runtime::Node,
    usage::{Meter, Usage, add},
};

/// What a refused caller is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest wait for one of the node's instance slots: if none becomes free in this time the
/// node is overloaded, and the call is better sent elsewhere.
const SLOT_WAIT: Duration = Duration::from_secs(1);

type Head = Result<http::Response<WasiBody>, CallError>;

/// What the caller, the instance and the answer's body know of each other.
pub(crate) struct Call {
    pub(crate) traceparent: Option<Arc<str>>,
    pub(crate) hop: u8,
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
    /// The answer's head, from when the guest gave it until it is taken.
    head: Mutex<Option<Head>>,
    /// The guest has given a head.
    answered: AtomicBool,
    body_gone: Notify,
    reader: AtomicWaker,
}

impl Call {
    pub(crate) fn new(context: &CallContext, accepted: Instant, config: &FunctionConfig) -> Self {
        Self {
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
            head: Mutex::default(),
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

    /// The guest gives the answer's head. To be called while the guest is polled: whoever polls it
    /// looks for the head.
    fn answer(&self, head: Head) {
        self.answered.store(true, Ordering::Relaxed);
        *self.head.lock() = Some(head);
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
    /// Instances that wait for a call.
    #[expect(clippy::vec_box, reason = "each goes to its calls and back: a pointer moves faster")]
    idle: Mutex<Vec<Box<Instance>>>,
    draining: AtomicBool,
    stop: CancellationToken,
}

/// What a call holds while it runs: its slot of the function, and an instance or the slot of one.
struct Slots {
    function: OwnedSemaphorePermit,
    instance: Found,
}

enum Found {
    Slot(OwnedSemaphorePermit),
    Waiting(Box<Instance>),
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

    /// Waits for the call's turn: a slot of the function, and an instance or room for one.
    ///
    /// An error means that nothing was started, so that the call may be sent elsewhere.
    pub async fn admit(&self, context: CallContext) -> Result<Admitted, CallError> {
        let inner = &self.0;
        let call = Arc::new(Call::new(&context, Instant::now(), &inner.config));
        let admitted = inner.admit(&call).await;
        let slots = admitted.inspect_err(|_| add(&inner.meter.refused, 1))?;
        Ok(Admitted { function: self.clone(), call, slots })
    }

    /// Calls the function: [`admit`](Self::admit), then [`Admitted::call`].
    pub async fn call(
        &self,
        request: http::Request<Body>,
        context: CallContext,
    ) -> Result<http::Response<Body>, CallError> {
        self.admit(context).await?.call(request).await
    }

    /// Refuses new calls from now on and lets go of instances that wait for one: they hold the
    /// function, so nothing else would ever free them.
    pub(crate) fn retire(&self) {
        self.0.draining.store(true, Ordering::Release);
        self.0.drop_idle(|_| false);
    }

    /// Ends the calls that run.
    pub(crate) fn stop(&self) {
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

/// A call that has all it needs to start. Dropping it gives that back.
pub struct Admitted {
    function: Function,
    call: Arc<Call>,
    slots: Slots,
}

impl std::fmt::Debug for Admitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admitted").field("function", &self.function).finish_non_exhaustive()
    }
}

impl Admitted {
    /// Hands the request to the guest.
    ///
    /// Gives the answer's head as soon as the guest has given it; the body streams, with its
    /// trailers, and ends with an error if the guest dies, hangs beyond its deadline or uses up
    /// its limits before it has finished. Dropping this future, and dropping the body before its
    /// end, each stop the guest at once.
    ///
    /// The request needs an absolute URI or a `host` header. On one of the guests' threads the
    /// guest runs as a part of this future; from elsewhere it gets a task there.
    pub fn call(
        self,
        request: http::Request<Body>,
    ) -> impl Future<Output = Result<http::Response<Body>, CallError>> + Send + use<> {
        let refused = &self.function.0.meter.refused;
        let checked = check_request(&request).inspect_err(|_| add(refused, 1));
        // Before the future: what it does not keep it need not have room for.
        let started = checked.map(|()| Started::new(self, request));
        async move {
            let started = started?;
            let guests = started.inner.node.guests.clone();
            if tokio::runtime::Handle::current().id() == guests.id() {
                return started.drive().await;
            }
            let driven = AbortOnDropHandle::new(guests.spawn(started.drive()));
            // It is cut off when the threads are shut down.
            driven.await.unwrap_or(Err(CallError::Draining))
        }
    }
}

/// A call with its instance.
struct Started {
    inner: Arc<Inner>,
    call: Arc<Call>,
    instance: Box<Instance>,
    /// The answer's body will not be sent.
    head_only: bool,
}

impl Started {
    fn new(admitted: Admitted, request: http::Request<Body>) -> Self {
        let Admitted { function: Function(inner), call, slots } = admitted;
        let head_only = request.method() == http::Method::HEAD;
        let entered = Entered::new(&inner, call.clone(), slots.function);
        let task = Task::new(&inner, call.clone(), request);
        let instance = match slots.instance {
            Found::Slot(slot) => Box::new(Instance::new(&inner, slot, entered, task)),
            Found::Waiting(mut instance) => {
                instance.give(entered, task);
                instance
            }
        };
        Self { inner, call, instance, head_only }
    }

    /// Drives the guest up to the answer's head, and a little further: see
    /// [`AnswerBody::settle`].
    async fn drive(self) -> Result<http::Response<Body>, CallError> {
        let Self { inner, call, mut instance, head_only } = self;
        let head = poll_fn(|cx| {
            let turn = instance.poll_guest(cx);
            if let Some(head) = call.head.lock().take() {
                return Poll::Ready(head);
            }
            if turn == Turn::Working && instance.poll_limits(cx).is_pending() {
                return Poll::Pending;
            }
            Poll::Ready(Err(call.verdict().unwrap_or(CallError::NoAnswer)))
        });
        let (head, body) = match head.await {
            Ok(response) => response.into_parts(),
            Err(error) => {
                // The guest's own error does not end the guest, which has nothing left to do.
                instance.fail(error.clone());
                return Err(error);
            }
        };
        let bodyless = head_only
            || head.status.is_informational()
            || head.status == http::StatusCode::NO_CONTENT
            || head.status == http::StatusCode::NOT_MODIFIED;
        let mut body = AnswerBody::new(body, call, inner.meter.clone(), bodyless);
        poll_fn(|cx| {
            body.settle(cx, |cx| instance.poll_guest(cx));
            Poll::Ready(())
        })
        .await;
        // Nothing has left yet: an error is a better answer than one that breaks off.
        if let Some(error) = body.failed_early() {
            return Err(error);
        }
        if head.status.is_server_error() {
            add(&inner.meter.errors, 1);
        }
        instance.go_on();
        Ok(http::Response::from_parts(head, body.boxed_unsync()))
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
                Found::Waiting(idle)
            }
            None => {
                let until = call.deadline.min(Instant::now() + SLOT_WAIT);
                let slot = self.node.pool.enter(until).await;
                Found::Slot(slot.map_err(|refused| match refused {
                    Refused::Full | Refused::Late => {
                        CallError::NodeBusy { retry_after: RETRY_AFTER }
                    }
                })?)
            }
        };
        Ok(Slots { function, instance })
    }

    /// The call has failed, and this is why. The first reason stays.
    fn fail(&self, call: &Call, error: CallError) {
        let meter = &self.meter;
        let cancelled = matches!(error, CallError::Cancelled);
        add(if cancelled { &meter.cancelled } else { &meter.failed }, 1);
        call.conclude(error);
    }

    /// Keeps an instance for the next request, unless that would starve other functions.
    fn keep(&self, instance: Box<Instance>) {
        let most = self.node.pool.limit() / 2;
        // Under the lock: whoever retires the function sees either this instance or none.
        let mut waiting = self.idle.lock();
        if self.draining.load(Ordering::Acquire) {
            return;
        }
        if self.node.idle_instances.fetch_add(1, Ordering::Relaxed) >= most {
            self.node.idle_instances.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        waiting.push(instance);
    }

    fn drop_idle(&self, keep: impl Fn(&Instance) -> bool) {
        let dropped: Vec<Box<Instance>> = {
            let mut idle = self.idle.lock();
            let (stay, go) = std::mem::take(&mut *idle).into_iter().partition(|i| keep(i));
            *idle = stay;
            go
        };
        self.node.idle_instances.fetch_sub(dropped.len(), Ordering::Relaxed);
    }
}

/// Whether a request can be handed to a function, on whatever node.
///
/// # Errors
/// [`CallError::BadRequest`].
pub fn check_request<B>(request: &http::Request<B>) -> Result<(), CallError> {
    if request.uri().authority().is_some() {
        return Ok(());
    }
    let why = match request.headers().get(http::header::HOST) {
        None => "it has no host",
        Some(host) if host.is_empty() => return Ok(()),
        Some(host) => match host.to_str().map(str::parse::<http::uri::Authority>) {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => "its host is no name with a port",
            Err(_) => "its host is no text",
        },
    };
    Err(CallError::BadRequest(why.to_owned()))
}
