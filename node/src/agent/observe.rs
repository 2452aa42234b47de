//! What nodes ask each other: for an operator log lines, how a function stands on each, how they are;
//! for themselves whether they are reached.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use serde::{Deserialize, Serialize};
use swarmer_mesh::stream::StreamKind;
use swarmer_model::{Code, Coded as _, NodeId, Revision};
use tokio::time::Instant;

use crate::{
    agent::{Context, Explanation, Failure, HealthReport, Made},
    codes,
    functions::{LogPage, LogPosition},
};

/// How long one node may take; those that take longer are left out of the answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long a node waits for its copy of the state to get where it is asked for: less than the
/// above, so that one that is late says so.
const CATCH_UP: Duration = Duration::from_millis(1500);
/// How long a member may take to answer where it says that it is: less than `DEADLINE`, too.
const LOOK: Duration = Duration::from_millis(1500);
/// Between two tries of a node that starts to be taken for a member: at first, and at most.
const INTRODUCTION: Duration = Duration::from_millis(20);
const MAX_INTRODUCTION: Duration = Duration::from_millis(500);
/// The most lines that one node gives in one answer.
const MAX_LINES: usize = 2_000;

/// Which lines are wanted.
#[derive(Debug, Clone)]
pub(crate) struct LogQuery {
    /// `namespace/name`.
    pub(crate) function: String,
    pub(crate) tail: usize,
    /// From where on, for each node that was asked before.
    pub(crate) from: BTreeMap<NodeId, LogPosition>,
}

/// The lines of one node.
#[derive(Debug, Clone)]
pub(crate) struct NodeLogs {
    pub(crate) node: NodeId,
    pub(crate) page: LogPage,
}

/// Why a node did not answer.
#[derive(Debug, Clone)]
pub(crate) struct Unasked {
    pub(crate) code: Code,
    pub(crate) why: String,
}

impl Unasked {
    fn nonsense() -> Self {
        let why = "what it answers cannot be read; it may be of another version".to_owned();
        Self { code: codes::INTERNAL, why }
    }
}

/// How one version of a function stands on one node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FunctionReport {
    pub(crate) node: NodeId,
    pub(crate) version: u32,
    /// Why it is not ready; none if it is.
    pub(crate) error: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Question {
    Logs {
        function: String,
        from: Option<LogPosition>,
        tail: usize,
    },
    Report {
        function: String,
    },
    Health,
    /// Which functions could not be made ready there, by the node's own fault?
    Failures,
    /// Has its ingress seen so much?
    Seen {
        revision: Revision,
    },
    /// Of the leader: why does the function stand where it stands?
    Placement {
        function: String,
    },
    /// Of the leader: what was its last decision about the function made from?
    Decision {
        function: String,
    },
    /// Do you reach me there?
    Reach {
        address: SocketAddr,
    },
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Logs(LogPage),
    Report(Vec<FunctionReport>),
    Health(Box<HealthReport>),
    Failures(Vec<Failure>),
    Seen(bool),
    Placement(Option<Explanation>),
    Decision(Option<Arc<Made>>),
    /// Why not.
    Reach(Option<String>),
}

impl Context {
    /// The lines of a function from all living members.
    pub(crate) async fn collect_logs(&self, query: LogQuery) -> Vec<NodeLogs> {
        let asked = self.living().into_iter().map(|node| {
            let from = query.from.get(&node).copied();
            let function = query.function.clone();
            let question = Question::Logs { function, from, tail: query.tail.min(MAX_LINES) };
            async move {
                match self.ask(node, question).await {
                    Some(Answer::Logs(page)) => Some(NodeLogs { node, page }),
                    _ => None,
                }
            }
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// How a function stands on the nodes that it is placed on, and which of these did not say it
    /// in time.
    pub(crate) async fn reports(
        &self,
        function: &str,
        patience: Duration,
    ) -> (Vec<FunctionReport>, Vec<NodeId>) {
        let desired = self.desired.current();
        let placed = desired.functions.get(function).map(|e| e.placement.nodes.clone());
        let asked = placed.unwrap_or_default().into_iter().map(|node| async move {
            let question = Question::Report { function: function.to_owned() };
            match tokio::time::timeout(patience, self.ask(node, question)).await {
                Ok(Some(Answer::Report(reports))) => Ok(reports),
                _ => Err(node),
            }
        });
        let (mut reports, mut silent) = (Vec::new(), Vec::new());
        for answer in futures::future::join_all(asked).await {
            match answer {
                Ok(told) => reports.extend(told),
                Err(node) => silent.push(node),
            }
        }
        (reports, silent)
    }

    /// What a node finds when it looks at itself.
    ///
    /// # Errors
    /// Why it did not say.
    pub(crate) async fn ask_health(&self, node: NodeId) -> Result<HealthReport, Unasked> {
        match self.try_ask(node, Question::Health).await {
            Ok(Answer::Health(report)) => Ok(*report),
            Ok(_) => Err(Unasked::nonsense()),
            Err(error) => Err(error),
        }
    }

    /// Which functions could not be made ready on a node by its own fault.
    pub(crate) async fn ask_failures(&self, node: NodeId) -> Vec<Failure> {
        match self.ask(node, Question::Failures).await {
            Some(Answer::Failures(failures)) => failures,
            _ => Vec::new(),
        }
    }

    /// Why a function stands where it stands, told by the leader; `None` if its planner has not looked
    /// at the function yet.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(crate) async fn explain_placement(
        &self,
        function: &str,
    ) -> Result<Option<Explanation>, Unasked> {
        let question = Question::Placement { function: function.to_owned() };
        match self.ask_leader(question).await? {
            Answer::Placement(explanation) => Ok(explanation),
            _ => Err(Unasked::nonsense()),
        }
    }

    /// The leader's last decision that moved the function, with what it was made from.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(crate) async fn recorded_decision(
        &self,
        function: &str,
    ) -> Result<Option<Arc<Made>>, Unasked> {
        let question = Question::Decision { function: function.to_owned() };
        match self.ask_leader(question).await? {
            Answer::Decision(made) => Ok(made),
            _ => Err(Unasked::nonsense()),
        }
    }

    /// Why no voter reaches this node at an address: what each of them says that answered. `None` if
    /// one does, or if there is none that says anything.
    pub(crate) async fn unreached_at(&self, address: SocketAddr) -> Option<String> {
        let voters = self.control.status().voters.into_iter().filter(|voter| *voter != self.node);
        let mut asked: FuturesUnordered<_> = voters
            .map(|voter| async move { (voter, self.ask(voter, Question::Reach { address }).await) })
            .collect();
        let mut said = Vec::new();
        while let Some((voter, answer)) = asked.next().await {
            match answer {
                Some(Answer::Reach(None)) => return None,
                Some(Answer::Reach(Some(why))) => {
                    said.push(format!("{}: {why}", self.node_name(voter)));
                }
                _ => {}
            }
        }
        (!said.is_empty()).then(|| said.join("; "))
    }

    async fn ask_leader(&self, question: Question) -> Result<Answer, Unasked> {
        let leader = self.control.status().leader.ok_or_else(|| {
            let why = "placements are explained by the leader, and none is known".to_owned();
            Unasked { code: swarmer_raft::codes::NO_LEADER, why }
        })?;
        self.try_ask(leader, question).await
    }

    /// The living members that have not seen the revision, after some time to get there.
    pub(crate) async fn behind(&self, revision: Revision) -> Vec<NodeId> {
        let asked = self.living().into_iter().map(|node| async move {
            let seen = self.ask(node, Question::Seen { revision }).await;
            (!matches!(seen, Some(Answer::Seen(true)))).then_some(node)
        });
        let behind = futures::future::join_all(asked).await;
        // Who died while it was asked answers nobody.
        let living = self.living();
        behind.into_iter().flatten().filter(|node| living.contains(node)).collect()
    }

    /// Asks the others for anything until one has answered: only then does this node know that they take
    /// its calls (see [`Signs`](super::readiness::Signs)).
    pub(crate) async fn introduce(self: Arc<Self>) {
        let mut pause = INTRODUCTION;
        while self.not_ready().is_some() {
            tokio::time::sleep(pause).await;
            pause = (pause * 5 / 4).min(MAX_INTRODUCTION);
            if !self.transport.is_taken() {
                let others = self.living().into_iter().filter(|node| *node != self.node);
                let question = || Question::Seen { revision: 0 };
                let mut asked: FuturesUnordered<_> =
                    others.map(|node| self.ask(node, question())).collect();
                // One that died a moment ago is not waited for.
                while let Some(None) = asked.next().await {}
            }
        }
    }

    fn living(&self) -> Vec<NodeId> {
        let members = self.gossip.members();
        members.iter().filter(|member| member.state.is_active()).map(|m| m.node).collect()
    }

    async fn ask(&self, node: NodeId, question: Question) -> Option<Answer> {
        self.try_ask(node, question).await.ok()
    }

    async fn try_ask(&self, node: NodeId, question: Question) -> Result<Answer, Unasked> {
        if node == self.node {
            return Ok(self.answer(node, question).await);
        }
        let body = serde_json::to_vec(&question).map_err(|_| Unasked::nonsense())?;
        let deadline = Instant::now() + DEADLINE;
        let asked = self.transport.request(node, StreamKind::Observe, Bytes::from(body), deadline);
        let answer =
            asked.await.map_err(|error| Unasked { code: error.code(), why: error.to_string() })?;
        serde_json::from_slice(&answer).map_err(|_| Unasked::nonsense())
    }

    async fn answer(&self, by: NodeId, question: Question) -> Answer {
        match question {
            Question::Reach { address } => Answer::Reach(self.look_for(by, address).await),
            Question::Health => Answer::Health(Box::new(self.health().await)),
            Question::Failures => Answer::Failures(self.functions.failures()),
            Question::Seen { revision } => {
                let seen = self.desired.wait_until(|state| state.revision >= revision);
                let seen = tokio::time::timeout(CATCH_UP, seen).await;
                Answer::Seen(matches!(seen, Ok(Some(_))))
            }
            Question::Placement { function } => {
                Answer::Placement(self.decisions.explain(&function))
            }
            Question::Decision { function } => Answer::Decision(self.decisions.record(&function)),
            Question::Logs { function, from, tail } => {
                Answer::Logs(self.logs.read(&function, from, tail.min(MAX_LINES)))
            }
            Question::Report { function } => {
                let all = self.functions.status().into_iter().filter(|s| s.function == function);
                let report = |status: crate::functions::LocalStatus| FunctionReport {
                    node: self.node,
                    version: status.version,
                    error: status.error,
                };
                Answer::Report(all.map(report).collect())
            }
        }
    }

    /// Answers another node.
    pub(crate) async fn observe(self: &Arc<Self>, by: NodeId, question: &[u8]) -> Option<Vec<u8>> {
        let question: Question = serde_json::from_slice(question).ok()?;
        serde_json::to_vec(&self.answer(by, question).await).ok()
    }

    /// Why this node does not reach a member at an address, told to the operators of both sides.
    async fn look_for(&self, member: NodeId, address: SocketAddr) -> Option<String> {
        // Of one that is not known here nothing can be said.
        let spki = self.desired.current().nodes.get(&member)?.spec.spki()?;
        let why = self.reach(address, &spki, LOOK).await.err()?;
        tracing::warn!(target: "swarmer::node", code = codes::ADVERTISE.name,
            node = self.node_name(member), why, remedy = codes::ADVERTISE.remedy,
            "a member is not where it says");
        Some(why)
    }
}
