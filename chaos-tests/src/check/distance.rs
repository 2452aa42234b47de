//! Distance alone costs no leader: heartbeats and elections follow the round trips.

use super::{
    Verdict,
    silence::{changes, longest},
};
use crate::history::{Action, Operation};

/// How long the cluster may take to find its pace when its nodes are suddenly far apart.
const FINDS_NS: u64 = 10_000_000_000;
/// Leaders that may be made since then. A busy machine may cost one.
const MOST: usize = 2;
/// The longest time without a write since then: many times what one takes over an ocean.
const SILENT_NS: u64 = 12_000_000_000;

const INVARIANT: &str = "an ocean between all nodes costs neither the leader nor writes";

/// Every time for which all nodes stood far apart.
pub fn check(history: &[Operation]) -> Verdict {
    let writes: Vec<&Operation> = history.iter().filter(|op| changes(&op.action)).collect();
    let (mut checked, mut violations) = (0, Vec::new());
    for far in history {
        let Action::Stretched { delay_ms } = far.action else { continue };
        let span = (far.invoked_ns + FINDS_NS, far.completed_ns);
        if span.1 <= span.0 + SILENT_NS {
            continue;
        }
        checked += 1;
        let within = |op: &Operation| span.0 <= op.invoked_ns && op.invoked_ns <= span.1;
        let leads = |op: &&Operation| matches!(op.action, Action::Leads { .. }) && within(op);
        let leaders = history.iter().filter(leads).count();
        if leaders > MOST {
            violations.push(format!("{leaders} leaders while all were {delay_ms} ms apart: {far}"));
        }
        let silence = longest(&writes, span);
        if silence > SILENT_NS && writes.iter().any(|op| within(op)) {
            let ms = silence / 1_000_000;
            violations.push(format!("no write for {ms} ms, {delay_ms} ms apart: {far}"));
        }
    }
    Verdict::of(INVARIANT, checked, violations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{done, ok, unknown};

    const SECOND: u64 = 1_000_000_000;

    fn far(from: u64, to: u64) -> Operation {
        let action = Action::Stretched { delay_ms: 125 };
        ok(900, (from * SECOND, to * SECOND), action, done(0))
    }

    fn write(second: u64) -> Operation {
        let action = Action::Write { key: "a".into(), value: second, request: None };
        ok(second, (second * SECOND, second * SECOND + 1), action, done(second))
    }

    fn leads(term: u64, second: u64) -> Operation {
        ok(500 + term, (second * SECOND, second * SECOND), Action::Leads { term }, done(0))
    }

    fn judged(more: &[Operation]) -> Verdict {
        let writes: Vec<Operation> = (0..60).map(write).collect();
        check(&[writes.as_slice(), &[far(10, 40)], more].concat())
    }

    #[test]
    fn leaders_that_come_and_go_are_found_once_the_pace_could_be_known() {
        assert!(judged(&[]).is_valid());
        assert_eq!(judged(&[]).checked, 1);
        let early: Vec<Operation> = (1..9).map(|term| leads(term, 11 + term)).collect();
        assert!(judged(&early[..7]).is_valid(), "it may take a while");
        assert!(judged(&[leads(1, 25), leads(2, 30)]).is_valid());
        assert!(judged(&[leads(1, 25), leads(2, 30), leads(3, 35)]).is_invalid());
        assert!(judged(&[leads(1, 25), leads(2, 30), leads(3, 41)]).is_valid(), "it is over");
    }

    #[test]
    fn a_time_without_writes_is_found() {
        let mut history: Vec<Operation> =
            (0..60).filter(|second| !(22..35).contains(second)).map(write).collect();
        history.push(far(10, 40));
        assert!(check(&history).is_invalid());
        history.push(write(26));
        assert!(check(&history).is_valid());
        // Tried, and never known to be done.
        let tried = unknown(999, (21 * SECOND, 39 * SECOND), write(1).action);
        assert!(check(&[far(10, 40), tried]).is_invalid());
        assert!(check(&[far(10, 40)]).is_valid(), "nobody tried");
        assert_eq!(check(&[far(10, 25), write(20)]).checked, 0, "too short to tell");
    }
}
