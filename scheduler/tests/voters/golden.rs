//! Golden dialogues, as those of the planner of functions: `tests/voters/golden/*.txt`.
//!
//! `SWARMER_REWRITE_GOLDEN=1 cargo test -p swarmer-scheduler --test voters` writes them anew.

use std::{fmt::Write as _, fs, path::Path};

use swarmer_model::NodeId;
use swarmer_scheduler::{VoterCommand, VoterNode, may_leave};

use crate::world::{World, node};

#[test]
fn golden_dialogues() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/voters/golden");
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

fn named<'a>(world: &'a mut World, name: &str) -> &'a mut VoterNode {
    world.input.nodes.iter_mut().find(|node| node.name == name).unwrap()
}

fn id(world: &World, name: &str) -> NodeId {
    world.input.nodes.iter().find(|node| node.name == name).unwrap().id
}

fn answer(world: &mut World, words: &[&str], out: &mut String) {
    let now_ms = world.now_ms;
    match words {
        ["node", name, rest @ ..] => {
            world.made += 1;
            let id = world.made;
            let mut new = node(id, name, "us", "one");
            for (key, value) in rest.iter().map(|word| word.split_once('=').unwrap()) {
                match key {
                    "region" => new.region = value.to_owned(),
                    "zone" => new.zone = value.to_owned(),
                    other => panic!("no such word: {other}"),
                }
            }
            world.input.nodes.push(new);
        }
        ["wanted", count] => world.input.policy.wanted = count.parse().unwrap(),
        ["voters", names @ ..] => {
            let voters = names.iter().map(|name| id(world, name)).collect();
            world.input.membership.configs = vec![voters];
            world.input.membership.leader = id(world, names[0]);
        }
        ["half", names @ ..] => {
            let voters = names.iter().map(|name| id(world, name)).collect();
            world.input.membership.configs.push(voters);
        }
        ["kill", name] => named(world, name).dead_since_ms = Some(now_ms),
        ["revive", name] => named(world, name).dead_since_ms = None,
        ["drain", name] => named(world, name).draining = true,
        ["leave", name] => {
            let node = id(world, name);
            match may_leave(&world.input, node, now_ms) {
                Ok(()) => named(world, name).leaving = true,
                Err(stuck) => writeln!(out, "refused: {stuck}").unwrap(),
            }
        }
        ["forget", name] => world.input.nodes.retain(|node| node.name != *name),
        ["bar", name, why @ ..] => named(world, name).barred = Some(why.join(" ")),
        ["wait", ms] => world.now_ms += ms.parse::<u64>().unwrap(),
        // The next step alone, which is not carried out.
        ["next"] => match world.step() {
            Some(step) => writeln!(out, "{step}").unwrap(),
            None => writeln!(out, "nothing to do").unwrap(),
        },
        // The next step, of which a learner has not caught up yet.
        ["slowly"] => {
            let step = world.step().unwrap();
            writeln!(out, "{step}").unwrap();
            let VoterCommand::AddLearner { node } = step.command else { panic!("{step}") };
            world.input.membership.learners.insert(node.id, false);
        }
        ["caught", name] => {
            let node = id(world, name);
            world.input.membership.learners.insert(node, true);
        }
        ["plan"] => {
            let mut steps = 0;
            while let Some(step) = world.step() {
                writeln!(out, "{step}").unwrap();
                world.carry_out(&step.command);
                steps += 1;
                assert!(steps < 50, "it never ends");
            }
            let names: Vec<&str> = world
                .input
                .nodes
                .iter()
                .filter(|node| world.voters().contains(&node.id))
                .map(|node| node.name.as_str())
                .collect();
            writeln!(out, "voters: {}", names.join(" ")).unwrap();
        }
        other => panic!("no such command: {other:?}"),
    }
}
