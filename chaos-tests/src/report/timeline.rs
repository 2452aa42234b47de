//! Who led when, and what struck whom.

use std::fmt::Write as _;

use super::{
    escape,
    scale::{LEFT, Time, WIDTH, drawing},
    seconds,
};
use crate::{
    nemesis::Mark,
    run::{Run, Scenario},
};

const LANE: f64 = 22.0;
const BAR: f64 = 14.0;

/// A lane for the leader, one for each node, one for the network.
pub(super) fn draw(run: &Run) -> String {
    let nodes = Scenario::named(&run.plan.scenario).map_or(3, |scenario| scenario.nodes);
    // The guest has a lane if anything was done to it.
    let struck = run.faults.iter().flat_map(|fault| &fault.nodes).map(|node| node + 1);
    let nodes = struck.max().unwrap_or(0).max(nodes);
    let time = Time::of(run);
    let height = LANE * (nodes as f64 + 2.0);
    let mut svg = time.axis(height);
    let names = (1..=nodes).map(|node| format!("n{node}"));
    let names = std::iter::once("leader".to_owned()).chain(names).chain(["network".to_owned()]);
    for (lane, name) in names.enumerate() {
        let y = lane as f64 * LANE;
        let _ = write!(
            svg,
            "<text x={:.0} y={:.0} text-anchor=end>{name}</text>\
             <line class=axis x1={LEFT} x2={WIDTH} y1={y} y2={y} />",
            LEFT - 8.0,
            y + BAR
        );
    }
    let ends = run.leaders.iter().skip(1).map(|leader| leader.from_ns);
    let last = run.history.iter().map(|operation| operation.completed_ns).max().unwrap_or(0);
    for (leader, to) in run.leaders.iter().zip(ends.chain([last])) {
        let what = format!(
            "n{} leads in term {} from {:.2} s",
            leader.node + 1,
            leader.term,
            seconds(leader.from_ns)
        );
        let class = format!("n{}", leader.node + 1);
        svg.push_str(&bar(&time, 0, &class, (leader.from_ns, to), &what));
    }
    for fault in &run.faults {
        let lanes: Vec<usize> = match fault.nodes.is_empty() {
            true if fault.kind.is_network() => vec![nodes + 1],
            _ => fault.nodes.iter().map(|node| node + 1).collect(),
        };
        for lane in lanes {
            let span = (fault.from_ns, fault.to_ns);
            svg.push_str(&bar(&time, lane, fault.kind.name(), span, &fault.what));
        }
    }
    let mut marks: Vec<Mark> = run.faults.iter().map(|fault| fault.kind).collect();
    marks.sort_unstable();
    marks.dedup();
    let keys: String =
        marks.into_iter().map(|mark| format!(" · <b class=\"key {mark}\">{mark}</b>")).collect();
    let key = format!("<p>leader: one colour a node{keys}</p>");
    drawing(height, "faults and leaders over time", &svg) + &key
}

fn bar(time: &Time, lane: usize, class: &str, (from, to): (u64, u64), what: &str) -> String {
    let (x, width, y) = (time.x(from), time.span(from, to), lane as f64 * LANE + 4.0);
    format!(
        "<rect class=\"{}\" x={x:.1} width={width:.1} y={y} height={BAR} rx=2>\
         <title>{}</title></rect>",
        escape(class),
        escape(what)
    )
}
