//! Clients that read, write and compare-and-set registers: annotations of functions.

use std::collections::BTreeMap;

use http::Method;

use super::{Context, Documents, PATIENCE, REGISTERS, change, key_of, list, think};
use crate::{
    cluster::{Gateway, Reply},
    history::{Action, Answer, Client, Outcome},
    seed::Seeded,
};

/// In percent: how often a client goes to another node.
const MOVE: u64 = 5;
/// The most times that one request under a key is sent.
const MAX_TRIES: u32 = 5;

/// The clients of one run.
#[derive(Debug, Clone, Copy)]
pub struct Registers {
    /// How many clients.
    pub clients: usize,
    /// How many registers.
    pub keys: u64,
    /// Values are drawn from so many; none: each is written once.
    pub values: Option<u64>,
    /// In percent: how many writes carry an `Idempotency-Key` and are sent more than once.
    pub repeated: u64,
}

impl Registers {
    /// One client, until the run stops it.
    pub async fn run(self, context: Context, number: usize) {
        let mut random = context.random(&format!("register client {number}"));
        let mut client = context.recorder.client();
        let mut gateway = context.api(number);
        // What this client read or wrote last, by register.
        let mut seen: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut written = 0;
        while !context.is_stopped() {
            think(&mut random, 20).await;
            if random.chance(MOVE) {
                gateway = context.api(random.index(context.cluster.count()));
            }
            let name = format!("k{}", random.below(self.keys));
            written += 1;
            let value = match self.values {
                Some(few) => random.below(few),
                // Unique: the client in the upper digits.
                None => (number as u64 + 1) * 10_000_000 + written,
            };
            let drawn = random.below(100);
            let outcome = if drawn < 40 {
                read(&mut client, &mut gateway, &name).await
            } else if drawn < 70 {
                if let Some((seen_value, seen_revision)) = seen.remove(&name) {
                    let seen = (seen_value, seen_revision);
                    cas(&context, &mut client, &mut gateway, &name, seen, value).await
                } else {
                    read(&mut client, &mut gateway, &name).await
                }
            } else if random.chance(self.repeated) {
                let key = format!("{number}-{written}");
                repeat(&context, &mut client, &mut random, &name, value, &key).await
            } else {
                write(&context, &mut client, &mut gateway, &name, value).await
            };
            match outcome {
                Outcome::Ok {
                    answer: Answer::Value { value: Some(value), revision: Some(revision) },
                } => {
                    seen.insert(name, (value, revision));
                }
                Outcome::Ok { answer: Answer::Done { revision: Some(revision) } } => {
                    seen.insert(name, (value, revision));
                }
                Outcome::Ok { .. } => {}
                // Elsewhere it may go better.
                _ => gateway = context.api(random.index(context.cluster.count())),
            }
        }
    }
}

/// A linearizable read, by the list of all registers: the answer for one alone asks other nodes how
/// it stands there, which is another thing to wait for.
pub async fn read(client: &mut Client, gateway: &mut Gateway, name: &str) -> Outcome {
    let path = format!("/v1/namespaces/{REGISTERS}/functions?consistency=linearizable");
    let node = gateway.node().to_string();
    let work = async {
        let reply = gateway.send(Method::GET, &path, &[], "", PATIENCE).await;
        list(reply, |document| {
            let items = document["items"].as_array()?;
            let Some(item) = items.iter().find(|item| item["metadata"]["name"] == name) else {
                return Some(Answer::Value { value: None, revision: None });
            };
            let revision = item["metadata"]["revision"].as_u64()?;
            Some(Answer::Value { value: Some(Documents::value(item)?), revision: Some(revision) })
        })
    };
    client.does(&node, Action::Read { key: key_of(name) }, work).await
}

/// A write without a condition.
pub async fn write(
    context: &Context,
    client: &mut Client,
    gateway: &mut Gateway,
    name: &str,
    value: u64,
) -> Outcome {
    let node = gateway.node().to_string();
    let action = Action::Write { key: key_of(name), value, request: None };
    let work = put(context, gateway, name, value, &[]);
    client.does(&node, action, work).await
}

async fn cas(
    context: &Context,
    client: &mut Client,
    gateway: &mut Gateway,
    name: &str,
    (seen_value, seen_revision): (u64, u64),
    value: u64,
) -> Outcome {
    let node = gateway.node().to_string();
    let action = Action::Cas { key: key_of(name), seen_value, seen_revision, value };
    let seen = format!("\"{seen_revision}\"");
    let work = async { put(context, gateway, name, value, &[("if-match", &seen)]).await };
    client.does(&node, action, work).await
}

/// One request under an `Idempotency-Key`, sent at least twice, to any node, until it is known
/// what became of it.
async fn repeat(
    context: &Context,
    client: &mut Client,
    random: &mut Seeded,
    name: &str,
    value: u64,
    request: &str,
) -> Outcome {
    let action = Action::Write { key: key_of(name), value, request: Some(request.to_owned()) };
    let work = async {
        let (mut ok, mut unknown) = (false, None);
        let mut failed = String::new();
        for tried in 1..=MAX_TRIES {
            let mut gateway = context.api(random.index(context.cluster.count()));
            let headers = [("idempotency-key", request)];
            match put(context, &mut gateway, name, value, &headers).await {
                Outcome::Ok { .. } => ok = true,
                Outcome::Unknown { why } => unknown = Some(why),
                Outcome::Failed { why } => failed = why,
                harness @ Outcome::Harness { .. } => return harness,
            }
            if tried > 1 && (ok || unknown.is_none()) {
                break;
            }
            think(random, 100).await;
        }
        match (ok, unknown) {
            // What came back is a later state: its revision need not be that of this write.
            (true, _) => Outcome::Ok { answer: Answer::Done { revision: None } },
            (false, Some(why)) => Outcome::Unknown { why },
            (false, None) => Outcome::Failed { why: failed },
        }
    };
    client.does("any", action, work).await
}

async fn put(
    context: &Context,
    gateway: &mut Gateway,
    name: &str,
    value: u64,
    headers: &[(&str, &str)],
) -> Outcome {
    let path = Documents::path(REGISTERS, name);
    let body = context.documents.cell(REGISTERS, name, value);
    let reply = gateway.send(Method::PUT, &path, headers, body, PATIENCE).await;
    change(reply, false, |reply| {
        // Only if what came back is what was written: it may be a later state.
        (Documents::value(&reply.json()) == Some(value)).then(|| tag(reply)).flatten()
    })
}

/// The revision of a resource.
fn tag(reply: &Reply) -> Option<u64> {
    reply.header("etag").trim_matches('"').parse().ok()
}
