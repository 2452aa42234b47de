//! What this node shows of the members.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{Rng, seq::index};
use swarmer_model::NodeId;

use super::{
    Core, Output,
    codec::{Row, RowState},
    peer::Peer,
};
use crate::{Catalog, MAX_MEMBERS, Member, MemberState, Members, Stats};

struct Entry {
    peer: Peer,
    incarnation: u16,
    state: MemberState,
    /// It is dead, if a connection to it did not say otherwise.
    held_back: bool,
    reason: Arc<str>,
    since: Duration,
    /// Of identity and incarnation, for [`View::fingerprint_without`].
    mark: u64,
}

/// Everything but `others` follows from it and is kept up with each change: a node of thousands must
/// not look at all of them for what one says.
pub(super) struct View {
    own: Entry,
    /// Behind a pointer: those who know the same may share it, see [`super::formed`].
    others: BTreeMap<NodeId, Arc<Entry>>,
    /// Others that are alive, suspect and down.
    counts: [usize; 3],
    /// Those that are alive or suspect, in no order.
    active: Vec<NodeId>,
    /// The sum of their marks.
    fingerprint: u64,
    /// How many deaths a connection holds back.
    held_back: usize,
    /// How many were active when foca's configuration was made for them.
    sized_for: usize,
    cached: Option<Arc<Members>>,
}

impl View {
    pub(super) fn new(identity: Peer) -> Self {
        let own = Entry {
            peer: identity,
            incarnation: 0,
            state: MemberState::Alive,
            held_back: false,
            reason: "this node".into(),
            since: Duration::ZERO,
            mark: 0,
        };
        Self {
            own,
            others: BTreeMap::new(),
            counts: [0; 3],
            active: Vec::new(),
            fingerprint: 0,
            held_back: 0,
            sized_for: 0,
            cached: None,
        }
    }

    fn put(&mut self, entry: Entry) {
        let (node, mark, active) = (entry.peer.node, entry.mark, entry.state.is_active());
        if let Some(count) = count_of(&mut self.counts, entry.state) {
            *count += 1;
        }
        self.held_back += usize::from(entry.held_back);
        let before = self.others.insert(node, Arc::new(entry));
        let was_active = before.as_ref().is_some_and(|before| before.state.is_active());
        if let Some(before) = &before {
            self.deduct(before);
        }
        if active {
            self.fingerprint = self.fingerprint.wrapping_add(mark);
        }
        match (was_active, active) {
            (false, true) => self.active.push(node),
            (true, false) => self.deactivate(node),
            _ => {}
        }
    }

    fn remove(&mut self, node: NodeId) {
        if let Some(before) = self.others.remove(&node) {
            self.deduct(&before);
            if before.state.is_active() {
                self.deactivate(node);
            }
            self.touch();
        }
    }

    fn deduct(&mut self, before: &Entry) {
        if let Some(count) = count_of(&mut self.counts, before.state) {
            *count -= 1;
        }
        self.held_back -= usize::from(before.held_back);
        if before.state.is_active() {
            self.fingerprint = self.fingerprint.wrapping_sub(before.mark);
        }
    }

    fn deactivate(&mut self, node: NodeId) {
        if let Some(at) = self.active.iter().position(|active| *active == node) {
            self.active.swap_remove(at);
        }
    }

    /// A view of all of these, alive since the beginning; for [`Self::of_all_but`].
    #[cfg(feature = "formed")]
    pub(super) fn of_all(peers: impl Iterator<Item = Peer>, identity: Peer) -> Self {
        let mut all = Self::new(identity);
        let reason: Arc<str> = "joined".into();
        for peer in peers {
            all.put(Entry {
                peer,
                incarnation: 0,
                state: MemberState::Alive,
                held_back: false,
                reason: reason.clone(),
                since: Duration::ZERO,
                mark: peer.mark(0),
            });
        }
        // Built in one go a map is dense.
        all.others = std::mem::take(&mut all.others).into_iter().collect();
        all
    }

    /// What one of them sees.
    #[cfg(feature = "formed")]
    pub(super) fn of_all_but(all: &Self, own: Peer) -> Self {
        let mut view = Self::new(own);
        view.others = all.others.clone();
        view.counts = all.counts;
        view.active = all.active.clone();
        view.fingerprint = all.fingerprint;
        view.remove(own.node);
        view
    }

    pub(super) fn set_identity(&mut self, identity: Peer) {
        self.own.peer = identity;
        self.touch();
    }

    pub(super) fn leave(&mut self, time: Duration) {
        self.own.state = MemberState::Left;
        self.own.reason = "this node is leaving".into();
        self.own.since = time;
        self.touch();
    }

    /// The snapshot is out of date.
    pub(super) fn touch(&mut self) {
        self.cached = None;
    }

    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.others.contains_key(&node)
    }

    /// Members besides this node, those that are down too.
    pub(super) fn len(&self) -> usize {
        self.others.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.others.len() + 1 < MAX_MEMBERS
    }

    /// Members alive or suspect, this node included.
    pub(super) fn active(&self) -> usize {
        let [alive, suspect, _] = self.counts;
        alive + suspect + 1
    }

    /// Whether the number of members changed since the last call.
    pub(super) fn size_changed(&mut self) -> bool {
        let active = self.active();
        std::mem::replace(&mut self.sized_for, active) != active
    }

    pub(super) fn peer(&self, node: NodeId) -> Option<Peer> {
        self.others.get(&node).map(|entry| entry.peer)
    }

    /// Whether a connection holds back a death.
    pub(super) fn holds_back(&self) -> bool {
        self.held_back > 0
    }

    /// Whether just this peer is alive or suspect.
    pub(super) fn is_active(&self, peer: &Peer) -> bool {
        self.active_incarnation(peer).is_some()
    }

    /// The incarnation under which just this peer is alive or suspect, if it is.
    pub(super) fn active_incarnation(&self, peer: &Peer) -> Option<u16> {
        let entry = self.others.get(&peer.node)?;
        (entry.peer == *peer && entry.state.is_active()).then_some(entry.incarnation)
    }

    /// Whether the view says just this: alive, with this identity and incarnation.
    pub(super) fn has_alive(&self, peer: &Peer, incarnation: u16) -> bool {
        self.others.get(&peer.node).is_some_and(|entry| {
            entry.state == MemberState::Alive
                && entry.peer == *peer
                && entry.incarnation == incarnation
        })
    }

    /// Whether the view says all that the row does; of this node itself it says nothing.
    pub(super) fn shows(&self, row: &Row) -> bool {
        self.others.get(&row.peer.node).is_some_and(|entry| {
            let state = match row.state {
                RowState::Alive => entry.state == MemberState::Alive,
                RowState::Suspect => entry.state == MemberState::Suspect,
                RowState::Down => !entry.state.is_active(),
            };
            state && entry.peer == row.peer && entry.incarnation == row.incarnation
        })
    }

    /// What two members have in common for whom the same others live, under the same identities and
    /// incarnations: of themselves, and of this other one, neither says anything.
    pub(super) fn fingerprint_without(&self, node: NodeId) -> u64 {
        let entry = self.others.get(&node).filter(|entry| entry.state.is_active());
        self.fingerprint.wrapping_sub(entry.map_or(0, |entry| entry.mark))
    }

    /// The incarnation under which just this peer is suspect, if it is.
    pub(super) fn doubts(&self, peer: &Peer) -> Option<u16> {
        let entry = self.others.get(&peer.node)?;
        let suspect = entry.state == MemberState::Suspect && entry.peer == *peer;
        suspect.then_some(entry.incarnation)
    }

    pub(super) fn active_peers(&self) -> impl Iterator<Item = Peer> + '_ {
        self.active.iter().filter_map(|node| self.peer(*node))
    }

    /// So many active members by chance, all of them if there are no more, in no order.
    pub(super) fn some_active(&self, rng: &mut impl Rng, wanted: usize) -> Vec<Peer> {
        let all = self.active.len();
        let chosen = index::sample(rng, all, wanted.min(all));
        chosen.iter().filter_map(|at| self.peer(self.active[at])).collect()
    }

    /// What two members have in common who see the same members live.
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The members worth remembering over a restart, the living first.
    pub(super) fn known(&self) -> impl Iterator<Item = Peer> + '_ {
        let others = || self.others.values();
        others()
            .filter(|e| e.state.is_active())
            .chain(others().filter(|e| e.state == MemberState::Down))
            .map(|e| e.peer)
    }

    /// Drops the members that are not in the sorted list; returns them.
    pub(super) fn retain(&mut self, present: &[NodeId]) -> Vec<NodeId> {
        let absent = |node: &&NodeId| present.binary_search(node).is_err();
        let gone: Vec<NodeId> = self.others.keys().filter(absent).copied().collect();
        for node in &gone {
            self.remove(*node);
        }
        gone
    }

    /// Whether what is kept up says what all entries do.
    pub(super) fn adds_up(&self) -> bool {
        let (mut counts, mut fingerprint, mut held_back) = ([0; 3], 0_u64, 0);
        for entry in self.others.values() {
            if let Some(count) = count_of(&mut counts, entry.state) {
                *count += 1;
            }
            held_back += usize::from(entry.held_back);
            if entry.state.is_active() {
                fingerprint = fingerprint.wrapping_add(entry.mark);
            }
        }
        let mut listed = self.active.clone();
        listed.sort_unstable();
        let active = self.others.iter().filter(|(_, entry)| entry.state.is_active());
        (counts, fingerprint, held_back) == (self.counts, self.fingerprint, self.held_back)
            && listed.iter().eq(active.map(|(node, _)| node))
    }

    pub(super) fn count(&self, stats: &mut Stats) {
        let [alive, suspect, down] = self.counts.map(|count| count as u64);
        stats.members_alive = alive + u64::from(self.own.state.is_active());
        stats.members_suspect = suspect;
        stats.members_down = down;
    }

    pub(super) fn snapshot(&mut self, catalog: &Catalog) -> Arc<Members> {
        if let Some(cached) = &self.cached {
            return cached.clone();
        }
        let mut members: Members = self
            .others
            .values()
            .map(|entry| &**entry)
            .chain([&self.own])
            .map(|entry| {
                let record = catalog.get(entry.peer.node).cloned();
                Member {
                    node: entry.peer.node,
                    name: match &record {
                        Some(record) => record.facts.name.as_str().into(),
                        None => entry.peer.node.to_string().into(),
                    },
                    addr: entry.peer.addr,
                    state: entry.state,
                    draining: record.as_ref().is_some_and(|r| r.facts.draining),
                    reason: entry.reason.clone(),
                    boot: entry.peer.boot,
                    since: entry.since,
                    record,
                }
            })
            .collect();
        members.sort_unstable_by_key(|member| member.node);
        let members = Arc::new(members);
        self.cached = Some(members.clone());
        members
    }
}

/// Who left is not counted.
fn count_of(counts: &mut [usize; 3], state: MemberState) -> Option<&mut usize> {
    match state {
        MemberState::Alive => Some(&mut counts[0]),
        MemberState::Suspect => Some(&mut counts[1]),
        MemberState::Down => Some(&mut counts[2]),
        MemberState::Left => None,
    }
}

impl Core {
    /// A name for people: that of the record, else the id.
    fn name_of(&self, node: NodeId) -> String {
        match self.catalog.get(node) {
            Some(record) if !record.facts.name.is_empty() => record.facts.name.clone(),
            _ => node.to_string(),
        }
    }

    /// Takes in what foca holds of a member.
    pub(super) fn see(&mut self, time: Duration, row: &Row) {
        let node = row.peer.node;
        let before = self.view.others.get(&node);
        let mut state = match row.state {
            RowState::Alive => MemberState::Alive,
            RowState::Suspect => MemberState::Suspect,
            RowState::Down => MemberState::Down,
        };
        let mut vetoed = false;
        let suspicion = self.suspicions.get(&node).filter(|s| s.is_about(row));
        if state == MemberState::Suspect && suspicion.is_some_and(|s| s.is_presumed()) {
            state = MemberState::Down;
        } else if state == MemberState::Down {
            let left = |record: &Arc<crate::Record>| record.left && record.boot >= row.peer.boot;
            if self.catalog.get(node).is_some_and(left) {
                state = MemberState::Left;
            } else if before.is_some_and(|entry| entry.state.is_active())
                && self.liveness.has_live_connection(node)
            {
                state = MemberState::Suspect;
                vetoed = true;
            }
        }
        let shown = before.is_some_and(|entry| {
            (entry.peer, entry.incarnation) == (row.peer, row.incarnation)
                && (entry.state, entry.held_back) == (state, vetoed)
        });
        if !shown {
            self.show(time, row, state, vetoed);
        }
        let over = match row.state {
            RowState::Suspect => self.suspicions.get(&node).is_some_and(|s| !s.is_about(row)),
            RowState::Alive | RowState::Down => true,
        };
        if over {
            self.suspicions.remove(&node);
        }
    }

    fn show(&mut self, time: Duration, row: &Row, state: MemberState, held_back: bool) {
        let Row { peer, incarnation, .. } = *row;
        let before = self.view.others.get(&peer.node);
        let since = before.filter(|entry| entry.state == state).map(|entry| entry.since);
        let reason = before
            .filter(|entry| entry.state == state && entry.peer == peer)
            .map(|entry| entry.reason.clone());
        let before = before.map(|entry| entry.state);
        // A later incarnation of the same is no other state, and keeps its reason.
        let changed = reason.is_none();
        let reason = reason.unwrap_or_else(|| self.reason(time, row, state, held_back));
        self.view.put(Entry {
            peer,
            incarnation,
            state,
            held_back,
            reason: reason.clone(),
            since: since.unwrap_or(time + self.stalled),
            mark: peer.mark(incarnation),
        });
        if changed {
            self.view.touch();
        }
        if before != Some(state) {
            self.outputs.push_back(Output::Member {
                node: peer.node,
                before,
                after: state,
                reason,
            });
        }
    }

    /// Whether the last that was heard of this start of the member was that it drains. A node
    /// that starts again has a record of a later start.
    fn said_that_it_stops(&self, row: &Row) -> bool {
        self.catalog
            .get(row.peer.node)
            .is_some_and(|record| record.facts.draining && record.boot == row.peer.boot)
    }

    fn reason(&self, time: Duration, row: &Row, state: MemberState, vetoed: bool) -> Arc<str> {
        let node = row.peer.node;
        let teller = self.heard_from.get(&node).copied();
        let suspicion = self.suspicions.get(&node).filter(|s| s.is_about(row));
        let mut names: Vec<String> =
            suspicion.iter().flat_map(|s| s.accusers()).map(|by| self.name_of(by)).collect();
        names.truncate(3);
        let teller_name = teller.map(|by| self.name_of(by));
        let text = match state {
            MemberState::Alive => match self.view.others.get(&node) {
                None => "joined".to_owned(),
                Some(entry) if entry.peer.boot < row.peer.boot => "restarted".to_owned(),
                Some(entry) if entry.state == MemberState::Suspect => {
                    "refuted the suspicion".to_owned()
                }
                Some(_) => "answers".to_owned(),
            },
            MemberState::Left => "said that it leaves".to_owned(),
            MemberState::Suspect if vetoed => format!(
                "reported dead{}, but a connection to it is alive",
                teller_name.map(|name| format!(" by {name}")).unwrap_or_default()
            ),
            MemberState::Suspect | MemberState::Down if self.said_that_it_stops(row) => {
                "stopped in good order: it said so before it fell silent".to_owned()
            }
            MemberState::Suspect | MemberState::Down => match suspicion {
                Some(suspicion) => suspicion.reason(time, self.verdict_time(), &names.join(", ")),
                None => format!(
                    "{} by {}",
                    if state == MemberState::Down { "reported dead" } else { "reported suspect" },
                    teller_name.unwrap_or_else(|| "another member".to_owned())
                ),
            },
        };
        text.into()
    }
}
