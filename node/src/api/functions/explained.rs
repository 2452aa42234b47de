//! Why a function stands where it stands, and what that decision was made from.

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use swarmer_scheduler::Decision;

use super::{Named, resource};
use crate::{
    agent::{Context, Explanation, Unasked},
    api::{
        Api,
        reply::{self, Answer},
        request::{At, Params},
        rfc3339,
    },
    codes,
    problem::{Outcome, Problem},
};

/// One decision, with its reason for people and for programs.
fn shape_of(context: &Context, decision: &Decision) -> Value {
    let desired = context.desired.current();
    let node = desired.nodes.get(&decision.node.id);
    json!({
        "node": decision.node.to_string(),
        "id": decision.node.id,
        "region": node.map(|node| &node.spec.region),
        "zone": node.map(|node| &node.spec.zone),
        "verdict": decision.verdict,
        "text": decision.reason.to_string(),
        "reason": decision.reason,
    })
}

fn shape(context: &Context, (namespace, name): (&str, &str), explanation: &Explanation) -> Value {
    let all = |decisions: &[Decision]| -> Vec<Value> {
        decisions.iter().map(|made| shape_of(context, made)).collect()
    };
    let conflicts = explanation.conflicts.iter().map(|conflict| {
        let code = swarmer_model::Coded::code(conflict).name;
        json!({ "code": code, "text": conflict.to_string() })
    });
    let desired = context.desired.current();
    let entry = desired.function(namespace, name);
    let candidates = entry.map(|entry| entry.placement.candidates.as_slice()).unwrap_or_default();
    let candidates: Vec<String> = candidates.iter().map(|node| context.node_name(*node)).collect();
    let moved = explanation
        .moved
        .as_ref()
        .map(|moved| json!({ "at": rfc3339(moved.at_ms), "decisions": all(&moved.decisions) }));
    json!({
        "namespace": namespace,
        "name": name,
        "wanted": explanation.wanted,
        "lookedAt": rfc3339(explanation.looked_at_ms),
        "nodes": all(&explanation.nodes),
        "conflicts": conflicts.collect::<Vec<_>>(),
        "moved": moved,
        // Who starts it where it is called and no copy answers.
        "candidates": candidates,
    })
}

/// The function's id, if there is such a function.
fn known(context: &Context, namespace: &str, name: &str) -> Outcome<String> {
    let (_, stored) = resource::read(&context.control.view(), namespace, name)?;
    let stored = stored.ok_or_else(|| resource::missing(namespace, name))?;
    Ok(stored.function.id())
}

fn told<T>(answer: Result<Option<T>, Unasked>) -> Outcome<T> {
    let answer =
        answer.map_err(|unasked| Problem::new(unasked.code, unasked.why).retry_after(1))?;
    answer.ok_or_else(|| {
        let why = "the leader's planner has not looked at the function yet";
        Problem::new(codes::NOT_READY, why).retry_after(1)
    })
}

pub(in crate::api) async fn explanation(
    State(api): State<Arc<Api>>,
    At((namespace, name)): Named,
) -> Answer {
    let context = api.member()?;
    let id = known(&context, &namespace, &name)?;
    let explanation = told(context.explain_placement(&id).await)?;
    let value = shape(&context, (&namespace, &name), &explanation);
    Ok(reply::read(context.control.view().revision(), &value))
}

/// Which function's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Of {
    namespace: String,
    name: String,
}

pub(in crate::api) async fn decision(
    State(api): State<Arc<Api>>,
    Params(Of { namespace, name }): Params<Of>,
) -> Answer {
    let context = api.member()?;
    let id = known(&context, &namespace, &name)?;
    let made = told(context.recorded_decision(&id).await)?;
    Ok(reply::read(context.control.view().revision(), &*made))
}
