//! The hands for losses of memory: a follower forgets at the very moment at which what it knows decides.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use http::Method;

use super::{
    fault::{Fault, Loss},
    hands::{Hands, sleep},
    topology::Shape,
};
use crate::cluster::{Calls, Ill, Port};

/// A disk whose log is synced no more for as long as it matters.
const STUCK: Ill = Ill { calls: Calls::Log, percent: 100, fails: false, delay_ms: 12_000, seed: 0 };
/// How long it may take until something waits for such a disk.
const WAITS: Duration = Duration::from_secs(3);
/// How long a node that came back may take to be ready. One that syncs what it read is not.
const BACK: Duration = Duration::from_millis(3_500);
/// What the leader may take to know that it has what it sent.
const KNOWN_MS: u64 = 500;
/// How long it may take until another one leads.
const ELECTION: Duration = Duration::from_secs(3);
/// From the first sign of it on, for its word to reach the others.
const TOLD_MS: u64 = 50;
/// Between two looks, and how long one may take.
const LOOK_MS: u64 = 10;
const LOOK: Duration = Duration::from_millis(500);

impl Hands {
    pub(super) async fn make_forget(
        &self,
        loss: Loss,
        first: bool,
        (missing_ms, alone_ms): (u64, u64),
        fault: &Fault,
    ) -> Result<()> {
        let (from_ns, leader) = (self.now(), self.leader());
        let [forgets, misses] = self.followers(leader, first)?;
        let without = |node| Shape::Halves(vec![node]).cuts(self.cluster.count(), leader);
        let missing = self.cluster.cut(without(misses), 0)?;
        sleep(missing_ms).await;
        let struck = match loss {
            Loss::Power => self.cluster.cut_power(&[forgets]).await?,
            Loss::Log => self.cluster.lose_log(forgets).await?,
            Loss::Reopen => self.reopen(forgets).await?,
        };
        // First this cut, then the end of the other: what was missed is not made up for.
        let alone = self.cluster.cut(without(leader), 0)?;
        self.cluster.mend(missing)?;
        self.cluster.start(forgets).await?;
        sleep(alone_ms).await;
        self.cluster.mend(alone)?;
        self.tell(fault.mark(), from_ns, struck, fault.to_string());
        Ok(())
    }

    /// Kills a node while what was sent to it waits for its disk, starts it, and cuts its power when it
    /// is back. Gives it, if it ran.
    async fn reopen(&self, node: usize) -> Result<Vec<usize>> {
        let stuck = self.cluster.make_ill(node, STUCK)?;
        // At the first one, which is alone then: what waits behind it is answered together with it.
        let began = Instant::now();
        while began.elapsed() < WAITS && !self.cluster.is_struck(node, stuck)? {
            sleep(LOOK_MS).await;
        }
        self.cluster.kill(node);
        self.cluster.start(node).await?;
        if self.cluster.comes(node, BACK).await {
            sleep(KNOWN_MS).await;
        }
        let struck = self.cluster.cut_power(&[node]).await?;
        self.cluster.heal_disk(node, stuck)?;
        Ok(struck)
    }

    pub(super) async fn revote(&self, first: bool, alone_ms: u64, fault: &Fault) -> Result<()> {
        let (from_ns, leader) = (self.now(), self.leader());
        let [forgets, elected] = self.followers(leader, first)?;
        let without = |node| Shape::Halves(vec![node]).cuts(self.cluster.count(), leader);
        // Standing still it sends nothing, from this moment on; what is sent to it is cut off.
        self.cluster.pause(leader);
        let deposed = self.cluster.cut(without(leader), 0)?;
        let stuck = self.cluster.make_ill(forgets, STUCK)?;
        let began = Instant::now();
        while began.elapsed() < ELECTION && !self.follows_another(elected, leader).await {
            sleep(LOOK_MS).await;
        }
        sleep(TOLD_MS).await;
        let struck = self.cluster.cut_power(&[forgets]).await?;
        self.cluster.heal_disk(forgets, stuck)?;
        let alone = self.cluster.cut(without(elected), 0)?;
        self.cluster.mend(deposed)?;
        self.cluster.resume(leader);
        self.cluster.start(forgets).await?;
        sleep(alone_ms).await;
        self.cluster.mend(alone)?;
        self.tell(fault.mark(), from_ns, struck, fault.to_string());
        Ok(())
    }

    /// Whether a node says that somebody else leads than this one.
    async fn follows_another(&self, node: usize, than: usize) -> bool {
        let mut api = self.cluster.gateway(node, Port::Api);
        let reply = api.send(Method::GET, "/v1/status", &[], "", LOOK).await;
        let status = reply.map(|reply| reply.json()).unwrap_or_default();
        let leads = status["leader"]["name"].as_str();
        leads.is_some_and(|name| name != &**self.cluster.name(than))
    }

    /// The followers of three nodes, in this order or the other one.
    fn followers(&self, leader: usize, first: bool) -> Result<[usize; 2]> {
        let nodes: Vec<usize> = (0..self.cluster.count()).filter(|node| *node != leader).collect();
        match (&nodes[..], first) {
            ([a, b], true) => Ok([*a, *b]),
            ([a, b], false) => Ok([*b, *a]),
            _ => bail!("three nodes are needed: with more, two of them are no majority"),
        }
    }
}
