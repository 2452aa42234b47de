//! Changes of the members.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{history::Relic, seed::Seeded};

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// One more node is let in.
    Grow,
    /// That node is removed, and goes on for a while.
    Shrink,
    /// This node loses its disk, is removed, and is let in with an empty one.
    Replace(usize),
    /// A node loses its disk and comes back with this, as if nothing had happened; it is refused, and
    /// then replaced.
    Intrude {
        /// Which, of those that fit, counted from here.
        from: usize,
        /// What it has.
        with: Relic,
    },
    /// The leader is removed while it leads, goes on for a while, and is let in anew.
    Unseat,
}

impl Change {
    /// Every change once, in some order: with and without the one more node.
    pub(super) fn draw(random: &mut Seeded, nodes: usize) -> Vec<Self> {
        let mut changes = vec![
            Self::Grow,
            Self::Shrink,
            Self::Replace(random.index(nodes)),
            Self::Intrude { from: random.index(nodes), with: Relic::Name },
            Self::Intrude { from: random.index(nodes), with: Relic::Id },
            Self::Unseat,
        ];
        random.shuffle(&mut changes);
        let at = |wanted| changes.iter().position(|change| *change == wanted);
        if let (Some(grow), Some(shrink)) = (at(Self::Grow), at(Self::Shrink))
            && shrink < grow
        {
            changes.swap(grow, shrink);
        }
        changes
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grow => f.write_str("let one more in"),
            Self::Shrink => f.write_str("remove that one"),
            Self::Replace(node) => write!(f, "replace n{}", node + 1),
            Self::Intrude { from, with } => {
                write!(f, "one from n{} on comes back with its {with} alone", from + 1)
            }
            Self::Unseat => f.write_str("remove the leader"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_comes_once_and_nobody_leaves_before_it_came() {
        for seed in 0..50 {
            let changes = Change::draw(&mut Seeded::new(seed, "changes"), 3);
            let at = |wanted: fn(&Change) -> bool| changes.iter().position(wanted);
            let (grow, shrink) = (at(|c| *c == Change::Grow), at(|c| *c == Change::Shrink));
            assert!(grow < shrink && grow.is_some(), "{changes:?}");
            assert!(at(|c| *c == Change::Unseat).is_some() && changes.len() == 6, "{changes:?}");
        }
    }
}
