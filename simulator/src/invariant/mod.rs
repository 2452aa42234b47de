//! What must hold, one file for each.

pub(crate) mod acknowledged;
pub(crate) mod history;
pub(crate) mod leader;
pub(crate) mod linear;
pub(crate) mod liveness;
pub(crate) mod membership;
pub(crate) mod once;
pub(crate) mod placement;
pub(crate) mod snapshot;
pub(crate) mod watch;

use crate::oracle::Oracle;

/// A name, and what is wrong by it.
type Check = (&'static str, fn(&Oracle) -> Vec<String>);

/// Those that judge by what was recorded. Two more are looked at while the run goes on: "one
/// leader" in each term, and "one history" whenever two nodes are seen at the same revision; and
/// three after healing: "membership", "placement" (its fixpoint) and "liveness".
const CHECKS: [Check; 7] = [
    ("one history", history::check),
    ("acknowledged", acknowledged::check),
    ("linearizable", linear::check),
    ("once", once::check),
    ("watch", watch::check),
    ("snapshot", snapshot::check),
    ("placement", placement::check),
];

/// Judges all that was recorded so far.
pub(crate) fn check_all(oracle: &mut Oracle) {
    for (invariant, check) in CHECKS {
        for text in check(oracle) {
            oracle.violate(invariant, text);
        }
    }
}
