//! Push/pull: a full exchange with one member over a stream.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use swarmer_model::NodeId;

use super::{
    Core, Output,
    codec::{Row, RowState},
    peer::Peer,
    wire::Exchange,
};
use crate::{
    Digest, GossipError, MAX_BACKGROUND_TASKS, MAX_MEMBERS, MAX_PUSH_PULL_BYTES, Refusal,
    SignedRecord,
};

/// Deaths that gossip may have failed to bring. Where a list has more of them halves of the cluster meet
/// again, and those that were taken for dead come back under new identities by themselves.
const MOST_MISSED: usize = 8;

struct Running {
    since: Duration,
    peer: Peer,
    /// Something came up meanwhile that the running one may have missed.
    again: bool,
    /// The second half of one: no third.
    follow_up: bool,
}

/// Exchanges that we began; one for a member at a time.
#[derive(Default)]
pub(super) struct Exchanges {
    running: BTreeMap<NodeId, Running>,
}

impl Exchanges {
    /// Forgets those of which the end was never told.
    pub(super) fn expire(&mut self, time: Duration, after: Duration) {
        self.running.retain(|_, running| time < running.since + after);
    }
}

impl Core {
    pub(super) fn start_exchange(&mut self, time: Duration, peer: Peer) {
        if let Some(running) = self.exchanges.running.get_mut(&peer.node) {
            running.again = true;
            return;
        }
        let held: Vec<Digest> = self.catalog.digests(NodeId(0)).collect();
        let exchange = Exchange {
            peer: self.identity(),
            rows: self.rows(),
            records: self.records_of(&[self.node]),
            held,
            want: Vec::new(),
        };
        self.begin(time, peer, &exchange, false);
    }

    fn begin(&mut self, time: Duration, peer: Peer, exchange: &Exchange, follow_up: bool) {
        if self.exchanges.running.len() >= MAX_BACKGROUND_TASKS {
            return;
        }
        let running = Running { since: time, peer, again: false, follow_up };
        self.exchanges.running.insert(peer.node, running);
        let request = encode(exchange);
        self.outputs.push_back(Output::StartPushPull { node: peer.node, addr: peer.addr, request });
    }

    /// How an exchange that we began ended: with the answer, or `None` if it failed.
    pub fn push_pull_done(&mut self, now: Duration, node: NodeId, answer: Option<&[u8]>) {
        let time = self.time(now);
        let Some(running) = self.exchanges.running.remove(&node) else { return };
        let taken = answer.map(|bytes| self.take_exchange(time, node, bytes));
        match taken {
            Some(Ok(exchange)) => {
                self.stats.push_pulls += 1;
                let records = self.records_of(&exchange.want);
                if !records.is_empty() && !running.follow_up && self.farewells.is_none() {
                    let rest = Exchange {
                        peer: self.identity(),
                        rows: Vec::new(),
                        held: self.catalog.digests(NodeId(0)).collect(),
                        records,
                        want: Vec::new(),
                    };
                    self.begin(time, running.peer, &rest, true);
                    if let Some(begun) = self.exchanges.running.get_mut(&node) {
                        begun.again = running.again;
                    }
                    return;
                }
                if running.again && self.farewells.is_none() {
                    self.start_exchange(time, running.peer);
                }
            }
            Some(Err(_)) => {
                self.stats.push_pulls_failed += 1;
                self.refuse(None, Some(node), Refusal::Malformed);
            }
            None => self.stats.push_pulls_failed += 1,
        }
    }

    /// Answers an exchange that a member began over its authenticated stream.
    ///
    /// # Errors
    /// Not admitted, or not an exchange; nothing changed then.
    pub fn serve_push_pull(
        &mut self,
        now: Duration,
        from: NodeId,
        request: &[u8],
    ) -> Result<Bytes, GossipError> {
        if !self.admission.admitted(from) || from == self.node {
            self.refuse(None, Some(from), Refusal::NotAdmitted);
            return Err(GossipError::NotAdmitted(from));
        }
        if self.farewells.is_some() {
            return Err(GossipError::Stopped);
        }
        let time = self.time(now);
        let exchange = match self.take_exchange(time, from, request) {
            Ok(exchange) => exchange,
            Err(error) => {
                self.refuse(None, Some(from), Refusal::Malformed);
                return Err(error);
            }
        };
        self.stats.push_pulls += 1;
        let (ours, theirs) = self.catalog.compare(NodeId(0), NodeId(u64::MAX), &exchange.held);
        let want = theirs.into_iter().filter(|n| *n != self.node && self.is_admitted(*n)).collect();
        let answer = Exchange {
            peer: self.identity(),
            rows: self.rows(),
            held: Vec::new(),
            records: self.records_of(&ours),
            want,
        };
        Ok(encode(&answer))
    }

    fn take_exchange(
        &mut self,
        time: Duration,
        from: NodeId,
        bytes: &[u8],
    ) -> Result<Exchange, GossipError> {
        let malformed = |what: &str| GossipError::Malformed { from, what: what.to_owned() };
        if bytes.len() > MAX_PUSH_PULL_BYTES {
            return Err(malformed("the message is over its bound"));
        }
        let mut exchange: Exchange =
            postcard::from_bytes(bytes).map_err(|error| malformed(&error.to_string()))?;
        if exchange.peer.node != from {
            return Err(malformed("it is in another node's name"));
        }
        let most = [exchange.rows.len(), exchange.held.len(), exchange.records.len()];
        if most.into_iter().chain([exchange.want.len()]).any(|len| len > MAX_MEMBERS) {
            return Err(malformed("a list is over its bound"));
        }
        if !self.admission.admitted(from) {
            return Err(GossipError::NotAdmitted(from));
        }
        let (lives, others): (Vec<Row>, Vec<Row>) = std::mem::take(&mut exchange.rows)
            .into_iter()
            .filter(|row| self.may_speak_of(&row.peer) && !self.knows_that_lives(row))
            .partition(|row| row.state == RowState::Alive);
        for signed in std::mem::take(&mut exchange.records) {
            self.take_record(time, None, signed);
        }
        self.swim_rows(time, &lives, true);
        // This node is not well spoken of: it objects.
        let own = self.identity();
        if let Some(row) = others.iter().find(|row| row.peer == own) {
            self.swim_rows(time, &[*row], true);
        }
        // A list may be old, and the dead can object: a death is looked into. Gossip brings nearly
        // all of them, but each with its own few copies; of a hundred members one in a hundred deaths
        // misses somebody, who finds it by its own probe after minutes.
        let missed: Vec<Row> = others
            .into_iter()
            .filter(|row| row.state == RowState::Down && self.view.is_active(&row.peer))
            .collect();
        if missed.len() <= MOST_MISSED {
            for row in &missed {
                self.told_of_death(time, from, row);
            }
        }
        Ok(exchange)
    }

    /// These nodes' records, as many as fit with the rest of a message.
    fn records_of(&self, nodes: &[NodeId]) -> Vec<SignedRecord> {
        let mut room = MAX_PUSH_PULL_BYTES / 2;
        let mut records = Vec::new();
        for node in nodes {
            let Some(signed) = self.catalog.signed(*node) else { continue };
            let Some(rest) = room.checked_sub(signed.wire_bytes()) else { continue };
            room = rest;
            records.push((**signed).clone());
        }
        records
    }
}

fn encode(exchange: &Exchange) -> Bytes {
    postcard::to_stdvec(exchange).expect("plain values without maps always encode").into()
}
