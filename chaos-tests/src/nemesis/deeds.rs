//! The hands for power, disks, wires, clocks and drained restarts.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{
    fault::Fault,
    hands::{Hands, sleep},
    mark::Mark,
};
use crate::{
    cluster::{Ill, Quality},
    history::Action,
};

/// How long a node may take to stop when it is asked to: what its functions may take to finish (10 s),
/// its listeners (10 s), and handing over, on a busy machine.
const STOP: Duration = Duration::from_secs(30);
/// How long a node may take to be ready again before the next one is restarted.
const READY: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK_MS: u64 = 20;

impl Hands {
    pub(super) async fn deed(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Power { who, down_ms } => {
                self.cut_power(&self.nodes(*who), *down_ms, fault).await
            }
            Fault::Brownout { who, times, each_ms } => {
                for _ in 0..*times {
                    self.cut_power(&self.nodes(*who), each_ms / 2, fault).await?;
                    sleep(each_ms / 2).await;
                }
                Ok(())
            }
            Fault::Relapse { who, up_ms, down_ms } => {
                let nodes = self.nodes(*who);
                self.kill(&nodes, 0, &fault.to_string()).await?;
                sleep(*up_ms).await;
                self.cut_power(&nodes, *down_ms, fault).await
            }
            Fault::Full { who, for_ms } => {
                let (from_ns, nodes) = (self.now(), self.nodes(*who));
                nodes.iter().try_for_each(|node| self.cluster.fill_disk(*node))?;
                sleep(*for_ms).await;
                nodes.iter().try_for_each(|node| self.cluster.free_disk(*node))?;
                self.start(&nodes).await?;
                self.tell(Mark::Full, from_ns, nodes, fault.to_string());
                Ok(())
            }
            Fault::Pull { who, for_ms } => {
                let (from_ns, nodes) = (self.now(), self.nodes(*who));
                nodes.iter().try_for_each(|node| self.cluster.pull_disk(*node))?;
                sleep(*for_ms).await;
                for node in &nodes {
                    self.cluster.give_disk_back(*node).await?;
                }
                self.start(&nodes).await?;
                self.tell(Mark::Eio, from_ns, nodes, fault.to_string());
                Ok(())
            }
            Fault::Ill { who, ill, for_ms } => {
                self.ill(&self.nodes(*who), *ill, *for_ms, fault).await
            }
            Fault::Degrade { shape, quality, for_ms } => {
                let (from_ns, count) = (self.now(), self.cluster.count());
                let pairs: Vec<(usize, usize)> = match shape {
                    Some(shape) => shape.cuts(count, self.leader()).into_iter().collect(),
                    None => (0..count).flat_map(|a| (0..count).map(move |b| (a, b))).collect(),
                };
                let id = self.cluster.degrade(pairs, *quality)?;
                sleep(*for_ms).await;
                self.cluster.mend_wires(id)?;
                self.tell(fault.mark(), from_ns, Vec::new(), fault.to_string());
                Ok(())
            }
            Fault::Stretch { delay_ms, for_ms } => {
                let (from_ns, count) = (self.now(), self.cluster.count());
                let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b))).collect();
                let quality = Quality { delay_ms: *delay_ms, ..Quality::PERFECT };
                let id = self.cluster.degrade(pairs, quality)?;
                let far_ns = self.now();
                sleep(*for_ms).await;
                let action = Action::Stretched { delay_ms: *delay_ms };
                self.recorder.note("any", action, (far_ns, self.now()));
                self.cluster.mend_wires(id)?;
                self.tell(fault.mark(), from_ns, Vec::new(), fault.to_string());
                Ok(())
            }
            Fault::Clock { who, by_ms, for_ms } => {
                let jumps = self.nodes(*who).into_iter().map(|node| (node, *by_ms));
                self.jump(jumps.collect(), *for_ms, fault).await
            }
            Fault::Apart { by_ms, for_ms } => {
                let jumps = by_ms.iter().copied().enumerate().filter(|(_, by_ms)| *by_ms != 0);
                self.jump(jumps.collect(), *for_ms, fault).await
            }
            Fault::Strobe { who, by_ms, times, each_ms } => {
                for _ in 0..*times {
                    let jumps = self.nodes(*who).into_iter().map(|node| (node, *by_ms));
                    self.jump(jumps.collect(), each_ms / 2, fault).await?;
                    sleep(each_ms / 2).await;
                }
                Ok(())
            }
            Fault::Rolling { order, calm_ms } | Fault::Upgrade { order, calm_ms } => {
                let _round = self.round.lock().await;
                for node in order {
                    self.restart(*node, fault).await?;
                    sleep(*calm_ms).await;
                }
                Ok(())
            }
            Fault::Membership { changes, calm_ms } => self.change(changes, *calm_ms).await,
            // The others are in `hands.rs`.
            Fault::Kill { .. }
            | Fault::Storm { .. }
            | Fault::Pause { .. }
            | Fault::Partition { .. }
            | Fault::Flapping { .. }
            | Fault::Flaps { .. }
            | Fault::Blackout { .. }
            | Fault::Return { .. }
            | Fault::Pairs { .. }
            | Fault::Turns { .. }
            | Fault::Amnesia { .. }
            | Fault::Revote { .. }
            | Fault::Loss { .. } => Ok(()),
        }
    }

    async fn start(&self, nodes: &[usize]) -> Result<()> {
        for node in nodes {
            self.cluster.start(*node).await?;
        }
        Ok(())
    }

    async fn cut_power(&self, nodes: &[usize], down_ms: u64, fault: &Fault) -> Result<()> {
        let from_ns = self.now();
        let struck = self.cluster.cut_power(nodes).await?;
        sleep(down_ms).await;
        self.start(nodes).await?;
        self.tell(Mark::Power, from_ns, struck, fault.to_string());
        Ok(())
    }

    /// Only those count of which a call was struck.
    async fn ill(&self, nodes: &[usize], ill: Ill, for_ms: u64, fault: &Fault) -> Result<()> {
        let from_ns = self.now();
        let mut illnesses = Vec::new();
        for node in nodes {
            illnesses.push((*node, self.cluster.make_ill(*node, ill)?));
        }
        sleep(for_ms).await;
        let mut struck = Vec::new();
        for (node, illness) in illnesses {
            struck.extend(self.cluster.heal_disk(node, illness)?.then_some(node));
        }
        self.start(nodes).await?;
        self.tell(fault.mark(), from_ns, struck, fault.to_string());
        Ok(())
    }

    /// Each of these nodes by so many milliseconds.
    async fn jump(&self, by_ms: Vec<(usize, i64)>, for_ms: u64, fault: &Fault) -> Result<()> {
        let from_ns = self.now();
        let mut jumps = Vec::new();
        for (node, by_ms) in by_ms {
            jumps.push((node, self.cluster.jump_clock(node, by_ms)?));
        }
        sleep(for_ms).await;
        let mut nodes = Vec::new();
        for (node, id) in jumps {
            self.cluster.set_clock(node, id)?;
            nodes.push(node);
        }
        self.tell(Mark::Clock, from_ns, nodes, fault.to_string());
        Ok(())
    }

    /// A drained restart of one node, as of the other binary if it is an upgrade, until it is ready
    /// again.
    async fn restart(&self, node: usize, fault: &Fault) -> Result<()> {
        let from_ns = self.now();
        let stopped = self.cluster.stop(node, STOP).await;
        if fault.mark() == Mark::Upgrade {
            self.cluster.exchange(node);
        }
        self.cluster.start(node).await?;
        let began = Instant::now();
        while !self.cluster.is_ready(node).await && began.elapsed() < READY {
            sleep(LOOK_MS).await;
        }
        let nodes = if stopped { vec![node] } else { Vec::new() };
        let span = (from_ns, self.now());
        self.recorder.note(self.cluster.name(node), Action::Restart, span);
        self.tell(fault.mark(), from_ns, nodes, fault.to_string());
        Ok(())
    }
}
