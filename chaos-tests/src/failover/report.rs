//! What all trials say, as a table, and whether it is what was promised.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

use super::{Strike, judge::Seen, trial::Outcome};

/// The 99th percentile from the strike to the first answer from elsewhere is at most this.
const PROMISED_MS: f64 = 5_000.0;
/// From who serves meanwhile to the copy that is back: one change.
const CHANGES: u64 = 1;

/// All trials of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How many clusters shared the trials.
    pub lanes: usize,
    /// One for each trial.
    pub outcomes: Vec<Outcome>,
    /// Trials that could not be made, and why.
    pub not_made: Vec<String>,
}

/// Some of the trials, added up.
#[derive(Debug, Default)]
struct Sums {
    trials: usize,
    /// Sorted. Those that never came are infinite.
    first_ms: Vec<f64>,
    /// Of the trials in which the whole way back was watched; likewise.
    home_ms: Vec<f64>,
    backs: usize,
    down_failed: u64,
    inside_failed: u64,
    back: u64,
    back_failed: u64,
    flaps: usize,
}

impl Sums {
    fn of<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Self {
        let mut sums = Self::default();
        for outcome in outcomes {
            sums.trials += 1;
            sums.backs += usize::from(outcome.trial.back);
            for seen in &outcome.clients {
                if seen.inside {
                    sums.inside_failed += seen.failed_down;
                } else {
                    sums.first_ms.push(seen.first_ms.unwrap_or(f64::INFINITY));
                    if outcome.trial.back {
                        sums.home_ms.push(seen.home_ms.unwrap_or(f64::INFINITY));
                    }
                    sums.down_failed += seen.failed_down;
                }
                sums.back += seen.back;
                sums.back_failed += seen.back_failed;
                sums.flaps += usize::from(flapped(seen));
            }
        }
        sums.first_ms.sort_by(f64::total_cmp);
        sums.home_ms.sort_by(f64::total_cmp);
        sums
    }
}

fn flapped(seen: &Seen) -> bool {
    // Inside it was served by its own copy all the time.
    seen.back_changes > if seen.inside { 0 } else { CHANGES }
}

/// The value that this share of a hundred does not exceed; nearest rank, of sorted values.
fn percentile(sorted: &[f64], share: usize) -> f64 {
    let rank = (sorted.len() * share).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

impl Report {
    /// What was promised and did not hold; empty if all did.
    pub fn missed(&self) -> Vec<String> {
        let sums = Sums::of(self.outcomes.iter());
        let mut missed = self.not_made.clone();
        let never = sums.first_ms.iter().filter(|ms| ms.is_infinite()).count();
        if never > 0 {
            missed.push(format!("{never} clients never had an answer from elsewhere"));
        }
        let p99 = percentile(&sums.first_ms, 99);
        // What never came has been told.
        if p99.is_finite() && p99 > PROMISED_MS {
            missed.push(format!("p99 is {p99:.0} ms and not at most {PROMISED_MS:.0}"));
        }
        let away = sums.home_ms.iter().filter(|ms| ms.is_infinite()).count();
        let counts = [
            (away as u64, "clients were not served by the copy that is back"),
            (sums.inside_failed, "requests failed inside of a region that was cut off"),
            (sums.back_failed, "requests failed while a region came back"),
            (sums.flaps as u64, "clients saw who serves change more often than once"),
        ];
        missed.extend(counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
        missed
    }

    /// As a table for people.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "`chaos-tests failover`, seed {}, {} cluster(s) at the same time. First answer: from the \
             strike to the first 200 from another region, of each client.\n\n",
            self.seed, self.lanes
        );
        text.push_str(
            "| region | struck by | trials | first answers | p50 ms | p99 ms | max ms | failed until \
             it was back | failed inside | requests since it was back | of these failed | flaps | \
             ways home | the longest, s |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        let mut groups: BTreeMap<(Strike, &str), Vec<&Outcome>> = BTreeMap::new();
        for outcome in &self.outcomes {
            groups.entry((outcome.trial.strike, &outcome.region)).or_default().push(outcome);
        }
        for ((strike, region), outcomes) in &groups {
            row(&mut text, region, named(*strike), &Sums::of(outcomes.iter().copied()));
        }
        for strike in [Strike::Kill, Strike::Cut] {
            let sums = Sums::of(self.outcomes.iter().filter(|o| o.trial.strike == strike));
            if sums.trials > 0 {
                row(&mut text, "all", named(strike), &sums);
            }
        }
        let missed = self.missed();
        let promise = "p99 at most 5 s, no failure and no flap on the way back, none inside a cut";
        match &missed[..] {
            [] => text.push_str(&format!("\nPromised and kept: {promise}.\n")),
            missed => {
                text.push_str(&format!("\nPromised: {promise}. Missed: {}.\n", missed.join("; ")))
            }
        }
        text
    }
}

fn named(strike: Strike) -> &'static str {
    match strike {
        Strike::Kill => "kill -9",
        Strike::Cut => "cut off",
    }
}

fn row(text: &mut String, region: &str, strike: &str, sums: &Sums) {
    let ms =
        |value: f64| if value.is_finite() { format!("{value:.0}") } else { "never".to_owned() };
    let Sums { trials, first_ms, home_ms, down_failed, inside_failed, back, .. } = sums;
    let (p50, p99) = (ms(percentile(first_ms, 50)), ms(percentile(first_ms, 99)));
    let max = first_ms.last().map_or_else(|| "-".to_owned(), |last| ms(*last));
    let home = home_ms.last().map_or_else(|| "-".to_owned(), |last| ms(last / 1_000.0));
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "| {region} | {strike} | {trials} | {} | {p50} | {p99} | {max} | {down_failed} | \
         {inside_failed} | {back} | {} | {} | {} | {home} |",
        first_ms.len(),
        sums.back_failed,
        sums.flaps,
        sums.backs,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::Trial;

    fn seen(first_ms: Option<f64>) -> Seen {
        Seen {
            ingress: "n1".into(),
            region: "eu".into(),
            inside: false,
            first_ms,
            failed_down: 0,
            back: 10,
            back_failed: 0,
            back_changes: 1,
            back_path: vec![2, 0],
            home_ms: Some(1.0),
            why: Vec::new(),
        }
    }

    fn report(clients: Vec<Seen>) -> Report {
        let trial = Trial { number: 0, region: 1, strike: Strike::Cut, back: true };
        let (region, home) = ("us".to_owned(), "n3".to_owned());
        let outcomes = vec![Outcome { trial, region, home, away_ms: 1, clients }];
        Report { seed: 1, lanes: 1, outcomes, not_made: Vec::new() }
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(&values, 50), percentile(&values, 99)), (100.0, 198.0));
        assert_eq!(percentile(&[7.0], 99), 7.0);
    }

    #[test]
    fn each_promise_that_is_broken_is_told() {
        assert!(report(vec![seen(Some(4_999.0))]).missed().is_empty());
        let never = report(vec![seen(Some(1.0)), seen(None)]);
        assert!(never.missed()[0].contains("never had an answer"));
        assert!(never.markdown().contains("| never |"));
        assert!(report(vec![seen(Some(5_001.0))]).missed()[0].contains("p99 is 5001"));
        let broken = [
            (Seen { back_failed: 2, ..seen(Some(1.0)) }, "2 requests failed while"),
            (Seen { back_changes: 2, ..seen(Some(1.0)) }, "1 clients saw"),
            (Seen { home_ms: None, ..seen(Some(1.0)) }, "not served by the copy"),
            (
                Seen { inside: true, failed_down: 3, back_changes: 0, ..seen(None) },
                "3 requests failed inside",
            ),
            (Seen { inside: true, back_changes: 1, ..seen(None) }, "1 clients saw"),
        ];
        for (seen, told) in broken {
            let missed = report(vec![seen]).missed();
            assert!(missed.len() == 1 && missed[0].contains(told), "{missed:?}: {told}");
        }
    }
}
