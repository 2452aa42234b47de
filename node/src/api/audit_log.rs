//! `/v1/audit`: the audit log of the node that is asked.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::{
        Api,
        reply::{self, Answer},
        request::Params,
    },
    audit, codes,
    problem::Problem,
};

/// How many records are told unless more or fewer are wanted.
const DEFAULT_TAIL: usize = 100;
/// The most records of one answer: some megabytes.
const MAX_TAIL: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    tail: Option<usize>,
    #[serde(default)]
    verify: bool,
    #[expect(dead_code, reason = "every read takes it; the guard has looked at it already")]
    consistency: Option<String>,
}

pub(super) async fn audit(State(api): State<Arc<Api>>, Params(query): Params<Query>) -> Answer {
    let node = api.member()?.name.clone();
    if query.verify {
        let verdict = audit::verify().await?;
        let mut value = json!(verdict);
        value["node"] = json!(node);
        return Ok(reply::json(StatusCode::OK, &value));
    }
    let tail = query.tail.unwrap_or(DEFAULT_TAIL);
    if !(1..=MAX_TAIL).contains(&tail) {
        let detail = format!("tail is {tail}: must be from 1 to {MAX_TAIL}");
        return Err(Problem::new(codes::BAD_REQUEST, detail).into());
    }
    let lines = audit::tail(tail).await?;
    let items: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| json!({ "unreadable": line })))
        .collect();
    Ok(reply::json(StatusCode::OK, &json!({ "node": node, "items": items })))
}
