//! A `wasi:http` 0.3 instance: it serves one call after another.
//!
//! One at a time, so that CPU time, log and end of a call are its own. Between two calls the
//! guest stands still: whatever it left to be done later goes on with the next call.

use std::{
    convert::Infallible,
    future::poll_fn,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
};

use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{AsContextMut, component::Accessor};
use wasmtime_wasi_http::{
    WasiHttpView,
    handler::{Prepared, Proxy},
    p3::bindings::ServicePre,
};

use super::{Inner, entered::Task, instance::Desk, verdict};
use crate::guest::{self, Guest};

/// Starts an instance, which takes this slot of the pool, and serves this call and what else is
/// laid on the desk. Ends when the guest dies.
pub(super) async fn run(
    inner: Arc<Inner>,
    pre: ServicePre<Guest>,
    first: Task,
    desk: Arc<Desk>,
    _slot: OwnedSemaphorePermit,
) {
    let mut store = guest::store(&inner, &first.call);
    let proxy = match pre.instantiate_async(&mut store).await {
        Ok(service) => Proxy::P3(service),
        Err(error) => {
            let error = verdict::of_instantiation(&inner, store.data(), &error);
            return inner.fail(&first.call, error);
        }
    };
    *desk.next.lock() = Some(first);
    let ended = store.run_concurrent(async |accessor| {
        loop {
            // Whoever lays a call there polls this.
            let next = poll_fn(|_| desk.next.lock().take().map_or(Poll::Pending, Poll::Ready));
            serve(accessor, &proxy, next.await).await?;
            accessor.with(|mut store| store.data_mut().end());
            desk.done.store(true, Relaxed);
        }
    });
    let ended: wasmtime::Result<wasmtime::Result<Infallible>> = ended.await;
    let (Err(error) | Ok(Err(error))) = ended;
    let guest = store.data();
    // Before the instance goes: its streams close with it.
    inner.fail(&guest.call, verdict::of_guest(&inner, &guest.call, guest, &error));
}

/// One call, inside the instance: from the request to the last byte of the answer.
async fn serve(
    accessor: &Accessor<Guest>,
    proxy: &Proxy,
    Task { call, request }: Task,
) -> wasmtime::Result<()> {
    let (head, mut given) = futures::channel::oneshot::channel();
    let prepared = accessor.with(|mut store| {
        guest::begin(store.as_context_mut(), &call);
        Prepared::new(store.as_context_mut(), proxy, request, Guest::http, head)
    })?;
    // Deadlines are kept outside, where they also stop a guest that never yields.
    prepared.run(accessor, std::future::pending()).await?;
    match given.try_recv() {
        Ok(Some(Ok(response))) => {
            call.answer(Ok(response));
            call.body_gone.notified().await;
        }
        Ok(Some(Err(error))) => return Err(error),
        Ok(None) | Err(_) => wasmtime::bail!("the guest gave no answer"),
    }
    // The guest may work on after its answer.
    poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
    Ok(())
}
