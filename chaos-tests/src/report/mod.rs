//! The page about a run: one file, no script, nothing loaded from elsewhere.

mod plots;
mod scale;
mod table;
mod timeline;

use std::fmt::Write as _;

use crate::{
    check::{Judgement, Verdict},
    nemesis::Mark,
    run::{Coverage, Ending, Run, Scenario, of_version},
};

pub use table::{Ran, Row, Sums, markdown, table};

/// As text of a page.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The page.
pub fn page(run: &Run) -> String {
    let plan = &run.plan;
    let (word, class) = match run.ending() {
        Ending::Passed => ("passed", "good"),
        Ending::Invalid => ("invalid", "bad"),
        Ending::Void => ("void", "doubt"),
    };
    let title = format!("{} · seed {}", plan.scenario, plan.seed);
    let about = Scenario::named(&plan.scenario).map_or("", |scenario| scenario.about);
    let mut page = String::new();
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><title>{word}: {title}</title>\
         <style>{}</style>\n<main><header><h1>{title} <b class={class}>{word}</b></h1>\
         <p>{about}; {} s of faults.</p>\
         <p>Again: <code>chaos-tests replay {} --scenario {}</code></p></header>\n",
        include_str!("page.css"),
        plan.lasts.as_secs(),
        plan.seed,
        plan.scenario,
    );
    page.push_str(&why_void(run));
    page.push_str(&verdicts(&run.verdicts));
    let _ = writeln!(page, "<section><h2>Faults and leaders</h2>{}</section>", timeline::draw(run));
    let _ = writeln!(
        page,
        "<section><h2>Latency</h2><p>Each point is an operation by the time at which it began; \
         grey bands are faults.</p>{}</section>",
        plots::latency(run)
    );
    match plots::by_region(run) {
        regions if regions.is_empty() => {}
        regions => {
            let _ = writeln!(page, "<section><h2>Latency in each region</h2>{regions}</section>");
        }
    }
    let _ =
        writeln!(page, "<section><h2>Operations in each second</h2>{}</section>", plots::rate(run));
    page.push_str(&coverage(&run.coverage, &plan.scenario));
    page.push_str(&faults(run));
    if !run.notes.is_empty() {
        page.push_str("<section><h2>Notes</h2><ul>");
        for note in &run.notes {
            let _ = write!(page, "<li>{}", escape(note));
        }
        page.push_str("</ul></section>\n");
    }
    page.push_str("</main></html>\n");
    page
}

fn why_void(run: &Run) -> String {
    let items: String = run.void.iter().map(|why| format!("<li>{}", escape(why))).collect();
    if items.is_empty() {
        return items;
    }
    format!("<section><h2>Why it proves nothing</h2><ul>{items}</ul></section>\n")
}

fn verdicts(verdicts: &[Verdict]) -> String {
    let mut rows = String::new();
    for verdict in verdicts {
        let (word, class, why) = match &verdict.judgement {
            Judgement::Valid => ("valid", "good", String::new()),
            Judgement::Unknown(why) => ("unknown", "doubt", escape(why)),
            Judgement::Invalid(violations) => {
                let told = violations.iter().map(|why| format!("<pre>{}</pre>", escape(why)));
                let told: String = told.collect();
                ("invalid", "bad", format!("<details open><summary>why</summary>{told}</details>"))
            }
        };
        let _ = write!(
            rows,
            "<tr><td><b class={class}>{word}</b><td>{}{why}<td class=n>{}",
            escape(&verdict.invariant),
            verdict.checked
        );
    }
    format!(
        "<section><h2>Verdicts</h2><table><tr><th>verdict<th>invariant\
         <th class=n>checked{rows}</table></section>\n"
    )
}

fn coverage(coverage: &Coverage, scenario: &str) -> String {
    let needs = Scenario::named(scenario).map(|scenario| scenario.needs).unwrap_or_default();
    let mut rows = String::new();
    let marks = Mark::ALL.into_iter().map(|mark| {
        let need = needs.struck.iter().find(|(needed, _)| *needed == mark);
        (mark.counted(), coverage.of_mark(mark), need.map_or(0, |(_, need)| *need))
    });
    let marks = marks.filter(|(_, have, need)| have + need > 0);
    let always = [
        ("operations ok", coverage.ok, needs.ok),
        ("operations failed", coverage.failed, 0),
        ("operations unknown", coverage.unknown, 0),
        ("transactions over several functions", coverage.txns, needs.txns),
        ("leader changes", coverage.leaders, needs.leaders),
        ("reconnects of followers", coverage.reconnects, needs.reconnects),
        ("looks at a mixed cluster", coverage.mixed, needs.mixed),
        ("calls that had to stay in their region", coverage.near, needs.near),
    ];
    let strange = coverage.strange.iter().flat_map(|(what, (packets, refused))| {
        let told = what.counted();
        [(told.to_owned(), *packets, 0), (format!("refusals of {told}"), *refused, 0)]
    });
    let versions =
        coverage.sent.iter().map(|(version, have)| (of_version(*version), *have, needs.sent));
    let named = always.into_iter().chain(marks);
    let named = named.map(|(what, have, need)| (what.to_owned(), have, need));
    for (what, have, need) in named.chain(versions).chain(strange) {
        let need = if need > 0 { need.to_string() } else { String::new() };
        let _ = write!(rows, "<tr><td>{what}<td class=n>{have}<td class=n>{need}");
    }
    format!(
        "<section><h2>Coverage</h2><table><tr><th>what<th class=n>was\
         <th class=n>at least{rows}</table></section>\n"
    )
}

fn faults(run: &Run) -> String {
    let mut rows = String::new();
    let mut faults: Vec<_> = run.faults.iter().collect();
    faults.sort_by_key(|fault| fault.from_ns);
    for fault in faults {
        let nodes: Vec<String> = fault.nodes.iter().map(|node| format!("n{}", node + 1)).collect();
        let _ = write!(
            rows,
            "<tr><td class=n>{:.2}<td class=n>{:.2}<td>{}<td>{}",
            seconds(fault.from_ns),
            seconds(fault.to_ns),
            escape(&fault.what),
            nodes.join(" ")
        );
    }
    format!(
        "<section><h2>Faults as they struck</h2><table><tr><th class=n>from, s<th class=n>to, s\
         <th>fault<th>struck{rows}</table></section>\n"
    )
}

/// For people.
pub(crate) fn seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}

#[cfg(test)]
mod tests;
