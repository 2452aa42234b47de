//! What stands behind one instance: its limits, its view of the world, its way out.

mod config;
mod hooks;
mod memory;

use std::sync::{Arc, atomic::Ordering::Relaxed};

use wasmtime::{
    AsContextMut, Engine, Store, StoreContextMut, UpdateDeadline,
    component::{Linker, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

pub(crate) use memory::MemoryLimit;

use self::hooks::Hooks;
use crate::{
    call::{Call, Inner},
    error::CallError,
    log::{CallLog, GuestOutput, LogStream},
    usage::add,
};

/// Resources (bodies, streams, headers …) that one instance may hold on the host's side.
/// JavaScript engines hold two for each chunk of a body until the request ends: this is enough
/// for bodies of some gigabytes, and some tens of megabytes at most on the host.
const TABLE_CAPACITY: usize = 500_000;
/// Handles inside the component model that one instance may hold: as many, for the same reason.
const COMPONENT_HANDLES: usize = 500_000;
/// Bytes that a guest may hand to the host in one call.
const HOSTCALL_BYTES: usize = 16 << 20;
/// Size of one set of header fields as it stands in memory.
const FIELDS_BYTES: usize = 128 << 10;
/// Bytes of random numbers that a guest may ask for at once.
const RANDOM_BYTES: u64 = 1 << 20;

/// The data of a store.
pub(crate) struct Guest {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    hooks: Hooks,
    vars: Arc<WasiConfigVariables>,
    /// What it may allocate.
    pub(crate) memory: MemoryLimit,
    /// Its log.
    pub(crate) log: Arc<CallLog>,
    /// The call that it serves now, or served last.
    pub(crate) call: Arc<Call>,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

impl Guest {
    /// The call is over, whichever way: its log is flushed, its memory noted.
    pub(crate) fn end(&mut self) {
        self.hooks.inner.meter.memory_peak_bytes.fetch_max(self.memory.peak, Relaxed);
        if let Some(
            error @ (CallError::Timeout { .. } | CallError::CpuLimit { .. } | CallError::NoAnswer),
        ) = self.call.verdict()
        {
            self.log.note(&format!("{}: {error}", swarmer_model::Coded::code(&error)));
        }
        self.log.end();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end();
    }
}

/// From here on the instance serves this call.
pub(crate) fn begin(mut store: StoreContextMut<'_, Guest>, call: &Arc<Call>) {
    // From now, not from when it last ran: else the guest gave way at once, for nothing.
    store.set_epoch_deadline(1);
    let guest = store.data_mut();
    guest.call = call.clone();
    guest.hooks.call = call.clone();
    guest.log.begin(call.traceparent.clone());
}

/// A store for a fresh instance, with all its limits, that serves this call first.
pub(crate) fn store(inner: &Arc<Inner>, call: &Arc<Call>) -> Store<Guest> {
    let log = Arc::new(CallLog::new(
        inner.key.clone(),
        inner.node.sink.clone(),
        inner.rate.clone(),
        inner.meter.clone(),
    ));
    let mut wasi = WasiCtx::builder();
    // No directory, no socket, no name lookup, no argument: nothing is granted.
    wasi.stdout(GuestOutput::new(log.clone(), LogStream::Stdout))
        .stderr(GuestOutput::new(log.clone(), LogStream::Stderr))
        .max_random_size(RANDOM_BYTES)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false);
    for (name, value) in &inner.config.env {
        wasi.env(name, value);
    }
    let mut http = WasiHttpCtx::new();
    http.set_field_size_limit(FIELDS_BYTES);
    let mut table = ResourceTable::new();
    table.set_max_capacity(TABLE_CAPACITY);
    let guest = Guest {
        wasi: wasi.build(),
        http,
        table,
        hooks: Hooks::new(inner.clone(), call.clone(), log.clone()),
        vars: inner.vars.clone(),
        memory: MemoryLimit::new(inner.config.memory_bytes),
        log,
        call: call.clone(),
    };
    let mut store = Store::new(&inner.node.engine, guest);
    store.limiter(|guest| &mut guest.memory);
    store.set_hostcall_fuel(HOSTCALL_BYTES);
    store.set_max_component_handles(COMPONENT_HANDLES);
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(TABLE_CAPACITY);
    }
    store.epoch_deadline_callback(|store| {
        let call = &store.data().call;
        if call.cpu.spent() > call.cpu_limit {
            call.conclude(CallError::CpuLimit { limit: call.cpu_limit });
            return Ok(UpdateDeadline::Interrupt);
        }
        Ok(UpdateDeadline::Yield(1))
    });
    add(&inner.meter.instances, 1);
    begin(store.as_context_mut(), call);
    store
}

/// Everything that a guest can import.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, |guest: &mut Guest| {
        WasiConfig::from(&*guest.vars)
    })?;
    config::add_draft_to_linker(&mut linker)?;
    Ok(linker)
}
