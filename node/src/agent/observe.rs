//! What an operator asks of all nodes: log lines, how a function stands on each, how they are.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use swarmer_mesh::stream::StreamKind;
use swarmer_model::NodeId;
use tokio::time::Instant;

use crate::{
    agent::{Context, HealthReport},
    functions::{LogPage, LogPosition},
};

/// How long one node may take; those that take longer are left out of the answer.
const DEADLINE: Duration = Duration::from_secs(2);
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
    Logs { function: String, from: Option<LogPosition>, tail: usize },
    Report { function: String },
    Health,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Logs(LogPage),
    Report(Vec<FunctionReport>),
    Health(Box<HealthReport>),
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

    /// How a function stands on the nodes that it is placed on.
    pub(crate) async fn reports(&self, function: &str) -> Vec<FunctionReport> {
        let desired = self.desired.current();
        let placed = desired.functions.get(function).map(|e| e.placement.nodes.clone());
        let asked = placed.unwrap_or_default().into_iter().map(|node| async move {
            let question = Question::Report { function: function.to_owned() };
            match self.ask(node, question).await {
                Some(Answer::Report(reports)) => reports,
                _ => Vec::new(),
            }
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// What a node finds when it looks at itself; none if it does not answer.
    pub(crate) async fn ask_health(&self, node: NodeId) -> Option<HealthReport> {
        match self.ask(node, Question::Health).await {
            Some(Answer::Health(report)) => Some(*report),
            _ => None,
        }
    }

    fn living(&self) -> Vec<NodeId> {
        let members = self.gossip.members();
        members.iter().filter(|member| member.state.is_active()).map(|m| m.node).collect()
    }

    async fn ask(&self, node: NodeId, question: Question) -> Option<Answer> {
        if node == self.node {
            return Some(self.answer(question).await);
        }
        let body = serde_json::to_vec(&question).ok()?;
        let deadline = Instant::now() + DEADLINE;
        let asked = self.transport.request(node, StreamKind::Observe, Bytes::from(body), deadline);
        serde_json::from_slice(&asked.await.ok()?).ok()
    }

    async fn answer(&self, question: Question) -> Answer {
        match question {
            Question::Health => Answer::Health(Box::new(self.health().await)),
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
    pub(crate) async fn observe(self: &Arc<Self>, question: &[u8]) -> Option<Vec<u8>> {
        let question: Question = serde_json::from_slice(question).ok()?;
        serde_json::to_vec(&self.answer(question).await).ok()
    }
}
