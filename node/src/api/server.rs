//! The listener of the API.

use std::{sync::Arc, time::Duration};

use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Api, OnceContext, router::router},
    listener,
    patience::Patience,
};

/// Connections at once: operators, scrapers and watches, each with a descriptor and a task.
const MAX_CONNECTIONS: usize = 1_024;
/// Requests at once on one h2 connection.
const MAX_H2_STREAMS: u32 = 128;
/// How long a client may take nothing of an answer: a watcher that does not read holds one of the
/// places for watchers.
const STALLED: Duration = Duration::from_secs(30);
/// How long requests may take to end when the node stops.
const DRAIN: Duration = Duration::from_secs(5);

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
    let config = listener::Config {
        name: "api",
        connections: MAX_CONNECTIONS,
        h2_streams: MAX_H2_STREAMS,
        head: listener::HEAD_DEADLINE,
        drain: DRAIN,
        patience: Patience { limit: Some(STALLED), stalled: Arc::clone(&api.stalled) },
        tls,
    };
    let service = TowerToHyperService::new(router(api));
    listener::serve(listener, config, service, shutdown).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

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
}
