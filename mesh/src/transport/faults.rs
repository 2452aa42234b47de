//! Loses packets of the port when it is told to, so that operators can see what their cluster makes
//! of a bad network. Nothing of it is there unless [`super::Config::faults`] is set.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use rand::RngExt as _;

use super::config::LOSE_ALL;

/// How much is lost, by all sockets of the port.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    per_mille: AtomicU32,
    /// Which setting holds, so that the end of an earlier one does not end a later one.
    turn: AtomicU64,
}

impl Faults {
    /// From now on so many of a thousand packets are lost, in each direction. Gives the turn that
    /// [`Faults::end`] wants.
    pub(crate) fn lose(&self, per_mille: u32) -> u64 {
        let turn = self.turn.fetch_add(1, Ordering::AcqRel) + 1;
        self.per_mille.store(per_mille.min(LOSE_ALL), Ordering::Release);
        turn
    }

    /// Ends a setting, unless another one was made since.
    pub(crate) fn end(&self, turn: u64) {
        if self.turn.load(Ordering::Acquire) == turn {
            self.per_mille.store(0, Ordering::Release);
        }
    }

    fn loses(&self) -> bool {
        let per_mille = self.per_mille.load(Ordering::Relaxed);
        per_mille > 0 && rand::rng().random_range(0..LOSE_ALL) < per_mille
    }
}

/// A socket that loses what [`Faults`] says.
pub(crate) struct FaultySocket {
    inner: Arc<dyn AsyncUdpSocket>,
    faults: Arc<Faults>,
}

impl FaultySocket {
    /// The socket itself where nothing may be lost.
    pub(crate) fn around(
        inner: Arc<dyn AsyncUdpSocket>,
        faults: Option<&Arc<Faults>>,
    ) -> Arc<dyn AsyncUdpSocket> {
        match faults {
            Some(faults) => Arc::new(Self { inner, faults: Arc::clone(faults) }),
            None => inner,
        }
    }
}

impl fmt::Debug for FaultySocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultySocket").field("faults", &self.faults).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for FaultySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // Lost on the way: the sender does not learn of it.
        if self.faults.loses() { Ok(()) } else { self.inner.try_send(transmit) }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.inner.poll_recv(cx, buffers, meta))?;
        for meta in meta.iter_mut().take(received) {
            if self.faults.loses() {
                meta.len = 0;
            }
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_setting_holds_until_its_own_end() {
        let faults = Faults::default();
        assert!(!faults.loses());
        let first = faults.lose(LOSE_ALL);
        assert!(faults.loses());
        let second = faults.lose(LOSE_ALL);
        faults.end(first);
        assert!(faults.loses(), "the end of an earlier one");
        faults.end(second);
        assert!(!faults.loses());
    }
}
