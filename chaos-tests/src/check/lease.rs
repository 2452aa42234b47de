//! Leases: nobody else has one, and it is not over, before its time since it was acquired or renewed last
//! has passed; and each holder's token is higher than those before. A lease may last longer than it says.

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{Action, Operation, Outcome};

/// What says that a lease is over.
const OVER: &str = "LEASE-LOST";

const INVARIANT: &str =
    "a lease has one holder, for all of its time, with a token above those before";

/// One holder's time.
#[derive(Default)]
struct Held<'a> {
    acquired: Option<&'a Operation>,
    ttl_ns: u64,
    /// The last acquisition or renewal that was ok, by its beginning: from then on it lasts.
    last: Option<&'a Operation>,
    /// A release that may have happened.
    released: Option<&'a Operation>,
    /// Renewals that were told that it is over.
    over: Vec<&'a Operation>,
}

impl Held<'_> {
    /// Until when nobody else may have it; none: somebody may have released it before `at_ns`.
    fn until_ns(&self, at_ns: u64) -> Option<u64> {
        if self.released.is_some_and(|release| release.invoked_ns <= at_ns) {
            return None;
        }
        self.last.map(|last| last.invoked_ns + self.ttl_ns)
    }
}

/// Every lease.
pub fn check(history: &[Operation]) -> Verdict {
    let mut leases: BTreeMap<&str, BTreeMap<u64, Held<'_>>> = BTreeMap::new();
    for operation in history {
        match &operation.action {
            Action::Acquire { lease, ttl_ms } => {
                let Some(token) = operation.revision() else { continue };
                let held = leases.entry(lease).or_default().entry(token).or_default();
                held.acquired = Some(operation);
                held.ttl_ns = ttl_ms * 1_000_000;
                held.last = later(held.last, operation);
            }
            Action::Renew { lease, token } => {
                let held = leases.entry(lease).or_default().entry(*token).or_default();
                match &operation.outcome {
                    Outcome::Ok { .. } => held.last = later(held.last, operation),
                    Outcome::Failed { why } if why.contains(OVER) => held.over.push(operation),
                    _ => {}
                }
            }
            Action::Release { lease, token } if operation.may_have_happened() => {
                let held = leases.entry(lease).or_default().entry(*token).or_default();
                held.released = Some(operation);
            }
            _ => {}
        }
    }
    let (mut checked, mut violations) = (0, Vec::new());
    for tokens in leases.values() {
        checked += tokens.len();
        for held in tokens.values() {
            let early = |over: &&&Operation| {
                held.until_ns(over.completed_ns).is_some_and(|until| over.completed_ns < until)
            };
            if let (Some(over), Some(last)) = (held.over.iter().find(early), held.last) {
                violations.push(format!("over before its time: {over}\n  after {last}"));
            }
        }
        let holders: Vec<(&Held<'_>, &Operation)> =
            tokens.values().filter_map(|held| Some((held, held.acquired?))).collect();
        for pair in holders.windows(2) {
            let [(held, before), (_, next)] = pair else { continue };
            if held.until_ns(next.completed_ns).is_some_and(|until| next.completed_ns < until) {
                let last = held.last.map(Operation::to_string).unwrap_or_default();
                violations.push(format!("two holders: {next}\n  while it lasted since {last}"));
            }
            if next.completed_ns < before.invoked_ns {
                violations.push(format!("a token below one of before: {before}\n  after {next}"));
            }
        }
    }
    Verdict::of(INVARIANT, checked, violations)
}

/// How many renewals were ok.
pub fn seen(history: &[Operation]) -> u64 {
    let renewed = |op: &&Operation| matches!(op.action, Action::Renew { .. }) && op.is_ok();
    history.iter().filter(renewed).count() as u64
}

/// The one that began later.
fn later<'a>(held: Option<&'a Operation>, other: &'a Operation) -> Option<&'a Operation> {
    held.filter(|first| first.invoked_ns >= other.invoked_ns).or(Some(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{done, failed, ok, unknown};

    const SECOND: u64 = 1_000_000_000;

    fn acquire(token: u64, from: u64, to: u64) -> Operation {
        let action = Action::Acquire { lease: "l".into(), ttl_ms: 4_000 };
        ok(token, (from * SECOND, to * SECOND), action, done(token))
    }

    fn renewal(token: u64) -> Action {
        Action::Renew { lease: "l".into(), token }
    }

    fn renew(token: u64, from: u64, to: u64) -> Operation {
        ok(100 + from, (from * SECOND, to * SECOND), renewal(token), done(0))
    }

    fn over(token: u64, from: u64, to: u64) -> Operation {
        let mut over = failed(200 + from, (from * SECOND, to * SECOND), renewal(token));
        over.outcome = Outcome::Failed { why: "409 SW-API-LEASE-LOST".into() };
        over
    }

    fn release(token: u64) -> Action {
        Action::Release { lease: "l".into(), token }
    }

    #[test]
    fn a_second_holder_before_the_time_of_the_first_is_found() {
        let judged = |more: &[Operation]| check(&[&[acquire(5, 10, 11)], more].concat());
        assert!(judged(&[acquire(9, 12, 14)]).is_valid(), "just when it may be over");
        assert!(judged(&[acquire(9, 12, 13)]).is_invalid());
        assert!(judged(&[renew(5, 13, 14), acquire(9, 12, 16)]).is_invalid(), "renewed since");
        assert!(judged(&[renew(5, 13, 14), acquire(9, 12, 17)]).is_valid());
        let given = ok(7, (12 * SECOND, 13 * SECOND), release(5), done(0));
        assert!(judged(&[given, acquire(9, 12, 13)]).is_valid(), "it was given back");
        let perhaps = unknown(7, (12 * SECOND, 30 * SECOND), release(5));
        assert!(judged(&[perhaps, acquire(9, 12, 13)]).is_valid());
        let later = ok(7, (20 * SECOND, 21 * SECOND), release(5), done(0));
        assert!(judged(&[later, acquire(9, 12, 13)]).is_invalid(), "later");
        // Who does not know whether it was renewed has no claim.
        let perhaps = unknown(8, (13 * SECOND, 14 * SECOND), renewal(5));
        assert!(judged(&[perhaps, acquire(9, 12, 16)]).is_valid());
    }

    #[test]
    fn an_early_end_and_a_token_that_goes_back_are_found() {
        let judged = |more: &[Operation]| check(&[&[acquire(5, 10, 11)], more].concat());
        assert!(judged(&[over(5, 12, 13)]).is_invalid());
        assert!(judged(&[over(5, 12, 14)]).is_valid());
        assert!(judged(&[renew(5, 13, 14), over(5, 15, 16)]).is_invalid());
        assert!(judged(&[renew(5, 13, 14), over(5, 15, 17)]).is_valid());
        let given = ok(7, (12 * SECOND, 13 * SECOND), release(5), done(0));
        assert!(judged(&[given, over(5, 12, 13)]).is_valid(), "by its own release");
        assert!(judged(&[acquire(4, 30, 31)]).is_invalid(), "a later holder's token is higher");
        assert_eq!(judged(&[acquire(9, 20, 21)]).checked, 2);
        assert_eq!(seen(&[acquire(5, 10, 11), renew(5, 13, 14), over(5, 15, 16)]), 1);
    }
}
