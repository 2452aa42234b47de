//! `/v1/namespaces/{namespace}/functions` and `/placements`.

mod backup;
mod claims;
mod explained;
mod invoke;
mod live;
mod logs;
mod near;
mod resource;
mod transaction;

use std::sync::Arc;

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use swarmer_model::{
    Function, Invalid, Key, Kind, Placement, Resource as _, Revision, Violations, check_name,
};

use crate::{
    agent::Context,
    api::{
        Api,
        reply::{self, Answer},
        request::{At, JsonBytes, Params, WriteHeaders},
    },
    codes,
    problem::{Outcome, Problem},
};
use live::{Ask, live};
use resource::{Next, Stored, Write, Written};

pub(super) use backup::{backup, restore};
pub(super) use explained::{decision, explanation};
pub(super) use invoke::invoke;
pub(super) use logs::logs;
pub(super) use transaction::transact;

type Named = At<(String, String)>;

/// A function's answer: the resource with `live`.
async fn told(context: &Context, stored: &Stored, ask: Ask) -> Outcome<Value> {
    let mut value = serde_json::to_value(&stored.function)
        .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
    value["live"] = live(context, &stored.function, &stored.placement, ask).await;
    Ok(value)
}

fn check_names(namespace: &str, name: &str) -> Result<(), Invalid> {
    let mut violations = Violations::default();
    check_name("namespace", namespace, &mut violations);
    check_name("name", name, &mut violations);
    violations.finish()
}

pub(super) async fn list(State(api): State<Arc<Api>>, At(namespace): At<String>) -> Answer {
    let context = api.member()?;
    let (seen, all) = resource::list(&context.control.view(), &namespace);
    let mut items = Vec::with_capacity(all.len());
    for stored in &all {
        items.push(told(&context, stored, Ask::Never).await?);
    }
    Ok(reply::list(seen, items))
}

#[derive(Deserialize)]
pub(super) struct Describe {
    #[serde(default)]
    describe: bool,
    #[serde(default)]
    everywhere: bool,
}

pub(super) async fn get(
    State(api): State<Arc<Api>>,
    At((namespace, name)): Named,
    Params(query): Params<Describe>,
) -> Answer {
    let context = api.member()?;
    let (seen, stored) = resource::read(&context.control.view(), &namespace, &name)?;
    let stored = stored.ok_or_else(|| resource::missing(&namespace, &name))?;
    let ask = if query.describe { Ask::Always } else { Ask::IfNotReady };
    let mut value = told(&context, &stored, ask).await?;
    if query.everywhere {
        let behind = context.behind(seen).await;
        let behind: Vec<String> = behind.into_iter().map(|n| context.node_name(n)).collect();
        value["live"]["behind"] = json!(behind);
    }
    Ok(reply::resource(seen, stored.revision, &value))
}

/// The answer to a write of one function.
async fn written(
    context: &Context,
    status: StatusCode,
    mut done: Written,
    (namespace, name): (&str, &str),
) -> Answer {
    // Deleted by another meanwhile.
    let stored =
        done.functions.pop().flatten().ok_or_else(|| resource::missing(namespace, name))?;
    let value = told(context, &stored, Ask::Never).await?;
    let seen = context.control.view().revision();
    let mut response: Response = reply::resource(seen, stored.revision, &value);
    *response.status_mut() = status;
    Ok(response)
}

// A name that is not known must not make a write of what was meant as a look.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DryRun {
    #[serde(default, rename = "dryRun")]
    dry_run: bool,
}

pub(super) async fn put(
    State(api): State<Arc<Api>>,
    At((namespace, name)): Named,
    Params(query): Params<DryRun>,
    headers: WriteHeaders,
    body: JsonBytes,
) -> Answer {
    let context = api.member()?;
    check_names(&namespace, &name)?;
    let wanted: Function = body.read_resource(Function::KIND)?;
    check_place(&wanted, &namespace, &name)?;
    let expected = headers.if_match.or(wanted.metadata.revision);
    let change =
        |previous: Option<&Stored>, seen: Revision| Ok(succeeded(&wanted, previous, seen)?);
    let write = |expected| Write {
        namespace: &namespace,
        name: &name,
        expected,
        change: &change,
        place: None,
    };
    // What can be refused at once is refused before anything is fetched or compiled. But a write
    // that came before may be sent again: `commit` tells such a one from a conflict.
    let next = resource::preview(&context, write(expected.filter(|_| query.dry_run))).await?;
    prepare(&context, &wanted).await?;
    let view = context.control.view();
    if query.dry_run {
        let mut response = reply::read(view.revision(), &json!(next));
        response.extensions_mut().insert(reply::Unchanged);
        return Ok(response);
    }
    let existed = view.get(Key::function(&namespace, &name).as_str()).is_some();
    let status = if existed { StatusCode::OK } else { StatusCode::CREATED };
    let done = resource::commit(&context, &headers, &[write(expected)]).await?;
    written(&context, status, done, (&namespace, &name)).await
}

/// What a function becomes that is replaced by `wanted`.
fn succeeded(
    wanted: &Function,
    previous: Option<&Stored>,
    seen: Revision,
) -> Result<Next, Invalid> {
    let mut next = wanted.clone();
    let serving = previous.map(Stored::serving).unwrap_or_default();
    next.succeed(previous.map(|stored| &stored.function), &serving, seen);
    next.validate()?;
    Ok(Next::Put(Box::new(next)))
}

/// Brings the component here, compiled: one that cannot run is refused before it is committed.
async fn prepare(context: &Context, function: &Function) -> Outcome<()> {
    let digest = function.spec.template.component;
    let prepared = context.functions.prepare(digest).await;
    prepared.map_err(|problem| problem.while_doing(&format!("component {}", digest.short())))
}

fn check_place(function: &Function, namespace: &str, name: &str) -> Result<(), Invalid> {
    let mut violations = Violations::default();
    let metadata = &function.metadata;
    if metadata.name != name {
        violations.add("metadata.name", &metadata.name, format!("{name:?}, as the path says"));
    }
    if metadata.namespace != namespace {
        let rule = format!("{namespace:?}, as the path says");
        violations.add("metadata.namespace", &metadata.namespace, rule);
    }
    violations.finish()
}

pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    At((namespace, name)): Named,
    headers: WriteHeaders,
) -> Answer {
    let context = api.member()?;
    let change = |previous: Option<&Stored>, _: Revision| match previous {
        Some(_) => Ok(Next::Delete),
        None => Err(resource::missing(&namespace, &name)),
    };
    let expected = headers.if_match;
    let write =
        Write { namespace: &namespace, name: &name, expected, change: &change, place: None };
    let done = resource::commit(&context, &headers, &[write]).await?;
    let value = json!({ "deleted": format!("{namespace}/{name}"), "revision": done.revision });
    Ok(reply::read(done.revision, &value))
}

pub(super) async fn undo(
    State(api): State<Arc<Api>>,
    At((namespace, name)): Named,
    headers: WriteHeaders,
) -> Answer {
    let context = api.member()?;
    let change = |previous: Option<&Stored>, _: Revision| {
        let missing = || resource::missing(&namespace, &name);
        let mut next = previous.map(|stored| stored.function.clone()).ok_or_else(missing)?;
        next.undo()?;
        next.validate()?;
        Ok(Next::Put(Box::new(next)))
    };
    let expected = headers.if_match;
    let write =
        Write { namespace: &namespace, name: &name, expected, change: &change, place: None };
    let done = resource::commit(&context, &headers, &[write]).await?;
    written(&context, StatusCode::OK, done, (&namespace, &name)).await
}

fn placement_value(context: &Context, id: &str, placement: &Placement) -> Value {
    let names = |nodes: &[swarmer_model::NodeId]| {
        nodes.iter().map(|node| context.node_name(*node)).collect::<Vec<_>>()
    };
    let (namespace, name) = id.split_once('/').unwrap_or(("", id));
    let reasons = placement.reasons.iter().map(|reason| {
        json!({ "node": reason.node.map(|node| context.node_name(node)), "text": reason.text })
    });
    json!({
        "namespace": namespace,
        "name": name,
        "nodes": names(&placement.nodes),
        "candidates": names(&placement.candidates),
        "plannedRevision": placement.revision,
        "traffic": placement.traffic,
        "conflict": placement.conflict,
        "reasons": reasons.collect::<Vec<_>>(),
    })
}

pub(super) async fn placements(State(api): State<Arc<Api>>, At(namespace): At<String>) -> Answer {
    let context = api.member()?;
    let prefix: String = Key::placement(&namespace, "").into();
    let (seen, entries) = context.control.view().list(&prefix);
    let items = entries.iter().filter_map(|(key, entry)| {
        let id = key.strip_prefix(Kind::Placement.prefix())?;
        let placement = serde_json::from_slice(&entry.value).ok()?;
        Some(placement_value(&context, id, &placement))
    });
    Ok(reply::list(seen, items.collect()))
}

pub(super) async fn placement(State(api): State<Arc<Api>>, At((namespace, name)): Named) -> Answer {
    let context = api.member()?;
    let (seen, stored) = resource::read(&context.control.view(), &namespace, &name)?;
    let stored = stored.ok_or_else(|| resource::missing(&namespace, &name))?;
    Ok(reply::read(seen, &placement_value(&context, &stored.function.id(), &stored.placement)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_model::{Digest, Metadata};

    #[test]
    fn the_resource_must_be_the_one_of_the_path() {
        let function = Function::new(Metadata::named("hello"), Digest::of(b"1"));
        assert!(check_place(&function, "default", "hello").is_ok());
        let invalid = check_place(&function, "shop", "bye").unwrap_err();
        let fields: Vec<&str> = invalid.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["metadata.name", "metadata.namespace"]);
        assert!(check_names("a/b", "x").is_err());
    }
}
