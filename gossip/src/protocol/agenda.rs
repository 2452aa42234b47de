//! What is due when.

use std::{collections::BTreeMap, time::Duration};

use swarmer_model::NodeId;

use super::peer::Peer;

pub(super) enum Task {
    Swim(foca::Timer<Peer>),
    Suspicion(NodeId),
    Inquiry(NodeId),
    Publish,
    Spread,
    Digest,
    PushPull,
    Echo,
    Seeds,
    Sweep,
    Farewell,
}

/// Tasks by time; those of one instant in the order in which they were added.
#[derive(Default)]
pub(super) struct Agenda {
    tasks: BTreeMap<(Duration, u64), Task>,
    added: u64,
}

impl Agenda {
    pub(super) fn add(&mut self, at: Duration, task: Task) {
        self.added += 1;
        self.tasks.insert((at, self.added), task);
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.tasks.keys().next().map(|(at, _)| *at)
    }

    pub(super) fn take_due(&mut self, time: Duration) -> Option<Task> {
        let first = self.tasks.first_entry()?;
        if first.key().0 > time { None } else { Some(first.remove()) }
    }
}
