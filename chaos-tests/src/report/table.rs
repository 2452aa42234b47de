//! The table of many runs: as Markdown, and as a page that loads nothing.

use std::{collections::BTreeMap, fmt::Write as _};

use super::escape;
use crate::{
    nemesis::Mark,
    run::{Ending, Run},
};

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// The scenario.
    pub scenario: String,
    /// Its seed; none if it was not run.
    pub seed: Option<u64>,
    /// What came of it.
    pub result: Result<Ran, String>,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Ran {
    /// How it ended.
    pub ending: Ending,
    /// Seconds of faults.
    pub lasted_s: u64,
    /// Operations that were ok, failed and unknown.
    pub told: (u64, u64, u64),
    /// Changes of the leader.
    pub leaders: u64,
    /// How often each fault struck, counted as in the coverage.
    pub struck: BTreeMap<Mark, u64>,
    /// How often power was cut, whatever the number of nodes that lost it.
    pub power_cuts: u64,
    /// Verdicts that are valid, and all of them.
    pub valid: (usize, usize),
    /// Why it is not valid or proves nothing.
    pub why: Vec<String>,
    /// The folder that its page is in.
    pub folder: String,
}

impl Ran {
    /// The line of a run that is kept in `folder`.
    pub fn of(run: &Run, folder: String) -> Self {
        let coverage = &run.coverage;
        let invalid = run.verdicts.iter().filter(|verdict| !verdict.is_valid());
        let why = invalid.map(|verdict| verdict.invariant.to_string()).chain(run.void.clone());
        Self {
            ending: run.ending(),
            lasted_s: run.plan.lasts.as_secs(),
            told: (coverage.ok, coverage.failed, coverage.unknown),
            leaders: coverage.leaders,
            struck: coverage.struck.clone(),
            power_cuts: run.faults.iter().filter(|fault| fault.kind == Mark::Power).count() as u64,
            valid: (
                run.verdicts.iter().filter(|verdict| verdict.is_valid()).count(),
                run.verdicts.len(),
            ),
            why: why.collect(),
            folder,
        }
    }
}

/// What all runs came to.
#[derive(Debug, Clone, Default)]
pub struct Sums {
    /// How many ended how, by the word for it.
    pub endings: BTreeMap<&'static str, u64>,
    /// Operations that were ok.
    pub ok: u64,
    /// Changes of the leader.
    pub leaders: u64,
    /// How often each fault struck.
    pub struck: BTreeMap<Mark, u64>,
    /// How often power was cut in runs that proved something.
    pub power_cuts: u64,
    /// Seconds of faults.
    pub lasted_s: u64,
}

impl Sums {
    /// Of these rows.
    pub fn of(rows: &[Row]) -> Self {
        let mut sums = Self::default();
        for row in rows {
            *sums.endings.entry(word(row)).or_default() += 1;
            let Ok(ran) = &row.result else { continue };
            sums.ok += ran.told.0;
            sums.leaders += ran.leaders;
            sums.lasted_s += ran.lasted_s;
            for (mark, times) in &ran.struck {
                *sums.struck.entry(*mark).or_default() += times;
            }
            // A void run proves nothing, so what struck in it does not count as survived.
            if ran.ending != Ending::Void {
                sums.power_cuts += ran.power_cuts;
            }
        }
        sums
    }

    /// In a sentence.
    fn told(&self) -> String {
        let endings: Vec<String> =
            self.endings.iter().map(|(word, times)| format!("{times} {word}")).collect();
        format!(
            "{} s of faults, runs: {}; {} operations ok, {} leader changes; {}; power was cut {} \
             times in runs that count",
            self.lasted_s,
            endings.join(", "),
            self.ok,
            self.leaders,
            struck(&self.struck),
            self.power_cuts
        )
    }
}

fn word(row: &Row) -> &'static str {
    match (&row.result, row.seed) {
        (Ok(ran), _) => match ran.ending {
            Ending::Passed => "passed",
            Ending::Invalid => "INVALID",
            Ending::Void => "void",
        },
        (Err(_), Some(_)) => "broken",
        (Err(_), None) => "skipped",
    }
}

fn struck(struck: &BTreeMap<Mark, u64>) -> String {
    let told: Vec<String> =
        struck.iter().map(|(mark, times)| format!("{times} {}", mark.counted())).collect();
    if told.is_empty() { "no fault".to_owned() } else { told.join(", ") }
}

const HEADS: [&str; 10] = [
    "scenario",
    "seed",
    "faults for",
    "ok",
    "failed",
    "unknown",
    "leader changes",
    "struck",
    "verdicts",
    "ending",
];

fn cells(row: &Row) -> [String; 10] {
    let seed = row.seed.map_or_else(String::new, |seed| seed.to_string());
    match &row.result {
        Ok(ran) => [
            row.scenario.clone(),
            seed,
            format!("{} s", ran.lasted_s),
            ran.told.0.to_string(),
            ran.told.1.to_string(),
            ran.told.2.to_string(),
            ran.leaders.to_string(),
            struck(&ran.struck),
            format!("{} of {} valid", ran.valid.0, ran.valid.1),
            std::iter::once(word(row))
                .chain(ran.why.iter().map(String::as_str))
                .collect::<Vec<_>>()
                .join("; "),
        ],
        Err(why) => {
            let mut cells: [String; 10] = Default::default();
            cells[0].clone_from(&row.scenario);
            cells[1] = seed;
            cells[9] = format!("{}: {why}", word(row));
            cells
        }
    }
}

/// As Markdown.
pub fn markdown(title: &str, rows: &[Row]) -> String {
    let mut text = format!("# {title}\n\n{}\n\n", Sums::of(rows).told());
    let _ = writeln!(text, "| {} |", HEADS.join(" | "));
    let _ = writeln!(text, "|---|---:|---:|---:|---:|---:|---:|---|---|---|");
    for row in rows {
        let cells = cells(row).map(|cell| cell.replace('|', "\\|").replace('\n', " "));
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

/// As a page, with a link to the page of each run.
pub fn table(title: &str, rows: &[Row]) -> String {
    let mut text = format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><title>{title}</title>\
         <style>{}</style>\n<main><header><h1>{title}</h1><p>{}</p></header><section><table><tr>",
        include_str!("page.css"),
        escape(&Sums::of(rows).told()),
        title = escape(title),
    );
    HEADS.iter().for_each(|head| _ = write!(text, "<th>{head}"));
    for row in rows {
        text.push_str("\n<tr>");
        let mut cells = cells(row).map(|cell| escape(&cell));
        if let Ok(ran) = &row.result {
            cells[0] = format!("<a href=\"{}/report.html\">{}</a>", escape(&ran.folder), cells[0]);
        }
        let class = match &row.result {
            Ok(ran) if ran.ending == Ending::Passed => "good",
            Ok(ran) if ran.ending == Ending::Invalid => "bad",
            _ => "doubt",
        };
        cells[9] = format!("<b class={class}>{}</b>", cells[9]);
        cells.iter().for_each(|cell| _ = write!(text, "<td>{cell}"));
    }
    text.push_str("\n</table></section></main></html>\n");
    text
}
