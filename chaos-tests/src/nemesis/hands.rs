//! Carries a schedule out on a running cluster.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinSet};

use super::{
    fault::{Fault, Who},
    mark::Mark,
    schedule::Schedule,
    topology::Shape,
};
use crate::{
    cluster::Cluster,
    history::{Action, Recorder},
    workload::{Context, back},
};

/// How long a node that was away may take until it gives what holds now.
const RETURN: Duration = Duration::from_secs(30);

/// A fault as it happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// When it began, on the clock of the history.
    pub from_ns: u64,
    /// When it was healed.
    pub to_ns: u64,
    /// The fault, with whom it struck.
    pub what: String,
    /// The nodes that it struck; empty if it is the network.
    pub nodes: Vec<usize>,
    /// What it counts as.
    pub kind: Mark,
}

/// The faults that struck so far, and the means to strike.
#[derive(Clone)]
pub struct Hands {
    pub(super) cluster: Arc<Cluster>,
    /// The leader as the observer sees it.
    leader: watch::Receiver<Option<usize>>,
    pub(super) recorder: Recorder,
    /// What those who are removed need to go on.
    pub(super) context: Context,
    done: Arc<Mutex<Vec<Done>>>,
    /// Held by whoever goes from node to node with drained restarts: two at once would stop a node
    /// that the other one is starting, which no operator does.
    pub(super) round: Arc<tokio::sync::Mutex<()>>,
}

impl Hands {
    /// What clients should know of is taken down in the recorder of `context`.
    pub fn new(leader: watch::Receiver<Option<usize>>, context: Context) -> Self {
        let (cluster, recorder) = (Arc::clone(&context.cluster), context.recorder.clone());
        let (done, round) = (Arc::default(), Arc::default());
        Self { cluster, leader, recorder, context, done, round }
    }

    /// What happened so far.
    pub fn done(&self) -> Vec<Done> {
        self.done.lock().clone()
    }

    /// Carries out all of it; `began` is the zero of the schedule.
    ///
    /// # Errors
    /// A fault could not be made or healed: the run is worthless.
    pub async fn carry_out(&self, schedule: &Schedule, began: Instant) -> Result<()> {
        let mut open = JoinSet::new();
        for timed in &schedule.0 {
            let at = began + Duration::from_millis(timed.at_ms);
            tokio::time::sleep_until(at.into()).await;
            let (hands, fault) = (self.clone(), timed.fault.clone());
            open.spawn(async move { hands.strike(&fault).await });
        }
        while let Some(struck) = open.join_next().await {
            struck??;
        }
        Ok(())
    }

    pub(super) fn now(&self) -> u64 {
        self.recorder.now()
    }

    pub(super) fn leader(&self) -> usize {
        self.leader.borrow().unwrap_or(0)
    }

    pub(super) fn nodes(&self, who: Who) -> Vec<usize> {
        match who {
            Who::One(node) => vec![node.min(self.cluster.count() - 1)],
            Who::Leader => vec![self.leader()],
            Who::All => (0..self.cluster.count()).collect(),
        }
    }

    async fn strike(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Kill { who, down_ms } => {
                let nodes = self.nodes(*who);
                self.kill(&nodes, *down_ms, &fault.to_string()).await
            }
            Fault::Storm { who, times, each_ms } => {
                for _ in 0..*times {
                    let nodes = self.nodes(*who);
                    self.kill(&nodes, each_ms / 2, &fault.to_string()).await?;
                    sleep(each_ms / 2).await;
                }
                Ok(())
            }
            Fault::Pause { who, for_ms } => {
                let from_ns = self.now();
                let mut nodes = self.nodes(*who);
                nodes.retain(|node| self.cluster.pause(*node));
                sleep(*for_ms).await;
                for node in &nodes {
                    self.cluster.resume(*node);
                    let span = (from_ns, self.now());
                    self.recorder.note(self.cluster.name(*node), Action::Pause, span);
                }
                self.tell(Mark::Pause, from_ns, nodes, fault.to_string());
                Ok(())
            }
            Fault::Partition { shape, for_ms } => {
                let cuts = shape.cuts(self.cluster.count(), self.leader());
                self.cut(cuts, 0, *for_ms, Mark::Cut, fault.to_string()).await
            }
            Fault::Flapping { shape, times, each_ms } => {
                for _ in 0..*times {
                    let cuts = shape.cuts(self.cluster.count(), self.leader());
                    self.cut(cuts, 0, each_ms / 2, Mark::Cut, fault.to_string()).await?;
                    sleep(each_ms / 2).await;
                }
                Ok(())
            }
            Fault::Flaps { shape, beats } => {
                let from_ns = self.now();
                for (cut_ms, calm_ms) in beats {
                    let cuts = shape.cuts(self.cluster.count(), self.leader());
                    let what = format!("cut {shape} for {cut_ms} ms");
                    self.cut(cuts, 0, *cut_ms, Mark::Cut, what).await?;
                    sleep(*calm_ms).await;
                }
                let action = Action::Flapped { cuts: beats.len() as u64 };
                self.recorder.note("any", action, (from_ns, self.now()));
                Ok(())
            }
            Fault::Blackout { nodes, down_ms } => {
                self.kill(nodes, *down_ms, &fault.to_string()).await
            }
            Fault::Return { nodes, cut, for_ms } => {
                self.send_away(nodes, *cut, *for_ms, fault).await
            }
            Fault::Turns { leaves, regions, down_ms, calm_ms } => {
                if let Some(node) = leaves {
                    self.remove(*node).await?;
                    sleep(*calm_ms).await;
                }
                for nodes in regions {
                    self.lose(nodes, *down_ms).await?;
                    sleep(*calm_ms).await;
                }
                Ok(())
            }
            Fault::Pairs { shapes, for_ms, calm_ms } => {
                for shape in shapes {
                    let cuts = shape.cuts(self.cluster.count(), self.leader());
                    let what = format!("cut {shape} for {for_ms} ms");
                    self.cut(cuts, 0, *for_ms, Mark::Cut, what).await?;
                    sleep(*calm_ms).await;
                }
                Ok(())
            }
            Fault::Loss { percent, for_ms } => {
                self.cut([].into(), *percent, *for_ms, Mark::Loss, fault.to_string()).await
            }
            Fault::Amnesia { loss, first, missing_ms, alone_ms } => {
                self.make_forget(*loss, *first, (*missing_ms, *alone_ms), fault).await
            }
            Fault::Revote { first, alone_ms } => self.revote(*first, *alone_ms, fault).await,
            other => self.deed(other).await,
        }
    }

    pub(super) async fn kill(&self, nodes: &[usize], down_ms: u64, what: &str) -> Result<()> {
        let from_ns = self.now();
        let struck: Vec<usize> =
            nodes.iter().copied().filter(|node| self.cluster.kill(*node)).collect();
        sleep(down_ms).await;
        for node in nodes {
            self.cluster.start(*node).await?;
        }
        self.tell(Mark::Kill, from_ns, struck, what.to_owned());
        Ok(())
    }

    /// Takes a whole region away for so long, and says so in the history.
    async fn lose(&self, nodes: &[usize], down_ms: u64) -> Result<()> {
        let from_ns = self.now();
        let struck: Vec<usize> =
            nodes.iter().copied().filter(|node| self.cluster.kill(*node)).collect();
        let gone_ns = self.now();
        sleep(down_ms).await;
        let names = nodes.iter().map(|node| self.cluster.name(*node).to_string()).collect();
        self.recorder.note("any", Action::Lost { nodes: names }, (gone_ns, self.now()));
        for node in nodes {
            self.cluster.start(*node).await?;
        }
        let names: Vec<String> = nodes.iter().map(|node| format!("n{}", node + 1)).collect();
        let what = format!("kill the region of {}, start after {down_ms} ms", names.join(" "));
        self.tell(Mark::Kill, from_ns, struck, what);
        Ok(())
    }

    /// Takes a region away and brings it back with what it knew, until each of its nodes gives what holds
    /// now.
    async fn send_away(
        &self,
        nodes: &[usize],
        cut: bool,
        for_ms: u64,
        fault: &Fault,
    ) -> Result<()> {
        let from_ns = self.now();
        // Before anything happens: what they do not hear of from now on they need not know.
        self.cluster.part(nodes, true);
        let mut struck = Vec::new();
        if cut {
            let shape = Shape::Halves(nodes.to_vec());
            let cuts = shape.cuts(self.cluster.count(), self.leader());
            let id = self.cluster.cut(cuts, 0)?;
            sleep(for_ms).await;
            self.cluster.mend(id)?;
        } else {
            struck = nodes.iter().copied().filter(|node| self.cluster.kill(*node)).collect();
            sleep(for_ms).await;
            for node in nodes {
                self.cluster.start(*node).await?;
            }
        }
        let names = nodes.iter().map(|node| self.cluster.name(*node).to_string()).collect();
        self.recorder.note("any", Action::Lost { nodes: names }, (from_ns, self.now()));
        for node in nodes {
            back(&self.context, *node, RETURN).await;
        }
        self.cluster.part(nodes, false);
        self.tell(fault.mark(), from_ns, struck, fault.to_string());
        Ok(())
    }

    pub(super) async fn cut(
        &self,
        cuts: std::collections::BTreeSet<(usize, usize)>,
        loss: u8,
        for_ms: u64,
        kind: Mark,
        what: String,
    ) -> Result<()> {
        let from_ns = self.now();
        let id = self.cluster.cut(cuts, loss)?;
        sleep(for_ms).await;
        self.cluster.mend(id)?;
        self.tell(kind, from_ns, Vec::new(), what);
        Ok(())
    }

    /// Takes down what struck.
    pub(super) fn tell(&self, kind: Mark, from_ns: u64, nodes: Vec<usize>, what: String) {
        let to_ns = self.now();
        if !kind.is_drained() {
            // Restarts are noted one by one: they promise something of their own.
            self.recorder.note("any", Action::Strike { what: what.clone() }, (from_ns, to_ns));
        }
        self.done.lock().push(Done { from_ns, to_ns, what, nodes, kind });
    }
}

pub(super) async fn sleep(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
