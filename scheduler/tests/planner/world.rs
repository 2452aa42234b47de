//! A small cluster to plan for.

use proptest::test_runner::{Config, RngSeed};
use swarmer_model::NodeId;
use swarmer_scheduler::{
    Capacity, Decision, Desired, FunctionNeed, NodeFacts, Observed, Plan, Record, plan,
};

pub(crate) const MIB: u64 = 1 << 20;

/// The same cases in every run; others with `PROPTEST_RNG_SEED=n`, more with `PROPTEST_CASES=n`.
pub(crate) fn config(cases: u32) -> Config {
    let given = Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { given.cases } else { cases };
    let rng_seed = match given.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        fixed => fixed,
    };
    Config { cases, rng_seed, failure_persistence: None, ..given }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) desired: Desired,
    pub(crate) observed: Observed,
    pub(crate) now_ms: u64,
}

pub(crate) fn node(id: u64, name: &str, region: &str, zone: &str) -> NodeFacts {
    NodeFacts {
        id: NodeId(id),
        name: name.to_owned(),
        region: region.to_owned(),
        zone: zone.to_owned(),
        capacity: Capacity { functions: 10, memory_bytes: 1024 * MIB, ..Capacity::default() },
        ..NodeFacts::default()
    }
}

pub(crate) fn need(key: &str, replicas: u32) -> FunctionNeed {
    FunctionNeed {
        key: key.to_owned(),
        revision: 7,
        replicas,
        memory_bytes: 64 * MIB,
        ..FunctionNeed::default()
    }
}

impl World {
    /// What the planner says now of one function, node by node.
    pub(crate) fn explain(&self, function: &str) -> Vec<Decision> {
        let (desired, observed) = (self.desired.clone(), self.observed.clone());
        Record::new(desired, observed, self.now_ms).explain(function)
    }

    /// Nodes a to d, two in each of the zones one and two of region us.
    pub(crate) fn four() -> Self {
        let mut world = Self::default();
        for (id, name, zone) in [(1, "a", "one"), (2, "b", "one"), (3, "c", "two"), (4, "d", "two")]
        {
            world.observed.nodes.push(node(id, name, "us", zone));
        }
        world
    }

    pub(crate) fn with(mut self, need: FunctionNeed) -> Self {
        self.desired.functions.push(need);
        self
    }

    pub(crate) fn plan(&self) -> Plan {
        plan(&self.desired, &self.observed, self.now_ms)
    }

    /// Plans and carries it out.
    pub(crate) fn step(&mut self) -> Plan {
        let plan = self.plan();
        plan.apply(&mut self.observed);
        plan
    }

    /// Every copy on a living node answers.
    pub(crate) fn ready(&mut self) {
        let nodes = &self.observed.nodes;
        for copy in self.observed.placements.values_mut().flatten() {
            let alive = nodes.iter().any(|n| n.id == copy.node && n.dead_since_ms.is_none());
            copy.ready = alive;
        }
    }

    /// Steps until nothing is left to do, everything ready in between.
    pub(crate) fn settle(&mut self) {
        for _ in 0..8 {
            self.ready();
            if self.step().is_empty() {
                return;
            }
        }
        panic!("not settled in 8 steps: {self:?}");
    }

    pub(crate) fn node(&mut self, name: &str) -> &mut NodeFacts {
        self.observed.nodes.iter_mut().find(|node| node.name == name).unwrap()
    }

    /// The names of the nodes that hold the function.
    pub(crate) fn on(&self, key: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .observed
            .placements
            .get(key)
            .into_iter()
            .flatten()
            .map(|copy| {
                let node = self.observed.nodes.iter().find(|node| node.id == copy.node);
                node.map_or(copy.node.to_string(), |node| node.name.clone())
            })
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn lines(plan: &Plan) -> Vec<String> {
    plan.commands.iter().map(ToString::to_string).collect()
}
