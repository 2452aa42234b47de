//! The listener: bounded connections, TLS where it is given, an orderly end.

use std::{sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::Watcher},
    service::TowerToHyperService,
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

use crate::api::{Api, OnceContext, router::router};

/// Connections at once: operators, scrapers and watches, each with a descriptor and a task.
const MAX_CONNECTIONS: usize = 1_024;
/// How long a client may take for the handshake, or to send its first bytes.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a client may take to send the head of a request.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);
/// The largest request head.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Requests at once on one h2 connection.
const MAX_H2_STREAMS: u32 = 128;
/// How long requests may take to end when the node stops.
const DRAIN: Duration = Duration::from_secs(5);
/// What an h2 client sends first (RFC 9113, section 3.4), as far as no method starts so.
const H2_PREFACE: &[u8; 3] = b"PRI";

/// Serves the API on `listener` until `shutdown`, then lets open requests end. `open`: no token
/// is needed. The node may become a member later: see [`OnceContext`].
pub(crate) async fn serve(
    listener: TcpListener,
    context: Arc<OnceContext>,
    tls: Option<Arc<ServerConfig>>,
    open: bool,
    shutdown: CancellationToken,
) {
    let api = Arc::new(Api::new(context, open, shutdown.clone()));
    let server = Server {
        router: router(api),
        tls: tls.map(TlsAcceptor::from),
        graceful: hyper_util::server::graceful::GracefulShutdown::new(),
    };
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
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
                // Out of descriptors most likely: wait for some to come free.
                tracing::warn!(target: "swarmer::api", %error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let connection = server.connection(stream);
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            // A client that has not even said what it speaks does not hold up the end.
            connection.serve(shutdown).await;
            drop(permit);
        });
    }
    drop(listener);
    let _ = timeout(DRAIN, server.graceful.shutdown()).await;
}

struct Server {
    router: axum::Router,
    tls: Option<TlsAcceptor>,
    graceful: hyper_util::server::graceful::GracefulShutdown,
}

struct Connection {
    stream: TcpStream,
    router: axum::Router,
    tls: Option<TlsAcceptor>,
    watcher: Watcher,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    H2,
}

impl Server {
    fn connection(&self, stream: TcpStream) -> Connection {
        Connection {
            stream,
            router: self.router.clone(),
            tls: self.tls.clone(),
            watcher: self.graceful.watcher(),
        }
    }
}

impl Connection {
    async fn serve(self, shutdown: CancellationToken) {
        let Self { stream, router, tls, watcher } = self;
        match tls {
            Some(tls) => {
                let shaken = tokio::select! {
                    () = shutdown.cancelled() => return,
                    shaken = timeout(HANDSHAKE_DEADLINE, tls.accept(stream)) => shaken,
                };
                match shaken {
                    Ok(Ok(stream)) => {
                        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        let protocol = if h2 { Protocol::H2 } else { Protocol::Http1 };
                        run(stream, protocol, router, watcher).await;
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(target: "swarmer::api", %error, "a TLS handshake failed");
                    }
                    Err(_) => {
                        tracing::debug!(target: "swarmer::api", "a TLS handshake took too long");
                    }
                }
            }
            None => {
                let first = tokio::select! {
                    () = shutdown.cancelled() => return,
                    first = timeout(HANDSHAKE_DEADLINE, sniff(&stream)) => first,
                };
                if let Ok(Some(protocol)) = first {
                    run(stream, protocol, router, watcher).await;
                }
            }
        }
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

async fn run<S>(stream: S, protocol: Protocol, router: axum::Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_H2_STREAMS)
        .max_header_list_size(64 << 10)
        .keep_alive_interval(Some(Duration::from_secs(20)));
    let builder = match protocol {
        Protocol::Http1 => builder.http1_only(),
        Protocol::H2 => builder.http2_only(),
    };
    let connection = builder
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .into_owned();
    // What a client does to its connection is its own business.
    let _ = watcher.watch(connection).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    struct Running {
        address: SocketAddr,
        context: Arc<OnceContext>,
        shutdown: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    async fn start(open: bool) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let context = Arc::new(OnceContext::default());
        let shutdown = CancellationToken::new();
        let serving = serve(listener, Arc::clone(&context), None, open, shutdown.clone());
        let task = tokio::spawn(serving);
        Running { address, context, shutdown, task }
    }

    async fn ask(address: SocketAddr, method: &str, path: &str, more: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{more}\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    #[tokio::test]
    async fn a_node_that_is_no_member_yet_says_what_it_waits_for() {
        let running = start(true).await;
        let address = running.address;
        running.context.set_stage("waiting for two more founders".into());
        assert_eq!(ask(address, "GET", "/livez", "").await.0, 200);
        let (status, answer) = ask(address, "GET", "/readyz", "").await;
        assert_eq!(status, 503);
        assert!(answer.contains("waiting for two more founders"), "{answer}");
        assert!(answer.contains("x-swarmer-error: SW-NODE-NOT-READY"), "{answer}");
        assert!(answer.contains("retry-after: 1"), "{answer}");
        assert_eq!(ask(address, "GET", "/v1/status", "").await.0, 503);
        assert_eq!(ask(address, "GET", "/v1/openapi.json", "").await.0, 200);
        let (status, answer) = ask(address, "GET", "/v2", "").await;
        assert_eq!((status, answer.contains("SW-API-NO-ENDPOINT")), (404, true), "{answer}");
        let (status, answer) = ask(address, "PUT", "/v1/status", "content-length: 0\r\n").await;
        assert_eq!((status, answer.contains("SW-API-METHOD")), (405, true), "{answer}");
        assert!(answer.to_lowercase().contains("allow: get"), "{answer}");
        let evil = ask(address, "GET", "/v1/status", "origin: http://evil.example\r\n").await;
        assert_eq!(evil.0, 403);
        running.shutdown.cancel();
        running.task.await.unwrap();
    }

    #[tokio::test]
    async fn every_endpoint_is_routed() {
        let running = start(true).await;
        for endpoint in crate::api::router::endpoints() {
            let method = endpoint.method.map_or("PATCH".to_owned(), |method| method.to_string());
            let path = endpoint.path.replace("{*path}", "a/b").replace(['{', '}'], "");
            let (status, answer) =
                ask(running.address, &method, &path, "content-length: 0\r\n").await;
            assert!(!answer.contains("SW-API-NO-ENDPOINT") && status != 405, "{method} {path}");
        }
        running.shutdown.cancel();
        running.task.await.unwrap();
    }

    #[tokio::test]
    async fn with_access_control_nothing_but_health_answers_without_a_member_to_ask() {
        let running = start(false).await;
        assert_eq!(ask(running.address, "GET", "/livez", "").await.0, 200);
        for endpoint in crate::api::router::endpoints() {
            if matches!(endpoint.path, "/livez" | "/readyz") {
                continue;
            }
            let method = endpoint.method.map_or("GET".to_owned(), |method| method.to_string());
            let path = endpoint.path.replace("{*path}", "a").replace(['{', '}'], "");
            let (status, _) = ask(running.address, &method, &path, "content-length: 0\r\n").await;
            assert_eq!(status, 503, "{method} {path}");
        }
        running.shutdown.cancel();
        running.task.await.unwrap();
    }

    #[tokio::test]
    async fn a_silent_client_does_not_hold_up_the_end() {
        let running = start(true).await;
        let _silent = TcpStream::connect(running.address).await.unwrap();
        running.shutdown.cancel();
        timeout(DRAIN / 2, running.task).await.expect("the end waits for nobody").unwrap();
    }
}
