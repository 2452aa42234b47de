//! The desired state from this node's place: as a voter, or as one that follows.

use std::time::Duration;

use swarmer_model::{Coded as _, Revision};
use swarmer_raft::{Client, Expect, Follower, Outcome as TxnOutcome, Status, Txn, View};
use tokio::sync::watch;

use crate::{
    audit, codes,
    problem::{Outcome, Problem, chain},
};

/// How long a write may take; above the longest election.
pub(crate) const WRITE_DEADLINE: Duration = Duration::from_secs(5);

/// Reads and writes of the desired state. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Control {
    /// This node votes.
    Voter(swarmer_raft::Handle),
    /// This node follows the watch.
    Follower { follower: Follower, client: Client },
}

impl Control {
    /// The local copy.
    pub(crate) fn view(&self) -> View {
        match self {
            Self::Voter(handle) => handle.view(),
            Self::Follower { follower, .. } => follower.view(),
        }
    }

    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Voter(handle) => handle.status(),
            Self::Follower { follower, .. } => follower.status(),
        }
    }

    pub(crate) fn subscribe_status(&self) -> watch::Receiver<Status> {
        match self {
            Self::Voter(handle) => handle.subscribe_status(),
            Self::Follower { follower, .. } => follower.subscribe_status(),
        }
    }

    /// Commits a transaction and waits until the local copy has it, so that whoever wrote reads
    /// what it wrote.
    pub(crate) async fn write(&self, txn: Txn) -> Outcome<TxnOutcome> {
        audit::ready()?;
        let noted = audit::Noted::of(&txn);
        let written = match self {
            Self::Voter(handle) => handle.write(txn, WRITE_DEADLINE).await,
            Self::Follower { client, .. } => client.write(txn, WRITE_DEADLINE).await,
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

    /// Waits until the local copy has everything that was acknowledged before.
    pub(crate) async fn barrier(&self, deadline: Duration) -> Outcome<Revision> {
        let reached = match self {
            Self::Voter(handle) => handle.read_index(deadline).await,
            Self::Follower { client, .. } => client.read_index(deadline).await,
        };
        reached.map_err(|error| raft_problem(&error, "reading the control state"))
    }
}

fn raft_problem(error: &swarmer_raft::RaftError, doing: &str) -> Problem {
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
