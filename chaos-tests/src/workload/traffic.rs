//! Requests to a function through every ingress, while its versions change.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use http::Method;
use serde_json::Value;

use super::{Context, Documents, PATIENCE, call, think};
use crate::{
    cluster::{Lost, Port},
    history::{Action, Answer, Outcome},
};

/// Where the function is mounted.
const BASE: &str = "/echo/";
/// The function's name.
const NAME: &str = "echo";
/// Its namespace.
const NAMESPACE: &str = "default";
/// Within this, a call must be answered: the function's own timeout.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a caller waits: longer, or it would never see one that hangs.
const WAIT: Duration = Duration::from_secs(20);
/// How long the function may take to serve on every node before the run begins.
const SETUP_TRIES: u32 = 300;
/// Between two versions.
const VERSION_MS: (u64, u64) = (3_000, 8_000);
/// How long it is watched for a version to go.
const RETIRE_TRIES: u32 = 200;
/// A node acts on its copy a moment after the API shows it; measured: up to 0.1 s after a restart.
const SETTLES: Duration = Duration::from_secs(1);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// The clients of one run.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    /// Clients at each ingress.
    pub clients: usize,
    /// Copies of the function.
    pub replicas: usize,
    /// Whether version after version is made of it.
    pub versions: bool,
}

impl Traffic {
    /// Deploys the function and waits until every ingress serves it.
    ///
    /// # Errors
    /// It does not come to serve.
    pub async fn set_up(self, context: &Context) -> Result<()> {
        let body = context.documents.service(NAME, 0, self.replicas, DEADLINE);
        let mut api = context.api(0);
        let path = Documents::path(NAMESPACE, NAME);
        let reply = api.send(Method::PUT, &path, &[], body, PATIENCE).await;
        if !reply.as_ref().is_ok_and(|reply| reply.status == 201) {
            bail!("the function is not taken: {reply:?}");
        }
        for node in 0..context.cluster.count() {
            let mut ingress = context.cluster.gateway(node, Port::Http);
            let mut tries = 0;
            while !ingress
                .send(Method::GET, "/echo/ready", &[], "", PATIENCE)
                .await
                .is_ok_and(|reply| reply.status == 200)
            {
                tries += 1;
                if tries > SETUP_TRIES {
                    bail!("{} does not serve the function", context.cluster.name(node));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// One client at the ingress of one node, until the run stops it.
    pub async fn run(self, context: Context, node: usize, number: usize) {
        let mut random = context.random(&format!("caller {node} {number}"));
        let mut client = context.recorder.client();
        let mut gateway = context.cluster.gateway(node, Port::Http);
        let name = context.cluster.name(node).to_string();
        let mut count = 0_u64;
        while !context.is_stopped() {
            think(&mut random, 50).await;
            count += 1;
            let id = format!("{name}-{number}-{count}");
            let path = format!("{BASE}{id}");
            let deadline_ms = u64::try_from(DEADLINE.as_millis()).unwrap_or(u64::MAX);
            let action = Action::Call { call: id, deadline_ms };
            let work = async { call(gateway.send(Method::GET, &path, &[], "", WAIT).await, BASE) };
            client.does(&name, action, work).await;
        }
    }

    /// Makes version after version, and takes down when the one before is gone from every node.
    pub async fn renew(self, context: Context) {
        let mut random = context.random("versions");
        let mut client = context.recorder.client();
        let mut made = 0;
        while !context.is_stopped() {
            let pause = random.between(VERSION_MS.0, VERSION_MS.1);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            made += 1;
            let away = context.cluster.away();
            let here: Vec<usize> =
                (0..context.cluster.count()).filter(|node| !away.contains(node)).collect();
            let mut gateway = context.api(here[random.index(here.len())]);
            let before =
                kept(&context, here[0]).await.and_then(|(_, serving)| serving.last().copied());
            let body = context.documents.service(NAME, made, self.replicas, DEADLINE);
            let path = Documents::path(NAMESPACE, NAME);
            let reply = gateway.send(Method::PUT, &path, &[], body, PATIENCE).await;
            let Some(before) = before else { continue };
            if !reply.is_ok_and(|reply| reply.status == 200) {
                continue;
            }
            if let Some(mut without) = gone(&context, before).await {
                // Every node's own copy says so: from now on none may send anything there.
                tokio::time::sleep(SETTLES).await;
                without.extend(context.cluster.away());
                let names = without.iter().map(|node| context.cluster.name(*node).to_string());
                let action = Action::Retire { version: before, without: names.collect() };
                let answer = Answer::Done { revision: None };
                client.does("all", action, async { Outcome::Ok { answer } }).await;
            }
        }
    }
}

/// Waits until every node that is there says that the version is gone. Gives those that were away
/// meanwhile; none if one did not say so.
async fn gone(context: &Context, version: u64) -> Option<BTreeSet<usize>> {
    for _ in 0..RETIRE_TRIES {
        let mut everywhere = true;
        let mut away = context.cluster.away();
        for node in (0..context.cluster.count()).filter(|node| !away.contains(node)) {
            let serving = kept(context, node).await;
            everywhere &= serving.is_some_and(|(planned, serving)| {
                planned && !serving.is_empty() && !serving.contains(&version)
            });
        }
        away.extend(context.cluster.away());
        if everywhere || context.is_stopped() {
            return everywhere.then_some(away);
        }
        tokio::time::sleep(LOOK).await;
    }
    None
}

/// Asks a node that was away for what holds now, until it says so. Taken down as one operation.
pub async fn back(context: &Context, node: usize, within: Duration) {
    let path = format!("/v1/namespaces/{NAMESPACE}/functions?consistency=linearizable");
    let mut gateway = context.api(node);
    let work = async {
        let (began, mut last) = (Instant::now(), String::new());
        while began.elapsed() < within {
            let reply = gateway.send(Method::GET, &path, &[], "", PATIENCE).await;
            match reply {
                Ok(reply) if reply.status == 200 => {
                    return Outcome::Ok { answer: Answer::Done { revision: None } };
                }
                Ok(reply) => last = format!("{} {}", reply.status, reply.code()),
                Err(Lost::Sent(why) | Lost::NotSent(why)) => last = why,
            }
            tokio::time::sleep(LOOK).await;
        }
        Outcome::Unknown { why: format!("not within {within:?}: {last}") }
    };
    context.recorder.client().does(context.cluster.name(node), Action::Back, work).await;
}

/// The versions that a node's own copy sends requests to; and whether that is what is wanted now.
async fn kept(context: &Context, node: usize) -> Option<(bool, BTreeSet<u64>)> {
    let mut gateway = context.api(node);
    let path = format!("/v1/namespaces/{NAMESPACE}/functions");
    let reply = gateway.send(Method::GET, &path, &[], "", PATIENCE).await.ok()?;
    let document = reply.json();
    let item = document["items"].as_array()?.iter().find(|i| i["metadata"]["name"] == NAME)?;
    let versions = item["live"]["versions"].as_array()?.iter();
    let serving = versions.filter(|version| version["weight"].as_u64() > Some(0));
    let numbers = serving.filter_map(|version| version["number"].as_u64()).collect();
    Some((item["live"]["upToDate"] == Value::Bool(true), numbers))
}
