//! A `wasi:http` 0.2 call: an instance of its own, from start to end.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::sync::OwnedSemaphorePermit;
use wasmtime::Store;
use wasmtime_wasi_http::{
    WasiHttpView,
    p2::bindings::{ProxyPre, http::types as p2_types},
};

use super::{Inner, entered::Task, verdict};
use crate::{
    error::CallError,
    guest::{self, Guest},
};

/// Starts an instance, which takes this slot of the pool, and serves the call with it.
pub(super) async fn run(
    inner: Arc<Inner>,
    pre: ProxyPre<Guest>,
    task: Task,
    _slot: OwnedSemaphorePermit,
) {
    let call = task.call.clone();
    let mut store = guest::store(&inner, &call);
    if let Err(error) = serve(&inner, &pre, &mut store, task).await {
        // Before the instance goes: its streams close with it.
        inner.fail(&call, error);
    }
}

async fn serve(
    inner: &Inner,
    pre: &ProxyPre<Guest>,
    store: &mut Store<Guest>,
    Task { call, request }: Task,
) -> Result<(), CallError> {
    let https = request.uri().scheme() == Some(&http::uri::Scheme::HTTPS);
    let scheme = if https { p2_types::Scheme::Https } else { p2_types::Scheme::Http };
    let asked = call.clone();
    let mut http = store.data_mut().http();
    let resources = http.new_incoming_request(scheme, request).and_then(|request| {
        let out = http.new_response_outparam_from_callback(move |response| {
            asked.answer(response.map_err(|code| CallError::Guest(format!("{code:?}"))));
        })?;
        Ok((request, out))
    });
    let (request, out) =
        resources.map_err(|error| CallError::BadRequest(verdict::first_line(&error)))?;
    let proxy = match pre.instantiate_async(&mut *store).await {
        Ok(proxy) => proxy,
        Err(error) => return Err(verdict::of_instantiation(inner, store.data(), &error)),
    };
    let handled = proxy.wasi_http_incoming_handler().call_handle(&mut *store, request, out).await;
    match handled {
        Err(error) => Err(verdict::of_guest(inner, &call, store.data(), &error)),
        Ok(()) if !call.answered.load(Relaxed) => Err(CallError::NoAnswer),
        Ok(()) => Ok(()),
    }
}
