//! The members change as they are told to, and who comes back as what it is no longer is refused.

use super::Verdict;
use crate::history::{Action, Operation, Outcome};

const INVARIANT: &str =
    "nodes come and go as they are told to, and an intruder is refused by its code";

/// Every removal and admission of the nemesis, every choice of voters that it waited for, and every
/// node that came back with a part of what it was.
pub fn check(history: &[Operation]) -> Verdict {
    // A trespasser's removal is tried again as an operation of its own.
    let changes = history.iter().filter(|operation| operation.action == Action::Admit);
    if changes.count() == 0 {
        return Verdict::of(INVARIANT, 0, Vec::new());
    }
    let (mut checked, mut violations) = (0, Vec::new());
    for operation in history {
        let holds = match (&operation.action, &operation.outcome) {
            (Action::Admit | Action::Expel | Action::Settle, Outcome::Ok { .. }) => true,
            (Action::Admit | Action::Expel | Action::Settle, _) => false,
            (Action::Intrude { with }, Outcome::Failed { why }) => why == with.code(),
            (Action::Intrude { .. }, _) => false,
            _ => continue,
        };
        checked += 1;
        if !holds {
            violations.push(operation.to_string());
        }
    }
    Verdict::of(INVARIANT, checked, violations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::sample::{done, failed, ok, unknown},
        history::Relic,
    };

    #[test]
    fn an_intruder_that_gets_in_waits_or_is_refused_for_another_reason_is_found() {
        let admit = ok(1, (0, 10), Action::Admit, done(0));
        let judged = |operation: Operation| check(&[admit.clone(), operation]);
        let came = |with| Action::Intrude { with };
        let refused = |with, code: &str| Operation {
            outcome: Outcome::Failed { why: code.to_owned() },
            ..failed(2, (20, 30), came(with))
        };
        assert!(judged(refused(Relic::Id, "SW-NODE-LOG-LOST")).is_valid());
        assert!(judged(refused(Relic::Name, "SW-NODE-NAME-TAKEN")).is_valid());
        assert!(judged(refused(Relic::Name, "SW-NODE-PORT-IN-USE")).is_invalid());
        assert!(judged(refused(Relic::Id, "")).is_invalid(), "it ended and said nothing");
        assert!(judged(ok(2, (20, 30), came(Relic::Id), done(0))).is_invalid());
        assert!(judged(unknown(2, (20, 30), came(Relic::Id))).is_invalid());
    }

    #[test]
    fn a_change_that_does_not_come_to_an_end_is_found() {
        let admit = ok(1, (0, 10), Action::Admit, done(0));
        assert!(check(std::slice::from_ref(&admit)).is_valid());
        assert_eq!(check(&[ok(1, (0, 10), Action::Expel, done(0))]).checked, 0, "not ours");
        for action in [Action::Admit, Action::Expel, Action::Settle] {
            assert!(check(&[admit.clone(), unknown(2, (20, 30), action)]).is_invalid());
        }
    }
}
