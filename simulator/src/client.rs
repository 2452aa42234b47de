//! Clients: they write, read, ask again, and tell the oracle what they were told.

use std::{sync::Arc, time::Duration};

use rand::{RngExt as _, rngs::StdRng};
use swarmer_model::Revision;
use swarmer_raft::{Event, Expect, Op, Outcome, RaftError, Txn};
use tokio::time::sleep;

use crate::{
    bug::Bug,
    node::Node,
    oracle::{OpId, Told},
    world::World,
};

/// Few, so that clients meet.
const REGISTERS: u64 = 5;
/// Between two operations of a client, in milliseconds.
const PAUSE_MS: (u64, u64) = (10, 160);
/// Deadlines of operations: some too short for what has to be done.
const DEADLINES_MS: [u64; 4] = [15, 400, 1500, 4000];
/// How often an unanswered request is sent again at most.
const SENDS: usize = 4;
/// Every change says by this key which operation made it.
const OP: &str = "op/";

/// The operation that made a change.
pub(crate) fn op_of(events: &[Event]) -> Option<OpId> {
    let event = events.iter().find(|event| event.key.starts_with(OP))?;
    std::str::from_utf8(event.value.as_ref()?).ok()?.parse().ok()
}

/// One client.
pub(crate) struct Client {
    world: Arc<World>,
    number: usize,
    dice: StdRng,
    /// Elements of the set that it has added.
    added: Vec<(String, Revision)>,
}

impl Client {
    pub(crate) fn new(world: Arc<World>, number: usize) -> Self {
        let dice = world.dice();
        Self { world, number, dice, added: Vec::new() }
    }

    /// Works until the world stops it.
    pub(crate) async fn run(mut self) {
        while !self.world.stop.is_cancelled() {
            sleep(Duration::from_millis(self.dice.random_range(PAUSE_MS.0..PAUSE_MS.1))).await;
            let Some(node) = self.node() else { continue };
            match self.dice.random_range(0..10) {
                0..=2 => self.put(&node).await,
                3..=4 => self.compare_and_set(&node).await,
                5 => self.add(&node).await,
                6 => self.delete(&node).await,
                7 => self.transfer(&node).await,
                _ => self.read(&node).await,
            }
        }
    }

    /// Any node that is there.
    fn node(&mut self) -> Option<Arc<Node>> {
        let nodes = self.world.net.nodes();
        (!nodes.is_empty()).then(|| nodes[self.dice.random_range(0..nodes.len())].clone())
    }

    fn register(&mut self) -> String {
        format!("r/{}", self.dice.random_range(0..REGISTERS))
    }

    fn deadline(&mut self) -> Duration {
        Duration::from_millis(DEADLINES_MS[self.dice.random_range(0..DEADLINES_MS.len())])
    }

    async fn put(&mut self, node: &Arc<Node>) {
        let key = self.register();
        self.write(node, |op| Txn::new().put(key, op.to_string())).await;
    }

    async fn compare_and_set(&mut self, node: &Arc<Node>) {
        let key = self.register();
        let expect = seen(node, &key);
        self.write(node, |op| Txn::new().check(&*key, expect).put(&*key, op.to_string())).await;
    }

    /// Two registers together, if neither has changed since they were seen.
    async fn transfer(&mut self, node: &Arc<Node>) {
        let first = self.dice.random_range(0..REGISTERS);
        let keys = [first, (first + 1) % REGISTERS].map(|n| format!("r/{n}"));
        let expect = keys.each_ref().map(|key| seen(node, key));
        self.write(node, |op| {
            let txn = Txn::new().check(&*keys[0], expect[0]).check(&*keys[1], expect[1]);
            txn.put(&*keys[0], op.to_string()).put(&*keys[1], op.to_string())
        })
        .await;
    }

    async fn add(&mut self, node: &Arc<Node>) {
        let mut key = String::new();
        let told = self
            .write(node, |op| {
                key = format!("s/{op}");
                Txn::new().check(&*key, Expect::Absent).put(&*key, "x".repeat(200))
            })
            .await;
        if let Told::Done(revision) = told {
            self.added.push((key, revision));
        }
    }

    async fn delete(&mut self, node: &Arc<Node>) {
        if let Some((key, revision)) = self.added.pop() {
            self.write(node, |_| Txn::new().check(&*key, Expect::At(revision)).delete(key)).await;
        }
    }

    /// Writes, and sends it again under the same id where nobody says what became of it, and
    /// sometimes where somebody did.
    async fn write(&mut self, node: &Arc<Node>, txn: impl FnOnce(OpId) -> Txn) -> Told {
        let op = self.world.oracle.lock().begin(self.world.trace.now(), Vec::new());
        let mut txn = txn(op).put(format!("{OP}{}", self.number), op.to_string());
        txn.request_id = self.dice.random();
        self.world.oracle.lock().writes(op, events_of(&txn));
        let mut node = node.clone();
        let mut told = Told::Unknown;
        let mut unknown = false;
        for send in 0..self.dice.random_range(1..=SENDS) {
            if send > 0 {
                let Some(other) = self.node() else { break };
                node = other;
                if self.world.settings.bug == Some(Bug::FreshRequestId) {
                    txn.request_id = self.dice.random();
                }
            }
            let deadline = self.deadline();
            match node.write(txn.clone(), deadline).await {
                Some(Ok(Outcome::Committed { revision })) => {
                    self.world.oracle.lock().ops[op].answers.push(revision);
                    told = Told::Done(revision);
                }
                Some(Ok(Outcome::Conflict { key, found, revision })) => {
                    told = Told::Conflict { key, found, revision };
                    break;
                }
                Some(Err(error)) if matches!(told, Told::Done(_)) || unknown => drop(error),
                Some(Err(
                    error @ (RaftError::NoQuorum(_)
                    | RaftError::NoLeader { .. }
                    | RaftError::Invalid(_)
                    | RaftError::Full { .. }),
                )) => told = Told::Refused(error.to_string()),
                Some(Err(_)) | None => unknown = true,
            }
            if unknown && !matches!(told, Told::Done(_)) {
                told = Told::Unknown;
            }
            let ask_again = self.dice.random_ratio(1, 4);
            if matches!(told, Told::Done(_)) && !ask_again {
                break;
            }
        }
        if told == Told::Unknown && self.world.settings.bug == Some(Bug::UnknownIsOk) {
            told = Told::Done(node.view().revision() + 1);
        }
        self.end(op, told.clone());
        told
    }

    async fn read(&mut self, node: &Arc<Node>) {
        let keys: Vec<String> = (0..REGISTERS).map(|n| format!("r/{n}")).collect();
        let op = self.world.oracle.lock().begin(self.world.trace.now(), keys.clone());
        let deadline = self.deadline();
        let barrier = match self.world.settings.bug {
            Some(Bug::ReadsWithoutBarrier) => Some(Ok(0)),
            _ => node.read_index(deadline).await,
        };
        let told = match barrier {
            Some(Ok(_)) => {
                let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                let (revision, entries) = node.view().get_many(&keys);
                let values = entries.into_iter().map(|entry| entry.map(|e| (e.revision, e.value)));
                Told::Read(revision, values.collect())
            }
            _ => Told::Unknown,
        };
        self.end(op, told);
    }

    fn end(&self, op: OpId, told: Told) {
        let at = self.world.trace.now();
        let revision = match &told {
            Told::Done(revision) | Told::Read(revision, _) => *revision,
            _ => 0,
        };
        self.world.trace.mix(&[4, self.number as u64, op as u64, revision]);
        self.world.oracle.lock().end(op, at, told);
    }
}

/// What a compare-and-set expects that goes by what a node shows.
fn seen(node: &Node, key: &str) -> Expect {
    node.view().get(key).map_or(Expect::Absent, |entry| Expect::At(entry.revision))
}

/// What a transaction changes when it is made.
fn events_of(txn: &Txn) -> Vec<Event> {
    let event = |op: &Op| match op {
        Op::Put { key, value } => Event { key: key.clone(), value: Some(value.clone()) },
        Op::Delete { key } => Event { key: key.clone(), value: None },
    };
    txn.ops.iter().map(event).collect()
}
