//! The ways into foca and out of it.

use std::{
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use foca::{OwnedNotification, PeriodicParams, Timer};
use swarmer_model::NodeId;

use super::{
    Core,
    agenda::Task,
    codec::{Brief, Row, RowState, is_ping},
    peer::Peer,
    wire::{Message, SWIM_ROOM},
};
use crate::Timing;

fn at_least_one(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN)
}

/// foca's configuration for a cluster of this many members.
pub(super) fn swim_config(timing: &Timing, members: usize) -> foca::Config {
    // SWIM §4.1: λ·log(n) transmissions reach all but a share of e^-transmissions. λ is 4, and three more
    // are for small clusters, where else one death of thirty stays unheard of by somebody for seconds.
    let transmissions = ((4.0 * ((members + 1) as f64).log10()).ceil() as u8 + 3).max(6);
    foca::Config {
        probe_period: timing.probe_period,
        probe_rtt: timing.probe_timeout,
        num_indirect_probes: at_least_one(timing.indirect_probes),
        max_transmissions: NonZeroU8::new(transmissions).unwrap_or(NonZeroU8::MIN),
        // Never counted: the core holds these timers itself, see `suspicion`.
        suspect_to_down_after: timing.probe_period,
        remove_down_after: Some(timing.forget_down_after),
        max_packet_size: at_least_one(SWIM_ROOM),
        notify_down_members: true,
        // Push/pull finds more, but needs streams; this needs only what probes need too.
        periodic_announce: Some(PeriodicParams {
            frequency: timing.push_pull_interval,
            num_members: NonZeroUsize::MIN,
        }),
        periodic_announce_to_down_members: Some(PeriodicParams {
            frequency: timing.announce_to_down_interval,
            num_members: at_least_one(timing.announce_to_down_members),
        }),
        periodic_gossip: Some(PeriodicParams {
            frequency: timing.gossip_interval,
            num_members: at_least_one(timing.gossip_fanout),
        }),
    }
}

/// Of so many members what changed is looked up; of more all are looked at.
const FEW: usize = 32;

/// Down members greeted at once after this node came back under a new identity.
const GREETED_ON_RETURN: usize = 32;

impl Core {
    pub(super) fn swim_timer(&mut self, time: Duration, timer: Timer<Peer>) {
        let ends = matches!(timer, Timer::ChangeSuspectToDown { .. } | Timer::RemoveDown(_));
        let late = match &timer {
            Timer::SendIndirectProbe { probed_id, .. } => Some(*probed_id),
            _ => None,
        };
        let result = self.swim.handle_timer(timer, &mut self.effects);
        // All that foca does then is to ask others.
        let asks_others = self.effects.backlog() > 0;
        // Most timers only send: looking at every member ten times a second would be most of
        // what a node at rest does.
        if self.after_swim(time, result) || ends {
            self.sync(time);
        }
        if let Some(peer) = late
            && (asks_others || self.hears_not_the_only_one())
        {
            self.probe_waits(time, peer);
        }
    }

    pub(super) fn swim_data(&mut self, time: Duration, data: &[u8]) {
        let result = self.swim.handle_data(data, &mut self.effects);
        self.after_swim(time, result);
    }

    pub(super) fn swim_rows(&mut self, time: Duration, rows: &[Row], pass_on: bool) {
        let members = rows.iter().map(|row| foca::Member::from(*row));
        let result = self.swim.apply_many(members, pass_on, &mut self.effects);
        self.after_swim(time, result);
        if rows.len() > FEW {
            return self.sync(time);
        }
        let nodes: Vec<NodeId> = rows.iter().map(|row| row.peer.node).collect();
        self.sync_of(time, &nodes);
    }

    pub(super) fn announce_to(&mut self, time: Duration, peer: Peer) {
        let result = self.swim.announce(peer, &mut self.effects);
        self.after_swim(time, result);
    }

    /// Tells a few members at once what the next rounds of gossip tell the rest.
    pub(super) fn gossip_now(&mut self, time: Duration) {
        let result = self.swim.gossip(&mut self.effects);
        self.after_swim(time, result);
    }

    /// Whether a statement about this peer may be believed at all. About ourselves only what
    /// concerns our present identity matters.
    pub(super) fn may_speak_of(&self, peer: &Peer) -> bool {
        if peer.node == self.node {
            return *peer == self.identity();
        }
        self.admission.admitted(peer.node) && (self.view.knows(peer.node) || self.view.has_room())
    }

    /// Whether the row says of a member that it lives, which foca knows already. To have it find that out is
    /// a walk over its list for each row, and nearly all rows are such.
    pub(super) fn knows_that_lives(&self, row: &Row) -> bool {
        row.state == RowState::Alive && self.view.has_alive(&row.peer, row.incarnation)
    }

    /// What this node would say about every member, itself included and those that are down.
    pub(super) fn rows(&self) -> Vec<Row> {
        let own = Row { peer: self.identity(), incarnation: 0, state: RowState::Alive };
        self.swim
            .iter_membership_state()
            .map(Row::from)
            .filter(|row| self.admission.admitted(row.peer.node))
            .chain([own])
            .collect()
    }

    /// Carries out what foca wants. Says whether a member may have changed.
    ///
    /// A suspect that is probed hears that it is one (Lifeguard §IV.C, the buddy system): the news
    /// of it may have been lost, and only the suspect itself can end a suspicion that somebody
    /// vetoed or whose accuser is gone.
    fn after_swim(&mut self, time: Duration, result: Result<(), foca::Error>) -> bool {
        let mut changed = false;
        if let Err(error) = result {
            tracing::debug!(target: "swarmer::gossip", %error, "swim");
        }
        while let Some((peer, data)) = self.effects.to_send() {
            // A removed member may still stand in foca's list until it is forgotten there.
            if self.admission.admitted(peer.node) {
                let doubted = self.view.doubts(&peer).filter(|_| is_ping(&data));
                self.send_swim(&peer, &data);
                if let Some(incarnation) = doubted {
                    self.send(&peer, &Message::Suspicion { peer, incarnation });
                }
            }
        }
        changed |= self.take_timers(time);
        let mut risen: Vec<Peer> = Vec::new();
        let mut returned = false;
        while let Some(notification) = self.effects.to_notify() {
            changed = true;
            match notification {
                OwnedNotification::MemberUp(peer) => risen.push(peer),
                OwnedNotification::Rejoin(_) => returned = true,
                _ => {}
            }
        }
        if returned {
            self.came_back(time);
        }
        for peer in risen {
            self.greet(&peer);
        }
        if self.swim.updates_backlog() > 0
            && let Some(round) = self.gossip_round.take()
        {
            // When it would have come at the mean.
            self.agenda.add(time + self.timing.gossip_interval / 2, Task::Swim(round));
        }
        changed
    }

    fn send_swim(&mut self, peer: &Peer, data: &[u8]) {
        let brief = self.may_be_brief(peer);
        let short = if brief { Brief::of(data, &self.identity(), peer) } else { None };
        let message = short.map_or_else(|| Message::Swim(data.to_vec()), Message::Brief);
        self.send_payload(peer.addr, Some((peer.node, peer.boot)), &message.encode(), brief);
    }

    /// Puts foca's timers on the agenda. Says whether a suspicion began.
    pub(super) fn take_timers(&mut self, time: Duration) -> bool {
        let mut suspected = false;
        while let Some((after, timer)) = self.effects.to_schedule() {
            match timer {
                Timer::ChangeSuspectToDown { .. } => {
                    suspected = true;
                    self.own_suspicion(time, timer);
                }
                Timer::RemoveDown(peer) => {
                    self.forget.insert(peer.node, (time + after, peer));
                }
                // With nothing to tell it would wake a node at rest ten times a second.
                Timer::PeriodicGossip(_) if self.swim.updates_backlog() == 0 => {
                    self.gossip_round = Some(timer);
                }
                other => {
                    if matches!(other, Timer::SendIndirectProbe { .. }) {
                        self.inquiries.next_probe(time);
                    }
                    let due = time + self.paced(after, &other);
                    self.agenda.add(due, Task::Swim(other));
                }
            }
        }
        suspected
    }

    /// Others had declared us down and we took a new identity. Those that we in turn hold for
    /// down must hear of it, or a healed partition stays one.
    fn came_back(&mut self, time: Duration) {
        let down: Vec<Peer> = self
            .swim
            .iter_membership_state()
            .filter(|member| member.state() == foca::State::Down)
            .map(|member| *member.id())
            .filter(|peer| peer.node != self.node)
            .take(GREETED_ON_RETURN)
            .collect();
        for peer in down {
            let result = self.swim.announce(peer, &mut self.effects);
            if let Err(error) = result {
                tracing::debug!(target: "swarmer::gossip", %error, "swim");
            }
        }
        self.view.set_identity(self.identity());
        // Sends what the announcements produced; notifications of them cannot be returns again.
        self.after_swim(time, Ok(()));
    }

    /// A member appeared: it gets our record, and we want its own.
    fn greet(&mut self, peer: &Peer) {
        if !self.admission.admitted(peer.node) {
            return;
        }
        self.send_records(&[self.node], &[*peer], false);
        if self.catalog.is_newer(peer.node, (peer.boot, 1)) {
            self.send(peer, &Message::Want(vec![peer.node]));
        }
    }

    /// Brings the view up to what foca holds.
    pub(super) fn sync(&mut self, time: Duration) {
        let before = self.view.fingerprint();
        let mut present = Vec::with_capacity(self.view.len());
        let (mut rows, mut expelled) = (Vec::new(), Vec::new());
        for row in self.swim.iter_membership_state().map(Row::from) {
            let node = row.peer.node;
            if node == self.node {
                continue;
            }
            if !self.admission.admitted(node) {
                expelled.push(row);
                continue;
            }
            present.push(node);
            // Of nearly all there is nothing more to say.
            let as_shown = row.state == RowState::Alive
                && self.view.has_alive(&row.peer, row.incarnation)
                && !self.suspicions.contains_key(&node);
            if !as_shown {
                rows.push(row);
            }
        }
        rows.iter().for_each(|row| self.see(time, row));
        // All that are present are shown by now.
        if present.len() < self.view.len() {
            present.sort_unstable();
            for node in self.view.retain(&present) {
                self.catalog.remove(node);
                self.envelope.forget(node);
                self.suspicions.remove(&node);
                self.forget_distance(node);
            }
        }
        self.synced(time, before);
        self.expel(time, &expelled);
    }

    /// The same of what foca was just told of these members alone. It keeps a list without an index,
    /// so that one walk over it is for all of them.
    pub(super) fn sync_of(&mut self, time: Duration, nodes: &[NodeId]) {
        let told = |row: &Row| nodes.contains(&row.peer.node) && row.peer.node != self.node;
        let rows: Vec<Row> =
            self.swim.iter_membership_state().map(Row::from).filter(told).collect();
        if rows.iter().any(|row| !self.admission.admitted(row.peer.node)) {
            return self.sync(time);
        }
        let before = self.view.fingerprint();
        rows.iter().for_each(|row| self.see(time, row));
        self.synced(time, before);
        debug_assert!(self.shows_all_that_live(), "the view missed what foca was told");
    }

    fn shows_all_that_live(&self) -> bool {
        self.swim.iter_membership_state().map(Row::from).all(|row| {
            row.state != RowState::Alive
                || row.peer.node == self.node
                || !self.admission.admitted(row.peer.node)
                || self.view.has_alive(&row.peer, row.incarnation)
        })
    }

    /// Members that are not admitted any more are given up by foca, too.
    fn expel(&mut self, time: Duration, rows: &[Row]) {
        let live = rows.iter().filter(|row| row.state != RowState::Down);
        let down: Vec<foca::Member<Peer>> =
            live.map(|row| Row { state: RowState::Down, ..*row }.into()).collect();
        if !down.is_empty() {
            let result = self.swim.apply_many(down.into_iter(), false, &mut self.effects);
            self.after_swim(time, result);
        }
    }

    fn synced(&mut self, time: Duration, fingerprint_before: u64) {
        debug_assert!(self.view.adds_up(), "the sums of the view are not those of its entries");
        self.heard_from.clear();
        if self.view.fingerprint() != fingerprint_before {
            self.agreement.moved(time);
        }
        self.fit_to_size();
    }

    /// foca counts its transmissions by the number of members.
    pub(super) fn fit_to_size(&mut self) {
        if self.view.size_changed() {
            let config = swim_config(&self.lan, self.view.active());
            if let Err(error) = self.swim.set_config(config) {
                tracing::debug!(target: "swarmer::gossip", %error, "swim");
            }
        }
    }
}
