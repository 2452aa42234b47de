//! Dialling a member.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use quinn::{Connection, ConnectionError};
use rustls_pki_types::CertificateDer;
use swarmer_model::{Coded as _, NodeId};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    close::{CloseCode, Loss, loss},
    error::{OpenError, RefusedBy},
    registry::{Direction, Live, Of},
    shared::{INITIAL_RTT, Shared},
    vigil,
};
use crate::{
    codes,
    identity::{
        tls::server_name,
        {Identity, Refusal},
    },
    stream::{Class, Versions},
};

/// Who has not answered a dial by then, in the round trips that are assumed at first, is not there: its answer
/// and that to the same question, asked again after three and nine of them (RFC 9002, section 6.2).
const FIRST_ANSWER: u32 = 13;
/// An attempt that is younger is not begun anew: two nodes often dial each other at once.
const FRESH: Duration = Duration::from_secs(1);

/// Dials a member, and waits until it has let us in. `again` has it begin anew.
pub(crate) async fn member(
    shared: &Arc<Shared>,
    peer: NodeId,
    class: Class,
    address: SocketAddr,
    again: &Notify,
) -> Result<Arc<Live>, OpenError> {
    let dialling = async {
        loop {
            // It may be heard of from elsewhere.
            let address = shared.addresses.address(peer).unwrap_or(address);
            let live = tokio::select! {
                live = attempt(shared, peer, class, address) => live?,
                () = stale(again) => continue,
            };
            // Our certificate was of no use any more, and another one came meanwhile.
            if live.generation >= shared.current().oldest_good {
                return Ok(live);
            }
            live.connection.close(CloseCode::DONE.var(), b"dialled with an old certificate");
        }
    };
    let result = patiently(shared, peer, class, dialling).await.unwrap_or_else(|waited| {
        let reason = format!("no answer in {} ms", waited.as_millis());
        Err(OpenError::Unreachable { peer, address, reason })
    });
    match &result {
        Ok(live) => {
            tracing::debug!(
                target: "swarmer::mesh",
                event = "connected",
                peer = %peer,
                address = %address,
                class = class.as_str(),
                version = live.version(),
                rtt_us = live.connection.rtt().as_micros(),
            );
        }
        Err(OpenError::Refused { by, code, reason, .. }) => {
            shared.refusals.refused(*by, *code, address, class.as_str(), reason);
        }
        Err(error) => {
            shared.refusals.unreachable(error.code(), address, class.as_str(), error);
        }
    }
    result
}

/// Waits until an attempt is no use any more: the peer was heard of, and would have answered by now.
async fn stale(again: &Notify) {
    let began = Instant::now();
    loop {
        again.notified().await;
        if began.elapsed() > FRESH {
            return;
        }
    }
}

/// Waits for a dial as long as one may take. On the data connection that is less, unless the peer's
/// control connection says that it lives: threads that run guests may be late with a handshake.
///
/// # Errors
/// How long was waited in vain.
async fn patiently<T>(
    shared: &Arc<Shared>,
    peer: NodeId,
    class: Class,
    dialling: impl Future<Output = T>,
) -> Result<T, Duration> {
    let config = &shared.config;
    let began = Instant::now();
    let mut dialling = pin!(dialling);
    if class == Class::Control {
        let most = config.dial_timeout;
        return timeout(most, dialling).await.map_err(|_| most);
    }
    let (ask, late) =
        (config.idle_timeout / 2, vigil::late(config.idle_timeout).min(config.dial_timeout));
    if let Ok(done) = timeout(ask.min(late), &mut dialling).await {
        return Ok(done);
    }
    shared.pool.prepare(shared, peer, Class::Control);
    if let Ok(done) = timeout(late.saturating_sub(ask), &mut dialling).await {
        return Ok(done);
    }
    let most = config.dial_timeout.max(config.data_idle_timeout);
    while began.elapsed() < most && shared.registry.controlled(peer, Direction::Outbound).is_some()
    {
        if let Ok(done) = timeout(ask / 2, &mut dialling).await {
            return Ok(done);
        }
    }
    Err(began.elapsed())
}

async fn attempt(
    shared: &Arc<Shared>,
    peer: NodeId,
    class: Class,
    address: SocketAddr,
) -> Result<Arc<Live>, OpenError> {
    let current = shared.current();
    let (Some(client), Some(judge), Identity { membership: Some(membership), .. }) =
        (current.client(class), &current.judge, &current.identity)
    else {
        return Err(OpenError::NoIdentity);
    };
    let name = server_name(membership.cluster, peer);
    let unreachable = |reason: String| OpenError::Unreachable { peer, address, reason };
    let lost = |error: ConnectionError| match loss(&error) {
        Loss::Refused { by, code, reason } => OpenError::Refused { peer, by, code, reason },
        Loss::Unreachable(reason) => unreachable(reason),
    };
    let connect = async |client| {
        let connecting = shared.endpoints.of(class).connect_with(client, address, &name);
        let mut connecting = connecting.map_err(|error| unreachable(error.to_string()))?;
        if class == Class::Control {
            // QUIC itself would wait for as long as a connection may rest.
            let most = shared.config.idle_timeout.max(INITIAL_RTT * FIRST_ANSWER);
            let answer = timeout(most, connecting.handshake_data()).await;
            let silent = |_| unreachable(format!("no answer in {} ms", most.as_millis()));
            answer.map_err(silent)?.map_err(lost)?;
        }
        connecting.await.map_err(lost)
    };
    let mut connection: Connection = connect(client).await?;
    let may_rest = class == Class::Control && shared.config.rests();
    let rests = may_rest && connection.max_datagram_size().is_some();
    if may_rest && !rests {
        // An older one, which would end it as nobody keeps it alive.
        let lasting = current.lasting_client().ok_or(OpenError::NoIdentity)?;
        connection.close(CloseCode::REPLACED.var(), b"dialled anew, to be kept alive");
        connection = connect(lasting).await?;
    }
    let verified = judge.member(&chain(&connection), crate::identity::Side::Server);
    let verified = verified.and_then(|verified| match verified.node == peer {
        true => Ok(verified),
        false => Err(Refusal::WrongNode { presented: verified.node, expected: peer }),
    });
    let identity = verified.map_err(|refusal| {
        let reason = format!("{}: {refusal}", refusal.code());
        connection.close(CloseCode::REFUSED.var(), reason.as_bytes());
        OpenError::Refused { peer, by: RefusedBy::Us, code: refusal.code(), reason }
    })?;
    let mut welcome = connection.accept_uni().await.map_err(lost)?;
    // What `accept::welcome` sends.
    let mut told = [0; 2];
    if let Err(error) = welcome.read_exact(&mut told).await {
        return Err(match connection.close_reason() {
            Some(reason) => lost(reason),
            None => unreachable(error.to_string()),
        });
    }
    let [oldest, newest] = told;
    let (ours, theirs) = (shared.config.versions(), Versions { oldest, newest });
    let Some(version) = ours.agree(theirs) else {
        let code = codes::UNKNOWN_STREAM;
        let reason = format!("{code}: it speaks versions {theirs} of streams, this node {ours}");
        connection.close(CloseCode::REFUSED.var(), reason.as_bytes());
        return Err(OpenError::Refused { peer, by: RefusedBy::Us, code, reason });
    };
    let expired = identity.expired(shared.clock.now());
    let of = Of {
        class,
        direction: Direction::Outbound,
        generation: current.generation,
        own_until: membership.certificate.not_after(),
        rests,
    };
    let live = Live::new(connection, identity, of, expired, version);
    // Only inbound connections can be too many.
    let _ = shared.registry.insert(&live);
    // Whoever was removed between the two looks was not found by `disconnect`.
    if let Err(refusal) = judge.member(&chain(&live.connection), crate::identity::Side::Server) {
        let (code, reason) = (refusal.code(), format!("{}: {refusal}", refusal.code()));
        shared.registry.remove(&live);
        live.connection.close(CloseCode::REFUSED.var(), reason.as_bytes());
        return Err(OpenError::Refused { peer, by: RefusedBy::Us, code, reason });
    }
    shared.config.io.spawn(watch(shared.clone(), live.clone()));
    Ok(live)
}

/// Takes a connection out when it is over.
async fn watch(shared: Arc<Shared>, live: Arc<Live>) {
    let reason = live.connection.closed().await;
    shared.pool.leave(&live);
    shared.registry.remove(&live);
    if let Loss::Refused { by, code, reason } = loss(&reason) {
        let address = live.connection.remote_address();
        shared.refusals.refused(by, code, address, live.class.as_str(), &reason);
    } else {
        live.log_over();
    }
}

/// The certificates that the peer showed, its own first.
pub(crate) fn chain(connection: &Connection) -> Vec<CertificateDer<'static>> {
    connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .map(|chain| *chain)
        .unwrap_or_default()
}
