//! Transactions of appends and reads over several lists, checked for cycles as Elle does (Kingsbury
//! and Alvaro: Elle, 2020; the names of the anomalies are Adya's, 1999).
//!
//! A read of a list shows the order of all appends before it. From these orders follow the edges
//! between transactions; a cycle means that no order of the transactions explains what was read.
//! With edges of real time, that holds for strict serializability.

mod graph;

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use crate::history::{Action, Answer, Operation, Outcome, Step};
use graph::{Cycle, Edge, Graph};

const INVARIANT: &str = "transactions are strictly serializable";

struct Txn<'a> {
    operation: &'a Operation,
    steps: &'a [Step],
}

/// Who appended what, and in which order it stands.
struct Lists<'a> {
    txns: Vec<Txn<'a>>,
    /// (list, value) → the transaction that may have appended it.
    writers: BTreeMap<(u64, u64), usize>,
    refused: BTreeMap<(u64, u64), &'a Operation>,
    /// The longest that was read of each list.
    order: BTreeMap<u64, &'a [u64]>,
}

/// No transaction read what was refused or half done, and no cycle of them exists.
pub fn check(history: &[Operation]) -> Verdict {
    let lists = match Lists::of(history) {
        Ok(lists) => lists,
        Err(why) => return Verdict::unknown(INVARIANT, 1, why),
    };
    let mut violations = lists.direct();
    // Without one order of each list there are no edges to speak of.
    if violations.is_empty() {
        let graph = lists.graph();
        violations = anomalies(&graph)
            .into_iter()
            .map(|(name, cycle)| lists.explain(name, &cycle))
            .collect();
    }
    Verdict::of(INVARIANT, lists.txns.len(), violations)
}

/// The worst cycles, each kind once; a kind that implies another is told instead of it.
fn anomalies(graph: &Graph) -> Vec<(&'static str, Cycle)> {
    use Edge::{RealTime, Rw, Wr, Ww};
    let kinds: [(&str, &str, &[Edge], Option<Edge>); 4] = [
        ("G0", "G0-realtime", &[Ww], None),
        ("G1c", "G1c-realtime", &[Ww, Wr], None),
        ("G-single", "G-single-realtime", &[Ww, Wr], Some(Rw)),
        ("G2", "G2-realtime", &[Ww, Wr, Rw], None),
    ];
    for real_time in [false, true] {
        for (plain, timed, edges, first) in kinds {
            let mut allowed = edges.to_vec();
            if real_time {
                allowed.push(RealTime);
            }
            if let Some(cycle) = graph.cycle(&allowed, first) {
                return vec![(if real_time { timed } else { plain }, cycle)];
            }
        }
    }
    Vec::new()
}

impl<'a> Lists<'a> {
    fn of(history: &'a [Operation]) -> Result<Self, String> {
        let mut lists = Self {
            txns: Vec::new(),
            writers: BTreeMap::new(),
            refused: BTreeMap::new(),
            order: BTreeMap::new(),
        };
        for operation in history {
            let Action::Txn { steps } = &operation.action else { continue };
            let steps = match operation.answer() {
                Some(Answer::Steps { steps }) => steps,
                _ => steps,
            };
            for step in steps {
                if let Step::Append(list, value) = step {
                    if matches!(operation.outcome, Outcome::Failed { .. }) {
                        lists.refused.insert((*list, *value), operation);
                    } else if lists.writers.insert((*list, *value), lists.txns.len()).is_some() {
                        return Err(format!(
                            "{value} was appended to list {list} twice: {operation}"
                        ));
                    }
                }
            }
            if operation.may_have_happened() {
                lists.txns.push(Txn { operation, steps });
            }
        }
        for txn in &lists.txns {
            for (list, values) in reads(txn.steps) {
                let longest = lists.order.entry(list).or_default();
                if values.len() > longest.len() {
                    *longest = values;
                }
            }
        }
        Ok(lists)
    }

    /// What needs no cycle: impossible reads.
    fn direct(&self) -> Vec<String> {
        let mut violations = Vec::new();
        for (number, txn) in self.txns.iter().enumerate() {
            let told = |what: String| format!("{what}\n  {}", txn.operation);
            violations.extend(internal(txn.steps).map(told));
            for (list, values) in reads(txn.steps) {
                let distinct: BTreeSet<&u64> = values.iter().collect();
                if distinct.len() < values.len() {
                    violations.push(told(format!("list {list} has a value twice")));
                }
                if !self.order[&list].starts_with(values) {
                    let order = self.order[&list];
                    violations.push(told(format!("list {list} was also read as {order:?}")));
                }
                for value in values {
                    if let Some(refused) = self.refused.get(&(list, *value)) {
                        violations.push(told(format!("G1a: {value} was refused: {refused}")));
                    } else if !self.writers.contains_key(&(list, *value)) {
                        violations.push(told(format!("nobody appended {value} to list {list}")));
                    }
                }
                if let Some(last) = values.last()
                    && let Some(writer) = self.writers.get(&(list, *last))
                    && *writer != number
                    && self.last_append(*writer, list) != Some(*last)
                {
                    let writer = self.txns[*writer].operation;
                    violations.push(told(format!("G1b: {last} is half of {writer}")));
                }
            }
        }
        violations
    }

    fn last_append(&self, txn: usize, list: u64) -> Option<u64> {
        appends(self.txns[txn].steps).filter(|(key, _)| *key == list).map(|(_, v)| v).last()
    }

    fn graph(&self) -> Graph {
        let mut graph = Graph::default();
        for (list, order) in &self.order {
            let writers: Vec<usize> = order.iter().map(|v| self.writers[&(*list, *v)]).collect();
            writers.windows(2).for_each(|pair| graph.add(pair[0], Edge::Ww, pair[1]));
        }
        // What was acknowledged and never read comes after all that was read.
        let unread: Vec<(u64, usize)> = self
            .writers
            .iter()
            .filter(|((list, value), txn)| {
                let order = self.order.get(list).copied().unwrap_or_default();
                self.txns[**txn].operation.is_ok() && !order.contains(value)
            })
            .map(|((list, _), txn)| (*list, *txn))
            .collect();
        for (list, writer) in &unread {
            if let Some(last) = self.order.get(list).and_then(|order| order.last()) {
                graph.add(self.writers[&(*list, *last)], Edge::Ww, *writer);
            }
        }
        for (number, txn) in self.txns.iter().enumerate() {
            for (list, values) in external_reads(txn.steps) {
                if let Some(last) = values.last() {
                    graph.add(self.writers[&(list, *last)], Edge::Wr, number);
                }
                match self.order[&list].get(values.len()) {
                    Some(next) => graph.add(number, Edge::Rw, self.writers[&(list, *next)]),
                    None => {
                        let after = unread.iter().filter(|(other, _)| *other == list);
                        after.for_each(|(_, writer)| graph.add(number, Edge::Rw, *writer));
                    }
                }
            }
        }
        self.real_time(&mut graph);
        graph
    }

    /// Edges from what ended to what began later, without those that follow from others.
    fn real_time(&self, graph: &mut Graph) {
        let mut times: Vec<(u64, bool, usize)> = Vec::new();
        for (number, txn) in self.txns.iter().enumerate() {
            times.push((txn.operation.invoked_ns, false, number));
            if txn.operation.is_ok() {
                times.push((txn.operation.completed_ns, true, number));
            }
        }
        times.sort_unstable();
        let mut ended: BTreeSet<usize> = BTreeSet::new();
        let mut before: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (_, end, number) in times {
            if end {
                for implied in before.remove(&number).unwrap_or_default() {
                    ended.remove(&implied);
                }
                ended.insert(number);
            } else {
                ended.iter().for_each(|first| graph.add(*first, Edge::RealTime, number));
                before.insert(number, ended.clone());
            }
        }
    }

    fn explain(&self, name: &str, cycle: &Cycle) -> String {
        let mut text = format!("{name}: a cycle of {}", cycle.len());
        for (txn, edge) in cycle {
            let why = match edge {
                Edge::Ww => "wrote before what the next wrote",
                Edge::Wr => "wrote what the next read",
                Edge::Rw => "did not see what the next wrote",
                Edge::RealTime => "ended before the next began",
            };
            text.push_str(&format!("\n  {}\n    {why}", self.txns[*txn].operation));
        }
        text
    }
}

fn appends(steps: &[Step]) -> impl Iterator<Item = (u64, u64)> {
    steps.iter().filter_map(|step| match step {
        Step::Append(list, value) => Some((*list, *value)),
        Step::Read(..) => None,
    })
}

fn reads(steps: &[Step]) -> impl Iterator<Item = (u64, &[u64])> {
    steps.iter().filter_map(|step| match step {
        Step::Read(list, Some(values)) => Some((*list, values.as_slice())),
        _ => None,
    })
}

/// Reads of what others wrote: before the transaction appended to that list itself.
fn external_reads(steps: &[Step]) -> impl Iterator<Item = (u64, &[u64])> {
    let before = |at: usize, list: u64| appends(&steps[..at]).all(|(key, _)| key != list);
    steps.iter().enumerate().filter_map(move |(at, step)| match step {
        Step::Read(list, Some(values)) if before(at, *list) => Some((*list, values.as_slice())),
        _ => None,
    })
}

/// A transaction must see its own appends, and the same list each time.
fn internal(steps: &[Step]) -> Option<String> {
    // What is known of a list: all of it, or only its end.
    let mut known: BTreeMap<u64, (bool, Vec<u64>)> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Append(list, value) => {
                known.entry(*list).or_insert((false, Vec::new())).1.push(*value);
            }
            Step::Read(list, Some(values)) => {
                if let Some((whole, seen)) = known.get(list)
                    && (if *whole { values != seen } else { !values.ends_with(seen) })
                {
                    return Some(format!("list {list} should have shown {seen:?} to its own"));
                }
                known.insert(*list, (true, values.clone()));
            }
            Step::Read(_, None) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{
        Judgement,
        sample::{failed, ok, unknown},
    };
    use Step::{Append, Read};

    /// Transactions that all overlap.
    fn at_once(txns: &[&[Step]]) -> Vec<Operation> {
        (1..).zip(txns).map(|(id, steps)| txn(id, (0, 100), steps)).collect()
    }

    fn txn(id: u64, time: (u64, u64), steps: &[Step]) -> Operation {
        let steps = steps.to_vec();
        ok(id, time, Action::Txn { steps: steps.clone() }, Answer::Steps { steps })
    }

    fn read(list: u64, values: &[u64]) -> Step {
        Read(list, Some(values.to_vec()))
    }

    fn found(history: &[Operation]) -> String {
        check(history).to_string()
    }

    #[test]
    fn what_happened_one_after_the_other_is_valid() {
        let history = [
            txn(1, (0, 10), &[Append(1, 1), Append(2, 1)]),
            txn(2, (20, 30), &[read(1, &[1]), Append(1, 2), read(1, &[1, 2])]),
            unknown(3, (35, 36), Action::Txn { steps: vec![Append(2, 9), Read(1, None)] }),
            txn(4, (40, 50), &[read(1, &[1, 2]), read(2, &[1])]),
            txn(5, (60, 70), &[read(2, &[1, 9])]),
        ];
        assert!(check(&history).is_valid(), "{}", found(&history));
    }

    #[test]
    fn each_anomaly_is_found_by_its_name() {
        let g0 = at_once(&[
            &[Append(1, 1), Append(2, 1)],
            &[Append(1, 2), Append(2, 2)],
            &[read(1, &[1, 2]), read(2, &[2, 1])],
        ]);
        let g1c = at_once(&[&[Append(1, 1), read(2, &[1])], &[Append(2, 1), read(1, &[1])]]);
        let single = at_once(&[
            &[Append(1, 1), Append(2, 1)],
            &[read(1, &[1]), read(2, &[])],
            &[read(2, &[1])],
        ]);
        let g2 = at_once(&[
            &[read(1, &[]), Append(2, 1)],
            &[read(2, &[]), Append(1, 1)],
            &[read(1, &[1]), read(2, &[1])],
        ]);
        let real_time = [txn(1, (0, 10), &[Append(1, 1)]), txn(2, (20, 30), &[read(1, &[])])];
        let real_time_seen = [
            txn(1, (0, 10), &[Append(1, 1)]),
            txn(2, (20, 30), &[read(1, &[])]),
            txn(3, (40, 50), &[read(1, &[1])]),
        ];
        let refused = failed(1, (0, 10), Action::Txn { steps: vec![Append(1, 1)] });
        let g1a = [refused, txn(2, (20, 30), &[read(1, &[1])])];
        let g1b = at_once(&[&[Append(1, 1), Append(1, 2)], &[read(1, &[1])]]);
        let all: [(&str, &[Operation]); 8] = [
            ("G0:", &g0),
            ("G1c:", &g1c),
            ("G-single:", &single),
            ("G2:", &g2),
            ("G-single-realtime:", &real_time),
            ("G-single-realtime:", &real_time_seen),
            ("G1a:", &g1a),
            ("G1b:", &g1b),
        ];
        for (name, history) in all {
            assert!(found(history).contains(name), "{name} {}", found(history));
        }
    }

    #[test]
    fn impossible_reads_are_found() {
        let orders =
            at_once(&[&[Append(1, 1)], &[Append(1, 2)], &[read(1, &[1, 2])], &[read(1, &[2])]]);
        let nobody = at_once(&[&[read(1, &[5])]]);
        let twice = at_once(&[&[Append(1, 1)], &[read(1, &[1, 1])]]);
        let own = at_once(&[&[Append(1, 1), read(1, &[])]]);
        let moved = at_once(&[&[Append(1, 1)], &[read(1, &[]), read(1, &[1])]]);
        for history in [orders, nobody, twice, own, moved] {
            assert!(check(&history).is_invalid(), "{history:#?}");
        }
    }

    #[test]
    fn the_same_value_appended_twice_is_no_history_to_judge() {
        let history = at_once(&[&[Append(1, 1)], &[Append(1, 1)]]);
        assert!(matches!(check(&history).judgement, Judgement::Unknown(_)));
    }
}
