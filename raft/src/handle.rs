//! The only way into a running voter or learner.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use swarmer_model::{NodeId, Revision};
use tokio::{sync::watch, time::Instant};

use crate::{
    adapter::Engine,
    client::Client,
    error::RaftError,
    follower::{Feed, FeedSigner, Then},
    keyspace::{ChainHash, Shared},
    latency::AppendLatency,
    members::Members,
    status::{Leadership, Status},
    transport::Transport,
    txn::{Outcome, Txn},
    view::{View, millis},
    wal::Pace,
};

/// How often a node looks at who leads without any news: silence is noticed by that.
const LEADERSHIP_TICK: Duration = Duration::from_millis(200);

/// Cheap to clone. All waits end by their deadline.
#[derive(Debug, Clone)]
pub struct Handle {
    engine: Arc<Engine>,
    client: Client,
    leadership: watch::Receiver<Leadership>,
}

impl Handle {
    pub(crate) fn new(engine: Arc<Engine>, transport: Arc<dyn Transport>) -> Self {
        let (sender, leadership) = watch::channel(engine.leadership());
        tokio::spawn(watch_leadership(engine.clone(), sender));
        tokio::spawn({
            let engine = engine.clone();
            async move { engine.snapshot_when_due().await }
        });
        let client = Client::local(&engine, transport, leadership.clone());
        Self { engine, client, leadership }
    }

    /// The index up to which the log was purged: everything below is in a snapshot only.
    pub fn purged_index(&self) -> Option<u64> {
        self.engine.purged_index()
    }

    /// Makes these nodes the first voters of a new cluster. To be called on one node of a
    /// cluster (the same set elsewhere does no harm). Does nothing if this node is already part
    /// of a cluster.
    ///
    /// # Errors
    /// [`RaftError::Membership`] if this node is not among them.
    pub async fn initialize(&self, voters: BTreeSet<NodeId>) -> Result<(), RaftError> {
        self.engine.initialize(&voters).await
    }

    /// Answers a message of another node's [`crate::Transport::call`]. `from` is the sender as
    /// the connection authenticated it, `version` that of the wire that is spoken with it.
    ///
    /// # Errors
    /// [`RaftError::BadMessage`], [`RaftError::WrongNode`], or what stopped the engine. The
    /// caller reports them to the sender as a failed call.
    pub async fn handle_message(
        &self,
        from: NodeId,
        version: u8,
        body: Bytes,
    ) -> Result<Bytes, RaftError> {
        self.engine.handle(from, version, &body).await
    }

    /// Answers the messages of another node's [`crate::Transport::open`], in their order. `from`
    /// is the sender as the connection authenticated it. Ends after an error, after a refusal and
    /// when `messages` end; the channel is to be closed then.
    pub fn serve_appends(
        &self,
        from: NodeId,
        messages: impl Stream<Item = Bytes> + Send + 'static,
    ) -> impl Stream<Item = Result<Bytes, RaftError>> + Send + 'static {
        self.engine.serve_appends(from, messages)
    }

    /// How long the other voters and learners took to answer this node's AppendEntries, since
    /// the start; zeros, if any, of a node that never led.
    pub fn append_latencies(&self) -> Vec<(NodeId, AppendLatency)> {
        self.engine.latencies().all()
    }

    /// How many times longer than on a quiet LAN everything about heartbeats and elections takes,
    /// see [`crate::Config::adaptive`].
    pub fn multiplier(&self) -> u32 {
        crate::adapter::multiplier()
    }

    /// How fast this node's disk made records of the log durable lately.
    pub fn pace(&self) -> Pace {
        self.engine.pace()
    }

    /// Writes sent away since the start because too many were under way: asked of this node, or
    /// of it as the leader.
    pub fn refused_writes(&self) -> u64 {
        self.client.refused_writes() + self.engine.refused()
    }

    /// How many writes each node, this one among them, asked of this one while it led, since the start.
    pub fn writers(&self) -> BTreeMap<NodeId, u64> {
        self.engine.writers()
    }

    /// See [`Client::sent_writes`].
    pub fn sent_writes(&self) -> [(u8, u64); 2] {
        self.client.sent_writes()
    }

    /// Commits a transaction, here or through the leader; retried within the deadline, safely by
    /// its request id.
    ///
    /// # Errors
    /// [`RaftError::Invalid`], [`RaftError::Full`], [`RaftError::Busy`], [`RaftError::NoQuorum`]
    /// and [`RaftError::NoLeader`]: it did not happen. [`RaftError::ShutDown`], at once: nor did
    /// it, because this node has stopped. [`RaftError::TimeoutUnknown`]: it may have.
    pub async fn write(&self, txn: Txn, deadline: Duration) -> Result<Outcome, RaftError> {
        self.client.write(txn, deadline).await
    }

    /// Commits a transaction if this node leads in `term`; never sent on to another leader. For
    /// what only the leader decides, by what it alone knows.
    ///
    /// # Errors
    /// [`RaftError::NotLeader`] if it does not; as [`Handle::write`] otherwise, but nothing is
    /// tried again.
    pub async fn write_leading(
        &self,
        txn: Txn,
        term: u64,
        deadline: Duration,
    ) -> Result<Outcome, RaftError> {
        if self.engine.term() != term {
            return Err(RaftError::NotLeader { leader: self.engine.leader().map(NodeId) });
        }
        self.client.write_here(&self.engine, txn, deadline).await
    }

    /// The linearizable barrier: when it returns, [`Handle::view`] shows every write that was
    /// acknowledged anywhere before the call. Returns the revision reached.
    ///
    /// # Errors
    /// [`RaftError::NoQuorum`], [`RaftError::NoLeader`], [`RaftError::Timeout`],
    /// [`RaftError::Busy`]; [`RaftError::ShutDown`] at once if this node has stopped.
    pub async fn read_index(&self, deadline: Duration) -> Result<Revision, RaftError> {
        self.client.read_index(deadline).await
    }

    /// The read side.
    pub fn view(&self) -> View {
        View::new(self.engine.shared().clone())
    }

    /// The write side as a follower has it too.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// What this node knows about the cluster.
    pub fn status(&self) -> Status {
        self.engine.status()
    }

    /// Who leads, on every change.
    pub fn subscribe_leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// A feed for a node that follows, from its position (see [`crate::Follower::position`]),
    /// each frame of it signed; `version` is the wire version that the node speaks.
    pub fn feed(
        &self,
        from: Option<(Revision, ChainHash)>,
        signer: FeedSigner,
        version: u8,
    ) -> Feed {
        let (shared, leadership) = (self.engine.shared().clone(), self.leadership.clone());
        Feed::new(shared, leadership, from, signer, version, Then::Goes)
    }

    /// Adds a learner; done on the leader only. Returns when it has caught up or `deadline` is
    /// over.
    ///
    /// # Errors
    /// [`RaftError::NotLeader`] names the leader if this node is not it. [`RaftError::Membership`] if refused.
    pub async fn add_learner(&self, node: NodeId, deadline: Duration) -> Result<(), RaftError> {
        within("the new learner up to date", deadline, self.engine.add_learner(node)).await
    }

    /// Makes exactly these nodes the voters (learners become voters, other voters leave); done
    /// on the leader only. Call it again with the same set after an error: a change left half
    /// done is finished by that.
    ///
    /// # Errors
    /// As [`Handle::add_learner`].
    pub async fn change_voters(
        &self,
        voters: BTreeSet<NodeId>,
        deadline: Duration,
    ) -> Result<(), RaftError> {
        within("the change of voters", deadline, self.engine.change_voters(&voters)).await
    }

    /// Hands the leadership over, if this node has it; returns when another one leads.
    ///
    /// # Errors
    /// [`RaftError::Timeout`] if it did not happen in time.
    pub async fn transfer_leader(&self, to: NodeId, deadline: Duration) -> Result<(), RaftError> {
        self.engine.transfer_leader(to, deadline).await
    }

    /// Makes a snapshot now; returns when it is on the disk.
    ///
    /// # Errors
    /// [`RaftError::Timeout`].
    pub async fn snapshot_now(&self, deadline: Duration) -> Result<(), RaftError> {
        self.engine.snapshot_now(deadline).await
    }

    /// Waits for the first fatal error. The node must exit then.
    pub async fn fatal(&self) -> RaftError {
        self.engine.fatal().await
    }

    /// Stops the engine, flushes the keyspace and marks the stop as clean.
    ///
    /// # Errors
    /// [`RaftError::Storage`]; nothing is lost by that, the next start takes longer.
    pub async fn shutdown(&self) -> Result<(), RaftError> {
        self.engine.shutdown().await
    }

    /// Stops the engine, and leaves the views open for a [`crate::Follower`] that goes on from
    /// here (see [`crate::Follower::succeed`]). Log, vote and snapshot stay on the disk: if the
    /// node is given a vote again it has forgotten nothing that it promised.
    ///
    /// # Errors
    /// As [`Handle::shutdown`].
    pub async fn retire(&self) -> Result<(), RaftError> {
        self.engine.stop().await
    }

    /// Where this node's state is.
    pub(crate) fn place(&self) -> Arc<Shared> {
        self.engine.shared().place()
    }

    /// The membership of the log, as far as this node knows it, with what a leader knows of the
    /// others.
    pub fn members(&self) -> Members {
        self.engine.members()
    }

    /// Takes the log from a learner; done on the leader only.
    ///
    /// # Errors
    /// As [`Handle::add_learner`].
    pub async fn remove_learner(&self, node: NodeId, deadline: Duration) -> Result<(), RaftError> {
        within("the learner let go", deadline, self.engine.remove_learner(node)).await
    }
}

/// Ends when the engine does; all receivers see what was last.
async fn watch_leadership(engine: Arc<Engine>, sender: watch::Sender<Leadership>) {
    let mut changes = engine.changes();
    loop {
        // Anew each time: the state may have gone elsewhere.
        let mut progress = engine.shared().progress();
        let leadership = engine.leadership();
        sender.send_if_modified(|current| current.replace(leadership));
        tokio::select! {
            change = changes.next() => {
                if change.is_none() {
                    let _ = sender.send(engine.leadership());
                    return;
                }
            }
            _ = progress.wait_for(|progress| progress.closed) => return,
            () = tokio::time::sleep(LEADERSHIP_TICK) => {}
        }
    }
}

async fn within<T>(
    what: &str,
    deadline: Duration,
    work: impl Future<Output = Result<T, RaftError>>,
) -> Result<T, RaftError> {
    let start = Instant::now();
    tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| {
        Err(RaftError::Timeout { what: what.to_owned(), waited_ms: millis(start.elapsed()) })
    })
}
