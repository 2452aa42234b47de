//! Answers: JSON, problem documents (RFC 9457), the revision that a read has seen.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use swarmer_model::{Invalid, Revision};

use crate::{api::Api, codes, problem::Problem};

/// The revision of the state that an answer was made from.
pub(super) const REVISION: HeaderName = HeaderName::from_static("x-swarmer-revision");

/// A problem on its way out; [`finish`] makes the document of it.
#[derive(Debug, Clone)]
pub(super) struct Failure(pub(super) Problem);

/// Marks the answer to a write that was only tried, or by which a lease stays with its holder:
/// nothing changed that the audit would tell of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unchanged;

/// What handlers give.
pub(super) type Answer = Result<Response, Failure>;

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        Self(invalid.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.0.status();
        response.extensions_mut().insert(self);
        response
    }
}

/// JSON with this status.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let bytes = match serde_json::to_vec(value) {
        Ok(bytes) => bytes,
        Err(error) => {
            return Failure(Problem::new(codes::INTERNAL, error.to_string())).into_response();
        }
    };
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// JSON that was read at `revision`.
pub(super) fn read(revision: Revision, value: &impl Serialize) -> Response {
    let mut response = json(StatusCode::OK, value);
    response.headers_mut().insert(REVISION, HeaderValue::from(revision));
    response
}

/// A resource, with its own revision as the entity tag (RFC 9110, section 8.8.3).
pub(super) fn resource(seen: Revision, own: Revision, value: &impl Serialize) -> Response {
    let mut response = read(seen, value);
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{own}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// `{"items": […]}` that was read at `revision`.
pub(super) fn list(revision: Revision, items: Vec<Value>) -> Response {
    read(revision, &serde_json::json!({ "items": items }))
}

/// Plain text.
pub(super) fn text(content_type: &'static str, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The problem document with everything that belongs to it.
pub(super) fn document(problem: &Problem, node: &str) -> Response {
    let mut response = json(problem.status(), &problem.document(node));
    let headers = response.headers_mut();
    *headers = problem.headers(node);
    if problem.code.status == 401 {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The outermost layer: turns failures into documents that name the node.
pub(super) async fn finish(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    match response.extensions().get::<Failure>() {
        Some(Failure(problem)) => document(problem, &api.node_name()),
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes;

    #[test]
    fn a_document_carries_its_headers() {
        let problem = Problem::new(codes::BUSY, "full").retry_after(3);
        let response = document(&problem, "a");
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "3");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["x-swarmer-error"], "SW-API-BUSY");
        let response = document(&Problem::new(codes::UNAUTHORIZED, "no token"), "a");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }

    #[test]
    fn a_resource_has_its_revision_as_tag() {
        let response = resource(9, 7, &Value::Null);
        assert_eq!(response.headers()["etag"], "\"7\"");
        assert_eq!(response.headers()["x-swarmer-revision"], "9");
    }
}
