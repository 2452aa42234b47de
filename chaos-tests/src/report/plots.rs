//! Latencies as points, operations in each second as bars.

use std::fmt::Write as _;

use super::{
    escape,
    scale::{LEFT, Time, WIDTH, drawing},
    seconds,
};
use crate::{
    history::{Action, Operation, Outcome},
    run::{Run, Scenario},
};

/// More points than this help nobody and make the page slow; all that are not ok are drawn.
const MAX_POINTS: usize = 4_000;
const HEIGHT: f64 = 220.0;
/// The axis of latency is logarithmic, between these.
const LEAST_MS: f64 = 0.2;
const DECADES: f64 = 5.0;

/// Watches and a stranger's bursts last by their nature; a retirement and what the nemesis does are no
/// operations of the cluster.
fn counts(operation: &Operation) -> bool {
    let lasts = matches!(operation.action, Action::Watch { .. } | Action::Retire { .. });
    !lasts && !operation.is_strange() && !operation.is_note()
}

fn class(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Ok { .. } => "ok",
        Outcome::Failed { .. } => "failed",
        Outcome::Unknown { .. } | Outcome::Harness { .. } => "unknown",
    }
}

fn y(ms: f64) -> f64 {
    HEIGHT * (1.0 - ((ms / LEAST_MS).log10() / DECADES).clamp(0.0, 1.0))
}

/// Each operation by its beginning and how long it took.
pub(super) fn latency(run: &Run) -> String {
    let all = run.history.iter().filter(|op| counts(op)).collect();
    points(run, all, "latency of operations over time")
}

/// The same for each region, of operations at its nodes, with what half of those that were ok took at
/// most and what 99 of a hundred; empty if the nodes stand in one place.
pub(super) fn by_region(run: &Run) -> String {
    let scenario = Scenario::named(&run.plan.scenario);
    let Some(regions) = scenario.and_then(|scenario| scenario.regions) else {
        return String::new();
    };
    let mut text = String::new();
    for (name, nodes) in regions.names.iter().zip(regions.groups()) {
        let names: Vec<String> = nodes.iter().map(|node| format!("n{}", node + 1)).collect();
        let here = |op: &&Operation| counts(op) && names.contains(&op.node);
        let all: Vec<&Operation> = run.history.iter().filter(here).collect();
        let (mut api, mut calls) = (Vec::new(), Vec::new());
        for operation in all.iter().filter(|operation| operation.is_ok()) {
            let is_call = matches!(operation.action, Action::Call { .. } | Action::Post { .. });
            (if is_call { &mut calls } else { &mut api }).push(took_ms(operation));
        }
        let _ = write!(
            text,
            "<h3>{name}: {}</h3>{}<p>API: {} · functions: {}</p>",
            names.join(" "),
            points(run, all, &format!("latency of operations in {name} over time")),
            told(api),
            told(calls)
        );
    }
    text
}

/// Median and 99th percentile, for people.
fn told(mut ms: Vec<f64>) -> String {
    ms.sort_by(f64::total_cmp);
    let at = |percent: usize| ms.get((ms.len() * percent).div_ceil(100).saturating_sub(1));
    match (at(50), at(99)) {
        (Some(half), Some(most)) => {
            format!("{} ok, half within {half:.0} ms, 99 % within {most:.0} ms", ms.len())
        }
        _ => "none ok".to_owned(),
    }
}

fn took_ms(operation: &Operation) -> f64 {
    seconds(operation.completed_ns - operation.invoked_ns) * 1_000.0
}

fn points(run: &Run, all: Vec<&Operation>, label: &str) -> String {
    let time = Time::of(run);
    let mut svg = time.bands(run, HEIGHT) + &time.axis(HEIGHT);
    for ms in [1_u32, 10, 100, 1_000, 10_000] {
        let at = y(ms.into());
        let text = if ms < 1_000 { format!("{ms} ms") } else { format!("{} s", ms / 1_000) };
        let _ = write!(
            svg,
            "<line class=axis x1={LEFT} x2={WIDTH} y1={at:.1} y2={at:.1} />\
             <text x={:.0} y={:.1} text-anchor=end>{text}</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    let good = all.iter().filter(|operation| operation.is_ok()).count();
    let every = good.div_ceil(MAX_POINTS).max(1);
    let mut seen = 0;
    for operation in all {
        if operation.is_ok() {
            seen += 1;
            if seen % every != 0 {
                continue;
            }
        }
        let title = if operation.is_ok() {
            String::new()
        } else {
            format!("<title>{}</title>", escape(&operation.to_string()))
        };
        let _ = write!(
            svg,
            "<circle class={} cx={:.1} cy={:.1} r=1.6>{title}</circle>",
            class(&operation.outcome),
            time.x(operation.invoked_ns),
            y(took_ms(operation))
        );
    }
    let sample =
        if every > 1 { format!(" (one of {every} of the ok ones)") } else { String::new() };
    drawing(HEIGHT, label, &svg)
        + &format!("<p>blue: ok{sample} · amber: failed · red: unknown</p>")
}

/// How many ended in each second, by outcome.
pub(super) fn rate(run: &Run) -> String {
    let time = Time::of(run);
    let count = run.history.iter().map(|operation| second(operation.completed_ns)).max();
    let mut bars = vec![[0_u32; 3]; count.unwrap_or(0) + 1];
    for operation in run.history.iter().filter(|operation| counts(operation)) {
        let place = match class(&operation.outcome) {
            "ok" => 0,
            "failed" => 1,
            _ => 2,
        };
        bars[second(operation.completed_ns)][place] += 1;
    }
    let most = bars.iter().map(|bar| bar.iter().sum::<u32>()).max().unwrap_or(0).max(1);
    let height = HEIGHT / 2.0;
    let mut svg = time.bands(run, height) + &time.axis(height);
    let _ = write!(svg, "<text x={:.0} y=10 text-anchor=end>{most}/s</text>", LEFT - 8.0);
    let width = (WIDTH - LEFT) / time.end_s() * 0.8;
    for (at, bar) in bars.iter().enumerate() {
        let x = time.x(at as u64 * 1_000_000_000);
        let mut top = height;
        for (class, count) in ["ok", "failed", "unknown"].into_iter().zip(bar) {
            let tall = height * f64::from(*count) / f64::from(most);
            top -= tall;
            if *count > 0 {
                let _ = write!(
                    svg,
                    "<rect class={class} x={x:.1} y={top:.1} width={width:.1} height={tall:.1}>\
                     <title>{count} {class} in second {at}</title></rect>"
                );
            }
        }
    }
    drawing(height, "operations in each second", &svg)
        + "<p>blue: ok · amber: failed (with refused compare-and-sets) · red: unknown</p>"
}

fn second(ns: u64) -> usize {
    usize::try_from(ns / 1_000_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_and_nearly_all_are_told() {
        let ms = (1..=200).rev().map(f64::from).collect();
        assert_eq!(told(ms), "200 ok, half within 100 ms, 99 % within 198 ms");
        assert_eq!(told(vec![7.0]), "1 ok, half within 7 ms, 99 % within 7 ms");
        assert_eq!(told(Vec::new()), "none ok");
    }
}
