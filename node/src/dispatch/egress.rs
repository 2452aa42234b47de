//! What functions send: to other functions over the mesh, to the outside where declared.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use http::{Request, Response, header};
use http_body_util::BodyExt as _;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use swarmer_mesh::{call::Body as MeshBody, identity::Workload};
use swarmer_model::ClusterId;
use swarmer_runtime::{Body, Egress, EgressContext, EgressError, EgressOptions, FunctionKey};

use crate::{
    codes,
    dispatch::{
        Call, Dispatcher, Source,
        body::{from_http, to_runtime},
        trace::{new_traceparent, valid_traceparent},
    },
    problem::{Problem, chain},
};

/// How long connecting to the outside may take unless the function says otherwise.
const CONNECT: Duration = Duration::from_secs(10);
/// Connections that are kept open to one destination outside.
const IDLE_PER_HOST: usize = 64;

/// The one way out of this node for functions. The dispatcher is set once it stands.
pub(crate) struct MeshEgress {
    cluster: ClusterId,
    dispatcher: OnceLock<Dispatcher>,
    outside: Client<HttpsConnector<HttpConnector>, MeshBody>,
}

impl MeshEgress {
    pub(crate) fn new(cluster: ClusterId) -> Result<Arc<Self>, Problem> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        let provider = rustls::crypto::ring::default_provider();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(provider)
            .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(connector);
        let outside = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .build(connector);
        Ok(Arc::new(Self { cluster, dispatcher: OnceLock::new(), outside }))
    }

    pub(crate) fn set_dispatcher(&self, dispatcher: Dispatcher) {
        let _ = self.dispatcher.set(dispatcher);
    }

    async fn inside(
        &self,
        from: &FunctionKey,
        context: EgressContext,
        host: &str,
        request: Request<MeshBody>,
    ) -> Result<Response<Body>, EgressError> {
        let dispatcher = self
            .dispatcher
            .get()
            .ok_or_else(|| EgressError::Unavailable("this node is starting".to_owned()))?;
        let (namespace, name) = internal_name(host, &from.namespace)
            .ok_or_else(|| EgressError::NotFound(format!("{host} names no function")))?;
        let desired = dispatcher.deps().desired.current();
        let Some(entry) = desired.function(namespace, name).cloned() else {
            return Err(EgressError::NotFound(format!("there is no function {namespace}/{name}")));
        };
        let changed = desired.function(&from.namespace, &from.name).map_or(0, |own| own.changed);
        drop(desired);
        let source = Source {
            workload: Workload {
                cluster: self.cluster,
                namespace: Arc::clone(&from.namespace),
                name: Arc::clone(&from.name),
                component: context.digest,
            },
            changed,
        };
        let traceparent = request.headers().get("traceparent").and_then(|t| t.to_str().ok());
        let traceparent = traceparent.filter(|t| valid_traceparent(t)).map(Arc::from);
        let traceparent: Arc<str> = match traceparent.or(context.traceparent) {
            Some(traceparent) => traceparent,
            None => new_traceparent(),
        };
        let call = Call {
            deadline: context.deadline,
            source: Some(source),
            hop: context.hop + 1,
            traceparent,
            regions: None,
        };
        let outcome = dispatcher.call(&entry, request, call).await;
        let response = outcome.map_err(|problem| {
            let text = format!("{}: {}", problem.code, problem.detail);
            match problem.code.status {
                508 => EgressError::Loop,
                504 => EgressError::ResponseTimeout,
                403 => EgressError::Denied(text),
                429 | 503 => EgressError::Unavailable(text),
                _ => EgressError::Terminated(text),
            }
        })?;
        Ok(response.map(to_runtime))
    }

    async fn beyond(
        &self,
        context: &EgressContext,
        options: EgressOptions,
        mut request: Request<MeshBody>,
    ) -> Result<Response<Body>, EgressError> {
        // The URI names the destination; hyper writes the host from it.
        request.headers_mut().remove(header::HOST);
        let deadline = tokio::time::Instant::from_std(context.deadline);
        let first_byte = options.first_byte_timeout.map(|wait| tokio::time::Instant::now() + wait);
        let until = first_byte.map_or(deadline, |first| first.min(deadline));
        match tokio::time::timeout_at(until, self.outside.request(request)).await {
            Err(_) => Err(EgressError::ResponseTimeout),
            Ok(Err(error)) if error.is_connect() => {
                let text = chain(&error);
                Err(if text.contains("dns") || text.contains("resolve") {
                    EgressError::NotFound(text)
                } else {
                    EgressError::Refused(text)
                })
            }
            Ok(Err(error)) => Err(EgressError::Terminated(chain(&error))),
            Ok(Ok(response)) => Ok(response.map(|body| to_runtime(from_http(body)))),
        }
    }
}

#[async_trait]
impl Egress for MeshEgress {
    async fn send(
        &self,
        from: &FunctionKey,
        context: EgressContext,
        request: Request<Body>,
        options: EgressOptions,
    ) -> Result<Response<Body>, EgressError> {
        let request = request
            .map(|body| body.map_err(swarmer_mesh::call::CallError::body_source).boxed_unsync());
        let host = request.uri().host().unwrap_or_default().to_ascii_lowercase();
        if swarmer_runtime::is_internal(&host) {
            return self.inside(from, context, &host, request).await;
        }
        self.beyond(&context, options, request).await
    }
}

/// Namespace and name of `<name>.<namespace>.internal` or `<name>.internal`.
fn internal_name<'a>(host: &'a str, own: &'a str) -> Option<(&'a str, &'a str)> {
    let name = host.strip_suffix(".internal")?;
    match name.split_once('.') {
        None if !name.is_empty() => Some((own, name)),
        Some((name, namespace)) if !namespace.contains('.') => Some((namespace, name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_names_are_split() {
        assert_eq!(internal_name("cart.internal", "shop"), Some(("shop", "cart")));
        assert_eq!(internal_name("cart.pay.internal", "shop"), Some(("pay", "cart")));
        assert_eq!(internal_name(".internal", "shop"), None);
        assert_eq!(internal_name("a.b.c.internal", "shop"), None);
        assert_eq!(internal_name("example.com", "shop"), None);
    }
}
