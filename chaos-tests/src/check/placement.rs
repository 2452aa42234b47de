//! Placements: at every revision that was committed, no copy that it added stands against a constraint
//! or fills a node beyond its capacity; and at the end what can be placed is placed.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use crate::history::{Action, Answer, Commit, Fact, Member, Operation, Placed, Rule};

const INVARIANT: &str = "no copy is placed against a constraint, or beyond what its node can hold";
const REST: &str =
    "once all is healed, what can be placed is placed, and nothing stands where it may not";

/// What a node can hold: functions, and bytes of their memory.
type Capacity = (u32, u64);

/// Every committed revision, one after another, against the rules that held when it was committed.
pub fn check(history: &[Operation]) -> Verdict {
    let trace = match Trace::of(history) {
        Ok(trace) => trace,
        Err(why) => return Verdict::unknown(INVARIANT, 1, why),
    };
    let mut violations = Vec::new();
    let mut state = State::new(history);
    for (revision, commits) in &trace.revisions {
        let added = state.apply(*revision, commits);
        violations.extend(state.violations(*revision, &added));
    }
    Verdict::of(INVARIANT, trace.revisions.len(), violations)
}

/// The last committed state, after it came to rest.
pub fn rest(history: &[Operation]) -> Verdict {
    let rested = history.iter().any(|op| matches!(op.action, Action::Rest) && op.is_ok());
    let trace = match Trace::of(history) {
        Ok(trace) if rested => trace,
        // Then nothing is claimed.
        Ok(_) => return Verdict::of(REST, 0, Vec::new()),
        Err(why) => return Verdict::unknown(REST, 1, why),
    };
    if trace.revisions.is_empty() {
        return Verdict::of(REST, 0, Vec::new());
    }
    let mut state = State::new(history);
    for (revision, commits) in &trace.revisions {
        state.apply(*revision, commits);
    }
    Verdict::of(REST, state.functions.len(), state.unsettled())
}

/// How many copies were placed, and how many plans found too little room for a function.
pub fn seen(history: &[Operation]) -> (u64, u64) {
    let Ok(trace) = Trace::of(history) else { return (0, 0) };
    let mut state = State::new(history);
    let (mut placed, mut short) = (0, 0);
    for (revision, commits) in &trace.revisions {
        placed += state.apply(*revision, commits).len() as u64;
        let planned = commits.iter().filter(|c| matches!(c.fact, Fact::Placement(Some(_))));
        short += planned.filter(|commit| state.lacks_room(&commit.of)).count() as u64;
    }
    (placed, short)
}

/// All changes, by revision.
pub(super) struct Trace<'a> {
    pub(super) revisions: BTreeMap<u64, Vec<&'a Commit>>,
}

impl<'a> Trace<'a> {
    /// # Errors
    /// Why it is not whole: then of no revision is known what held before it.
    pub(super) fn of(history: &'a [Operation]) -> Result<Self, String> {
        let mut revisions: BTreeMap<u64, Vec<&Commit>> = BTreeMap::new();
        let mut reached = 0;
        for operation in history {
            let Action::Trace { from } = operation.action else { continue };
            let Some(Answer::Commits { commits, .. }) = operation.answer() else { continue };
            if from != reached {
                return Err(format!("the changes after {reached} were not asked for: {from}"));
            }
            for commit in commits {
                if commit.revision < reached.max(from + 1) {
                    return Err(format!("{commit:?} was told after revision {reached}"));
                }
                reached = commit.revision;
                revisions.entry(reached).or_default().push(commit);
            }
        }
        // A write that was acknowledged is a change of a function, and was to be seen.
        let due = history.iter().filter(|op| matches!(op.action, Action::Write { .. }));
        let due = due.filter_map(Operation::revision).max().unwrap_or(0);
        if !revisions.is_empty() && reached < due {
            return Err(format!("the changes were followed until {reached}, and {due} came later"));
        }
        Ok(Self { revisions })
    }
}

/// A function with what it asked for since.
#[derive(Debug, Default)]
pub(super) struct Wish {
    /// The revision and the rule of each change of it, since it was made.
    pub(super) rules: Vec<(u64, Rule)>,
    pub(super) placed: Placed,
}

impl Wish {
    /// The rule that holds.
    pub(super) fn rule(&self) -> Option<&Rule> {
        self.rules.last().map(|(_, rule)| rule)
    }

    /// What one copy takes: the least that was asked for since the state for which it was planned. A
    /// rule that was changed after that is a wish that is not answered yet.
    fn memory(&self) -> u64 {
        let since = self.rules.iter().filter(|(at, _)| *at >= self.placed.planned);
        since.map(|(_, rule)| rule.memory).min().unwrap_or(0)
    }
}

/// What holds at a revision.
pub(super) struct State {
    /// Of nodes by name.
    capacities: BTreeMap<String, Capacity>,
    pub(super) members: BTreeMap<String, Member>,
    /// The regions that are drained.
    drained: BTreeSet<String>,
    pub(super) functions: BTreeMap<String, Wish>,
}

impl State {
    pub(super) fn new(history: &[Operation]) -> Self {
        let capacity = |operation: &Operation| match operation.action {
            Action::Capacity { functions, memory } => {
                Some((operation.node.clone(), (functions, memory)))
            }
            _ => None,
        };
        let capacities = history.iter().filter_map(capacity).collect();
        Self {
            capacities,
            members: BTreeMap::new(),
            drained: BTreeSet::new(),
            functions: BTreeMap::new(),
        }
    }

    /// Gives the copies that it added: function and node.
    pub(super) fn apply<'a>(
        &mut self,
        revision: u64,
        commits: &[&'a Commit],
    ) -> BTreeSet<(&'a str, &'a str)> {
        let mut added = BTreeSet::new();
        for Commit { of, fact, .. } in commits {
            match fact {
                Fact::Function(Some(rule)) => {
                    let wish = self.functions.entry(of.clone()).or_default();
                    wish.rules.push((revision, rule.clone()));
                }
                // Its placement goes with it.
                Fact::Function(None) => drop(self.functions.remove(of)),
                Fact::Placement(None) => {
                    if let Some(wish) = self.functions.get_mut(of) {
                        wish.placed = Placed::default();
                    }
                }
                Fact::Placement(Some(placed)) => {
                    let wish = self.functions.entry(of.clone()).or_default();
                    let new = placed.nodes.iter().filter(|node| !wish.placed.nodes.contains(node));
                    added.extend(new.map(|node| (of.as_str(), node.as_str())));
                    wish.placed = placed.clone();
                }
                Fact::Node(Some(member)) => drop(self.members.insert(of.clone(), member.clone())),
                Fact::Node(None) => drop(self.members.remove(of)),
                Fact::Region(Some(true)) => drop(self.drained.insert(of.clone())),
                Fact::Region(_) => drop(self.drained.remove(of)),
            }
        }
        added
    }

    /// What a revision that added these copies has broken.
    fn violations(&self, revision: u64, added: &BTreeSet<(&str, &str)>) -> Vec<String> {
        let mut violations = Vec::new();
        for (function, node) in added {
            if let Some(why) = self.against(function, node) {
                let name = self.name(node);
                violations.push(format!("revision {revision} put {function} on {name}: {why}"));
            }
        }
        let filled: BTreeSet<&str> = added.iter().map(|(_, node)| *node).collect();
        for node in filled {
            let (used, capacity) = (self.used(node), self.capacity(node));
            if used.0 > capacity.0 || used.1 > capacity.1 {
                let new = added.iter().filter(|(_, at)| *at == node).map(|(function, _)| *function);
                violations.push(format!(
                    "revision {revision} put {} on {}: it has {} functions of {} bytes then, and \
                     can hold {} of {}",
                    new.collect::<Vec<_>>().join(", "),
                    self.name(node),
                    used.0,
                    used.1,
                    capacity.0,
                    capacity.1
                ));
            }
        }
        violations
    }

    /// Why the function may not stand on the node, however much room there is.
    pub(super) fn against(&self, function: &str, node: &str) -> Option<String> {
        let Some(rule) = self.functions.get(function).and_then(Wish::rule) else {
            return Some("there is no such function".to_owned());
        };
        let Some(member) = self.members.get(node) else {
            return Some("it is no member".to_owned());
        };
        if member.draining {
            return Some("it is being emptied".to_owned());
        }
        if self.drained.contains(&member.region) {
            return Some(format!("its region {} is drained", member.region));
        }
        (!rule.allows(member)).then(|| format!("{rule:?} does not allow {member:?}"))
    }

    /// Whether a member is emptied, alone or with its region.
    pub(super) fn is_emptied(&self, member: &Member) -> bool {
        member.draining || self.drained.contains(&member.region)
    }

    /// What cannot be so at rest.
    fn unsettled(&self) -> Vec<String> {
        let mut violations = Vec::new();
        for (function, wish) in &self.functions {
            let Some(rule) = wish.rule() else { continue };
            if wish.rules.last().is_some_and(|(at, _)| *at != wish.placed.planned) {
                violations.push(format!("{function} is not planned as it is wished for: {wish:?}"));
                continue;
            }
            let stands = |node: &&String| self.against(function, node).is_none();
            let (good, bad): (Vec<&String>, Vec<&String>) =
                wish.placed.nodes.iter().partition(stands);
            let short = good.len() < rule.replicas as usize;
            // What has to leave stays until it is replaced; against its rule, only if it is all there is.
            let lawful = |node: &String| self.members.get(node).is_some_and(|m| rule.allows(m));
            let done = |node: &&&String| !short || (!good.is_empty() && !lawful(node));
            if let Some(node) = bad.iter().find(done) {
                let why = self.against(function, node).unwrap_or_default();
                violations.push(format!("{function} stands on {}: {why}", self.name(node)));
            }
            let free = self.members.keys().find(|node| self.could_take(function, rule, node));
            if let Some(node) = free.filter(|_| short) {
                violations.push(format!(
                    "{function} has {} copies of {}, and {} could take one more",
                    good.len(),
                    rule.replicas,
                    self.name(node)
                ));
            }
        }
        violations
    }

    pub(super) fn could_take(&self, function: &str, rule: &Rule, node: &str) -> bool {
        let (used, capacity) = (self.used(node), self.capacity(node));
        let stands = |wish: &Wish| wish.placed.nodes.iter().any(|at| at == node);
        self.against(function, node).is_none()
            && !self.functions.get(function).is_some_and(stands)
            && used.0 < capacity.0
            && used.1.saturating_add(rule.memory) <= capacity.1
    }

    /// Whether a plan left it with fewer copies than it wishes for, though enough nodes may have it.
    fn lacks_room(&self, function: &str) -> bool {
        let Some(wish) = self.functions.get(function) else { return false };
        let Some(rule) = wish.rule() else { return false };
        let wanted = rule.replicas as usize;
        let may = self.members.keys().filter(|node| self.against(function, node).is_none()).count();
        wish.placed.nodes.len() < wanted && may >= wanted
    }

    fn used(&self, node: &str) -> Capacity {
        let mut used = (0, 0_u64);
        for wish in self.functions.values() {
            if wish.placed.nodes.iter().any(|at| at == node) {
                used = (used.0 + 1, used.1.saturating_add(wish.memory()));
            }
        }
        used
    }

    /// Nothing is said of one: it holds anything.
    fn capacity(&self, node: &str) -> Capacity {
        self.capacities.get(self.name(node)).copied().unwrap_or((u32::MAX, u64::MAX))
    }

    pub(super) fn name<'a>(&'a self, node: &'a str) -> &'a str {
        self.members.get(node).map_or(node, |member| &member.name)
    }
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
