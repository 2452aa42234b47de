//! Barriers of many readers at once: whoever comes while one is under way shares the next.
//!
//! A barrier costs a round trip to a majority, and from a follower one to the leader before it.
//! Ten thousand readers a second need no ten thousand of them: a barrier that begins after a
//! reader asked holds for that reader, so all that asked meanwhile take the one that begins next.

use parking_lot::Mutex;
use swarmer_model::Revision;
use tokio::{sync::oneshot, time::Instant};

use crate::error::RaftError;

/// Readers that wait at once; further ones are sent away. Far more than a node serves requests.
const MAX_WAITING: usize = 16_384;

/// A reader.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Until when it waits.
    pub(crate) until: Instant,
    tell: oneshot::Sender<Result<Revision, RaftError>>,
}

impl Waiting {
    pub(crate) fn tell(self, result: Result<Revision, RaftError>) {
        // Whoever gave up waits no more.
        let _ = self.tell.send(result);
    }
}

/// The answer to a reader.
pub(crate) type Told = oneshot::Receiver<Result<Revision, RaftError>>;

#[derive(Debug, Default)]
struct Inner {
    waiting: Vec<Waiting>,
    /// Whether somebody takes them.
    driven: bool,
}

/// Readers that wait for the round that begins next.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    inner: Mutex<Inner>,
}

impl Rounds {
    /// Waits for the next round. True: nobody drives the rounds, so the caller must, by
    /// [`Rounds::next`]. None: too many wait already.
    pub(crate) fn join(&self, until: Instant) -> Option<(Told, bool)> {
        let (tell, told) = oneshot::channel();
        let mut inner = self.inner.lock();
        if inner.waiting.len() >= MAX_WAITING {
            return None;
        }
        inner.waiting.push(Waiting { until, tell });
        let first = !std::mem::replace(&mut inner.driven, true);
        Some((told, first))
    }

    /// The readers of a round that begins now; none if nobody waits, and then nobody drives any
    /// more.
    pub(crate) fn next(&self) -> Option<Vec<Waiting>> {
        let mut inner = self.inner.lock();
        let waiting = std::mem::take(&mut inner.waiting);
        inner.driven = !waiting.is_empty();
        inner.driven.then_some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_during_a_round_shares_the_next_and_one_drives() {
        let rounds = Rounds::default();
        let until = Instant::now();
        let (mut a, drives) = rounds.join(until).expect("room");
        assert!(drives);
        let first = rounds.next().expect("a round");
        assert_eq!(first.len(), 1);
        // They asked after the first round began: it does not hold for them.
        let (mut b, drives) = rounds.join(until).expect("room");
        assert!(!drives);
        let (_given_up, _) = rounds.join(until).expect("room");
        first.into_iter().for_each(|waiting| waiting.tell(Ok(1)));
        assert_eq!(a.try_recv(), Ok(Ok(1)));
        assert!(b.try_recv().is_err());
        let second = rounds.next().expect("a round");
        assert_eq!(second.len(), 2);
        second.into_iter().for_each(|waiting| waiting.tell(Ok(2)));
        assert_eq!(b.try_recv(), Ok(Ok(2)));
        assert!(rounds.next().is_none());
        assert!(rounds.join(until).expect("room").1, "driven anew");
    }

    #[test]
    fn the_number_of_readers_is_bounded() {
        let rounds = Rounds::default();
        let until = Instant::now();
        let all: Vec<_> = (0..MAX_WAITING).map(|_| rounds.join(until).expect("room")).collect();
        assert!(rounds.join(until).is_none());
        assert_eq!(rounds.next().map(|waiting| waiting.len()), Some(all.len()));
        assert!(rounds.join(until).is_some());
    }
}
