//! Why a guest ended, told from what it left.

use wasmtime::PoolConcurrencyLimitError;
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::p3::bindings::http::types as p3_types;

use super::{Call, Inner, RETRY_AFTER};
use crate::{error::CallError, guest::Guest};

/// Longest reason that is shown to a caller, in characters.
const REASON_CHARS: usize = 200;

/// Why a call failed that the guest ended with this error. It is noted in the guest's log.
pub(super) fn of_guest(
    inner: &Inner,
    call: &Call,
    guest: &Guest,
    error: &wasmtime::Error,
) -> CallError {
    let verdict = classify(inner, call, guest, error);
    note(guest, &verdict, error);
    verdict
}

/// Why there is no instance.
pub(super) fn of_instantiation(inner: &Inner, guest: &Guest, error: &wasmtime::Error) -> CallError {
    let verdict = if guest.memory.refused {
        CallError::MemoryLimit { limit: inner.config.memory_bytes }
    } else if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        CallError::NodeBusy { retry_after: RETRY_AFTER }
    } else if error.downcast_ref::<wasmtime::Trap>().is_some() {
        CallError::Trap(first_line(error))
    } else {
        CallError::Instantiate(first_line(error))
    };
    note(guest, &verdict, error);
    verdict
}

fn note(guest: &Guest, verdict: &CallError, error: &wasmtime::Error) {
    if !matches!(verdict, CallError::Guest(_)) {
        let code = swarmer_model::Coded::code(verdict);
        guest.log.note(&format!("{code}: {verdict}\n{error:?}"));
    }
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
pub(super) fn first_line(error: &wasmtime::Error) -> String {
    let cause = error.root_cause().to_string();
    cause.lines().next().unwrap_or("unknown").chars().take(REASON_CHARS).collect()
}
