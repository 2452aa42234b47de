//! One run: faults, then healing, then proof of life, then judgement.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use crate::{
    bug::Bug,
    client::Client,
    invariant::{check_all, liveness},
    nemesis::Nemesis,
    oracle::{Counts, Violation},
    planner, random,
    watcher::{PREFIXES, Watcher},
    world::{Death, Settings, World},
};

/// Clients that work at once.
const CLIENTS: usize = 8;
/// Watchers of each prefix.
const WATCHERS: usize = 2;
/// The stack of a run's thread: debug builds of the engine's futures are large.
const STACK_BYTES: usize = 64 << 20;

/// Panics of any task; a run must have none.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What a run came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) seed: u64,
    pub(crate) voters: u64,
    pub(crate) followers: u64,
    /// Of everything that happened: equal for equal runs.
    pub(crate) hash: String,
    pub(crate) events: u64,
    pub(crate) violations: Vec<Violation>,
    /// Why it proves nothing, if it does not.
    pub(crate) void: Option<String>,
    pub(crate) counts: Counts,
    pub(crate) messages: u64,
    pub(crate) datagrams: u64,
    pub(crate) revisions: u64,
    pub(crate) simulated_ms: u64,
}

/// What the seed says of the cluster.
pub(crate) fn settings(seed: u64, seconds: u64, bug: Option<Bug>) -> Settings {
    let voters = if seed.is_multiple_of(3) { 5 } else { 3 };
    Settings { seed, seconds, voters, followers: 1 + seed % 2, bug }
}

/// Runs a seed. Only the first one of a process is repeated by another process.
pub(crate) fn simulate(settings: Settings, print: bool) -> anyhow::Result<Verdict> {
    std::panic::set_hook(Box::new(|panic| PANICS.lock().push(panic.to_string())));
    let run = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        random::seed_this_thread(settings.seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()?;
        anyhow::Ok(runtime.block_on(run(settings, print)))
    })?;
    let verdict = run.join().map_err(|_| anyhow::anyhow!("{}", PANICS.lock().join("\n")))?;
    let _ = std::panic::take_hook();
    verdict
}

async fn run(settings: Settings, print: bool) -> Verdict {
    let world = World::new(settings.clone(), print);
    let total = Duration::from_secs(settings.seconds);
    let began = Instant::now();
    for id in world.ids() {
        world.start(id).await;
    }
    if let Some(raft) = world.net.node(world.voters()[0]).and_then(|node| node.raft()) {
        let voters = world.voters().into_iter().collect();
        if let Err(error) = raft.initialize(voters).await {
            world.oracle.lock().violate("liveness", format!("no cluster: {error}"));
        }
    }
    for number in 0..CLIENTS {
        tokio::spawn(Client::new(world.clone(), number).run());
    }
    for number in 0..WATCHERS * PREFIXES.len() {
        tokio::spawn(Watcher::new(world.clone(), number).run());
    }
    tokio::spawn(planner::operate(world.clone(), world.dice()));
    tokio::spawn(Nemesis::new(world.clone()).run());
    sleep_until(began + total * 2 / 3).await;

    world.heal();
    let until = Instant::now() + liveness::LIMIT;
    liveness::writes(&world, until).await;
    sleep_until(began + total).await;
    world.stop.cancel();
    liveness::settles(&world, until).await;
    for node in world.net.nodes() {
        world.note_state(&node);
    }
    restart_all(&world).await;
    let mut oracle = world.oracle.lock();
    check_all(&mut oracle);
    for panic in std::mem::take(&mut *PANICS.lock()) {
        oracle.violate("no panic", panic);
    }
    let (hash, events) = world.trace.hash();
    let net = world.net.counts();
    Verdict {
        seed: settings.seed,
        voters: settings.voters,
        followers: settings.followers,
        hash: format!("{hash:016x}"),
        events,
        violations: oracle.violations.clone(),
        void: void(&oracle.counts),
        counts: oracle.counts,
        messages: net.messages,
        datagrams: net.datagrams,
        revisions: oracle.history.last(),
        simulated_ms: world.trace.now().as_millis() as u64,
    }
}

/// All machines once more from their disks: they must come to where they were.
async fn restart_all(world: &Arc<World>) {
    for id in world.ids() {
        world.kill(id, Death::Kill);
    }
    for id in world.ids() {
        world.start(id).await;
    }
    liveness::settles(world, Instant::now() + liveness::LIMIT).await;
    for node in world.net.nodes() {
        world.note_state(&node);
    }
}

/// Why so little proves nothing.
fn void(counts: &Counts) -> Option<String> {
    let least = [
        ("acknowledged writes", counts.done),
        ("reads", counts.reads),
        ("watched changes", counts.watched),
        ("faults", counts.faults),
        ("placements", counts.placements),
    ];
    let none = least.iter().find(|(_, count)| *count == 0)?;
    Some(format!("there were no {}", none.0))
}
