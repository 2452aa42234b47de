//! A cluster that is formed already, without the time that it takes to become one: for simulations of
//! more members than could meet while somebody waits.

use std::time::Duration;

use foca::{AccumulatingRuntime, Member};

use super::{Core, peer::Peer, view::View};
use crate::{Catalog, GossipError};

/// What each member of a formed cluster knows, once for all of them: what it holds of the others
/// is shared until it changes. foca's list alone is each member's own.
pub struct Formed {
    view: View,
    catalog: Catalog,
    peers: Vec<Peer>,
}

impl Formed {
    /// The cluster of these, which must differ in their nodes and know nobody yet.
    pub fn of<'a>(members: impl Iterator<Item = &'a Core> + Clone) -> Option<Self> {
        let first = members.clone().next()?;
        let peers: Vec<Peer> = members.clone().map(Core::identity).collect();
        Some(Self {
            view: View::of_all(peers.iter().copied(), first.identity()),
            catalog: Catalog::of_each(first.cluster, members.map(Core::catalog)),
            peers,
        })
    }
}

impl Core {
    /// Stands where `other` found out that it does, as if the ways had been measured just now: of two at
    /// the same place one need not find out.
    ///
    /// # Errors
    /// The record cannot be signed.
    pub fn stand_like(&mut self, now: Duration, other: &Self) -> Result<(), GossipError> {
        self.echoes.stand_like(now, &other.echoes);
        self.keep_pace(now);
        self.make_record(false).map(drop)
    }

    /// Knows all members of the cluster from now on, as they know it.
    pub fn take_place(&mut self, now: Duration, cluster: &Formed) {
        let (time, own) = (self.time(now), self.identity());
        self.catalog = cluster.catalog.clone();
        self.view = View::of_all_but(&cluster.view, own);
        let others = cluster.peers.iter().filter(|peer| **peer != own);
        let others = others.map(|peer| Member::alive(*peer));
        let told = self.swim.apply_many(others, false, &mut self.effects);
        debug_assert_eq!(told, Ok(()), "plain lives of others");
        self.take_timers(time);
        // That they are there is no news, and the room that it took is wanted by other members.
        self.effects = AccumulatingRuntime::new();
        self.fit_to_size();
    }
}
