//! Whether two members hold the same, in a few bytes: fingerprints of all that they hold, and only
//! where these differ of ever shorter stretches of it (range-based set reconciliation, Meyer 2023).

use std::time::Duration;

use rand::seq::IteratorRandom;
use serde::{Deserialize, Serialize};
use swarmer_model::{NodeId, wire};

use super::{
    Core,
    peer::Peer,
    wire::{DIGESTS_PER_DATAGRAM, Message},
};
use crate::{Digest, Refusal};

/// Stretches that one that differs is divided into; they take a third of a datagram.
const PARTS: usize = 16;
/// Of the stretches of one datagram that differ so many are looked into: the answer to one datagram
/// is two, and the next summary finds the rest.
const FOLLOWED: usize = 2;

/// Gossip of a change is over within this: what somebody has missed by then it misses for good. So
/// often at most a node exchanges everything with one that sees other members.
const SETTLED: Duration = Duration::from_secs(2);

/// What is held of the nodes `from..=to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stretch {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) fingerprint: u64,
}

/// What the summaries of others said of who lives, since the last time that an exchange was due.
/// Records that differ do not count: some always do for a moment, and the answers mend them.
#[derive(Default)]
pub(super) struct Agreement {
    same: u32,
    different: u32,
    /// When this node last saw a member come, go or return.
    moved_at: Duration,
    /// When it last exchanged everything because another one saw other members.
    mended_at: Duration,
}

impl Agreement {
    /// Whether all who told whom they take for alive say just what this node does: then an exchange
    /// of everything has nothing to bring. Begins anew.
    pub(super) fn take(&mut self) -> bool {
        let agree = self.same > 0 && self.different == 0;
        (self.same, self.different) = (0, 0);
        agree
    }

    pub(super) fn moved(&mut self, time: Duration) {
        self.moved_at = time;
    }

    /// Whether another one that sees other members than this node has news for it, or the other way
    /// round, which gossip brings no more.
    fn mends(&mut self, time: Duration) -> bool {
        let mends = time >= self.moved_at + SETTLED && time >= self.mended_at + SETTLED;
        if mends {
            self.mended_at = time;
        }
        mends
    }
}

impl Core {
    /// Whether this node speaks this version of the wire, by what it was told to speak.
    pub(super) fn speaks(&self, version: u8) -> bool {
        self.local.facts().wire_max >= u16::from(version)
    }

    /// Whether just this start of the member understands what came with this version: an older one
    /// would take it for garbage.
    pub(super) fn understands(&self, peer: &Peer, version: u8) -> bool {
        self.catalog.get(peer.node).is_some_and(|record| {
            record.boot == peer.boot && record.facts.wire_max >= u16::from(version)
        })
    }

    /// Tells one random member what we hold: to one of an older version a list, or a random stretch
    /// of it if that is too long.
    pub(super) fn send_digest(&mut self) {
        let Some(peer) = self.random_peers(1).first().copied() else { return };
        let message = if self.speaks(wire::SUMMARIES) && self.understands(&peer, wire::SUMMARIES) {
            let members = self.view.fingerprint_without(peer.node);
            Message::Summary { members, records: self.catalog.fingerprint() }
        } else {
            self.some_digests()
        };
        self.send(&peer, &message);
    }

    pub(super) fn take_summary(
        &mut self,
        time: Duration,
        from: NodeId,
        members: u64,
        records: u64,
    ) -> Result<(), Refusal> {
        if !self.speaks(wire::SUMMARIES) {
            return Err(Refusal::Malformed);
        }
        let Some(peer) = self.view.peer(from) else { return Ok(()) };
        match members == self.view.fingerprint_without(from) {
            true => self.agreement.same += 1,
            false => {
                self.agreement.different += 1;
                if self.agreement.mends(time) {
                    self.start_exchange(time, peer);
                }
            }
        }
        if records != self.catalog.fingerprint() {
            self.detail(&peer, NodeId(0), NodeId(u64::MAX));
        }
        Ok(())
    }

    /// Compares the stretches, which must be ascending: what they make us read is bounded by that.
    pub(super) fn take_stretches(
        &mut self,
        from: NodeId,
        stretches: &[Stretch],
    ) -> Result<(), Refusal> {
        let ascending = stretches.iter().all(|stretch| stretch.from <= stretch.to)
            && stretches.windows(2).all(|pair| pair[0].to < pair[1].from);
        if !self.speaks(wire::SUMMARIES) || !ascending {
            return Err(Refusal::Malformed);
        }
        let Some(peer) = self.view.peer(from) else { return Ok(()) };
        let differs = |stretch: &&Stretch| {
            self.catalog.fingerprint_of(stretch.from, stretch.to) != stretch.fingerprint
        };
        let differing: Vec<Stretch> =
            stretches.iter().filter(differs).copied().sample(&mut self.rng, FOLLOWED);
        for stretch in differing {
            self.detail(&peer, stretch.from, stretch.to);
        }
        Ok(())
    }

    /// Tells what we hold of these nodes: each record if they fit into a datagram, else by parts.
    fn detail(&mut self, peer: &Peer, from: NodeId, to: NodeId) {
        let held: Vec<Digest> =
            self.catalog.digests(from).take_while(|digest| digest.node <= to).collect();
        if held.len() <= DIGESTS_PER_DATAGRAM {
            self.send(peer, &Message::Digests { from, to, held });
            return;
        }
        let firsts: Vec<NodeId> =
            held.chunks(held.len().div_ceil(PARTS)).map(|part| part[0].node).collect();
        let mut stretches = Vec::with_capacity(PARTS);
        for (index, first) in firsts.iter().enumerate() {
            // The ends belong to the first and the last part.
            let from = if index == 0 { from } else { *first };
            let to = firsts.get(index + 1).map_or(to, |next| NodeId(next.0 - 1));
            let fingerprint = self.catalog.fingerprint_of(from, to);
            stretches.push(Stretch { from, to, fingerprint });
        }
        self.send(peer, &Message::Stretches(stretches));
    }
}
