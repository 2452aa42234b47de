//! How long nothing was done.

use crate::history::{Action, Operation};

/// Whether it changes the control state, if it is done.
pub(super) fn changes(action: &Action) -> bool {
    matches!(
        action,
        Action::Write { .. }
            | Action::Cas { .. }
            | Action::Add { .. }
            | Action::Remove { .. }
            | Action::Txn { .. }
    )
}

/// The longest part of a time in which none of these was done that had begun since that time did.
pub(super) fn longest(operations: &[&Operation], (from_ns, to_ns): (u64, u64)) -> u64 {
    let since = operations.iter().filter(|op| op.is_ok() && op.invoked_ns >= from_ns);
    let mut done: Vec<u64> = since.map(|op| op.completed_ns.min(to_ns)).collect();
    done.push(to_ns);
    done.sort_unstable();
    let mut last = from_ns;
    let gaps = done.into_iter().map(|at| at.saturating_sub(std::mem::replace(&mut last, at)));
    gaps.max().unwrap_or(0)
}
