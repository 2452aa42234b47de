//! The HTTP API of a node: JSON under `/v1`, health, metrics.
//!
//! It listens before the node is a member, so that whoever waits for the node can ask what it
//! waits for. One table, [`router::endpoints`], holds every path with who may call it and how
//! long it may take; router, access control and the OpenAPI document are made from it.

mod artifacts;
mod audit_log;
mod auth;
mod doctor;
mod functions;
mod keys;
mod leases;
mod members;
mod metrics;
mod nodes;
mod openapi;
mod regions;
mod reply;
mod request;
mod router;
mod server;
mod tokens;
mod watch;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::RwLock;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Context,
    codes,
    problem::{Outcome, Problem},
};

pub(crate) use server::serve;

/// The most watches at once: each holds a connection and a task.
const MAX_WATCHERS: usize = 1_000;

/// The member, once it is one; until then what it waits for.
#[derive(Default)]
pub(crate) struct OnceContext {
    context: OnceLock<Arc<Context>>,
    stage: RwLock<String>,
}

impl OnceContext {
    /// From now on the API serves this member. Only the first call counts.
    pub(crate) fn set(&self, context: Arc<Context>) {
        if self.context.set(context).is_ok() {
            self.stage.write().clear();
        }
    }

    /// The member, if the node is one yet.
    pub(crate) fn get(&self) -> Option<Arc<Context>> {
        self.context.get().cloned()
    }

    /// Says what the node waits for, or why it stops being ready; empty for nothing.
    pub(crate) fn set_stage(&self, stage: String) {
        *self.stage.write() = stage;
    }

    /// What the node waits for.
    pub(crate) fn stage(&self) -> String {
        self.stage.read().clone()
    }
}

/// What all handlers share.
pub(crate) struct Api {
    context: Arc<OnceContext>,
    /// Whether no token is needed.
    open: bool,
    watchers: Arc<Semaphore>,
    /// Watches that were told to list again because they fell behind the history.
    behind: AtomicU64,
    /// Connections broken off because their clients took nothing.
    stalled: Arc<AtomicU64>,
    /// Ends answers that would go on for ever.
    shutdown: CancellationToken,
}

impl Api {
    pub(crate) fn new(context: Arc<OnceContext>, open: bool, shutdown: CancellationToken) -> Self {
        Self {
            context,
            open,
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
            behind: AtomicU64::new(0),
            stalled: Arc::default(),
            shutdown,
        }
    }

    /// The member, or what the node waits for.
    pub(crate) fn member(&self) -> Outcome<Arc<Context>> {
        self.context.get().ok_or_else(|| {
            let stage = self.context.stage();
            let stage = if stage.is_empty() { "the node is starting".to_owned() } else { stage };
            Problem::new(codes::NOT_READY, stage).retry_after(1)
        })
    }

    /// How many watches are open.
    fn watching(&self) -> usize {
        MAX_WATCHERS - self.watchers.available_permits()
    }

    /// How many were told to list again, and how many connections were broken off because nobody
    /// read them.
    fn cut(&self) -> (u64, u64) {
        (self.behind.load(Ordering::Relaxed), self.stalled.load(Ordering::Relaxed))
    }

    /// Why the node is not ready; none if it is.
    fn not_ready(&self) -> Option<Problem> {
        let context = match self.member() {
            Ok(context) => context,
            Err(problem) => return Some(problem),
        };
        let stage = self.context.stage();
        let why = context
            .not_ready()
            .map(str::to_owned)
            .or_else(|| (!stage.is_empty()).then_some(stage))?;
        Some(Problem::new(codes::NOT_READY, why).retry_after(1))
    }

    /// This node's name in problem documents; empty until it is a member.
    fn node_name(&self) -> String {
        self.context.get().map(|context| context.name.clone()).unwrap_or_default()
    }
}

/// Milliseconds since 1970 by this node's clock.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time in milliseconds since 1970 as RFC 3339 has it.
fn rfc3339(ms: u64) -> String {
    // Later than humantime can write is as good as never.
    const LAST_MS: u64 = 253_402_300_799_000;
    let time = UNIX_EPOCH + std::time::Duration::from_millis(ms.min(LAST_MS));
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_never_panic() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.000Z");
    }

    #[test]
    fn the_stage_is_told_until_the_node_is_a_member() {
        let context = Arc::new(OnceContext::default());
        context.set_stage("waiting for a leader".into());
        let api = Api::new(context, true, CancellationToken::new());
        let problem = api.not_ready().unwrap();
        assert_eq!(problem.code, codes::NOT_READY);
        assert_eq!(problem.detail, "waiting for a leader");
    }
}
