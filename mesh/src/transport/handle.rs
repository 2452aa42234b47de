//! The way to send.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use swarmer_model::{Code, NodeId};
use tokio::{
    sync::broadcast,
    time::{Instant, timeout_at},
};

use super::{
    accept::open_when_limited,
    close::{CloseCode, Loss, loss},
    config::MAX_REQUEST,
    error::{DialError, OpenError, RefusedBy, RequestError},
    refusals::Refused,
    registry::{ConnectionInfo, Direction, Live},
    shared::{Shared, TransportStats, count},
    stranger::{self, FoundStream, JoinStream},
    vigil,
};
use crate::{
    codes,
    identity::{Fingerprint, Identity, IdentityError, Verdict},
    stream::{
        Class, FrameError, ResetCode, StreamHeader, StreamKind, Versions, abort, read_frame,
        write_frame_after,
    },
};

/// A connection to a peer with an expired certificate, or one of an authority that is not believed, is
/// dialled anew at most this often, to see whether that has changed.
const LIMITED_REDIAL: Duration = Duration::from_secs(1);

/// The way to send, and to look at and change what the transport does. Cheap to clone.
///
/// Every method may be called from any runtime.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The address that the port is bound to.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.shared.endpoints.of(Class::Control).local_addr()
    }

    /// What this node shows and serves now.
    pub fn identity(&self) -> Identity {
        self.shared.current().identity.clone()
    }

    /// Shows and serves another identity from now on: after founding or joining, after renewal,
    /// when the authority rotates, when founding is over. Standing connections and their streams
    /// go on; new streams to peers go over new connections if another certificate is shown.
    ///
    /// # Errors
    /// Key, certificate and cluster do not fit together; then nothing changes.
    pub fn set_identity(&self, identity: Identity) -> Result<(), IdentityError> {
        self.shared.set_identity(identity)
    }

    /// Whether a member answered a request that is open only to those whose certificates it believes,
    /// since this node shows the one that it shows, or the one before it: then neither of the two slept
    /// while the authority changed.
    pub fn is_taken(&self) -> bool {
        self.shared.current().taken.load(Ordering::Relaxed)
    }

    /// Opens a stream to a member and writes its header. Dials if there is no connection: one
    /// dial serves all who wait.
    ///
    /// # Errors
    /// In every case nothing was started at the peer. After success the caller decides by reset
    /// codes ([`ResetCode::not_started`]).
    pub async fn open(
        &self,
        peer: NodeId,
        class: Class,
        kind: StreamKind,
        deadline: Instant,
    ) -> Result<(SendStream, RecvStream), OpenError> {
        let (live, mut send, recv) = self.open_bare(peer, class, kind, deadline).await?;
        let header = StreamHeader { version: live.version(), kind };
        send.write_all(&header.encode()).await.map_err(|error| self.unwritten(&live, &error))?;
        Ok((send, recv))
    }

    /// As [`Self::open`], but the header is not written yet: the caller sends it in one write
    /// with what comes first, which saves a packet.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with_prefix(
        &self,
        peer: NodeId,
        class: Class,
        kind: StreamKind,
        deadline: Instant,
    ) -> Result<(SendStream, RecvStream, Bytes), OpenError> {
        let (live, send, recv) = self.open_bare(peer, class, kind, deadline).await?;
        let header = StreamHeader { version: live.version(), kind };
        Ok((send, recv, Bytes::copy_from_slice(&header.encode())))
    }

    async fn open_bare(
        &self,
        peer: NodeId,
        class: Class,
        kind: StreamKind,
        deadline: Instant,
    ) -> Result<(Arc<Live>, SendStream, RecvStream), OpenError> {
        let live = self.connection(peer, class, kind, deadline).await?;
        self.stream_on(live, deadline).await
    }

    async fn stream_on(
        &self,
        live: Arc<Live>,
        deadline: Instant,
    ) -> Result<(Arc<Live>, SendStream, RecvStream), OpenError> {
        let peer = live.peer.node;
        // Waits where the peer has as many streams as it takes.
        let opened = timeout_at(deadline, live.connection.open_bi()).await;
        let (send, recv) = opened
            .map_err(|_| OpenError::Deadline { peer })?
            .map_err(|error| self.lost(&live, loss(&error)))?;
        live.touch();
        count(&self.shared.counters.streams_opened);
        Ok((live, send, recv))
    }

    fn unwritten(&self, live: &Arc<Live>, error: &quinn::WriteError) -> OpenError {
        let reason = live.connection.close_reason();
        let reason = reason.map_or(Loss::Unreachable(error.to_string()), |error| loss(&error));
        self.lost(live, reason)
    }

    /// The versions of the wire that this node speaks.
    pub fn versions(&self) -> Versions {
        self.shared.config.versions()
    }

    /// The version of the wire (see [`swarmer_model::wire`]) that is spoken on the connection over which
    /// a stream to the peer would go now; none if one would have to be dialled.
    pub fn version(&self, peer: NodeId, class: Class) -> Option<u8> {
        self.shared.pool.standing(peer, class).map(|live| live.version())
    }

    /// One request and one answer, each one frame of at most [`MAX_REQUEST`] bytes, on the
    /// connection that the kind belongs to. On the deadline the stream is reset with
    /// [`ResetCode::CANCELLED`].
    ///
    /// # Errors
    /// [`RequestError::not_started`] says whether the request may be sent elsewhere.
    pub async fn request(
        &self,
        peer: NodeId,
        kind: StreamKind,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, RequestError> {
        self.request_since(self.shared.config.versions().oldest, peer, kind, body, deadline).await
    }

    /// As [`Self::request`], for a body that is understood since this version of the wire only.
    ///
    /// # Errors
    /// As [`Self::request`]; [`OpenError::TooOld`] if the peer, as it is by now, is older.
    pub async fn request_since(
        &self,
        since: u8,
        peer: NodeId,
        kind: StreamKind,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, RequestError> {
        let live = self.connection(peer, kind.class(), kind, deadline).await?;
        let version = live.version();
        if version < since {
            return Err(OpenError::TooOld { peer, speaks: version, needs: since }.into());
        }
        let (live, mut send, mut recv) = self.stream_on(live, deadline).await?;
        let header = Bytes::copy_from_slice(&StreamHeader { version, kind }.encode());
        let exchange = async {
            // A peer that broke off before it read everything says why on the reading side.
            let written = write_frame_after(&mut send, header, body).await;
            if let Err(error @ FrameError::TooLarge { .. }) = written {
                // Nothing was sent that the peer could answer.
                return Err(error);
            }
            if written.is_ok() {
                let _ = send.finish();
            }
            match (read_frame(&mut recv, MAX_REQUEST).await, written) {
                (Ok(answer), _) => Ok(answer),
                (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
            }
        };
        match timeout_at(deadline, exchange).await {
            Ok(Err(source @ FrameError::TooLarge { .. })) => {
                abort(&mut send, &mut recv, ResetCode::CANCELLED);
                Err(RequestError::Frame { peer, source })
            }
            Ok(Ok(answer)) => {
                let current = self.shared.current();
                if !kind.allowed_when_unbelieved() && live.generation >= current.oldest_good {
                    current.taken.store(true, Ordering::Relaxed);
                }
                Ok(answer)
            }
            Ok(Err(source)) => Err(RequestError::Frame { peer, source }),
            Err(_) => {
                abort(&mut send, &mut recv, ResetCode::CANCELLED);
                Err(RequestError::Deadline { peer })
            }
        }
    }

    async fn connection(
        &self,
        peer: NodeId,
        class: Class,
        kind: StreamKind,
        deadline: Instant,
    ) -> Result<Arc<Live>, OpenError> {
        if peer == self.shared.current().identity.node {
            return Err(OpenError::Loopback { peer });
        }
        let shared = &self.shared;
        let mut live = shared.pool.connect(shared, peer, class, deadline).await?;
        let shut = |live: &Live| {
            live.limited(shared.clock.now()) && !open_when_limited(shared, live, kind)
        };
        if shut(&live) && live.opened.elapsed() >= LIMITED_REDIAL {
            shared.pool.leave(&live);
            live = shared.pool.connect(shared, peer, class, deadline).await?;
        }
        if shut(&live) {
            return Err(match live.believed() {
                true => OpenError::Expired { peer },
                false => OpenError::Unbelieved { peer },
            });
        }
        let (code, reason) = match shared.admission.check(peer, &live.peer.spki) {
            Verdict::Admitted => return Ok(live),
            Verdict::Unknown => (codes::NOT_ADMITTED, format!("node {peer} is not admitted")),
            Verdict::NotYet => {
                (codes::STARTING, format!("whether node {peer} is a member is not known yet"))
            }
            Verdict::Revoked => {
                self.disconnect(peer, "the node was removed from the cluster");
                (codes::REVOKED, format!("node {peer} was removed from the cluster"))
            }
        };
        Err(OpenError::Refused { peer, by: RefusedBy::Us, code, reason })
    }

    fn lost(&self, live: &Arc<Live>, loss: Loss) -> OpenError {
        self.shared.pool.leave(live);
        let peer = live.peer.node;
        match loss {
            Loss::Refused { by, code, reason } => OpenError::Refused { peer, by, code, reason },
            Loss::Unreachable(reason) => {
                OpenError::Unreachable { peer, address: live.connection.remote_address(), reason }
            }
        }
    }

    /// Dials a node to join its cluster by, on `swarmer-join/1`. The node must prove that the
    /// authority with this fingerprint signed its certificate. Shows no certificate.
    ///
    /// # Errors
    /// Among others: another authority than the pinned one, or an expired certificate.
    pub async fn dial_join(
        &self,
        address: SocketAddr,
        pin: Fingerprint,
        deadline: Instant,
    ) -> Result<JoinStream, DialError> {
        stranger::dial_join(&self.shared, address, pin, deadline).await
    }

    /// Dials a fellow founder, on `swarmer-found/1`. Both sides prove the key of a self-signed
    /// certificate and nothing else.
    ///
    /// # Errors
    /// Among others: the other side does not found (any more).
    pub async fn dial_found(
        &self,
        address: SocketAddr,
        deadline: Instant,
    ) -> Result<FoundStream, DialError> {
        stranger::dial_found(&self.shared, address, deadline).await
    }

    /// The key (DER, SubjectPublicKeyInfo) of the node at an address, in a cluster or not, proven by
    /// TLS on `swarmer-found/1`. Who asks says what a failure means: none is reported.
    ///
    /// # Errors
    /// Among others: nobody answers there before the deadline.
    pub async fn key_at(
        &self,
        address: SocketAddr,
        deadline: Instant,
    ) -> Result<Vec<u8>, DialError> {
        stranger::key_at(&self.shared, address, deadline).await
    }

    /// Whether a connection with the peer stands, in either direction, on which it did not fail to answer
    /// lately: for a quarter of `idle_timeout` and two round trips, or where QUIC keeps it alive within about
    /// `keep_alive + idle_timeout` of the configuration. `false` says little: nobody may have had a reason to
    /// dial.
    pub fn has_live_connection(&self, peer: NodeId) -> bool {
        let idle = self.shared.config.idle_timeout;
        let (lately, now) = (vigil::late(idle), Instant::now());
        let heard = |live: &Arc<Live>| match (live.class, &live.pulse) {
            (Class::Control, Some(pulse)) => {
                !pulse.is_late(idle / 4 + live.connection.rtt() * 2, now)
            }
            (Class::Control, None) => true,
            (Class::Data, _) => live.heard.silent_for(now) < lately,
        };
        self.shared.registry.of(peer).iter().any(heard)
    }

    /// Peers from which nothing was received for longer than there should have been, each once in a
    /// silence: reasons to ask, no more, and long before [`Self::has_live_connection`] says no. A
    /// slow reader misses the oldest.
    pub fn silent_peers(&self) -> broadcast::Receiver<NodeId> {
        self.shared.silent.subscribe()
    }

    /// The smoothed round trip time to a peer, where a connection stands: the smallest of them,
    /// which is the least disturbed by load.
    ///
    /// Of those that this node dialled, if there are any: it keeps them alive or asks now and then, and so
    /// measures the way. On one that the peer dialled a node that has nothing to say measures
    /// nothing, and shows the way as it was when it last had.
    pub fn rtt(&self, peer: NodeId) -> Option<Duration> {
        let live = self.shared.registry.of(peer);
        let least = |direction: Direction| {
            let same = live.iter().filter(|live| live.direction == direction);
            same.map(|live| live.connection.rtt()).min()
        };
        least(Direction::Outbound).or_else(|| least(Direction::Inbound))
    }

    /// Cuts every connection with a peer, with all that runs on them, and forgets how to reach
    /// it. Whether it may come back is the word of [`crate::identity::Admission`].
    pub fn disconnect(&self, peer: NodeId, reason: &str) {
        self.shared.pool.forget(peer);
        let live = self.shared.registry.of(peer);
        if live.is_empty() {
            return;
        }
        let text = format!("{}: {reason}", codes::REVOKED);
        for live in &live {
            live.connection.close(CloseCode::REVOKED.var(), text.as_bytes());
        }
        tracing::warn!(
            target: "swarmer::mesh",
            event = "disconnected",
            peer = %peer,
            connections = live.len(),
            reason,
        );
    }

    /// The connections that stand.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.shared.registry.infos()
    }

    /// Counts and logs that a stranger was turned away, as rarely as all refusals are logged: the
    /// reason says who, why and what to do.
    pub fn turned_away(
        &self,
        code: Code,
        peer: SocketAddr,
        protocol: &str,
        reason: &dyn fmt::Display,
    ) {
        count(&self.shared.counters.refused);
        self.shared.refusals.refused(RefusedBy::Us, code, peer, protocol, reason);
    }

    /// What either side refuses from now on, as rarely as it is logged.
    pub fn refusals(&self) -> broadcast::Receiver<Refused> {
        self.shared.refusals.listen()
    }

    /// Loses so many of a thousand packets of this port, in each direction, for so long;
    /// [`LOSE_ALL`] cuts the node off. The latest call counts. Says whether it does: only with
    /// [`Config::faults`].
    ///
    /// [`Config::faults`]: super::Config::faults
    /// [`LOSE_ALL`]: super::LOSE_ALL
    pub fn lose(&self, per_mille: u32, time: Duration) -> bool {
        let Some(faults) = self.shared.faults.clone() else { return false };
        let turn = faults.lose(per_mille);
        self.shared.config.io.spawn(async move {
            tokio::time::sleep(time).await;
            faults.end(turn);
        });
        true
    }

    /// Counts for metrics.
    pub fn stats(&self) -> TransportStats {
        self.shared.stats()
    }
}
