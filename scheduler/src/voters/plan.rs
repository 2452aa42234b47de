//! The next step towards the voters that should be.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use swarmer_model::NodeId;

use super::{
    choice::{Choice, choose},
    command::{VoterCommand, VoterReason, VoterStep},
    input::{VoterInput, VoterNode, odd_size},
};

/// How long one voter is asked to lead before another one is.
const HAND_OVER_TURN_MS: u64 = 10_000;
/// So long a voter lives before it gets the leadership for no other sake than that it was chosen: each
/// hand-over stops writes for a moment, and one that fails for the time of an election.
const CHOSEN_LIVES_MS: u64 = 5_000;

/// The next step, if there is one that can be taken now.
///
/// It ends: each step brings the membership closer to the choice, the choice changes only when the
/// nodes do or have lived for long enough, and what has been chosen once (a learner) is preferred from then on.
pub fn plan_voters(input: &VoterInput, now_ms: u64) -> Option<VoterStep> {
    let membership = &input.membership;
    // A new change is refused while the last one is not committed.
    if !membership.settled {
        return None;
    }
    match &membership.configs[..] {
        [] => None,
        [voters] => {
            let choice = choose(input, voters, now_ms);
            change(input, voters, &choice)
                .or_else(|| tidy(input, voters, &choice, now_ms))
                .or_else(|| ease(input, voters, &choice, now_ms))
        }
        [.., last] => {
            let command = VoterCommand::Finish { voters: last.clone() };
            Some(VoterStep { command, reason: VoterReason::HalfDone })
        }
    }
}

fn change(input: &VoterInput, voters: &BTreeSet<NodeId>, choice: &Choice) -> Option<VoterStep> {
    let wanted = odd_size(input.policy.wanted);
    let caught_up = |id: &NodeId| input.membership.learners.get(id) == Some(&true);
    let unknown = choice.into.iter().find(|id| !input.membership.learners.contains_key(id));
    let ready: Vec<NodeId> = choice.into.iter().copied().filter(caught_up).collect();
    let why = |at: usize| match choice.out.get(at) {
        Some((_, reason)) => reason.clone(),
        None => VoterReason::Few { have: voters.len(), wanted },
    };
    let step = |command, reason| Some(VoterStep { command, reason });
    let others = |without: &[NodeId]| -> BTreeSet<NodeId> {
        voters.iter().copied().filter(|id| !without.contains(id)).collect()
    };
    let safe = |next: &BTreeSet<NodeId>| {
        !next.is_empty() && input.majority_lives(voters) && input.majority_lives(next)
    };
    // Votes that go, one for one while there is somebody to take them.
    if let Some((out, reason)) = choice.out.first() {
        let with = ready.first().copied();
        if with.is_none() && !choice.into.is_empty() {
            let node = input.named(*unknown?);
            return step(VoterCommand::AddLearner { node }, reason.clone());
        }
        if choice.out.iter().any(|(id, _)| *id == input.membership.leader) {
            let stays = |id: &&NodeId| choice.goal.contains(id) && input.lives(**id);
            // Not one that would only hand it on, if there is another.
            let eased = |id: &&NodeId| input.node(**id).is_some_and(VoterNode::is_emptied);
            if let Some(to) = voters.iter().filter(stays).min_by_key(eased) {
                let to = input.named(*to);
                return step(VoterCommand::HandOver { to }, reason.clone());
            }
            // It is the only one: whoever is to lead must vote first.
            let next: BTreeSet<NodeId> = voters.iter().copied().chain(with).collect();
            let nodes = with.map(|id| input.named(id)).into_iter().collect();
            if with.is_none() || !safe(&next) {
                return None;
            }
            return step(VoterCommand::Promote { nodes, voters: next }, reason.clone());
        }
        let Some(with) = with else {
            let gone: Vec<NodeId> = choice.out.iter().map(|(id, _)| *id).collect();
            let next = others(&gone);
            let nodes = gone.iter().map(|id| input.named(*id)).collect();
            let command = VoterCommand::Remove { nodes, voters: next.clone() };
            return safe(&next).then_some(VoterStep { command, reason: reason.clone() });
        };
        let mut next = others(&[*out]);
        next.insert(with);
        let (out, with) = (input.named(*out), input.named(with));
        let command = VoterCommand::Replace { out, with, voters: next.clone() };
        return safe(&next).then_some(VoterStep { command, reason: reason.clone() });
    }
    // More voters: from odd to odd, so that no even number of them has to be borne in between.
    let missing = if voters.len().is_multiple_of(2) { 1 } else { 2 };
    if choice.into.is_empty() {
        return None;
    }
    if ready.len() < missing {
        let node = input.named(*unknown?);
        return step(VoterCommand::AddLearner { node }, why(0));
    }
    let new: Vec<NodeId> = ready.into_iter().take(missing).collect();
    let next: BTreeSet<NodeId> = voters.iter().copied().chain(new.iter().copied()).collect();
    let nodes = new.iter().map(|id| input.named(*id)).collect();
    let command = VoterCommand::Promote { nodes, voters: next.clone() };
    safe(&next).then_some(VoterStep { command, reason: why(0) })
}

/// A node that is being emptied keeps its vote and need not lead: it may be stopped at any moment. Nor
/// need one lead that is not in the region that was chosen for that.
fn ease(
    input: &VoterInput,
    voters: &BTreeSet<NodeId>,
    choice: &Choice,
    now_ms: u64,
) -> Option<VoterStep> {
    let leader = input.node(input.membership.leader)?;
    let chosen = |node: &VoterNode| input.lead_region.as_ref() == Some(&node.region);
    let fit: Vec<&VoterNode> = voters
        .iter()
        .filter(|id| **id != leader.id)
        .filter_map(|id| input.node(*id))
        .filter(|node| node.may_lead() && choice.goal.contains(&node.id))
        .collect();
    let enough = CHOSEN_LIVES_MS.min(input.policy.grace_ms);
    let lives = |node: &VoterNode| {
        node.alive_since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= enough)
    };
    let preferred: Vec<&VoterNode> = fit
        .iter()
        .copied()
        .filter(|node| chosen(node) && !node.behind && (leader.is_emptied() || lives(node)))
        .collect();
    let (reason, who) = match (leader.is_emptied(), preferred.is_empty()) {
        (true, false) => (VoterReason::Draining { node: leader.named() }, preferred),
        (true, true) => (VoterReason::Draining { node: leader.named() }, fit),
        (false, false) if !chosen(leader) => {
            let region = preferred.first()?.region.clone();
            (VoterReason::Chosen { region }, preferred)
        }
        (false, _) => return None,
    };
    // One that does not take it must not be asked for ever.
    let turn = usize::try_from(now_ms / HAND_OVER_TURN_MS).unwrap_or_default();
    let to = who.get(turn.checked_rem(who.len())?)?.named();
    Some(VoterStep { command: VoterCommand::HandOver { to }, reason })
}

/// Learners that nobody waits for cost the leader its bandwidth and the log its purging. While a
/// voter is dead, one that could take its place is kept: a new leader, which gives the grace time
/// anew, would otherwise send away what the last one prepared.
fn tidy(
    input: &VoterInput,
    voters: &BTreeSet<NodeId>,
    choice: &Choice,
    now_ms: u64,
) -> Option<VoterStep> {
    let young = |since: u64| now_ms.saturating_sub(since) < input.policy.grace_ms;
    let may_be_needed = voters.iter().any(|id| !input.lives(*id));
    let idle = |id: &&NodeId| {
        if choice.into.contains(id) {
            return false;
        }
        let Some(node) = input.node(**id) else { return true };
        match node.dead_since_ms {
            // One that just fell silent may be back before it would have been replaced.
            Some(since) => now_ms.saturating_sub(since) >= input.policy.grace_ms,
            // A new leader, or one that it just saw come back, does not know yet whether it may have a
            // vote for the spread's sake, for which the last one prepared it.
            None if node.is_fit() && node.alive_since_ms.is_some_and(young) => false,
            None => !may_be_needed || !node.is_fit(),
        }
    };
    let node = input.membership.learners.keys().find(idle)?;
    let command = VoterCommand::DropLearner { node: input.named(*node) };
    Some(VoterStep { command, reason: VoterReason::NotNeeded })
}

/// Why a voter cannot leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Stuck {
    /// Nobody else could vote.
    #[error("no other living node can hold a vote")]
    Last,
    /// The voters of now cannot decide anything.
    #[error("only {living} of {of} voters live, so nothing can be decided")]
    NoQuorum {
        /// How many live.
        living: usize,
        /// How many there are.
        of: usize,
    },
    /// Too many of those that would remain are dead.
    #[error("of the {of} voters that would remain only {living} live")]
    NoQuorumLeft {
        /// How many would live.
        living: usize,
        /// How many there would be.
        of: usize,
    },
}

/// Whether the cluster can do without a node's vote.
///
/// # Errors
/// [`Stuck`] says why not.
pub fn may_leave(input: &VoterInput, node: NodeId, now_ms: u64) -> Result<(), Stuck> {
    let Some(voters) = input.membership.configs.last().filter(|voters| voters.contains(&node))
    else {
        return Ok(());
    };
    let living = |of: &BTreeSet<NodeId>| of.iter().filter(|id| input.lives(**id)).count();
    if !input.majority_lives(voters) {
        return Err(Stuck::NoQuorum { living: living(voters), of: voters.len() });
    }
    let mut after = input.clone();
    for facts in after.nodes.iter_mut().filter(|facts| facts.id == node) {
        facts.leaving = true;
    }
    let goal = choose(&after, voters, now_ms).goal;
    if goal.is_empty() {
        return Err(Stuck::Last);
    }
    if !after.majority_lives(&goal) {
        return Err(Stuck::NoQuorumLeft { living: living(&goal), of: goal.len() });
    }
    Ok(())
}
