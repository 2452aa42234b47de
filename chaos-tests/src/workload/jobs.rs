//! Requests that may not run twice, each of which its function writes down when it starts it.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use swarmer_model::Digest;

use super::{Context, Documents, PATIENCE, call, think};
use crate::{
    cluster::{Port, job},
    history::Action,
};

/// Where the function is mounted.
const BASE: &str = "/job/";
/// The function's name.
const NAME: &str = "job";
/// Its namespace.
const NAMESPACE: &str = "default";
/// How long a client waits for an answer: longer than the function's own timeout.
const WAIT: Duration = Duration::from_secs(20);
/// How long the function may take to serve on every node before the run begins.
const SETUP: Duration = Duration::from_secs(60);
/// Between two looks, at the function and at its log: shorter than it works, so that a start is
/// read while the node that tells of it lives.
const LOOK: Duration = Duration::from_millis(100);
/// How long a look at the log may take: the node asks all others.
const READ: Duration = Duration::from_secs(2);
/// Lines of each node that one look brings at most.
const TAIL: u64 = 2_000;

/// The clients of one run.
#[derive(Debug, Clone, Copy)]
pub struct Jobs {
    /// Clients at each ingress.
    pub clients: usize,
    /// Copies of the function.
    pub replicas: usize,
}

/// The lines of the function's log that were read: node, start of it, and number.
type Read = Arc<Mutex<BTreeSet<(String, u64, u64)>>>;

impl Jobs {
    /// Deploys the function and waits until every ingress serves it.
    ///
    /// # Errors
    /// It does not come to serve.
    pub async fn set_up(self, context: &Context) -> Result<()> {
        let component = job()?;
        let digest = Digest::of(&component);
        let document = json!({
            "apiVersion": "swarmer/v1",
            "kind": "Function",
            "metadata": { "name": NAME },
            "spec": { "component": digest, "placement": { "replicas": self.replicas } },
        });
        let mut api = context.api(0);
        let path = format!("/v1/artifacts/{digest}");
        let uploaded = api.send(Method::PUT, &path, &[], component, PATIENCE).await;
        let path = Documents::path(NAMESPACE, NAME);
        let reply = api.send(Method::PUT, &path, &[], document.to_string(), PATIENCE).await;
        if !reply.as_ref().is_ok_and(|reply| reply.status == 201) {
            bail!("the function is not taken: {uploaded:?}, {reply:?}");
        }
        let began = Instant::now();
        for node in 0..context.cluster.count() {
            let mut ingress = context.cluster.gateway(node, Port::Http);
            while !ingress
                .send(Method::GET, "/job/ready", &[], "", PATIENCE)
                .await
                .is_ok_and(|reply| reply.status == 200)
            {
                if began.elapsed() > SETUP {
                    bail!("{} does not serve the function", context.cluster.name(node));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// One client at the ingress of one node, until the run stops it. Each request is sent once.
    pub async fn run(self, context: Context, node: usize, number: usize) {
        let mut random = context.random(&format!("job client {node} {number}"));
        let mut client = context.recorder.client();
        let mut gateway = context.cluster.gateway(node, Port::Http);
        let name = context.cluster.name(node).to_string();
        let mut count = 0_u64;
        while !context.is_stopped() {
            think(&mut random, 50).await;
            count += 1;
            let id = format!("{name}-{number}-{count}");
            let path = format!("{BASE}{id}");
            let work = async { call(gateway.send(Method::POST, &path, &[], "", WAIT).await, BASE) };
            client.does(&name, Action::Post { job: id }, work).await;
        }
    }

    /// Reads the function's log at every node until the run stops it, and takes down each start.
    pub async fn read(self, context: Context) {
        let read = Read::default();
        let mut reading = tokio::task::JoinSet::new();
        for node in 0..context.cluster.count() {
            reading.spawn(follow(context.clone(), Arc::clone(&read), node));
        }
        while reading.join_next().await.is_some() {}
    }
}

async fn follow(context: Context, read: Read, node: usize) {
    let mut gateway = context.api(node);
    let mut next = String::new();
    loop {
        let last = context.is_stopped();
        let path = Documents::path(NAMESPACE, NAME);
        let path = format!("{path}/logs?tail={TAIL}&after={next}");
        let reply = gateway.send(Method::GET, &path, &[], "", READ).await;
        if let Ok(reply) = reply
            && reply.status == 200
        {
            let page = reply.json();
            if let Some(cursors) = page["next"].as_str() {
                next = cursors.to_owned();
            }
            for item in page["items"].as_array().into_iter().flatten() {
                take_down(&context, &read, item);
            }
        }
        if last {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A line is told by every node that is asked; it is one start.
fn take_down(context: &Context, read: &Read, item: &Value) {
    let parts = (item["node"].as_str(), item["boot"].as_u64(), item["sequence"].as_u64());
    let (Some(node), Some(boot), Some(sequence)) = parts else { return };
    let Some(job) = item["text"].as_str().and_then(|text| text.strip_prefix(BASE)) else { return };
    if read.lock().insert((node.to_owned(), boot, sequence)) {
        let now = context.recorder.now();
        context.recorder.note(node, Action::Started { job: job.to_owned() }, (now, now));
    }
}
