//! Which threads drive a connection.
//!
//! quinn starts the driver of a connection inside the call that makes it, before the handshake
//! has told what the connection is for. It starts on the threads of the endpoint and stays there
//! if it carries Raft and membership, which must not wait behind a guest. The driver of a data
//! connection moves to the threads on which calls are served: else each packet of a call would
//! wake one thread more on its way in, and one more on its way out.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use futures::task::AtomicWaker;
use tokio::runtime::Handle;

thread_local! {
    /// The berth of the connection that is being made right now.
    static NEXT: RefCell<Option<Arc<Berth>>> = const { RefCell::new(None) };
}

/// A driver's place.
#[derive(Debug, Default)]
pub(crate) struct Berth {
    elsewhere: OnceLock<Handle>,
    driver: AtomicWaker,
}

impl Berth {
    /// Calls `make`, which makes at most one connection; its driver can be moved by the berth.
    pub(crate) fn of<T>(make: impl FnOnce() -> T) -> (T, Arc<Self>) {
        let berth = Arc::new(Self::default());
        NEXT.with(|next| next.replace(Some(berth.clone())));
        let made = make();
        NEXT.with(RefCell::take);
        (made, berth)
    }

    /// The berth of the connection that is being made on this thread, if there is one.
    pub(crate) fn take() -> Option<Arc<Self>> {
        NEXT.with(RefCell::take)
    }

    /// From now on the driver runs there. It moves once.
    pub(crate) fn move_to(&self, threads: &Handle) {
        let _ = self.elsewhere.set(threads.clone());
        self.driver.wake();
    }
}

/// A driver that goes where its berth says.
pub(crate) struct Movable {
    driver: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    berth: Arc<Berth>,
}

impl Movable {
    pub(crate) fn new(driver: Pin<Box<dyn Future<Output = ()> + Send>>, berth: Arc<Berth>) -> Self {
        Self { driver: Some(driver), berth }
    }
}

impl Future for Movable {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.berth.driver.register(cx.waker());
        if let Some(threads) = self.berth.elsewhere.get().cloned() {
            if let Some(driver) = self.driver.take() {
                threads.spawn(driver);
            }
            return Poll::Ready(());
        }
        match &mut self.driver {
            Some(driver) => driver.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// Tells on which thread it is polled, each time it is woken.
    async fn driver(mut ask: mpsc::Receiver<()>, tell: mpsc::Sender<Option<String>>) {
        while ask.recv().await.is_some() {
            let name = std::thread::current().name().map(str::to_owned);
            if tell.send(name).await.is_err() {
                return;
            }
        }
    }

    fn threads(name: &str) -> tokio::runtime::Runtime {
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        threads.worker_threads(1).thread_name(name).build().unwrap()
    }

    #[test]
    fn a_driver_moves_once_it_is_told_where_and_loses_nothing() {
        let (here, there) = (threads("here"), threads("there"));
        let ((ask, mut told), berth) = Berth::of(|| {
            let (ask, asked) = mpsc::channel(4);
            let (tell, told) = mpsc::channel(4);
            let berth = Berth::take().unwrap();
            here.spawn(Movable::new(Box::pin(driver(asked, tell)), berth));
            (ask, told)
        });
        assert!(Berth::take().is_none(), "the next connection has a berth of its own");
        ask.blocking_send(()).unwrap();
        assert_eq!(told.blocking_recv().flatten().as_deref(), Some("here"));
        berth.move_to(there.handle());
        // It may be asked before it has moved; it answers all the same.
        for _ in 0..3 {
            ask.blocking_send(()).unwrap();
            assert!(told.blocking_recv().is_some());
        }
        drop(here);
        ask.blocking_send(()).unwrap();
        assert_eq!(told.blocking_recv().flatten().as_deref(), Some("there"));
    }
}
