//! Many seeds, each in a process of its own, so many at a time.

use std::{
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::ValueEnum as _;
use parking_lot::Mutex;

use crate::{bug::Bug, oracle::Violation};

pub(crate) use crate::run::Verdict;

/// A run that takes so long has no end.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What each run is made from, besides its seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) seconds: u64,
    pub(crate) bug: Option<Bug>,
}

impl Job {
    /// The words of a process that runs a seed.
    pub(crate) fn words(self, seed: u64) -> Vec<String> {
        let mut words = vec!["replay".to_owned(), seed.to_string()];
        words.extend(["--seconds".to_owned(), self.seconds.to_string()]);
        if let Some(bug) = self.bug.and_then(|bug| bug.to_possible_value()) {
            words.extend(["--bug".to_owned(), bug.get_name().to_owned()]);
        }
        words
    }

    /// Runs a seed in a process of its own.
    pub(crate) fn run(self, seed: u64) -> anyhow::Result<Verdict> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(self.words(seed))
            .arg("--json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut out = child.stdout.take().context("its output")?;
        let reader = std::thread::spawn(move || std::io::read_to_string(&mut out));
        let began = Instant::now();
        while child.try_wait()?.is_none() {
            if began.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                anyhow::bail!("seed {seed} came to no end in {PATIENCE:?}");
            }
            std::thread::sleep(LOOK);
        }
        let text = reader.join().map_err(|_| anyhow::anyhow!("its output cannot be read"))??;
        serde_json::from_str(text.trim()).with_context(|| format!("seed {seed} said {text:?}"))
    }
}

/// Runs seeds until all are done or `each` has had enough (false).
pub(crate) fn run_all(
    job: Job,
    seeds: &[u64],
    jobs: usize,
    each: impl Fn(&Verdict) -> bool + Sync,
) -> Vec<Verdict> {
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = job.run(*seed).unwrap_or_else(|error| broken(*seed, &error));
                    let more = each(&verdict);
                    verdicts.lock().push(verdict);
                    if !more {
                        next.store(seeds.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    verdicts.into_inner()
}

/// A run that came to nothing: as bad as a violation.
fn broken(seed: u64, error: &anyhow::Error) -> Verdict {
    let violation = Violation { invariant: "it ends".to_owned(), text: format!("{error:#}") };
    Verdict {
        seed,
        voters: 0,
        followers: 0,
        hash: String::new(),
        events: 0,
        violations: vec![violation],
        void: None,
        counts: Default::default(),
        messages: 0,
        datagrams: 0,
        revisions: 0,
        simulated_ms: 0,
    }
}
