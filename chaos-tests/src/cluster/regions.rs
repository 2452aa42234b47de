//! Where nodes stand, and how far their regions are from each other.

use super::wires::{Pair, Quality};

/// The regions of a cluster, and the wires that lie between its nodes as long as it stands: no
/// healing makes them any better.
#[derive(Debug, Clone, Copy)]
pub struct Regions {
    /// The name of each region.
    pub names: &'static [&'static str],
    /// The region of each node, as an index into the names.
    pub of: &'static [usize],
    /// From one region to another one, and back.
    pub between: &'static [(usize, usize, Quality)],
    /// Between two nodes of one region.
    pub within: Quality,
}

impl Regions {
    /// The name of the region that a node stands in; none if it stands nowhere, as the guest does.
    pub fn name(&self, node: usize) -> Option<&'static str> {
        self.names.get(*self.of.get(node)?).copied()
    }

    /// The nodes of each region.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let nodes = |region| (0..self.of.len()).filter(move |node| self.of[*node] == region);
        (0..self.names.len()).map(|region| nodes(region).collect()).collect()
    }

    /// The wires between nodes, each in one direction.
    pub(super) fn wires(&self) -> Vec<(Pair, Quality)> {
        let count = self.of.len();
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        pairs.filter(|(from, to)| from != to).map(|pair| (pair, self.wire(pair))).collect()
    }

    fn wire(&self, (from, to): Pair) -> Quality {
        let (here, there) = (self.of[from], self.of[to]);
        let joins = |a, b| (a, b) == (here, there) || (a, b) == (there, here);
        let far = self.between.iter().find(|(a, b, _)| joins(*a, *b));
        // One region is one; between two of which nothing is said there is nothing to be added.
        far.map_or_else(
            || if here == there { self.within } else { Quality::PERFECT },
            |(_, _, quality)| *quality,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Quality = Quality { delay_ms: 40, ..Quality::PERFECT };
    const NEAR: Quality = Quality { jitter_ms: 1, ..Quality::PERFECT };

    #[test]
    fn each_pair_of_nodes_has_the_wire_of_its_regions_both_ways() {
        let regions =
            Regions { names: &["eu", "us"], of: &[0, 0, 1], between: &[(0, 1, FAR)], within: NEAR };
        let wires = regions.wires();
        assert_eq!(wires.len(), 6);
        let of = |pair| wires.iter().find(|(other, _)| *other == pair).unwrap().1;
        assert_eq!((of((0, 1)), of((1, 0))), (NEAR, NEAR));
        assert_eq!((of((0, 2)), of((2, 1))), (FAR, FAR));
        assert_eq!(regions.groups(), [vec![0, 1], vec![2]]);
        assert_eq!((regions.name(2), regions.name(3)), (Some("us"), None));
    }
}
