//! How records travel: straight to as many as we reach at once, then passed on as rumours
//! (Demers et al. 1987), and repaired by digests.

use std::time::Duration;

use rand::RngExt;
use swarmer_model::NodeId;

use super::{
    Core,
    agenda::Task,
    peer::Peer,
    wire::{DIGESTS_PER_DATAGRAM, Message, RECORDS_ROOM},
};
use crate::{DIRECT_FANOUT, Digest, MAX_DIGEST_ANSWER_DATAGRAMS, MAX_RUMOURS, Merge, SignedRecord};

struct Rumour {
    node: NodeId,
    rounds: u32,
}

/// Records that are news, each with the rounds for which it still is.
#[derive(Default)]
pub(super) struct Rumours {
    items: Vec<Rumour>,
    scheduled: bool,
}

impl Core {
    /// So many active members by chance, or fewer if one of them is on its way out.
    pub(super) fn random_peers(&mut self, wanted: usize) -> Vec<Peer> {
        let mut peers = self.view.some_active(&mut self.rng, wanted);
        peers.retain(|peer| self.admission.admitted(peer.node));
        peers
    }

    /// A record is news: pass it on for a few rounds.
    pub(super) fn add_rumour(&mut self, time: Duration, merge: &Merge) {
        let node = merge.record.node;
        // Those that the origin reached at once repair its losses within two rounds. In a larger
        // cluster the news has to multiply on its way to the rest: each passes it on from when it
        // hears of it, and with nine copies by each one of 8,000 hears of it only by a summary
        // (e^-9), however many they are.
        // What is not urgent goes out once: one of twenty then hears of it by a summary, seconds later,
        // and where members stand is all that a cluster at rest has to tell.
        let rounds = match self.view.active() > DIRECT_FANOUT + 1 {
            _ if !merge.is_urgent() => 1,
            true => 3,
            false => 2,
        };
        let items = &mut self.rumours.items;
        if let Some(rumour) = items.iter_mut().find(|rumour| rumour.node == node) {
            rumour.rounds = rumour.rounds.max(rounds);
        } else if items.len() < MAX_RUMOURS {
            items.push(Rumour { node, rounds });
        } else {
            return;
        }
        if !self.rumours.scheduled {
            self.rumours.scheduled = true;
            self.agenda.add(time + self.timing.gossip_interval, Task::Spread);
        }
    }

    pub(super) fn spread_rumours(&mut self, time: Duration) {
        let nodes: Vec<NodeId> = self.rumours.items.iter().map(|rumour| rumour.node).collect();
        let targets = self.random_peers(self.timing.gossip_fanout);
        self.send_records(&nodes, &targets, true);
        for rumour in &mut self.rumours.items {
            rumour.rounds -= 1;
        }
        self.rumours.items.retain(|rumour| rumour.rounds > 0);
        self.rumours.scheduled = !self.rumours.items.is_empty();
        if self.rumours.scheduled {
            self.agenda.add(time + self.timing.gossip_interval, Task::Spread);
        }
    }

    /// Sends these nodes' records, as many to a datagram as fit; of those too large for one goes
    /// a notice.
    pub(super) fn send_records(&mut self, nodes: &[NodeId], targets: &[Peer], hot: bool) {
        for message in self.pack(nodes, hot, usize::MAX) {
            let payload = message.encode();
            for peer in targets {
                let brief = self.may_be_brief(peer);
                self.send_payload(peer.addr, Some((peer.node, peer.boot)), &payload, brief);
            }
        }
    }

    fn pack(&self, nodes: &[NodeId], hot: bool, most: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut records: Vec<SignedRecord> = Vec::new();
        let mut room = RECORDS_ROOM;
        let mut notices: Vec<Digest> = Vec::new();
        for node in nodes {
            let (Some(signed), Some(record)) =
                (self.catalog.signed(*node), self.catalog.get(*node))
            else {
                continue;
            };
            let bytes = signed.wire_bytes();
            if bytes > RECORDS_ROOM {
                notices.push(Digest { node: *node, boot: record.boot, version: record.version });
                continue;
            }
            if bytes > room {
                let records = std::mem::take(&mut records);
                messages.push(Message::Records { hot, records });
                room = RECORDS_ROOM;
            }
            room -= bytes;
            records.push((**signed).clone());
        }
        if !records.is_empty() {
            messages.push(Message::Records { hot, records });
        }
        messages.extend(notices.chunks(DIGESTS_PER_DATAGRAM).map(|c| Message::Notice(c.to_vec())));
        messages.truncate(most);
        messages
    }

    /// All that we hold, or a random stretch of it if that is too much for a datagram.
    pub(super) fn some_digests(&mut self) -> Message {
        let all = self.catalog.len();
        if all <= DIGESTS_PER_DATAGRAM {
            let held = self.catalog.digests(NodeId(0)).collect();
            return Message::Digests { from: NodeId(0), to: NodeId(u64::MAX), held };
        }
        // As often before the first as behind the last: or the first would hardly ever be in it.
        let before = DIGESTS_PER_DATAGRAM - 1;
        let skip = self.rng.random_range(0..all + before).saturating_sub(before);
        let held: Vec<Digest> =
            self.catalog.digests(NodeId(0)).skip(skip).take(DIGESTS_PER_DATAGRAM).collect();
        let of = |digest: Option<&Digest>| digest.map(|digest| digest.node);
        // The ends belong to the first and the last stretch.
        let from = of(held.first()).filter(|_| skip > 0).unwrap_or(NodeId(0));
        let to = of(held.last()).filter(|_| held.len() == DIGESTS_PER_DATAGRAM);
        Message::Digests { from, to: to.unwrap_or(NodeId(u64::MAX)), held }
    }

    /// Answers a request for records, a few datagrams at most.
    pub(super) fn answer_with(&mut self, peer: &Peer, nodes: &[NodeId]) {
        for message in self.pack(nodes, false, MAX_DIGEST_ANSWER_DATAGRAMS) {
            self.send(peer, &message);
        }
    }
}
