//! What is printed.

use super::{
    FOUNDERS, Failure, Health,
    trial::{Event, Outcome},
};
use crate::{histogram::Histogram, machine::millis};

/// Clients that send less than this share of what they should say that the machine is too busy.
const PACE: f64 = 0.9;

/// A row for each thing that was done, and how it came about.
pub(super) fn print(health: &Health, outcomes: &[(Event, Vec<Outcome>)], filters: bool) {
    let (nodes, copies, trials) = (health.nodes, health.copies, health.trials);
    println!(
        "### Health: {nodes} nodes, {copies} copies, a request every {} ms at each node, seed {}\n",
        health.every, health.seed
    );
    println!(
        "| what happens to one copy | trials | last request to it, of each other node: p50 ms | \
         p99 ms | worst ms | requests to it until then: p50, most of a node | to try it, later | nodes that \
         never leave it alone | requests | failed | failed at its node | tried after it ended |"
    );
    println!("|---|{}", "---:|".repeat(11));
    for (event, outcomes) in outcomes {
        let (mut last, mut counts) = (Histogram::default(), Vec::new());
        for sender in outcomes.iter().flat_map(|outcome| &outcome.senders) {
            last.record(sender.last);
            counts.push(sender.sent);
        }
        counts.sort_unstable();
        let middle = counts.get(counts.len() / 2).copied().unwrap_or_default();
        let most = counts.last().copied().unwrap_or_default();
        let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
        let to_the_end: usize = outcomes.iter().map(|outcome| outcome.to_the_end).sum();
        let later: u64 = outcomes.iter().flat_map(|o| &o.senders).map(|s| s.later).sum();
        let away = matches!(event, Event::Killed | Event::Stopped);
        let there = match away {
            true => "–".to_owned(),
            false => sum(|outcome| outcome.failed_there).to_string(),
        };
        let after_end = match event {
            Event::Stopped => sum(|outcome| outcome.after_end).to_string(),
            _ => "–".to_owned(),
        };
        println!(
            "| {} | {trials} | {} | {} | {} | {middle}, {most} | {later} | {to_the_end} of {} | {} | {} | \
             {there} | {after_end} |",
            name(*event, health.failure),
            millis(last.quantile(0.5)),
            millis(last.quantile(0.99)),
            millis(last.max()),
            counts.len(),
            sum(|outcome| outcome.requests),
            sum(|outcome| outcome.failed),
        );
    }
    notes(health, outcomes, filters);
}

fn name(event: Event, failure: Failure) -> &'static str {
    match (event, failure) {
        (Event::Fails, Failure::Trap) => "it traps at every request",
        (Event::Fails, Failure::Answer) => "it answers every request with 502",
        (Event::Killed, _) => "its node is killed, kill -9",
        (Event::Drained, _) => "its node is drained, `swarmer drain`",
        (Event::Stopped, _) => "its node is stopped, SIGTERM",
    }
}

fn notes(health: &Health, outcomes: &[(Event, Vec<Outcome>)], filters: bool) {
    println!(
        "\nAll nodes on one machine, in a network namespace of their own; {FOUNDERS} of them vote, \
         and a copy that is struck is not theirs if another is to be had. Watched for {} s after \
         each event. Who answered says `x-swarmer-node`; what was tried in vain, and then elsewhere, \
         each node's log (`swarmer::dispatch`); the time is that at which it began. Zero: no \
         request went there any more. A node has left it alone when it sends it nothing for two \
         seconds; what it sends later is to try whether it is well again. Nodes are counted once in \
         each trial. A node with a copy of its own sends none to another one. The client of a node that goes away \
         rests meanwhile; of the others every request counts that ended after the event. The copy \
         fails as what it calls is refused to its node alone, by nftables.",
        health.watch
    );
    let pace = pace(health, outcomes);
    if pace < PACE {
        println!(
            "\n> The clients got to {:.0} % of their pace: the machine was too busy, and what failed \
             may have failed for that.",
            pace * 100.0
        );
    }
    for (event, outcomes) in outcomes {
        if let Some(fault) = outcomes.iter().find_map(|outcome| outcome.first_fault.as_ref()) {
            let name = name(*event, health.failure);
            println!("\nThe first failed request, when {name}: {}.", fault.trim());
        }
    }
    if !filters {
        println!("\nNo copy was made fail: `nft` is not to be had here.");
    }
    println!();
}

/// The share of the requests that the clients of the other nodes should have sent, in the worst of
/// the trials.
fn pace(health: &Health, outcomes: &[(Event, Vec<Outcome>)]) -> f64 {
    let full = health.watch * 1000 / health.every * (health.nodes as u64 - 1);
    let all = outcomes.iter().flat_map(|(_, outcomes)| outcomes);
    all.map(|outcome| outcome.requests as f64 / full as f64).fold(1.0, f64::min)
}
