//! What is to come of members that do not answer, and asking out of turn whether one lives, when something
//! else than a probe says that it may not.
//!
//! Among many members a probe comes to a dead one late: the first of all after a period at the
//! mean. The transport hears of its peers when it asks them, so that it may know of a silence
//! sooner; but its packets may wait behind others' work. What it says is a reason to ask, no more.

use std::{collections::BTreeMap, time::Duration};

use rand::RngExt;
use swarmer_model::{NodeId, wire};

use super::{
    Core,
    agenda::Task,
    codec::{Row, RowState},
    peer::Peer,
};

/// Members that are asked at one time. Where more fall silent at once it is this node's network, or
/// everybody's, and nobody is in a hurry.
const MAX_INQUIRIES: usize = 32;

/// So many others are asked beside it, by whose answers this node knows that it can hear at all.
const BESIDE: usize = 2;

/// Where more members than that are suspect at once nobody asks as a witness either.
const MAX_SUSPECTS: usize = 8;

/// Of those who are told of a failed probe by whom it failed, so many at the mean ask at once: that two
/// of them do is then all but sure.
const ASKED_AT_ONCE: usize = 6;

struct Inquiry {
    peer: Peer,
    /// What it says of itself after this was asked speaks for it.
    incarnation: u16,
    at: Duration,
    /// When it is looked at next. A task of another time is of an inquiry before this one.
    due: Duration,
    /// It was asked twice.
    again: bool,
    /// It is a probe that asked, and now others do.
    probes: bool,
}

/// Who is being asked.
#[derive(Default)]
pub(super) struct Inquiries {
    asked: BTreeMap<NodeId, Inquiry>,
    /// When any member was heard last.
    heard_at: Option<Duration>,
    /// When SWIM's last probe began.
    probe_began: Duration,
    /// Whose probe it was, if it has failed: SWIM says so once more when its period ends.
    failed: Option<Peer>,
}

impl Inquiries {
    /// A member said something, whatever it is: it lives. Gives when any was heard before.
    pub(super) fn heard(&mut self, time: Duration, node: NodeId) -> Option<Duration> {
        self.asked.remove(&node);
        self.heard_at.replace(time)
    }

    /// What comes of the probe of a member is known otherwise: another one has heard it, by way of whom it was
    /// probed, or SWIM was sooner.
    pub(super) fn probe_is_over(&mut self, node: NodeId) {
        if self.asked.get(&node).is_some_and(|inquiry| inquiry.probes) {
            self.asked.remove(&node);
        }
    }

    /// SWIM says that a probe failed. Whether that was known.
    pub(super) fn knows_failed(&mut self, peer: &Peer) -> bool {
        self.probe_is_over(peer.node);
        self.failed.take().is_some_and(|failed| failed == *peer)
    }

    /// SWIM probes the next one, and has said of the last one what it had to say.
    pub(super) fn next_probe(&mut self, time: Duration) {
        (self.probe_began, self.failed) = (time, None);
    }

    /// Whether any member said anything after `at`.
    pub(super) fn heard_any_since(&self, at: Duration) -> bool {
        self.heard_at.is_some_and(|heard| heard > at)
    }
}

impl Core {
    /// Asks a member at once, out of turn, as the caller has not heard from it for longer than it should
    /// have. One that says nothing in the time of a probe, asked twice, is suspect as after a failed
    /// probe, if anybody else is heard meanwhile: then all can avoid it, and it can object.
    pub fn look_into(&mut self, now: Duration, node: NodeId) {
        let time = self.time(now);
        // One that stood still itself has heard from nobody.
        if self.farewells.is_some() || time < self.slow_until || !self.speaks(wire::DISTANCES) {
            return;
        }
        let Some(peer) = self.view.peer(node) else { return };
        if self.view.doubts(&peer).is_none() {
            self.inquire(time, peer);
        }
    }

    /// Another member's probe of this one failed. Who decides waits for two that say the same by what
    /// they tried themselves; their own probes would come to it after a period at the mean, so that a few
    /// of those who were told ask it at once.
    pub(super) fn bear_witness(&mut self, time: Duration, peer: Peer, incarnation: u16) {
        let told = self.view.active().saturating_sub(2).clamp(1, crate::DIRECT_FANOUT);
        let drawn = self.rng.random_range(0..told) < ASKED_AT_ONCE;
        let few = self.suspicions.len() <= MAX_SUSPECTS;
        let wanted = self.suspicions.get(&peer.node).is_some_and(|suspicion| {
            suspicion.waits_for_witnesses(self.timing.suspicion_confirmations)
        });
        let able = self.farewells.is_none()
            && time >= self.slow_until
            && self.speaks(wire::DISTANCES)
            && self.view.doubts(&peer) == Some(incarnation);
        if drawn && few && wanted && able {
            self.inquire(time, peer);
        }
    }

    fn inquire(&mut self, time: Duration, peer: Peer) {
        let node = peer.node;
        let Some(incarnation) = self.view.active_incarnation(&peer) else { return };
        let asks = self.admission.admitted(node)
            && self.understands(&peer, wire::DISTANCES)
            && self.inquiries.asked.len() < MAX_INQUIRIES
            && !self.inquiries.asked.contains_key(&node);
        if asks {
            let due = time + self.patience() / 4;
            let inquiry = Inquiry { peer, incarnation, at: time, due, again: false, probes: false };
            self.inquiries.asked.insert(node, inquiry);
            self.send_echo(time, peer, false);
            for other in self.random_peers(BESIDE) {
                if other != peer && self.understands(&other, wire::DISTANCES) {
                    self.send_echo(time, other, false);
                }
            }
            self.agenda.add(due, Task::Inquiry(node));
        }
    }

    /// A probe has no direct answer, and others are asked. Without theirs the member is suspect; SWIM waits until
    /// the period ends, in which nothing more can come.
    pub(super) fn probe_waits(&mut self, time: Duration, peer: Peer) {
        // One that stood still itself leaves it to SWIM, which waits for the end of the period.
        if time < self.slow_until {
            return;
        }
        let Some(incarnation) = self.view.active_incarnation(&peer) else { return };
        let due = time + self.indirect_patience(time, peer.node);
        let asked = &self.inquiries.asked;
        // One that is asked out of turn, and once as yet, is to be asked again.
        let ends = |held: &Inquiry| match held.again {
            true => held.due,
            false => held.due + self.patience(),
        };
        // SWIM itself says so later.
        let full = asked.len() >= MAX_INQUIRIES;
        if full || asked.get(&peer.node).is_some_and(|held| ends(held) <= due) {
            return;
        }
        let inquiry = Inquiry { peer, incarnation, at: time, due, again: true, probes: true };
        self.inquiries.asked.insert(peer.node, inquiry);
        self.agenda.add(due, Task::Inquiry(peer.node));
    }

    /// Whether there are but two members, so that nobody else can be asked, and nothing was heard of the other
    /// one since the probe began.
    pub(super) fn hears_not_the_only_one(&self) -> bool {
        self.view.active() == 2 && !self.inquiries.heard_any_since(self.inquiries.probe_began)
    }

    /// How long an answer may take over the ways as they are.
    fn patience(&self) -> Duration {
        self.lan.probe_timeout * self.pace
    }

    pub(super) fn inquiry_due(&mut self, time: Duration, node: NodeId) {
        let next = time + self.patience();
        let inquiry = self.inquiries.asked.get_mut(&node).filter(|inquiry| inquiry.due <= time);
        let Some(inquiry) = inquiry else { return };
        let (peer, incarnation, at) = (inquiry.peer, inquiry.incarnation, inquiry.at);
        let probes = inquiry.probes;
        if !inquiry.again {
            (inquiry.again, inquiry.due) = (true, next);
            self.send_echo(time, peer, false);
            self.agenda.add(next, Task::Inquiry(node));
            return;
        }
        self.inquiries.asked.remove(&node);
        // Who hears nobody is cut off itself, and leaves it to its probes to say of whom.
        if !probes && !self.inquiries.heard_any_since(at) && self.view.active() > 2 {
            return;
        }
        // Not one that has objected since, by way of others: the way from here to it may be bad, and that of
        // each who asks likewise.
        let unheard = |row: &Row| {
            (row.peer, row.incarnation) == (peer, incarnation) && row.state != RowState::Down
        };
        let Some(row) = self.swim.iter_membership_state().map(Row::from).find(unheard) else {
            return;
        };
        if probes {
            self.stats.probes_failed += 1;
            self.inquiries.failed = Some(peer);
        } else {
            self.stats.inquiries_failed += 1;
        }
        if row.state == RowState::Alive {
            self.swim_rows(time, &[Row { state: RowState::Suspect, ..row }], true);
        }
        if self.view.doubts(&peer) == Some(row.incarnation) {
            self.accuse(time, peer, row.incarnation);
        }
    }
}
