//! Faults that an operator has this node struck by, to see what the cluster makes of them.
//!
//! Only where the node was started with `--allow-faults`. Each ends by itself within
//! [`MAX_FAULT`], except a crash: what starts the node again is what is tried then.

use std::{process::Command, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use swarmer_mesh::transport::{LOSE_ALL, StreamKind};
use swarmer_model::{Millis, NodeId};
use tokio::time::Instant;

use crate::{
    agent::Context,
    codes,
    problem::{Outcome, Problem},
    process,
};

/// The longest that a fault lasts.
pub(crate) const MAX_FAULT: Duration = Duration::from_secs(60);
/// So long after the answer it strikes: the answer gets out.
const HEAD_START: Duration = Duration::from_millis(200);
/// How long another node may take to say that it will be struck.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// What `loss` loses, of a thousand packets in each direction.
const LOSS_PER_MILLE: u32 = 200;

/// What happens to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FaultKind {
    /// Nothing: whether faults may be struck at all
    #[value(skip)]
    None,
    /// The process dies as by kill -9; whatever runs it must start it again
    Crash,
    /// The process stands still as by SIGSTOP
    Pause,
    /// The node reaches no other node, and none reaches it
    Isolate,
    /// A fifth of the packets to and from other nodes is lost
    Loss,
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    pub(crate) fault: FaultKind,
    /// How long; a crash is over at once.
    pub(crate) lasts: Millis,
}

/// What a node answers one that passes a fault on.
#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Accepted,
    Refused { code: String, detail: String },
}

impl Context {
    /// Strikes a node of the cluster: this one, or another that allows it.
    pub(crate) async fn strike_at(&self, node: NodeId, fault: Fault) -> Outcome<()> {
        if node == self.node {
            return self.strike(fault);
        }
        let internal = |error: serde_json::Error| Problem::new(codes::INTERNAL, error.to_string());
        let body = Bytes::from(serde_json::to_vec(&fault).map_err(internal)?);
        let deadline = Instant::now() + ASK_DEADLINE;
        let asked = self.transport.request(node, StreamKind::Fault, body, deadline).await;
        let answer = asked.map_err(|error| {
            let detail = format!("node {}: {error}", self.dispatcher.node_name(node));
            Problem::new(swarmer_model::Coded::code(&error), detail)
        })?;
        match serde_json::from_slice(&answer).map_err(internal)? {
            Reply::Accepted => Ok(()),
            Reply::Refused { code, detail } => {
                Err(Problem::new(codes::by_name(&code).unwrap_or(codes::INTERNAL), detail))
            }
        }
    }

    /// Answers a node that passes a fault on. None: it cannot be read.
    pub(crate) fn answer_fault(&self, body: &[u8]) -> Option<Vec<u8>> {
        let reply = match self.strike(serde_json::from_slice(body).ok()?) {
            Ok(()) => Reply::Accepted,
            Err(Problem { code, detail, .. }) => {
                Reply::Refused { code: code.name.to_owned(), detail }
            }
        };
        serde_json::to_vec(&reply).ok()
    }

    fn strike(&self, Fault { fault, lasts }: Fault) -> Outcome<()> {
        let lasts = lasts.duration();
        if !self.allow_faults {
            let detail = format!("node {} was not started with --allow-faults", self.name);
            return Err(Problem::new(codes::FAULT_NOT_ALLOWED, detail));
        }
        if lasts > MAX_FAULT {
            let detail = format!("lasts: at most {} s", MAX_FAULT.as_secs());
            return Err(Problem::new(codes::BAD_REQUEST, detail));
        }
        if fault == FaultKind::None {
            return Ok(());
        }
        tracing::warn!(target: "swarmer::node", event = "fault", ?fault, ?lasts,
            "an operator has this node struck");
        let transport = self.transport.clone();
        tokio::spawn(async move {
            tokio::time::sleep(HEAD_START).await;
            match fault {
                FaultKind::None => {}
                FaultKind::Crash => {
                    process::signal(std::process::id(), rustix::process::Signal::KILL)
                }
                FaultKind::Pause => pause(lasts),
                FaultKind::Isolate => drop(transport.lose(LOSE_ALL, lasts)),
                FaultKind::Loss => drop(transport.lose(LOSS_PER_MILLE, lasts)),
            }
        });
        Ok(())
    }
}

/// Stands still. Another process lets this one go on: this one cannot.
fn pause(lasts: Duration) {
    let script = "kill -STOP \"$1\"; sleep \"$2\"; kill -CONT \"$1\"";
    let (this, seconds) = (std::process::id().to_string(), lasts.as_secs_f64().to_string());
    let waker = Command::new("sh").args(["-c", script, "sh", &this, &seconds]).spawn();
    match waker {
        Ok(mut waker) => {
            // Waited for, so that no zombie stays.
            std::thread::spawn(move || waker.wait());
        }
        Err(error) => {
            tracing::warn!(target: "swarmer::node", %error, "the node cannot be paused: sh");
        }
    }
}
