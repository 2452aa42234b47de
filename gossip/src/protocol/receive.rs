//! What datagrams do.

use std::{net::SocketAddr, time::Duration};

use swarmer_model::{NodeId, wire};

use super::{
    Core, Output, Twin,
    codec::{Brief, Inspected, Row, RowState, mentions},
    peer::Peer,
    wire::{Message, WANTS_PER_DATAGRAM},
};
use crate::{Merge, Opened, Record, Refusal, SignedRecord, envelope};

/// Who heard nobody for so many times as a probe may take was cut off; no longer than a suspicion lasts, which
/// else ends in what was a silence of its own.
const DEAF_PROBES: u32 = 2;

impl Core {
    /// Takes a datagram. What is refused changes nothing but the counters.
    pub fn datagram(&mut self, now: Duration, from: SocketAddr, bytes: &[u8]) {
        self.stats.datagrams_in += 1;
        if self.farewells.is_some() {
            return;
        }
        if envelope::is_brief(bytes) && !self.speaks(wire::BRIEF) {
            return self.refuse(Some(from), None, Refusal::Version);
        }
        match self.envelope.open(bytes, &*self.admission) {
            Ok(opened) => {
                let time = self.time(now);
                let sender = opened.sender;
                if opened.addressed {
                    let before = self.inquiries.heard(time, sender).unwrap_or_default();
                    if self.presumes || time > before + self.verdict_time() * DEAF_PROBES {
                        self.hears_again(time, before);
                    }
                }
                if let Err(reason) = self.take(time, from, opened) {
                    self.refuse(Some(from), Some(sender), reason);
                }
            }
            Err((reason, sender)) => self.refuse(Some(from), sender, reason),
        }
    }

    fn take(&mut self, time: Duration, from: SocketAddr, opened: Opened) -> Result<(), Refusal> {
        let sender = opened.sender;
        let message = Message::decode(&opened.payload).ok_or(Refusal::Malformed)?;
        let is_sender = |peer: &Peer| peer.node == sender && peer.boot == opened.boot;
        if !opened.addressed {
            // Can be replayed to anyone: it gets an answer, to a member, and changes nothing.
            return match message {
                Message::Join(peer) if is_sender(&peer) => {
                    let own = self.identity();
                    self.send(&peer, &Message::Welcome(own));
                    Ok(())
                }
                _ => Err(Refusal::NotForUs),
            };
        }
        match message {
            Message::Swim(data) => self.take_swim(time, &opened, &data)?,
            Message::Brief(data) => {
                if !self.speaks(wire::BRIEF) {
                    return Err(Refusal::Malformed);
                }
                let src = (sender, opened.boot);
                let data = Brief::whole(&data, src, &self.identity());
                self.take_swim(time, &opened, &data.map_err(|_| Refusal::Malformed)?)?;
            }
            Message::Welcome(peer) => {
                if !is_sender(&peer) {
                    return Err(Refusal::Malformed);
                }
                if self.may_speak_of(&peer) {
                    self.announce_to(time, peer);
                    self.sync(time);
                    self.start_exchange(time, peer);
                }
            }
            Message::Records { hot, records } => {
                for signed in records {
                    if let Some(merge) = self.take_record(time, Some(from), signed)
                        && hot
                    {
                        self.add_rumour(time, &merge);
                    }
                }
            }
            Message::Notice(digests) => {
                let news = digests.iter().any(|d| {
                    d.node != self.node
                        && self.is_admitted(d.node)
                        && self.catalog.is_newer(d.node, (d.boot, d.version))
                });
                if news && let Some(peer) = self.view.peer(sender) {
                    self.start_exchange(time, peer);
                }
            }
            Message::Digests { from: first, to, held } => {
                let Some(peer) = self.view.peer(sender) else { return Ok(()) };
                let (ours, theirs) = self.catalog.compare(first, to, &held);
                self.answer_with(&peer, &ours);
                let mut want: Vec<NodeId> = theirs
                    .into_iter()
                    .filter(|n| *n != self.node && self.is_admitted(*n))
                    .collect();
                want.truncate(WANTS_PER_DATAGRAM);
                if !want.is_empty() {
                    self.send(&peer, &Message::Want(want));
                }
            }
            Message::Want(nodes) => {
                if let Some(peer) = self.view.peer(sender) {
                    self.answer_with(&peer, &nodes);
                }
            }
            Message::Suspicion { peer, incarnation } => {
                if self.accused(time, sender, peer, incarnation) {
                    self.bear_witness(time, peer, incarnation);
                }
            }
            Message::Accused { by, peer, incarnation } => {
                if !self.speaks(wire::SUMMARIES) {
                    return Err(Refusal::Malformed);
                }
                if self.is_admitted(by) && self.view.knows(by) {
                    self.accused(time, by, peer, incarnation);
                }
            }
            Message::Echo(number) => self.answer_echo(sender, number)?,
            Message::Echoed { number, coordinate } => {
                self.take_echo(time, (sender, opened.boot), number, &coordinate)?;
            }
            Message::Summary { members, records } => {
                self.take_summary(time, sender, members, records)?;
            }
            Message::Stretches(stretches) => self.take_stretches(sender, &stretches)?,
            // Only ever sent to an address.
            Message::Join(_) => return Err(Refusal::Malformed),
        }
        Ok(())
    }

    fn take_swim(&mut self, time: Duration, opened: &Opened, data: &[u8]) -> Result<(), Refusal> {
        let keep = |row: &Row| self.may_speak_of(&row.peer) && !self.knows_that_lives(row);
        let inspected = Inspected::read(data, keep).map_err(|_| Refusal::Malformed)?;
        let src = inspected.src;
        if src.node != opened.sender || src.boot != opened.boot {
            return Err(Refusal::Malformed);
        }
        if inspected.third.is_some_and(|third| !self.may_speak_of(&third)) {
            return Err(Refusal::NotAdmitted);
        }
        if !self.may_speak_of(&src) {
            return Err(Refusal::TooManySenders);
        }
        // Most of what is passed on is known by then, and to look at every member for it would be
        // most of what a node does in a large cluster.
        let news = inspected.rows.iter().any(|row| !self.view.shows(row))
            || !self.view.has_alive(&src, inspected.incarnation);
        for row in inspected.rows.iter().filter(|row| news && row.state != RowState::Alive) {
            self.heard_from.insert(row.peer.node, src.node);
        }
        if let Some(third) = inspected.third.filter(|_| inspected.third_answered) {
            self.inquiries.probe_is_over(third.node);
        }
        self.swim_data(time, inspected.rewritten.as_deref().unwrap_or(data));
        if news {
            let rows = inspected.rows.iter().map(|row| row.peer.node);
            let told_of: Vec<NodeId> = rows.chain([src.node]).collect();
            self.sync_of(time, &told_of);
            if mentions(&inspected.rows, self.node) {
                self.view.set_identity(self.identity());
            }
        }
        Ok(())
    }

    /// Merges a record. Returns whose it is if it was news.
    pub(super) fn take_record(
        &mut self,
        time: Duration,
        from: Option<SocketAddr>,
        signed: SignedRecord,
    ) -> Option<Merge> {
        // Our own comes back to us from others; only a copy of this node can make another one.
        if signed.head().is_ok_and(|(node, _)| node == self.node)
            && let Ok(record) = signed.read()
        {
            self.look_for_twin(&record, &signed);
            return None;
        }
        match self.catalog.merge(signed, &*self.admission, &*self.verifier) {
            Ok(None) => None,
            Ok(Some(merge)) => {
                self.merged(time, &merge);
                Some(merge)
            }
            Err((reason, node)) => {
                self.refuse(from, node, reason);
                None
            }
        }
    }

    /// A record in this node's name that this node did not make: of a later start, of this one from
    /// another place, or of this one and later than its last.
    fn look_for_twin(&mut self, record: &Record, signed: &SignedRecord) {
        let boot = self.identity().boot;
        let addr = record.facts.addresses.first().copied();
        let elsewhere = addr.is_some_and(|addr| addr != self.advertise);
        let of_another = elsewhere || self.local.is_before(record.version);
        if (record.boot > boot || record.boot == boot && of_another)
            && signed.is_by(self.node, self.cluster, &*self.verifier)
        {
            self.outputs.push_back(Output::Twin(Twin { boot: record.boot, addr }));
        }
    }

    fn merged(&mut self, time: Duration, merge: &Merge) {
        self.view.touch();
        let record = &merge.record;
        if !record.left {
            return;
        }
        // A farewell travels as a record; each node draws the conclusion by itself, so that
        // nobody sees a death before the farewell.
        let active = self
            .swim
            .iter_members()
            .find(|m| m.id().node == record.node && m.id().boot <= record.boot)
            .map(Row::from);
        match active {
            Some(row) => self.swim_rows(time, &[Row { state: RowState::Down, ..row }], false),
            None => self.sync(time),
        }
    }
}
