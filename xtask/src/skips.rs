//! How many tests were skipped, why, and whether they should have been.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use swarmer_testkit::{Capability, Skip};

/// What became of the tests.
#[derive(Debug)]
pub(crate) struct Report {
    /// For people: every skipped test with its reason.
    pub(crate) text: String,
    /// What must not be, one line each.
    pub(crate) faults: Vec<String>,
}

/// Judges the skips in `log` (lines of [`Skip`]) and the ignored tests in `output` (what
/// `cargo test` printed). `has` tells what this machine has.
pub(crate) fn report(log: &str, output: &str, has: &dyn Fn(Capability) -> bool) -> Report {
    let probed = RefCell::new(BTreeMap::new());
    let has = |capability: Capability| {
        *probed.borrow_mut().entry(capability).or_insert_with(|| has(capability))
    };
    let tests = Tests::read(output);
    let mut faults = Vec::new();
    let mut by_capability: BTreeMap<Capability, BTreeSet<String>> = BTreeMap::new();
    let mut children = Vec::new();
    for line in log.lines().filter(|line| !line.is_empty()) {
        match line.parse::<Skip>() {
            Ok(skip) => {
                by_capability.entry(skip.needs).or_default().insert(skip.test);
            }
            Err(error) => faults.push(format!("skip log: {error}")),
        }
    }
    for (test, reason) in &tests.ignored {
        let reason = reason.as_deref().unwrap_or_default();
        if let Some(needs) = reason.strip_prefix("needs ") {
            match needs.parse::<Capability>() {
                Ok(needs) => {
                    by_capability.entry(needs).or_default().insert(test.clone());
                }
                Err(error) => faults.push(format!("{test} is ignored, {reason:?}: {error}")),
            }
        } else if let Some(parent) = reason.strip_prefix("child of ") {
            if tests.passed.contains(parent) {
                children.push(format!("{test}, started by {parent}"));
            } else {
                faults.push(format!("{test} is a child of {parent}, which did not pass"));
            }
        } else {
            faults.push(format!(
                "{test} is ignored for no reason that a machine can lack; say \
                 #[ignore = \"needs <capability>\"] or #[ignore = \"child of <test>\"], or let it run"
            ));
        }
    }
    if tests.ignored.len() != tests.ignored_sum {
        faults.push(format!(
            "{} tests were ignored and {} of them have a name: the output is not whole",
            tests.ignored_sum,
            tests.ignored.len()
        ));
    }
    if tests.results == 0 {
        faults.push("no \"test result\" in the output: no test ran".to_owned());
    }
    let skipped: usize = by_capability.values().map(BTreeSet::len).sum();
    let mut text = format!("{} tests passed, {skipped} skipped", tests.passed_sum);
    for (capability, names) in &by_capability {
        let there = has(*capability);
        let lacking = if there { "which is there" } else { capability.remedy() };
        let _ = write!(text, "\n  {} need {capability} ({lacking}):", names.len());
        for name in names {
            let _ = write!(text, "\n    {name}");
            if there {
                faults.push(format!("{name} was skipped: this machine has {capability}"));
            }
        }
    }
    if !children.is_empty() {
        let _ = write!(text, "\n  {} ran inside of another test:", children.len());
        children.iter().for_each(|child| text.extend(["\n    ", child]));
    }
    Report { text, faults }
}

/// What the test harness printed.
#[derive(Debug, Default)]
struct Tests {
    passed: BTreeSet<String>,
    ignored: Vec<(String, Option<String>)>,
    results: usize,
    passed_sum: usize,
    ignored_sum: usize,
}

impl Tests {
    fn read(output: &str) -> Self {
        let mut tests = Self::default();
        for line in output.lines() {
            if let Some(counts) = line.strip_prefix("test result: ") {
                tests.results += 1;
                tests.passed_sum += count(counts, " passed");
                tests.ignored_sum += count(counts, " ignored");
            } else if let Some((test, outcome)) =
                line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
            {
                if outcome == "ok" {
                    tests.passed.insert(test.to_owned());
                } else if let Some(reason) = outcome.strip_prefix("ignored") {
                    let reason = reason.strip_prefix(", ").map(str::to_owned);
                    tests.ignored.push((test.to_owned(), reason));
                }
            }
        }
        tests
    }
}

/// The number before `what`: `3` of `ok. 3 passed; 0 failed`.
fn count(counts: &str, what: &str) -> usize {
    counts
        .split([';', '.'])
        .find_map(|part| part.trim().strip_suffix(what.trim_start()))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 4 tests
test a::works ... ok
test a::child ... ignored, child of a::works
test a::power_cut ... ignored, needs xfs
test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s
test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
    const LOG: &str = "SKIPPED b::partition: needs net-namespaces\n";

    #[test]
    fn skips_for_want_of_something_are_listed() {
        let report = report(LOG, OUTPUT, &|_| false);
        assert_eq!(report.faults, Vec::<String>::new());
        assert!(report.text.starts_with("13 tests passed, 2 skipped"), "{}", report.text);
        for part in ["b::partition", "1 need xfs (run as root", "a::child, started by a::works"] {
            assert!(report.text.contains(part), "{part}: {}", report.text);
        }
    }

    #[test]
    fn a_skip_for_something_that_is_there_is_a_fault() {
        let net = |capability| capability == Capability::NetNamespaces;
        let found = report(LOG, OUTPUT, &net).faults;
        assert_eq!(found, ["b::partition was skipped: this machine has net-namespaces"]);
        let xfs = |capability| capability == Capability::Xfs;
        let found = report(LOG, OUTPUT, &xfs).faults;
        assert_eq!(found, ["a::power_cut was skipped: this machine has xfs"]);
    }

    #[test]
    fn reasons_that_are_none_are_faults() {
        let result = "test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured\n";
        for line in [
            "test a ... ignored",
            "test a ... ignored, slow",
            "test a ... ignored, needs gpu",
            "test a ... ignored, child of b",
        ] {
            let found = report("", &format!("{line}\n{result}"), &|_| false).faults;
            assert_eq!(found.len(), 1, "{line}: {found:?}");
        }
        assert_eq!(report("SKIPPED x\n", OUTPUT, &|_| false).faults.len(), 1);
    }

    #[test]
    fn output_that_is_not_whole_is_a_fault() {
        assert_eq!(report("", "", &|_| false).faults.len(), 1);
        let lost = OUTPUT.replace("test a::power_cut ... ignored, needs xfs\n", "");
        assert_eq!(report("", &lost, &|_| false).faults.len(), 1);
    }
}
