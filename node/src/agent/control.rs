//! The desired state from this node's place: as a voter, or as one that follows.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use swarmer_model::{Coded as _, Key, Revision};
use swarmer_raft::{
    Client, Expect, Follower, Handle, Leadership, Outcome as TxnOutcome, RaftError, Status, Txn,
    View,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    audit, codes,
    problem::{Outcome, Problem, chain},
};

/// How long a write may take; above the longest election.
pub(crate) const WRITE_DEADLINE: Duration = Duration::from_secs(5);

/// What the first state of a cluster says of it.
pub(crate) fn info_key() -> Key {
    Key::cluster("info")
}

/// What this node is to the desired state at the moment.
#[derive(Clone)]
pub(crate) enum Part {
    /// It has the log: as a voter, or as a learner that is up to date.
    Voter(Handle),
    /// It follows the watch.
    Follower { follower: Follower, client: Client },
}

impl Part {
    pub(crate) fn view(&self) -> View {
        match self {
            Self::Voter(handle) => handle.view(),
            Self::Follower { follower, .. } => follower.view(),
        }
    }

    fn status(&self) -> Status {
        match self {
            Self::Voter(handle) => handle.status(),
            Self::Follower { follower, .. } => follower.status(),
        }
    }

    fn subscribe_leadership(&self) -> watch::Receiver<Leadership> {
        match self {
            Self::Voter(handle) => handle.subscribe_leadership(),
            Self::Follower { follower, .. } => follower.subscribe_leadership(),
        }
    }

    async fn fatal(&self) -> RaftError {
        match self {
            Self::Voter(handle) => handle.fatal().await,
            Self::Follower { follower, .. } => follower.fatal().await,
        }
    }
}

/// Reads and writes of the desired state. Cheap to clone; stays the same when the node's part
/// changes, and so do its views.
#[derive(Clone)]
pub(crate) struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    view: View,
    /// Whether the first state of the cluster has been seen here.
    stands: AtomicBool,
    part: watch::Sender<Part>,
    leadership: watch::Sender<Leadership>,
}

impl Control {
    pub(crate) fn new(part: Part) -> Self {
        let view = part.view();
        let first = part.subscribe_leadership().borrow().clone();
        let (leadership, _) = watch::channel(first);
        let (part, parts) = watch::channel(part);
        let inner = Arc::new(Inner { view, stands: AtomicBool::new(false), part, leadership });
        tokio::spawn(pass_on(parts, Arc::downgrade(&inner)));
        Self { inner }
    }

    /// Another part from now on, one that shows its state in the views of the last one.
    pub(crate) fn turn(&self, part: Part) {
        self.inner.part.send_replace(part);
    }

    pub(crate) fn part(&self) -> Part {
        self.inner.part.borrow().clone()
    }

    /// The log, on a voter or learner.
    pub(crate) fn raft(&self) -> Option<Handle> {
        match &*self.inner.part.borrow() {
            Part::Voter(handle) => Some(handle.clone()),
            Part::Follower { .. } => None,
        }
    }

    /// The local copy.
    pub(crate) fn view(&self) -> View {
        self.inner.view.clone()
    }

    pub(crate) fn status(&self) -> Status {
        self.inner.part.borrow().status()
    }

    /// Who leads, on every change.
    pub(crate) fn subscribe_leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.subscribe()
    }

    /// Commits a transaction and waits until the local copy has it, so that whoever wrote reads
    /// what it wrote.
    ///
    /// Waits for the first state of the cluster if this node does not know it yet: there are no
    /// members before it, and a node that was let in then would be told of none.
    pub(crate) async fn write(&self, txn: Txn) -> Outcome<TxnOutcome> {
        self.standing(WRITE_DEADLINE).await?;
        self.commit(txn).await
    }

    async fn standing(&self, deadline: Duration) -> Outcome<()> {
        let (view, until) = (self.view(), Instant::now() + deadline);
        loop {
            // Before it is looked for: what comes in between is waited for no more.
            let next = view.revision() + 1;
            if self.stands() {
                return Ok(());
            }
            let rest = until.saturating_duration_since(Instant::now());
            if view.wait_for(next, rest).await.is_err() {
                let detail = "this node does not know the state of its cluster yet; try again";
                return Err(Problem::new(codes::NOT_READY, detail).retry_after(1));
            }
        }
    }

    /// Whether the cluster stands, to this node's knowledge: its first state is there.
    pub(crate) fn stands(&self) -> bool {
        let stands = &self.inner.stands;
        if !stands.load(Ordering::Relaxed) && self.view().get(info_key().as_str()).is_some() {
            stands.store(true, Ordering::Relaxed);
        }
        stands.load(Ordering::Relaxed)
    }

    /// Commits the first state of the cluster. See [`Control::write`].
    pub(crate) async fn found(&self, txn: Txn) -> Outcome<TxnOutcome> {
        self.commit(txn).await
    }

    async fn commit(&self, txn: Txn) -> Outcome<TxnOutcome> {
        audit::ready()?;
        let noted = audit::Noted::of(&txn);
        let mut turns = self.turns(WRITE_DEADLINE);
        let written = loop {
            let written = match turns.part() {
                (Part::Voter(handle), rest) => handle.write(txn.clone(), rest).await,
                (Part::Follower { client, .. }, rest) => client.write(txn.clone(), rest).await,
            };
            if !matches!(written, Err(RaftError::ShutDown)) || !turns.another().await {
                break written;
            }
        };
        match &written {
            Ok(TxnOutcome::Committed { revision }) => noted.committed(*revision),
            Ok(TxnOutcome::Conflict { .. }) => noted.nothing(),
            Err(error) => noted.unknown(error.code()),
        }
        let outcome =
            written.map_err(|error| raft_problem(&error, "changing the control state"))?;
        if let TxnOutcome::Committed { revision } = &outcome {
            // A copy that lags only delays this reader; the write stands.
            let _ = self.view().wait_for(*revision, WRITE_DEADLINE).await;
        }
        Ok(outcome)
    }

    /// Writes sent away because too many were under way.
    pub(crate) fn refused_writes(&self) -> u64 {
        match &*self.inner.part.borrow() {
            Part::Voter(handle) => handle.refused_writes(),
            Part::Follower { client, .. } => client.refused_writes(),
        }
    }

    /// Messages with writes that were sent to other nodes, by version of the wire.
    pub(crate) fn sent_writes(&self) -> [(u8, u64); 2] {
        match &*self.inner.part.borrow() {
            Part::Voter(handle) => handle.sent_writes(),
            Part::Follower { client, .. } => client.sent_writes(),
        }
    }

    /// Waits until the local copy has everything that was acknowledged before.
    pub(crate) async fn barrier(&self, deadline: Duration) -> Outcome<Revision> {
        let mut turns = self.turns(deadline);
        let reached = loop {
            let reached = match turns.part() {
                (Part::Voter(handle), rest) => handle.read_index(rest).await,
                (Part::Follower { client, .. }, rest) => client.read_index(rest).await,
            };
            if !matches!(reached, Err(RaftError::ShutDown)) || !turns.another().await {
                break reached;
            }
        };
        reached.map_err(|error| raft_problem(&error, "reading the control state"))
    }

    fn turns(&self, deadline: Duration) -> Turns {
        Turns { parts: self.inner.part.subscribe(), until: Instant::now() + deadline }
    }

    /// Ends when the control state can no longer be kept.
    pub(crate) async fn fatal(&self) -> RaftError {
        let mut parts = self.inner.part.subscribe();
        loop {
            let part = parts.borrow_and_update().clone();
            tokio::select! {
                error = part.fatal() => return error,
                // One that ended in good order is not missed.
                _ = parts.changed() => {}
            }
        }
    }

    /// Closes what this node keeps of the desired state.
    pub(crate) async fn shutdown(&self) -> Result<(), RaftError> {
        match self.part() {
            Part::Voter(handle) => handle.shutdown().await,
            Part::Follower { follower, .. } => follower.shutdown().await,
        }
    }
}

/// The parts of this node while something is done by way of them. One that has ended did nothing:
/// if another takes its place, that one does it.
struct Turns {
    parts: watch::Receiver<Part>,
    until: Instant,
}

impl Turns {
    /// The part of now, and how much time is left.
    fn part(&mut self) -> (Part, Duration) {
        let rest = self.until.saturating_duration_since(Instant::now());
        (self.parts.borrow_and_update().clone(), rest)
    }

    /// Waits for the next part; whether there is one in time.
    async fn another(&mut self) -> bool {
        let changed = tokio::time::timeout_at(self.until, self.parts.changed()).await;
        matches!(changed, Ok(Ok(())))
    }
}

/// Passes on what each part says of who leads, until the last [`Control`] is gone.
async fn pass_on(mut parts: watch::Receiver<Part>, inner: Weak<Inner>) {
    loop {
        let mut leadership = parts.borrow_and_update().subscribe_leadership();
        leadership.mark_changed();
        loop {
            tokio::select! {
                changed = parts.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                Ok(()) = leadership.changed() => {
                    let Some(inner) = inner.upgrade() else { return };
                    let now = leadership.borrow_and_update().clone();
                    inner.leadership.send_if_modified(|current| current.replace(now));
                }
            }
        }
    }
}

fn raft_problem(error: &RaftError, doing: &str) -> Problem {
    let problem = Problem::new(error.code(), format!("{doing}: {}", chain(error)));
    if problem.code.status == 503 { problem.retry_after(1) } else { problem }
}

/// What callers make of a transaction's outcome.
pub(crate) trait TxnExt {
    /// The revision, or the conflict as a problem.
    fn committed(self, what: &str) -> Outcome<Revision>;
}

impl TxnExt for TxnOutcome {
    fn committed(self, what: &str) -> Outcome<Revision> {
        match self {
            Self::Committed { revision } => Ok(revision),
            Self::Conflict { key, found, .. } => {
                let now =
                    found.map_or("does not exist".to_owned(), |r| format!("is at revision {r}"));
                Err(Problem::new(codes::CONFLICT, format!("{what}: {key} {now}")))
            }
        }
    }
}

/// What a check expects of an entry that was read: this revision, or still nothing.
pub(crate) fn unchanged(entry: Option<&swarmer_raft::Entry>) -> Expect {
    entry.map_or(Expect::Absent, |entry| Expect::At(entry.revision))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use async_trait::async_trait;
    use bytes::Bytes;
    use swarmer_model::NodeId;
    use swarmer_raft::{
        Channel, Config, Raft, RaftError, Transport, TransportError, disk::RealDisk,
    };

    use super::*;

    /// Reaches nobody.
    struct Alone;

    #[async_trait]
    impl Transport for Alone {
        fn version(&self, _: NodeId) -> u8 {
            swarmer_model::wire::NEWEST
        }

        fn round_trip(&self, _: NodeId) -> Option<Duration> {
            None
        }

        async fn call(
            &self,
            _: NodeId,
            _: u8,
            _: Bytes,
            _: Duration,
        ) -> Result<Bytes, TransportError> {
            Err(TransportError::Unreachable("alone".to_owned()))
        }

        async fn open(&self, _: NodeId, _: Duration) -> Result<Channel, TransportError> {
            Err(TransportError::Unreachable("alone".to_owned()))
        }
    }

    #[tokio::test]
    async fn nothing_is_written_before_the_first_state_of_the_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeId(1);
        let config = Config::new(node, dir.path());
        let raft = Raft::open(config, Arc::new(RealDisk), Arc::new(Alone)).await.unwrap();
        raft.handle().initialize(BTreeSet::from([node])).await.unwrap();
        let control = Control::new(Part::Voter(raft.handle()));
        let mut early = std::pin::pin!(control.write(Txn::new().put("tokens/a", "1")));
        assert!(futures::poll!(early.as_mut()).is_pending());
        // It leads, and could write.
        let revision = control.barrier(WRITE_DEADLINE).await.unwrap();
        assert!(futures::poll!(early.as_mut()).is_pending());
        let first = control.found(Txn::new().put(info_key().as_str(), "{}")).await.unwrap();
        let of = |outcome| match outcome {
            TxnOutcome::Committed { revision } => revision,
            TxnOutcome::Conflict { .. } => unreachable!("nothing was checked"),
        };
        assert_eq!((of(first), of(early.await.unwrap())), (revision + 1, revision + 2));
        control.shutdown().await.unwrap();
    }

    #[test]
    fn who_is_sent_away_is_told_when_to_come_again() {
        let problem = raft_problem(&RaftError::Busy, "changing the control state");
        assert_eq!((problem.code.name, problem.code.status), ("SW-RAFT-BUSY", 503));
        assert_eq!(problem.retry_after_secs, Some(1));
    }
}
