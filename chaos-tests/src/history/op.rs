//! One operation of one client.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    placed::{Commit, Rule},
    strange::Strange,
};

/// What one client did, when, and what it was told. Times are nanoseconds of a monotonic clock that
/// starts with the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Unique in the history.
    pub id: u64,
    /// Who did it. A client does one thing at a time, and nothing more after an unknown outcome.
    pub client: u32,
    /// The node that it spoke to.
    pub node: String,
    /// Before the first byte was sent.
    pub invoked_ns: u64,
    /// After the last byte was read, or when the client gave up.
    pub completed_ns: u64,
    /// What it did.
    pub action: Action,
    /// What it was told.
    pub outcome: Outcome,
}

/// What clients do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// A linearizable read of a register.
    Read {
        /// The register.
        key: String,
    },
    /// A write of a register. One operation even if it was sent several times under one request id.
    Write {
        /// The register.
        key: String,
        /// What it is to hold.
        value: u64,
        /// The `Idempotency-Key`, if one was sent.
        request: Option<String>,
    },
    /// A write that asks for the revision that was seen.
    Cas {
        /// The register.
        key: String,
        /// What was seen.
        seen_value: u64,
        /// The revision at which it was seen.
        seen_revision: u64,
        /// What it is to hold.
        value: u64,
    },
    /// Puts an element into the set.
    Add {
        /// The element.
        element: u64,
    },
    /// Takes an element out of the set.
    Remove {
        /// The element.
        element: u64,
    },
    /// A linearizable read of the whole set.
    List,
    /// One connection of a watch.
    Watch {
        /// The keys watched start with it.
        prefix: String,
        /// Changes after this revision are wanted.
        from: u64,
    },
    /// Several appends and reads, together or not at all.
    Txn {
        /// What is done; reads without what they give.
        steps: Vec<Step>,
    },
    /// Hands an artifact to the cluster.
    Deploy {
        /// SHA-256 of its bytes, in hex.
        artifact: String,
    },
    /// Reads an artifact back.
    Fetch {
        /// SHA-256 of its bytes, in hex.
        artifact: String,
    },
    /// Calls a function.
    Call {
        /// Unique in the history; the function sends it back.
        call: String,
        /// Milliseconds in which there must be an answer.
        deadline_ms: u64,
    },
    /// Calls a function by a request that may not run twice; sent once.
    Post {
        /// Unique in the history; the function writes it down when it starts, and sends it back.
        job: String,
    },
    /// The function was started for such a request, by its own log; taken down when it was read.
    Started {
        /// The request.
        job: String,
    },
    /// Sends datagrams to the node that it has seen before.
    Replay {
        /// How many.
        datagrams: u64,
    },
    /// Sends packets to the node's port for the others, from where no member is.
    Strange {
        /// Of what kind.
        what: Strange,
    },
    /// Reads which members the node knows: those that were let in and those that gossip.
    Members {
        /// Who was let in by then.
        admitted: Vec<String>,
    },
    /// Reads how far the node's state is.
    Look,
    /// Says what the node can hold, in all of its lives.
    Capacity {
        /// How many functions.
        functions: u32,
        /// How much of their memory, in bytes.
        memory: u64,
    },
    /// Asks for a function that is placed by this rule; by none: that it is deleted.
    Wish {
        /// `namespace/name`.
        function: String,
        /// The rule.
        rule: Option<Rule>,
    },
    /// Asks that the node is emptied, or takes work again.
    Drain {
        /// Which of the two.
        draining: bool,
    },
    /// Asks that a region is emptied as a whole, or takes work again.
    DrainRegion {
        /// Its name.
        region: String,
        /// Which of the two.
        draining: bool,
    },
    /// One connection of a watch of all that placement looks at and says.
    Trace {
        /// Changes after this revision are wanted.
        from: u64,
    },
    /// Asks for a lease that nobody else may have; the revision of the answer is its token.
    Acquire {
        /// Its name.
        lease: String,
        /// Milliseconds for which it lasts without a renewal.
        ttl_ms: u64,
    },
    /// Renews it.
    Renew {
        /// Its name.
        lease: String,
        /// The token.
        token: u64,
    },
    /// Gives it back.
    Release {
        /// Its name.
        lease: String,
        /// The token.
        token: u64,
    },
    /// Waited, after all was healed and no client wished for anything more, until no placement changed.
    Rest,
    /// Removes the node from the cluster. One operation, however often it had to be asked for.
    Expel,
    /// Lets the node in, as a new member with nothing on its disk, until it is ready.
    Admit,
    /// Starts the node with a part of what it was, though it is a member still: it must be refused.
    Intrude {
        /// With which part.
        with: Relic,
    },
    /// Waits until the cluster has chosen its voters: three, all of them members.
    Settle,
    /// Stopped the node for that time; done by the nemesis. No answer can come from it meanwhile.
    Pause,
    /// Says in which region the node stands, in all of its lives.
    Stands {
        /// The region's name.
        region: String,
    },
    /// Reads who votes, where no change of that is under way.
    Voters,
    /// Took all nodes of a region away for that time, while nothing else struck; done by the nemesis.
    Lost {
        /// Those nodes.
        nodes: Vec<String>,
    },
    /// Was seen to lead for the first time in a term.
    Leads {
        /// The term.
        term: u64,
    },
    /// Put all nodes an ocean apart for that time, while nothing else struck; done by the nemesis.
    Stretched {
        /// Milliseconds from any of them to any other one.
        delay_ms: u32,
    },
    /// Cut the link between two regions off and mended it so many times in that time, while nothing else
    /// struck; done by the nemesis.
    Flapped {
        /// How often.
        cuts: u64,
    },
    /// Struck the cluster with a fault other than a drained restart; done by the nemesis.
    Strike {
        /// The fault.
        what: String,
    },
    /// Stopped the node by SIGTERM and started it, until it was ready again; done by the nemesis.
    Restart,
    /// Takes a version of the function out of service.
    Retire {
        /// The version's number.
        version: u64,
        /// The nodes that were away meanwhile, and need not know of it yet.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        without: Vec<String>,
    },
    /// Reads at a node that was away with its region, until it gives what holds now: a linearizable read.
    Back,
}

/// What is left of a node that lost its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relic {
    /// Its name: an empty directory and a token that is good.
    Name,
    /// Its id, key and certificate, without its log.
    Id,
}

impl Relic {
    /// The code by which it must be refused.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Name => "SW-NODE-NAME-TAKEN",
            Self::Id => "SW-NODE-LOG-LOST",
        }
    }
}

impl fmt::Display for Relic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "name",
            Self::Id => "id",
        })
    }
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Appends a value to a list. Values are unique within a list.
    Append(u64, u64),
    /// Reads a list: its key, and what it held if that is known.
    Read(u64, Option<Vec<u64>>),
}

impl Step {
    /// The list that it is about.
    pub fn list(&self) -> u64 {
        match self {
            Self::Append(list, _) | Self::Read(list, _) => *list,
        }
    }
}

/// What a client was told. `SEMANTICS.md` has the rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// It happened, between invocation and completion.
    Ok {
        /// What came back.
        answer: Answer,
    },
    /// It did not happen, and never will.
    Failed {
        /// The code or the transport error.
        why: String,
    },
    /// It may have happened, may still happen, or not.
    Unknown {
        /// The code or the transport error.
        why: String,
    },
    /// The harness met what it has no rule for: the run is void.
    Harness {
        /// What it was.
        why: String,
    },
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "gave", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// It is done; at this revision, if the answer told that of this very operation.
    Done {
        /// The revision of the change.
        revision: Option<u64>,
    },
    /// What a register holds; none if it does not exist.
    Value {
        /// What it holds.
        value: Option<u64>,
        /// The revision of its last change.
        revision: Option<u64>,
    },
    /// The elements of the set.
    Elements {
        /// In no order.
        elements: Vec<u64>,
    },
    /// What a watch told, in its order.
    Events {
        /// All of the connection.
        events: Vec<Event>,
        /// The history no longer reached back to what was asked for.
        compacted: bool,
    },
    /// What a watch of placements told, in its order.
    Commits {
        /// All of the connection.
        commits: Vec<Commit>,
        /// The history no longer reached back to what was asked for.
        compacted: bool,
    },
    /// A transaction with what its reads gave.
    Steps {
        /// In the order of the action.
        steps: Vec<Step>,
    },
    /// Bytes came, with this digest.
    Bytes {
        /// SHA-256 in hex, computed by the client.
        digest: String,
    },
    /// What a node made of datagrams that were sent again.
    Refused {
        /// How many came to it.
        came: u64,
        /// How many of them it refused.
        refused: u64,
    },
    /// What a node made of a stranger's packets.
    Heard {
        /// How many were sent.
        packets: u64,
        /// How many came to it, if nobody else could send to it meanwhile; else 0.
        came: u64,
        /// How many it refused meanwhile, by its own count or by what it answered.
        refused: u64,
        /// Bytes of streams for members that it gave to the stranger.
        served: u64,
    },
    /// Names of members.
    Names {
        /// In no order, each once.
        names: Vec<String>,
    },
    /// How far a state is.
    State {
        /// Its revision.
        revision: u64,
        /// Of all changes up to it.
        hash: String,
    },
    /// A function answered.
    Served {
        /// The id that it sent back.
        echo: String,
        /// The version that answered.
        version: u64,
        /// Answers that came for this one request.
        answers: u32,
        /// The node that it ran on; empty in histories of before that was taken down.
        #[serde(default)]
        by: String,
    },
}

/// One change that a watch told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The revision of the change.
    pub revision: u64,
    /// The register.
    pub key: String,
    /// What it holds since then; none if it is gone.
    pub value: Option<u64>,
}

impl Operation {
    /// Whether it surely happened.
    pub fn is_ok(&self) -> bool {
        matches!(self.outcome, Outcome::Ok { .. })
    }

    /// Whether it may have happened: everything but a failure.
    pub fn may_have_happened(&self) -> bool {
        matches!(self.outcome, Outcome::Ok { .. } | Outcome::Unknown { .. })
    }

    /// Whether it is a note of what the harness did, and nothing that a client was told.
    pub fn is_note(&self) -> bool {
        matches!(
            self.action,
            Action::Pause
                | Action::Stands { .. }
                | Action::Lost { .. }
                | Action::Leads { .. }
                | Action::Stretched { .. }
                | Action::Flapped { .. }
                | Action::Strike { .. }
                | Action::Restart
                | Action::Capacity { .. }
                | Action::Rest
        )
    }

    /// Whether it is of a stranger, or a look at what came of its packets: nothing that a client asked
    /// for.
    pub fn is_strange(&self) -> bool {
        matches!(self.action, Action::Strange { .. } | Action::Members { .. } | Action::Look)
    }

    /// What came back, if it is ok.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Ok { answer } => Some(answer),
            _ => None,
        }
    }

    /// The revision that the answer told, of this very operation.
    pub fn revision(&self) -> Option<u64> {
        match self.answer()? {
            Answer::Done { revision } | Answer::Value { revision, .. } => *revision,
            _ => None,
        }
    }
}

fn ms(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000_000, ns / 1_000 % 1_000)
}

impl fmt::Display for Operation {
    /// One line for an explanation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (ms(self.invoked_ns), ms(self.completed_ns));
        write!(f, "#{} client {} at {} [{from}–{to} ms] ", self.id, self.client, self.node)?;
        match &self.action {
            Action::Read { key } => write!(f, "read {key}")?,
            Action::Write { key, value, .. } => write!(f, "write {key} = {value}")?,
            Action::Cas { key, seen_value, seen_revision, value } => {
                write!(f, "cas {key} {seen_value}@{seen_revision} → {value}")?;
            }
            other => write!(f, "{other:?}")?,
        }
        match &self.outcome {
            Outcome::Ok { answer: Answer::Value { value, revision } } => {
                let value = value.map_or("absent".to_owned(), |value| value.to_string());
                write!(f, ": {value}@{}", revision.unwrap_or(0))
            }
            Outcome::Ok { answer: Answer::Done { revision: Some(revision) } } => {
                write!(f, ": ok @{revision}")
            }
            Outcome::Ok { answer: Answer::Done { revision: None } } => f.write_str(": ok"),
            Outcome::Ok { answer } => write!(f, ": {answer:?}"),
            Outcome::Failed { why } => write!(f, ": failed ({why})"),
            Outcome::Unknown { why } => write!(f, ": unknown ({why})"),
            Outcome::Harness { why } => write!(f, ": harness ({why})"),
        }
    }
}
