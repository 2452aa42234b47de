//! What can be done to a cluster, beyond killing, pausing and cutting.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    machine::Cluster,
    node::{Node, State},
    shim::Ill,
    wires::Quality,
};

impl Cluster {
    /// Cuts the power of nodes, all in one moment, and restores it: their processes are gone, and so is
    /// what was not on the medium. Gives those of them that ran.
    ///
    /// # Errors
    /// They have no disks of their own, or a file system is broken.
    pub async fn cut_power(&self, nodes: &[usize]) -> Result<Vec<usize>> {
        // In this order everywhere, so that two cuts do not wait for each other.
        let mut order = nodes.to_vec();
        order.sort_unstable();
        order.dedup();
        let nodes: Vec<_> = order.iter().map(|i| (*i, Arc::clone(&self.nodes[*i]))).collect();
        let cut = move || {
            let mut nodes: Vec<_> = nodes.iter().map(|(i, node)| (*i, node.lock())).collect();
            // One moment for all: who stands still tells nobody anything any more.
            nodes.iter_mut().for_each(|(_, node)| _ = node.pause());
            nodes.iter().try_for_each(|(_, node)| node.fittings.disk()?.lose_power())?;
            let mut ran = Vec::new();
            for (i, node) in &mut nodes {
                ran.extend(node.kill().then_some(*i));
                node.fittings.disk()?.restore().with_context(|| node.name.clone())?;
            }
            Ok(ran)
        };
        tokio::task::spawn_blocking(cut).await?
    }

    /// Takes the disk away from below a running node: everything is refused, and what was not on the
    /// medium is gone.
    ///
    /// # Errors
    /// It has no disk of its own.
    pub fn pull_disk(&self, node: usize) -> Result<()> {
        let mut node = self.nodes[node].lock();
        node.excuse();
        node.fittings.disk()?.lose_power()
    }

    /// Gives it back, to nobody: what still ran there is killed. Gives whether it still ran.
    ///
    /// # Errors
    /// The file system is broken.
    pub async fn give_disk_back(&self, node: usize) -> Result<bool> {
        let node = Arc::clone(&self.nodes[node]);
        let work = move || {
            let mut node = node.lock();
            let ran = node.kill();
            node.fittings.disk()?.restore().with_context(|| node.name.clone())?;
            Ok(ran)
        };
        tokio::task::spawn_blocking(work).await?
    }

    /// Takes all the room on a node's disk, until [`Cluster::free_disk`].
    ///
    /// # Errors
    /// It has no disk of its own.
    pub fn fill_disk(&self, node: usize) -> Result<()> {
        let mut node = self.nodes[node].lock();
        node.excuse();
        node.fittings.disk()?.fill()
    }

    /// Gives it room again.
    ///
    /// # Errors
    /// The file system's.
    pub fn free_disk(&self, node: usize) -> Result<()> {
        self.nodes[node].lock().fittings.disk()?.free()
    }

    /// Makes a node's disk ill, until [`Cluster::heal_disk`] is called with what this gives.
    ///
    /// # Errors
    /// Nothing stands between it and its disk.
    pub fn make_ill(&self, node: usize, ill: Ill) -> Result<Illness> {
        let mut node = self.nodes[node].lock();
        if ill.fails {
            node.excuse();
        }
        let shim = node.fittings.shim()?;
        Ok(Illness { struck: shim.struck()?, id: shim.fall_ill(ill)? })
    }

    /// Heals a node's disk of it. Gives whether a call was struck.
    ///
    /// # Errors
    /// The file system's.
    pub fn heal_disk(&self, node: usize, illness: Illness) -> Result<bool> {
        let node = self.nodes[node].lock();
        let shim = node.fittings.shim()?;
        shim.heal(illness.id)?;
        Ok(shim.struck()? > illness.struck)
    }

    /// Whether a call was struck by an illness that goes on.
    ///
    /// # Errors
    /// Nothing stands between it and its disk.
    pub fn is_struck(&self, node: usize, illness: Illness) -> Result<bool> {
        Ok(self.nodes[node].lock().fittings.shim()?.struck()? > illness.struck)
    }

    /// Makes a node's wall clock jump, until [`Cluster::set_clock`] is called with what this gives.
    ///
    /// # Errors
    /// It has the clock of the machine.
    pub fn jump_clock(&self, node: usize, by_ms: i64) -> Result<u64> {
        self.nodes[node].lock().fittings.clock()?.jump(by_ms)
    }

    /// Makes it jump back.
    ///
    /// # Errors
    /// The file system's.
    pub fn set_clock(&self, node: usize, id: u64) -> Result<()> {
        self.nodes[node].lock().fittings.clock()?.heal(id)
    }

    /// Makes wires worse, until [`Cluster::mend_wires`] is called with what this gives.
    ///
    /// # Errors
    /// The kernel switches for this cluster, not we.
    pub fn degrade(&self, pairs: Vec<(usize, usize)>, quality: Quality) -> Result<u64> {
        Ok(self.network.wires()?.lock().degrade(pairs, quality))
    }

    /// Ends it.
    ///
    /// # Errors
    /// The kernel switches for this cluster, not we.
    pub fn mend_wires(&self, id: u64) -> Result<()> {
        self.network.wires()?.lock().heal(id);
        Ok(())
    }

    /// SIGTERM, and waits for the end; one that does not come in time is complained of, and made by
    /// kill -9. Gives whether there was something to stop.
    pub async fn stop(&self, node: usize, patience: Duration) -> bool {
        let lock = || self.nodes[node].lock();
        if !lock().ask_to_stop() {
            return false;
        }
        let began = Instant::now();
        while lock().is_stopping() {
            if began.elapsed() > patience {
                let mut node = lock();
                let told = format!("{} runs on {patience:?} after SIGTERM", node.name);
                node.complaints.push(told);
                node.kill();
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        lock().complain();
        true
    }

    /// Ends of nodes that should not have been. One that lost its log must end, and the guest does when
    /// it is shut out.
    pub fn complaints(&self) -> Vec<String> {
        let told = |node: &Arc<parking_lot::Mutex<Node>>| {
            let mut node = node.lock();
            node.complain();
            node.complaints.clone()
        };
        self.whole().into_iter().flat_map(|node| told(&self.nodes[node])).collect()
    }

    /// Whether a node's process runs.
    pub fn runs(&self, node: usize) -> bool {
        self.state(node) == State::Running
    }
}

/// An illness of a disk that goes on.
#[derive(Debug, Clone, Copy)]
pub struct Illness {
    id: u64,
    /// Calls that were struck before.
    struck: u32,
}
