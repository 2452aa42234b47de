//! From "did not answer" to "down": who says so, for how long, and what speaks against it.
//!
//! Lifeguard (Dadgar, Phillips, Currey 2017) §IV: suspicion begins long and shortens with each
//! independent member that suspects too. A live connection or an answered probe over QUIC vetoes.

use std::{collections::BTreeSet, time::Duration};

use foca::{Incarnation, Timer};
use swarmer_model::{NodeId, wire};

use super::{
    Core, Output,
    agenda::Task,
    codec::{Row, RowState},
    peer::Peer,
    wire::Message,
};

/// Round trips in which the suspect hears of it, and its answer comes back by way of others.
const WAYS: u32 = 3;
/// At so slow a pace of probes at most, of round trips up to 266 ms, a question over QUIC has its answer
/// in its time even if there is no connection yet, and nothing of it is lost.
const DIALLED_IN_TIME: u32 = 2;
/// Accusers remembered for one suspicion; far fewer decide.
const MAX_ACCUSERS: usize = 16;

/// How many times longer than with ten members news may take to reach this many. With ten times more it
/// needs two and a half rounds of gossip more, a quarter of a second; among a few, where a member that
/// stands still for a moment weighs most, there is a second for it.
fn passing_on(members: usize) -> f64 {
    const FEW: f64 = 1.5;
    let tens = (members.max(1) as f64).log10().max(1.0);
    tens.min(FEW) + (tens - FEW).max(0.0) * 0.4
}

/// So many accusations are passed on in a second. Where more members than that seem dead at once it is
/// this node's network, or everybody's, and nobody is in a hurry.
const MAX_PASSED_ON: u32 = 64;

/// What may be passed on yet in this second.
#[derive(Default)]
pub(super) struct Allowance {
    since: Duration,
    spent: u32,
}

impl Allowance {
    fn take(&mut self, time: Duration) -> bool {
        if time.saturating_sub(self.since) >= Duration::from_secs(1) {
            *self = Self { since: time, spent: 0 };
        }
        let left = self.spent < MAX_PASSED_ON;
        self.spent += u32::from(left);
        left
    }
}

/// One member under suspicion.
pub(super) struct Suspicion {
    peer: Peer,
    incarnation: Incarnation,
    /// When we first heard of it.
    since: Duration,
    /// Other members whose own probes failed.
    accusers: BTreeSet<NodeId>,
    /// Somebody holds it for dead: a suspicion has run its course elsewhere, and no accuser more is
    /// waited for.
    declared: bool,
    /// Set once we are to decide: our own probe failed, or a member has decided already.
    own: Option<Own>,
}

struct Own {
    since: Duration,
    /// No death before this time: something vetoed.
    not_before: Duration,
    /// What the probe over QUIC said, once it did.
    confirmed: Option<bool>,
    /// When the deadline is looked at next. It moves, with who accuses and with what is known of the
    /// ways; a task of another time is of no use any more.
    look: Option<Duration>,
    /// Its time is over, but this node has heard nobody since: see [`Core::hears_again`].
    presumed: bool,
    /// It began anew already because this node had heard nobody: once, or one that seldom hears anybody
    /// would never end it.
    again: bool,
}

impl Own {
    fn since(since: Duration) -> Self {
        Self {
            since,
            not_before: Duration::ZERO,
            confirmed: None,
            look: None,
            presumed: false,
            again: false,
        }
    }
}

impl Suspicion {
    fn new(peer: Peer, incarnation: Incarnation, since: Duration) -> Self {
        Self { peer, incarnation, since, accusers: BTreeSet::new(), declared: false, own: None }
    }

    /// Why the member is suspect, for people.
    pub(super) fn reason(&self, time: Duration, verdict_time: Duration, names: &str) -> String {
        let by = if names.is_empty() { String::new() } else { format!(", reported by {names}") };
        match &self.own {
            Some(own) => {
                let silent = time.saturating_sub(own.since) + verdict_time;
                let alone = match own.presumed {
                    true => ", but no other member is heard either: this node may be cut off",
                    false => "",
                };
                format!("probe unanswered for {:.1} s{by}{alone}", silent.as_secs_f64())
            }
            None => {
                format!("suspect for {:.1} s{by}", (time.saturating_sub(self.since)).as_secs_f64())
            }
        }
    }

    pub(super) fn accusers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.accusers.iter().copied()
    }

    /// Whether fewer members said so than are waited for, and this node has not tried itself.
    pub(super) fn waits_for_witnesses(&self, confirmations: usize) -> bool {
        self.own.is_none() && !self.declared && self.accusers.len() < confirmations
    }

    pub(super) fn is_about(&self, row: &Row) -> bool {
        self.peer == row.peer && self.incarnation == row.incarnation
    }

    /// Whether it is taken for dead here, and nobody is to be told so.
    pub(super) fn is_presumed(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.presumed)
    }
}

impl Core {
    /// How long suspicion lasts with this many independent accusers besides us.
    fn suspicion_time(&self, time: Duration, accusers: usize) -> Duration {
        // What it waits for is the suspect's word, which is passed on at the pace of a LAN and is on
        // its way a few times; it does not wait for probes, which take longer the farther members are.
        let min =
            self.lan.suspicion_min.mul_f64(passing_on(self.view.active())) + self.farthest * WAYS;
        let min = min * if time < self.slow_until { 2 } else { 1 };
        // Only members besides the suspect and us can confirm.
        let wanted = self.timing.suspicion_confirmations.min(self.view.active().saturating_sub(2));
        if wanted == 0 {
            return min;
        }
        let max = min * self.timing.suspicion_max_factor;
        let share = ((accusers + 1) as f64).ln() / ((wanted + 1) as f64).ln();
        max.saturating_sub((max - min).mul_f64(share.min(1.0))).max(min)
    }

    fn deadline(&self, suspicion: &Suspicion) -> Option<Duration> {
        let own = suspicion.own.as_ref()?;
        let accusers = match suspicion.declared {
            true => usize::MAX - 1,
            false => suspicion.accusers.len(),
        };
        let mut lasts = self.suspicion_time(own.since, accusers);
        // It says nothing by another way either, and others say the same of it. Far away a dial alone may
        // take longer than that question may.
        if self.pace <= DIALLED_IN_TIME
            && own.confirmed == Some(false)
            && accusers >= self.timing.suspicion_confirmations
        {
            lasts -= (lasts - self.farthest * WAYS) / 3;
        }
        Some((own.since + lasts).max(own.not_before))
    }

    /// Our own probe failed; foca asks to declare the member down later on.
    pub(super) fn own_suspicion(&mut self, time: Duration, timer: Timer<Peer>) {
        let Timer::ChangeSuspectToDown { member_id: peer, incarnation, .. } = timer else { return };
        self.stats.probes_failed += u64::from(!self.inquiries.knows_failed(&peer));
        // Accused when its answers were late, it has had time to object until the period ended.
        let held = Row { peer, incarnation, state: RowState::Suspect };
        if self.swim.iter_membership_state().map(Row::from).any(|row| row == held) {
            self.accuse(time, peer, incarnation);
        }
    }

    /// It did not answer this node, which decides from here on; the others can confirm.
    pub(super) fn accuse(&mut self, time: Duration, peer: Peer, incarnation: Incarnation) {
        if !self.doubt(time, peer, incarnation) {
            return;
        }
        for other in self.random_peers(crate::DIRECT_FANOUT) {
            if other != peer {
                self.send(&other, &Message::Suspicion { peer, incarnation });
            }
        }
    }

    /// A member holds another for dead that lives for us: its death did not reach us, or the other has
    /// not heard yet that it came back. We see for ourselves, and accuse it before nobody.
    pub(super) fn told_of_death(&mut self, time: Duration, by: NodeId, row: &Row) {
        let Row { peer, incarnation, .. } = *row;
        self.heard_from.insert(peer.node, by);
        self.swim_rows(time, &[Row { state: RowState::Suspect, ..*row }], false);
        if self.view.doubts(&peer) == Some(incarnation) {
            let suspicion = self.suspicion_of(time, peer, incarnation);
            suspicion.accusers.insert(by);
            suspicion.declared = true;
            self.doubt(time, peer, incarnation);
            self.schedule_suspicion(peer.node);
        }
    }

    /// It is on us to decide from here on, if it was not: asks over QUIC, and tells the suspect, which
    /// can refute.
    fn doubt(&mut self, time: Duration, peer: Peer, incarnation: Incarnation) -> bool {
        let suspicion = self.suspicion_of(time, peer, incarnation);
        // Probed again while suspect, the clock that runs goes on; and a probe may have begun before the
        // member's last word.
        if suspicion.own.is_some() || (suspicion.peer, suspicion.incarnation) != (peer, incarnation)
        {
            return false;
        }
        suspicion.own = Some(Own::since(time));
        self.outputs.push_back(Output::ConfirmAlive { node: peer.node, addr: peer.addr });
        self.send(&peer, &Message::Suspicion { peer, incarnation });
        self.schedule_suspicion(peer.node);
        true
    }

    /// Another member's own probe failed. Says whether that is one accuser more of a member that may be
    /// dead.
    pub(super) fn accused(
        &mut self,
        time: Duration,
        by: NodeId,
        peer: Peer,
        incarnation: Incarnation,
    ) -> bool {
        let row = Row { peer, incarnation, state: RowState::Suspect };
        if peer.node == self.node {
            if peer == self.identity() {
                self.swim_rows(time, &[row], true);
            }
            return false;
        }
        if !self.view.knows(peer.node) || !self.may_speak_of(&peer) {
            return false;
        }
        let refuted = self.suspicions.get(&peer.node).is_some_and(|held| {
            (peer.stamp(), incarnation) < (held.peer.stamp(), held.incarnation)
        });
        if refuted {
            return false;
        }
        let known = self.suspicions.get(&peer.node).is_some_and(|held| held.is_about(&row));
        let suspicion = self.suspicion_of(time, peer, incarnation);
        let accusers = suspicion.accusers.len();
        if accusers == MAX_ACCUSERS || !suspicion.accusers.insert(by) {
            return false;
        }
        if !known {
            self.heard_from.insert(peer.node, by);
            self.swim_rows(time, &[row], true);
            // Of what was refuted, or led to a death, nothing is left: passed on it would go round for
            // ever.
            if !self.suspicions.contains_key(&peer.node) {
                return false;
            }
        }
        if accusers <= self.timing.suspicion_confirmations && self.allowance.take(time) {
            self.pass_accusation_on(by, peer, incarnation);
        }
        self.schedule_suspicion(peer.node);
        true
    }

    /// Who accuses reaches all that way, each of whom passes it on once, and of one suspicion no more
    /// accusers than count: among hundreds of members two whose probes fail seldom told each other.
    fn pass_accusation_on(&mut self, by: NodeId, peer: Peer, incarnation: Incarnation) {
        if !self.speaks(wire::SUMMARIES) {
            return;
        }
        for other in self.random_peers(crate::DIRECT_FANOUT) {
            let concerned = other.node == by || other.node == peer.node;
            if !concerned && self.understands(&other, wire::SUMMARIES) {
                self.send(&other, &Message::Accused { by, peer, incarnation });
            }
        }
    }

    /// The suspicion of this incarnation; an older one of the same node is dropped.
    fn suspicion_of(
        &mut self,
        time: Duration,
        peer: Peer,
        incarnation: Incarnation,
    ) -> &mut Suspicion {
        let fresh = || Suspicion::new(peer, incarnation, time);
        let entry = self.suspicions.entry(peer.node).or_insert_with(fresh);
        let newer = (peer.stamp(), incarnation) > (entry.peer.stamp(), entry.incarnation);
        if newer {
            *entry = fresh();
        }
        entry
    }

    /// Looks at the suspicion no later than at its deadline as that is now.
    fn schedule_suspicion(&mut self, node: NodeId) {
        let Some(at) = self.suspicions.get(&node).and_then(|s| self.deadline(s)) else { return };
        let own = self.suspicions.get_mut(&node).and_then(|s| s.own.as_mut());
        if let Some(own) = own.filter(|own| own.look.is_none_or(|held| at < held)) {
            own.look = Some(at);
            self.agenda.add(at, Task::Suspicion(node));
        }
    }

    pub(super) fn suspicion_due(&mut self, time: Duration, node: NodeId) {
        let Some(suspicion) = self.suspicions.get(&node) else { return };
        let Suspicion { peer, incarnation, .. } = *suspicion;
        let Some(deadline) = self.deadline(suspicion) else { return };
        let again = time + self.suspicion_time(time, usize::MAX - 1);
        let live = self.liveness.has_live_connection(node);
        let own = self.suspicions.get_mut(&node).and_then(|s| s.own.as_mut());
        // Of another time than the one that is kept: there is, or was, another task.
        let Some(own) = own.filter(|own| own.look.is_some_and(|at| at <= time)) else { return };
        own.look = None;
        // It hears nobody: it takes the member for dead by itself.
        let alone = !self.inquiries.heard_any_since(own.since);
        let vetoed = live || own.confirmed == Some(true);
        own.presumed = alone && deadline <= time && !vetoed;
        self.presumes |= own.presumed;
        if deadline <= time && vetoed {
            own.not_before = again;
            own.confirmed = None;
            self.stats.vetoes += 1;
            self.outputs.push_back(Output::ConfirmAlive { node, addr: peer.addr });
            // It lives: it may not have heard that it has to object.
            self.send(&peer, &Message::Suspicion { peer, incarnation });
        }
        if deadline > time || vetoed {
            return self.schedule_suspicion(node);
        }
        if alone {
            return self.sync(time);
        }
        let held = Row { peer, incarnation, state: RowState::Suspect };
        // It may have objected since; of its death foca would be convinced all the same.
        if self.swim.iter_membership_state().map(Row::from).any(|row| row == held) {
            self.swim_rows(time, &[Row { state: RowState::Down, ..held }], true);
        }
        self.gossip_now(time);
        self.gossip_now(time);
    }

    /// A member is heard after a time in which this node heard nobody: it was cut off, or all were dead
    /// and one came back. Who lives can object from here on. Had this node declared the deaths, or did it
    /// so now, all whom it reaches would believe them.
    pub(super) fn hears_again(&mut self, time: Duration, deaf_since: Duration) {
        let mut again = Vec::new();
        for suspicion in self.suspicions.values_mut() {
            let (peer, incarnation) = (suspicion.peer, suspicion.incarnation);
            let anew = |own: &&mut Own| own.presumed || own.since >= deaf_since && !own.again;
            if let Some(own) = suspicion.own.as_mut().filter(anew) {
                // The question over QUIC went nowhere either.
                *own = Own { again: !own.presumed, ..Own::since(time) };
                again.push((peer, incarnation));
            }
        }
        self.presumes = false;
        if again.is_empty() {
            return;
        }
        self.sync(time);
        for (peer, incarnation) in again {
            self.outputs.push_back(Output::ConfirmAlive { node: peer.node, addr: peer.addr });
            self.send(&peer, &Message::Suspicion { peer, incarnation });
            self.schedule_suspicion(peer.node);
        }
    }

    /// What the probe over QUIC said; a failed or late one is `false`.
    pub fn confirmed(&mut self, now: Duration, node: NodeId, alive: bool) {
        let time = self.time(now);
        let Some(suspicion) = self.suspicions.get_mut(&node) else { return };
        let peer = suspicion.peer;
        let Some(own) = suspicion.own.as_mut() else { return };
        own.confirmed = Some(alive);
        self.schedule_suspicion(node);
        // It lives and takes no datagram of ours, perhaps for a reason that it knows.
        if alive && self.farewells.is_none() {
            self.start_exchange(time, peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspicion_grows_slowly_with_the_number_of_members() {
        for (members, expected) in [(1, 1.0), (10, 1.0), (31, 1.49), (100, 1.7), (10_000, 2.5)] {
            let times = passing_on(members);
            assert!((times - expected).abs() < 0.01, "{members} members: {times}");
        }
    }
}
