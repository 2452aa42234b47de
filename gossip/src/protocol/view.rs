//! What this node shows of the members.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

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

pub(super) struct View {
    own: Entry,
    others: BTreeMap<NodeId, Entry>,
    /// Others that are alive, suspect and down, since the last look at all.
    counts: [usize; 3],
    /// The sum of their marks.
    fingerprint: u64,
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
            fingerprint: 0,
            sized_for: 0,
            cached: None,
        }
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
        self.others.values().any(|entry| entry.held_back)
    }

    /// Whether just this peer is alive or suspect.
    pub(super) fn is_active(&self, peer: &Peer) -> bool {
        self.others
            .get(&peer.node)
            .is_some_and(|entry| entry.peer == *peer && entry.state.is_active())
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
        self.others.values().filter(|e| e.state.is_active()).map(|e| e.peer)
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
    /// Says too whether other members live than before, or under other identities.
    pub(super) fn retain(&mut self, present: &[NodeId]) -> (Vec<NodeId>, bool) {
        let gone: Vec<NodeId> = self
            .others
            .keys()
            .filter(|node| present.binary_search(node).is_err())
            .copied()
            .collect();
        for node in &gone {
            self.others.remove(node);
            self.touch();
        }
        let before = self.fingerprint;
        self.recount();
        (gone, self.fingerprint != before)
    }

    fn recount(&mut self) {
        (self.counts, self.fingerprint) = ([0; 3], 0);
        for entry in self.others.values() {
            let of = match entry.state {
                MemberState::Alive => 0,
                MemberState::Suspect => 1,
                MemberState::Down => 2,
                MemberState::Left => continue,
            };
            self.counts[of] += 1;
            if entry.state.is_active() {
                self.fingerprint = self.fingerprint.wrapping_add(entry.mark);
            }
        }
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
        let same_state = before.is_some_and(|entry| entry.state == state && entry.peer == row.peer);
        if same_state {
            if let Some(entry) = self.view.others.get_mut(&node) {
                entry.incarnation = row.incarnation;
                entry.held_back = vetoed;
                entry.mark = row.peer.mark(row.incarnation);
            }
        } else {
            let reason = self.reason(time, row, state, vetoed);
            let before = before.map(|entry| (entry.state, entry.since));
            let since = match before {
                Some((old, since)) if old == state => since,
                _ => time + self.stalled,
            };
            let entry = Entry {
                peer: row.peer,
                incarnation: row.incarnation,
                state,
                held_back: vetoed,
                reason: reason.clone(),
                since,
                mark: row.peer.mark(row.incarnation),
            };
            self.view.others.insert(node, entry);
            self.view.touch();
            let before = before.map(|(state, _)| state);
            if before != Some(state) {
                self.outputs.push_back(Output::Member { node, before, after: state, reason });
            }
        }
        let over = match row.state {
            RowState::Suspect => self.suspicions.get(&node).is_some_and(|s| !s.is_about(row)),
            RowState::Alive | RowState::Down => true,
        };
        if over {
            self.suspicions.remove(&node);
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
                Some(suspicion) => {
                    suspicion.reason(time, self.timing.probe_period, &names.join(", "))
                }
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
