//! Clients that append to lists and read them, several in one transaction: annotations of
//! functions.
//!
//! What a transaction reads comes from one node's own copy, which may be old; it is true because
//! every list that was read is a `check` of the transaction, or a `put` at the revision seen.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde_json::Value;

use super::{Context, Documents, LISTS, PATIENCE, classify, think};
use crate::{
    cluster::Gateway,
    history::{Action, Answer, Client, Operation, Outcome, Step},
    seed::Seeded,
};

/// Lists that are in use at the same time: few, so that clients meet.
const SLOTS: u64 = 5;
/// The most lists of one transaction.
const MOST: u64 = 3;
/// A list that is as long as this is left for a new one: an annotation is bounded.
const FULL: usize = 80;
/// In percent: how often a list of a transaction is only read.
const READ: u64 = 40;
/// In percent: how often all lists are read at once instead.
const SNAPSHOT: u64 = 15;
/// In percent: how often a client goes to another node.
const MOVE: u64 = 10;

/// What was seen: each list with the revision of its last change.
type Seen = BTreeMap<u64, (u64, Vec<u64>)>;

/// One client, until the run stops it.
pub async fn run(context: Context, number: usize) {
    let mut random = context.random(&format!("list client {number}"));
    let mut client = context.recorder.client();
    let mut gateway = context.api(number);
    // Which list a slot means now.
    let mut current: BTreeMap<u64, u64> = (0..SLOTS).map(|slot| (slot, slot)).collect();
    let mut appended = 0;
    while !context.is_stopped() {
        think(&mut random, 40).await;
        if random.chance(MOVE) {
            gateway = context.api(random.index(context.cluster.count()));
        }
        let outcome = if random.chance(SNAPSHOT) {
            snapshot(&mut client, &mut gateway, current.values().copied()).await
        } else {
            let steps = draw(&mut random, &current, || {
                appended += 1;
                // Unique: the client in the upper digits.
                (number as u64 + 1) * 1_000_000 + appended
            });
            transact(&context, &mut client, &mut gateway, steps).await
        };
        match &outcome {
            Outcome::Ok { answer: Answer::Steps { steps } } => {
                for step in steps {
                    if let Step::Read(list, Some(values)) = step
                        && values.len() >= FULL
                        && let Some(slot) = current.get_mut(&(list % SLOTS))
                    {
                        *slot = (*slot).max(list + SLOTS);
                    }
                }
            }
            // Elsewhere it may go better.
            _ => gateway = context.api(random.index(context.cluster.count())),
        }
    }
}

/// Some lists, each read, most of them appended to; reads without what they give.
fn draw(
    random: &mut Seeded,
    current: &BTreeMap<u64, u64>,
    mut next: impl FnMut() -> u64,
) -> Vec<Step> {
    let mut slots: Vec<u64> = current.values().copied().collect();
    random.shuffle(&mut slots);
    slots.truncate(usize::try_from(random.between(1, MOST)).unwrap_or(1));
    let mut steps = Vec::new();
    for list in slots {
        steps.push(Step::Read(list, None));
        if !random.chance(READ) {
            steps.push(Step::Append(list, next()));
        }
    }
    steps
}

/// One transaction: a look at the lists, and one request that changes some if all are as seen.
async fn transact(
    context: &Context,
    client: &mut Client,
    gateway: &mut Gateway,
    steps: Vec<Step>,
) -> Outcome {
    let node = gateway.node().to_string();
    let action = Action::Txn { steps: steps.clone() };
    let work = async {
        let path = format!("/v1/namespaces/{LISTS}/functions");
        let reply = gateway.send(Method::GET, &path, &[], "", PATIENCE).await;
        let mut seen = None;
        let looked = classify::list(reply, |document| {
            seen = Some(lists(document)?);
            Some(Answer::Done { revision: None })
        });
        let Some(seen) = seen else { return looked };
        let body = body(&context.documents, &steps, &seen);
        let path = format!("/v1/namespaces/{LISTS}/transactions");
        let reply = gateway.send(Method::POST, &path, &[], body, PATIENCE).await;
        match classify::change(reply, false, |_| None) {
            Outcome::Ok { .. } => {
                Outcome::Ok { answer: Answer::Steps { steps: filled(&steps, &seen) } }
            }
            outcome => outcome,
        }
    };
    client.does(&node, action, work).await
}

/// A linearizable read of these lists, at one revision.
pub async fn snapshot(
    client: &mut Client,
    gateway: &mut Gateway,
    wanted: impl IntoIterator<Item = u64>,
) -> Outcome {
    let steps: Vec<Step> = wanted.into_iter().map(|list| Step::Read(list, None)).collect();
    let path = format!("/v1/namespaces/{LISTS}/functions?consistency=linearizable");
    let node = gateway.node().to_string();
    let work = async {
        let reply = gateway.send(Method::GET, &path, &[], "", PATIENCE).await;
        classify::list(reply, |document| {
            Some(Answer::Steps { steps: filled(&steps, &lists(document)?) })
        })
    };
    client.does(&node, Action::Txn { steps: steps.clone() }, work).await
}

/// Every list of which a history speaks.
pub fn lists_of(history: &[Operation]) -> BTreeSet<u64> {
    let steps = history.iter().filter_map(|operation| match &operation.action {
        Action::Txn { steps } => Some(steps),
        _ => None,
    });
    steps.flatten().map(Step::list).collect()
}

/// The lists of a namespace's functions; none if they cannot be read.
fn lists(document: &Value) -> Option<Seen> {
    let one = |item: &Value| {
        let list = item["metadata"]["name"].as_str()?.strip_prefix('l')?.parse().ok()?;
        let revision = item["metadata"]["revision"].as_u64()?;
        Some((list, (revision, Documents::values(item)?)))
    };
    document["items"].as_array()?.iter().map(one).collect()
}

/// The reads with what was seen.
fn filled(steps: &[Step], seen: &Seen) -> Vec<Step> {
    let fill = |step: &Step| match step {
        Step::Read(list, _) => {
            let values = seen.get(list).map(|(_, values)| values.clone()).unwrap_or_default();
            Step::Read(*list, Some(values))
        }
        append => append.clone(),
    };
    steps.iter().map(fill).collect()
}

/// The request: a list that is appended to is a put at the revision seen, the others are checks.
fn body(documents: &Documents, steps: &[Step], seen: &Seen) -> String {
    let mut changes: BTreeMap<u64, Value> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Read(list, _) => {
                let revision = seen.get(list).map_or(0, |(revision, _)| *revision);
                let check = serde_json::json!({ "name": name(*list), "revision": revision });
                changes.insert(*list, serde_json::json!({ "check": check }));
            }
            Step::Append(list, value) => {
                let (revision, mut values) = seen.get(list).cloned().unwrap_or_default();
                values.push(*value);
                let put = documents.list(LISTS, &name(*list), &values, revision);
                changes.insert(*list, serde_json::json!({ "put": put }));
            }
        }
    }
    let changes: Vec<Value> = changes.into_values().collect();
    serde_json::json!({ "changes": changes }).to_string()
}

fn name(list: u64) -> String {
    format!("l{list}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::validate;

    #[test]
    fn a_list_is_read_back_and_a_request_names_each_list_once() {
        let documents = Documents::of(b"component");
        let mut document = documents.list(LISTS, "l7", &[1, 2], 0);
        document["metadata"]["revision"] = 9.into();
        let seen = lists(&serde_json::json!({ "items": [document] })).unwrap();
        assert_eq!(seen, Seen::from([(7, (9, vec![1, 2]))]));
        let steps = [Step::Read(7, None), Step::Append(7, 3), Step::Read(8, None)];
        let body: Value = serde_json::from_str(&body(&documents, &steps, &seen)).unwrap();
        let put = &body["changes"][0]["put"];
        assert_eq!(Documents::values(put), Some(vec![1, 2, 3]));
        assert_eq!(put["metadata"]["revision"], 9);
        assert_eq!(
            body["changes"][1],
            serde_json::json!({ "check": { "name": "l8", "revision": 0 } })
        );
        assert_eq!(body["changes"].as_array().unwrap().len(), 2);
        let told = filled(&steps, &seen);
        assert_eq!(told[0], Step::Read(7, Some(vec![1, 2])));
        assert_eq!(told[2], Step::Read(8, Some(Vec::new())));
        let operation = Operation {
            id: 1,
            client: 1,
            node: "n1".into(),
            invoked_ns: 0,
            completed_ns: 1,
            action: Action::Txn { steps: steps.to_vec() },
            outcome: Outcome::Ok { answer: Answer::Steps { steps: told } },
        };
        assert_eq!(validate(std::slice::from_ref(&operation)), Ok(()));
        assert_eq!(lists_of(&[operation]), BTreeSet::from([7, 8]));
    }

    #[test]
    fn a_draw_takes_each_list_once_and_every_value_is_new() {
        let current = (0..SLOTS).map(|slot| (slot, slot)).collect();
        let mut random = Seeded::new(1, "draw");
        let mut given = 0;
        for _ in 0..100 {
            let before = given;
            let steps = draw(&mut random, &current, || {
                given += 1;
                given
            });
            let reads = steps.iter().filter(|step| matches!(step, Step::Read(..))).count();
            assert!((1..=3).contains(&reads) && steps.len() - reads <= reads, "{steps:?}");
            let appends = steps.iter().filter(|step| matches!(step, Step::Append(..))).count();
            assert_eq!(given - before, appends as u64);
        }
    }
}
