//! quinn on a tokio runtime that is named, not on whichever happens to call.

use std::{future::Future, io, net::UdpSocket, pin::Pin, sync::Arc, time::Instant};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::{runtime::Handle, time::sleep_until};

use super::berth::{Berth, Movable};

/// Puts the endpoint's driver and all timers on one runtime, and the drivers of connections where
/// their [`Berth`] says.
#[derive(Debug)]
pub(crate) struct IoRuntime(pub(crate) Handle);

impl Runtime for IoRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _entered = self.0.enter();
        Box::pin(sleep_until(at.into()))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        match Berth::take() {
            Some(berth) => self.0.spawn(Movable::new(future, berth)),
            None => self.0.spawn(future),
        };
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let _entered = self.0.enter();
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}
