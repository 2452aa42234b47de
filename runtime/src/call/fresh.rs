//! A `wasi:http` 0.2 call: an instance of its own, from start to end.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::sync::OwnedSemaphorePermit;
use wasmtime::Store;
use wasmtime_wasi_http::{
    WasiBody, WasiHttpView,
    p2::bindings::{ProxyPre, http::types as p2_types},
};

use super::{
    Call, Inner,
    job::{Answer, Job, Limits},
    verdict,
};
use crate::{
    error::CallError,
    guest::{self, Guest},
};

/// Runs the guest to its end, its deadline, or the caller's leave, whichever comes first.
pub(super) async fn run(
    inner: Arc<Inner>,
    pre: ProxyPre<Guest>,
    job: Job,
    slot: OwnedSemaphorePermit,
) {
    let Job { entered, request, answer } = job;
    let call = entered.call.clone();
    let mut limits = Limits::new(&inner, &call);
    let mut store = guest::store(&inner, &call);
    let ended = {
        let mut work = pin!(serve(&inner, &call, &pre, &mut store, request, answer));
        poll_fn(|cx| limits.poll_within(&call, work.as_mut(), cx)).await
    };
    if let Err(error) = ended.flatten() {
        // Before the instance goes: its streams close with it.
        entered.fail(error);
    }
    verdict::finish(&inner, &call, store.data());
    drop(store);
    drop(slot);
}

async fn serve(
    inner: &Inner,
    call: &Arc<Call>,
    pre: &ProxyPre<Guest>,
    store: &mut Store<Guest>,
    request: http::Request<WasiBody>,
    answer: Answer,
) -> Result<(), CallError> {
    let https = request.uri().scheme() == Some(&http::uri::Scheme::HTTPS);
    let scheme = if https { p2_types::Scheme::Https } else { p2_types::Scheme::Http };
    let told = call.clone();
    let mut http = store.data_mut().http();
    let resources = http.new_incoming_request(scheme, request).and_then(|request| {
        let out = http.new_response_outparam_from_callback(move |response| {
            told.answered.store(true, Relaxed);
            // Nobody may wait any more; the guest does not care.
            let _ = answer.send(response.map_err(|code| CallError::Guest(format!("{code:?}"))));
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
        Err(error) => Err(verdict::of_guest(inner, call, store.data(), &error)),
        Ok(()) if !call.answered.load(Relaxed) => Err(CallError::NoAnswer),
        Ok(()) => Ok(()),
    }
}
