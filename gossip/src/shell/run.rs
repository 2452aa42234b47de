//! The loop: datagrams first, then commands, then what is due; outputs carried out after each.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use swarmer_model::NodeId;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Command, Gossip, persist, since};
use crate::{
    KnownMember, LEAVE_LINGER, MAX_BACKGROUND_TASKS, MAX_SEED_ADDRESSES, MemberState, Output,
    Refusal,
};

/// Datagrams taken before commands and timers get their turn.
const DATAGRAM_BATCH: usize = 64;
/// How often at most readers are told of changed members: a burst of records is one change.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);
/// How often at most one kind of refusal is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// How long a seed's name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Where there is nothing to do for longer than this, look anyway.
const IDLE: Duration = Duration::from_secs(1);

/// What a background task found out.
enum Done {
    PushPull(NodeId, Option<Bytes>),
    Confirmed(NodeId, bool),
    Resolved(String, Vec<SocketAddr>),
    Stored,
}

struct Runner {
    gossip: Gossip,
    tasks: JoinSet<Done>,
    published_at: Instant,
    unpublished: bool,
    persisted: Vec<KnownMember>,
    persist_at: Instant,
    persisting: bool,
    logged: HashMap<Refusal, Instant>,
    leaving: Option<(Instant, Vec<oneshot::Sender<()>>)>,
}

pub(super) async fn run(gossip: Gossip, shutdown: CancellationToken) {
    let now = Instant::now();
    let mut runner = Runner {
        persist_at: now + gossip.timing.persist_interval,
        gossip,
        tasks: JoinSet::new(),
        published_at: now,
        unpublished: true,
        persisted: Vec::new(),
        persisting: false,
        logged: HashMap::new(),
        leaving: None,
    };
    loop {
        runner.carry_out();
        if runner.leaving.as_ref().is_some_and(|(until, _)| Instant::now() >= *until) {
            break;
        }
        let wake = runner.wake();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some((from, bytes)) = runner.gossip.datagrams.recv() => runner.datagrams(from, &bytes),
            Some(command) = runner.gossip.commands.recv() => runner.command(command),
            Some(done) = runner.tasks.join_next() => {
                if let Ok(done) = done {
                    runner.done(done);
                }
            }
            () = sleep_until(wake) => {}
        }
        let now = since(runner.gossip.started);
        runner.gossip.core.tick(now);
    }
    runner.carry_out();
    runner.publish();
    runner.store_last();
    for answer in runner.leaving.take().into_iter().flat_map(|(_, answers)| answers) {
        // The one who asked may have gone; that changes nothing.
        let _ = answer.send(());
    }
}

impl Runner {
    fn now(&self) -> Duration {
        since(self.gossip.started)
    }

    fn wake(&self) -> Instant {
        let mut wake = Instant::now() + IDLE;
        if let Some(at) = self.gossip.core.next_deadline() {
            wake = wake.min(self.gossip.started + at);
        }
        if self.unpublished {
            wake = wake.min(self.published_at + PUBLISH_INTERVAL);
        }
        if let Some((until, _)) = &self.leaving {
            wake = wake.min(*until);
        }
        wake
    }

    fn datagrams(&mut self, from: SocketAddr, bytes: &[u8]) {
        let now = self.now();
        self.gossip.core.datagram(now, from, bytes);
        for _ in 1..DATAGRAM_BATCH {
            let Ok((from, bytes)) = self.gossip.datagrams.try_recv() else { return };
            self.gossip.core.datagram(now, from, &bytes);
        }
    }

    fn command(&mut self, command: Command) {
        let now = self.now();
        let core = &mut self.gossip.core;
        // An asker that gave up meanwhile needs no answer.
        match command {
            Command::ServePushPull(from, request, answer) => {
                let _ = answer.send(core.serve_push_pull(now, from, &request));
            }
            Command::Publish(update, answer) => {
                let _ = answer.send(core.publish(now, update));
            }
            Command::SetSeeds(seeds) => core.set_seeds(now, seeds),
            Command::SetKeyring(keyring, answer) => {
                let _ = answer.send(core.set_keyring(now, keyring));
            }
            Command::AdmissionChanged => core.admission_changed(now),
            Command::LookInto(node) => core.look_into(now, node),
            Command::Leave(answer) => {
                if let Err(error) = core.leave(now) {
                    tracing::error!(target: "swarmer::gossip", %error, "cannot say farewell");
                }
                let until = Instant::now() + LEAVE_LINGER;
                self.leaving.get_or_insert((until, Vec::new())).1.push(answer);
            }
        }
    }

    fn done(&mut self, done: Done) {
        let now = self.now();
        let core = &mut self.gossip.core;
        match done {
            Done::PushPull(node, answer) => core.push_pull_done(now, node, answer.as_deref()),
            Done::Confirmed(node, alive) => core.confirmed(now, node, alive),
            Done::Resolved(seed, addrs) => core.seed_resolved(now, &seed, addrs),
            Done::Stored => self.persisting = false,
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.gossip.core.output() {
            match output {
                Output::Send { to, bytes } => self.gossip.deps.sender.send(to, bytes),
                Output::StartPushPull { node, addr, request } => {
                    self.start_push_pull(node, addr, request);
                }
                Output::ConfirmAlive { node, addr } => self.confirm(node, addr),
                Output::ResolveSeed { seed } => self.resolve(seed),
                Output::Member { node, before, after, reason } => {
                    tracing::info!(
                        target: "swarmer::gossip::member",
                        %node, before = before.map(tracing::field::display), %after, reason = &*reason,
                    );
                }
                Output::Refused { from, node, reason } => self.log_refusal(from, node, reason),
                Output::Twin(twin) => {
                    self.gossip.twin.send_replace(Some(twin));
                }
            }
        }
        self.unpublished |=
            !Arc::ptr_eq(&self.gossip.core.members(), &self.gossip.members.borrow());
        if self.unpublished && self.published_at.elapsed() >= PUBLISH_INTERVAL {
            self.publish();
        }
        let distances = self.gossip.core.distances();
        let mut shared = self.gossip.shared.distances.lock();
        if !Arc::ptr_eq(&shared, &distances) {
            *shared = distances;
        }
        drop(shared);
        *self.gossip.shared.stats.lock() = self.gossip.core.stats();
        self.persist();
    }

    fn publish(&mut self) {
        self.gossip.members.send_replace(self.gossip.core.members());
        self.published_at = Instant::now();
        self.unpublished = false;
    }

    fn has_room(&self) -> bool {
        // Confirmations, exchanges, the seeds and the file, all bounded by themselves too.
        self.tasks.len() < MAX_BACKGROUND_TASKS * 4
    }

    fn start_push_pull(&mut self, node: NodeId, addr: SocketAddr, request: Bytes) {
        if !self.has_room() {
            return self.done(Done::PushPull(node, None));
        }
        let port = self.gossip.deps.push_pull.clone();
        let limit = self.gossip.timing.push_pull_timeout;
        self.tasks.spawn(async move {
            let answer = match timeout(limit, port.exchange(Some(node), addr, request)).await {
                Ok(Ok(answer)) => Some(answer),
                Ok(Err(error)) => {
                    tracing::debug!(target: "swarmer::gossip", %node, %addr, %error, "push/pull");
                    None
                }
                Err(_) => {
                    tracing::debug!(target: "swarmer::gossip", %node, %addr, "push/pull timed out");
                    None
                }
            };
            Done::PushPull(node, answer)
        });
    }

    fn confirm(&mut self, node: NodeId, addr: SocketAddr) {
        // Who was not asked has not been silent.
        if !self.has_room() {
            return;
        }
        let port = self.gossip.deps.liveness.clone();
        let limit = self.gossip.timing.confirm_timeout;
        self.tasks.spawn(async move {
            let alive = timeout(limit, port.confirm_alive(node, addr)).await.unwrap_or(false);
            Done::Confirmed(node, alive)
        });
    }

    fn resolve(&mut self, seed: String) {
        if !self.has_room() {
            return;
        }
        self.tasks.spawn(async move {
            let found = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(seed.clone())).await;
            let addrs: Vec<SocketAddr> = match found {
                Ok(Ok(addrs)) => addrs.take(MAX_SEED_ADDRESSES).collect(),
                Ok(Err(error)) => {
                    tracing::warn!(target: "swarmer::gossip", %seed, %error, "seed does not resolve");
                    Vec::new()
                }
                Err(_) => {
                    tracing::warn!(target: "swarmer::gossip", %seed, "seed does not resolve in time");
                    Vec::new()
                }
            };
            Done::Resolved(seed, addrs)
        });
    }

    /// One line for a kind of refusal now and then: a flood must not become one of log lines.
    fn log_refusal(&mut self, from: Option<SocketAddr>, node: Option<NodeId>, reason: Refusal) {
        let now = Instant::now();
        let due = self.logged.get(&reason).is_none_or(|at| now >= *at + LOG_INTERVAL);
        if !due {
            return;
        }
        self.logged.insert(reason, now);
        let (from, node) = (from.map(tracing::field::display), node.map(tracing::field::display));
        match reason {
            Refusal::NotAdmitted if !self.gossip.deps.admission.is_certain() => {
                tracing::debug!(target: "swarmer::gossip::refused", from, node, %reason);
            }
            // What a healthy network does now and then.
            Refusal::StaleRecord
            | Refusal::FromOurselves
            | Refusal::NotForUs
            | Refusal::Unasked => {
                tracing::debug!(target: "swarmer::gossip::refused", from, node, %reason);
            }
            _ => tracing::warn!(
                target: "swarmer::gossip::refused", code = crate::codes::REFUSED.name, from, node, %reason,
            ),
        }
    }

    fn persist(&mut self) {
        let Some(path) = self.gossip.members_file.clone() else { return };
        if self.persisting || Instant::now() < self.persist_at {
            return;
        }
        self.persist_at = Instant::now() + self.gossip.timing.persist_interval;
        let members = self.gossip.core.known_members();
        // A node that is cut off keeps the file of better days.
        if members.is_empty() || members == self.persisted {
            return;
        }
        self.persisted.clone_from(&members);
        self.persisting = true;
        self.tasks.spawn_blocking(move || {
            if let Err(error) = persist::store(&path, &members) {
                tracing::warn!(target: "swarmer::gossip", %error, source = ?std::error::Error::source(&error));
            }
            Done::Stored
        });
    }

    /// The last word on the file, if no write of it is under way. A node that left keeps none.
    fn store_last(&mut self) {
        let Some(path) = &self.gossip.members_file else { return };
        let left = self
            .gossip
            .core
            .members()
            .iter()
            .any(|m| m.node == self.gossip.node && m.state == MemberState::Left);
        if left {
            // Nothing depends on it: at worst the next start greets old acquaintances.
            let _ = std::fs::remove_file(path);
            return;
        }
        let members = self.gossip.core.known_members();
        if self.persisting || members.is_empty() || members == self.persisted {
            return;
        }
        if let Err(error) = persist::store(path, &members) {
            tracing::warn!(target: "swarmer::gossip", %error);
        }
    }
}
