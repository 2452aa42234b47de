//! Functions that are made, placed by other rules, and deleted, on nodes that differ in place and
//! capacity and are emptied now and then; and one who follows what is committed of all that.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use serde_json::{Value, json};

use super::{
    Context, Documents, PATIENCE, change,
    documents::PLACED,
    follower::{Block, hear},
    think,
};
use crate::{
    cluster::{Port, Site, Stream},
    history::{Action, Answer, Commit, Fact, Member, Outcome, Placed, Rule},
    seed::Seeded,
};

/// In percent: how many wishes are that a function is no more.
const DELETED: u64 = 15;
/// What copies take of a node, in MiB.
const MEMORY_MIB: (u64, u64) = (4, 48);
/// Between two nodes that are emptied, and how long one of them is.
const DRAIN_MS: (u64, u64) = (1_000, 5_000);
/// The same of a region.
const REGION_MS: (u64, u64) = (4_000, 9_000);
/// In percent: how many rules have functions to be near to, and apart from.
const NEAR: u64 = 30;
const APART: u64 = 30;
/// How long the follower stays with one node.
const STAY_MS: (u64, u64) = (1_000, 6_000);
/// A leader looks at least so often by far: what has not moved for so long moves no more.
const QUIET: Duration = Duration::from_secs(10);
/// How long placements may take to come to rest after the cluster takes writes again.
const REST: Duration = Duration::from_secs(60);
/// Between two tries, or looks.
const LOOK: Duration = Duration::from_millis(100);

/// The clients of one run.
#[derive(Debug, Clone, Copy)]
pub struct Placements {
    /// Clients that change rules.
    pub clients: usize,
    /// How many functions there are at most.
    pub functions: usize,
    /// Where the nodes stand, and what they can hold.
    pub sites: &'static [Site],
}

/// The last revision at which anything was told. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traced(Arc<AtomicU64>);

impl Placements {
    /// Takes down what each node can hold.
    pub fn declare(self, context: &Context) {
        for (node, site) in self.sites.iter().enumerate() {
            let now = context.recorder.now();
            let action = Action::Capacity { functions: site.functions, memory: site.memory };
            context.recorder.note(context.cluster.name(node), action, (now, now));
        }
    }

    /// One client that wishes for functions, until the run stops it.
    pub async fn run(self, context: Context, number: usize) {
        let mut random = context.random(&format!("placement client {number}"));
        let mut client = context.recorder.client();
        while !context.is_stopped() {
            think(&mut random, 150).await;
            let number = random.index(self.functions);
            let name = format!("p{number}");
            let rule = (!random.chance(DELETED)).then(|| self.rule(&mut random, number));
            let mut gateway = context.api(random.index(context.cluster.count()));
            let node = gateway.node().to_string();
            let path = Documents::path(PLACED, &name);
            let (method, body) = match &rule {
                Some(rule) => (Method::PUT, context.documents.placed(&name, rule)),
                None => (Method::DELETE, String::new()),
            };
            let gone = rule.is_none();
            let action = Action::Wish { function: format!("{PLACED}/{name}"), rule };
            let work = async {
                let reply = gateway.send(method, &path, &[], body, PATIENCE).await;
                change(reply, gone, |_| None)
            };
            client.does(&node, action, work).await;
        }
    }

    fn rule(self, random: &mut Seeded, number: usize) -> Rule {
        let site = self.sites[random.index(self.sites.len())];
        let other = self.sites[random.index(self.sites.len())];
        let mut rule = Rule {
            replicas: 1 + u32::try_from(random.below(3)).unwrap_or(0),
            memory: random.between(MEMORY_MIB.0, MEMORY_MIB.1) << 20,
            ..Rule::default()
        };
        if random.chance(30) {
            rule.priority = 1 + i32::try_from(random.below(3)).unwrap_or(0);
        }
        // One constraint, or none: what several of them allow is too little to be chosen from.
        match random.below(6) {
            0 => rule.regions = vec![site.region.to_owned()],
            1 if site.region != other.region => {
                rule.regions = vec![site.region.to_owned(), other.region.to_owned()];
            }
            2 => rule.zones = vec![site.zone.to_owned()],
            3 => rule.labels = BTreeMap::from([(site.label.0.to_owned(), site.label.1.to_owned())]),
            _ => {}
        }
        // Only those of before: a circle is refused.
        if number > 0 && random.chance(NEAR) {
            rule.near = vec![format!("p{}", random.index(number))];
        }
        let other = format!("p{}", random.index(self.functions));
        if random.chance(APART) && other != format!("p{number}") && !rule.near.contains(&other) {
            rule.apart = vec![other];
        }
        rule
    }

    /// Empties one node after another for a while, until the run stops it.
    pub async fn drain(self, context: Context) {
        let mut random = context.random("drains");
        while !context.is_stopped() {
            let pause = random.between(DRAIN_MS.0, DRAIN_MS.1);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let node = random.index(context.cluster.count());
            drain(&context, node, true, &mut random).await;
            let pause = random.between(DRAIN_MS.0, DRAIN_MS.1);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            // At the end none is left so.
            let began = Instant::now();
            while !drain(&context, node, false, &mut random).await && began.elapsed() < REST {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Empties one region after another for a while, until the run stops it.
    pub async fn drain_regions(self, context: Context) {
        let mut random = context.random("drained regions");
        while !context.is_stopped() {
            let pause = random.between(REGION_MS.0, REGION_MS.1);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let region = self.sites[random.index(self.sites.len())].region;
            drain_region(&context, region, true, &mut random).await;
            let pause = random.between(REGION_MS.0, REGION_MS.1);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            // At the end none is left so.
            let began = Instant::now();
            while !drain_region(&context, region, false, &mut random).await
                && began.elapsed() < REST
            {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Follows all that is committed from the first revision on, at one node after another, until the
    /// run stops it.
    pub async fn trace(self, context: Context, traced: Traced) {
        let mut random = context.random("trace");
        let mut client = context.recorder.client();
        let mut from = 0;
        while !context.is_stopped() {
            let node = random.index(context.cluster.count());
            let gateway = context.cluster.gateway(node, Port::Api);
            let stay = Duration::from_millis(random.between(STAY_MS.0, STAY_MS.1));
            let path = format!("/v1/watch?from={from}");
            let Ok(stream) = gateway.open(&path, PATIENCE).await else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            if stream.status != 200 {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let work = listen(&context, stream, stay, &traced);
            let name = context.cluster.name(node).to_string();
            let outcome = client.does(&name, Action::Trace { from }, work).await;
            if let Outcome::Ok { answer: Answer::Commits { commits, .. } } = outcome
                && let Some(last) = commits.last()
            {
                from = last.revision;
            }
        }
    }

    /// Waits until nothing of it has changed for a while.
    pub async fn rest(self, context: &Context, traced: &Traced) {
        let (began, from) = (Instant::now(), context.recorder.now());
        let (mut last, mut since) = (0, Instant::now());
        while since.elapsed() < QUIET && began.elapsed() < REST {
            let now = traced.0.load(Ordering::Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            }
            tokio::time::sleep(LOOK).await;
        }
        context.recorder.note("all", Action::Rest, (from, context.recorder.now()));
    }
}

async fn drain(context: &Context, node: usize, draining: bool, random: &mut Seeded) -> bool {
    let mut client = context.recorder.client();
    let mut gateway = context.api(random.index(context.cluster.count()));
    let name = context.cluster.name(node).to_string();
    let path = format!("/v1/nodes/{name}/drain");
    let work = async {
        let body = json!({ "draining": draining }).to_string();
        let reply = gateway.send(Method::POST, &path, &[], body, PATIENCE).await;
        change(reply, false, |_| None)
    };
    let outcome = client.does(&name, Action::Drain { draining }, work).await;
    matches!(outcome, Outcome::Ok { .. })
}

async fn drain_region(
    context: &Context,
    region: &str,
    draining: bool,
    random: &mut Seeded,
) -> bool {
    let mut client = context.recorder.client();
    let mut gateway = context.api(random.index(context.cluster.count()));
    let node = gateway.node().to_string();
    let path = format!("/v1/regions/{region}/{}", if draining { "drain" } else { "resume" });
    let work = async {
        change(gateway.send(Method::POST, &path, &[], "", PATIENCE).await, false, |_| None)
    };
    let action = Action::DrainRegion { region: region.to_owned(), draining };
    matches!(client.does(&node, action, work).await, Outcome::Ok { .. })
}

async fn listen(context: &Context, stream: Stream, stay: Duration, traced: &Traced) -> Outcome {
    let (mut commits, mut compacted) = (Vec::new(), false);
    let heard = hear(context, stream, stay, |block| {
        if block.kind == "compacted" {
            compacted = true;
        } else if block.kind == "change" {
            let told = told(&block).ok_or_else(|| format!("a watch told {:?}", block.data))?;
            if let Some(last) = told.last() {
                traced.0.store(last.revision, Ordering::Relaxed);
            }
            commits.extend(told);
        }
        Ok(())
    });
    match heard.await {
        Ok(()) => Outcome::Ok { answer: Answer::Commits { commits, compacted } },
        Err(why) => Outcome::Harness { why },
    }
}

/// The changes in an event; none if it cannot be read.
fn told(block: &Block) -> Option<Vec<Commit>> {
    let data: Value = serde_json::from_str(&block.data).ok()?;
    let revision = data["revision"].as_u64()?;
    let mut commits = Vec::new();
    for event in data["events"].as_array()? {
        let (kind, of) = event["key"].as_str()?.split_once('/')?;
        let value = Some(&event["value"]).filter(|value| !value.is_null());
        let fact = match kind {
            "functions" => Fact::Function(value.map(rule)),
            "placements" => Fact::Placement(match value {
                Some(value) => Some(placed(value)?),
                None => None,
            }),
            "nodes" => Fact::Node(match value {
                Some(value) => Some(member(value)?),
                None => None,
            }),
            "regions" => Fact::Region(value.map(|region| region["spec"]["drained"] == true)),
            _ => continue,
        };
        commits.push(Commit { revision, of: of.to_owned(), fact });
    }
    Some(commits)
}

/// Of what is left out the default counts.
fn rule(function: &Value) -> Rule {
    let rule = &function["spec"]["placement"];
    let priority = rule["priority"].as_i64().and_then(|priority| priority.try_into().ok());
    Rule {
        replicas: rule["replicas"].as_u64().and_then(|n| n.try_into().ok()).unwrap_or(2),
        memory: rule["memory"].as_str().map_or(0, bytes),
        priority: priority.unwrap_or(0),
        regions: names(&rule["regions"]),
        zones: names(&rule["zones"]),
        labels: labels(&rule["labels"]),
        near: names(&rule["near"]),
        apart: names(&rule["apart"]),
    }
}

fn bytes(text: &str) -> u64 {
    text.parse().map_or(u64::MAX, |swarmer_model::ByteSize(bytes)| bytes)
}

fn placed(placement: &Value) -> Option<Placed> {
    Some(Placed { planned: placement["revision"].as_u64()?, nodes: names(&placement["nodes"]) })
}

fn member(node: &Value) -> Option<Member> {
    let spec = &node["spec"];
    Some(Member {
        name: node["metadata"]["name"].as_str()?.to_owned(),
        region: spec["region"].as_str().unwrap_or_default().to_owned(),
        zone: spec["zone"].as_str().unwrap_or_default().to_owned(),
        labels: labels(&spec["labels"]),
        draining: spec["draining"] == true,
    })
}

fn names(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

fn labels(map: &Value) -> BTreeMap<String, String> {
    let map = map.as_object().into_iter().flatten();
    map.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_they_are_sent() {
        let data = json!({ "revision": 7, "events": [
            { "key": "functions/placed/p1", "value": { "spec": { "placement": {
                "replicas": 3, "memory": "4MiB", "priority": -2, "zones": ["a"],
                "labels": { "disk": "ssd" }, "near": ["p0"], "apart": ["p2"],
            } } } },
            { "key": "functions/registers/last", "value": { "spec": { "placement": {} } } },
            { "key": "placements/placed/p1", "value": { "revision": 5, "nodes": ["0a", "0b"] } },
            { "key": "placements/placed/p2", "value": null },
            { "key": "claims/*/placed/p1", "value": "placed/p1" },
            { "key": "nodes/0a", "value": {
                "metadata": { "name": "n1" },
                "spec": { "region": "eu", "zone": "a", "draining": true },
            } },
            { "key": "regions/eu", "value": { "spec": { "drained": true } } },
            { "key": "regions/us", "value": null },
        ] });
        let block = Block { kind: "change".into(), data: data.to_string() };
        let facts: Vec<(String, Fact)> =
            told(&block).unwrap().into_iter().map(|commit| (commit.of, commit.fact)).collect();
        let rule = Rule {
            replicas: 3,
            memory: 4 << 20,
            priority: -2,
            zones: vec!["a".into()],
            labels: BTreeMap::from([("disk".into(), "ssd".into())]),
            near: vec!["p0".into()],
            apart: vec!["p2".into()],
            ..Rule::default()
        };
        let member = Member {
            name: "n1".into(),
            region: "eu".into(),
            zone: "a".into(),
            draining: true,
            ..Member::default()
        };
        let placed = Placed { planned: 5, nodes: vec!["0a".into(), "0b".into()] };
        let wanted = [
            ("placed/p1", Fact::Function(Some(rule))),
            ("registers/last", Fact::Function(Some(Rule { replicas: 2, ..Rule::default() }))),
            ("placed/p1", Fact::Placement(Some(placed))),
            ("placed/p2", Fact::Placement(None)),
            ("0a", Fact::Node(Some(member))),
            ("eu", Fact::Region(Some(true))),
            ("us", Fact::Region(None)),
        ];
        assert_eq!(facts, wanted.map(|(of, fact)| (of.to_owned(), fact)));
        assert_eq!(told(&Block { kind: "change".into(), data: "{}".into() }), None);
    }

    #[test]
    fn a_rule_is_read_back_as_it_was_sent() {
        let documents = Documents::of(b"component");
        let rule = Rule {
            replicas: 2,
            memory: 5 << 20,
            priority: 1,
            regions: vec!["eu".into()],
            labels: BTreeMap::from([("disk".into(), "hdd".into())]),
            near: vec!["p0".into()],
            ..Rule::default()
        };
        let sent: Value = serde_json::from_str(&documents.placed("p1", &rule)).unwrap();
        assert_eq!(super::rule(&sent), rule);
    }
}
