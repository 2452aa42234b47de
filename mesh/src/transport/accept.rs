//! The accepting side: who is let in, and who serves its streams.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use quinn::{Connection, Incoming, RecvStream, SendStream, VarInt, crypto::rustls::HandshakeData};
use swarmer_model::{
    Code, Coded as _,
    planted::{self, Bug},
};
use tokio::{
    runtime::Handle as Runtime,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    JoinHandler, Peer, StreamHandler,
    close::{CloseCode, Loss, loss},
    config::{MAX_CONTROL_STREAMS, MAX_DATA_STREAMS, RETRY_ABOVE},
    dial::chain,
    error::RefusedBy,
    registry::{Direction, Live, Of},
    shared::{Pass, Shared, count},
    stranger,
};
use crate::{
    codes,
    identity::{
        PeerIdentity, Refusal, Side, Verdict,
        tls::{ALPN_CONTROL, ALPN_DATA, ALPN_FOUND, ALPN_JOIN},
    },
    stream::{Class, ResetCode, StreamHeader, StreamKind, Versions, abort},
};

/// For a reset to go out before the connection is closed over it.
const RESET_GRACE: Duration = Duration::from_millis(100);

/// All that the accepting side works with.
#[derive(Clone)]
pub(crate) struct Acceptor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) streams: Arc<dyn StreamHandler>,
    pub(crate) joins: Arc<dyn JoinHandler>,
    /// Every task, so that a stop can wait for them.
    pub(crate) tasks: TaskTracker,
    /// Ends the handlers that did not end by themselves.
    pub(crate) kill: CancellationToken,
}

impl Acceptor {
    /// Takes the connection attempts of one endpoint until it is closed; what follows runs on its
    /// threads.
    pub(crate) async fn run(self, class: Class, threads: Runtime) {
        while let Some(incoming) = self.shared.endpoints.of(class).accept().await {
            self.consider(incoming, &threads);
        }
    }

    fn consider(&self, incoming: Incoming, threads: &Runtime) {
        let shared = &self.shared;
        let address = incoming.remote_address();
        let validated = incoming.remote_address_validated();
        let Some(pass) = shared.gate.enter(address.ip()) else {
            count(&shared.counters.dropped);
            let reason = &"too many handshakes at once";
            shared.refusals.refused(RefusedBy::Us, codes::OVERLOADED, address, "quic", reason);
            // An answer to an address that was not proven could be aimed at somebody else.
            if validated {
                incoming.refuse()
            } else {
                incoming.ignore()
            }
            return;
        };
        if !validated && shared.gate.inside() > RETRY_ABOVE && incoming.may_retry() {
            // It can only fail where a retry was not allowed, which was just asked.
            let _ = incoming.retry();
            return;
        }
        let acceptor = self.clone();
        self.tasks.spawn_on(async move { acceptor.connection(incoming, pass).await }, threads);
    }

    fn refuse(&self, connection: &Connection, protocol: &str, code: Code, reason: &str) {
        count(&self.shared.counters.refused);
        let address = connection.remote_address();
        self.shared.refusals.refused(RefusedBy::Us, code, address, protocol, &reason);
        connection.close(CloseCode::REFUSED.var(), format!("{code}: {reason}").as_bytes());
    }

    async fn connection(self, incoming: Incoming, pass: Pass) {
        let address = incoming.remote_address();
        let handshake = async { incoming.accept()?.await };
        let connection = match timeout(self.shared.config.dial_timeout, handshake).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                count(&self.shared.counters.refused);
                match loss(&error) {
                    Loss::Refused { by, code, reason } => {
                        self.shared.refusals.refused(by, code, address, "tls", &reason);
                    }
                    Loss::Unreachable(reason) => {
                        let code = codes::UNREACHABLE;
                        self.shared.refusals.unreachable(code, address, "tls", &reason);
                    }
                }
                return;
            }
            Err(_) => {
                count(&self.shared.counters.dropped);
                let reason = &"the handshake took too long";
                self.shared.refusals.unreachable(codes::DEADLINE, address, "tls", reason);
                return;
            }
        };
        let protocol = connection
            .handshake_data()
            .and_then(|data| data.downcast::<HandshakeData>().ok())
            .and_then(|data| data.protocol)
            .unwrap_or_default();
        match protocol.as_slice() {
            ALPN_CONTROL => self.member(connection, pass, Class::Control).await,
            ALPN_DATA => self.member(connection, pass, Class::Data).await,
            ALPN_JOIN => stranger::serve(&self, connection, pass, false).await,
            ALPN_FOUND => stranger::serve(&self, connection, pass, true).await,
            _ => self.refuse(&connection, "none", codes::NOT_SERVED, "no protocol was chosen"),
        }
    }

    /// Refuses with what identity or the desired state say.
    pub(crate) fn refuse_peer(&self, connection: &Connection, protocol: &str, refusal: &Refusal) {
        self.refuse(connection, protocol, refusal.code(), &refusal.to_string());
    }

    pub(crate) fn refuse_crowd(&self, connection: &Connection, protocol: &str) {
        self.refuse(connection, protocol, codes::OVERLOADED, "too many connections at once");
    }

    /// The word on a member whose handshake is complete; authoritative, whatever TLS let pass.
    fn judge(&self, connection: &Connection) -> Result<PeerIdentity, Refusal> {
        let chain = chain(connection);
        if chain.is_empty() {
            return Err(Refusal::NoCertificate);
        }
        match &self.shared.current().judge {
            Some(judge) => judge.member(&chain, Side::Client),
            None => Err(Refusal::Malformed("this node is in no cluster".to_owned())),
        }
    }

    async fn member(self, connection: Connection, pass: Pass, class: Class) {
        let shared = &self.shared;
        let peer = match self.judge(&connection) {
            Ok(peer) => peer,
            Err(_) if planted::is_on(Bug::WelcomeStranger) => {
                let _ = welcome(&connection, shared.config.versions()).await;
                connection.closed().await;
                return;
            }
            Err(refusal) => return self.refuse_peer(&connection, class.as_str(), &refusal),
        };
        let max_streams = match class {
            Class::Control => MAX_CONTROL_STREAMS,
            Class::Data => MAX_DATA_STREAMS,
        };
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(max_streams));
        connection.set_receive_window(VarInt::from_u32(shared.config.connection_window));
        let expired = peer.expired(shared.clock.now());
        let current = shared.current();
        let Some(own) = &current.identity.membership else { return };
        let of = Of {
            class,
            direction: Direction::Inbound,
            generation: current.generation,
            own_until: own.certificate.not_after(),
            rests: class == Class::Control
                && shared.config.rests()
                && connection.max_datagram_size().is_some(),
        };
        let oldest = shared.config.versions().oldest;
        let live = Live::new(connection, peer, of, expired, oldest);
        if shared.registry.insert(&live).is_err() {
            return self.refuse_crowd(&live.connection, class.as_str());
        }
        // Whoever was removed between the two looks was not found by `disconnect`.
        if let Err(refusal) = self.judge(&live.connection) {
            shared.registry.remove(&live);
            return self.refuse_peer(&live.connection, class.as_str(), &refusal);
        }
        drop(pass);
        shared.pool.heard_of(live.peer.node);
        tracing::debug!(
            target: "swarmer::mesh",
            event = "accepted",
            peer = %live.peer.node,
            address = %live.connection.remote_address(),
            class = class.as_str(),
            expired,
            believed = live.believed(),
        );
        if welcome(&live.connection, shared.config.versions()).await.is_ok() {
            self.streams_of(&live, max_streams as usize).await;
        }
        shared.registry.remove(&live);
        // One that does not want what it was told by the welcome says so, and both logs should.
        if let Some(Loss::Refused { by: RefusedBy::Peer, code, reason }) =
            live.connection.close_reason().as_ref().map(loss)
        {
            let address = live.connection.remote_address();
            shared.refusals.refused(RefusedBy::Peer, code, address, class.as_str(), &reason);
        }
        live.log_over();
    }

    /// Takes streams until the connection is over or nothing ran on it for long.
    async fn streams_of(&self, live: &Arc<Live>, max_streams: usize) {
        let room = Arc::new(Semaphore::new(max_streams));
        let unused = self.shared.config.unused(live.class) * 5 / 4;
        let runtime = match live.class {
            Class::Control => &self.shared.config.control,
            Class::Data => &self.shared.config.data,
        };
        loop {
            let idle = unused.saturating_sub(live.unused_for()).max(Duration::from_millis(1));
            let (mut send, mut recv) = tokio::select! {
                stream = live.connection.accept_bi() => match stream {
                    Ok(stream) => stream,
                    Err(_) => return,
                },
                () = sleep(idle) => {
                    if live.streams.load(Ordering::Relaxed) > 0 {
                        live.touch();
                    } else if live.unused_for() >= unused {
                        live.connection.close(CloseCode::UNUSED.var(), b"unused for long");
                        return;
                    }
                    continue;
                }
            };
            live.touch();
            if self.shared.stopping.is_cancelled() {
                abort(&mut send, &mut recv, ResetCode::NOT_STARTED);
                continue;
            }
            let Ok(permit) = room.clone().try_acquire_owned() else {
                // QUIC counts streams too, but a handler may outlive its stream.
                abort(&mut send, &mut recv, ResetCode::OVERLOADED);
                continue;
            };
            self.spawn_stream(runtime, live.clone(), permit, send, recv);
        }
    }

    fn spawn_stream(
        &self,
        runtime: &Runtime,
        live: Arc<Live>,
        permit: OwnedSemaphorePermit,
        send: SendStream,
        recv: RecvStream,
    ) {
        let acceptor = self.clone();
        let work = async move {
            let running = Running::new(live.clone(), permit);
            let kill = acceptor.kill.clone();
            tokio::select! {
                () = acceptor.stream(live, send, recv) => {}
                () = kill.cancelled() => {}
            }
            drop(running);
        };
        self.tasks.spawn_on(work, runtime);
    }

    async fn stream(&self, live: Arc<Live>, mut send: SendStream, mut recv: RecvStream) {
        let shared = &self.shared;
        let mut header = [0; StreamHeader::LEN];
        match timeout(shared.config.header_timeout, recv.read_exact(&mut header)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => {
                return abort(&mut send, &mut recv, ResetCode::MALFORMED);
            }
        }
        let header = match StreamHeader::decode(header, shared.config.versions()) {
            Ok(header) => header,
            Err(code) => return abort(&mut send, &mut recv, code),
        };
        live.heard(header.version);
        let peer = &live.peer;
        match shared.admission.check(peer.node, &peer.spki) {
            Verdict::Admitted => {}
            verdict => {
                abort(&mut send, &mut recv, ResetCode::REFUSED);
                if verdict == Verdict::Revoked {
                    // So that the peer reads "not started" before it reads nothing at all.
                    sleep(RESET_GRACE).await;
                    let refusal = Refusal::Revoked(peer.node);
                    self.refuse_peer(&live.connection, live.class.as_str(), &refusal);
                }
                return;
            }
        }
        let limited = live.limited(shared.clock.now());
        if limited && !open_when_limited(shared, &live, header.kind) {
            count(&shared.counters.refused);
            let address = live.connection.remote_address();
            let refusal = match live.believed() {
                true => Refusal::Expired(peer.node),
                false => Refusal::Unbelieved(peer.node),
            };
            let kind = header.kind.as_str();
            shared.refusals.refused(RefusedBy::Us, refusal.code(), address, kind, &refusal);
            return abort(&mut send, &mut recv, ResetCode::EXPIRED);
        }
        count(&shared.counters.streams_served);
        let peer = Peer {
            node: peer.node,
            class: live.class,
            version: header.version,
            limited,
            not_after: peer.not_after,
            addr: live.connection.remote_address(),
        };
        self.streams.handle(peer, header.kind, send, recv).await;
    }
}

/// Whether a kind is open to a peer with an expired certificate, or one of an authority that is not
/// believed.
pub(crate) fn open_when_limited(shared: &Shared, live: &Live, kind: StreamKind) -> bool {
    let allowed = match live.believed() {
        true => kind.allowed_when_expired(),
        false => kind.allowed_when_unbelieved(),
    };
    let of_voters = match kind {
        StreamKind::Raft | StreamKind::RaftAppend => true,
        // Any member may follow, and follows a voter.
        StreamKind::Feed => live.direction == Direction::Outbound,
        _ => false,
    };
    allowed && (!of_voters || shared.admission.voter(live.peer.node))
}

/// Tells the dialler that it is let in, by the versions of the wire that this node speaks, the oldest
/// first. On a one-way stream, because in TLS 1.3 the dialler's handshake is complete before the other
/// side has seen its certificate.
async fn welcome(connection: &Connection, spoken: Versions) -> Result<(), ()> {
    let say = async {
        let mut send = connection.open_uni().await.map_err(drop)?;
        send.write_all(&[spoken.oldest, spoken.newest]).await.map_err(drop)?;
        send.finish().map_err(drop)
    };
    // The dialler's windows are open from the start, so this only waits for a dead one.
    timeout(Duration::from_secs(5), say).await.map_err(drop)?
}

/// Counts a stream while its handler runs.
struct Running(
    Arc<Live>,
    #[expect(dead_code, reason = "held until the handler ends")] OwnedSemaphorePermit,
);

impl Running {
    fn new(live: Arc<Live>, permit: OwnedSemaphorePermit) -> Self {
        live.streams.fetch_add(1, Ordering::Relaxed);
        Self(live, permit)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.touch();
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
