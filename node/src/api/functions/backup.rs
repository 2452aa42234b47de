//! `GET /v1/backup` and `POST /v1/restore`: all functions as they stand, with their history.

use std::{collections::BTreeSet, sync::Arc};

use axum::{body::Body, extract::State};
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use swarmer_model::{Function, Invalid, Key, Kind, Resource as _, Revision, Violations};

use super::{
    DryRun,
    resource::{self, Next, Stored, Write},
};
use crate::{
    agent::Context,
    api::{
        Api, now_ms,
        reply::{self, Answer},
        request::{JsonBytes, Params, WriteHeaders},
        rfc3339,
        router::BARRIER,
    },
    backup::{Header, components},
    codes,
    problem::{Outcome, Problem},
};

/// One line of JSON for the header, one for each function as it stands in the desired state, all
/// of one revision that is as new as any write acknowledged before.
pub(in crate::api) async fn backup(State(api): State<Arc<Api>>) -> Answer {
    let context = api.member()?;
    context.control.barrier(BARRIER).await?;
    let (revision, entries) = context.control.view().list(Kind::Function.prefix());
    for (key, entry) in &entries {
        // A backup that silently lacks something is worse than none.
        resource::function_of(key, entry)?;
    }
    let header = Header {
        cluster: context.cluster.to_string(),
        revision,
        taken: rfc3339(now_ms()),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        functions: entries.len() as u64,
    };
    let header = serde_json::to_vec(&header)
        .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
    // The values are shared with the state: a slow reader costs no copy of it.
    let values = entries.into_iter().map(|(_, entry)| entry.value);
    let lines = std::iter::once(Bytes::from(header))
        .chain(values)
        .flat_map(|line| [line, Bytes::from_static(b"\n")])
        .map(Ok::<_, std::convert::Infallible>);
    let mut response = axum::response::Response::new(Body::from_stream(stream::iter(lines)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(reply::REVISION, HeaderValue::from(revision));
    Ok(response)
}

/// Puts a function of a backup back, versions and all. One that is there exactly so is left as it
/// is, so that a restore may be repeated; any other of its name is never touched.
pub(in crate::api) async fn restore(
    State(api): State<Arc<Api>>,
    Params(query): Params<DryRun>,
    headers: WriteHeaders,
    body: JsonBytes,
) -> Answer {
    let context = api.member()?;
    let mut wanted: Function = body.read_resource(Function::KIND)?;
    wanted.metadata.revision = None;
    wanted.validate()?;
    check_history(&wanted)?;
    let change = |previous: Option<&Stored>, _: Revision| match previous {
        Some(stored) if !is_same(&stored.function, &wanted) => {
            let why = format!("{} is there already, and is not as in the backup", wanted.id());
            Err(Problem::new(codes::EXISTS, why))
        }
        _ => Ok(Next::Put(Box::new(wanted.clone()))),
    };
    let metadata = &wanted.metadata;
    let (namespace, name) = (metadata.namespace.as_str(), metadata.name.as_str());
    let write = || Write { namespace, name, expected: None, change: &change, place: None };
    if query.dry_run {
        context.control.barrier(BARRIER).await?;
    }
    resource::preview(&context, write()).await?;
    let view = context.control.view();
    let existed = view.get(Key::function(namespace, name).as_str()).is_some();
    let answer =
        |revision| json!({ "function": wanted.id(), "existed": existed, "revision": revision });
    if query.dry_run {
        let revision = view.revision();
        let mut response = reply::read(revision, &answer(revision));
        response.extensions_mut().insert(reply::Unchanged);
        return Ok(response);
    }
    hold(&context, &wanted).await?;
    let done = resource::commit(&context, &headers, &[write()]).await?;
    let status = if existed { StatusCode::OK } else { StatusCode::CREATED };
    Ok(reply::json(status, &answer(done.revision)))
}

fn is_same(stored: &Function, wanted: &Function) -> bool {
    let mut stored = stored.clone();
    stored.metadata.revision = None;
    stored == *wanted
}

/// Every component that a version names must be here and able to run, as when it was deployed.
async fn hold(context: &Context, function: &Function) -> Outcome<()> {
    let digests: BTreeSet<_> = components(function).collect();
    for digest in digests {
        let prepared = context.functions.prepare(digest).await;
        prepared.map_err(|p| p.while_doing(&format!("component {}", digest.short())))?;
    }
    Ok(())
}

/// What [`Function::succeed`] always leaves, and what everything else relies upon.
fn check_history(function: &Function) -> Result<(), Invalid> {
    let mut violations = Violations::default();
    let versions = &function.status.versions;
    let numbers: Vec<u32> = versions.iter().map(|version| version.number).collect();
    let ascend = numbers.first().is_some_and(|first| *first > 0)
        && numbers.windows(2).all(|pair| pair[0] < pair[1]);
    if !ascend {
        let rule = "one version or more, numbered from 1, the oldest first";
        violations.add("status.versions", format!("{numbers:?}"), rule);
    }
    if !versions.iter().any(|version| version.template == function.spec.template) {
        violations.add("spec", "no version", "the template of one of status.versions");
    }
    if function.spec.routes.is_empty() {
        violations.add("spec.routes", "none", "at least one route");
    }
    violations.finish()
}

#[cfg(test)]
mod tests {
    use swarmer_model::{Digest, Metadata};

    use super::*;

    #[test]
    fn only_a_history_that_a_cluster_could_have_made_is_taken() {
        let mut good = Function::new(Metadata::named("a"), Digest::of(b"1"));
        assert!(check_history(&good).is_err(), "no version at all");
        good.succeed(None, &[], 1);
        let mut next = Function::new(Metadata::named("a"), Digest::of(b"2"));
        next.succeed(Some(&good), &[], 2);
        assert!(check_history(&next).is_ok());
        for spoil in [
            |f: &mut Function| f.status.versions.reverse(),
            |f: &mut Function| f.status.versions[0].number = 0,
            |f: &mut Function| f.spec.template.component = Digest::of(b"3"),
            |f: &mut Function| f.spec.routes.clear(),
        ] {
            let mut bad = next.clone();
            spoil(&mut bad);
            assert!(check_history(&bad).is_err());
        }
    }
}
