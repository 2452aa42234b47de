//! Where a founder stands, and whether it can still get anywhere by itself.

use std::{collections::BTreeMap, time::Duration};

use swarmer_model::NodeId;

use super::Founding;
use crate::founding::Stage;

/// How long the one that was consented to may be away before that is called stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);

impl Founding {
    /// Where it stands.
    pub fn stage(&self) -> Stage {
        let record = &self.durable;
        if record.granted {
            return if record.grants.is_some() { Stage::Founded } else { Stage::Granted };
        }
        if let Some(hint) = &self.join_instead {
            return Stage::JoinInstead { hint: hint.clone() };
        }
        if record.grants.is_some() {
            return Stage::Founded;
        }
        if self.record.decided.is_some() {
            return Stage::Initialising;
        }
        if let Some(why) = self.stuck() {
            return Stage::Stuck { why };
        }
        match &record.consent {
            None if self.record.consent.is_some() => Stage::Consenting,
            None => {
                let mut have = vec![self.config.me.name.clone()];
                have.extend(self.peers().values().map(|hello| hello.founder.name.clone()));
                have.dedup();
                let missing = self.config.expect.saturating_sub(have.len());
                Stage::Waiting { missing, have, hearsay: self.hearsay }
            }
            Some(maker) if maker.node == self.config.me.node => {
                let have: Vec<String> =
                    self.record.received.iter().map(|founder| founder.name.clone()).collect();
                Stage::Collecting { missing: self.config.expect.saturating_sub(have.len()), have }
            }
            Some(maker) => Stage::AwaitingGrant {
                from: maker.name.clone(),
                address: maker.advertise.clone(),
                connected: self.peers().contains_key(&maker.node),
            },
        }
    }

    /// Why it is stuck and what the operator can do, if it is.
    pub(super) fn stuck(&self) -> Option<String> {
        let record = &self.durable;
        let maker = record.consent.as_ref()?;
        if record.granted || self.record.decided.is_some() || self.join_instead.is_some() {
            return None;
        }
        let remedy = "stop all founders, remove their data directories (nothing is in them yet), \
                      make a new token with `swarmer token bootstrap` and start again";
        let peers = self.peers();
        let me = &self.config.me;
        let replaced = peers
            .values()
            .find(|hello| {
                hello.founder.node != maker.node && hello.founder.advertise == maker.advertise
            })
            .filter(|_| maker.node != me.node && !peers.contains_key(&maker.node));
        if let Some(other) = replaced {
            return Some(format!(
                "stuck: this node has consented to {} ({}), node {}, but node {} is there now: it \
                 has lost its disk; {remedy}",
                maker.name, maker.advertise, maker.node, other.founder.node
            ));
        }
        if peers.values().any(|hello| hello.granted) {
            return None;
        }
        // Everybody here has consented, and nobody can reach N any more.
        let mut votes: BTreeMap<NodeId, usize> = BTreeMap::new();
        *votes.entry(maker.node).or_default() += 1;
        for hello in peers.values() {
            *votes.entry(hello.consent?).or_default() += 1;
        }
        let open = votes.values().any(|count| *count >= self.config.expect);
        if peers.len() + 1 >= self.config.expect && votes.len() > 1 && !open {
            return Some(format!(
                "stuck: {} nodes hold this founding token, {} are expected, and their consents are \
                 split: there is one too many, or one has lost its data directory; {remedy}",
                peers.len() + 1,
                self.config.expect
            ));
        }
        let away = self.now?.saturating_duration_since(self.maker_seen?);
        (away >= STUCK_AFTER && maker.node != me.node).then(|| {
            format!(
                "stuck: {} ({}), node {}, was chosen to found the cluster and is away; start it \
                 again with its data directory; if that is lost, {remedy}",
                maker.name, maker.advertise, maker.node
            )
        })
    }
}
