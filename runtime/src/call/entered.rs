//! A call that was let in, and what it uses of its function until it is over.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime_wasi_http::{Error, WasiBody};

use super::{Call, Inner};
use crate::{body::Body, engine::Running, usage::add};

/// A call that holds its slot of the function. What it used is counted when it is dropped.
pub(super) struct Entered {
    pub(super) call: Arc<Call>,
    inner: Arc<Inner>,
    started: Instant,
    _ticking: Running,
    _permit: OwnedSemaphorePermit,
}

impl Entered {
    pub(super) fn new(inner: &Arc<Inner>, call: Arc<Call>, permit: OwnedSemaphorePermit) -> Self {
        add(&inner.meter.requests, 1);
        add(&inner.meter.running, 1);
        Self {
            call,
            inner: inner.clone(),
            started: Instant::now(),
            _ticking: inner.node.ticker.running(),
            _permit: permit,
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let meter = &self.inner.meter;
        meter.running.fetch_sub(1, Relaxed);
        add(&meter.cpu_ns, self.call.cpu.done_ns());
        let wall = self.started.elapsed().as_nanos();
        add(&meter.wall_ns, u64::try_from(wall).unwrap_or(u64::MAX));
    }
}

/// A call as the guest gets it.
pub(super) struct Task {
    pub(super) call: Arc<Call>,
    pub(super) request: http::Request<WasiBody>,
}

impl Task {
    pub(super) fn new(inner: &Inner, call: Arc<Call>, request: http::Request<Body>) -> Self {
        let meter = inner.meter.clone();
        let request = request.map(|body| {
            if body.is_end_stream() {
                return http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
            }
            body.map_frame(move |frame: Frame<bytes::Bytes>| {
                if let Some(data) = frame.data_ref() {
                    add(&meter.bytes_in, data.len() as u64);
                }
                frame
            })
            .map_err(|_| Error::ConnectionTerminated)
            .boxed_unsync()
        });
        Self { call, request }
    }
}
