//! What chaos found.

use std::time::Duration;

use serde_json::{Value, json};

use super::probe::{Requests, Tries, Writes};
use crate::{
    agent::FaultKind,
    codes,
    problem::{Outcome, Problem},
};

/// One fault that was struck.
pub(super) struct Struck {
    pub(super) at: Duration,
    pub(super) node: String,
    pub(super) fault: FaultKind,
    pub(super) lasts: Duration,
    /// From its end on; none: not within the time that it may take.
    pub(super) whole_after: Option<Duration>,
}

pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) struck: Vec<Struck>,
    pub(super) writes: Writes,
    pub(super) requests: Vec<Requests>,
    /// The cluster did not come back.
    pub(super) broken: Option<String>,
    /// What was acknowledged and is not there.
    pub(super) lost: Option<String>,
}

fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// A quantile of how long the good ones took, in milliseconds.
fn quantile(tries: &Tries, q: f64) -> f64 {
    let mut took = tries.took.clone();
    took.sort_unstable();
    let at = ((took.len() as f64 * q) as usize).min(took.len().saturating_sub(1));
    took.get(at).map_or(0.0, |time| ms(*time))
}

impl Report {
    fn rows(&self) -> impl Iterator<Item = (&str, &Tries)> {
        let pages = self.requests.iter().map(|requests| (requests.url.as_str(), &requests.tries));
        std::iter::once(("writes of a lease", &self.writes.tries)).chain(pages)
    }

    fn wrong(&self) -> Vec<&str> {
        self.broken.iter().chain(&self.lost).map(String::as_str).collect()
    }

    pub(super) fn text(&self) -> String {
        let mut text =
            "\n     AT  FAULT    NODE              LASTED  WHOLE AGAIN AFTER\n".to_owned();
        for struck in &self.struck {
            let whole = match struck.whole_after {
                Some(after) => format!("{:.1} s", after.as_secs_f64()),
                None => "NOT".to_owned(),
            };
            let lasted = match struck.fault {
                FaultKind::Crash => "-".to_owned(),
                _ => format!("{:.1} s", struck.lasts.as_secs_f64()),
            };
            let fault = format!("{:?}", struck.fault).to_lowercase();
            text.push_str(&format!(
                "{:>5.0} s  {fault:<7}  {:<16}  {lasted:>6}  {whole}\n",
                struck.at.as_secs_f64(),
                struck.node
            ));
        }
        text.push_str("\n   WELL  FAILED  P50 MS  P99 MS  LONGEST WITHOUT  WHAT\n");
        for (what, tries) in self.rows() {
            text.push_str(&format!(
                "{:>7}  {:>6}  {:>6.1}  {:>6.1}  {:>13.1} s  {what}\n",
                tries.took.len(),
                tries.failed,
                quantile(tries, 0.5),
                quantile(tries, 0.99),
                tries.longest_gap.as_secs_f64()
            ));
        }
        let verdict = match self.wrong().as_slice() {
            [] => {
                "\nnothing that was acknowledged is lost; after each fault the cluster was whole\n"
                    .to_owned()
            }
            wrong => format!("\nBROKEN: {}\n", wrong.join("\nBROKEN: ")),
        };
        text + &verdict
    }

    pub(super) fn value(&self) -> Value {
        let faults = self.struck.iter().map(|struck| {
            json!({
                "atMs": ms(struck.at), "fault": struck.fault, "node": struck.node,
                "lastedMs": ms(struck.lasts), "wholeAfterMs": struck.whole_after.map(ms),
            })
        });
        let rows = self.rows().map(|(what, tries)| {
            json!({
                "what": what, "well": tries.took.len(), "failed": tries.failed,
                "p50Ms": quantile(tries, 0.5), "p99Ms": quantile(tries, 0.99),
                "longestWithoutMs": ms(tries.longest_gap),
            })
        });
        json!({
            "seed": self.seed, "faults": faults.collect::<Vec<_>>(),
            "seen": rows.collect::<Vec<_>>(), "broken": self.wrong(),
        })
    }

    /// # Errors
    /// Something was lost, or the cluster did not come back; or so little happened that it proves
    /// nothing.
    pub(super) fn verdict(&self) -> Outcome<()> {
        match self.wrong().as_slice() {
            [] if self.struck.is_empty() || self.writes.tries.took.is_empty() => {
                let why = "nothing was struck, or no write was acknowledged: it proves nothing";
                Err(Problem::new(codes::FAILED, why))
            }
            [] => Ok(()),
            wrong => Err(Problem::new(codes::CHAOS_BROKEN, wrong.join("; "))),
        }
    }
}
