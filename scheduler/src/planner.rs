//! The planner.
//!
//! It works on a copy of the placements and repeats one round until a round changes nothing; the
//! plan is the difference. So what it leaves behind is a fixpoint by construction, if it ends.
//! It ends: a round first takes away what nobody wants, then adds copies that are missing, then
//! takes away the copies in trouble that are no longer needed. A copy's trouble can only vanish
//! within one plan (additions never overfill a node, removals only empty it), a function gains
//! copies only while it has fewer good ones than it wants, and a surplus one goes only while it
//! has more. [`MAX_ROUNDS`] guards this argument.

mod state;
mod trouble;

use std::cmp::Reverse;

use swarmer_model::NodeId;

pub(crate) use self::state::State;
use self::{
    state::Change,
    trouble::{Standing, overfull},
};
use crate::{
    candidates::score,
    conflict::Conflict,
    eligibility::{hint, refuse},
    input::{Desired, FunctionNeed, NodeFacts, NodeRef, Observed, Spread},
    output::{Command, Decision, Plan, Verdict},
    reason::{Reason, Trouble},
};

/// How many rounds a plan may take. Two or three are usual; each further one needs a copy whose
/// trouble vanished in the round before.
const MAX_ROUNDS: u32 = 64;

/// Plans: what to change so that `observed` becomes what `desired` says, as far as it can be had.
///
/// `now_ms` is on the clock of [`NodeFacts::dead_since_ms`]. Same input, same plan, on every
/// machine. Applied ([`Plan::apply`]) and planned again, it has no commands until a copy becomes
/// ready, a node changes, a wish changes or [`Plan::replan_at_ms`] comes.
///
/// The rules, strongest first:
/// 1. No addition breaks a constraint or overfills a node. A copy that breaks a constraint stays
///    only while its replacement starts, or where no other copy of the function lives: it then
///    goes on with what was served before, and the conflict says why.
/// 2. Nothing moves without need. Need is: a constraint broken, a node drained, dead for longer
///    than the grace time, no member, fuller than its capacity, or one where the function does not
///    come up while enough others have no trouble.
/// 3. Replacement first: a copy that serves goes when the one in its place is ready.
/// 4. Copies of a function are spread over zones, then go to the least loaded node; ties are
///    broken by [`score`], so that functions alike do not gather on one node.
pub fn plan(desired: &Desired, observed: &Observed, now_ms: u64) -> Plan {
    let mut state = State::new(desired, observed, now_ms);
    let mut settled = false;
    for _ in 0..MAX_ROUNDS {
        if !round(&mut state) {
            settled = true;
            break;
        }
    }
    if !settled {
        let state = State::new(desired, observed, now_ms);
        let conflicts = vec![Conflict::Unsettled { rounds: MAX_ROUNDS }];
        return Plan { conflicts, placements: state.placements(), ..state.into_plan() };
    }
    let (conflicts, mut decisions) = report(&state);
    let replan_at_ms = state.replan_at_ms();
    let placements = state.placements();
    let plan = state.into_plan();
    let made = plan.commands.iter().map(|command| Decision {
        function: command.function().to_owned(),
        node: match command {
            Command::Add { node, .. } | Command::Remove { node, .. } => node.clone(),
        },
        verdict: match command {
            Command::Add { .. } => Verdict::Placed,
            Command::Remove { .. } => Verdict::Removed,
        },
        reason: command.reason().clone(),
    });
    decisions.splice(0..0, made);
    Plan { decisions, conflicts, placements, replan_at_ms, ..plan }
}

/// One round; whether it changed anything.
fn round(state: &mut State<'_>) -> bool {
    let mut changed = state.drop_unwanted();
    let needs = state.by_priority();
    for need in &needs {
        changed |= drop_surplus(state, need);
    }
    for need in &needs {
        changed |= add_missing(state, need);
    }
    for need in &needs {
        changed |= drop_relieved(state, need);
    }
    changed
}

fn drop_surplus(state: &mut State<'_>, need: &FunctionNeed) -> bool {
    let mut changed = false;
    loop {
        let standing = Standing::of(state, need);
        if standing.good.len() <= need.replicas as usize {
            return changed;
        }
        // Those that do not serve go first, then those that are crowded together.
        let worst = standing.good.iter().max_by_key(|copy| {
            (
                copy.dead,
                !copy.ready,
                zone_copies(state, &standing, need, copy.node),
                state.load_permille(copy.node, None),
                Reverse(score(&need.key, copy.node)),
                copy.node,
            )
        });
        let Some(node) = worst.map(|copy| copy.node) else { return changed };
        state.remove(need, node, Reason::Surplus { wanted: need.replicas });
        changed = true;
    }
}

fn add_missing(state: &mut State<'_>, need: &FunctionNeed) -> bool {
    let mut changed = false;
    loop {
        let standing = Standing::of(state, need);
        let placed = standing.good.len();
        if placed >= need.replicas as usize {
            return changed;
        }
        let mut fitting = 0_u32;
        let mut best: Option<(_, &NodeFacts)> = None;
        for node in state.nodes().filter(|node| refuse(state, need, node).is_none()) {
            fitting += 1;
            let rank = (
                state.has_trouble(need, node),
                zone_copies(state, &standing, need, node.id),
                state.load_permille(node.id, Some(need)),
                Reverse(score(&need.key, node.id)),
                node.id,
            );
            if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                best = Some((rank, node));
            }
        }
        let Some(((_, zone_copies, load_permille, _, _), node)) = best else { return changed };
        let node = node.id;
        // Each trouble is answered by one addition; those answered by copies that are still
        // starting come first.
        let replaces = standing
            .bad
            .get(standing.good.iter().filter(|copy| !copy.serves()).count())
            .map(|bad| (state.node_ref(bad.copy.node), bad.trouble.clone()));
        let reason = Reason::Chosen {
            copy: u32::try_from(placed).unwrap_or(u32::MAX).saturating_add(1),
            wanted: need.replicas,
            replaces,
            zone_copies,
            load_permille,
            of: fitting,
        };
        state.add(need, node, reason);
        changed = true;
    }
}

/// How many good copies stand in the node's zone besides its own; always 0 where zones do not
/// count.
fn zone_copies(state: &State<'_>, standing: &Standing, need: &FunctionNeed, node: NodeId) -> u32 {
    if need.spread == Spread::Node {
        return 0;
    }
    let zone = state.zone(node);
    let same = |id: &NodeId| *id != node && state.zone(*id) == zone;
    let count = standing.good.iter().map(|copy| copy.node).filter(same).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn drop_relieved(state: &mut State<'_>, need: &FunctionNeed) -> bool {
    let standing = Standing::of(state, need);
    let kept = standing.kept_bad(need.replicas);
    let mut changed = false;
    for bad in &standing.bad {
        if !kept.contains(&bad.copy.node) {
            state.remove(need, bad.copy.node, Reason::Relieved(bad.trouble.clone()));
            changed = true;
        }
    }
    changed
}

/// What cannot be had, and why copies stay in trouble.
fn report(state: &State<'_>) -> (Vec<Conflict>, Vec<Decision>) {
    let mut conflicts = Vec::new();
    let mut decisions = Vec::new();
    for need in state.by_priority() {
        let standing = Standing::of(state, need);
        let placed = standing.good.len();
        let short = placed < need.replicas as usize;
        let decision = |node: NodeRef, verdict, reason| Decision {
            function: need.key.clone(),
            node,
            verdict,
            reason,
        };
        for copy in standing.good.iter().filter(|copy| copy.dead) {
            let until_ms = state.grace_ends_ms(copy.node);
            let reason = Reason::Grace { until_ms };
            decisions.push(decision(state.node_ref(copy.node), Verdict::Kept, reason));
        }
        for bad in &standing.bad {
            let trouble = bad.trouble.clone();
            let reason =
                if short { Reason::NoReplacement(trouble) } else { Reason::UntilReplaced(trouble) };
            decisions.push(decision(state.node_ref(bad.copy.node), Verdict::Kept, reason));
        }
        if !short {
            continue;
        }
        let mut refused = Vec::new();
        let mut more = 0_u32;
        for node in state.nodes() {
            // A node that holds a good copy is no answer to "why not one more".
            if standing.good.iter().any(|copy| copy.node == node.id) {
                continue;
            }
            let bad = standing.bad.iter().find(|bad| bad.copy.node == node.id);
            let reason = match bad {
                Some(bad) => Reason::NoReplacement(bad.trouble.clone()),
                None => match refuse(state, need, node) {
                    Some(reason) => reason,
                    None => continue,
                },
            };
            if refused.len() == Conflict::MAX_REFUSALS {
                more += 1;
                continue;
            }
            if bad.is_none() {
                decisions.push(decision(node.into(), Verdict::Refused, reason.clone()));
            }
            refused.push((NodeRef::from(node), reason));
        }
        conflicts.push(Conflict::Short {
            function: need.key.clone(),
            wanted: need.replicas,
            placed: u32::try_from(placed).unwrap_or(u32::MAX),
            refused,
            more,
            hint: hint(need, state.nodes()),
        });
    }
    conflicts.extend(
        state
            .nodes()
            .filter(|node| overfull(state, node))
            .filter(|node| !state.is_being_relieved(node.id))
            .map(|node| {
                let used = state.used(node.id);
                Conflict::Overfull {
                    node: node.into(),
                    functions: used.functions,
                    max_functions: node.capacity.functions,
                    memory_bytes: used.clamped(),
                    max_memory_bytes: node.capacity.memory_bytes,
                }
            }),
    );
    (conflicts, decisions)
}

/// The commands that turn the observed placements into the planned ones.
fn commands(state: &State<'_>) -> Vec<Command> {
    let mut commands: Vec<Command> = state
        .changes()
        .map(|(function, node, change)| match change {
            Change::Add(reason) => Command::Add {
                function: function.to_owned(),
                revision: state.need(function).map_or(0, |need| need.revision),
                node: state.node_ref(node),
                reason: reason.clone(),
            },
            Change::Remove(reason) => Command::Remove {
                function: function.to_owned(),
                revision: state.need(function).map(|need| need.revision),
                node: state.node_ref(node),
                reason: reason.clone(),
            },
        })
        .collect();
    commands.sort_by(|a, b| {
        let key = |c: &Command| (matches!(c, Command::Remove { .. }), c.node());
        a.function().cmp(b.function()).then_with(|| key(a).cmp(&key(b)))
    });
    commands
}

impl State<'_> {
    fn into_plan(self) -> Plan {
        Plan { commands: commands(&self), ..Plan::default() }
    }

    /// Whether an overfull node fits once the copies go that wait for their replacements.
    fn is_being_relieved(&self, node: NodeId) -> bool {
        self.by_priority().into_iter().all(|need| {
            let standing = Standing::of(self, need);
            standing.good.len() >= need.replicas as usize
                || !standing
                    .bad
                    .iter()
                    .any(|bad| bad.copy.node == node && bad.trouble == Trouble::Overfull)
        })
    }
}
