//! The load: connections that each send the next request when the answer to the last is there.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use tokio::task::JoinSet;

use crate::{
    connection::{Connection, get},
    histogram::Histogram,
    process::Usage,
};

/// How long an answer that is open at the end may still take before it counts as an error.
const STRAGGLERS: Duration = Duration::from_secs(2);
/// Pause after a failure, so that a subject that is down is not flooded with connections.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// What is asked, how often at once, and what the answer must be.
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// The body of every right answer.
    pub(crate) body: &'static [u8],
    /// The node that must have answered, by `x-swarmer-node`.
    pub(crate) node: Option<String>,
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
}

/// What came of it; only whole answers within the measured time count.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    pub(crate) latency: Histogram,
    pub(crate) errors: u64,
    /// Right answers, but of another node than the one that was to be measured.
    pub(crate) elsewhere: u64,
    pub(crate) first_error: Option<String>,
}

impl Tally {
    pub(crate) fn merge(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        self.errors += other.errors;
        self.elsewhere += other.elsewhere;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn failed(&mut self, why: String) {
        self.errors += 1;
        self.first_error.get_or_insert(why);
    }
}

/// Runs the load on threads of its own, and reads what the processes used in the measured time.
pub(crate) async fn run(plan: Plan, mut usage: impl FnMut() -> Vec<Usage>) -> Result<Measured> {
    let begin = Instant::now() + plan.warm_up;
    let end = begin + plan.duration;
    let plan = Arc::new(plan);
    let threads = plan.threads.clamp(1, plan.connections.max(1));
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let plan = Arc::clone(&plan);
            // Connections are dealt out to the threads as evenly as they go.
            let count = (plan.connections + threads - 1 - thread) / threads;
            tokio::task::spawn_blocking(move || worker(plan, count, begin, end))
        })
        .collect();
    tokio::time::sleep_until(begin.into()).await;
    let before = usage();
    tokio::time::sleep_until(end.into()).await;
    let after = usage();
    let mut tally = Tally::default();
    for worker in workers {
        tally.merge(worker.await.map_err(|error| anyhow!("the load broke off: {error}"))??);
    }
    let cpu = before.iter().zip(&after).map(|(b, a)| a.cpu.saturating_sub(b.cpu)).collect();
    let rss = after.iter().map(|usage| usage.rss_bytes).collect();
    Ok(Measured { tally, duration: plan.duration, cpu, rss_bytes: rss })
}

/// A run's result; the processes stand in the order in which they were read.
pub(crate) struct Measured {
    pub(crate) tally: Tally,
    pub(crate) duration: Duration,
    pub(crate) cpu: Vec<Duration>,
    /// At the end of the run.
    pub(crate) rss_bytes: Vec<u64>,
}

fn worker(plan: Arc<Plan>, count: usize, begin: Instant, end: Instant) -> Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            tasks.spawn(connection(Arc::clone(&plan), begin, end));
        }
        let mut sum = Tally::default();
        while let Some(tally) = tasks.join_next().await {
            sum.merge(tally?);
        }
        Ok(sum)
    })
}

async fn connection(plan: Arc<Plan>, begin: Instant, end: Instant) -> Tally {
    let request = get(plan.address, &plan.path);
    let mut tally = Tally::default();
    let deadline = tokio::time::Instant::from_std(end + STRAGGLERS);
    let mut open = None;
    while Instant::now() < end {
        let one = one(&plan, &request, &mut open, &mut tally, begin, end);
        let Err(why) = tokio::time::timeout_at(deadline, one)
            .await
            .unwrap_or_else(|_| Err(anyhow!("no answer until {STRAGGLERS:?} after the end")))
        else {
            continue;
        };
        open = None;
        if Instant::now() >= begin {
            tally.failed(format!("{why:#}"));
        }
        tokio::time::sleep(AFTER_FAILURE).await;
    }
    tally
}

async fn one(
    plan: &Plan,
    request: &[u8],
    open: &mut Option<Connection>,
    tally: &mut Tally,
    begin: Instant,
    end: Instant,
) -> Result<()> {
    let connection = match open {
        Some(connection) => connection,
        None => open.insert(Connection::open(plan.address).await?),
    };
    let start = Instant::now();
    let answer = connection.exchange(request).await?;
    let now = Instant::now();
    let keeps_alive = answer.keeps_alive();
    // A request counts where it ended, so that their number is what was served in that time.
    if now >= begin && now < end {
        if answer.status != 200 || answer.body != plan.body {
            let code = answer.header("x-swarmer-error").map(String::from_utf8_lossy);
            let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)]);
            let code = code.unwrap_or_default();
            tally.failed(format!("status {} {code}, body {body:?}", answer.status));
        } else {
            tally.latency.record(now - start);
            let elsewhere = plan
                .node
                .as_ref()
                .is_some_and(|node| answer.header("x-swarmer-node") != Some(node.as_bytes()));
            tally.elsewhere += u64::from(elsewhere);
        }
    }
    if !keeps_alive {
        *open = None;
    }
    Ok(())
}
