//! `deploy`: how long until a new function answers, and until a known one starts.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use http_body_util::BodyExt as _;
use swarmer_model::Digest;
use swarmer_runtime::{
    Artifact, CallContext, Config, FunctionConfig, FunctionKey, NoEgress, NoImages, Runtime,
    TracingSink, WorkThreads, empty,
};

use crate::{
    cluster::Cluster,
    component::{ANSWER, Kind, padded},
    connection::{Connection, get},
    histogram::Histogram,
    machine::millis,
};

/// The component that is deployed is made so long.
const COMPONENT_BYTES: usize = 64 << 10;
/// How often the other node is asked whether it answers yet: what the figures are good to.
const POLL: Duration = Duration::from_millis(2);
/// A deployed function may take so long until it answers.
const ANSWERS: Duration = Duration::from_secs(120);
/// A call may take so long.
const CALL: Duration = Duration::from_secs(10);

/// How long a start takes.
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// How many components are deployed, one after another
    #[arg(long, default_value_t = 10)]
    trials: u32,
    /// How many functions are started from their cached images
    #[arg(long, default_value_t = 100)]
    starts: u32,
}

impl Deploy {
    pub(crate) async fn run(&self, swarmer: &Path) -> Result<()> {
        println!("### Deploy and start\n");
        println!("| what | trials | p50 ms | p99 ms | max ms |");
        println!("|---|---:|---:|---:|---:|");
        self.deploy(swarmer).await?;
        for kind in Kind::ALL {
            self.start(kind).await?;
        }
        println!(
            "\nDeploy is timed from the start of `swarmer deploy` to the first answer at the \
             ingress of another node, asked every {POLL:?}; each component differs, so nothing is \
             cached. A start is timed in process, on a fresh engine over images compiled before.\n"
        );
        Ok(())
    }

    async fn deploy(&self, swarmer: &Path) -> Result<()> {
        let folder = tempfile::tempdir()?;
        eprintln!("deploy: founding a cluster of three");
        let mut cluster = Cluster::found(swarmer, 3, folder.path()).await?;
        let (mut answered, mut returned) = (Histogram::default(), Histogram::default());
        for trial in 1..=self.trials {
            let name = format!("trial-{trial}");
            let file = folder.path().join(format!("{name}.wasm"));
            std::fs::write(&file, padded(Kind::P2.hello(), COMPONENT_BYTES, trial.into())?)?;
            let path = format!("/{name}");
            let start = Instant::now();
            let other = cluster.nodes[1].http;
            let (deployed, first) = tokio::join!(
                async {
                    cluster.deploy(0, &file, &["--name", &name]).await?;
                    anyhow::Ok(start.elapsed())
                },
                first_answer(other, &path, start),
            );
            let (deployed, (first, before)) = (deployed?, first?);
            eprintln!(
                "deploy: {name}: answer after {first:?}, command back after {deployed:?}; before \
                 that: {before}"
            );
            answered.record(first);
            returned.record(deployed);
            cluster.check()?;
        }
        row("`swarmer deploy` of 64 KiB to the first answer at another node", &answered);
        row("`swarmer deploy` of 64 KiB until the command returns", &returned);
        Ok(())
    }

    async fn start(&self, kind: Kind) -> Result<()> {
        let threads = WorkThreads::start()?;
        let folder = tempfile::tempdir()?;
        eprintln!("start: compiling {} {} components", self.starts, kind.name());
        let mut artifacts = Vec::new();
        {
            let runtime = runtime(folder.path(), &threads)?;
            for number in 0..self.starts {
                let bytes = padded(kind.hello(), COMPONENT_BYTES, number.into())?;
                let path = folder.path().join(format!("{number}.wasm"));
                std::fs::write(&path, &bytes)?;
                let artifact = Artifact { digest: Digest::of(&bytes), path };
                runtime.handle().prepare(&artifact).await?;
                artifacts.push(artifact);
            }
        }
        let runtime = runtime(folder.path(), &threads)?;
        let (mut loaded, mut answered) = (Histogram::default(), Histogram::default());
        for (number, artifact) in artifacts.iter().enumerate() {
            ensure!(runtime.handle().is_cached(&artifact.digest), "the image is not cached");
            let key = FunctionKey::new("default", format!("start-{number}"), 1);
            let request = hyper::Request::get("http://bench/").body(empty())?;
            let start = Instant::now();
            let function = runtime.handle().load(key, artifact, FunctionConfig::default()).await?;
            loaded.record(start.elapsed());
            let answer = function.call(request, CallContext::until(start + CALL)).await?;
            let body = answer.into_body().collect().await?.to_bytes();
            answered.record(start.elapsed());
            ensure!(body == ANSWER, "it answered {body:?}");
        }
        runtime.shutdown(Duration::ZERO).await;
        row(&format!("{} function from its cached image: load", kind.name()), &loaded);
        row(
            &format!("{} function from its cached image: load and first answer", kind.name()),
            &answered,
        );
        Ok(())
    }
}

fn runtime(folder: &Path, threads: &WorkThreads) -> Result<Runtime> {
    let config = Config::new(folder.join("images"));
    let guests = threads.handle().clone();
    Ok(Runtime::build(
        config,
        guests,
        Arc::new(NoEgress),
        Arc::new(TracingSink),
        Arc::new(NoImages),
    )?)
}

fn row(what: &str, times: &Histogram) {
    println!(
        "| {what} | {} | {} | {} | {} |",
        times.count(),
        millis(times.quantile(0.5)),
        millis(times.quantile(0.99)),
        millis(times.max()),
    );
}

/// How long after `start` this ingress gives the right answer, and what it said last before.
async fn first_answer(
    address: SocketAddr,
    path: &str,
    start: Instant,
) -> Result<(Duration, String)> {
    let request = get(address, path);
    let asking = async {
        let mut connection = None;
        let mut before = "nothing".to_owned();
        loop {
            let open = match &mut connection {
                Some(open) => open,
                None => connection.insert(Connection::open(address).await?),
            };
            match open.exchange(&request).await {
                Ok(answer) if answer.status == 200 && answer.body == ANSWER => {
                    return Ok((start.elapsed(), before));
                }
                Ok(answer) => {
                    let code = answer.header("x-swarmer-error").map(String::from_utf8_lossy);
                    let code = code.unwrap_or_default();
                    before = format!("{} {code} after {:?}", answer.status, start.elapsed());
                    if !answer.keeps_alive() {
                        connection = None;
                    }
                }
                Err(error) => {
                    before = format!("{error:#} after {:?}", start.elapsed());
                    connection = None;
                }
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let answer = tokio::time::timeout(ANSWERS, asking).await;
    answer.with_context(|| format!("{address}{path} does not answer after {ANSWERS:?}"))?
}
