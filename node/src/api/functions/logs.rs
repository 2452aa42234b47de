//! What a function wrote, from all living members.

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    agent::{LogQuery, NodeLogs},
    api::{
        Api,
        functions::resource,
        reply::{self, Answer},
        request::{At, Params},
        rfc3339,
    },
    codes,
    problem::{Outcome, Problem},
};

/// Lines of each node where the caller does not say.
const DEFAULT_TAIL: usize = 100;
/// The most lines of each node; no node keeps more.
const MAX_TAIL: usize = 10_000;
/// The most cursors: as many as a cluster has nodes.
const MAX_CURSORS: usize = 1_000;

#[derive(Deserialize)]
pub(in crate::api) struct Query {
    tail: Option<usize>,
    #[serde(default)]
    after: String,
}

pub(in crate::api) async fn logs(
    State(api): State<Arc<Api>>,
    At((namespace, name)): At<(String, String)>,
    Params(query): Params<Query>,
) -> Answer {
    let context = api.member()?;
    let (seen, stored) = resource::read(&context.control.view(), &namespace, &name)?;
    let stored = stored.ok_or_else(|| resource::missing(&namespace, &name))?;
    let wanted = LogQuery {
        function: stored.function.id(),
        tail: query.tail.unwrap_or(DEFAULT_TAIL).min(MAX_TAIL),
        after: cursors(&query.after)?,
    };
    let found = context.collect_logs(wanted).await;
    Ok(reply::list(seen, items(found, |node| context.node_name(node))))
}

/// Reads `node:sequence,…`.
fn cursors(text: &str) -> Outcome<BTreeMap<String, u64>> {
    let bad = |why: String| Err(Problem::new(codes::BAD_REQUEST, why));
    let mut cursors = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let cursor = part.rsplit_once(':').and_then(|(node, n)| Some((node, n.parse().ok()?)));
        let Some((node, sequence)) = cursor.filter(|(node, _)| !node.is_empty()) else {
            return bad(format!("after has {part:?}: must be node:sequence"));
        };
        cursors.insert(node.to_owned(), sequence);
        if cursors.len() > MAX_CURSORS {
            return bad(format!("after has more than {MAX_CURSORS} entries"));
        }
    }
    Ok(cursors)
}

/// The lines of all nodes by time; those of one node stay in their order.
fn items(found: Vec<NodeLogs>, name: impl Fn(swarmer_model::NodeId) -> String) -> Vec<Value> {
    let mut lines: Vec<(u64, String, crate::functions::LogEntry)> = Vec::new();
    for logs in found {
        let node = name(logs.node);
        lines.extend(logs.lines.into_iter().map(|line| (line.time_ms, node.clone(), line)));
    }
    lines.sort_by(|(a_time, a_node, a), (b_time, b_node, b)| {
        (a_time, a_node, a.sequence).cmp(&(b_time, b_node, b.sequence))
    });
    let value = |(time, node, line): (u64, String, crate::functions::LogEntry)| {
        json!({
            "node": node,
            "sequence": line.sequence,
            "time": rfc3339(time),
            "version": line.version,
            "stream": line.stream,
            "traceId": line.trace_id,
            "text": line.text,
        })
    };
    lines.into_iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::LogEntry;
    use swarmer_model::NodeId;

    #[test]
    fn cursors_are_read_or_refused() {
        assert!(cursors("").unwrap().is_empty());
        let read = cursors("a:1,b-2:30,").unwrap();
        assert_eq!(read, BTreeMap::from([("a".into(), 1), ("b-2".into(), 30)]));
        for bad in ["a", "a:", ":1", "a:x", "a:-1"] {
            assert_eq!(cursors(bad).unwrap_err().code, codes::BAD_REQUEST, "{bad}");
        }
    }

    #[test]
    fn lines_of_all_nodes_are_sorted_by_time() {
        let line = |sequence, time_ms| LogEntry {
            sequence,
            time_ms,
            version: 1,
            stream: "stdout".into(),
            trace_id: None,
            text: format!("{sequence}"),
        };
        let found = vec![
            NodeLogs { node: NodeId(1), lines: vec![line(4, 10), line(5, 30)] },
            NodeLogs { node: NodeId(2), lines: vec![line(1, 20)] },
        ];
        let items = items(found, |node| format!("n{}", node.0));
        let nodes: Vec<&str> = items.iter().filter_map(|item| item["node"].as_str()).collect();
        assert_eq!(nodes, ["n1", "n2", "n1"]);
        assert_eq!(items[0]["time"], "1970-01-01T00:00:00.010Z");
    }
}
