//! On the leader: asks the planner who should vote, and carries out its one command.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};

use swarmer_model::{Coded as _, Node, NodeId};
use swarmer_raft::{Expect, Handle, Members, RaftError, Role, Txn};
use swarmer_scheduler::{
    Membership, VoterCommand, VoterInput, VoterPolicy, VoterStep, Writers, plan_voters,
};
use tokio_util::sync::CancellationToken;

use super::{
    disk::{Disks, is_slower},
    keeper::Keeper,
    observe::{Seen, lead_region, leaving, log_key, nodes, wanted},
    wire::{Ask, Told},
};
use crate::{
    agent::{Context, TxnExt as _},
    codes,
    problem::{Outcome, Problem},
};

/// How often it looks. Not at every change of the state, of which there may be thousands a second:
/// nobody waits for this but a deletion, and that for longer.
const TICK: Duration = Duration::from_millis(500);
/// A voter or learner that acknowledged nothing for so long is taken for dead, whatever gossip
/// says: it may live, and its log does not.
const HEARD_AGE: Duration = Duration::from_secs(3);
/// A learner that lacks no more entries than this has caught up: what is sent in a moment.
const CAUGHT_UP: u64 = 1000;
/// How long one change of membership may take; it goes on by itself after that, and is looked at
/// again.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a learner may take to catch up before another node is tried.
const LEARNER_PATIENCE_MS: u64 = 120_000;
/// How long a node that did not answer, or did not catch up, is left alone: one that is dead is
/// known to be by then.
const BARRED_MS: u64 = 5_000;
/// How long a node without its log is left alone: only a person brings that back.
const LOST_MS: u64 = 600_000;
/// How long one voter is asked to lead, for the sake of who writes, before another one is.
const HAND_OVER_TURN_MS: u64 = 30_000;
/// How long handing over the leadership may take.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(2);

/// What this leader noticed, on its own clock: a new leader gives every grace time anew.
#[derive(Default)]
struct Noticed {
    dead: BTreeMap<NodeId, u64>,
    alive: BTreeMap<NodeId, u64>,
    learning: BTreeMap<NodeId, u64>,
    /// Until when, and why. A log that was lost is lost for good.
    barred: BTreeMap<NodeId, (u64, String)>,
    named: BTreeSet<NodeId>,
    disks: Disks,
    writers: Writers,
}

/// Runs until `shutdown`; does nothing while another node leads.
pub(crate) async fn run(
    context: Arc<Context>,
    keeper: Keeper,
    grace_ms: u64,
    shutdown: CancellationToken,
) {
    let mut leadership = context.control.subscribe_leadership();
    let start = Instant::now();
    let mut noticed = Noticed::default();
    let mut last = None;
    loop {
        let leads = leadership.borrow_and_update().role == Role::Leader;
        match context.control.raft().filter(|_| leads) {
            Some(raft) => {
                let now_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                let leader = Leader { context: &context, keeper: &keeper, raft: &raft };
                let step = leader.next(&mut noticed, grace_ms, now_ms);
                if let Some(step) = &step
                    && last.as_ref() != Some(step)
                {
                    tracing::info!(target: "swarmer::voting", command = %step.command,
                        reason = %step.reason, "voters change");
                }
                let outcome = match &step {
                    Some(step) => leader.carry_out(step, &mut noticed, now_ms).await,
                    None => leader.rest(&mut noticed, now_ms).await,
                };
                if let Err(problem) = outcome {
                    tracing::warn!(target: "swarmer::voting", code = problem.code.name,
                        detail = %problem.detail, "voters do not change yet");
                } else if step.is_some() {
                    // What comes next is not waited for.
                    last = step;
                    tokio::task::yield_now().await;
                    if shutdown.is_cancelled() {
                        return;
                    }
                    continue;
                }
                last = step;
            }
            None => {
                noticed = Noticed::default();
                last = None;
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = leadership.wait_for(|now| (now.role == Role::Leader) != leads) => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// The leader at one moment.
struct Leader<'a> {
    context: &'a Context,
    keeper: &'a Keeper,
    raft: &'a Handle,
}

impl Leader<'_> {
    fn next(&self, noticed: &mut Noticed, grace_ms: u64, now_ms: u64) -> Option<VoterStep> {
        let members = self.raft.members();
        let view = self.context.control.view();
        let desired = self.context.desired.current();
        // Before the first state is there nobody is admitted, and nobody is to go.
        if desired.nodes.is_empty() {
            return None;
        }
        let ids: BTreeSet<NodeId> = desired.nodes.keys().copied().collect();
        noticed.look(&ids, |node| self.alive(&members, node), now_ms);
        let learners: BTreeMap<NodeId, bool> =
            members.learners.iter().map(|node| (*node, caught_up(&members, *node))).collect();
        noticed.note_learners(&learners, now_ms);
        let peers = members.clone();
        let input = VoterInput {
            nodes: nodes(&desired, &leaving(&view), |node| Seen {
                dead_since_ms: noticed.dead.get(&node).copied(),
                alive_since_ms: noticed.alive.get(&node).copied(),
                behind: node != self.context.node && !caught_up(&peers, node),
                barred: noticed.bar(node),
            }),
            membership: Membership {
                configs: members.configs,
                learners,
                settled: members.settled,
                leader: self.context.node,
            },
            policy: VoterPolicy { wanted: wanted(&view), grace_ms },
            lead_region: lead_region(&view),
        };
        plan_voters(&input, now_ms)
    }

    fn alive(&self, members: &Members, node: NodeId) -> bool {
        if node == self.context.node {
            return true;
        }
        // A learner that was made a moment ago has had nothing to acknowledge yet; one that never does
        // loses patience with it.
        let new = |heard: Option<Duration>| heard.is_none() && members.learners.contains(&node);
        if let Some(peer) = members.peers.get(&node).filter(|peer| !new(peer.heard)) {
            return peer.heard.is_some_and(|age| age < HEARD_AGE);
        }
        let seen = self.context.gossip.members();
        seen.iter().any(|member| member.node == node && member.state.is_active())
    }

    async fn carry_out(&self, step: &VoterStep, noticed: &mut Noticed, now_ms: u64) -> Outcome<()> {
        match &step.command {
            VoterCommand::AddLearner { node } => self.add_learner(node.id, noticed, now_ms).await,
            VoterCommand::DropLearner { node } => {
                let dropped = self.raft.remove_learner(node.id, CHANGE_DEADLINE).await;
                dropped.map_err(|error| refused(&error))?;
                self.release(&[node.id]).await;
                Ok(())
            }
            VoterCommand::HandOver { to } => {
                let done = self.raft.transfer_leader(to.id, HAND_OVER_DEADLINE).await;
                done.map_err(|error| refused(&error))
            }
            VoterCommand::Finish { voters }
            | VoterCommand::Promote { voters, .. }
            | VoterCommand::Replace { voters, .. }
            | VoterCommand::Remove { voters, .. } => {
                let before = self.raft.members().committed;
                let changed = self.raft.change_voters(voters.clone(), CHANGE_DEADLINE).await;
                changed.map_err(|error| refused(&error))?;
                let after = self.raft.members().committed;
                let gone: Vec<NodeId> = before.difference(&after).copied().collect();
                self.release(&gone).await;
                Ok(())
            }
        }
    }

    async fn add_learner(&self, node: NodeId, noticed: &mut Noticed, now_ms: u64) -> Outcome<()> {
        if let Err(problem) = self.prepare(node).await {
            noticed.bar_after(node, &problem, now_ms);
            return Err(problem);
        }
        match self.raft.add_learner(node, CHANGE_DEADLINE).await {
            // It is one, and takes its time.
            Ok(()) | Err(RaftError::Timeout { .. }) => Ok(()),
            Err(error) => Err(refused(&error)),
        }
    }

    /// Lets a node open its log, and holds it to be the one that it always had.
    async fn prepare(&self, node: NodeId) -> Outcome<()> {
        let log = match self.keeper.ask(node, &Ask::Prepare).await? {
            Told::Prepared { log } => log,
            Told::Refused { code, detail } => {
                let code = codes::by_name(&code).unwrap_or(codes::INTERNAL);
                return Err(Problem::new(code, detail));
            }
            _ => return Err(Problem::new(codes::INTERNAL, "the answer does not fit")),
        };
        let key = log_key(node);
        match self.context.control.view().get(key.as_str()) {
            Some(entry) if entry.value == log.as_bytes() => Ok(()),
            Some(_) => {
                let why = format!("node {node} has another log than the one that it had");
                Err(Problem::new(codes::LOG_LOST, why))
            }
            None => {
                let txn = Txn::new().check(key.as_str(), Expect::Absent).put(key.as_str(), log);
                let written = self.context.control.write(txn).await?;
                written.committed("noting a node's log").map(|_| ())
            }
        }
    }

    /// What is looked at while the voters are as they should be.
    async fn rest(&self, noticed: &mut Noticed, now_ms: u64) -> Outcome<()> {
        self.name_logs(noticed, now_ms).await?;
        let voters = self.raft.members().committed_voters;
        let desired = self.context.desired.current();
        let Some(own) = desired.nodes.get(&self.context.node).map(|node| &node.spec.region) else {
            return Ok(());
        };
        let chosen = lead_region(&self.context.control.view());
        // One that is emptied would only hand it on.
        let may_lead = |node: &NodeId| {
            let stays = |n: &Arc<Node>| !desired.is_emptied(n);
            *node != self.context.node
                && !noticed.dead.contains_key(node)
                && noticed.bar(*node).is_none()
                && desired.nodes.get(node).is_some_and(stays)
        };
        let region_of = |node: &NodeId| desired.nodes.get(node).map(|node| &node.spec.region);
        // The next plan would bring it back from another region than the one that was chosen.
        let allowed = |node: &NodeId| chosen.as_ref() != Some(own) || region_of(node) == Some(own);
        let others: Vec<NodeId> = voters.into_iter().filter(may_lead).collect();
        let beside: Vec<NodeId> = others.iter().copied().filter(allowed).collect();
        let slow = noticed.disks.look(self.keeper, self.raft, &beside, now_ms).await;
        if let Some(slow) = slow {
            return self.hand_over(slow.to, &slow).await;
        }
        let mut writes: BTreeMap<String, u64> = BTreeMap::new();
        for (node, count) in self.raft.writers() {
            if let Some(region) = region_of(&node) {
                *writes.entry(region.clone()).or_default() += count;
            }
        }
        let far = noticed.writers.look(own, writes, now_ms).filter(|_| chosen.is_none());
        let Some(far) = far else { return Ok(()) };
        let members = self.raft.members();
        let there: Vec<NodeId> = others
            .into_iter()
            .filter(|node| region_of(node) == Some(&far.region) && caught_up(&members, *node))
            .collect();
        // One that does not take it must not be asked for ever.
        let turn = usize::try_from(now_ms / HAND_OVER_TURN_MS).unwrap_or_default();
        let to = turn.checked_rem(there.len()).map(|turn| there[turn]);
        match to {
            // From a slow disk it would come back.
            Some(to) if !is_slower(self.keeper, self.raft, to).await => {
                self.hand_over(to, &far).await
            }
            _ => Ok(()),
        }
    }

    async fn hand_over(&self, to: NodeId, reason: &(impl Display + Sync)) -> Outcome<()> {
        tracing::warn!(target: "swarmer::voting", %to, %reason, "the leadership is handed over");
        let done = self.raft.transfer_leader(to, HAND_OVER_DEADLINE).await;
        done.map_err(|error| refused(&error))
    }

    /// Notes the logs of voters that nobody has noted yet: the founders'.
    async fn name_logs(&self, noticed: &mut Noticed, now_ms: u64) -> Outcome<()> {
        let voters = self.raft.members().committed_voters;
        let unnamed = voters
            .iter()
            .find(|node| !noticed.named.contains(node) && !noticed.dead.contains_key(node));
        let Some(node) = unnamed.copied() else { return Ok(()) };
        let outcome = if node == self.context.node {
            self.prepare_self().await
        } else {
            self.prepare(node).await
        };
        match outcome {
            Ok(()) => {
                noticed.named.insert(node);
                Ok(())
            }
            Err(problem) if problem.code == codes::LOG_LOST => {
                noticed.bar_after(node, &problem, now_ms);
                Err(problem)
            }
            Err(problem) => Err(problem),
        }
    }

    async fn prepare_self(&self) -> Outcome<()> {
        let Some(log) = self.keeper.log_name() else { return Ok(()) };
        let key = log_key(self.context.node);
        if self.context.control.view().get(key.as_str()).is_some() {
            return Ok(());
        }
        let txn = Txn::new().check(key.as_str(), Expect::Absent).put(key.as_str(), log);
        self.context.control.write(txn).await?.committed("noting a node's log").map(|_| ())
    }

    /// Tells nodes that they have the log no longer. One that does not hear it finds out by
    /// itself.
    async fn release(&self, nodes: &[NodeId]) {
        for node in nodes.iter().filter(|node| **node != self.context.node) {
            if self.context.desired.current().nodes.contains_key(node) {
                let _ = self.keeper.ask(*node, &Ask::Release).await;
            }
        }
    }
}

fn caught_up(members: &Members, node: NodeId) -> bool {
    let peer = members.peers.get(&node);
    peer.is_some_and(|peer| {
        peer.lag.is_some_and(|lag| lag <= CAUGHT_UP)
            && peer.heard.is_some_and(|age| age < HEARD_AGE)
    })
}

fn refused(error: &RaftError) -> Problem {
    Problem::new(error.code(), crate::problem::chain(error))
}

impl Noticed {
    fn look(&mut self, nodes: &BTreeSet<NodeId>, alive: impl Fn(NodeId) -> bool, now_ms: u64) {
        self.dead.retain(|node, _| nodes.contains(node) && !alive(*node));
        for node in nodes.iter().filter(|node| !alive(**node)) {
            self.dead.entry(*node).or_insert(now_ms);
        }
        self.alive.retain(|node, _| nodes.contains(node) && !self.dead.contains_key(node));
        for node in nodes.iter().filter(|node| !self.dead.contains_key(node)) {
            self.alive.entry(*node).or_insert(now_ms);
        }
        self.barred.retain(|node, (until, _)| *until > now_ms && nodes.contains(node));
    }

    /// A learner that does not get anywhere makes room for another one.
    fn note_learners(&mut self, learners: &BTreeMap<NodeId, bool>, now_ms: u64) {
        self.learning.retain(|node, _| learners.get(node) == Some(&false));
        for node in learners.iter().filter(|(_, ready)| !**ready).map(|(node, _)| *node) {
            let since = *self.learning.entry(node).or_insert(now_ms);
            if now_ms.saturating_sub(since) >= LEARNER_PATIENCE_MS {
                self.bar_for(node, "it did not catch up in time".to_owned(), now_ms);
            }
        }
    }

    fn bar_for(&mut self, node: NodeId, why: String, now_ms: u64) {
        self.barred.insert(node, (now_ms + BARRED_MS, why));
    }

    fn bar_after(&mut self, node: NodeId, problem: &Problem, now_ms: u64) {
        let for_ms = if problem.code == codes::LOG_LOST { LOST_MS } else { BARRED_MS };
        self.barred.insert(node, (now_ms + for_ms, problem.detail.clone()));
    }

    fn bar(&self, node: NodeId) -> Option<String> {
        self.barred.get(&node).map(|(_, why)| why.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noticed_is_forgotten_when_it_is_over() {
        let mut noticed = Noticed::default();
        let (a, b) = (NodeId(1), NodeId(2));
        let nodes = BTreeSet::from([a, b]);
        noticed.look(&nodes, |node| node == a, 5);
        noticed.look(&nodes, |node| node == a, 9);
        assert_eq!(noticed.dead, BTreeMap::from([(b, 5)]), "since when, not until when");
        assert_eq!(noticed.alive, BTreeMap::from([(a, 5)]));
        noticed.look(&nodes, |_| true, 10);
        assert_eq!(noticed.dead, BTreeMap::new());
        assert_eq!(noticed.alive, BTreeMap::from([(a, 5), (b, 10)]), "without a break");
        // One that does not catch up is left alone for a while, and no longer.
        let slow = BTreeMap::from([(b, false)]);
        noticed.note_learners(&slow, 10);
        noticed.note_learners(&slow, 9 + LEARNER_PATIENCE_MS);
        assert_eq!(noticed.bar(b), None);
        noticed.note_learners(&slow, 10 + LEARNER_PATIENCE_MS);
        assert!(noticed.bar(b).is_some());
        noticed.note_learners(&BTreeMap::new(), 11 + LEARNER_PATIENCE_MS);
        noticed.look(&nodes, |_| true, 10 + LEARNER_PATIENCE_MS + BARRED_MS);
        assert_eq!(noticed.bar(b), None);
    }
}
