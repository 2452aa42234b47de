//! A switch of our own between the nodes, which can do what the kernel's bridge cannot: packets that
//! come late, out of order, twice, or slowly.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Result;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::wires::Wires;

/// The largest packet of a device with the usual MTU of 1,500; longer ones do not come.
const PACKET: usize = 2_048;
/// Packets that are on their way; what comes then is lost. At the longest delay that is drawn, more
/// than all nodes send.
const MOST: usize = 50_000;
/// Packets taken from one node before it is the next one's turn.
const BURST: usize = 64;
/// How long it waits at most before it looks whether it is to end.
const IDLE: Duration = Duration::from_millis(50);

/// The switch: a thread, until it is dropped.
#[derive(Debug)]
pub(super) struct Switch {
    wires: Arc<Mutex<Wires>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// On its way: when it arrives, its number, to whom, and its bytes.
type Flying = Reverse<(u64, u64, usize, Vec<u8>)>;

impl Switch {
    /// Between these devices; `node_of` says whose an address is.
    ///
    /// # Errors
    /// There can be no thread.
    pub(super) fn start(
        devices: Vec<File>,
        node_of: fn(Ipv4Addr) -> Option<usize>,
        wires: Wires,
    ) -> Result<Self> {
        let (wires, stop) = (Arc::new(Mutex::new(wires)), Arc::new(AtomicBool::new(false)));
        let (shared, ends) = (Arc::clone(&wires), Arc::clone(&stop));
        let work = move || {
            let mut desk = Desk {
                devices,
                node_of,
                wires: shared,
                began: Instant::now(),
                flying: BinaryHeap::new(),
                number: 0,
            };
            while !ends.load(Ordering::Relaxed) {
                desk.turn();
            }
        };
        let thread = std::thread::Builder::new().name("chaos-switch".into()).spawn(work)?;
        Ok(Self { wires, stop, thread: Some(thread) })
    }

    /// Its wires.
    pub(super) fn wires(&self) -> &Mutex<Wires> {
        &self.wires
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Desk {
    devices: Vec<File>,
    node_of: fn(Ipv4Addr) -> Option<usize>,
    wires: Arc<Mutex<Wires>>,
    began: Instant,
    flying: BinaryHeap<Flying>,
    /// Of the next packet: what arrives at the same time keeps its order.
    number: u64,
}

impl Desk {
    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Waits for something to do, and does it.
    fn turn(&mut self) {
        let due = self.flying.peek().map(|Reverse((at, ..))| at.saturating_sub(self.now_us()));
        let wait = due.map_or(IDLE, Duration::from_micros).min(IDLE);
        let mut ready: Vec<PollFd<'_>> =
            self.devices.iter().map(|device| PollFd::new(device, PollFlags::IN)).collect();
        let nanos = wait.subsec_nanos().into();
        // A signal wakes it early: then it looks again.
        let _ = poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: nanos }));
        let ready: Vec<bool> =
            ready.iter().map(|fd| fd.revents().contains(PollFlags::IN)).collect();
        for (from, ready) in ready.into_iter().enumerate() {
            if ready {
                self.take(from);
            }
        }
        self.deliver();
    }

    fn take(&mut self, from: usize) {
        let mut packet = [0; PACKET];
        for _ in 0..BURST {
            let Ok(length) = rustix::io::read(&self.devices[from], &mut packet) else { return };
            let packet = &packet[..length];
            let Some(to) = destination(packet).and_then(self.node_of) else { continue };
            if to == from || to >= self.devices.len() {
                continue;
            }
            let times = self.wires.lock().sent(self.now_us(), (from, to), length);
            for at in times.into_iter().flatten() {
                if self.flying.len() < MOST {
                    self.number += 1;
                    self.flying.push(Reverse((at, self.number, to, packet.to_vec())));
                }
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.now_us();
        while self.flying.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            let Some(Reverse((_, _, to, packet))) = self.flying.pop() else { return };
            // What a device does not take is lost, as on any wire.
            let _ = rustix::io::write(&self.devices[to], &packet);
        }
    }
}

/// Where an IPv4 packet is to go.
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let is_v4 = packet.first()? >> 4 == 4;
    let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    is_v4.then(|| to.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ip_of_the_fourth_version_goes_somewhere() {
        let mut packet = [0; 20];
        packet[16..].copy_from_slice(&[10, 77, 0, 2]);
        assert_eq!(destination(&packet), None);
        packet[0] = 0x45;
        assert_eq!(destination(&packet), Some(Ipv4Addr::new(10, 77, 0, 2)));
        assert_eq!(destination(&packet[..19]), None);
        packet[0] = 0x60;
        assert_eq!(destination(&packet), None);
    }
}
