//! On the leader: commits the steps of a rotation.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use swarmer_gossip::{HeldKeys, Member};
use swarmer_model::{Coded as _, NodeId};
use swarmer_raft::{Expect, Handle, Outcome as TxnOutcome, RaftError, Txn};
use swarmer_scheduler::{KeyRotation, KeyWord, RingCommand, RingOutlook, RingStep, RotationAsk};
use tokio_util::sync::CancellationToken;

use super::rotated::{Rotated, committed};
use crate::{
    agent::{
        Context,
        control::{WRITE_DEADLINE, unchanged},
        identity::KeptGrant,
        leading::in_each_term,
    },
    codes,
    problem::{Outcome, Problem, chain},
};

/// How often it looks: nobody waits for it.
const TICK: Duration = Duration::from_millis(500);

/// Runs until `shutdown`; does nothing while another node leads.
pub(crate) async fn run<R: Rotated>(
    context: Arc<Context>,
    kept: KeptGrant,
    shutdown: CancellationToken,
) {
    let (context, kept) = (&*context, &kept);
    in_each_term(&context.control, &shutdown, |raft, term| async move {
        let start = Instant::now();
        // Whose patience the last leader had is over with its term.
        let (rotation, waits) = (KeyRotation::default(), Vec::new());
        let mut leading = Leading { context, kept, raft, term, rotation, waits };
        loop {
            let now_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            if let Err(problem) = leading.look::<R>(now_ms).await {
                tracing::warn!(target: "swarmer::keys", code = problem.code.name,
                    detail = %problem.detail, "{} do not change yet", R::WHAT);
            }
            tokio::time::sleep(TICK).await;
        }
    })
    .await;
}

/// The leader in one of its terms.
struct Leading<'a> {
    context: &'a Context,
    kept: &'a KeptGrant,
    raft: Handle,
    term: u64,
    rotation: KeyRotation,
    /// For whom the rotation waits, as it was told last.
    waits: Vec<NodeId>,
}

impl Leading<'_> {
    async fn look<R: Rotated>(&mut self, now_ms: u64) -> Outcome<()> {
        // Before the first state is there nobody is a member.
        if self.context.desired.current().nodes.is_empty() {
            return Ok(());
        }
        let view = self.context.control.view();
        let wanted = view.get(R::wanted().as_str());
        let grant = self.kept.get();
        let (rotated, at) = match committed::<R>(&view)? {
            Some((rotated, revision)) => (rotated, Expect::At(revision)),
            None if wanted.is_none() => return Ok(()),
            // That of the founding, as each member has it.
            None => (R::of(&grant)?, Expect::Absent),
        };
        let ask = match &wanted {
            _ if rotated.lacks(&grant) => RotationAsk::Lost,
            Some(_) => RotationAsk::Another,
            None => RotationAsk::Nothing,
        };
        let living = self.living(R::word);
        match self.rotation.next(&rotated.state(), ask, &living, now_ms) {
            RingOutlook::Settled => self.tell_waits::<R>(Vec::new()),
            RingOutlook::Waits(behind) => self.tell_waits::<R>(behind),
            RingOutlook::Step(step) => {
                let next = rotated.next(&step.command, self.kept)?;
                let mut txn = Txn::new()
                    .check(R::entry(), at)
                    .put(R::entry(), serde_json::to_vec(&next).map_err(internal)?);
                // What is asked for is begun; who asks from now on means one more.
                if let (Some(entry), RingCommand::Add(_)) = (wanted, &step.command) {
                    let key = R::wanted();
                    txn = txn.check(key.as_str(), unchanged(Some(&entry))).delete(key);
                }
                self.commit::<R>(txn, &step).await?;
            }
        }
        Ok(())
    }

    async fn commit<R: Rotated>(&self, txn: Txn, step: &RingStep) -> Outcome<()> {
        match self.raft.write_leading(txn, self.term, WRITE_DEADLINE).await {
            Ok(TxnOutcome::Committed { revision }) => {
                let command = &step.command;
                tracing::info!(target: "swarmer::keys", revision, %command, behind = ?step.behind,
                    "{} change", R::WHAT);
                Ok(())
            }
            // Looked at anew, by this leader or by the next one.
            Ok(TxnOutcome::Conflict { .. }) | Err(RaftError::NotLeader { .. }) => Ok(()),
            Err(error) => Err(Problem::new(error.code(), chain(&error))),
        }
    }

    fn tell_waits<R: Rotated>(&mut self, behind: Vec<NodeId>) {
        if behind != self.waits && !behind.is_empty() {
            tracing::info!(target: "swarmer::keys", ?behind, "{} change when these members have \
                them", R::WHAT);
        }
        self.waits = behind;
    }

    /// The admitted members that live, this one among them, with what they say.
    fn living(&self, of: impl Fn(&swarmer_gossip::Facts) -> HeldKeys) -> Vec<(NodeId, KeyWord)> {
        let desired = self.context.desired.current();
        let members = self.context.gossip.members();
        let lives = |member: &&Member| {
            desired.nodes.contains_key(&member.node)
                && (member.node == self.context.node || member.state.is_active())
        };
        members.iter().filter(lives).map(|member| (member.node, word(member, &of))).collect()
    }
}

/// A record of an earlier run says nothing of this one.
fn word(member: &Member, of: impl Fn(&swarmer_gossip::Facts) -> HeldKeys) -> KeyWord {
    match &member.record {
        Some(record) if record.boot == member.boot => match of(&record.facts) {
            HeldKeys { newest: 0, .. } => KeyWord::TooOld,
            HeldKeys { newest, seals } => KeyWord::Holds { newest, seals },
        },
        _ => KeyWord::Nothing,
    }
}

fn internal(error: impl ToString) -> Problem {
    Problem::new(codes::INTERNAL, error.to_string())
}
