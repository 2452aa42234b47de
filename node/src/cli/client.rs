//! The HTTP client of the command line: one node's API.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    codes,
    problem::{Outcome, Problem, chain},
};

/// The largest answer that is read whole.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// How long an answer's head may take: a deploy compiles before it answers.
const ANSWER_DEADLINE: Duration = Duration::from_secs(240);
/// How long the answer to a look may take: longer than a node lets one last.
const LOOK_DEADLINE: Duration = Duration::from_secs(45);
/// How long a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// The body of what is sent.
pub(crate) type SendBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// A client of one node's API.
#[derive(Clone)]
pub(crate) struct Client {
    base: String,
    token: Option<String>,
    http: HyperClient<HttpsConnector<HttpConnector>, SendBody>,
}

/// A body of these bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> SendBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

impl Client {
    /// A client of the API at `addr`, whose certificate must come from the authority in `cacert`.
    pub(crate) fn new(addr: &str, token: Option<String>, cacert: Option<&Path>) -> Outcome<Self> {
        let usage = |why: String| Problem::new(codes::USAGE, why);
        let base = addr.trim_end_matches('/').to_owned();
        let base = if base.contains("://") { base } else { format!("http://{base}") };
        let uri: Uri =
            base.parse().map_err(|error| usage(format!("--addr is {base:?}: {error}")))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
            return Err(usage(format!(
                "--addr is {base:?}: must be http://host:port or https://…"
            )));
        }
        let mut roots = rustls::RootCertStore::empty();
        if let Some(path) = cacert {
            let fail = |why: String| usage(format!("--cacert {}: {why}", path.display()));
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|error| fail(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| fail(error.to_string()))?;
                roots.add(certificate).map_err(|error| fail(error.to_string()))?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| usage(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_DEADLINE));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let http = HyperClient::builder(TokioExecutor::new()).build(connector);
        Ok(Self { base, token, http })
    }

    /// Where the API is.
    #[cfg(test)]
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Sends a request and gives the answer, whatever its status.
    pub(crate) async fn send(
        &self,
        request: http::request::Builder,
        path: &str,
        body: SendBody,
    ) -> Outcome<http::Response<Incoming>> {
        self.send_to(request, &format!("{}{path}", self.base), body).await
    }

    /// Sends a request to another address, such as a node's ingress.
    pub(crate) async fn send_to(
        &self,
        mut request: http::request::Builder,
        uri: &str,
        body: SendBody,
    ) -> Outcome<http::Response<Incoming>> {
        request = request.uri(uri);
        if let (Some(token), true) = (&self.token, uri.starts_with(&self.base)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request
            .body(body)
            .map_err(|error| Problem::new(codes::USAGE, format!("{uri}: {error}")))?;
        let unreachable = |why: String| Problem::new(codes::UNREACHABLE, format!("{uri}: {why}"));
        match tokio::time::timeout(ANSWER_DEADLINE, self.http.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(unreachable(chain(&error))),
            Err(_) => Err(unreachable(format!("no answer in {} s", ANSWER_DEADLINE.as_secs()))),
        }
    }

    /// Sends a request and reads the answer; a status of 400 and above is the problem it tells.
    pub(crate) async fn exchange(
        &self,
        request: http::request::Builder,
        path: &str,
        body: SendBody,
    ) -> Outcome<Bytes> {
        whole(self.open(request, path, body).await?).await
    }

    /// Sends a request and gives the answer, whose body is still to be read; a status of 400 and
    /// above is the problem it tells.
    pub(crate) async fn open(
        &self,
        request: http::request::Builder,
        path: &str,
        body: SendBody,
    ) -> Outcome<http::Response<Incoming>> {
        let response = self.send(request, path, body).await?;
        let status = response.status();
        if status.is_client_error() || status.is_server_error() {
            return Err(Problem::from_document(status.as_u16(), &whole(response).await?));
        }
        Ok(response)
    }

    /// GET, the answer read as JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        let answer = self.exchange(Request::builder(), path, full(Bytes::new()));
        let Ok(bytes) = tokio::time::timeout(LOOK_DEADLINE, answer).await else {
            let why = format!("{}{path}: no answer in {} s", self.base, LOOK_DEADLINE.as_secs());
            return Err(Problem::new(codes::UNREACHABLE, why));
        };
        decode(&bytes?)
    }

    /// A request with a JSON body, its answer read as JSON.
    pub(crate) async fn json(&self, method: Method, path: &str, body: &Value) -> Outcome<Value> {
        let request = Request::builder()
            .method(method)
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", format!("{:032x}", rand::random::<u128>()));
        let bytes = self.exchange(request, path, full(body.to_string())).await?;
        if bytes.is_empty() { Ok(Value::Null) } else { decode(&bytes) }
    }
}

async fn whole(response: http::Response<Incoming>) -> Outcome<Bytes> {
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| broke_off(&error.to_string()))
}

/// The answer ended before its end.
pub(crate) fn broke_off(why: &str) -> Problem {
    Problem::new(codes::UNREACHABLE, format!("the answer broke off: {why}"))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Outcome<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        Problem::new(codes::UNREACHABLE, format!("the answer is not of this API: {error}"))
    })
}

/// A path segment, escaped.
pub(crate) fn segment(text: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b':') {
            escaped.push(byte as char);
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}
