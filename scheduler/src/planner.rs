//! The planner.
//!
//! It works on a copy of the placements and repeats one round until a round changes nothing; the
//! plan is the difference. So what it leaves behind is a fixpoint by construction, if it ends.
//! It ends: a round first takes away what nobody wants, then adds copies that are missing, then
//! takes away the copies in trouble that are no longer needed. A copy's trouble can only vanish
//! within one plan (additions never overfill a node, removals only empty it), a function gains
//! copies only while it has fewer good ones than it wants, and a surplus one goes only while it
//! has more. A copy makes room only for one of higher priority, and what serves becomes only less
//! within one plan, so that what may not be taken in one round may not be in the next.
//! [`MAX_ROUNDS`] guards this argument.

mod company;
mod crowding;
mod home;
mod preempt;
mod refusal;
mod state;
mod trouble;

use std::{cmp::Reverse, collections::BTreeSet};

pub(crate) use self::{company::affinities, state::State};
use self::{
    company::{Closeness, Company},
    crowding::{Crowd, Crowding},
    preempt::Preemption,
    state::{Change, NeedAt, NodeAt},
    trouble::{Standee, Standing},
};
use crate::{
    candidates::Liking,
    conflict::Conflict,
    input::{Desired, NodeRef, Observed},
    output::{Command, Decision, Plan, Verdict},
    reason::{Reason, Trouble},
};

/// How many rounds a plan may take. Two or three are usual; each further one needs a copy whose
/// trouble vanished in the round before.
const MAX_ROUNDS: u32 = 64;

/// Plans: what to change so that `observed` becomes what `desired` says, as far as it can be had.
///
/// `now_ms` is on the clock of [`NodeFacts::dead_since_ms`](crate::NodeFacts::dead_since_ms). Same
/// input, same plan, on every machine. Applied ([`Plan::apply`]) and planned again, it has no
/// commands until a copy becomes ready, a node changes, a wish changes or [`Plan::replan_at_ms`]
/// comes.
///
/// The rules, strongest first:
/// 1. No addition breaks a constraint or overfills a node. A copy that breaks a constraint stays
///    only while its replacement starts, or where no other copy of the function lives: it then
///    goes on with what was served before, and the conflict says why.
/// 2. Nothing moves without need. Need is: a constraint broken, a node drained alone or with its
///    region, dead for longer than the grace time, no member, fuller than its capacity, or one where the function does not
///    come up while enough others have no trouble; a region that was drained and takes work again,
///    for copies that are crowded together elsewhere; or a function of higher priority that fits
///    nowhere else, which takes no more than leaves
///    [`min_available`](crate::FunctionNeed::min_available) serving.
/// 3. Replacement first: a copy that serves goes when the one in its place is ready.
/// 4. Copies of a function are spread over regions, in these over zones, then keep [apart](crate::FunctionNeed::apart) from
///    those of others and [near](crate::FunctionNeed::near) to them, then go to the least loaded
///    node; ties are broken by [`score`](crate::score), so that functions alike do not gather on one
///    node. Of equally important functions those are placed first that others are to be near to.
pub fn plan(desired: &Desired, observed: &Observed, now_ms: u64) -> Plan {
    let mut state = State::new(desired, observed, now_ms);
    let mut settled = false;
    for _ in 0..MAX_ROUNDS {
        // Nobody makes room while there may be some without that.
        let changed =
            round(&mut state, false) || (!state.one_priority() && round(&mut state, true));
        if !changed {
            settled = true;
            break;
        }
    }
    if !settled {
        let conflicts = vec![Conflict::Unsettled { rounds: MAX_ROUNDS }];
        let copies = observed.placements.iter().filter(|(_, copies)| !copies.is_empty());
        let placements = copies
            .map(|(key, copies)| (key.clone(), copies.iter().map(|copy| copy.node).collect()))
            .collect();
        return Plan { conflicts, placements, ..Plan::default() };
    }
    let (conflicts, mut decisions) = report(&state);
    let plan = Plan {
        commands: commands(&state),
        placements: state.placements(),
        replan_at_ms: state.replan_at_ms(),
        ..Plan::default()
    };
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
    Plan { decisions, conflicts, ..plan }
}

/// One round, in which the less important make room or not; whether it changed anything.
fn round(state: &mut State<'_>, preempting: bool) -> bool {
    let mut changed = false;
    let functions = state.by_priority();
    for at in &functions {
        changed |= drop_surplus(state, *at);
    }
    for at in &functions {
        changed |= add_missing(state, *at, preempting);
    }
    for at in &functions {
        changed |= drop_relieved(state, *at);
    }
    changed
}

/// How well the node suits by affinity; without one all suit alike.
fn closeness(state: &State<'_>, company: Option<&Company>, node: NodeAt) -> Closeness {
    company.map(|company| company.closeness(state.zone(node), node)).unwrap_or_default()
}

fn drop_surplus(state: &mut State<'_>, at: NeedAt) -> bool {
    let wanted = state.need(at).replicas;
    let liking = Liking::of(&state.need(at).key);
    let mut changed = false;
    loop {
        let standing = Standing::of(state, at);
        if standing.good.len() <= wanted as usize {
            return changed;
        }
        let crowding = Crowding::of(state, at, &standing.good);
        let company = Company::of(state, at);
        // Those that do not serve go first, then those that are crowded together, or far from those
        // that they are to be near to.
        let worst = standing.good.iter().max_by_key(|copy| {
            (
                copy.dead,
                !copy.ready,
                crowding.at(state, state.zone(copy.node)),
                closeness(state, company.as_ref(), copy.node),
                state.load_permille(copy.node, None),
                Reverse(liking.score(state.node(copy.node).id)),
                copy.node,
            )
        });
        let Some(node) = worst.map(|copy| copy.node) else { return changed };
        state.remove(at, node, Reason::Surplus { wanted });
        changed = true;
    }
}

fn add_missing(state: &mut State<'_>, at: NeedAt, preempting: bool) -> bool {
    let need = state.need(at);
    let mut standing = Standing::of(state, at);
    if standing.good.len() >= need.replicas as usize {
        return false;
    }
    let mut crowding = Crowding::of(state, at, &standing.good);
    let mut changed = false;
    while standing.good.len() < need.replicas as usize {
        let Some(best) = Best::of(state, at, &crowding) else {
            let found = if preempting { Preemption::of(state, at, &crowding) } else { None };
            let Some(Preemption { node, victims }) = found else { return changed };
            let by = || (need.key.clone(), need.priority);
            let evicted = victims.iter().map(|victim| state.need(*victim).key.clone()).collect();
            for victim in victims {
                let (by, priority) = by();
                state.remove(victim, node, Reason::Preempted { by, priority });
            }
            let copy = count(standing.good.len()).saturating_add(1);
            let reason = Reason::Preempting { copy, wanted: need.replicas, evicted };
            let placed = state.add(at, node, reason);
            standing.good.push(Standee::new(state, placed));
            crowding.put(state, state.zone(node));
            changed = true;
            continue;
        };
        // Each trouble is answered by one addition; those answered by copies that are still
        // starting come first.
        let replaces = standing
            .bad
            .get(standing.good.iter().filter(|copy| !copy.serves()).count())
            .map(|bad| (state.node_ref(bad.copy.node), bad.trouble.clone()));
        let reason = Reason::Chosen {
            copy: count(standing.good.len()).saturating_add(1),
            wanted: need.replicas,
            replaces,
            region_copies: best.crowd.in_region,
            zone_copies: best.crowd.in_zone,
            load_permille: best.load_permille,
            affinity: affinities(state, at, best.node),
            of: best.of,
        };
        // Nothing changes for the function's other copies by it: it stands on another node.
        let placed = state.add(at, best.node, reason);
        standing.good.push(Standee::new(state, placed));
        crowding.put(state, state.zone(best.node));
        changed = true;
    }
    changed
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// What nodes are compared by, less is better: known trouble and how crowded they are, how well they suit by
/// affinity, how loaded they would be.
type Rank<C> = ((bool, Crowd), C, u32);

/// The node that gets the next copy of a function.
struct Best {
    node: NodeAt,
    /// Before it came.
    crowd: Crowd,
    load_permille: u32,
    /// Of how many that fitted.
    of: u32,
}

impl Best {
    fn of(state: &State<'_>, at: NeedAt, crowding: &Crowding) -> Option<Self> {
        // Without affinity nothing is compared for it.
        match Company::of(state, at) {
            None => Self::among(state, at, crowding, |_| ()),
            Some(company) => {
                let close = |node| company.closeness(state.zone(node), node);
                Self::among(state, at, crowding, close)
            }
        }
    }

    /// `close` says how well a node suits by affinity: less is better.
    fn among<C: Ord + Copy>(
        state: &State<'_>,
        at: NeedAt,
        crowding: &Crowding,
        close: impl Fn(NodeAt) -> C,
    ) -> Option<Self> {
        let need = state.need(at);
        let liking = Liking::of(&need.key);
        let last = |node: NodeAt| (Reverse(liking.score(state.node(node).id)), node);
        let mut of = 0;
        let mut best: Option<(Rank<C>, NodeAt)> = None;
        for node in state.lawful(at) {
            if state.no_room(at, *node).is_some() {
                continue;
            }
            of += 1;
            let troubled = state.known_trouble(at, *node).is_some();
            let crowd = (troubled, crowding.at(state, state.zone(*node)));
            if best.is_some_and(|((least, ..), _)| crowd > least) {
                continue;
            }
            let close = close(*node);
            // The load takes longest to work out.
            if best.is_some_and(|((least, closest, _), _)| (crowd, close) > (least, closest)) {
                continue;
            }
            let rank = (crowd, close, state.load_permille(*node, Some(need)));
            let better = best.is_none_or(|(least, other)| {
                rank < least || (rank == least && last(*node) < last(other))
            });
            if better {
                best = Some((rank, *node));
            }
        }
        let (((_, crowd), _, load_permille), node) = best?;
        Some(Self { node, crowd, load_permille, of })
    }
}

fn drop_relieved(state: &mut State<'_>, at: NeedAt) -> bool {
    let standing = Standing::of(state, at);
    if standing.bad.is_empty() {
        return false;
    }
    let kept = standing.kept_bad(state.need(at).replicas);
    let mut changed = false;
    for bad in standing.bad.into_iter().filter(|bad| !kept.contains(&bad.copy.node)) {
        state.remove(at, bad.copy.node, Reason::Relieved(bad.trouble));
        changed = true;
    }
    changed
}

/// What cannot be had, and why copies stay in trouble.
fn report(state: &State<'_>) -> (Vec<Conflict>, Vec<Decision>) {
    let mut conflicts = Vec::new();
    let mut decisions = Vec::new();
    // Nodes that are overfull by copies that have nowhere to go.
    let mut stuck = BTreeSet::new();
    for at in state.by_priority() {
        let standing = Standing::of(state, at);
        let need = state.need(at);
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
        let overfull = standing.bad.iter().filter(|bad| bad.trouble == Trouble::Overfull);
        stuck.extend(overfull.map(|bad| bad.copy.node));
        let mut refused = Vec::new();
        let mut more = 0_u32;
        for node in state.nodes() {
            // A node that holds a good copy is no answer to "why not one more".
            if standing.good.iter().any(|copy| copy.node == node) {
                continue;
            }
            let bad = standing.bad.iter().find(|bad| bad.copy.node == node);
            let refusal = if bad.is_none() { state.refuse(at, node) } else { None };
            if bad.is_none() && refusal.is_none() {
                continue;
            }
            if refused.len() == Conflict::MAX_REFUSALS {
                more += 1;
                continue;
            }
            let reason = match (bad, refusal) {
                (Some(bad), _) => Reason::NoReplacement(bad.trouble.clone()),
                (None, Some(refusal)) => refusal.reason(state, at, node),
                (None, None) => continue,
            };
            if bad.is_none() {
                decisions.push(decision(state.node_ref(node), Verdict::Refused, reason.clone()));
            }
            refused.push((state.node_ref(node), reason));
        }
        conflicts.push(Conflict::Short {
            function: need.key.clone(),
            wanted: need.replicas,
            placed: count(placed),
            refused,
            more,
            hint: state.hint(at),
        });
    }
    // An overfull node fits once the copies go that wait for their replacements.
    let overfull = state.nodes().filter(|node| state.overfull(*node) && stuck.contains(node));
    conflicts.extend(overfull.map(|at| {
        let (node, used) = (state.node(at), state.used(at));
        Conflict::Overfull {
            node: node.into(),
            functions: used.functions,
            max_functions: node.capacity.functions,
            memory_bytes: used.memory(),
            max_memory_bytes: node.capacity.memory_bytes,
            concurrency: used.concurrency(),
            max_concurrency: node.capacity.concurrency,
        }
    }));
    (conflicts, decisions)
}

/// The commands that turn the observed placements into the planned ones.
fn commands(state: &State<'_>) -> Vec<Command> {
    let gone = state.gone().iter().map(|(function, node, reason)| Command::Remove {
        function: (*function).to_owned(),
        revision: state.named(function).map(|at| state.need(at).revision),
        // Of one that is no member no more is known.
        node: state.node_of(*node),
        reason: reason.clone(),
    });
    let changed = state.changes().map(|(at, node, change)| {
        let (need, node) = (state.need(at), state.node_ref(node));
        let function = need.key.clone();
        match change {
            Change::Add(reason) => {
                let (revision, reason) = (need.revision, reason.clone());
                Command::Add { function, revision, node, reason }
            }
            Change::Remove(reason) => {
                let (revision, reason) = (Some(need.revision), reason.clone());
                Command::Remove { function, revision, node, reason }
            }
        }
    });
    let mut commands: Vec<Command> = gone.chain(changed).collect();
    commands.sort_by(|a, b| {
        let key = |c: &Command| (matches!(c, Command::Remove { .. }), c.node());
        a.function().cmp(b.function()).then_with(|| key(a).cmp(&key(b)))
    });
    commands
}
