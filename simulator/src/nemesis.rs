//! Faults, one after another and over one another, until the world is calm.

use std::{sync::Arc, time::Duration};

use rand::{RngExt as _, rngs::StdRng, seq::SliceRandom as _};
use swarmer_model::NodeId;
use swarmer_raft::disk::DiskOp;
use tokio::time::sleep;

use crate::world::{Death, World};

/// Between two faults, in milliseconds.
const PAUSE_MS: (u64, u64) = (300, 2500);
/// How long a fault lasts, in milliseconds.
const LASTS_MS: (u64, u64) = (300, 5000);
/// How long a dead process stays dead, in milliseconds.
const DEAD_MS: (u64, u64) = (1, 3000);

/// The hands that do it.
pub(crate) struct Nemesis {
    world: Arc<World>,
    dice: StdRng,
}

impl Nemesis {
    pub(crate) fn new(world: Arc<World>) -> Self {
        let dice = world.dice();
        Self { world, dice }
    }

    /// Strikes until the world is calm.
    pub(crate) async fn run(mut self) {
        loop {
            sleep(self.ms(PAUSE_MS)).await;
            if self.world.calm.is_cancelled() {
                return;
            }
            self.strike();
            self.world.oracle.lock().counts.faults += 1;
        }
    }

    fn ms(&mut self, (from, to): (u64, u64)) -> Duration {
        Duration::from_millis(self.dice.random_range(from..to))
    }

    fn strike(&mut self) {
        match self.dice.random_range(0..16) {
            0..=2 => {
                let victim = self.victim();
                self.kill(&[victim], Death::Kill);
            }
            3 => {
                let all = self.world.ids();
                self.kill(&all, Death::Kill);
            }
            4..=5 => {
                let victim = self.victim();
                self.kill(&[victim], Death::PowerCut);
            }
            6 => {
                let all = self.world.ids();
                self.kill(&all, Death::PowerCut);
            }
            7..=10 => self.partition(),
            11 => self.lose(),
            12 => self.slow_link(),
            13 => self.slow_disk(),
            14 => self.spoil_disk(),
            _ => self.nudge(),
        }
    }

    /// The leader as often as any other.
    fn victim(&mut self) -> NodeId {
        let ids = self.world.ids();
        let any = ids[self.dice.random_range(0..ids.len())];
        if self.dice.random() { self.world.net.leader().unwrap_or(any) } else { any }
    }

    /// Processes die and come back, each in its own time.
    fn kill(&mut self, victims: &[NodeId], death: Death) {
        for victim in victims {
            self.world.kill(*victim, death);
            let (world, victim, after) = (self.world.clone(), *victim, self.ms(DEAD_MS));
            tokio::spawn(async move {
                tokio::select! {
                    () = sleep(after) => {}
                    () = world.calm.cancelled() => {}
                }
                world.start(victim).await;
            });
        }
    }

    /// Undoes something after a while, unless the world has become calm, which undoes everything.
    fn later(&mut self, undo: impl FnOnce(&World) + Send + 'static) {
        let (world, after) = (self.world.clone(), self.ms(LASTS_MS));
        tokio::spawn(async move {
            sleep(after).await;
            if !world.calm.is_cancelled() {
                undo(&world);
            }
        });
    }

    fn partition(&mut self) {
        let mut ids = self.world.ids();
        ids.shuffle(&mut self.dice);
        let (what, mut pairs) = match self.dice.random_range(0..6) {
            0..=1 => {
                let alone = self.victim();
                ("alone", between(&[alone], &ids))
            }
            2 => {
                let (some, others) = ids.split_at(ids.len() / 2);
                ("halves", between(some, others))
            }
            3 => {
                let from = self.victim();
                let others = ids.iter().filter(|id| **id != from);
                ("one way", others.map(|id| (from, *id)).collect())
            }
            4 => {
                // One node sees both sides, which do not see each other.
                let (some, others) = ids[1..].split_at((ids.len() - 1) / 2);
                ("bridge", between(some, others))
            }
            _ => {
                let far = |a: usize, b: usize| {
                    let apart = a.abs_diff(b);
                    apart > 1 && apart < ids.len() - 1
                };
                let pairs = (0..ids.len()).flat_map(|a| (0..ids.len()).map(move |b| (a, b)));
                let pairs = pairs.filter(|(a, b)| far(*a, *b)).map(|(a, b)| (ids[a], ids[b]));
                ("ring", pairs.collect())
            }
        };
        pairs.retain(|(a, b)| a != b);
        self.world.trace.note(&format!("cut, {what}: {}", shown(&pairs)));
        self.world.net.cut(&pairs);
        self.later(move |world| {
            world.trace.note(&format!("mended: {}", shown(&pairs)));
            world.net.mend(&pairs);
        });
    }

    fn lose(&mut self) {
        let loss = self.dice.random_range(0.02..0.4);
        self.world.trace.note(&format!("{:.0} % are lost", loss * 100.0));
        self.world.net.set_loss(loss);
        self.later(|world| world.net.set_loss(0.0));
    }

    fn slow_link(&mut self) {
        let (victim, ms) = (self.victim(), self.dice.random_range(20..400));
        let pairs = between(&[victim], &self.world.ids());
        self.world.trace.note(&format!("n{} is {ms} ms away", victim.0));
        self.world.net.set_slow(&pairs, Some(ms));
        self.later(move |world| world.net.set_slow(&pairs, None));
    }

    fn slow_disk(&mut self) {
        let victim = self.victim();
        let ms = self.dice.random_range(10..400);
        self.world.trace.note(&format!("the disk of n{} takes up to {ms} ms", victim.0));
        self.world.with_drive(victim, |drive| drive.slow_down(Some((ms / 4, ms))));
        self.later(move |world| world.with_drive(victim, |drive| drive.slow_down(None)));
    }

    /// A write or sync fails, and the process stops by itself.
    fn spoil_disk(&mut self) {
        let victim = self.victim();
        let op = if self.dice.random() { DiskOp::Sync } else { DiskOp::Write };
        let errno = if self.dice.random() { libc::EIO } else { libc::ENOSPC };
        let after = self.dice.random_range(0..4);
        self.world.trace.note(&format!("the disk of n{} fails: {op:?}, {errno}", victim.0));
        self.world.spoil(victim, |drive| drive.inner().fail(op, after, errno));
    }

    /// What is not a fault, and hard enough: a clock that skips, a leader that hands over, a
    /// snapshot at an odd time.
    fn nudge(&mut self) {
        let victim = self.victim();
        let Some(node) = self.world.net.node(victim) else { return };
        match self.dice.random_range(0..3) {
            0 => {
                let by = self.ms((100, 30_000));
                self.world.trace.note(&format!("the clock of n{} skips {by:?}", node.id.0));
                node.gossip.skip(by);
            }
            1 => {
                let to = NodeId(self.dice.random_range(1..=self.world.settings.voters));
                self.world.trace.note(&format!("n{} is to hand over to n{}", node.id.0, to.0));
                tokio::spawn(async move {
                    let Some(raft) = node.raft() else { return };
                    let _ = raft.transfer_leader(to, Duration::from_secs(2)).await;
                });
            }
            _ => {
                tokio::spawn(async move {
                    let Some(raft) = node.raft() else { return };
                    let _ = raft.snapshot_now(Duration::from_secs(2)).await;
                });
            }
        }
    }
}

/// All pairs of one of these and one of those, both ways.
fn between(some: &[NodeId], others: &[NodeId]) -> Vec<(NodeId, NodeId)> {
    let pairs = some.iter().flat_map(|a| others.iter().map(|b| (*a, *b)));
    pairs.filter(|(a, b)| a != b).flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}

fn shown(pairs: &[(NodeId, NodeId)]) -> String {
    pairs.iter().map(|(a, b)| format!("{}→{}", a.0, b.0)).collect::<Vec<_>>().join(" ")
}
