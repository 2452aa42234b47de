//! Writes on their way to another node: those that come while some are under way go together.
//!
//! A write that is sent alone costs both sides a stream, some packets and some wake-ups, which is
//! more than all else that is done for it. With few writers nobody waits for anybody; with many,
//! a message carries what came during the one before. A node that does not understand that yet gets
//! each of them alone, all at once.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use parking_lot::Mutex;
use swarmer_model::NodeId;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    adapter::ProposeReply,
    gate::weight,
    transport::TransportError,
    txn::{MAX_TXN_BYTES, Txn},
};

/// Messages to one node at a time. With a second one, what comes during the first does not wait for
/// its whole round.
const MESSAGES: usize = 2;
/// The most writes of a message.
const MAX_WRITES: usize = 256;
/// The most bytes of them, about; a single larger one goes alone.
const MAX_BYTES: usize = MAX_TXN_BYTES;

/// What becomes of a write.
pub(crate) type Sent = Result<ProposeReply, TransportError>;

/// A write that is to be sent.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) txn: Txn,
    /// Until when its answer is of use.
    pub(crate) until: Instant,
    /// Who waits for its answer; may have given up.
    pub(crate) tell: oneshot::Sender<Sent>,
}

/// Towards one node.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Waiting>,
    /// Messages under way, or about to be taken.
    driven: usize,
}

/// What waits, by the node that it is for. Their number is bounded by the gate at the door.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: Mutex<HashMap<NodeId, Lane>>,
}

impl Lanes {
    /// Puts a write into the lane of a node. True: there is room for one more message, so the
    /// caller must see to it that [`Lanes::next`] is called until it gives none.
    pub(crate) fn join(
        &self,
        target: NodeId,
        txn: Txn,
        until: Instant,
    ) -> (oneshot::Receiver<Sent>, bool) {
        let (tell, told) = oneshot::channel();
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry(target).or_default();
        lane.waiting.push_back(Waiting { txn, until, tell });
        let drive = lane.driven < MESSAGES;
        lane.driven += usize::from(drive);
        (told, drive)
    }

    /// What goes with the next message; none if nothing waits, and then one driver less is
    /// needed.
    pub(crate) fn next(&self, target: NodeId) -> Option<Vec<Waiting>> {
        let mut lanes = self.lanes.lock();
        let Entry::Occupied(mut entry) = lanes.entry(target) else { return None };
        let lane = entry.get_mut();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(first) = lane.waiting.front() {
            let more = weight(&first.txn);
            if batch.len() >= MAX_WRITES || !batch.is_empty() && bytes + more > MAX_BYTES {
                break;
            }
            bytes += more;
            // One that nobody waits for any more was not sent, and need not be.
            batch.extend(lane.waiting.pop_front().filter(|waiting| !waiting.tell.is_closed()));
        }
        if !batch.is_empty() {
            return Some(batch);
        }
        lane.driven -= 1;
        if lane.driven == 0 {
            entry.remove();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn txn(bytes: usize) -> Txn {
        Txn::new().put("k", vec![0; bytes])
    }

    #[test]
    fn two_go_at_once_and_what_comes_meanwhile_goes_together() {
        let lanes = Lanes::default();
        let until = Instant::now();
        let told: Vec<_> = (0..5).map(|_| lanes.join(A, txn(1), until)).collect();
        assert_eq!(
            told.iter().map(|(_, drive)| *drive).collect::<Vec<_>>(),
            [true, true, false, false, false]
        );
        // Drivers come to it after all five have come.
        assert_eq!(lanes.next(A).map(|batch| batch.len()), Some(5));
        assert!(lanes.next(A).is_none(), "the second driver is not needed");
        let (_told, drive) = lanes.join(A, txn(1), until);
        assert!(drive, "it is made anew");
        // Another node has a lane of its own.
        let (_other, drive) = lanes.join(B, txn(1), until);
        assert!(drive);
        assert_eq!(lanes.next(B).map(|batch| batch.len()), Some(1));
    }

    #[test]
    fn a_message_is_bounded_and_nothing_is_left_behind() {
        let lanes = Lanes::default();
        let until = Instant::now();
        let all = MAX_WRITES * 2 + 1;
        let _small: Vec<_> = (0..all).map(|_| lanes.join(A, txn(1), until)).collect();
        let large = MAX_BYTES / 2;
        let _large: Vec<_> = (0..3).map(|_| lanes.join(A, txn(large), until)).collect();
        let mut sizes = Vec::new();
        while let Some(batch) = lanes.next(A) {
            sizes.push(batch.len());
        }
        assert_eq!(sizes, [MAX_WRITES, MAX_WRITES, 2, 1, 1]);
        assert!(lanes.next(A).is_none());
        assert!(lanes.lanes.lock().is_empty(), "a node that is not written to costs nothing");
    }

    #[test]
    fn who_gave_up_is_not_sent_and_each_hears_its_own_answer() {
        let lanes = Lanes::default();
        let until = Instant::now();
        let (gone, _) = lanes.join(A, txn(1), until);
        drop(gone);
        let (mut first, _) = lanes.join(A, txn(1), until);
        let (mut second, _) = lanes.join(A, txn(1), until);
        let batch = lanes.next(A).expect("two wait");
        assert_eq!(batch.len(), 2);
        for (waiting, answer) in batch.into_iter().zip([ProposeReply::Busy, ProposeReply::NoQuorum])
        {
            waiting.tell.send(Ok(answer)).expect("somebody waits");
        }
        assert_eq!(first.try_recv(), Ok(Ok(ProposeReply::Busy)));
        assert_eq!(second.try_recv(), Ok(Ok(ProposeReply::NoQuorum)));
    }
}
