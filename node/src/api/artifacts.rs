//! `/v1/artifacts/{digest}`: components, taken in whole or not at all.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    response::Response,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::json;
use swarmer_model::Digest;
use tokio_util::io::ReaderStream;

use crate::{
    agent::Context,
    api::{
        Api,
        auth::SharedGrant,
        reply::{self, Answer},
        request::At,
    },
    backup::components,
    codes,
    functions::FetchArtifact as _,
    problem::{Outcome, Problem},
};

/// How long an upload may stand still.
const IDLE_DEADLINE: Duration = Duration::from_secs(30);
/// How long an upload may take in all: the largest component over a slow line.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(900);
/// How long compiling and copying may take.
const PREPARE_DEADLINE: Duration = Duration::from_secs(230);
/// How much of an upload that is not wanted is still read beside its answer: many clients look for
/// the answer only when they have sent all, and a connection that is closed before breaks.
const LINGER_BYTES: u64 = 256 << 20;
/// How long that may take.
const LINGER: Duration = Duration::from_secs(10);
/// The bytes that tell a component from everything else.
const HEADER_BYTES: usize = 8;

fn parse(digest: &str) -> Outcome<Digest> {
    digest.parse::<Digest>().map_err(|error| Problem::new(codes::BAD_REQUEST, error.to_string()))
}

pub(super) async fn put(
    State(api): State<Arc<Api>>,
    At(digest): At<String>,
    headers: HeaderMap,
    mut body: Body,
) -> Answer {
    let context = api.member()?;
    let digest = parse(&digest)?;
    let length = content_length(&headers);
    let held = context.artifacts.hold(&digest).await;
    let taken = if held {
        Ok(())
    } else {
        match tokio::time::timeout(UPLOAD_DEADLINE, take(&context, digest, length, &mut body)).await
        {
            Ok(taken) => taken,
            Err(_) => {
                let detail = format!("the upload took more than {} s", UPLOAD_DEADLINE.as_secs());
                Err(Problem::new(codes::DEADLINE, detail))
            }
        }
    };
    if (held || taken.is_err()) && !headers.contains_key(header::EXPECT) {
        // A client that waits for `100 Continue` has sent nothing yet and need not.
        tokio::spawn(tokio::time::timeout(LINGER, drain(body)));
    }
    taken?;
    let work = tokio::time::timeout(PREPARE_DEADLINE, settle(&context, digest, held)).await;
    let nodes = work.unwrap_or_else(|_| {
        Err(Problem::new(codes::DEADLINE, "the component is here, but not yet compiled and copied"))
    })?;
    let bytes = context.artifacts.open_file(&digest).await?.map(|(_, bytes)| bytes);
    let status = if held { StatusCode::OK } else { StatusCode::CREATED };
    let nodes: Vec<String> = nodes.into_iter().map(|node| context.node_name(node)).collect();
    Ok(reply::json(status, &json!({ "digest": digest, "bytes": bytes, "nodes": nodes })))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Takes the body into the store.
async fn take(
    context: &Context,
    digest: Digest,
    length: Option<u64>,
    body: &mut Body,
) -> Outcome<()> {
    let mut incoming = context.artifacts.begin(digest, length).await?;
    let mut head = Head::default();
    let mut received: u64 = 0;
    while let Some(bytes) = next(body, received).await? {
        received += bytes.len() as u64;
        head.see(&bytes)?;
        incoming.write(&bytes).await?;
    }
    head.end()?;
    if let Some(length) = length
        && received < length
    {
        let detail = format!("{received} of {length} bytes arrived");
        return Err(Problem::new(codes::ARTIFACT_TRUNCATED, detail));
    }
    incoming.finish().await?;
    Ok(())
}

/// The next bytes of an upload; none at its end.
async fn next(body: &mut Body, received: u64) -> Outcome<Option<Bytes>> {
    let truncated = |why: String| {
        Problem::new(codes::ARTIFACT_TRUNCATED, format!("after {received} bytes: {why}"))
    };
    loop {
        let frame = tokio::time::timeout(IDLE_DEADLINE, body.frame())
            .await
            .map_err(|_| truncated(format!("nothing came for {} s", IDLE_DEADLINE.as_secs())))?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(truncated(error.to_string())),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// Looks at the first bytes as soon as they are here: what is no component need not arrive.
#[derive(Default)]
struct Head {
    bytes: Vec<u8>,
    checked: bool,
}

impl Head {
    fn see(&mut self, bytes: &[u8]) -> Outcome<()> {
        if self.checked {
            return Ok(());
        }
        let missing = HEADER_BYTES - self.bytes.len();
        self.bytes.extend(bytes.iter().take(missing));
        if self.bytes.len() < HEADER_BYTES {
            return Ok(());
        }
        self.end()
    }

    fn end(&mut self) -> Outcome<()> {
        if self.checked {
            return Ok(());
        }
        self.checked = true;
        swarmer_runtime::check_header(&self.bytes)
            .map_err(|error| Problem::of(&error, "taking the component"))
    }
}

/// Reads on without keeping anything.
async fn drain(mut body: Body) {
    let mut read: u64 = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, |data| data.len() as u64);
        if read > LINGER_BYTES {
            return;
        }
    }
}

/// Compiles the component, which refuses what cannot run, and makes it durable on other nodes.
async fn settle(
    context: &Context,
    digest: Digest,
    held_before: bool,
) -> Outcome<Vec<swarmer_model::NodeId>> {
    if let Err(problem) = context.functions.prepare(digest).await {
        if !held_before && problem.code.status < 500 {
            // Nobody can name what cannot run, so nobody would ever remove it.
            let _ = tokio::fs::remove_file(context.artifacts.path(&digest)).await;
        }
        return Err(problem);
    }
    context.replicator.replicate(digest).await
}

pub(super) async fn get(
    State(api): State<Arc<Api>>,
    Extension(grant): Extension<SharedGrant>,
    At(digest): At<String>,
) -> Answer {
    let context = api.member()?;
    let digest = parse(&digest)?;
    if let Some(namespace) = &grant.namespace
        && !names(&context, namespace, digest)
    {
        // The same whether it is there or not.
        let detail = format!("no function of the namespace {namespace:?} names {digest}");
        return Err(Problem::new(codes::NOT_FOUND, detail).into());
    }
    if !context.artifacts.has(&digest).await
        && let Err(problem) = context.replicator.fetch(digest).await
    {
        let detail = format!("no living node gave {digest}: {}", problem.detail);
        return Err(Problem::new(codes::NOT_FOUND, detail).into());
    }
    let (file, bytes) =
        context.artifacts.open_file(&digest).await?.ok_or_else(|| {
            Problem::new(codes::NOT_FOUND, format!("there is no artifact {digest}"))
        })?;
    let mut response = Response::new(Body::from_stream(ReaderStream::new(file)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/wasm"));
    // Content under its digest never changes.
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{digest}\"")) {
        headers.insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Whether a function of the namespace has a version of this component.
fn names(context: &Context, namespace: &str, digest: Digest) -> bool {
    let desired = context.desired.current();
    desired.functions.values().map(|entry| &entry.function).any(|function| {
        function.metadata.namespace == namespace && components(function).any(|one| one == digest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_refused_by_its_first_bytes() {
        let component = [0, b'a', b's', b'm', 13, 0, 1, 0, 9];
        let mut head = Head::default();
        for byte in component {
            head.see(&[byte]).unwrap();
        }
        head.end().unwrap();
        let module = [0, b'a', b's', b'm', 1, 0, 0, 0];
        assert!(Head::default().see(&module).unwrap_err().detail.contains("core"));
        let mut short = Head::default();
        short.see(b"\0as").unwrap();
        assert!(short.end().is_err(), "the end comes before the header does");
        assert!(Head::default().see(b"#!/bin/sh").is_err());
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_truncated() {
        let chunks =
            [Ok(Bytes::from_static(b"abc")), Err(std::io::Error::other("connection reset"))];
        let mut body = Body::from_stream(futures::stream::iter(chunks));
        assert_eq!(next(&mut body, 0).await.unwrap().unwrap(), "abc");
        let problem = next(&mut body, 3).await.unwrap_err();
        assert_eq!(problem.code, codes::ARTIFACT_TRUNCATED);
        assert!(problem.detail.contains("after 3 bytes"), "{problem}");
    }
}
