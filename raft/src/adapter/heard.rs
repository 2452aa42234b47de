//! When the leader was heard.

use std::time::Duration;

use swarmer_model::NodeId;
use tokio::time::Instant;

/// The leader's last message, and the longest wait for one lately.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    last: Option<(NodeId, Instant)>,
    longest: Duration,
}

impl Heard {
    /// A leader was heard just now.
    pub(crate) fn now(&mut self, leader: NodeId) {
        let now = Instant::now();
        // Between two leaders it is silent for a good reason.
        if let Some((_, before)) = self.last.filter(|(last, _)| *last == leader) {
            self.longest = self.longest.max(now - before);
        }
        self.last = Some((leader, now));
    }

    /// For how long none was; none if there never was one.
    pub(crate) fn silence(&self) -> Option<Duration> {
        self.last.map(|(_, at)| at.elapsed())
    }

    /// The leader that was heard last, and when.
    pub(crate) fn last(&self) -> Option<(NodeId, Instant)> {
        self.last
    }

    /// The longest wait between two messages of one leader since this was asked last.
    pub(crate) fn take_longest(&mut self) -> Duration {
        std::mem::take(&mut self.longest)
    }
}
