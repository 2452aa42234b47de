//! What is printed.

use std::time::Duration;

use super::{Found, Members, change::ASK, subject::SEEDS, watch::LOOK};
use crate::{
    histogram::Histogram,
    machine::{mebibytes, millis},
};

/// One table, and how it came about.
pub(super) fn print(members: &Members, found: &[Found]) {
    let names: Vec<&str> = found.iter().map(|found| found.kind.name()).collect();
    println!("### Members: {} nodes of each, seed {}\n", members.nodes, members.seed);
    println!("| what | {} |", names.join(" | "));
    println!("|---|{}", "---:|".repeat(names.len()));
    let row = |what: &str, cell: &dyn Fn(&Found) -> String| {
        let cells: Vec<String> = found.iter().map(cell).collect();
        println!("| {what} | {} |", cells.join(" | "));
    };
    row("all know all after the start, s", &|f| seconds(f.start));
    row("at rest, on the wire: bytes/s a node", &|f| format!("{:.0}", f.rest.bytes));
    row("at rest, on the wire: packets/s a node", &|f| format!("{:.1}", f.rest.packets));
    row("of that by gossip, without headers: bytes/s a node", &|f| {
        f.rest.gossip.map_or("all".to_owned(), |bytes| format!("{bytes:.0}"))
    });
    row("at rest: CPU of a node, % of a core", &|f| format!("{:.2}", f.rest.cpu * 100.0));
    row("memory of a node, MiB: PSS", &|f| mebibytes(f.rest.pss_bytes));
    row("memory of a node, MiB: RSS", &|f| mebibytes(f.rest.rss_bytes));
    row("words that a living member is dead", &|f| f.false_deaths.to_string());
    if members.changes > 0 {
        let (changes, observers) = (members.changes, members.observers.min(members.nodes - 1));
        let what = format!("a changed fact at {observers} others, {changes} times: p50, p99 ms");
        row(&what, &|f| both(&f.changes, millis));
    }
    if found.iter().any(|found| found.cut.is_some()) {
        let cut = |cell: &dyn Fn(&super::Cut) -> String, found: &Found| {
            found.cut.as_ref().map_or("–".to_owned(), cell)
        };
        let what = format!("half of them cut off for {} s: dead for each other, s", members.apart);
        row(&what, &|f| cut(&|cut| cut.apart.map_or("not all of them".to_owned(), seconds), f));
        row("joined again: a node sees all alive, p50, p99 s", &|f| {
            cut(&|cut| both(&cut.healed, seconds), f)
        });
        row("joined again: all see all alive, s", &|f| cut(&|cut| seconds(cut.healed.max()), f));
    }
    if members.deaths > 0 {
        let times = members.deaths;
        row(
            &format!("kill -9 of a node, {times} times: known to the first, p50, worst ms"),
            &|f| {
                format!(
                    "{}, {}",
                    millis(f.deaths.first.quantile(0.5)),
                    millis(f.deaths.first.max())
                )
            },
        );
        row("known to each, p50, p99 ms", &|f| both(&f.deaths.each, millis));
        row("known to all, p50, worst ms", &|f| {
            format!("{}, {}", millis(f.deaths.all.quantile(0.5)), millis(f.deaths.all.max()))
        });
    }
    notes(members, found);
}

fn notes(members: &Members, found: &[Found]) {
    println!(
        "\nOne after the other, each in a network namespace of its own. On the wire is what its \
         loopback carried, with headers: of Swarmer all that its nodes send, Raft with its feed and \
         the keep-alive of connections in it, encrypted; of serf UDP and TCP, with its defaults \
         (LAN) and thus in the clear. CPU and memory are of the process, from /proc. The first \
         {SEEDS} nodes of each are the seeds, of Swarmer also the founders and voters; none of them \
         is killed or changed. The time of the start has the founding and the admission of each \
         node by a token in it. No cluster was asked while it was counted."
    );
    println!(
        "\nAll nodes are watched by their logs, looked at every {LOOK:?}. A death is known when a \
         node calls the other dead (Swarmer) or failed (serf), not when it suspects it. A changed \
         fact is of serf a tag, set by its RPC and seen in the logs; of Swarmer that a node that was \
         told to stop takes no new work, said by gossip alone and seen by asking {} nodes for their \
         members every {ASK:?}, so it is late by up to that.",
        members.observers.min(members.nodes - 1)
    );
    if members.apart > 0 && found.iter().any(|found| found.cut.is_none()) {
        println!("\nNo half was cut off: `nft` is not to be had here.");
    }
    println!();
}

fn both(times: &Histogram, unit: fn(Duration) -> String) -> String {
    format!("{}, {}", unit(times.quantile(0.5)), unit(times.quantile(0.99)))
}

fn seconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}
