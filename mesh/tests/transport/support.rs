//! Nodes in one process over loopback, for the transport's tests.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use quinn::{RecvStream, SendStream};
use swarmer_mesh::{
    identity::{
        Admission, Authority, CERTIFICATE_VALIDITY, Identity, Membership, NodeKey, Verdict,
        WallClock,
    },
    stream::{MAX_FRAME, ResetCode, abort, read_frame, write_frame},
    transport::{
        AddressBook, Config, Dependencies, Entry, GossipSocket, Handle, JoinHandler, Peer,
        StreamHandler, StreamKind, Transport,
    },
};
use swarmer_model::NodeId;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Long enough for a loaded machine; no test waits for it when all is well.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[derive(Debug, Default)]
pub(crate) struct TestClock(AtomicU64);

impl TestClock {
    pub(crate) fn jump(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::SeqCst);
    }
}

impl WallClock for TestClock {
    fn now(&self) -> SystemTime {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        start + Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

/// Key, verdict, voter.
type Record = (Vec<u8>, Verdict, bool);

/// One node's copy of the desired state and of the addresses.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) members: Mutex<HashMap<NodeId, Record>>,
    pub(crate) addresses: Mutex<HashMap<NodeId, SocketAddr>>,
}

impl Book {
    pub(crate) fn set(&self, node: NodeId, verdict: Verdict) {
        self.members.lock().get_mut(&node).expect("known").1 = verdict;
    }
}

impl Admission for Book {
    fn check(&self, node: NodeId, spki: &[u8]) -> Verdict {
        match self.members.lock().get(&node) {
            Some((key, verdict, _)) if key == spki => *verdict,
            _ => Verdict::Unknown,
        }
    }

    fn voter(&self, node: NodeId) -> bool {
        self.members.lock().get(&node).is_some_and(|member| member.2)
    }
}

impl AddressBook for Book {
    fn address(&self, node: NodeId) -> Option<SocketAddr> {
        self.addresses.lock().get(&node).copied()
    }
}

/// Answers each framed request with its own bytes; `Call` streams wait until they are let go.
/// After the word "bulk" nothing more is read of a stream, nor is it closed.
pub(crate) struct Echo {
    pub(crate) peers: mpsc::Sender<(Peer, StreamKind)>,
    pub(crate) gate: Arc<Notify>,
}

#[async_trait]
impl StreamHandler for Echo {
    async fn handle(
        &self,
        peer: Peer,
        kind: StreamKind,
        mut send: SendStream,
        mut recv: RecvStream,
    ) {
        let _ = self.peers.try_send((peer, kind));
        if kind == StreamKind::Observe {
            return abort(&mut send, &mut recv, ResetCode::STALE);
        }
        let Ok(body) = read_frame(&mut recv, MAX_FRAME).await else {
            return abort(&mut send, &mut recv, ResetCode::MALFORMED);
        };
        if body == "bulk" {
            return std::future::pending().await;
        }
        if kind == StreamKind::Call {
            self.gate.notified().await;
        }
        if write_frame(&mut send, body).await.is_ok() {
            let _ = send.finish();
        }
    }
}

#[async_trait]
impl JoinHandler for Echo {
    async fn join(
        &self,
        _: SocketAddr,
        entry: Entry,
        exporter: [u8; 32],
        mut send: SendStream,
        mut recv: RecvStream,
    ) {
        let Ok(_) = read_frame(&mut recv, 1024).await else { return };
        let spki = match entry {
            Entry::Join => vec![],
            Entry::Found { spki } => spki,
        };
        let answer = [&exporter[..], &spki].concat();
        if write_frame(&mut send, answer.into()).await.is_ok() {
            let _ = send.finish();
        }
    }
}

pub(crate) struct TestNode {
    pub(crate) id: NodeId,
    pub(crate) key: NodeKey,
    pub(crate) book: Arc<Book>,
    pub(crate) handle: Handle,
    pub(crate) gossip: GossipSocket,
    pub(crate) addr: SocketAddr,
    pub(crate) seen: mpsc::Receiver<(Peer, StreamKind)>,
    pub(crate) gate: Arc<Notify>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(crate) fn membership(
    authority: &Authority,
    id: NodeId,
    key: &NodeKey,
    clock: &TestClock,
) -> Membership {
    let spki = key.spki();
    Membership {
        cluster: authority.cluster(),
        certificate: authority.issue(id, &spki, clock.now(), CERTIFICATE_VALIDITY).expect("issue"),
        bundle: authority.bundle(),
    }
}

pub(crate) fn start_with(
    identity: Identity,
    clock: &Arc<TestClock>,
    change: impl FnOnce(&mut Config),
) -> TestNode {
    log();
    let listen = "127.0.0.1:0".parse().expect("address");
    let mut config = Config::new(listen, tokio::runtime::Handle::current());
    // A test machine may stand still for longer than a LAN's second.
    config.idle_timeout = Duration::from_secs(5);
    config.dial_timeout = Duration::from_secs(8);
    change(&mut config);
    let book = Arc::new(Book::default());
    let dependencies =
        Dependencies { admission: book.clone(), addresses: book.clone(), clock: clock.clone() };
    let (id, key) = (identity.node, identity.key.clone());
    let (transport, handle, gossip) =
        Transport::build(config, identity, dependencies).expect("build");
    let (peers, seen) = mpsc::channel(4_096);
    let gate = Arc::new(Notify::new());
    let echo = Arc::new(Echo { peers, gate: gate.clone() });
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(transport.run(echo.clone(), echo, shutdown.clone()));
    let addr = handle.local_addr().expect("bound");
    TestNode { id, key, book, handle, gossip, addr, seen, gate, shutdown, task }
}

pub(crate) fn member(authority: &Authority, id: u64, clock: &Arc<TestClock>) -> TestNode {
    member_with(authority, id, clock, |_| {})
}

pub(crate) fn member_with(
    authority: &Authority,
    id: u64,
    clock: &Arc<TestClock>,
    change: impl FnOnce(&mut Config),
) -> TestNode {
    let key = NodeKey::generate().expect("key");
    let membership = membership(authority, NodeId(id), &key, clock);
    start_with(Identity::member(NodeId(id), key, membership), clock, change)
}

/// Lets `node` know `other` and admit it as a voter.
pub(crate) fn know(node: &TestNode, other: &TestNode) {
    let entry = (other.key.spki(), Verdict::Admitted, true);
    node.book.members.lock().insert(other.id, entry);
    node.book.addresses.lock().insert(other.id, other.addr);
}

pub(crate) fn acquaint(a: &TestNode, b: &TestNode) {
    know(a, b);
    know(b, a);
}

/// One event of the transport's log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line(HashMap<&'static str, String>);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

pub(crate) struct Log {
    lines: Mutex<Vec<Line>>,
    more: Notify,
}

struct Collector(&'static Log);

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "swarmer::mesh"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.0.lines.lock().push(line);
        self.0.more.notify_waiters();
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

pub(crate) fn log() -> &'static Log {
    static LOG: OnceLock<&'static Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log: &'static Log =
            Box::leak(Box::new(Log { lines: Mutex::default(), more: Notify::new() }));
        tracing::subscriber::set_global_default(Collector(log)).expect("the only one");
        log
    })
}

impl Log {
    /// Waits for the refusal of, or by, the peer at an address.
    pub(crate) async fn refusal(&self, by: &str, peer: SocketAddr, code: &str) {
        let peer = peer.to_string();
        let found = async {
            loop {
                let more = self.more.notified();
                let is = |line: &&Line| {
                    let has = |key, value: &str| line.0.get(key).is_some_and(|v| v == value);
                    has("event", "peer_refused") && has("peer", &peer) && has("by", by)
                };
                let codes: Vec<_> =
                    self.lines.lock().iter().filter(is).map(|l| l.0["code"].clone()).collect();
                if codes.iter().any(|found| found == code) {
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_millis(50), more).await;
            }
        };
        if tokio::time::timeout_at(soon(), found).await.is_err() {
            panic!("no line by {by} on {peer} with {code} in {:#?}", self.lines.lock());
        }
    }
}
