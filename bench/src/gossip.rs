//! `gossip`: what membership costs and how fast it is among many nodes.
//!
//! In process and in virtual time: the cores are the real ones, the network is a map of regions.
//! What the shell does around them (sockets, streams, timers), and signatures, are not in here.

mod map;
mod ports;
mod world;

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;
use swarmer_gossip::{Load, MAX_MEMBERS, MemberState, RecordUpdate};
use swarmer_model::NodeId;

use self::{
    map::{Map, id},
    world::{Plan, World},
};

/// A member that is not known dead by all after so long is a failure of the measurement.
const PATIENCE: Duration = Duration::from_secs(120);

/// Membership of many nodes in several regions: bytes, CPU, deaths, changes, a healed region
#[derive(Debug, Args)]
pub(crate) struct Gossip {
    /// Members, in the regions by turns; at most 16384. 10000 take 15 GB and a quarter of an hour before
    /// the first second
    #[arg(long, default_value_t = 1_000)]
    members: usize,
    /// Regions; round trips of 1 ms inside one, of 80, 150 and 250 ms between them
    #[arg(long, default_value_t = 5)]
    regions: usize,
    /// Simulated minutes at rest in which bytes, CPU and false deaths are counted
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// The share of datagrams that is lost
    #[arg(long, default_value_t = 0.01)]
    loss: f64,
    /// The share of members that get too little CPU: they stand still for 0.3 to 3 s and run for as
    /// long, again and again
    #[arg(long, default_value_t = 0.0)]
    slow: f64,
    /// Simulated seconds before
    #[arg(long, default_value_t = 60)]
    settle: u64,
    /// Simulated seconds for which one region is cut off from the others; none if 0
    #[arg(long, default_value_t = 60)]
    apart: u64,
    /// Members that are killed one after the other
    #[arg(long, default_value_t = 5)]
    deaths: usize,
    /// Records that are changed one after the other
    #[arg(long, default_value_t = 20)]
    records: usize,
    /// Decides everything
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What all nodes did so far.
struct Sums {
    datagrams: u64,
    bytes: u64,
    streamed: u64,
    probes_failed: u64,
    /// Records that the nodes made of themselves.
    told: u64,
}

impl Gossip {
    pub(crate) fn run(&self) -> Result<()> {
        ensure!(
            (4..=MAX_MEMBERS).contains(&self.members),
            "{} members; 4 to {MAX_MEMBERS} can be",
            self.members
        );
        ensure!((0.0..1.0).contains(&self.loss), "a loss of {}; it is a share", self.loss);
        ensure!((0.0..1.0).contains(&self.slow), "{} slow members; it is a share", self.slow);
        let map = Map { regions: self.regions.clamp(1, self.members) };
        let Self { members, loss, slow, seed, .. } = *self;
        let start = Instant::now();
        let mut world = World::formed(Plan { members, map, loss, slow, seed })?;
        eprintln!("gossip: {members} members stand after {:?}", start.elapsed());
        world.run(Duration::from_secs(self.settle));
        eprintln!("gossip: settled after {:?}", start.elapsed());
        println!(
            "### Gossip: {members} members, {} regions, {} % loss, {} % slow, seed {seed}\n",
            map.regions,
            loss * 100.0,
            slow * 100.0
        );
        println!("| what | measured |\n|---|---:|");
        self.rest(&mut world);
        self.changed_records(&mut world)?;
        self.healed_region(&mut world);
        self.killed_members(&mut world);
        println!();
        eprintln!("gossip: done after {:?}", start.elapsed());
        Ok(())
    }

    fn rest(&self, world: &mut World) {
        let time = Duration::from_secs(60 * self.minutes.max(1));
        let (before, cpu) = (sums(world), cpu_time());
        world.changes.clear();
        world.run(time);
        let (after, cpu) = (sums(world), cpu_time().saturating_sub(cpu));
        let each = |after: u64, before: u64| {
            (after - before) as f64 / time.as_secs_f64() / self.members as f64
        };
        row("bytes/s a node, datagrams", format!("{:.0}", each(after.bytes, before.bytes)));
        let streamed = each(after.streamed, before.streamed);
        row("bytes/s a node, push/pull", format!("{streamed:.0}"));
        let datagrams = each(after.datagrams, before.datagrams);
        row("datagrams/s a node", format!("{datagrams:.1}"));
        let cpu = cpu.as_secs_f64() * 1e6 / time.as_secs_f64() / self.members as f64;
        row("CPU µs a second and node, with the network of the simulation", format!("{cpu:.0}"));
        let told = each(after.told, before.told) * 3600.0;
        row("records told an hour and node", format!("{told:.1}"));
        let failed = each(after.probes_failed, before.probes_failed) * 3600.0;
        row("failed probes an hour and node", format!("{failed:.1}"));
        let minutes = self.minutes.max(1);
        let slow = (0..self.members).filter(|index| world.nodes[*index].slow);
        let slow: HashSet<NodeId> = slow.map(id).collect();
        let dead = world.changes.iter().filter(|change| change.after == MemberState::Down);
        let (slow, others): (Vec<&world::Change>, Vec<_>) =
            dead.partition(|change| slow.contains(&change.of));
        row(
            &format!("words in {minutes} min that a member is dead, all alive"),
            others.len().to_string(),
        );
        if self.slow > 0.0 {
            row("such words of the slow members", slow.len().to_string());
        }
    }

    fn changed_records(&self, world: &mut World) -> Result<()> {
        let (mut most, mut all) = (Vec::new(), Vec::new());
        let (enough, before) = ((self.members * 99).div_ceil(100), sums(world));
        for round in 0..self.records {
            let by = round * 7919 % self.members;
            let load = Load { in_flight: u32::try_from(round)? + 1, ..Load::default() };
            // Not one of nothing but load, which may wait.
            world.with(by, |core, now| {
                core.publish(now, RecordUpdate::Load(load))?;
                core.publish(now, RecordUpdate::Voter((round / self.members).is_multiple_of(2)))
            })?;
            let mut known = vec![false; self.members];
            let mut count = |world: &World| {
                for (node, known) in world.nodes.iter().zip(&mut known).filter(|(_, k)| !**k) {
                    let record = node.core.catalog().get(id(by));
                    *known = record.is_some_and(|record| record.facts.load == load);
                }
                known.iter().filter(|known| **known).count()
            };
            let to_most = world.until(PATIENCE, |world| count(world) >= enough);
            let rest = world.until(PATIENCE, |world| count(world) == self.members);
            if let (Some(to_most), Some(rest)) = (to_most, rest) {
                most.push(to_most);
                all.push(to_most + rest);
            }
            // The last of it is passed on.
            world.run(Duration::from_secs(1));
        }
        let bytes =
            (sums(world).bytes - before.bytes) / (self.records.max(1) * self.members) as u64;
        row("a changed record at 99 % of the nodes, p50, p99 ms", times(&mut most));
        row("at all of them", times(&mut all));
        row("bytes a node and change, with what goes on at rest meanwhile", bytes.to_string());
        Ok(())
    }

    fn healed_region(&self, world: &mut World) {
        if self.apart == 0 {
            return;
        }
        world.cut = Some(self.regions.saturating_sub(1));
        world.run(Duration::from_secs(self.apart));
        let whole = world.whole();
        world.cut = None;
        let healed = world.until(PATIENCE, |world| world.whole() == world.nodes.len());
        let text = match healed {
            Some(healed) if whole == 0 => format!("{:.1} s", healed.as_secs_f64()),
            Some(_) => "they had not parted".to_owned(),
            None => format!("not in {PATIENCE:?}"),
        };
        row(&format!("all see all again after a region was cut off for {} s", self.apart), text);
        world.run(Duration::from_secs(30));
    }

    fn killed_members(&self, world: &mut World) {
        let (mut first, mut each, mut last) = (Vec::new(), Vec::new(), Vec::new());
        for victim in 0..self.deaths.min(self.members / 4) {
            let victim = (victim * 4783 + 1) % self.members;
            world.run(Duration::from_millis(137 * (victim as u64 % 11)));
            if !std::mem::replace(&mut world.nodes[victim].alive, false) {
                continue;
            }
            world.changes.clear();
            let killed = world.now;
            let living = world.nodes.iter().filter(|node| node.alive).count();
            let mut heard = Vec::new();
            let known = world.until(PATIENCE, |world| {
                let dead = |c: &&world::Change| c.of == id(victim) && c.after == MemberState::Down;
                heard = world.changes.iter().filter(dead).map(|c| (c.by, c.at - killed)).collect();
                heard.len() >= living
            });
            if known.is_some() {
                let mut times: Vec<Duration> = heard.iter().map(|(_, at)| *at).collect();
                times.sort_unstable();
                first.extend(times.first());
                last.extend(times.last());
                each.append(&mut times);
            }
            world.run(Duration::from_secs(10));
        }
        row("a killed member is dead for the first of the others, p50, p99 ms", times(&mut first));
        row("for each of them", times(&mut each));
        row("for all of them", times(&mut last));
    }
}

fn sums(world: &World) -> Sums {
    let mut sums = Sums { datagrams: 0, bytes: 0, streamed: 0, probes_failed: 0, told: 0 };
    for (index, node) in world.nodes.iter().enumerate() {
        let stats = node.core.stats();
        sums.datagrams += stats.datagrams_out;
        sums.bytes += stats.bytes_out;
        sums.probes_failed += stats.probes_failed;
        sums.streamed += node.streamed;
        sums.told += node.core.catalog().get(id(index)).map_or(0, |record| record.version);
    }
    sums
}

fn row(what: &str, measured: String) {
    println!("| {what} | {measured} |");
}

fn times(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() * percent).div_ceil(100).saturating_sub(1));
    match (at(50), at(99)) {
        (Some(p50), Some(p99)) => format!("{}, {}", p50.as_millis(), p99.as_millis()),
        _ => "-".to_owned(),
    }
}

/// CPU time of this thread, by /proc/thread-self/schedstat; zero where the kernel does not say.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}
