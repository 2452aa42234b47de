//! Measuring the ways to the others: a question to one member now and then, whose answer also
//! says where that one stands.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use rand::{RngExt, seq::IndexedRandom};
use swarmer_model::{NodeId, wire};

use super::{Core, agenda::Task, peer::Peer, wire::Message};
use crate::{Coordinate, Distances, Locator, MAX_ROUND_TRIP, Refusal};

/// Questions that wait for an answer; of those that measure, one a second, none is dropped before its
/// answer is late.
const MAX_WAITING: usize = 16;
/// Round trips measured quickly, until this node knows where it stands; it goes on slowly.
const QUICK: u64 = 200;
/// Of so many members at random the one that was measured longest ago is asked: in a small
/// cluster all of them are measured in turn.
const CANDIDATES: usize = 4;
/// Of all members together one tells where it stands about so often: each record is passed on to all,
/// and a thousand that have just met would do little else for minutes.
const TOLD_APART: Duration = Duration::from_millis(200);

/// How often one of so many members tells where it stands, at most.
fn told_every(interval: Duration, members: usize) -> Duration {
    interval.max(TOLD_APART.saturating_mul(u32::try_from(members).unwrap_or(u32::MAX)))
}

struct Asked {
    /// Nobody but the peer can know it.
    number: u64,
    peer: Peer,
    at: Duration,
    /// How long this node had stood still by then.
    stalled: Duration,
    /// Whether the answer is to say how long the way is. That of one which was silent before it was asked
    /// says how long it stood still.
    measures: bool,
}

#[derive(Default)]
pub(super) struct Echoes {
    waiting: VecDeque<Asked>,
    locator: Locator,
    cached: Option<Arc<Distances>>,
    /// When the last round trip was measured, as time since the start.
    measured_at: Duration,
    /// When where this node stands was last a reason to send its record.
    told_at: Option<Duration>,
}

impl Echoes {
    pub(super) fn settled(&self) -> Option<Coordinate> {
        self.locator.settled()
    }

    /// See [`Core::stand_like`].
    #[cfg(feature = "formed")]
    pub(super) fn stand_like(&mut self, now: Duration, other: &Self) {
        self.locator = other.locator.as_of(now);
        (self.measured_at, self.told_at, self.cached) = (now, None, None);
    }

    fn expire(&mut self, time: Duration) {
        self.waiting.retain(|asked| time.saturating_sub(asked.at) <= MAX_ROUND_TRIP);
    }
}

impl Core {
    /// What is known of the ways to the others. Cheap while nothing was measured.
    pub fn distances(&mut self) -> Arc<Distances> {
        let Echoes { locator, cached, measured_at, .. } = &mut self.echoes;
        cached.get_or_insert_with(|| Arc::new(locator.distances(*measured_at))).clone()
    }

    pub(super) fn ask_echo(&mut self, time: Duration) {
        let settled = self.echoes.locator.updates() >= QUICK;
        let interval = match settled {
            true => self.timing.echo_interval_settled,
            false => self.timing.echo_interval,
        };
        let next = time + self.jittered(interval);
        self.agenda.add(next, Task::Echo);
        self.echoes.expire(time);
        if !self.speaks(wire::DISTANCES) {
            return;
        }
        let mut candidates = self.random_peers(CANDIDATES * 4);
        let able = |peer: &Peer| {
            self.admission.admitted(peer.node)
                && self.understands(peer, wire::DISTANCES)
                && self.echoes.waiting.iter().all(|asked| asked.peer.node != peer.node)
        };
        candidates.retain(able);
        candidates.truncate(CANDIDATES);
        if candidates.is_empty() {
            // Of thousands few may be new enough.
            let all: Vec<Peer> = self.view.active_peers().filter(able).collect();
            candidates.extend(all.choose(&mut self.rng));
        }
        let longest_ago = |peer: &&Peer| self.echoes.locator.measured_at(peer.node);
        let Some(peer) = candidates.iter().min_by_key(longest_ago).copied() else { return };
        self.send_echo(time, peer, true);
    }

    pub(super) fn send_echo(&mut self, time: Duration, peer: Peer, measures: bool) {
        let number = self.rng.random();
        if self.echoes.waiting.len() == MAX_WAITING {
            // One that measures nothing, if there is any.
            let plain = self.echoes.waiting.iter().position(|asked| !asked.measures);
            self.echoes.waiting.remove(plain.unwrap_or(0));
        }
        let asked = Asked { number, peer, at: time, stalled: self.stalled, measures };
        self.echoes.waiting.push_back(asked);
        self.send(&peer, &Message::Echo(number));
    }

    pub(super) fn answer_echo(&mut self, from: NodeId, number: u64) -> Result<(), Refusal> {
        if !self.speaks(wire::DISTANCES) {
            return Err(Refusal::Malformed);
        }
        // To where the member is known to be, wherever the datagram says that it is from.
        if let Some(peer) = self.view.peer(from) {
            let coordinate = self.anchor();
            self.send(&peer, &Message::Echoed { number, coordinate });
        }
        Ok(())
    }

    /// Where this node says that it stands when it is asked: at first where it does at that moment, so
    /// that all find their places soon, then what it told to all. That stays where it is for long, so
    /// that the others' steps lead to places that fit what they know of it, and the space does not
    /// drift: of a space that does all would have to be told anew again and again.
    fn anchor(&self) -> Coordinate {
        let told = self.local.facts().coordinate;
        let settled = self.echoes.locator.updates() >= QUICK;
        let now = self.echoes.locator.coordinate();
        // How sure it is of that is always of now.
        let anchored = |told: Coordinate| Coordinate { error: now.error, ..told };
        told.filter(|_| settled).map_or(now, anchored)
    }

    /// Takes an answer by the node with this start counter, if it is one to a question that waits.
    pub(super) fn take_echo(
        &mut self,
        time: Duration,
        from: (NodeId, u64),
        number: u64,
        theirs: &Coordinate,
    ) -> Result<(), Refusal> {
        self.echoes.expire(time);
        let asked =
            |asked: &Asked| asked.number == number && (asked.peer.node, asked.peer.boot) == from;
        let at = self.echoes.waiting.iter().position(asked).ok_or(Refusal::Unasked)?;
        let asked = self.echoes.waiting.remove(at).ok_or(Refusal::Unasked)?;
        if !theirs.is_sound() {
            return Err(Refusal::Malformed);
        }
        // This node stood still meanwhile: nobody knows for how long the answer waited.
        if !asked.measures || asked.stalled != self.stalled {
            return Ok(());
        }
        let (rtt, now) = (time.saturating_sub(asked.at), time + self.stalled);
        if self.echoes.locator.update(now, from.0, theirs, rtt, &mut self.rng) {
            self.stats.round_trips += 1;
            self.echoes.measured_at = now;
            self.echoes.cached = None;
            self.keep_pace(now);
            self.tell_coordinate(time);
        }
        Ok(())
    }

    /// Sends the record if what it says of distances is wrong by now, and not often: thousands of
    /// nodes at rest must have nothing to say.
    fn tell_coordinate(&mut self, time: Duration) {
        let interval = told_every(self.timing.publish_coordinate_interval, self.view.active());
        let told = self.local.facts().coordinate;
        let now = time + self.stalled;
        if self.echoes.told_at.is_none_or(|at| time >= at + interval)
            && self.echoes.locator.has_moved(now, told.as_ref())
        {
            self.echoes.told_at = Some(time);
            self.publish_at(time + self.timing.publish_delay, false);
        }
    }

    pub(super) fn forget_distance(&mut self, node: NodeId) {
        self.echoes.locator.forget(node);
        self.echoes.cached = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_members_the_less_each_of_them_tells_where_it_stands() {
        let secs = Duration::from_secs;
        for (members, expected) in [(1, 30), (150, 30), (300, 60), (4_096, 819)] {
            assert_eq!(told_every(secs(30), members).as_secs(), expected, "{members} members");
        }
    }
}
