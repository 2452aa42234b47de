//! `chaos`: strikes the nodes of a cluster that may fail, and watches what its users would see.

mod probe;
mod report;

use std::time::Duration;

use clap::Args;
use http::Method;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};
use swarmer_model::Millis;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::{
    probe::{Requests, Writes},
    report::{Report, Struck},
};
use crate::{
    agent::FaultKind,
    cli::{Ask, Client, Printer, client::segment},
    codes,
    problem::{Outcome, Problem},
};

/// How long the cluster may take to be whole again after a fault.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether it is.
const LOOK: Duration = Duration::from_millis(200);
/// How long a node may take to say what it thinks of the cluster.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// Shortest fault, in milliseconds.
const SHORTEST_MS: u64 = 1000;
/// The longest fault that a node takes.
const LONGEST_MS: u64 = 60_000;
/// Rest between two faults, in milliseconds.
const REST_MS: (u64, u64) = (1000, 3000);

#[derive(Debug, Args)]
#[command(
    after_help = "Every node must have been started with --allow-faults, on a cluster that may \
    fail. One node is struck at a time, and must be back before the next one is; what crashes must be \
    started again by whatever runs it (systemd, a container's restart policy). The node that is \
    asked is cut off like the others, but neither crashed nor paused. Meanwhile a lease is written \
    ten times a second and the URLs are asked twenty times a second. Ends with exit code 1 if \
    something that was acknowledged is lost, or if the cluster is not whole again a minute after a \
    fault.\n\n\
    Examples:\n  \
    swarmer chaos --for 2m --url http://a:8080/hello --url http://b:8080/hello\n  \
    swarmer chaos --faults isolate,loss --longest 5s --seed 7"
)]
pub(crate) struct Chaos {
    /// How long faults are struck
    #[arg(long = "for", default_value = "1m", value_name = "TIME")]
    time: Millis,
    /// Which ones
    #[arg(long, value_enum, value_delimiter = ',', default_value = "crash,pause,isolate,loss")]
    faults: Vec<FaultKind>,
    /// The longest of them lasts so long, at most 60s
    #[arg(long, default_value = "10s", value_name = "TIME")]
    longest: Millis,
    /// What users ask for, such as a function behind a node's ingress; may be given several times
    #[arg(long = "url")]
    urls: Vec<String>,
    /// Decides what strikes whom and when; a new one, which is printed, if it is not given
    #[arg(long)]
    seed: Option<u64>,
}

impl Ask for Chaos {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        self.check()?;
        let seed = self.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let cluster = Cluster::look(client).await?;
        // All of them allow it, or nothing is begun.
        for node in &cluster.nodes {
            strike(client, node, FaultKind::None, Duration::ZERO).await?;
        }
        printer.progress(&format!(
            "{} nodes, asked by way of {}; seed {seed}",
            cluster.nodes.len(),
            cluster.asked
        ));
        let stop = CancellationToken::new();
        let writes = Writes::begin(client, seed).await?;
        let writing = tokio::spawn(writes.run(client.clone(), stop.clone()));
        let asking = self
            .urls
            .iter()
            .map(|url| tokio::spawn(Requests::new(url.clone()).run(client.clone(), stop.clone())));
        let asking: Vec<_> = asking.collect();
        let (struck, broken) = self.strike_all(client, &cluster, seed, printer).await;
        stop.cancel();
        let joined =
            |error: tokio::task::JoinError| Problem::new(codes::INTERNAL, error.to_string());
        let (mut writes, mut requests) = (writing.await.map_err(joined)?, Vec::new());
        for asking in asking {
            requests.push(asking.await.map_err(joined)?);
        }
        let lost = writes.check_and_release(client).await;
        let report = Report { seed, struck, writes, requests, broken, lost };
        if printer.is_table() {
            printer.text(&report.text())?;
        } else {
            printer.value(&report.value())?;
        }
        report.verdict()
    }
}

impl Chaos {
    /// Before anything is struck: what is wrong with the question is no fault of the cluster.
    fn check(&self) -> Outcome<()> {
        let refuse = |why: String| Err(Problem::new(codes::USAGE, format!("chaos: {why}")));
        if self.faults.is_empty() {
            return refuse("at least one fault".to_owned());
        }
        if !(SHORTEST_MS..=LONGEST_MS).contains(&self.longest.0) {
            return refuse(format!("--longest is {}: from 1s to 60s", self.longest));
        }
        if self.time.0 == 0 {
            return refuse("--for 0s strikes nothing and proves nothing".to_owned());
        }
        for url in &self.urls {
            let uri = url.parse::<http::Uri>();
            let whole = uri.as_ref().is_ok_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
            });
            if !whole {
                return refuse(format!("--url {url:?} is no URL, such as http://a:8080/hello"));
            }
        }
        Ok(())
    }

    /// One fault after another. Gives what was struck, and what ended it before its time.
    async fn strike_all(
        &self,
        client: &Client,
        cluster: &Cluster,
        seed: u64,
        printer: &Printer,
    ) -> (Vec<Struck>, Option<String>) {
        let mut dice = StdRng::seed_from_u64(seed);
        let (start, mut struck) = (Instant::now(), Vec::new());
        while start.elapsed() < self.time.duration() {
            sleep(Duration::from_millis(dice.random_range(REST_MS.0..REST_MS.1))).await;
            let Some(fault) = self.faults.choose(&mut dice).copied() else { break };
            let deadly = matches!(fault, FaultKind::Crash | FaultKind::Pause);
            let victims: Vec<&String> =
                cluster.nodes.iter().filter(|node| !deadly || **node != cluster.asked).collect();
            let lasts = Duration::from_millis(dice.random_range(SHORTEST_MS..=self.longest.0));
            let Some(node) = victims.choose(&mut dice) else { break };
            let at = start.elapsed();
            printer
                .progress(&format!("{:>7.1} s  {fault:?} {node} for {lasts:?}", at.as_secs_f64()));
            if let Err(problem) = strike(client, node, fault, lasts).await {
                return (struck, Some(format!("{node} cannot be struck: {problem}")));
            }
            let over = if fault == FaultKind::Crash { Duration::ZERO } else { lasts };
            sleep(over).await;
            let whole = cluster.whole(client).await;
            let after = whole.as_ref().ok().copied();
            struck.push(Struck { at, node: (*node).clone(), fault, lasts, whole_after: after });
            if let Err(why) = whole {
                let why = format!(
                    "not whole {} s after {fault:?} of {node}: {why}",
                    WHOLE_WITHIN.as_secs()
                );
                return (struck, Some(why));
            }
        }
        (struck, None)
    }
}

async fn strike(client: &Client, node: &str, fault: FaultKind, lasts: Duration) -> Outcome<()> {
    let path = format!("/v1/nodes/{}/faults", segment(node));
    let lasts = format!("{}ms", lasts.as_millis());
    let body = json!({ "fault": fault, "lasts": lasts });
    client.json(Method::POST, &path, &body).await.map(drop)
}

/// The cluster as it is when nothing strikes.
struct Cluster {
    nodes: Vec<String>,
    asked: String,
}

impl Cluster {
    async fn look(client: &Client) -> Outcome<Self> {
        let status: Value = client.get("/v1/status").await?;
        let nodes: Value = client.get("/v1/nodes").await?;
        let items = nodes["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let names = items.iter().filter_map(|node| node["metadata"]["name"].as_str());
        let nodes = names.map(str::to_owned).collect();
        let asked = status["node"]["name"].as_str().unwrap_or_default().to_owned();
        let cluster = Self { nodes, asked };
        cluster.now(client).await.map_err(|why| {
            Problem::new(codes::USAGE, format!("chaos: the cluster is not well before it: {why}"))
        })?;
        Ok(cluster)
    }

    /// How long it takes until all nodes are alive, with a leader and a quorum.
    async fn whole(&self, client: &Client) -> Result<Duration, String> {
        let start = Instant::now();
        loop {
            match self.now(client).await {
                Ok(()) => return Ok(start.elapsed()),
                Err(why) if start.elapsed() > WHOLE_WITHIN => return Err(why),
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    async fn now(&self, client: &Client) -> Result<(), String> {
        let looks = async {
            let status: Value = client.get("/v1/status").await?;
            let members: Value = client.get("/v1/members").await?;
            Ok::<_, Problem>((status, members))
        };
        let (status, members) = match timeout(LOOK_DEADLINE, looks).await {
            Ok(Ok(looked)) => looked,
            Ok(Err(problem)) => return Err(problem.to_string()),
            Err(_) => return Err(format!("{} does not answer", self.asked)),
        };
        if status["quorum"] != true || status["leader"].is_null() {
            return Err("there is no quorum, or no leader".to_owned());
        }
        let members = members["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let alive = |name: &String| {
            members.iter().any(|member| member["name"] == **name && member["state"] == "alive")
        };
        let dead: Vec<&str> =
            self.nodes.iter().filter(|node| !alive(node)).map(String::as_str).collect();
        if dead.is_empty() { Ok(()) } else { Err(format!("not alive: {}", dead.join(", "))) }
    }
}
