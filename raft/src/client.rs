//! Writes and barriers from any node, through whichever voter leads.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use swarmer_model::{NodeId, Revision, wire};
use tokio::{sync::watch, time::Instant};

use crate::{
    adapter::{
        Engine, Proposal, ProposeReply, ReadReply, Reply, decode_reply, propose_many_request,
        propose_request, read_request,
    },
    error::RaftError,
    gate::Gate,
    keyspace::{MAX_KEYSPACE_BYTES, Response},
    lanes::{Lanes, Waiting},
    rounds::Rounds,
    status::Leadership,
    transport::{Transport, TransportError},
    txn::{MAX_DEADLINE, Outcome, Txn},
    view::{View, millis},
};

/// How long one voter may take to answer before another is asked: longer than an election and
/// a slow disk, short enough that a deadline of a few seconds has room for another try.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// Waits between tries that got no further: doubled up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));
/// A round of barriers that takes longer than this does not keep the next one waiting: some round
/// trips on a LAN. So at most a hundred are under way within a deadline of seconds.
const SLOW_ROUND: Duration = Duration::from_millis(50);
/// A round gives up when its readers do, and says why: they wait for that.
const ROUND_GRACE: Duration = Duration::from_millis(100);
/// Redirects that are followed at once; further ones wait, as two nodes may name each other.
const MAX_QUICK_REDIRECTS: u32 = 3;

/// Messages with writes to other nodes since the start.
#[derive(Debug, Default)]
struct Sent {
    alone: AtomicU64,
    together: AtomicU64,
}

/// The one write path of voters and followers. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    node: NodeId,
    transport: Arc<dyn Transport>,
    leadership: watch::Receiver<Leadership>,
    view: View,
    seeds: Arc<BTreeSet<NodeId>>,
    rounds: Arc<Rounds>,
    lanes: Arc<Lanes>,
    sent: Arc<Sent>,
    gate: Arc<Gate>,
    /// Of a voter: asked directly instead of over the transport.
    local: Option<Weak<Engine>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Client {
    /// A client on node `node` that follows: `leadership` and `view` are those of its
    /// [`crate::Follower`]; `seeds` are asked while that names no voters.
    pub fn new(
        node: NodeId,
        transport: Arc<dyn Transport>,
        leadership: watch::Receiver<Leadership>,
        view: View,
        seeds: BTreeSet<NodeId>,
    ) -> Self {
        Self {
            node,
            transport,
            leadership,
            view,
            seeds: Arc::new(seeds),
            rounds: Arc::default(),
            lanes: Arc::default(),
            sent: Arc::default(),
            gate: Arc::default(),
            local: None,
        }
    }

    /// The client of a voter.
    pub(crate) fn local(
        engine: &Arc<Engine>,
        transport: Arc<dyn Transport>,
        leadership: watch::Receiver<Leadership>,
    ) -> Self {
        Self {
            node: engine.node(),
            transport,
            leadership,
            view: View::new(engine.shared().clone()),
            seeds: Arc::default(),
            rounds: Arc::default(),
            lanes: Arc::default(),
            sent: Arc::default(),
            gate: Arc::default(),
            local: Some(Arc::downgrade(engine)),
        }
    }

    /// See [`crate::Handle::write`].
    ///
    /// # Errors
    /// See [`crate::Handle::write`].
    pub async fn write(&self, txn: Txn, deadline: Duration) -> Result<Outcome, RaftError> {
        txn.validate()?;
        let Some(_inside) = self.gate.enter(&txn) else { return Err(RaftError::Busy) };
        let mut search = Search::new(deadline);
        while let Some(rest) = search.rest() {
            if self.has_stopped() && !search.unknown {
                return Err(RaftError::ShutDown);
            }
            let Some(target) = self.target(&mut search) else {
                search.pause(self).await;
                continue;
            };
            match self.attempt(target, rest, &mut search, Ask::Write(&txn)).await {
                Answer::Propose(ProposeReply::Answer(Response::Done(outcome))) => {
                    return Ok(outcome);
                }
                Answer::Propose(ProposeReply::Answer(Response::Full { used_bytes })) => {
                    return Err(RaftError::Full { used_bytes, max_bytes: MAX_KEYSPACE_BYTES });
                }
                // To try again at once would not make it less.
                Answer::Propose(ProposeReply::Busy) => return Err(RaftError::Busy),
                Answer::Propose(ProposeReply::Invalid(why)) => return Err(RaftError::Invalid(why)),
                Answer::Propose(ProposeReply::NotLeader { leader }) => {
                    search.redirect(target, leader, self).await;
                }
                Answer::Propose(ProposeReply::NoQuorum) => {
                    search.without_quorum(target, self).await;
                }
                Answer::Propose(ProposeReply::Unknown { leader }) => {
                    search.unknown = true;
                    search.redirect(target, leader, self).await;
                }
                Answer::Propose(ProposeReply::Answer(Response::Nothing)) | Answer::Odd => {
                    search.unknown = true;
                    search.lost(target, self).await;
                }
                Answer::Nowhere => search.lost(target, self).await,
                Answer::Read(_) | Answer::None => {
                    search.unknown = true;
                    search.lost(target, self).await;
                }
            }
        }
        Err(self.give_up(&search, search.unknown))
    }

    /// See [`crate::Handle::write_leading`].
    pub(crate) async fn write_here(
        &self,
        engine: &Engine,
        txn: Txn,
        deadline: Duration,
    ) -> Result<Outcome, RaftError> {
        txn.validate()?;
        let start = Instant::now();
        let waited_ms = || millis(start.elapsed());
        match engine.propose(self.node, txn, deadline).await {
            ProposeReply::Answer(Response::Done(outcome)) => Ok(outcome),
            ProposeReply::Answer(Response::Full { used_bytes }) => {
                Err(RaftError::Full { used_bytes, max_bytes: MAX_KEYSPACE_BYTES })
            }
            ProposeReply::Invalid(why) => Err(RaftError::Invalid(why)),
            ProposeReply::Busy => Err(RaftError::Busy),
            ProposeReply::NotLeader { leader } => {
                Err(RaftError::NotLeader { leader: leader.map(NodeId) })
            }
            ProposeReply::NoQuorum => {
                Err(RaftError::NoQuorum("the leader has not heard from a majority".to_owned()))
            }
            ProposeReply::Answer(Response::Nothing) | ProposeReply::Unknown { .. } => {
                Err(RaftError::TimeoutUnknown { waited_ms: waited_ms() })
            }
        }
    }

    /// See [`crate::Handle::read_index`]: waits until the view of this node has caught up.
    ///
    /// # Errors
    /// See [`crate::Handle::read_index`].
    pub async fn read_index(&self, deadline: Duration) -> Result<Revision, RaftError> {
        let start = Instant::now();
        let deadline = deadline.min(MAX_DEADLINE);
        let until = start + deadline;
        let (told, first) = self.rounds.join(until).ok_or(RaftError::Busy)?;
        if first {
            tokio::spawn(self.clone().drive_rounds());
        }
        let revision = match tokio::time::timeout_at(until + ROUND_GRACE, told).await {
            Ok(Ok(result)) => result?,
            Ok(Err(_)) => return Err(RaftError::ShutDown),
            // It shares its round with others that wait for longer.
            Err(_) => {
                let waited_ms = millis(start.elapsed());
                return Err(RaftError::Timeout { what: "a barrier".to_owned(), waited_ms });
            }
        };
        self.view.wait_for(revision, until.saturating_duration_since(Instant::now())).await?;
        Ok(revision)
    }

    /// Makes rounds for as long as readers wait for one.
    async fn drive_rounds(self) {
        while let Some(waiting) = self.rounds.next() {
            let until = waiting.iter().map(|waiting| waiting.until).max();
            let deadline = until.unwrap_or_else(Instant::now).duration_since(Instant::now());
            let client = self.clone();
            let mut round = Box::pin(async move {
                let result = client.barrier(deadline).await;
                waiting.into_iter().for_each(|waiting| waiting.tell(result.clone()));
            });
            if tokio::time::timeout(SLOW_ROUND, &mut round).await.is_err() {
                tokio::spawn(round);
            }
        }
    }

    /// One barrier: what was acknowledged anywhere before it began has at most the revision that
    /// it gives.
    async fn barrier(&self, deadline: Duration) -> Result<Revision, RaftError> {
        let mut search = Search::new(deadline);
        while let Some(rest) = search.rest() {
            if self.has_stopped() {
                return Err(RaftError::ShutDown);
            }
            let Some(target) = self.target(&mut search) else {
                search.pause(self).await;
                continue;
            };
            match self.attempt(target, rest, &mut search, Ask::Read).await {
                Answer::Read(ReadReply::At(revision)) => return Ok(revision),
                Answer::Read(ReadReply::NotLeader { leader }) => {
                    search.redirect(target, leader, self).await;
                }
                Answer::Read(ReadReply::NoQuorum) => search.without_quorum(target, self).await,
                _ => search.lost(target, self).await,
            }
        }
        Err(self.give_up(&search, false))
    }

    /// Whether this was the client of a voter that has stopped: what it would wait for never
    /// comes. A write that may have been received is sought on, elsewhere.
    fn has_stopped(&self) -> bool {
        let Some(local) = &self.local else { return false };
        local.upgrade().is_none_or(|engine| engine.has_stopped())
    }

    /// Writes sent away since the start because too many were under way.
    pub fn refused_writes(&self) -> u64 {
        self.gate.refused()
    }

    /// Messages with writes that this node sent to others since the start, by the version of the wire
    /// since which they are understood.
    pub fn sent_writes(&self) -> [(u8, u64); 2] {
        let Sent { alone, together } = &*self.sent;
        [(wire::OLDEST, alone), (wire::MANY_WRITES, together)]
            .map(|(version, count)| (version, count.load(Ordering::Relaxed)))
    }

    fn engine(&self) -> Option<Arc<Engine>> {
        self.local.as_ref().and_then(Weak::upgrade)
    }

    /// Whom to ask next: who was named last, else the leader as this node knows it, else
    /// everybody in turn.
    fn target(&self, search: &mut Search) -> Option<NodeId> {
        if let Some(hint) = search.hint.take() {
            return Some(hint);
        }
        let leadership = self.leadership.borrow();
        if search.avoid != leadership.leader
            && let Some(leader) = leadership.leader
        {
            return Some(leader);
        }
        let everybody: Vec<NodeId> =
            if leadership.voters.is_empty() { &*self.seeds } else { &leadership.voters }
                .iter()
                .copied()
                .filter(|node| *node != self.node || self.local.is_some())
                .collect();
        drop(leadership);
        search.turn = search.turn.wrapping_add(1);
        everybody.get(search.turn.checked_rem(everybody.len())?).copied()
    }

    async fn attempt(
        &self,
        target: NodeId,
        rest: Duration,
        search: &mut Search,
        ask: Ask<'_>,
    ) -> Answer {
        if target == self.node {
            let Some(engine) = self.engine() else { return Answer::Nowhere };
            search.answered.insert(target);
            return match ask {
                Ask::Write(txn) => {
                    Answer::Propose(engine.propose(self.node, txn.clone(), rest).await)
                }
                Ask::Read => Answer::Read(engine.read_index(rest).await),
            };
        }
        let limit = rest.min(ATTEMPT);
        let call = tokio::time::timeout(limit, async {
            match ask {
                Ask::Write(txn) => self.send(target, txn, limit).await.map(Answer::Propose),
                Ask::Read => self.ask_barrier(target, limit).await,
            }
        });
        let mut leadership = self.leadership.clone();
        leadership.mark_unchanged();
        // A leader that was replaced meanwhile will not answer well.
        let replaced = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != target));
        let known = self.leadership.borrow().leader == Some(target);
        let answer = tokio::select! {
            answer = call => answer,
            // Of a node that has stopped nothing is learnt any more: that is no new leader.
            Ok(_) = replaced, if known => return Answer::None,
        };
        match answer {
            Ok(Ok(answer)) => {
                search.answered.insert(target);
                answer
            }
            Ok(Err(TransportError::Unreachable(_))) => Answer::Nowhere,
            Ok(Err(_)) | Err(_) => Answer::None,
        }
    }

    async fn ask_barrier(&self, target: NodeId, limit: Duration) -> Result<Answer, TransportError> {
        let (since, body) = read_request(target, limit).map_err(unsendable)?;
        let bytes = self.transport.call(target, since, body, limit).await?;
        Ok(match decode_reply(&bytes) {
            Ok(Reply::ReadIndex(reply)) => Answer::Read(reply),
            Ok(_) | Err(_) => Answer::Odd,
        })
    }

    /// Sends a write to another node, together with others where there are many.
    async fn send(
        &self,
        target: NodeId,
        txn: &Txn,
        limit: Duration,
    ) -> Result<ProposeReply, TransportError> {
        let (told, drive) = self.lanes.join(target, txn.clone(), Instant::now() + limit);
        if drive {
            tokio::spawn(self.clone().drive_lane(target));
        }
        let stopped = |_| Err(TransportError::Failed("the node stopped".to_owned()));
        told.await.unwrap_or_else(stopped)
    }

    /// Sends messages for as long as writes wait to be sent to this node.
    async fn drive_lane(self, target: NodeId) {
        while let Some(batch) = self.lanes.next(target) {
            if self.transport.version(target) >= wire::MANY_WRITES {
                self.send_together(target, batch).await;
            } else {
                let alone = batch.into_iter().map(|waiting| self.send_alone(target, waiting));
                futures::future::join_all(alone).await;
            }
        }
    }

    /// As an older node understands it.
    async fn send_alone(&self, target: NodeId, waiting: Waiting) {
        let Waiting { txn, until, tell } = waiting;
        let rest = until.saturating_duration_since(Instant::now());
        let sent = async {
            let proposal = Proposal { txn, ttl_ms: millis(rest) };
            let (since, body) = propose_request(target, proposal).map_err(unsendable)?;
            self.sent.alone.fetch_add(1, Ordering::Relaxed);
            let bytes = self.transport.call(target, since, body, rest).await?;
            match decode_reply(&bytes) {
                Ok(Reply::Propose(reply)) => Ok(reply),
                Ok(_) | Err(_) => Err(unfitting()),
            }
        };
        // Whoever gave up waits no more.
        let _ = tell.send(sent.await);
    }

    async fn send_together(&self, target: NodeId, batch: Vec<Waiting>) {
        let now = Instant::now();
        let longest = batch.iter().map(|waiting| waiting.until).max().unwrap_or(now);
        let (proposals, tell): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|Waiting { txn, until, tell }| {
                let ttl_ms = millis(until.saturating_duration_since(now));
                (Proposal { txn, ttl_ms }, tell)
            })
            .unzip();
        let sent = async {
            let (since, body) = propose_many_request(target, proposals).map_err(unsendable)?;
            self.sent.together.fetch_add(1, Ordering::Relaxed);
            let rest = longest.saturating_duration_since(now);
            let bytes = self.transport.call(target, since, body, rest).await?;
            match decode_reply(&bytes) {
                Ok(Reply::ProposeMany(replies)) if replies.len() == tell.len() => Ok(replies),
                Ok(_) | Err(_) => Err(unfitting()),
            }
        };
        // Whoever gave up waits no more.
        match sent.await {
            Ok(replies) => tell.into_iter().zip(replies).for_each(|(tell, reply)| {
                let _ = tell.send(Ok(reply));
            }),
            Err(error) => tell.into_iter().for_each(|tell| {
                let _ = tell.send(Err(error.clone()));
            }),
        }
    }

    fn give_up(&self, search: &Search, unknown: bool) -> RaftError {
        let waited_ms = millis(search.start.elapsed());
        if unknown {
            return RaftError::TimeoutUnknown { waited_ms };
        }
        let voters = self.leadership.borrow().voters.clone();
        let here = search.answered.intersection(&voters).count();
        if search.no_quorum || (!voters.is_empty() && here <= voters.len() / 2) {
            let silent: Vec<String> =
                voters.difference(&search.answered).map(NodeId::to_string).collect();
            let who = if silent.is_empty() {
                format!("the leader has lost the majority of {} voters", voters.len())
            } else {
                format!(
                    "no answer from {} of {} voters ({})",
                    silent.len(),
                    voters.len(),
                    silent.join(", ")
                )
            };
            return RaftError::NoQuorum(format!("{who} within {waited_ms} ms"));
        }
        RaftError::NoLeader { waited_ms }
    }
}

fn unfitting() -> TransportError {
    TransportError::Failed("an answer that does not fit".to_owned())
}

fn unsendable(error: std::io::Error) -> TransportError {
    TransportError::Unreachable(error.to_string())
}

#[derive(Clone, Copy)]
enum Ask<'a> {
    Write(&'a Txn),
    Read,
}

enum Answer {
    Propose(ProposeReply),
    Read(ReadReply),
    /// An answer that cannot be understood.
    Odd,
    /// Certainly not received.
    Nowhere,
    /// No answer: it may have been received.
    None,
}

/// One search for a leader that answers.
struct Search {
    start: Instant,
    deadline: Duration,
    hint: Option<NodeId>,
    /// The leader as this node knows it turned out not to be one.
    avoid: Option<NodeId>,
    turn: usize,
    redirects: u32,
    backoff: Duration,
    answered: BTreeSet<NodeId>,
    unknown: bool,
    no_quorum: bool,
}

impl Search {
    fn new(deadline: Duration) -> Self {
        Self {
            start: Instant::now(),
            deadline: deadline.min(MAX_DEADLINE),
            hint: None,
            avoid: None,
            turn: rand::random::<u16>().into(),
            redirects: 0,
            backoff: BACKOFF.0,
            answered: BTreeSet::new(),
            unknown: false,
            no_quorum: false,
        }
    }

    /// What is left of the deadline.
    fn rest(&self) -> Option<Duration> {
        self.deadline.checked_sub(self.start.elapsed()).filter(|rest| !rest.is_zero())
    }

    async fn redirect(&mut self, target: NodeId, leader: Option<u64>, client: &Client) {
        self.no_quorum = false;
        self.avoid = Some(target);
        self.hint = leader.map(NodeId).filter(|leader| *leader != target);
        self.redirects += 1;
        if self.hint.is_none() || self.redirects > MAX_QUICK_REDIRECTS {
            self.pause(client).await;
        }
    }

    async fn without_quorum(&mut self, target: NodeId, client: &Client) {
        self.no_quorum = true;
        self.avoid = Some(target);
        self.pause(client).await;
    }

    async fn lost(&mut self, target: NodeId, client: &Client) {
        self.answered.remove(&target);
        self.avoid = Some(target);
        self.pause(client).await;
    }

    /// Waits a moment, or until this node learns of another leader.
    async fn pause(&mut self, client: &Client) {
        let Some(rest) = self.rest() else { return };
        let mut leadership = client.leadership.clone();
        let before = leadership.borrow_and_update().leader;
        let changed = async {
            let other = |now: &Leadership| now.leader.is_some() && now.leader != before;
            if leadership.wait_for(other).await.is_err() {
                // The node has stopped and learns of none: a search that goes on waits all the same.
                std::future::pending::<()>().await;
            }
        };
        if tokio::time::timeout(self.backoff.min(rest), changed).await.is_ok() {
            self.avoid = None;
            self.hint = None;
        } else if self.backoff >= BACKOFF.1 {
            // The one avoided may be the leader again.
            self.avoid = None;
        }
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
    }
}
