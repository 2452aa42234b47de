//! QUIC as a stranger speaks it: connections that are only begun, and whole handshakes by somebody
//! whom nobody vouches for.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, TokioRuntime,
    crypto::rustls::QuicClientConfig,
};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tokio::time::timeout;

use crate::seed::Seeded;

/// What nodes serve, by ARCHITECTURE.md; and whether only members are served there.
const SERVED: [(&str, bool); 4] = [
    ("swarmer-control/1", true),
    ("swarmer-data/1", true),
    ("swarmer-join/1", false),
    ("swarmer-found/1", false),
];
/// How long a handshake may take, and after it what the node has to say.
const WAIT: Duration = Duration::from_secs(2);
/// The most that is read of one stream.
const MOST: usize = 64 << 10;
/// Bytes of nonsense in a stream that the stranger opens.
const NONSENSE: u64 = 300;
/// A name that no certificate is asked for.
const ANY: &str = "node";

/// Who the stranger says it is.
#[derive(Debug, Clone)]
enum Passport {
    /// Nobody.
    None,
    /// Somebody without a name, with a key of its own, as founders are.
    Nameless,
    /// This member, by a certificate that the stranger made itself.
    Member(String),
}

/// What came of handshakes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Dialled {
    /// Datagrams that were sent, as far as it is known.
    pub(super) packets: u64,
    /// Bytes of streams for members that came.
    pub(super) served: u64,
}

/// Whole handshakes with a node from where `socket` is: each protocol by each passport, all at once.
/// `member` is the SPIFFE id that one of them claims.
///
/// # Errors
/// The harness cannot make a certificate, or an endpoint.
pub(super) async fn handshakes(
    socket: std::net::UdpSocket,
    to: SocketAddr,
    member: &str,
    random: &mut Seeded,
) -> Result<Dialled> {
    let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))?;
    let mut dials = tokio::task::JoinSet::new();
    for passport in [Passport::None, Passport::Nameless, Passport::Member(member.to_owned())] {
        for (protocol, members) in SERVED {
            let config = client(protocol, &passport)?;
            let endpoint = endpoint.clone();
            let nonsense: Vec<u8> =
                (0..NONSENSE).map(|_| u8::try_from(random.below(256)).unwrap_or(0)).collect();
            dials.spawn(async move { dial(&endpoint, config, to, members, &nonsense).await });
        }
    }
    let mut all = Dialled::default();
    while let Some(dialled) = dials.join_next().await {
        let dialled = dialled?;
        all.packets += dialled.packets;
        all.served += dialled.served;
    }
    endpoint.close(0_u32.into(), b"");
    // Or it would be known to the nodes as one that is there.
    let _ = timeout(WAIT, endpoint.wait_idle()).await;
    Ok(all)
}

async fn dial(
    endpoint: &Endpoint,
    config: ClientConfig,
    to: SocketAddr,
    members: bool,
    nonsense: &[u8],
) -> Dialled {
    // The first packet at least.
    let begun = Dialled { packets: 1, served: 0 };
    let Ok(connecting) = endpoint.connect_with(config, to, ANY) else {
        return Dialled::default();
    };
    let Ok(Ok(connection)) = timeout(WAIT, connecting).await else { return begun };
    let (mut answered, mut welcomed) = (0, 0);
    // A node refuses a certificate after the handshake is complete for the other side.
    let _ = timeout(WAIT, async {
        tokio::join!(ask(&connection, nonsense, &mut answered), listen(&connection, &mut welcomed))
    })
    .await;
    let packets = connection.stats().udp_tx.datagrams;
    connection.close(0_u32.into(), b"");
    Dialled { packets, served: if members { answered + welcomed } else { 0 } }
}

/// Opens a stream, says nonsense, and counts the bytes that come back.
async fn ask(connection: &Connection, nonsense: &[u8], answered: &mut u64) {
    let Ok((mut send, mut recv)) = connection.open_bi().await else { return };
    let _ = send.write_all(nonsense).await;
    let _ = send.finish();
    if let Ok(bytes) = recv.read_to_end(MOST).await {
        *answered += bytes.len() as u64;
    }
}

/// Counts the bytes that the node says by itself, until it closes.
async fn listen(connection: &Connection, welcomed: &mut u64) {
    loop {
        match connection.accept_uni().await {
            Ok(mut stream) => {
                if let Ok(bytes) = stream.read_to_end(MOST).await {
                    *welcomed += bytes.len() as u64;
                }
            }
            Err(_) => return,
        }
    }
}

/// First packets of connections to anybody, each of another one: they are made for a sink here, and
/// mean as much to every node. Their keys and ids are random, whatever the seed.
///
/// # Errors
/// The harness cannot make them.
pub(super) async fn initials(count: usize) -> Result<Vec<Vec<u8>>> {
    let here = (Ipv4Addr::LOCALHOST, 0);
    let sink = tokio::net::UdpSocket::bind(here).await?;
    let to = sink.local_addr()?;
    let endpoint = Endpoint::client(here.into())?;
    let mut packets: Vec<Vec<u8>> = Vec::new();
    for at in 0..count {
        let (protocol, _) = SERVED[at % SERVED.len()];
        let connecting = endpoint.connect_with(client(protocol, &Passport::None)?, to, ANY)?;
        loop {
            let mut packet = vec![0; 2_048];
            let received = timeout(WAIT, sink.recv(&mut packet)).await;
            let length = received.context("no first packet was sent")??;
            packet.truncate(length);
            // What comes late of the one before, which was given up, is not another first one.
            if packets.last().is_none_or(|last| destination(last) != destination(&packet)) {
                packets.push(packet);
                break;
            }
        }
        drop(connecting);
    }
    Ok(packets)
}

/// The destination's connection id in a packet with a long header (RFC 9000, section 17.2).
fn destination(packet: &[u8]) -> Option<&[u8]> {
    let length = usize::from(*packet.get(5)?);
    packet.get(6..6 + length)
}

fn client(protocol: &str, passport: &Passport) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    let mut tls = match passport {
        Passport::None => builder.with_no_client_auth(),
        Passport::Nameless => {
            let (certificate, key) = own(None)?;
            builder.with_client_auth_cert(vec![certificate], key)?
        }
        Passport::Member(id) => {
            let (certificate, key) = own(Some(id))?;
            builder.with_client_auth_cert(vec![certificate], key)?
        }
    };
    tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Ok(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)))
}

/// A certificate that nobody but its holder signed, with this SPIFFE id or none.
fn own(id: Option<&str>) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    if let Some(id) = id {
        ensure!(id.starts_with("spiffe://"), "{id} is no SPIFFE id");
        params.subject_alt_names.push(SanType::URI(id.try_into()?));
    }
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((certificate.der().clone(), key))
}

/// Believes everybody: it is not the node that is to prove something here.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn first_packets_open_a_connection_each() {
        let packets = initials(6).await.unwrap();
        let ids: std::collections::BTreeSet<_> = packets.iter().map(|p| destination(p)).collect();
        assert_eq!((packets.len(), ids.len()), (6, 6));
        for packet in &packets {
            // Long, fixed, and of the type of a first packet; of version 1; padded.
            assert_eq!(packet[0] & 0xf0, 0xc0);
            assert_eq!(packet[1..5], [0, 0, 0, 1]);
            assert!(packet.len() >= 1_200);
        }
    }
}
