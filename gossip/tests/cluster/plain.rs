//! The same cluster of nothing but foca, to compare with: its periods, its suspicion of one length,
//! on a network like the other one's.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes};
use foca::{
    AccumulatingRuntime, Codec, Foca, Header, Identity, Member, Message, NoCustomBroadcast,
    OwnedNotification, PeriodicParams, State, Timer,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use swarmer_gossip::{MAX_DATAGRAM_BYTES, Timing};

/// A member by its number, and how often it came back after it had been called down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id {
    index: u32,
    renewal: u32,
}

impl Identity for Id {
    type Addr = u32;

    fn renew(&self) -> Option<Self> {
        Some(Self { renewal: self.renewal + 1, ..*self })
    }

    fn addr(&self) -> u32 {
        self.index
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.renewal > adversary.renewal
    }
}

/// Fields of fixed width, one after the other.
struct Fixed;

#[derive(Debug, thiserror::Error)]
#[error("too short, or no such kind")]
struct Malformed;

fn put_id(id: Id, buf: &mut impl BufMut) {
    buf.put_u32(id.index);
    buf.put_u32(id.renewal);
}

fn take_id(buf: &mut impl Buf) -> Result<Id, Malformed> {
    let index = buf.try_get_u32().map_err(|_| Malformed)?;
    let renewal = buf.try_get_u32().map_err(|_| Malformed)?;
    Ok(Id { index, renewal })
}

impl Codec<Id> for Fixed {
    type Error = Malformed;

    fn encode_header(
        &mut self,
        header: &Header<Id>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        if buf.remaining_mut() < 30 {
            return Err(Malformed);
        }
        put_id(header.src, &mut buf);
        buf.put_u16(header.src_incarnation);
        put_id(header.dst, &mut buf);
        let nobody = Id { index: 0, renewal: 0 };
        let (kind, number, third) = match header.message {
            Message::Ping(n) => (0, n, nobody),
            Message::Ack(n) => (1, n, nobody),
            Message::PingReq { target, probe_number } => (2, probe_number, target),
            Message::IndirectPing { origin, probe_number } => (3, probe_number, origin),
            Message::IndirectAck { target, probe_number } => (4, probe_number, target),
            Message::ForwardedAck { origin, probe_number } => (5, probe_number, origin),
            Message::Announce => (6, 0, nobody),
            Message::Feed => (7, 0, nobody),
            Message::Gossip => (8, 0, nobody),
            Message::Broadcast => (9, 0, nobody),
            Message::TurnUndead => (10, 0, nobody),
        };
        buf.put_u8(kind);
        buf.put_u8(number);
        put_id(third, &mut buf);
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Id>, Malformed> {
        let src = take_id(&mut buf)?;
        let src_incarnation = buf.try_get_u16().map_err(|_| Malformed)?;
        let dst = take_id(&mut buf)?;
        let kind = buf.try_get_u8().map_err(|_| Malformed)?;
        let probe_number = buf.try_get_u8().map_err(|_| Malformed)?;
        let third = take_id(&mut buf)?;
        let message = match kind {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: third, probe_number },
            3 => Message::IndirectPing { origin: third, probe_number },
            4 => Message::IndirectAck { target: third, probe_number },
            5 => Message::ForwardedAck { origin: third, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            10 => Message::TurnUndead,
            _ => return Err(Malformed),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(
        &mut self,
        member: &Member<Id>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        if buf.remaining_mut() < 11 {
            return Err(Malformed);
        }
        put_id(*member.id(), &mut buf);
        buf.put_u16(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Id>, Malformed> {
        let id = take_id(&mut buf)?;
        let incarnation = buf.try_get_u16().map_err(|_| Malformed)?;
        let state = match buf.try_get_u8().map_err(|_| Malformed)? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(Malformed),
        };
        Ok(Member::new(id, incarnation, state))
    }
}

fn at_least_one(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

/// What our core tells foca, and of suspicion what plain SWIM has: one length.
fn plain_config(timing: &Timing, members: usize) -> foca::Config {
    let log = ((members + 1) as f64).log10();
    foca::Config {
        probe_period: timing.probe_period,
        probe_rtt: timing.probe_timeout,
        num_indirect_probes: at_least_one(timing.indirect_probes),
        max_transmissions: NonZeroU8::new((4.0 * log).ceil().max(6.0) as u8).unwrap(),
        suspect_to_down_after: timing.suspicion_min.mul_f64((members as f64).log10().max(1.0)),
        remove_down_after: Some(timing.forget_down_after),
        max_packet_size: at_least_one(MAX_DATAGRAM_BYTES),
        notify_down_members: true,
        periodic_announce: Some(PeriodicParams {
            frequency: timing.push_pull_interval,
            num_members: NonZeroUsize::MIN,
        }),
        periodic_announce_to_down_members: Some(PeriodicParams {
            frequency: timing.announce_to_down_interval,
            num_members: at_least_one(timing.announce_to_down_members),
        }),
        periodic_gossip: Some(PeriodicParams {
            frequency: timing.gossip_interval,
            num_members: at_least_one(timing.gossip_fanout),
        }),
    }
}

struct Node {
    foca: Foca<Id, Fixed, StdRng, NoCustomBroadcast>,
    paused: bool,
    datagrams: VecDeque<Bytes>,
    timers: VecDeque<Timer<Id>>,
}

enum Event {
    Datagram(usize, Bytes),
    Timer(usize, Timer<Id>),
}

/// The cluster.
pub(crate) struct Plain {
    pub(crate) now: Duration,
    nodes: Vec<Node>,
    loss: f64,
    rng: StdRng,
    /// When, who said so, of whom.
    pub(crate) deaths: Vec<(Duration, usize, usize)>,
    events: BinaryHeap<Reverse<(Duration, u64)>>,
    what: BTreeMap<u64, Event>,
    count: u64,
}

impl Plain {
    /// A cluster of `n` nodes in which everybody sees everybody.
    pub(crate) fn cluster(seed: u64, n: usize, loss: f64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let config = plain_config(&Timing::default(), n);
        let node = |index| Node {
            foca: Foca::new(
                Id { index, renewal: 0 },
                config.clone(),
                StdRng::from_seed(rng.random()),
                Fixed,
            ),
            paused: false,
            datagrams: VecDeque::new(),
            timers: VecDeque::new(),
        };
        let nodes = (0..n as u32).map(node).collect();
        let mut plain = Self {
            now: Duration::ZERO,
            nodes,
            loss: 0.0,
            rng,
            deaths: Vec::new(),
            events: BinaryHeap::new(),
            what: BTreeMap::new(),
            count: 0,
        };
        for index in 1..n {
            let first = Id { index: 0, renewal: 0 };
            plain.with(index, |foca, runtime| foca.announce(first, runtime));
        }
        plain.run(Duration::from_secs(60));
        for node in &plain.nodes {
            assert_eq!(node.foca.num_members(), n - 1, "seed {seed}: the cluster did not form");
        }
        assert!(plain.deaths.is_empty());
        plain.loss = loss;
        plain
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.count += 1;
        self.events.push(Reverse((at, self.count)));
        self.what.insert(self.count, event);
    }

    fn with(
        &mut self,
        index: usize,
        call: impl FnOnce(
            &mut Foca<Id, Fixed, StdRng, NoCustomBroadcast>,
            &mut AccumulatingRuntime<Id>,
        ) -> Result<(), foca::Error>,
    ) {
        let mut runtime = AccumulatingRuntime::new();
        // An unfinished probe and a late packet are errors that foca recovers from.
        let _ = call(&mut self.nodes[index].foca, &mut runtime);
        while let Some((to, bytes)) = runtime.to_send() {
            let lost = self.loss > 0.0 && self.rng.random_bool(self.loss);
            if !lost {
                let at = self.now + Duration::from_micros(self.rng.random_range(100..2000));
                self.schedule(at, Event::Datagram(to.index as usize, bytes));
            }
        }
        while let Some((after, timer)) = runtime.to_schedule() {
            self.schedule(self.now + after, Event::Timer(index, timer));
        }
        while let Some(notification) = runtime.to_notify() {
            if let OwnedNotification::MemberDown(id) = notification {
                self.deaths.push((self.now, index, id.index as usize));
            }
        }
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(Reverse((at, number))) = self.events.peek().copied()
            && at <= until
        {
            self.events.pop();
            self.now = at;
            match self.what.remove(&number).unwrap() {
                Event::Datagram(to, bytes) if self.nodes[to].paused => {
                    self.nodes[to].datagrams.push_back(bytes);
                }
                Event::Timer(to, timer) if self.nodes[to].paused => {
                    self.nodes[to].timers.push_back(timer);
                }
                Event::Datagram(to, bytes) => self.datagram(to, &bytes),
                Event::Timer(to, timer) => self.timer(to, timer),
            }
        }
        self.now = until;
    }

    fn datagram(&mut self, to: usize, bytes: &[u8]) {
        self.with(to, |foca, runtime| foca.handle_data(bytes, runtime));
    }

    fn timer(&mut self, to: usize, timer: Timer<Id>) {
        self.with(to, |foca, runtime| foca.handle_timer(timer, runtime));
    }

    pub(crate) fn pause(&mut self, index: usize) {
        self.nodes[index].paused = true;
    }

    /// What waited is given now: datagrams as they came, timers as they were due, and of the two
    /// kinds by chance, as a loop that waits for both takes them.
    pub(crate) fn resume(&mut self, index: usize, order: &mut StdRng) {
        self.nodes[index].paused = false;
        loop {
            let node = &mut self.nodes[index];
            let first = match (node.datagrams.is_empty(), node.timers.is_empty()) {
                (true, true) => return,
                (false, false) => order.random_bool(0.5),
                (datagrams, _) => !datagrams,
            };
            if first && let Some(bytes) = node.datagrams.pop_front() {
                self.datagram(index, &bytes);
            } else if let Some(timer) = node.timers.pop_front() {
                self.timer(index, timer);
            }
        }
    }
}
