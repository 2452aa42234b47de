//! `/v1/regions`: all nodes of a region at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::{Extension, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use swarmer_model::{
    Coded as _, Key, Kind, Region, RegionSpec, RegionState, Resource as _, Revision, nearest,
};
use swarmer_raft::{Expect, Outcome as TxnOutcome, Txn, View};

use crate::{
    agent::{Context, lead_region, lead_region_key, shortages_in},
    api::{
        Api,
        auth::SharedGrant,
        nodes, now_ms,
        reply::{self, Answer},
        request::{At, JsonBytes, MAX_ATTEMPTS, WriteHeaders},
        rfc3339,
    },
    codes,
    desired::plans_key,
    problem::Problem,
};

/// The most functions that an answer names which cannot leave a region; the first show the pattern.
const MAX_CONFLICTS: usize = 16;
/// The most regions that a message names where none is near to what was asked for.
const MAX_NAMED: usize = 8;
/// How long an answer waits until this node acts by what it just wrote.
const SEEN: Duration = Duration::from_secs(1);

/// What was said of regions, each with the revision of its entry.
fn said(view: &View) -> (Revision, BTreeMap<String, (Region, Revision)>) {
    let (seen, entries) = view.list(Kind::Region.prefix());
    let regions = entries.iter().filter_map(|(key, entry)| {
        let name = key.strip_prefix(Kind::Region.prefix())?;
        let region = serde_json::from_slice(&entry.value).ok()?;
        Some((name.to_owned(), (region, entry.revision)))
    });
    (seen, regions.collect())
}

/// What there is of one region.
#[derive(Debug, Default)]
struct Tally {
    nodes: usize,
    alive: usize,
    voters: usize,
    leads: bool,
    chosen: bool,
    functions: usize,
    copies: usize,
    region: Option<Region>,
}

impl Tally {
    fn item(&self, name: &str) -> Value {
        let state = self.region.as_ref().map(Region::state).unwrap_or_default();
        let spec = self.region.as_ref().map(|region| &region.spec);
        json!({
            "name": name,
            "state": state,
            "drained": state == RegionState::Drained,
            "since": spec.map(|spec| rfc3339(spec.since_ms)),
            "by": spec.and_then(|spec| spec.by.as_ref()),
            "reason": spec.and_then(|spec| spec.reason.as_ref()),
            "nodes": self.nodes,
            "alive": self.alive,
            "voters": self.voters,
            "leads": self.leads,
            "chosen": self.chosen,
            "functions": self.functions,
            "copies": self.copies,
        })
    }
}

/// Every region in which a node is or of which something was said. Functions are those that the
/// bearer may look at.
fn all(context: &Context, grant: &SharedGrant) -> (Revision, BTreeMap<String, Tally>) {
    let view = context.control.view();
    let (seen, said) = said(&view);
    let mut regions: BTreeMap<String, Tally> = BTreeMap::new();
    for (name, (region, _)) in said {
        regions.entry(name).or_default().region = Some(region);
    }
    if let Some(chosen) = lead_region(&view) {
        regions.entry(chosen).or_default().chosen = true;
    }
    let status = context.control.status();
    let members = context.gossip.members();
    let alive: BTreeSet<_> =
        members.iter().filter(|member| member.state.is_active()).map(|m| m.node).collect();
    let mut region_of = BTreeMap::new();
    for (node, _) in nodes::all(&view).1 {
        let id = node.spec.id;
        let tally = regions.entry(node.spec.region.clone()).or_default();
        tally.nodes += 1;
        tally.alive += usize::from(id == context.node || alive.contains(&id));
        tally.voters += usize::from(status.voters.contains(&id));
        tally.leads |= status.leader == Some(id);
        region_of.insert(id, node.spec.region);
    }
    let desired = context.desired.current();
    for entry in desired.functions.values().filter(|entry| grant.covers(&entry.namespace)) {
        let mut copies: BTreeMap<&str, usize> = BTreeMap::new();
        for node in &entry.placement.nodes {
            if let Some(region) = region_of.get(node) {
                *copies.entry(region).or_default() += 1;
            }
        }
        for (region, copies) in copies {
            if let Some(tally) = regions.get_mut(region) {
                tally.functions += 1;
                tally.copies += copies;
            }
        }
    }
    (seen, regions)
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(grant): Extension<SharedGrant>,
) -> Answer {
    let (seen, regions) = all(&*api.member()?, &grant);
    Ok(reply::list(seen, regions.iter().map(|(name, tally)| tally.item(name)).collect()))
}

/// A region that is not there, with the one that was probably meant.
fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Problem {
    let hint = match nearest(name, known.clone()) {
        Some(near) => format!("; did you mean {near}?"),
        None => {
            let named: Vec<&str> = known.take(MAX_NAMED).collect();
            format!("; there are: {}", named.join(", "))
        }
    };
    Problem::new(codes::NOT_FOUND, format!("there is no region {name:?}{hint}"))
}

/// The regions that there are, and those of which something was said.
fn known(view: &View) -> BTreeSet<String> {
    let nodes = nodes::all(view).1;
    let of_nodes = nodes.into_iter().map(|(node, _)| node.spec.region);
    let named = of_nodes.chain(said(view).1.into_keys());
    named.filter(|name| !name.is_empty()).collect()
}

pub(super) async fn lead(
    State(api): State<Arc<Api>>,
    At(name): At<String>,
    Extension(grant): Extension<SharedGrant>,
    headers: WriteHeaders,
) -> Answer {
    choose(&*api.member()?, &name, &grant, &headers, true).await
}

pub(super) async fn lead_no_more(
    State(api): State<Arc<Api>>,
    At(name): At<String>,
    Extension(grant): Extension<SharedGrant>,
    headers: WriteHeaders,
) -> Answer {
    choose(&*api.member()?, &name, &grant, &headers, false).await
}

/// Says of a region that the leader is to stand there, in place of any other, or that it need not.
async fn choose(
    context: &Context,
    name: &str,
    grant: &SharedGrant,
    headers: &WriteHeaders,
    chosen: bool,
) -> Answer {
    let view = context.control.view();
    let key = lead_region_key();
    for attempt in 0..MAX_ATTEMPTS {
        let known = known(&view);
        let at = view.get(key.as_str());
        let now = at.as_ref().is_some_and(|entry| entry.value == name.as_bytes());
        // One without nodes by now can still be let go.
        if !known.contains(name) && (chosen || !now) {
            return Err(unknown(name, known.iter().map(String::as_str)).into());
        }
        let revision = at.as_ref().map(|entry| entry.revision);
        if let Some(expected) = headers.if_match
            && revision != Some(expected)
        {
            let is =
                revision.map_or("nobody chose one".to_owned(), |at| format!("is at revision {at}"));
            let detail =
                format!("the choice of who leads was seen at revision {expected}, it {is}");
            return Err(Problem::new(codes::CONFLICT, detail).into());
        }
        if now == chosen {
            let mut response = told(context, name, grant, false).await?;
            response.extensions_mut().insert(reply::Unchanged);
            return Ok(response);
        }
        let expect = revision.map_or(Expect::Absent, Expect::At);
        let txn = Txn::new().check(key.as_str(), expect);
        let mut txn = match chosen {
            true => txn.put(key.as_str(), name.to_owned()),
            false => txn.delete(key.as_str()),
        };
        txn.request_id = headers.request_id(attempt);
        match context.control.write(txn).await? {
            TxnOutcome::Committed { .. } => return told(context, name, grant, true).await,
            TxnOutcome::Conflict { revision, .. } => {
                let _ = view.wait_for(revision, SEEN).await;
            }
        }
    }
    Err(changed_too_often(name).into())
}

fn changed_too_often(name: &str) -> Problem {
    let detail = format!("region {name} changed {MAX_ATTEMPTS} times while this was tried");
    Problem::new(codes::CONFLICT, detail).retry_after(1)
}

/// Why a region is drained, if the operator says so.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    reason: Option<String>,
}

pub(super) async fn drain(
    State(api): State<Arc<Api>>,
    At(name): At<String>,
    Extension(grant): Extension<SharedGrant>,
    headers: WriteHeaders,
    body: JsonBytes,
) -> Answer {
    let Why { reason } = body.read_if_any()?;
    say(&*api.member()?, &name, &grant, &headers, true, reason).await
}

pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    At(name): At<String>,
    Extension(grant): Extension<SharedGrant>,
    headers: WriteHeaders,
) -> Answer {
    say(&*api.member()?, &name, &grant, &headers, false, None).await
}

/// Says of a region that it is drained, or that it takes work again. What is so already stays as it
/// was said first.
async fn say(
    context: &Context,
    name: &str,
    grant: &SharedGrant,
    headers: &WriteHeaders,
    drained: bool,
    reason: Option<String>,
) -> Answer {
    let view = context.control.view();
    for attempt in 0..MAX_ATTEMPTS {
        let (_, said) = said(&view);
        let before = said.get(name);
        let known = known(&view);
        if !known.contains(name) {
            return Err(unknown(name, known.iter().map(String::as_str)).into());
        }
        if before.is_some_and(|(region, _)| region.spec.drained) == drained {
            let mut response = told(context, name, grant, false).await?;
            response.extensions_mut().insert(reply::Unchanged);
            return Ok(response);
        }
        let at = before.map(|(_, revision)| *revision);
        if let Some(expected) = headers.if_match
            && at != Some(expected)
        {
            let is = at.map_or("has none".to_owned(), |at| format!("is at revision {at}"));
            let detail = format!("region {name} was seen at revision {expected}, it {is}");
            return Err(Problem::new(codes::CONFLICT, detail).into());
        }
        let spec = RegionSpec {
            drained,
            reason: reason.clone(),
            since_ms: now_ms(),
            by: grant.token.clone(),
        };
        let region = Region::new(name, spec);
        region.validate()?;
        let value = serde_json::to_vec(&region)
            .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
        let key = Key::region(name);
        let mut txn = Txn::new()
            .check(key.as_str(), at.map_or(Expect::Absent, Expect::At))
            .put(key.as_str(), value)
            .put(plans_key(), "");
        txn.request_id = headers.request_id(attempt);
        match context.control.write(txn).await? {
            TxnOutcome::Committed { revision, .. } => {
                // What cannot leave is asked of a planner that knows of it.
                let acts = context.desired.wait_until(|state| state.revision >= revision);
                let _ = tokio::time::timeout(SEEN, acts).await;
                return told(context, name, grant, true).await;
            }
            TxnOutcome::Conflict { revision, .. } => {
                let _ = view.wait_for(revision, SEEN).await;
            }
        }
    }
    Err(changed_too_often(name).into())
}

/// A region as it is now, whether that changed just now, and what cannot leave it if it is drained.
async fn told(context: &Context, name: &str, grant: &SharedGrant, changed: bool) -> Answer {
    let (seen, regions) = all(context, grant);
    // Of one without nodes that is not chosen any more nothing is left.
    let none = Tally::default();
    let tally = regions.get(name).unwrap_or(&none);
    let mut item = tally.item(name);
    let conflicts = if item["drained"] == true && tally.copies > 0 {
        shortages_in(context, name).await?
    } else {
        Vec::new()
    };
    item["changed"] = json!(changed);
    item["held"] = json!(conflicts.len());
    let shown = conflicts.iter().take(MAX_CONFLICTS);
    item["conflicts"] = shown
        .map(|conflict| json!({ "code": conflict.code().name, "text": conflict.to_string() }))
        .collect();
    Ok(reply::read(seen, &item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_is_not_there_is_told_with_the_nearest_or_all() {
        let known = ["eu-1", "us-1"];
        let told = |name| unknown(name, known.iter().copied());
        assert_eq!(told("eu-l").detail, "there is no region \"eu-l\"; did you mean eu-1?");
        assert_eq!(told("mars").detail, "there is no region \"mars\"; there are: eu-1, us-1");
        assert_eq!(told("mars").code, codes::NOT_FOUND);
    }

    #[test]
    fn a_region_of_which_nothing_was_said_is_open() {
        let item = Tally { nodes: 2, ..Tally::default() }.item("eu");
        assert_eq!((&item["state"], &item["drained"]), (&json!("open"), &json!(false)));
        assert_eq!((&item["since"], &item["nodes"]), (&Value::Null, &json!(2)));
        let spec = RegionSpec { drained: true, since_ms: 0, ..RegionSpec::default() };
        let region = Some(Region::new("eu", spec));
        let item = Tally { region, ..Tally::default() }.item("eu");
        assert_eq!((&item["state"], &item["drained"]), (&json!("drained"), &json!(true)));
        assert_eq!(item["since"], "1970-01-01T00:00:00.000Z");
    }
}
