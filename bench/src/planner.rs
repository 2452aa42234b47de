//! `planner`: how long the planner takes for many nodes and functions.
//!
//! In process: it is a pure function. What the leader does around it (reading the state, committing
//! the commands) is not in here.

use std::time::{Duration, Instant};

use clap::Args;
use swarmer_model::NodeId;
use swarmer_scheduler::{
    Capacity, Conflict, Desired, FunctionNeed, NodeFacts, Observed, Plan, plan,
};

use crate::machine::millis;

const MIB: u64 = 1 << 20;
/// Nodes stand in so many regions, each of so many zones.
const REGIONS: usize = 3;
const ZONES: usize = 3;
/// When the zone is seen to die.
const LOST_AT_MS: u64 = 1_000;

/// Placing functions on many nodes, and again after a zone is lost.
#[derive(Debug, Args)]
pub(crate) struct Planner {
    /// Nodes, in three regions of three zones each
    #[arg(long, default_value_t = 1_000)]
    nodes: usize,
    /// Copies, two of each function; a fifth of the functions may stand in one region only, a
    /// tenth on nodes with a label
    #[arg(long, default_value_t = 50_000)]
    copies: usize,
    /// How often each plan is made; the fastest counts, as the machine has other work
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// One row.
struct Row {
    what: &'static str,
    took: Duration,
    plan: Plan,
}

impl Planner {
    pub(crate) fn run(&self) {
        println!("### Planner: {} nodes, {} copies\n", self.nodes, self.copies);
        println!("| room | plan | ms | additions | removals | additions/s | functions short |");
        println!("|---|---|---:|---:|---:|---:|---:|");
        self.table("half as much again", |each| each + each / 2 + 1, 1, None);
        self.table("one function more on each node, four priorities", |each| each + 1, 4, None);
        let what = "half as much again, every second near the one before and apart from the next";
        self.table(what, |each| each + each / 2 + 1, 1, Some(2));
        println!();
    }

    /// `tied`: each of so many functions has affinity.
    fn table(
        &self,
        what: &str,
        room: impl Fn(usize) -> usize,
        priorities: usize,
        tied: Option<usize>,
    ) {
        let (desired, mut observed) = self.world(room, priorities, tied);
        let mut rows = Vec::new();
        let first = self.row("from nothing", &desired, &observed, 0);
        first.plan.apply(&mut observed);
        observed.placements.values_mut().flatten().for_each(|copy| copy.ready = true);
        rows.push(first);
        rows.push(self.row("nothing to do", &desired, &observed, 0));
        let zone = observed.nodes.first().map(|node| (node.region.clone(), node.zone.clone()));
        for node in &mut observed.nodes {
            if Some((node.region.clone(), node.zone.clone())) == zone {
                node.dead_since_ms = Some(LOST_AT_MS);
            }
        }
        let over = LOST_AT_MS + desired.policy.dead_grace_ms;
        rows.push(self.row("a zone is lost", &desired, &observed, over));
        let room = what;
        for Row { what, took, plan } in rows {
            use swarmer_scheduler::Command::Add;
            let added = plan.commands.iter().filter(|c| matches!(c, Add { .. })).count();
            let removed = plan.commands.len() - added;
            let short = plan.conflicts.iter().filter(|c| matches!(c, Conflict::Short { .. }));
            println!(
                "| {room} | {what} | {} | {added} | {removed} | {:.0} | {} |",
                millis(took),
                added as f64 / took.as_secs_f64(),
                short.count(),
            );
        }
    }

    fn row(&self, what: &'static str, desired: &Desired, observed: &Observed, now_ms: u64) -> Row {
        eprintln!("planner: {what}");
        let mut best: Option<(Duration, Plan)> = None;
        for _ in 0..self.rounds.max(1) {
            let start = Instant::now();
            let plan = plan(desired, observed, now_ms);
            let took = start.elapsed();
            if best.as_ref().is_none_or(|(fastest, _)| took < *fastest) {
                best = Some((took, plan));
            }
        }
        let (took, plan) = best.unwrap_or_default();
        Row { what, took, plan }
    }

    /// Nodes with so much room for what each would hold if all held as many.
    fn world(
        &self,
        room: impl Fn(usize) -> usize,
        priorities: usize,
        tied: Option<usize>,
    ) -> (Desired, Observed) {
        let key = |i: usize| format!("default/function-{i}");
        let ties = |i: usize, other: usize| {
            let tied = tied.is_some_and(|each| i % each == 1);
            tied.then(|| key(other)).into_iter().collect()
        };
        let functions = (self.copies / 2).max(1);
        let each = self.copies.div_ceil(self.nodes.max(1)).max(1);
        let room = room(each);
        let nodes = (0..self.nodes).map(|i| NodeFacts {
            id: NodeId(i as u64 + 1),
            name: format!("node-{i}"),
            region: format!("region-{}", i % REGIONS),
            zone: format!("zone-{}", i / REGIONS % ZONES),
            labels: if i % 4 == 0 {
                [("disk".to_owned(), "ssd".to_owned())].into()
            } else {
                Default::default()
            },
            capacity: Capacity {
                functions: u32::try_from(room).unwrap_or(u32::MAX),
                memory_bytes: room as u64 * 128 * MIB,
                concurrency: Some(room as u64 * 100),
            },
            ..NodeFacts::default()
        });
        let needs = (0..functions).map(|i| FunctionNeed {
            key: key(i),
            near: ties(i, i.saturating_sub(1)),
            apart: ties(i, i + 1),
            revision: 1,
            concurrency: 100,
            replicas: 2,
            priority: i32::try_from(i % priorities).unwrap_or_default(),
            min_available: 1,
            memory_bytes: (32 << (i % 3)) * MIB,
            regions: if i % 5 == 0 { vec![format!("region-{}", i / 5 % REGIONS)] } else { vec![] },
            labels: if i % 10 == 1 {
                [("disk".to_owned(), "ssd".to_owned())].into()
            } else {
                Default::default()
            },
            ..FunctionNeed::default()
        });
        let desired = Desired { functions: needs.collect(), ..Desired::default() };
        (desired, Observed { nodes: nodes.collect(), ..Observed::default() })
    }
}
