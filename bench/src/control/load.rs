//! Clients that each send the next request when the answer to the last is there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use super::subject::{Speech, Subject};
use crate::{connection::Connection, histogram::Histogram};

/// Before the clock starts.
const WARM_UP: Duration = Duration::from_secs(1);
/// An answer may take so long; a slower one is an error.
const ANSWER: Duration = Duration::from_secs(10);
/// Pause after a failure.
const AFTER_FAILURE: Duration = Duration::from_millis(10);
/// Writing a history takes at most so long, however far it came.
const HISTORY: Duration = Duration::from_secs(180);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Put,
    Get,
}

/// What came of a run.
#[derive(Default, Clone)]
pub(super) struct Measured {
    pub(super) latency: Histogram,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    pub(super) duration: Duration,
    /// Of all nodes.
    pub(super) cpu: Duration,
}

impl Measured {
    pub(super) fn per_second(&self) -> f64 {
        self.latency.count() as f64 / self.duration.as_secs_f64().max(1e-9)
    }

    /// CPU of all nodes for each request.
    pub(super) fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / (self.latency.count().max(1)) as f64
    }

    fn merge(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// When a run ends.
struct Bounds {
    begin: Instant,
    end: Instant,
    /// Requests that may still be sent.
    left: AtomicU64,
    /// The number of the next value.
    next: AtomicU64,
}

/// Loads it for so long; only what ends within that time counts.
pub(super) async fn run(
    subject: &Subject,
    work: Work,
    clients: usize,
    duration: Duration,
) -> Result<Measured> {
    let begin = Instant::now() + WARM_UP;
    let end = begin + duration;
    let bounds = Bounds { begin, end, left: u64::MAX.into(), next: 1.into() };
    let load = start(subject.speech(), work, clients, bounds);
    tokio::time::sleep_until(begin.into()).await;
    let before = subject.cpu();
    tokio::time::sleep_until(end.into()).await;
    let cpu = subject.cpu().saturating_sub(before);
    let measured = load.await??;
    ensure!(measured.latency.count() > 0, "nothing succeeded: {:?}", measured.first_error);
    Ok(Measured { duration, cpu, ..measured })
}

/// Puts so many.
pub(super) async fn puts(subject: &Subject, clients: usize, count: u64) -> Result<Measured> {
    let begin = Instant::now();
    let bounds = Bounds { begin, end: begin + HISTORY, left: count.into(), next: 1.into() };
    start(subject.speech(), Work::Put, clients, bounds).await?
}

/// One thread for all clients: what they cost is the same for every subject.
fn start(
    speech: Arc<Speech>,
    work: Work,
    clients: usize,
    bounds: Bounds,
) -> tokio::task::JoinHandle<Result<Measured>> {
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let bounds = Arc::new(bounds);
            let mut tasks = JoinSet::new();
            for number in 0..clients {
                tasks.spawn(client(Arc::clone(&speech), work, number, Arc::clone(&bounds)));
            }
            let mut sum = Measured::default();
            while let Some(measured) = tasks.join_next().await {
                sum.merge(measured?);
            }
            Ok(sum)
        })
    })
}

async fn client(speech: Arc<Speech>, work: Work, number: usize, bounds: Arc<Bounds>) -> Measured {
    let to = speech.nodes[number % speech.nodes.len()];
    let mut measured = Measured::default();
    let mut open = None;
    while Instant::now() < bounds.end
        && bounds
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_ok()
    {
        let request = match work {
            Work::Put => speech.put(to, number, bounds.next.fetch_add(1, Ordering::Relaxed)),
            Work::Get => speech.get(to, number),
        };
        let one = async {
            let connection = match &mut open {
                Some(connection) => connection,
                None => open.insert(Connection::open(to).await?),
            };
            let start = Instant::now();
            let answer = connection.exchange(&request).await?;
            let body = &answer.body[..answer.body.len().min(200)];
            let body = String::from_utf8_lossy(body);
            ensure!(answer.status == 200, "status {}: {body}", answer.status);
            ensure!(!answer.body.is_empty(), "an empty answer");
            Ok((start, Instant::now()))
        };
        match tokio::time::timeout(ANSWER, one).await {
            Ok(Ok((start, now))) => {
                if now >= bounds.begin && now < bounds.end {
                    measured.latency.record(now - start);
                }
            }
            failed => {
                let why = match failed {
                    Ok(Err(error)) => format!("{error:#}"),
                    _ => format!("no answer in {ANSWER:?}"),
                };
                open = None;
                if Instant::now() >= bounds.begin {
                    measured.errors += 1;
                    measured.first_error.get_or_insert(why);
                }
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
    measured
}
