//! On the leader: commits the steps of a rotation.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use swarmer_gossip::Member;
use swarmer_model::{Coded as _, NodeId};
use swarmer_raft::{Expect, Handle, Outcome as TxnOutcome, RaftError, Role, Txn};
use swarmer_scheduler::{KeyRotation, KeyWord, RingOutlook, RingStep};
use tokio_util::sync::CancellationToken;

use super::ring::{Ring, committed, ring_key, wanted_key};
use crate::{
    agent::{
        Context,
        control::{WRITE_DEADLINE, unchanged},
        identity::KeptGrant,
    },
    codes,
    problem::{Outcome, Problem, chain},
};

/// How often it looks: nobody waits for it.
const TICK: Duration = Duration::from_millis(500);

/// Runs until `shutdown`; does nothing while another node leads.
pub(crate) async fn run(context: Arc<Context>, kept: KeptGrant, shutdown: CancellationToken) {
    let mut status = context.control.subscribe_status();
    let start = Instant::now();
    let mut leading: Option<Leading> = None;
    loop {
        let (leads, term) = {
            let now = status.borrow_and_update();
            (now.role == Role::Leader, now.term)
        };
        match context.control.raft().filter(|_| leads) {
            Some(raft) => {
                let leading = match &mut leading {
                    Some(leading) if leading.term == term => leading,
                    // Whose patience the last one had is over with its term.
                    other => other.insert(Leading::new(term)),
                };
                let now_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                if let Err(problem) = leading.look(&context, &raft, &kept, now_ms).await {
                    tracing::warn!(target: "swarmer::keys", code = problem.code.name,
                        detail = %problem.detail, "the keys of gossip do not change yet");
                }
            }
            None => leading = None,
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = status.wait_for(|now| (now.role == Role::Leader) != leads) => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// The leader in one of its terms.
struct Leading {
    term: u64,
    rotation: KeyRotation,
    /// For whom the rotation waits, as it was told last.
    waits: Vec<NodeId>,
}

impl Leading {
    fn new(term: u64) -> Self {
        Self { term, rotation: KeyRotation::default(), waits: Vec::new() }
    }

    async fn look(
        &mut self,
        context: &Context,
        raft: &Handle,
        kept: &KeptGrant,
        now_ms: u64,
    ) -> Outcome<()> {
        // Before the first state is there nobody is a member.
        if context.desired.current().nodes.is_empty() {
            return Ok(());
        }
        let view = context.control.view();
        let wanted = view.get(wanted_key().as_str());
        let (ring, at) = match committed(&view)? {
            Some((ring, revision)) => (ring, Expect::At(revision)),
            None if wanted.is_none() => return Ok(()),
            // The key of the founding, as each member has it.
            None => (Ring::of(&kept.get())?, Expect::Absent),
        };
        let living = living(context);
        match self.rotation.next(&ring.state(), wanted.is_some(), &living, now_ms) {
            RingOutlook::Settled => self.tell_waits(Vec::new()),
            RingOutlook::Waits(behind) => self.tell_waits(behind),
            RingOutlook::Step(step) => {
                let next = ring.after(&step.command, rand::random);
                let mut txn = Txn::new()
                    .check(ring_key(), at)
                    .put(ring_key(), serde_json::to_vec(&next).map_err(internal)?);
                // What is asked for is begun; who asks from now on means one more.
                if let Some(entry) = wanted.filter(|_| ring.keys.len() < next.keys.len()) {
                    let key = wanted_key();
                    txn = txn.check(key.as_str(), unchanged(Some(&entry))).delete(key);
                }
                self.commit(raft, txn, &step).await?;
            }
        }
        Ok(())
    }

    async fn commit(&mut self, raft: &Handle, txn: Txn, step: &RingStep) -> Outcome<()> {
        match raft.write_leading(txn, self.term, WRITE_DEADLINE).await {
            Ok(TxnOutcome::Committed { revision }) => {
                let command = &step.command;
                tracing::info!(target: "swarmer::keys", revision, %command, behind = ?step.behind,
                    "the keys of gossip change");
                Ok(())
            }
            // Looked at anew, by this leader or by the next one.
            Ok(TxnOutcome::Conflict { .. }) | Err(RaftError::NotLeader { .. }) => Ok(()),
            Err(error) => Err(Problem::new(error.code(), chain(&error))),
        }
    }

    fn tell_waits(&mut self, behind: Vec<NodeId>) {
        if behind != self.waits && !behind.is_empty() {
            tracing::info!(target: "swarmer::keys", ?behind, "the keys of gossip change when these \
                members have them");
        }
        self.waits = behind;
    }
}

/// The admitted members that live, this one among them, with what they say of their keys.
fn living(context: &Context) -> Vec<(NodeId, KeyWord)> {
    let desired = context.desired.current();
    let members = context.gossip.members();
    let lives = |member: &&Member| {
        desired.nodes.contains_key(&member.node)
            && (member.node == context.node || member.state.is_active())
    };
    members.iter().filter(lives).map(|member| (member.node, word(member))).collect()
}

/// A record of an earlier run says nothing of this one.
fn word(member: &Member) -> KeyWord {
    match &member.record {
        Some(record) if record.boot == member.boot => {
            let swarmer_gossip::HeldKeys { newest, seals } = record.facts.keys;
            match newest {
                0 => KeyWord::TooOld,
                _ => KeyWord::Holds { newest, seals },
            }
        }
        _ => KeyWord::Nothing,
    }
}

fn internal(error: impl ToString) -> Problem {
    Problem::new(codes::INTERNAL, error.to_string())
}
