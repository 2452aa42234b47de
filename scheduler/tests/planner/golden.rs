//! Golden dialogues: `tests/golden/*.txt` hold a scenario and what the planner says to it.
//!
//! Lines that start with `> ` are the scenario, `#` is a comment, all others are the expected
//! transcript. `SWARMER_REWRITE_GOLDEN=1 cargo test -p swarmer-scheduler golden` writes them anew;
//! the diff is the review.

use std::{fmt::Write as _, fs, path::Path};

use swarmer_model::NodeId;
use swarmer_scheduler::{CandidateNode, FunctionNeed, Spread, candidates, misfit};

use crate::world::{MIB, World, need, node};

#[test]
fn golden_dialogues() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no scenario in {}", folder.display());
    for path in paths {
        let expected = fs::read_to_string(&path).unwrap();
        let actual = run(&expected);
        if std::env::var_os("SWARMER_REWRITE_GOLDEN").is_some() {
            fs::write(&path, &actual).unwrap();
        } else {
            assert_eq!(
                actual,
                expected,
                "{} differs; if it should, rewrite it with SWARMER_REWRITE_GOLDEN=1",
                path.display()
            );
        }
    }
}

fn run(script: &str) -> String {
    let mut world = World::default();
    let mut out = String::new();
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            writeln!(out, "{line}").unwrap();
            let words: Vec<&str> = command.split_whitespace().collect();
            answer(&mut world, &words, &mut out);
        } else if line.is_empty() || line.starts_with('#') {
            writeln!(out, "{line}").unwrap();
        }
    }
    out
}

fn answer(world: &mut World, words: &[&str], out: &mut String) {
    match words {
        ["node", name, rest @ ..] => {
            let id = world.observed.nodes.len() as u64 + 1;
            let mut new = node(id, name, "us", "one");
            for (key, value) in rest.iter().map(|word| word.split_once('=').unwrap()) {
                match key {
                    "region" => new.region = value.to_owned(),
                    "zone" => new.zone = value.to_owned(),
                    "functions" => new.capacity.functions = value.parse().unwrap(),
                    "mib" => new.capacity.memory_bytes = value.parse::<u64>().unwrap() * MIB,
                    label => {
                        let key = label.strip_prefix("label:").unwrap();
                        new.labels.insert(key.to_owned(), value.to_owned());
                    }
                }
            }
            world.observed.nodes.push(new);
        }
        ["function", key, rest @ ..] => {
            let old = world.desired.functions.iter().position(|need| need.key == *key);
            let mut wish = old.map_or(need(key, 1), |i| world.desired.functions.remove(i));
            rest.iter().for_each(|word| set(&mut wish, word));
            world.desired.functions.push(wish);
        }
        ["delete", key] => world.desired.functions.retain(|need| need.key != *key),
        ["forget", name] => world.observed.nodes.retain(|node| node.name != *name),
        ["drain", name] => world.node(name).draining = true,
        ["undrain", name] => world.node(name).draining = false,
        ["kill", name] => {
            let now_ms = world.now_ms;
            world.node(name).dead_since_ms = Some(now_ms);
        }
        ["revive", name] => world.node(name).dead_since_ms = None,
        ["wait", ms] => world.now_ms += ms.parse::<u64>().unwrap(),
        ["ready"] => world.ready(),
        ["plan"] => {
            let plan = world.step();
            for command in &plan.commands {
                writeln!(out, "{command}").unwrap();
            }
            for kept in
                plan.decisions.iter().filter(|d| d.verdict == swarmer_scheduler::Verdict::Kept)
            {
                writeln!(out, "{kept}").unwrap();
            }
            for conflict in &plan.conflicts {
                writeln!(out, "conflict {conflict}").unwrap();
            }
            if let Some(at) = plan.replan_at_ms {
                writeln!(out, "again at {at} ms").unwrap();
            }
            if plan.is_empty() {
                writeln!(out, "nothing to do").unwrap();
            }
        }
        ["explain", key] => {
            for decision in world.explain(key) {
                writeln!(out, "{decision}").unwrap();
            }
        }
        ["where", key] => writeln!(out, "{}", world.on(key).join(" ")).unwrap(),
        ["candidates", key] => {
            let wish = world.desired.functions.iter().find(|need| need.key == *key).unwrap();
            let nodes: Vec<CandidateNode> = world
                .observed
                .nodes
                .iter()
                .filter(|node| misfit(wish, node).is_none())
                .map(|node| CandidateNode { id: node.id, region: &node.region })
                .collect();
            let name = |id: &NodeId| {
                world.observed.nodes.iter().find(|node| node.id == *id).unwrap().name.clone()
            };
            let chosen = candidates(key, &wish.regions, &nodes);
            writeln!(out, "{}", chosen.iter().map(name).collect::<Vec<_>>().join(" ")).unwrap();
        }
        other => panic!("no such command: {other:?}"),
    }
}

fn set(wish: &mut FunctionNeed, word: &str) {
    let (key, value) = word.split_once('=').unwrap();
    let list = || value.split(',').filter(|v| !v.is_empty()).map(str::to_owned).collect();
    match key {
        "replicas" => wish.replicas = value.parse().unwrap(),
        "mib" => wish.memory_bytes = value.parse::<u64>().unwrap() * MIB,
        "priority" => wish.priority = value.parse().unwrap(),
        "regions" => wish.regions = list(),
        "zones" => wish.zones = list(),
        "spread" => wish.spread = if value == "node" { Spread::Node } else { Spread::Zone },
        label => {
            let key = label.strip_prefix("label:").unwrap();
            wish.labels.insert(key.to_owned(), value.to_owned());
        }
    }
}
