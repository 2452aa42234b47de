//! What one client saw, and what came of it.

use serde::{Deserialize, Serialize};

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 200, by this node.
    Served(usize),
    /// Another answer, or none: why.
    Failed(String),
}

/// One request. Times are microseconds since the cluster stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// When it was sent.
    pub sent_us: u64,
    /// When its answer was read, or it was given up.
    pub done_us: u64,
    /// What came.
    pub answer: Answer,
}

/// When what happened to the region, in the same microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Just before it was struck.
    pub struck_us: u64,
    /// Just before its nodes were started again, or the cut was mended.
    pub healed_us: u64,
}

/// What one client saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// The name of its ingress's node.
    pub ingress: String,
    /// That node's region.
    pub region: String,
    /// Whether its ingress is in the struck region.
    pub inside: bool,
    /// From the strike to the first 200 that another region gave, in milliseconds.
    pub first_ms: Option<f64>,
    /// Requests sent from the strike to the way back that were not answered with 200.
    pub failed_down: u64,
    /// Requests sent since the region came back.
    pub back: u64,
    /// Those of them that were not answered with 200.
    pub back_failed: u64,
    /// How often the node that serves changed meanwhile, in the order in which requests were sent.
    pub back_changes: u64,
    /// The nodes that served meanwhile, one after another, by index; at most the first 8.
    pub back_path: Vec<usize>,
    /// From the moment the region came back to the first 200 by its copy, in milliseconds.
    pub home_ms: Option<f64>,
    /// Why requests failed, each reason once, at most 8.
    pub why: Vec<String>,
}

/// The most reasons that are kept of one client.
const MAX_WHY: usize = 8;
/// The most nodes that are kept of what served one client.
const MAX_PATH: usize = 8;

impl Seen {
    /// Judges the samples of one client, in any order. `home` is the node that has the copy, `struck`
    /// are the nodes of its region.
    pub fn of(
        (ingress, region, inside): (&str, &str, bool),
        mut samples: Vec<Sample>,
        marks: Marks,
        (home, struck): (usize, &[usize]),
    ) -> Self {
        samples.sort_by_key(|sample| sample.sent_us);
        let mut seen = Self {
            ingress: ingress.to_owned(),
            region: region.to_owned(),
            inside,
            first_ms: None,
            failed_down: 0,
            back: 0,
            back_failed: 0,
            back_changes: 0,
            back_path: Vec::new(),
            home_ms: None,
            why: Vec::new(),
        };
        let mut last = None;
        let (mut first, mut back_home) = (None, None);
        for Sample { sent_us, done_us, answer } in samples {
            // One that was sent before the strike may be answered after it.
            let (down, back) = (sent_us >= marks.struck_us, sent_us >= marks.healed_us);
            seen.back += u64::from(back);
            match answer {
                Answer::Served(by) => {
                    if done_us >= marks.struck_us && !struck.contains(&by) {
                        first = Some(first.map_or(done_us, |before: u64| before.min(done_us)));
                    }
                    if back && by == home {
                        back_home = Some(back_home.map_or(done_us, |b: u64| b.min(done_us)));
                    }
                    seen.back_changes += u64::from(back && last.is_some_and(|last| last != by));
                    if back && seen.back_path.last() != Some(&by) && seen.back_path.len() < MAX_PATH
                    {
                        seen.back_path.push(by);
                    }
                    last = Some(by);
                }
                Answer::Failed(why) => {
                    seen.failed_down += u64::from(down && !back);
                    seen.back_failed += u64::from(back);
                    if down && seen.why.len() < MAX_WHY && !seen.why.contains(&why) {
                        seen.why.push(why);
                    }
                }
            }
        }
        seen.first_ms = first.map(|at| ms(at, marks.struck_us));
        seen.home_ms = back_home.map(|at| ms(at, marks.healed_us));
        seen
    }
}

fn ms(at: u64, since: u64) -> f64 {
    // Exact below 2^53 microseconds, which is 285 years.
    #[expect(clippy::cast_precision_loss, reason = "a trial lasts minutes")]
    let micros = at.saturating_sub(since) as f64;
    micros / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks { struck_us: 1_000_000, healed_us: 9_000_000 };

    fn served(sent: u64, done: u64, by: usize) -> Sample {
        Sample { sent_us: sent * 1_000, done_us: done * 1_000, answer: Answer::Served(by) }
    }

    fn failed(sent: u64, why: &str) -> Sample {
        let answer = Answer::Failed(why.to_owned());
        Sample { sent_us: sent * 1_000, done_us: (sent + 2_000) * 1_000, answer }
    }

    fn judged(samples: Vec<Sample>) -> Seen {
        Seen::of(("n3", "us", false), samples, MARKS, (0, &[0, 1]))
    }

    #[test]
    fn the_first_answer_from_elsewhere_counts_whenever_it_was_sent() {
        // One in flight at the strike comes from home still, one is sent again elsewhere.
        let seen = judged(vec![
            served(900, 950, 0),
            served(990, 1_100, 0),
            served(995, 2_400, 2),
            served(1_500, 2_300, 2),
            failed(1_200, "504"),
            failed(1_220, "504"),
        ]);
        assert_eq!((seen.first_ms, seen.failed_down), (Some(1_300.0), 2));
        assert_eq!(seen.why, ["504"]);
    }

    #[test]
    fn who_never_hears_from_elsewhere_has_not_recovered() {
        let seen = judged(vec![served(900, 950, 0), served(980, 1_010, 0), failed(1_100, "503")]);
        assert_eq!(seen.first_ms, None);
    }

    #[test]
    fn going_home_once_is_one_change_and_there_and_back_are_three() {
        let before = || vec![served(2_000, 2_100, 2)];
        let once = [before(), vec![served(9_100, 9_200, 2), served(9_300, 9_400, 0)]].concat();
        let seen = judged(once);
        assert_eq!((seen.back_changes, seen.home_ms), (1, Some(400.0)));
        assert_eq!(seen.back_path, [2, 0]);
        // In the order of sending, not of the answers.
        let flaps = [(9_100, 9_900, 0), (9_200, 9_300, 2), (9_400, 9_500, 0)]
            .map(|(s, d, n)| served(s, d, n));
        assert_eq!(judged([before(), flaps.to_vec()].concat()).back_changes, 3);
    }

    #[test]
    fn a_failure_on_the_way_back_is_not_one_of_the_outage() {
        let seen = judged(vec![failed(8_999, "a"), failed(9_000, "b"), served(9_100, 9_200, 0)]);
        assert_eq!((seen.failed_down, seen.back, seen.back_failed), (1, 2, 1));
    }
}
