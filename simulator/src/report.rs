//! What people and other processes read.

use std::io::Write as _;

use crate::{oracle::Counts, run::Verdict};

/// Prints a line; a reader that went away is no reason to panic.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// One run in a line, and what is wrong with it below.
pub(crate) fn verdict(verdict: &Verdict, again: &str) {
    let Verdict { seed, voters, followers, counts: c, revisions, .. } = verdict;
    let word = match (&verdict.violations[..], &verdict.void) {
        ([], None) => "valid  ".to_owned(),
        ([], Some(why)) => format!("void ({why})"),
        _ => "INVALID".to_owned(),
    };
    line(&format!(
        "{word} seed {seed}: {voters} voters, {followers} followers, {revisions} revisions, {} \
         acknowledged, {} reads, {} watched, {} leaders, {} faults, {} starts; hash {}",
        c.done, c.reads, c.watched, c.leaders, c.faults, c.starts, verdict.hash
    ));
    for violation in &verdict.violations {
        line(&format!("    {}: {}", violation.invariant, violation.text));
    }
    if !verdict.violations.is_empty() {
        line(&format!("    again: {again}"));
    }
}

/// What many runs went through, all in all.
pub(crate) fn coverage(verdicts: &[Verdict]) {
    let sum = |count: fn(&Counts) -> u64| verdicts.iter().map(|v| count(&v.counts)).sum::<u64>();
    line(&format!(
        "coverage: {} writes acknowledged, {} refused by a check, {} refused, {} unknown, {} \
         reads, {} changes watched, {} listings, {} leaders, {} faults ({} power cuts), {} \
         starts, {} purges, {} feeds, {} plans committed, {} messages, {} datagrams",
        sum(|c| c.done),
        sum(|c| c.conflicts),
        sum(|c| c.refused),
        sum(|c| c.unknown),
        sum(|c| c.reads),
        sum(|c| c.watched),
        sum(|c| c.listings),
        sum(|c| c.leaders),
        sum(|c| c.faults),
        sum(|c| c.power_cuts),
        sum(|c| c.starts),
        sum(|c| c.purges),
        sum(|c| c.feeds),
        sum(|c| c.placements),
        verdicts.iter().map(|v| v.messages).sum::<u64>(),
        verdicts.iter().map(|v| v.datagrams).sum::<u64>(),
    ));
}
