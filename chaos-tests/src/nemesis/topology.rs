//! Shapes of partitions, and which packets each of them drops.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

/// How the network is cut. Nodes are numbers from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// The leader, as it is then, hears nobody and is heard by nobody.
    Leader,
    /// These on one side, all others on the other one.
    Halves(Vec<usize>),
    /// What the first one sends does not reach the second one; the other way it does.
    OneWay(usize, usize),
    /// This one and those before it, this one and those after it: only this one sees all.
    Bridge(usize),
    /// In this order, in a circle: each sees only the two beside it.
    Ring(Vec<usize>),
    /// Neither of these reaches any of those; both reach all others.
    Between(Vec<usize>, Vec<usize>),
}

impl Shape {
    /// The directed pairs whose packets are dropped, in a cluster of `count`.
    pub fn cuts(&self, count: usize, leader: usize) -> BTreeSet<(usize, usize)> {
        let apart = |a: usize, b: usize| match self {
            Self::Leader => (a == leader) != (b == leader),
            Self::Halves(side) => side.contains(&a) != side.contains(&b),
            Self::OneWay(from, to) => (a, b) == (*from, *to),
            Self::Bridge(middle) => a.min(b) < *middle && *middle < a.max(b),
            Self::Ring(order) => {
                let place = |node| order.iter().position(|n| *n == node).unwrap_or(0);
                let away = place(a).abs_diff(place(b));
                away != 1 && away + 1 != order.len()
            }
            Self::Between(these, those) => {
                let apart = |a, b| these.contains(&a) && those.contains(&b);
                apart(a, b) || apart(b, a)
            }
        };
        let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
        pairs.filter(|(a, b)| a != b && apart(*a, *b)).collect()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |nodes: &[usize]| {
            nodes.iter().map(|node| format!("n{}", node + 1)).collect::<Vec<_>>().join(" ")
        };
        match self {
            Self::Leader => f.write_str("the leader alone"),
            Self::Halves(side) => write!(f, "{} | the others", names(side)),
            Self::OneWay(from, to) => write!(f, "n{} does not reach n{}", from + 1, to + 1),
            Self::Bridge(middle) => write!(f, "n{} between two sides", middle + 1),
            Self::Ring(order) => write!(f, "a ring of {}", names(order)),
            Self::Between(these, those) => write!(f, "{} from {}", names(these), names(those)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shape_drops_what_it_says() {
        let cuts = |shape: Shape, count| shape.cuts(count, 1);
        assert_eq!(cuts(Shape::Leader, 3), BTreeSet::from([(0, 1), (1, 0), (1, 2), (2, 1)]));
        assert_eq!(cuts(Shape::OneWay(2, 0), 3), BTreeSet::from([(2, 0)]));
        assert_eq!(cuts(Shape::Halves(vec![0, 4]), 5).len(), 12);
        let bridge = cuts(Shape::Bridge(2), 5);
        assert_eq!(bridge.len(), 8);
        assert!(!bridge.iter().any(|(a, b)| *a == 2 || *b == 2));
        let ring = cuts(Shape::Ring(vec![0, 2, 4, 1, 3]), 5);
        assert_eq!(ring.len(), 10, "each of five sees two of four");
        assert!(!ring.contains(&(0, 2)) && !ring.contains(&(0, 3)) && ring.contains(&(0, 1)));
        assert!(cuts(Shape::Ring(vec![0, 1, 2]), 3).is_empty(), "three see each other");
        let between = cuts(Shape::Between(vec![0, 1], vec![4]), 5);
        assert_eq!(between, BTreeSet::from([(0, 4), (1, 4), (4, 0), (4, 1)]));
    }
}
