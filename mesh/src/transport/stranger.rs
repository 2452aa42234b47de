//! Nodes that are not members yet: joining and founding, on both sides.

use std::net::SocketAddr;

use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use swarmer_model::{ClusterId, Coded as _, NodeId};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Entry,
    accept::Acceptor,
    close::{CloseCode, Loss, loss},
    config::STRANGER_LIFETIME,
    dial::chain,
    error::{DialError, RefusedBy},
    shared::{Kept, Pass, Shared, client_config},
};
use crate::{
    identity::{
        Fingerprint, Refusal, TrustBundle,
        tls::{ANY_NODE, found_client, founder, join_client},
        verify_pinned,
    },
    stream::Class,
};

/// What the exporter is derived under (RFC 5705; the registry reserves the prefix).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-swarmer-admission";

/// A stream to a node of the cluster that a token names.
#[derive(Debug)]
pub struct JoinStream {
    /// To the node.
    pub send: SendStream,
    /// From the node.
    pub recv: RecvStream,
    /// The same on both ends of this connection and on no other.
    pub exporter: [u8; 32],
    /// The node that answers.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The pinned authority.
    pub bundle: TrustBundle,
    /// Where it answers.
    pub remote: SocketAddr,
}

/// A stream to a fellow founder.
#[derive(Debug)]
pub struct FoundStream {
    /// To the founder.
    pub send: SendStream,
    /// From the founder.
    pub recv: RecvStream,
    /// The same on both ends of this connection and on no other: what the founding secret is
    /// bound to.
    pub exporter: [u8; 32],
    /// The founder's key (DER, SubjectPublicKeyInfo), proven by TLS.
    pub spki: Vec<u8>,
    /// Where it answers.
    pub remote: SocketAddr,
}

fn exporter(connection: &Connection) -> [u8; 32] {
    let mut bytes = [0; 32];
    connection
        .export_keying_material(&mut bytes, EXPORTER_LABEL, b"")
        .expect("32 bytes can be exported after a handshake");
    bytes
}

/// Serves one stranger: one stream, for a bounded time.
pub(crate) async fn serve(acceptor: &Acceptor, connection: Connection, pass: Pass, founding: bool) {
    let protocol = if founding { "found" } else { "join" };
    let shared = &acceptor.shared;
    let Ok(permit) = shared.strangers.clone().try_acquire_owned() else {
        return acceptor.refuse_crowd(&connection, protocol);
    };
    let entry = if founding {
        let chain = chain(&connection);
        match chain.first().ok_or(Refusal::NoCertificate).and_then(founder) {
            Ok(spki) => Entry::Found { spki },
            Err(refusal) => return acceptor.refuse_peer(&connection, protocol, &refusal),
        }
    } else {
        Entry::Join
    };
    drop(pass);
    let exporter = exporter(&connection);
    let remote = connection.remote_address();
    let talk = async {
        let (send, recv) = match connection.accept_bi().await {
            Ok(streams) => streams,
            Err(error) => {
                if let Loss::Refused { by, code, reason } = loss(&error) {
                    shared.refusals.refused(by, code, remote, protocol, &reason);
                }
                return;
            }
        };
        let joins = acceptor.joins.clone();
        // On the runtime of handlers; it ends with its time or with the transport.
        let handler = shared.config.control.spawn(async move {
            let work = joins.join(remote, entry, exporter, send, recv);
            // Its own bound, because a task goes on when nobody waits for it.
            let _ = timeout(STRANGER_LIFETIME, work).await;
        });
        let _ = handler.await;
        // The stranger closes when it has read the answer.
        connection.closed().await;
    };
    tokio::select! {
        _ = timeout(STRANGER_LIFETIME, talk) => {}
        () = acceptor.kill.cancelled() => {}
    }
    connection.close(CloseCode::DONE.var(), b"");
    drop(permit);
}

async fn connect(
    shared: &Shared,
    tls: rustls::ClientConfig,
    address: SocketAddr,
) -> Result<Connection, DialError> {
    let client = client_config(&shared.config, tls, Kept::Stranger);
    shared
        .endpoints
        .of(Class::Control)
        .connect_with(client, address, ANY_NODE)
        .map_err(|error| DialError::Unreachable { address, reason: error.to_string() })?
        .await
        .map_err(|error| lost(address, &error))
}

fn lost(address: SocketAddr, error: &ConnectionError) -> DialError {
    match loss(error) {
        Loss::Refused { by, code, reason } => DialError::Refused { address, by, code, reason },
        Loss::Unreachable(reason) => DialError::Unreachable { address, reason },
    }
}

fn refuse(connection: &Connection, address: SocketAddr, refusal: &Refusal) -> DialError {
    let reason = format!("{}: {refusal}", refusal.code());
    connection.close(CloseCode::REFUSED.var(), reason.as_bytes());
    DialError::Refused { address, by: RefusedBy::Us, code: refusal.code(), reason }
}

fn report<T>(
    shared: &Shared,
    protocol: &str,
    result: Result<T, DialError>,
) -> Result<T, DialError> {
    match &result {
        Ok(_) => {}
        Err(DialError::Refused { address, by, code, reason }) => {
            shared.refusals.refused(*by, *code, *address, protocol, reason);
        }
        Err(error @ (DialError::Unreachable { address, .. } | DialError::Deadline { address })) => {
            shared.refusals.unreachable(error.code(), *address, protocol, error);
        }
        Err(DialError::Identity { .. }) => {}
    }
    result
}

pub(crate) async fn dial_join(
    shared: &Shared,
    address: SocketAddr,
    pin: Fingerprint,
    deadline: Instant,
) -> Result<JoinStream, DialError> {
    let attempt = async {
        let tls = join_client(pin, shared.clock.clone())
            .map_err(|error| DialError::Identity { reason: error.to_string() })?;
        let connection = connect(shared, tls, address).await?;
        let peer = verify_pinned(&chain(&connection), &pin, shared.clock.now())
            .map_err(|refusal| refuse(&connection, address, &refusal))?;
        let (send, recv) = connection.open_bi().await.map_err(|error| lost(address, &error))?;
        Ok(JoinStream {
            send,
            recv,
            exporter: exporter(&connection),
            node: peer.identity.node,
            cluster: peer.cluster,
            bundle: peer.bundle,
            remote: address,
        })
    };
    let result = timeout_at(deadline, attempt).await;
    report(shared, "join", result.unwrap_or(Err(DialError::Deadline { address })))
}

/// A connection with whoever is at an address, and its key.
async fn connect_found(
    shared: &Shared,
    address: SocketAddr,
) -> Result<(Connection, Vec<u8>), DialError> {
    let tls = found_client(&shared.current().identity.key)
        .map_err(|error| DialError::Identity { reason: error.to_string() })?;
    let connection = connect(shared, tls, address).await?;
    let chain = chain(&connection);
    let spki = chain.first().ok_or(Refusal::NoCertificate).and_then(founder);
    let spki = spki.map_err(|refusal| refuse(&connection, address, &refusal))?;
    Ok((connection, spki))
}

pub(crate) async fn key_at(
    shared: &Shared,
    address: SocketAddr,
    deadline: Instant,
) -> Result<Vec<u8>, DialError> {
    let attempt = timeout_at(deadline, connect_found(shared, address));
    let (connection, spki) = attempt.await.unwrap_or(Err(DialError::Deadline { address }))?;
    connection.close(CloseCode::DONE.var(), b"");
    Ok(spki)
}

pub(crate) async fn dial_found(
    shared: &Shared,
    address: SocketAddr,
    deadline: Instant,
) -> Result<FoundStream, DialError> {
    let attempt = async {
        let (connection, spki) = connect_found(shared, address).await?;
        let (send, recv) = connection.open_bi().await.map_err(|error| lost(address, &error))?;
        Ok(FoundStream { send, recv, exporter: exporter(&connection), spki, remote: address })
    };
    let result = timeout_at(deadline, attempt).await;
    report(shared, "found", result.unwrap_or(Err(DialError::Deadline { address })))
}
