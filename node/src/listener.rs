//! HTTP on a TCP port, for API and ingress alike: bounded connections, TLS where it is given, an
//! orderly end.

use std::{error::Error, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    server::conn::{http1, http2},
    service::Service,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::patience::{Impatient, Patience};

/// How long a client may take for the TLS handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// How long clients may take to send their first bytes, or the head of a request.
pub(crate) const HEAD_DEADLINE: Duration = Duration::from_secs(15);
/// The largest request head, in both versions of HTTP.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How often an h2 client is asked whether it is still there.
const H2_KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long to wait when no connection can be accepted: out of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What an h2 client sends first (RFC 9113, section 3.4), as far as no method starts so.
const H2_PREFACE: &[u8; 3] = b"PRI";

/// The bounds of one listener.
pub(crate) struct Config {
    /// What it serves, for the log.
    pub(crate) name: &'static str,
    /// Connections at once.
    pub(crate) connections: usize,
    /// Requests at once on one h2 connection.
    pub(crate) h2_streams: u32,
    /// How long a client may take to send its first bytes, or the head of a request.
    pub(crate) head: Duration,
    /// How long requests may take to end when the node stops.
    pub(crate) drain: Duration,
    /// How long a client may take nothing of an answer.
    pub(crate) patience: Patience,
    /// Without it the listener speaks plain HTTP.
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

type AnyError = Box<dyn Error + Send + Sync>;

/// Serves connections, each with its own clone of `service`, until `shutdown`; then lets open
/// requests end.
pub(crate) async fn serve<S, B>(
    listener: TcpListener,
    config: Config,
    service: S,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<AnyError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<AnyError>,
{
    let slots = Arc::new(Semaphore::new(config.connections));
    let tls = config.tls.clone().map(TlsAcceptor::from);
    let http = Arc::new(Http::new(&config));
    let graceful = GracefulShutdown::new();
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = Arc::clone(&slots).acquire_owned() => permit,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(target: "swarmer::listener", listener = config.name, %error,
                    "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (tls, shutdown) = (tls.clone(), shutdown.clone());
        let client = Client {
            http: Arc::clone(&http),
            service: service.clone(),
            watcher: graceful.watcher(),
            patience: config.patience.clone(),
        };
        tokio::spawn(async move {
            match tls {
                // In a box, so that plain connections have no room for it.
                Some(tls) => Box::pin(client.serve_tls(stream, tls, shutdown)).await,
                None => client.serve_plain(stream, config.head, shutdown).await,
            }
            drop(permit);
        });
    }
    drop(listener);
    let _ = timeout(config.drain, graceful.shutdown()).await;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    H2,
}

/// How both versions of HTTP are spoken.
struct Http {
    http1: http1::Builder,
    h2: http2::Builder<TokioExecutor>,
}

impl Http {
    fn new(config: &Config) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(config.head)
            .max_buf_size(MAX_HEAD_BYTES);
        let mut h2 = http2::Builder::new(TokioExecutor::new());
        h2.timer(TokioTimer::new())
            .max_concurrent_streams(config.h2_streams)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .keep_alive_interval(Some(H2_KEEP_ALIVE));
        Self { http1, h2 }
    }
}

/// What it takes to serve one client.
struct Client<S> {
    http: Arc<Http>,
    service: S,
    watcher: Watcher,
    patience: Patience,
}

impl<S, B> Client<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<AnyError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<AnyError>,
{
    // A client that has not even said what it speaks does not hold up the end.

    async fn serve_tls(self, stream: TcpStream, tls: TlsAcceptor, shutdown: CancellationToken) {
        let shaken = tokio::select! {
            biased;
            shaken = timeout(HANDSHAKE_DEADLINE, tls.accept(stream)) => shaken,
            () = shutdown.cancelled() => return,
        };
        match shaken {
            Ok(Ok(stream)) => {
                let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                self.speak(if h2 { Protocol::H2 } else { Protocol::Http1 }, stream).await;
            }
            Ok(Err(error)) => {
                tracing::debug!(target: "swarmer::listener", %error, "a TLS handshake failed");
            }
            Err(_) => {
                tracing::debug!(target: "swarmer::listener", "a TLS handshake took too long");
            }
        }
    }

    async fn serve_plain(self, stream: TcpStream, deadline: Duration, shutdown: CancellationToken) {
        let first = tokio::select! {
            biased;
            first = timeout(deadline, sniff(&stream)) => first,
            () = shutdown.cancelled() => return,
        };
        if let Ok(Some(protocol)) = first {
            self.speak(protocol, stream).await;
        }
    }

    async fn speak<I>(self, protocol: Protocol, stream: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = Impatient::new(stream, self.patience);
        let (io, service) = (TokioIo::new(stream), self.service);
        // What a client does to its connection is its own business.
        let _ = match protocol {
            Protocol::Http1 => {
                self.watcher.watch(self.http.http1.serve_connection(io, service)).await
            }
            Protocol::H2 => self.watcher.watch(self.http.h2.serve_connection(io, service)).await,
        };
    }
}

/// What a client speaks without TLS, by its first bytes, which stay unread.
async fn sniff(stream: &TcpStream) -> Option<Protocol> {
    let mut bytes = [0; H2_PREFACE.len()];
    loop {
        let length = stream.peek(&mut bytes).await.ok()?;
        if length == 0 {
            return None;
        }
        if bytes[..length] != H2_PREFACE[..length] {
            return Some(Protocol::Http1);
        }
        if length == H2_PREFACE.len() {
            return Some(Protocol::H2);
        }
        // A preface in pieces is rare enough that looking again is fine.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        net::SocketAddr,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const DRAIN: Duration = Duration::from_secs(60);

    struct Running {
        address: SocketAddr,
        shutdown: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    /// Answers each request with how many there were.
    async fn start(connections: usize, head: Duration) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let config = Config {
            name: "test",
            connections,
            h2_streams: 10,
            head,
            drain: DRAIN,
            patience: Patience::endless(),
            tls: None,
        };
        let count = Arc::new(AtomicUsize::new(0));
        let service = service_fn(move |_| {
            let so_many = count.fetch_add(1, Ordering::SeqCst) + 1;
            async move { Ok::<_, Infallible>(Response::new(so_many.to_string())) }
        });
        let task = tokio::spawn(serve(listener, config, service, shutdown.clone()));
        Running { address, shutdown, task }
    }

    async fn ask(stream: &mut TcpStream) {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    }

    /// The body of an answer, which has one byte.
    async fn answer(stream: &mut TcpStream) -> char {
        let mut text = String::new();
        while !text.contains("\r\n\r\n") || text.ends_with("\r\n\r\n") {
            text.push(stream.read_u8().await.unwrap().into());
        }
        text.chars().last().unwrap()
    }

    #[tokio::test]
    async fn a_connection_beyond_the_bound_waits_for_another_to_end() {
        let running = start(1, HEAD_DEADLINE).await;
        let mut first = TcpStream::connect(running.address).await.unwrap();
        ask(&mut first).await;
        assert_eq!(answer(&mut first).await, '1');
        let mut second = TcpStream::connect(running.address).await.unwrap();
        ask(&mut second).await;
        for expected in ['2', '3', '4'] {
            ask(&mut first).await;
            assert_eq!(answer(&mut first).await, expected);
        }
        drop(first);
        assert_eq!(answer(&mut second).await, '5');
    }

    #[tokio::test]
    async fn a_silent_client_is_let_go() {
        let running = start(1, Duration::from_millis(50)).await;
        let mut silent = TcpStream::connect(running.address).await.unwrap();
        let end = timeout(HEAD_DEADLINE, silent.read(&mut [0])).await;
        assert_eq!(end.expect("it has its place for ever").unwrap(), 0);
    }

    #[tokio::test]
    async fn a_silent_client_does_not_hold_up_the_end() {
        let running = start(10, HEAD_DEADLINE).await;
        let _silent = TcpStream::connect(running.address).await.unwrap();
        // Connections are taken in their order.
        let mut next = TcpStream::connect(running.address).await.unwrap();
        ask(&mut next).await;
        assert_eq!(answer(&mut next).await, '1');
        running.shutdown.cancel();
        timeout(DRAIN / 2, running.task).await.expect("the end waits for nobody").unwrap();
    }

    #[tokio::test]
    async fn h2_is_known_by_its_preface_even_in_pieces() {
        let running = start(10, HEAD_DEADLINE).await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for piece in
            [&b"P"[..], b"R", b"I * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0, 0, 0, 4, 0, 0, 0, 0, 0]]
        {
            stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        // The server's own SETTINGS come first (RFC 9113, section 3.4).
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head[3], 4, "{head:?}");
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        // Begins like the preface, and is none.
        stream.write_all(b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        assert_eq!(answer(&mut stream).await, '1');
    }
}
