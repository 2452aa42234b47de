//! The copy of the placements that a plan is worked out on.

use std::collections::{BTreeMap, BTreeSet};

use swarmer_model::NodeId;

use crate::{
    eligibility::{avoided, known_trouble},
    input::{Desired, FunctionKey, FunctionNeed, NodeFacts, NodeRef, Observed},
    reason::Reason,
};

/// What stands on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) functions: u32,
    /// Wider than any one input, so that sums never overflow.
    pub(crate) memory_bytes: u128,
}

impl Used {
    /// The memory as the inputs measure it.
    pub(crate) fn clamped(self) -> u64 {
        u64::try_from(self.memory_bytes).unwrap_or(u64::MAX)
    }
}

/// A difference to what was observed.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Add(Reason),
    Remove(Reason),
}

#[derive(Debug)]
pub(crate) struct State<'a> {
    needs: BTreeMap<&'a str, &'a FunctionNeed>,
    nodes: BTreeMap<NodeId, &'a NodeFacts>,
    failing: &'a BTreeMap<FunctionKey, BTreeMap<NodeId, String>>,
    grace_ms: u64,
    now_ms: u64,
    /// Function, node, ready.
    copies: BTreeMap<FunctionKey, BTreeMap<NodeId, bool>>,
    observed: BTreeMap<&'a str, BTreeMap<NodeId, bool>>,
    used: BTreeMap<NodeId, Used>,
    changes: BTreeMap<(FunctionKey, NodeId), Change>,
}

impl<'a> State<'a> {
    pub(crate) fn new(desired: &'a Desired, observed: &'a Observed, now_ms: u64) -> Self {
        let needs: BTreeMap<_, _> =
            desired.functions.iter().map(|need| (need.key.as_str(), need)).collect();
        let nodes = observed.nodes.iter().map(|node| (node.id, node)).collect();
        let placed: BTreeMap<&str, BTreeMap<NodeId, bool>> = observed
            .placements
            .iter()
            .map(|(key, copies)| {
                (key.as_str(), copies.iter().map(|copy| (copy.node, copy.ready)).collect())
            })
            .collect();
        let mut used: BTreeMap<NodeId, Used> = BTreeMap::new();
        for (key, copies) in &placed {
            // What a deleted function used is not known; its copies go before anything is added.
            let Some(need) = needs.get(key) else { continue };
            for node in copies.keys() {
                let used = used.entry(*node).or_default();
                used.functions = used.functions.saturating_add(1);
                used.memory_bytes += u128::from(need.memory_bytes);
            }
        }
        let copies =
            placed.iter().map(|(key, copies)| ((*key).to_owned(), copies.clone())).collect();
        Self {
            needs,
            nodes,
            failing: &observed.failing,
            grace_ms: desired.policy.dead_grace_ms,
            now_ms,
            copies,
            observed: placed,
            used,
            changes: BTreeMap::new(),
        }
    }

    pub(crate) fn need(&self, function: &str) -> Option<&'a FunctionNeed> {
        self.needs.get(function).copied()
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &'a NodeFacts> + Clone {
        self.nodes.values().copied()
    }

    pub(super) fn node(&self, id: NodeId) -> Option<&'a NodeFacts> {
        self.nodes.get(&id).copied()
    }

    /// Why the function is kept away from the node; `None`: it is not.
    pub(crate) fn avoided(&self, need: &FunctionNeed, node: &'a NodeFacts) -> Option<&'a str> {
        avoided(self.nodes(), self.failing, need, node)
    }

    /// Whether trouble with the node is known, for this function or all.
    pub(super) fn has_trouble(&self, need: &FunctionNeed, node: &'a NodeFacts) -> bool {
        known_trouble(self.failing, need, node).is_some()
    }

    pub(crate) fn node_ref(&self, id: NodeId) -> NodeRef {
        let name = self.node(id).map_or(String::new(), |node| node.name.clone());
        NodeRef { id, name }
    }

    pub(super) fn zone(&self, id: NodeId) -> Option<(&'a str, &'a str)> {
        self.node(id).map(|node| (node.region.as_str(), node.zone.as_str()))
    }

    pub(crate) fn holds(&self, function: &str, node: NodeId) -> bool {
        self.copies.get(function).is_some_and(|copies| copies.contains_key(&node))
    }

    pub(crate) fn used(&self, node: NodeId) -> Used {
        self.used.get(&node).copied().unwrap_or_default()
    }

    /// The copies of a function: node and ready.
    pub(super) fn copies(&self, function: &str) -> impl Iterator<Item = (NodeId, bool)> {
        self.copies.get(function).into_iter().flatten().map(|(node, ready)| (*node, *ready))
    }

    /// The functions on a node.
    pub(super) fn functions_on(&self, node: NodeId) -> impl Iterator<Item = &'a FunctionNeed> {
        self.copies
            .iter()
            .filter(move |(_, copies)| copies.contains_key(&node))
            .filter_map(|(key, _)| self.need(key))
    }

    /// Functions, those first that get scarce capacity first.
    pub(super) fn by_priority(&self) -> Vec<&'a FunctionNeed> {
        let mut needs: Vec<_> = self.needs.values().copied().collect();
        needs.sort_by_key(|need| std::cmp::Reverse(need.priority));
        needs
    }

    /// The node's load in thousandths, with one more function on top if one is given: the fuller
    /// of its two capacities.
    pub(super) fn load_permille(&self, id: NodeId, more: Option<&FunctionNeed>) -> u32 {
        let Some(node) = self.node(id) else { return u32::MAX };
        let used = self.used(id);
        let share = |part: u128, whole: u128| match whole {
            0 => 1000,
            _ => u32::try_from(part.saturating_mul(1000) / whole).unwrap_or(u32::MAX),
        };
        let functions = u128::from(used.functions) + u128::from(more.is_some());
        let memory = used.memory_bytes + more.map_or(0, |need| u128::from(need.memory_bytes));
        share(functions, node.capacity.functions.into())
            .max(share(memory, node.capacity.memory_bytes.into()))
    }

    /// For how long the node has been dead; `None`: it is alive.
    pub(super) fn dead_for_ms(&self, node: &NodeFacts) -> Option<u64> {
        node.dead_since_ms.map(|since| self.now_ms.saturating_sub(since))
    }

    pub(super) fn grace_ms(&self) -> u64 {
        self.grace_ms
    }

    /// When the node's grace time ends; `u64::MAX` if it is alive or unknown.
    pub(super) fn grace_ends_ms(&self, node: NodeId) -> u64 {
        self.node(node)
            .and_then(|node| node.dead_since_ms)
            .map_or(u64::MAX, |since| since.saturating_add(self.grace_ms))
    }

    /// The next end of a grace time that work waits for.
    pub(super) fn replan_at_ms(&self) -> Option<u64> {
        let holding: BTreeSet<NodeId> =
            self.copies.values().flat_map(|copies| copies.keys().copied()).collect();
        holding
            .into_iter()
            .map(|node| self.grace_ends_ms(node))
            .filter(|at| *at > self.now_ms && *at < u64::MAX)
            .min()
    }

    pub(super) fn add(&mut self, need: &FunctionNeed, node: NodeId, reason: Reason) {
        let before =
            self.observed.get(need.key.as_str()).and_then(|copies| copies.get(&node)).copied();
        let key = (need.key.clone(), node);
        match before {
            // It stood there, and was taken away earlier in this plan.
            Some(_) => self.changes.remove(&key),
            None => self.changes.insert(key, Change::Add(reason)),
        };
        let ready = before.unwrap_or(false);
        self.copies.entry(need.key.clone()).or_default().insert(node, ready);
        let used = self.used.entry(node).or_default();
        used.functions = used.functions.saturating_add(1);
        used.memory_bytes += u128::from(need.memory_bytes);
    }

    pub(super) fn remove(&mut self, need: &FunctionNeed, node: NodeId, reason: Reason) {
        self.take(&need.key, node, reason);
        let used = self.used.entry(node).or_default();
        used.functions = used.functions.saturating_sub(1);
        used.memory_bytes = used.memory_bytes.saturating_sub(u128::from(need.memory_bytes));
    }

    fn take(&mut self, function: &str, node: NodeId, reason: Reason) {
        if let Some(copies) = self.copies.get_mut(function) {
            copies.remove(&node);
        }
        let stood = self.observed.get(function).is_some_and(|copies| copies.contains_key(&node));
        let key = (function.to_owned(), node);
        if stood {
            self.changes.insert(key, Change::Remove(reason));
        } else {
            self.changes.remove(&key);
        }
    }

    /// Takes away the copies of deleted functions and those on nodes that are no members.
    pub(super) fn drop_unwanted(&mut self) -> bool {
        let unwanted: Vec<(FunctionKey, NodeId, bool)> = self
            .copies
            .iter()
            .flat_map(|(key, copies)| copies.keys().map(move |node| (key, *node)))
            .map(|(key, node)| (key.clone(), node, self.needs.contains_key(key.as_str())))
            .filter(|(_, node, wanted)| !wanted || !self.nodes.contains_key(node))
            .collect();
        for (key, node, wanted) in &unwanted {
            match self.need(key) {
                Some(need) if *wanted => self.remove(need, *node, Reason::NotMember),
                _ => self.take(key, *node, Reason::Deleted),
            }
        }
        !unwanted.is_empty()
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = (&str, NodeId, &Change)> {
        self.changes.iter().map(|((function, node), change)| (function.as_str(), *node, change))
    }

    pub(super) fn placements(&self) -> BTreeMap<FunctionKey, BTreeSet<NodeId>> {
        self.copies
            .iter()
            .filter(|(_, copies)| !copies.is_empty())
            .map(|(key, copies)| (key.clone(), copies.keys().copied().collect()))
            .collect()
    }
}
