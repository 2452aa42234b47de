//! Calls a function through the API, as the ingress does.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{Request, State},
};
use http::{HeaderValue, Uri, header};
use http_body_util::BodyExt as _;
use swarmer_mesh::call::{self, CallError};

use crate::{
    api::{Api, auth::TOKEN_PREFIX, functions::resource, reply::Answer},
    codes,
    dispatch::{Call, new_traceparent, valid_traceparent},
    problem::{Outcome, Problem},
};

/// No call may take longer, whatever its function says; as at the ingress.
const MAX_CALL: Duration = Duration::from_secs(3600);

pub(in crate::api) async fn invoke(State(api): State<Arc<Api>>, request: Request) -> Answer {
    let context = api.member()?;
    let path = request.uri().path().to_owned();
    let (namespace, name, rest) = split(&path)
        .ok_or_else(|| Problem::new(codes::NO_ENDPOINT, format!("there is no {path:?}")))?;
    let desired = context.desired.current();
    let entry = desired.function(namespace, name).cloned();
    let entry = entry.ok_or_else(|| resource::missing(namespace, name))?;
    drop(desired);
    let route = entry.function.spec.routes.first().map_or("/", |route| route.path.as_str());
    let (mut parts, body) = request.into_parts();
    parts.uri = target(route, rest, parts.uri.query())?;
    call::strip_hop_by_hop(&mut parts.headers);
    let ours = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.contains(TOKEN_PREFIX));
    if parts.headers.get(header::AUTHORIZATION).is_some_and(ours) {
        // The API's token is for the API; a function must never see it.
        parts.headers.remove(header::AUTHORIZATION);
    }
    let given = parts.headers.get("traceparent").and_then(|value| value.to_str().ok());
    let traceparent: Arc<str> = match given.filter(|given| valid_traceparent(given)) {
        Some(given) => given.into(),
        None => new_traceparent(),
    };
    let deadline = Instant::now() + MAX_CALL;
    let call = Call { deadline, source: None, hop: 0, traceparent, regions: None };
    let body = body.map_err(CallError::body_source).boxed_unsync();
    let request = http::Request::from_parts(parts, body);
    let response = context.dispatcher.call(&entry, request, call).await?;
    Ok(response.map(Body::new))
}

/// Namespace, name and what stands behind `/invoke`, all as they stand in the path.
fn split(path: &str) -> Option<(&str, &str, &str)> {
    let rest = path.strip_prefix("/v1/namespaces/")?;
    let (namespace, rest) = rest.split_once("/functions/")?;
    let (name, rest) = rest.split_once("/invoke")?;
    (!name.contains('/') && !namespace.contains('/') && (rest.is_empty() || rest.starts_with('/')))
        .then_some((namespace, name, rest))
}

/// The function's route with the rest of the path behind it.
fn target(route: &str, rest: &str, query: Option<&str>) -> Outcome<Uri> {
    let mut text = match (route, rest) {
        ("/", "") => "/".to_owned(),
        ("/", rest) => rest.to_owned(),
        (route, rest) => format!("{route}{rest}"),
    };
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    text.parse().map_err(|error| Problem::new(codes::BAD_REQUEST, format!("{text:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_path_goes_behind_the_route() {
        let base = "/v1/namespaces/default/functions/hello/invoke";
        assert_eq!(split(base), Some(("default", "hello", "")));
        let deep = format!("{base}/a%2Fb/invoke");
        assert_eq!(split(&deep), Some(("default", "hello", "/a%2Fb/invoke")));
        assert_eq!(split("/v1/namespaces/a/functions/b/invoker"), None);
        let uri = |route, rest, query| target(route, rest, query).unwrap().to_string();
        assert_eq!(uri("/hello", "/a%2Fb", Some("x=1")), "/hello/a%2Fb?x=1");
        assert_eq!(uri("/hello", "", None), "/hello");
        assert_eq!(uri("/", "", None), "/");
        assert_eq!(uri("/", "/x", None), "/x");
    }
}
