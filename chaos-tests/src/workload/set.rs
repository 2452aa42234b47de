//! Clients that put elements into a set and take some out again: functions of one namespace.

use http::Method;

use super::{Context, Documents, PATIENCE, SET, change, list, think};
use crate::{
    cluster::Gateway,
    history::{Action, Answer, Client, Outcome},
};

/// In percent: how many elements are taken out again.
const REMOVED: u64 = 25;
/// In percent: how often the set is read.
const LISTED: u64 = 10;
/// The most elements of a client: every one is a function with a placement.
const MAX_ELEMENTS: u64 = 300;

/// One client, until the run stops it.
pub async fn run(context: Context, number: usize) {
    let mut random = context.random(&format!("set client {number}"));
    let mut client = context.recorder.client();
    let mut there: Vec<u64> = Vec::new();
    let mut added = 0;
    while !context.is_stopped() {
        think(&mut random, 300).await;
        let mut gateway = context.api(random.index(context.cluster.count()));
        let drawn = random.below(100);
        if drawn < LISTED {
            members(&mut client, &mut gateway).await;
        } else if drawn < LISTED + REMOVED && !there.is_empty() {
            let element = there.swap_remove(random.index(there.len()));
            let node = gateway.node().to_string();
            let path = Documents::path(SET, &format!("e{element}"));
            let work = async {
                let reply = gateway.send(Method::DELETE, &path, &[], "", PATIENCE).await;
                change(reply, true, |_| None)
            };
            client.does(&node, Action::Remove { element }, work).await;
        } else if added < MAX_ELEMENTS {
            added += 1;
            let element = (number as u64 + 1) * 1_000_000 + added;
            let name = format!("e{element}");
            let node = gateway.node().to_string();
            let (path, body) =
                (Documents::path(SET, &name), context.documents.cell(SET, &name, element));
            let work = async {
                let reply = gateway.send(Method::PUT, &path, &[], body, PATIENCE).await;
                change(reply, false, |_| None)
            };
            let outcome = client.does(&node, Action::Add { element }, work).await;
            if matches!(outcome, Outcome::Ok { .. }) {
                there.push(element);
            }
        }
    }
}

/// A linearizable read of the whole set.
pub async fn members(client: &mut Client, gateway: &mut Gateway) -> Outcome {
    let node = gateway.node().to_string();
    let path = format!("/v1/namespaces/{SET}/functions?consistency=linearizable");
    let work = async {
        let reply = gateway.send(Method::GET, &path, &[], "", PATIENCE).await;
        list(reply, |document| {
            let element = |item: &serde_json::Value| {
                item["metadata"]["name"].as_str()?.strip_prefix('e')?.parse().ok()
            };
            let elements = document["items"].as_array()?.iter().map(element).collect::<Option<_>>();
            Some(Answer::Elements { elements: elements? })
        })
    };
    client.does(&node, Action::List, work).await
}
