//! Takes requests from clients and hands each to the dispatcher.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use swarmer_mesh::call::{Body, full};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    dispatch::{Call, Dispatcher, from_hyper, new_traceparent, valid_traceparent},
    listener,
    patience::Patience,
    problem::Problem,
};

/// Connections at once: each costs a descriptor and some kilobytes.
const MAX_CONNECTIONS: usize = 10_000;
/// Requests at once on one h2 connection.
const MAX_H2_STREAMS: u32 = 256;
/// No request may take longer than this, whatever its function says.
const MAX_REQUEST: Duration = Duration::from_secs(3600);
/// How long requests may take to end when the node stops.
const DRAIN: Duration = Duration::from_secs(10);

/// The listener of the ingress.
pub(crate) struct Ingress {
    pub(crate) listener: TcpListener,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) node: Arc<str>,
}

impl Ingress {
    /// Serves until `shutdown`, then lets open requests end.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let Self { listener, dispatcher, node } = self;
        let config = listener::Config {
            name: "ingress",
            connections: MAX_CONNECTIONS,
            h2_streams: MAX_H2_STREAMS,
            head: listener::HEAD_DEADLINE,
            drain: DRAIN,
            // A client that pauses a download is no trouble: it holds its own connection alone.
            patience: Patience::endless(),
            tls: None,
        };
        let service = service_fn(move |request| {
            let (dispatcher, node) = (dispatcher.clone(), Arc::clone(&node));
            async move { Ok::<_, Infallible>(serve(dispatcher, node, request).await) }
        });
        listener::serve(listener, config, service, shutdown).await;
    }
}

async fn serve(
    dispatcher: Dispatcher,
    node: Arc<str>,
    request: Request<Incoming>,
) -> Response<Body> {
    let traceparent = request.headers().get("traceparent").and_then(|t| t.to_str().ok());
    let traceparent: Arc<str> = match traceparent.filter(|t| valid_traceparent(t)) {
        Some(traceparent) => traceparent.into(),
        None => new_traceparent(),
    };
    // hyper drops this future, and then the answer's body, when the client goes away.
    let deadline = Instant::now() + MAX_REQUEST;
    let call = Call { deadline, source: None, hop: 0, traceparent, regions: None };
    let outcome = dispatcher.route(request.map(from_hyper), call).await;
    outcome.unwrap_or_else(|problem| error_response(&problem, &node))
}

/// A problem as an answer.
pub(crate) fn error_response(problem: &Problem, node: &str) -> Response<Body> {
    let mut response = Response::new(full(problem.document(node).to_string()));
    *response.status_mut() = problem.status();
    *response.headers_mut() = problem.headers(node);
    response
}
