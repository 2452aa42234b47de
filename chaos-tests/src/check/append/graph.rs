//! A graph of what must have come before what, and its shortest cycles.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Why one transaction comes before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Edge {
    /// It wrote the version that the other one wrote over.
    Ww,
    /// It wrote what the other one read.
    Wr,
    /// It read what the other one wrote over.
    Rw,
    /// It ended before the other one began.
    RealTime,
}

/// Transactions by number, with edges between them.
#[derive(Debug, Default)]
pub(super) struct Graph {
    edges: BTreeMap<usize, BTreeSet<(usize, Edge)>>,
}

/// A way round: each transaction with the edge to the next one, the last one's to the first.
pub(super) type Cycle = Vec<(usize, Edge)>;

impl Graph {
    /// Nothing comes before itself: such an edge is left out.
    pub(super) fn add(&mut self, from: usize, edge: Edge, to: usize) {
        if from != to {
            self.edges.entry(from).or_default().insert((to, edge));
        }
    }

    fn from(&self, node: usize, allowed: &[Edge]) -> impl Iterator<Item = (usize, Edge)> {
        let edges = self.edges.get(&node).into_iter().flatten();
        edges.filter(move |(_, edge)| allowed.contains(edge)).copied()
    }

    /// The shortest cycle of allowed edges; if `first` is given it has an edge of that kind, and
    /// only one unless it is allowed too.
    pub(super) fn cycle(&self, allowed: &[Edge], first: Option<Edge>) -> Option<Cycle> {
        let mut with = allowed.to_vec();
        with.extend(first);
        let inside = self.knotted(&with);
        let mut best: Option<Cycle> = None;
        for (from, to, edge) in self.all(&with) {
            let starts = first.is_none_or(|first| edge == first);
            if !starts || inside.get(&from).is_none_or(|knot| inside.get(&to) != Some(knot)) {
                continue;
            }
            let limit = best.as_ref().map_or(usize::MAX, Vec::len);
            if let Some(rest) = self.path(to, from, allowed, limit.saturating_sub(1)) {
                best = Some([vec![(from, edge)], rest].concat());
            }
        }
        best
    }

    fn all(&self, allowed: &[Edge]) -> impl Iterator<Item = (usize, usize, Edge)> {
        let flat = |(from, to): (&usize, &BTreeSet<(usize, Edge)>)| {
            to.iter().map(|(to, edge)| (*from, *to, *edge)).collect::<Vec<_>>()
        };
        self.edges.iter().flat_map(flat).filter(move |(_, _, edge)| allowed.contains(edge))
    }

    /// The shortest path of fewer than `limit` edges.
    fn path(&self, from: usize, to: usize, allowed: &[Edge], limit: usize) -> Option<Cycle> {
        let mut came: BTreeMap<usize, (usize, Edge)> = BTreeMap::new();
        let mut queue = VecDeque::from([(from, 0)]);
        while let Some((node, depth)) = queue.pop_front() {
            if node == to {
                let mut path = Vec::new();
                let mut at = to;
                while at != from {
                    let (before, edge) = came[&at];
                    path.push((before, edge));
                    at = before;
                }
                path.reverse();
                return Some(path);
            }
            if depth + 1 >= limit {
                continue;
            }
            for (next, edge) in self.from(node, allowed) {
                if next != from && !came.contains_key(&next) {
                    came.insert(next, (node, edge));
                    queue.push_back((next, depth + 1));
                }
            }
        }
        None
    }

    /// Strongly connected components of more than one node (Tarjan, 1972), without recursion:
    /// node → component.
    fn knotted(&self, allowed: &[Edge]) -> BTreeMap<usize, usize> {
        let mut index: BTreeMap<usize, usize> = BTreeMap::new();
        let mut low: BTreeMap<usize, usize> = BTreeMap::new();
        let (mut open, mut is_open) = (Vec::new(), BTreeSet::new());
        let (mut found, mut components) = (BTreeMap::new(), 0);
        for start in self.edges.keys() {
            if index.contains_key(start) {
                continue;
            }
            let mut work = vec![(*start, self.from(*start, allowed).collect::<Vec<_>>())];
            index.insert(*start, index.len());
            low.insert(*start, index[start]);
            open.push(*start);
            is_open.insert(*start);
            while let Some((node, left)) = work.last_mut() {
                let node = *node;
                if let Some((next, _)) = left.pop() {
                    if !index.contains_key(&next) {
                        index.insert(next, index.len());
                        low.insert(next, index[&next]);
                        open.push(next);
                        is_open.insert(next);
                        work.push((next, self.from(next, allowed).collect()));
                    } else if is_open.contains(&next) {
                        low.insert(node, low[&node].min(index[&next]));
                    }
                    continue;
                }
                work.pop();
                if let Some((parent, _)) = work.last() {
                    low.insert(*parent, low[parent].min(low[&node]));
                }
                if low[&node] == index[&node] {
                    let at = open.iter().rposition(|n| *n == node).unwrap_or(0);
                    let component = open.split_off(at);
                    component.iter().for_each(|n| {
                        is_open.remove(n);
                    });
                    if component.len() > 1 {
                        components += 1;
                        found.extend(component.into_iter().map(|n| (n, components)));
                    }
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_cycle_is_found_and_a_path_is_none() {
        let mut graph = Graph::default();
        for (from, to) in [(1, 2), (2, 3), (3, 4), (4, 1), (3, 1), (4, 5)] {
            graph.add(from, Edge::Ww, to);
        }
        graph.add(5, Edge::Rw, 4);
        let cycle = graph.cycle(&[Edge::Ww], None).unwrap();
        assert_eq!(cycle.len(), 3, "{cycle:?}");
        assert_eq!(graph.cycle(&[Edge::Wr], None), None);
        let single = graph.cycle(&[Edge::Ww], Some(Edge::Rw)).unwrap();
        assert_eq!(single, [(5, Edge::Rw), (4, Edge::Ww)]);
        graph.add(6, Edge::Ww, 6);
        assert!(!graph.edges.contains_key(&6));
    }
}
