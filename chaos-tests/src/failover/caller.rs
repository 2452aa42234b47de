//! A client that sends a request every 20 ms, whatever became of those before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::judge::{Answer, Sample};
use crate::cluster::{Cluster, Gateway, Port};

/// Between two requests.
const EVERY: Duration = Duration::from_millis(20);
/// How long a request may take; the function's own limit is the same.
pub(super) const DEADLINE: Duration = Duration::from_secs(2);
/// How much longer a client waits for the answer that says that.
const GRACE: Duration = Duration::from_secs(1);
/// Requests of one client at the same time: all of them, if each takes as long as it may.
const MOST: usize = 160;

/// One client at one ingress. Clones are the same one.
#[derive(Clone)]
pub(super) struct Caller {
    cluster: Arc<Cluster>,
    pub(super) node: usize,
    path: Arc<str>,
    began: Instant,
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Caller {
    /// At this node's ingress; times count from `began`.
    pub(super) fn new(cluster: &Arc<Cluster>, node: usize, path: &str, began: Instant) -> Self {
        let (cluster, path) = (Arc::clone(cluster), Arc::from(path));
        let (stop, samples) = (Arc::default(), Arc::default());
        Self { cluster, node, path, began, stop, samples }
    }

    /// Sends until it is stopped, and ends when all it sent is answered or given up.
    pub(super) async fn run(self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let idle: Arc<Mutex<Vec<Gateway>>> = Arc::default();
        let mut open = JoinSet::new();
        while !self.stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            while open.try_join_next().is_some() {}
            if open.len() >= MOST {
                continue;
            }
            let known = idle.lock().pop();
            let gateway = known.unwrap_or_else(|| self.cluster.gateway(self.node, Port::Http));
            let (this, idle) = (self.clone(), Arc::clone(&idle));
            open.spawn(async move {
                let gateway = this.ask(gateway).await;
                idle.lock().push(gateway);
            });
        }
        while open.join_next().await.is_some() {}
    }

    /// It sends nothing more.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the last `count` answers are all by this node.
    pub(super) fn settled_on(&self, node: usize, count: usize) -> bool {
        let samples = self.samples.lock();
        let mut last = samples.iter().rev().take(count);
        samples.len() >= count && last.all(|sample| sample.answer == Answer::Served(node))
    }

    /// Its ingress, and what became of its last requests.
    pub(super) fn last_words(&self) -> String {
        let samples = self.samples.lock();
        let last: Vec<&Answer> =
            samples.iter().rev().take(3).map(|sample| &sample.answer).collect();
        format!("{} {last:?}", self.cluster.name(self.node))
    }

    /// Whether a node outside of `region` answered since.
    pub(super) fn answered_outside(&self, region: &[usize], since_us: u64) -> bool {
        self.samples
            .lock()
            .iter()
            .rev()
            .take_while(|sample| sample.done_us >= since_us)
            .any(|sample| matches!(sample.answer, Answer::Served(by) if !region.contains(&by)))
    }

    /// The requests that are answered or given up, in the order of that.
    pub(super) fn samples(&self) -> Vec<Sample> {
        self.samples.lock().clone()
    }

    async fn ask(&self, mut gateway: Gateway) -> Gateway {
        let sent = self.began.elapsed();
        let reply = gateway.send(Method::GET, &self.path, &[], "", DEADLINE + GRACE).await;
        let answer = match reply {
            Ok(reply) if reply.status == 200 => {
                let by = reply.header("x-swarmer-node");
                let nodes = 0..self.cluster.count();
                match nodes.into_iter().find(|node| &**self.cluster.name(*node) == by) {
                    Some(node) => Answer::Served(node),
                    None => Answer::Failed(format!("200 by {by:?}, which is no node")),
                }
            }
            Ok(reply) => Answer::Failed(format!("{} {}", reply.status, reply.code())),
            Err(lost) => Answer::Failed(format!("{lost:?}")),
        };
        let mut samples = self.samples.lock();
        let done_us = micros(self.began.elapsed());
        samples.push(Sample { sent_us: micros(sent), done_us, answer });
        gateway
    }
}

/// Whole microseconds.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
