//! This node's own record: changes gathered, then signed and sent.

use std::time::Duration;

use super::{Core, agenda::Task};
use crate::{DIRECT_FANOUT, Facts, GossipError, Keyring, Merge, Record, RecordUpdate};

pub(super) struct Local {
    facts: Facts,
    boot: u64,
    version: u64,
    /// When the change that waits is sent, and whether it is nothing but load.
    waiting: Option<(Duration, bool)>,
    last_sent: Duration,
}

impl Local {
    /// What the node says about itself, a change that waits included.
    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(super) fn new(facts: Facts, boot: u64) -> Self {
        Self { facts, boot, version: 0, waiting: None, last_sent: Duration::ZERO }
    }

    /// Whether no record of this start has had this version yet.
    pub(super) fn is_before(&self, version: u64) -> bool {
        self.version < version
    }
}

impl Core {
    /// Changes the local record. It goes out [`crate::Timing::publish_delay`] later together with
    /// what else changed until then; load alone waits longer. What changes nothing sends nothing.
    ///
    /// # Errors
    /// The record would be over a bound; nothing changed then.
    pub fn publish(&mut self, now: Duration, update: RecordUpdate) -> Result<(), GossipError> {
        let time = self.time(now);
        let load_only = update.is_load_only();
        let mut facts = self.local.facts.clone();
        update.apply(&mut facts);
        facts.keys = self.envelope.keyring().held();
        facts.coordinate = self.local.facts.coordinate;
        if facts == self.local.facts || self.farewells.is_some() {
            return Ok(());
        }
        facts.check()?;
        self.local.facts = facts;
        let at = if load_only {
            (self.local.last_sent + self.timing.publish_load_interval).max(time)
        } else {
            time + self.timing.publish_delay
        };
        self.publish_at(at, load_only);
        Ok(())
    }

    /// The local record goes out then, or before if something else is waiting for that.
    pub(super) fn publish_at(&mut self, at: Duration, load_only: bool) {
        let (at, load_only) = match self.local.waiting {
            Some((held, held_load_only)) if held <= at => (held, held_load_only && load_only),
            _ => {
                self.agenda.add(at, Task::Publish);
                (at, load_only && self.local.waiting.is_none_or(|(_, load)| load))
            }
        };
        self.local.waiting = Some((at, load_only));
    }

    /// Opens and seals with these keys from now on, and says which ones they are.
    ///
    /// # Errors
    /// As of [`Self::publish`]; the keys have changed all the same.
    pub fn set_keyring(&mut self, now: Duration, keyring: Keyring) -> Result<(), GossipError> {
        *self.envelope.keyring_mut() = keyring;
        let facts = Box::new(self.local.facts.clone());
        self.publish(now, RecordUpdate::Facts(facts))
    }

    pub(super) fn publish_due(&mut self, time: Duration) {
        let Some((at, load_only)) = self.local.waiting else { return };
        if at > time {
            return;
        }
        self.local.waiting = None;
        self.local.last_sent = time;
        let merge = match self.make_record(false) {
            Ok(merge) => merge,
            Err(error) => {
                // Every change was checked when it was taken.
                tracing::error!(target: "swarmer::gossip", %error,
                    "the local record cannot be signed");
                return;
            }
        };
        let targets = self.random_peers(DIRECT_FANOUT);
        // Load is soon out of date: where all hear of it at once, nobody passes it on.
        let hot = !load_only || self.view.active() > DIRECT_FANOUT + 1;
        self.send_records(&[self.node], &targets, hot);
        if hot {
            self.add_rumour(time, &merge);
        }
    }

    /// Signs a new version of the local record and puts it into the catalog.
    pub(super) fn make_record(&mut self, left: bool) -> Result<Merge, GossipError> {
        // Costs nothing where a record goes out anyway.
        self.local.facts.coordinate = self.echoes.settled();
        let record = Record {
            node: self.node,
            boot: self.local.boot,
            version: self.local.version + 1,
            left,
            facts: self.local.facts.clone(),
        };
        let signed = record.sign(self.cluster, &*self.signer)?;
        self.local.version += 1;
        let merge = self.catalog.put(record, signed);
        self.view.touch();
        Ok(merge)
    }
}
