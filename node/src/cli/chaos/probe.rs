//! What a cluster's users do meanwhile: they write, and ask for pages.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use swarmer_model::DEFAULT_NAMESPACE;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Client, client::full, output::at},
    codes,
    problem::{Outcome, Problem},
};

/// How often a write begins, and how often a page is asked for.
const WRITE_EVERY: Duration = Duration::from_millis(100);
const ASK_EVERY: Duration = Duration::from_millis(50);
/// What is not answered by then has failed, or for a write: nobody knows.
const PATIENCE: Duration = Duration::from_secs(5);
/// The lease outlives every gap.
const TTL: &str = "1h";
/// The annotation that counts the writes.
const COUNTER: &str = "n";

/// How the tries of one kind went.
#[derive(Debug, Default)]
pub(super) struct Tries {
    pub(super) took: Vec<Duration>,
    pub(super) failed: u64,
    /// The longest time without one that went well.
    pub(super) longest_gap: Duration,
    last_good: Option<Instant>,
}

impl Tries {
    fn good(&mut self, began: Instant) {
        let now = Instant::now();
        self.took.push(now - began);
        self.gap(now);
        self.last_good = Some(now);
    }

    fn bad(&mut self) {
        self.failed += 1;
    }

    /// The time since the last good one counts even if none came after it.
    fn gap(&mut self, now: Instant) {
        if let Some(last) = self.last_good {
            self.longest_gap = self.longest_gap.max(now - last);
        }
    }
}

/// Renews one lease again and again; each renewal carries a number.
pub(super) struct Writes {
    path: String,
    token: u64,
    acknowledged: u64,
    sent: u64,
    pub(super) tries: Tries,
}

impl Writes {
    pub(super) async fn begin(client: &Client, seed: u64) -> Outcome<Self> {
        let path = format!("/v1/namespaces/{DEFAULT_NAMESPACE}/leases/chaos-{seed}");
        let body =
            json!({ "holder": "swarmer chaos", "ttl": TTL, "annotations": { COUNTER: "0" } });
        let lease = client.json(Method::POST, &format!("{path}/acquire"), &body).await?;
        let token = at(&lease, "status.token").as_u64().ok_or_else(|| {
            Problem::new(codes::INTERNAL, "the lease that was acquired has no token")
        })?;
        Ok(Self { path, token, acknowledged: 0, sent: 0, tries: Tries::default() })
    }

    /// Writes until it is told to stop.
    pub(super) async fn run(mut self, client: Client, stop: CancellationToken) -> Self {
        let mut ticks = interval(WRITE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            ticks.tick().await;
            self.sent += 1;
            let began = Instant::now();
            let renewed = self.renew(&client, self.sent);
            match timeout(PATIENCE, renewed).await {
                Ok(Ok(_)) => {
                    self.acknowledged = self.sent;
                    self.tries.good(began);
                }
                Ok(Err(_)) | Err(_) => self.tries.bad(),
            }
        }
        self.tries.gap(Instant::now());
        self
    }

    async fn renew(&self, client: &Client, number: u64) -> Outcome<Value> {
        let body = json!({ "token": self.token, "annotations": { COUNTER: number.to_string() } });
        client.json(Method::POST, &format!("{}/renew", self.path), &body).await
    }

    /// Whether the last write that was acknowledged is there, or a later one; then gives the lease
    /// back. Says what is wrong.
    pub(super) async fn check_and_release(&mut self, client: &Client) -> Option<String> {
        let read = client.get::<Value>(&format!("{}?consistency=linearizable", self.path)).await;
        let body = json!({ "token": self.token });
        let released = client.json(Method::POST, &format!("{}/release", self.path), &body).await;
        let lease = match read {
            Ok(lease) => lease,
            Err(problem) => return Some(format!("the lease cannot be read: {problem}")),
        };
        let annotations = &lease["metadata"]["annotations"];
        let there = annotations[COUNTER].as_str().and_then(|n| n.parse::<u64>().ok());
        match there {
            Some(there) if there >= self.acknowledged && there <= self.sent => {}
            there => {
                return Some(format!(
                    "write {} was acknowledged, of {} sent, and the cluster has {there:?}",
                    self.acknowledged, self.sent
                ));
            }
        }
        released.err().map(|problem| format!("the lease was not held to the end: {problem}"))
    }
}

/// Asks for one page again and again.
pub(super) struct Requests {
    pub(super) url: String,
    pub(super) tries: Tries,
}

impl Requests {
    pub(super) fn new(url: String) -> Self {
        Self { url, tries: Tries::default() }
    }

    /// Asks until it is told to stop.
    pub(super) async fn run(mut self, client: Client, stop: CancellationToken) -> Self {
        let mut ticks = interval(ASK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            ticks.tick().await;
            let began = Instant::now();
            match timeout(PATIENCE, self.ask(&client)).await {
                Ok(true) => self.tries.good(began),
                Ok(false) | Err(_) => self.tries.bad(),
            }
        }
        self.tries.gap(Instant::now());
        self
    }

    async fn ask(&self, client: &Client) -> bool {
        match client.send_to(Request::builder(), &self.url, full(Bytes::new())).await {
            Ok(answer) => {
                let well = answer.status().is_success();
                well && answer.into_body().collect().await.is_ok()
            }
            Err(_) => false,
        }
    }
}
