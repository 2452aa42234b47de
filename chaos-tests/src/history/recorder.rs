//! Takes down operations while they happen.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;

use super::{Action, Answer, Operation, Outcome};

/// All operations of a run. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    start: Instant,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    next_operation: AtomicU64,
    next_client: AtomicU32,
    done: Mutex<Vec<Operation>>,
    open: Mutex<BTreeMap<u64, Operation>>,
}

/// A client's number; a new one after each unknown outcome.
#[derive(Debug)]
pub struct Client {
    recorder: Recorder,
    number: u32,
}

impl Recorder {
    /// `start` is the zero of its clock.
    pub fn new(start: Instant) -> Self {
        Self { start, shared: Arc::default() }
    }

    /// Nanoseconds since the start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A client that did nothing yet.
    pub fn client(&self) -> Client {
        Client { recorder: self.clone(), number: self.number() }
    }

    fn number(&self) -> u32 {
        self.shared.next_client.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes down what was done to a node, by nobody who goes on.
    pub fn note(&self, node: &str, action: Action, (from_ns, to_ns): (u64, u64)) {
        let id = self.shared.next_operation.fetch_add(1, Ordering::Relaxed);
        self.shared.done.lock().push(Operation {
            id,
            client: self.number(),
            node: node.to_owned(),
            invoked_ns: from_ns,
            completed_ns: to_ns,
            action,
            outcome: Outcome::Ok { answer: Answer::Done { revision: None } },
        });
    }

    /// Everything so far, by the time of invocation. What has not ended is unknown.
    pub fn history(&self) -> Vec<Operation> {
        // In this order everywhere, so that an operation is in one of the two.
        let open = self.shared.open.lock();
        let mut all = self.shared.done.lock().clone();
        let now = self.now();
        all.extend(open.values().map(|open| Operation { completed_ns: now, ..open.clone() }));
        all.sort_by_key(|operation| (operation.invoked_ns, operation.id));
        all
    }
}

impl Client {
    /// Does `work` and takes down what came of it.
    pub async fn does(
        &mut self,
        node: &str,
        action: Action,
        work: impl Future<Output = Outcome>,
    ) -> Outcome {
        let shared = &self.recorder.shared;
        let id = shared.next_operation.fetch_add(1, Ordering::Relaxed);
        let invoked_ns = self.recorder.now();
        let why = "the run ended first".to_owned();
        let operation = Operation {
            id,
            client: self.number,
            node: node.to_owned(),
            invoked_ns,
            completed_ns: invoked_ns,
            action,
            outcome: Outcome::Unknown { why },
        };
        shared.open.lock().insert(id, operation);
        let outcome = work.await;
        let completed_ns = self.recorder.now();
        if let Some(mut operation) = shared.open.lock().remove(&id) {
            operation.completed_ns = completed_ns;
            operation.outcome = outcome.clone();
            shared.done.lock().push(operation);
        }
        if matches!(outcome, Outcome::Unknown { .. }) {
            self.number = self.recorder.number();
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::validate;

    #[tokio::test]
    async fn what_clients_do_is_a_history_whatever_becomes_of_it() {
        let recorder = Recorder::new(Instant::now());
        let mut client = recorder.client();
        let add = |element| Action::Add { element };
        let ok = Outcome::Ok { answer: Answer::Done { revision: None } };
        let unknown = Outcome::Unknown { why: "reset".into() };
        client.does("n1", add(1), async { ok.clone() }).await;
        client.does("n1", add(2), async { unknown.clone() }).await;
        client.does("n1", add(3), async { ok.clone() }).await;
        let mut other = recorder.client();
        let hangs = other.does("n2", add(4), std::future::pending());
        // Dropped in the middle, as at the end of a run.
        assert!(tokio::time::timeout(std::time::Duration::ZERO, hangs).await.is_err());
        recorder.note("n1", Action::Pause, (5, 9));
        let history = recorder.history();
        assert_eq!(history.len(), 5);
        assert_eq!(history[0].completed_ns, 9);
        assert_eq!(history.iter().filter(|op| op.is_ok()).count(), 3);
        assert_ne!(history[2].client, history[3].client, "a new number after unknown");
        validate(&history).unwrap();
    }
}
