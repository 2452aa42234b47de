//! The guest's side of a call, on the guests' threads.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::{AsContextMut, PoolConcurrencyLimitError, Store};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::{
    Error, WasiBody, WasiHttpView,
    handler::{Prepared as Started, Proxy},
    p2::bindings::{ProxyPre, http::types as p2_types},
    p3::bindings::{ServicePre, http::types as p3_types},
};

use super::{Call, Inner, Instance, RETRY_AFTER, Slots, cpu::Metered};
use crate::{
    body::Body,
    error::CallError,
    guest::{self, Guest},
    interface::Prepared,
    usage::add,
};

/// Longest reason that is shown to a caller, in characters.
const REASON_CHARS: usize = 200;

pub(super) type Answer = oneshot::Sender<Result<http::Response<WasiBody>, CallError>>;

/// A 0.3 instance between two requests. It keeps its slot of the pool.
pub(super) struct Idle {
    store: Store<Guest>,
    proxy: Arc<Proxy>,
    slot: OwnedSemaphorePermit,
    served: u32,
    since: Instant,
}

impl Idle {
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }
}

/// Runs the guest to its end, its deadline, or the caller's leave, whichever comes first.
pub(super) async fn run(
    inner: Arc<Inner>,
    call: Arc<Call>,
    slots: Slots,
    request: http::Request<Body>,
    answer: Answer,
) {
    let Slots { _function: function, instance } = slots;
    let _ticking = inner.node.ticker.running();
    let meter = inner.meter.clone();
    add(&meter.requests, 1);
    let _running = Count::new(&meter.running);
    let started = Instant::now();

    let request = incoming(request, &inner);
    let work = {
        let (inner, call) = (inner.clone(), call.clone());
        async move {
            match &*inner.prepared.clone() {
                Prepared::Wasi02(pre) => {
                    serve_02(&inner, &call, pre, instance, request, answer).await
                }
                Prepared::Wasi03(pre) => {
                    serve_03(&inner, &call, pre, instance, request, answer).await
                }
            }
        }
    };
    let mut work = Box::pin(work);
    let failure = {
        let mut metered = pin!(Metered { inner: work.as_mut(), call: &call });
        tokio::select! {
            biased;
            done = &mut metered => done.err(),
            () = call.cancel.cancelled() => Some(CallError::Cancelled),
            () = inner.stop.cancelled() => {
                Some(CallError::Trap("the version was unloaded before the answer was whole".into()))
            }
            () = tokio::time::sleep_until(call.deadline.into()) => {
                Some(CallError::Timeout { after: call.accepted.elapsed() })
            }
        }
    };
    if let Some(error) = failure {
        match &error {
            CallError::Cancelled => add(&meter.cancelled, 1),
            _ => add(&meter.failed, 1),
        }
        // Before the instance goes: its streams close with it.
        call.conclude(error);
    }
    drop(work);
    add(&meter.cpu_ns, call.cpu.done_ns());
    add(&meter.wall_ns, u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
    drop(function);
}

/// The request as a guest sees it, its bytes counted.
fn incoming(request: http::Request<Body>, inner: &Arc<Inner>) -> http::Request<WasiBody> {
    let meter = inner.meter.clone();
    request.map(|body| {
        body.map_frame(move |frame: Frame<Bytes>| {
            if let Some(data) = frame.data_ref() {
                add(&meter.bytes_in, data.len() as u64);
            }
            frame
        })
        .map_err(|_| Error::ConnectionTerminated)
        .boxed_unsync()
    })
}

/// What must happen however an instance ends: its log is flushed, its memory noted.
struct Scope<'a> {
    inner: &'a Inner,
    call: &'a Call,
    store: Option<Store<Guest>>,
}

impl Scope<'_> {
    fn store(&mut self) -> &mut Store<Guest> {
        self.store.as_mut().expect("taken only at the end")
    }

    /// Turns the end of a guest into the call's verdict.
    fn fail(&mut self, error: &wasmtime::Error) -> CallError {
        let guest = self.store.as_ref().expect("taken only at the end").data();
        let verdict = classify(self.inner, self.call, guest, error);
        if !matches!(verdict, CallError::Guest(_)) {
            let code = swarmer_model::Coded::code(&verdict);
            guest.log.note(&format!("{code}: {verdict}\n{error:?}"));
        }
        self.call.conclude(verdict.clone());
        verdict
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        if let Some(store) = &self.store {
            finish(self.inner, self.call, store.data());
        }
    }
}

fn finish(inner: &Inner, call: &Call, guest: &Guest) {
    inner.meter.memory_peak_bytes.fetch_max(guest.memory.peak, Relaxed);
    if let Some(error @ (CallError::Timeout { .. } | CallError::CpuLimit { .. })) = call.verdict() {
        guest.log.note(&format!("{}: {error}", swarmer_model::Coded::code(&error)));
    }
    guest.log.end();
}

fn classify(inner: &Inner, call: &Call, guest: &Guest, error: &wasmtime::Error) -> CallError {
    if let Some(verdict) = call.verdict() {
        return verdict;
    }
    if let Some(code) = error.downcast_ref::<p3_types::ErrorCode>() {
        return CallError::Guest(format!("{code:?}"));
    }
    if guest.memory.refused {
        return CallError::MemoryLimit { limit: inner.config.memory_bytes };
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return CallError::Trap(format!("the guest exited with status {}", exit.0));
    }
    CallError::Trap(first_line(error))
}

/// The cause in one line: what a caller may see.
fn first_line(error: &wasmtime::Error) -> String {
    let cause = error.root_cause().to_string();
    cause.lines().next().unwrap_or("unknown").chars().take(REASON_CHARS).collect()
}

fn instantiate_error(inner: &Inner, guest: &Guest, error: &wasmtime::Error) -> CallError {
    if guest.memory.refused {
        return CallError::MemoryLimit { limit: inner.config.memory_bytes };
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return CallError::NodeBusy { retry_after: RETRY_AFTER };
    }
    if error.downcast_ref::<wasmtime::Trap>().is_some() {
        return CallError::Trap(first_line(error));
    }
    CallError::Instantiate(first_line(error))
}

fn fresh<'a>(inner: &'a Arc<Inner>, call: &'a Arc<Call>) -> Scope<'a> {
    add(&inner.meter.instances, 1);
    let mut store = guest::store(inner, call);
    store.data_mut().begin(call);
    Scope { inner, call, store: Some(store) }
}

async fn serve_02(
    inner: &Arc<Inner>,
    call: &Arc<Call>,
    pre: &ProxyPre<Guest>,
    instance: Instance,
    request: http::Request<WasiBody>,
    answer: Answer,
) -> Result<(), CallError> {
    let mut scope = fresh(inner, call);
    let https = request.uri().scheme() == Some(&http::uri::Scheme::HTTPS);
    let scheme = if https { p2_types::Scheme::Https } else { p2_types::Scheme::Http };
    let told = call.clone();
    let mut http = scope.store().data_mut().http();
    let resources = http.new_incoming_request(scheme, request).and_then(|request| {
        let out = http.new_response_outparam_from_callback(move |response| {
            told.answered.store(true, Relaxed);
            // Nobody may wait any more; the guest does not care.
            let _ = answer.send(response.map_err(|code| CallError::Guest(format!("{code:?}"))));
        })?;
        Ok((request, out))
    });
    let (request, out) = match resources {
        Ok(resources) => resources,
        Err(error) => {
            let error = CallError::BadRequest(first_line(&error));
            call.conclude(error.clone());
            return Err(error);
        }
    };
    let proxy = match pre.instantiate_async(scope.store()).await {
        Ok(proxy) => proxy,
        Err(error) => {
            call.conclude(instantiate_error(inner, scope.store().data(), &error));
            return Err(scope.fail(&error));
        }
    };
    let handled = proxy.wasi_http_incoming_handler().call_handle(scope.store(), request, out).await;
    match handled {
        Err(error) => return Err(scope.fail(&error)),
        Ok(()) if !call.answered.load(Relaxed) => {
            call.conclude(CallError::NoAnswer);
            return Err(CallError::NoAnswer);
        }
        Ok(()) => {}
    }
    drop(scope);
    drop(instance);
    Ok(())
}

async fn serve_03(
    inner: &Arc<Inner>,
    call: &Arc<Call>,
    pre: &ServicePre<Guest>,
    instance: Instance,
    request: http::Request<WasiBody>,
    answer: Answer,
) -> Result<(), CallError> {
    let (mut scope, proxy, slot, served) = match instance {
        Instance::Idle(idle) => {
            let Idle { mut store, proxy, slot, served, .. } = *idle;
            store.data_mut().begin(call);
            (Scope { inner, call, store: Some(store) }, proxy, slot, served)
        }
        Instance::Fresh(slot) => {
            let mut scope = fresh(inner, call);
            match pre.instantiate_async(scope.store()).await {
                Ok(service) => (scope, Arc::new(Proxy::P3(service)), slot, 0),
                Err(error) => {
                    call.conclude(instantiate_error(inner, scope.store().data(), &error));
                    return Err(scope.fail(&error));
                }
            }
        }
    };
    let conversation = scope.store().run_concurrent(async |accessor| {
        let (head, mut given) = futures::channel::oneshot::channel();
        let started = accessor.with(|mut store| {
            Started::new(store.as_context_mut(), &proxy, request, Guest::http, head)
        })?;
        // Deadlines are kept outside, where they also stop a guest that never yields.
        started.run(accessor, std::future::pending()).await?;
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
        wasmtime::error::Ok(())
    });
    if let Err(error) = conversation.await.flatten() {
        return Err(scope.fail(&error));
    }
    let store = scope.store.take().expect("only taken here");
    finish(inner, call, store.data());
    let served = served + 1;
    if served < inner.config.reuse {
        inner.keep(Idle { store, proxy, slot, served, since: Instant::now() });
    }
    Ok(())
}

/// Counts something for as long as it lives.
struct Count<'a>(&'a std::sync::atomic::AtomicU64);

impl<'a> Count<'a> {
    fn new(counter: &'a std::sync::atomic::AtomicU64) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(counter)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
