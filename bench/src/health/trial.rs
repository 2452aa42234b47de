//! One copy is struck, and what everybody makes of it.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use rand::{RngExt as _, rngs::StdRng};
use serde_json::Value;

use super::{
    FOUNDERS, GROUP,
    load::{Load, Seen},
};
use crate::{
    cluster::Cluster,
    connection::{Connection, post},
    room,
    tail::Tail,
};

/// How often the logs are looked at: a failed attempt's time is late by so much at most.
const LOOK: Duration = Duration::from_millis(20);
/// Requests under way when the client of a node rests may take so long.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// A node may take so long to stop in good order.
const STOPPING: Duration = Duration::from_secs(30);
/// A node that sent the copy nothing for so long has left it alone; what it sends later is to try
/// whether it is well again. By chance it sends nothing for so long in one of a hundred cases, at ten
/// requests a second among six copies and more.
const LEFT_ALONE: Duration = Duration::from_secs(2);
/// A command of the API may take so long.
const COMMAND: Duration = Duration::from_secs(30);

/// What is done to a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Event {
    /// It begins to fail
    Fails,
    /// Its node dies by kill -9
    Killed,
    /// Its node is drained, as by `swarmer drain`
    Drained,
    /// Its node is told to stop, by SIGTERM
    Stopped,
}

impl Event {
    pub(super) const ALL: [Self; 4] = [Self::Fails, Self::Killed, Self::Drained, Self::Stopped];

    /// Whether the node is not there afterwards.
    fn is_away(self) -> bool {
        matches!(self, Self::Killed | Self::Stopped)
    }
}

/// Everything that a trial needs.
pub(super) struct Stage<'a> {
    pub(super) cluster: Cluster,
    pub(super) load: Load,
    pub(super) logs: Vec<Tail>,
    pub(super) random: StdRng,
    pub(super) folder: &'a Path,
    /// What the function calls.
    pub(super) dependency: SocketAddr,
    pub(super) watch: Duration,
    /// Whose turn it was last.
    pub(super) last: Option<usize>,
}

/// A failed attempt at the struck copy, told by the node that made it; when it began.
struct Attempt {
    by: usize,
    at: Instant,
}

/// What one of the other nodes did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender {
    /// From the event to the last request that it sent to the copy before it left it alone; zero if
    /// none.
    pub(super) last: Duration,
    /// So many it sent until then.
    pub(super) sent: u64,
    /// And so many later.
    pub(super) later: u64,
}

impl Sender {
    /// By when it sent a request to the copy.
    fn of(mut sent: Vec<Duration>) -> Self {
        sent.sort_unstable();
        let mut sender = Self::default();
        for at in sent {
            if sender.later == 0 && at < sender.last + LEFT_ALONE {
                sender.last = at;
                sender.sent += 1;
            } else {
                sender.later += 1;
            }
        }
        sender
    }
}

/// What came of one trial.
#[derive(Debug)]
pub(super) struct Outcome {
    /// All nodes but the struck one.
    pub(super) senders: Vec<Sender>,
    /// How many of them sent it requests to the end.
    pub(super) to_the_end: usize,
    /// Requests of clients of other nodes.
    pub(super) requests: u64,
    /// Of these: failed.
    pub(super) failed: u64,
    /// Failed requests of the client of the struck node itself.
    pub(super) failed_there: u64,
    /// Attempts at the node after its process had ended.
    pub(super) after_end: u64,
    pub(super) first_fault: Option<String>,
}

impl Stage<'_> {
    /// Strikes a copy of one of these nodes, watches, and mends everything.
    pub(super) async fn trial(&mut self, event: Event, servers: &[usize]) -> Result<Outcome> {
        let struck = self.choose(servers);
        self.last = Some(struck);
        if event.is_away() {
            // Clients of a node that goes away go with it.
            self.load.pause(struck, true);
            tokio::time::sleep(UNDER_WAY).await;
        }
        let id = self.id(struck).await?;
        self.attempts(&id)?;
        let mut seen: Vec<Seen> = self.load.take();
        let start = Instant::now();
        let ended = self.strike(event, struck).await?;
        let mut attempts = Vec::new();
        while start.elapsed() < self.watch {
            tokio::time::sleep(LOOK).await;
            attempts.extend(self.attempts(&id)?);
        }
        seen.extend(self.load.take());
        let outcome =
            judge(self.cluster.nodes.len(), struck, start, ended, self.watch, &seen, &attempts);
        self.mend(event, struck).await?;
        Ok(outcome)
    }

    /// One of them, another one than last, and no voter if it can be helped.
    fn choose(&mut self, servers: &[usize]) -> usize {
        let mut from: Vec<usize> =
            servers.iter().copied().filter(|node| Some(*node) != self.last).collect();
        if from.iter().any(|node| *node >= FOUNDERS) {
            from.retain(|node| *node >= FOUNDERS);
        }
        from[self.random.random_range(0..from.len())]
    }

    /// As which other nodes know it.
    async fn id(&self, node: usize) -> Result<String> {
        let api = self.cluster.nodes[node].api;
        let (_, _, status) = crate::connection::ask(api, "/v1/status", "").await?;
        let status: Value = serde_json::from_slice(&status)?;
        // Numbers are told as they are logged.
        let id = &status["node"]["id"];
        Ok(id.as_str().map_or_else(|| id.to_string(), str::to_owned))
    }

    /// The failed attempts at this node that came into the logs since they were last looked at.
    fn attempts(&mut self, id: &str) -> Result<Vec<Attempt>> {
        let mut all = Vec::new();
        for (by, log) in self.logs.iter_mut().enumerate() {
            let at = Instant::now();
            log.lines(|line| {
                if let Some(took) = attempt(line, id) {
                    all.push(Attempt { by, at: at.checked_sub(took).unwrap_or(at) });
                }
            })?;
        }
        Ok(all)
    }

    /// Does it; when the node's process had ended, if it stopped.
    async fn strike(&mut self, event: Event, node: usize) -> Result<Option<Instant>> {
        match event {
            Event::Fails => {
                let group = GROUP + u32::try_from(node)?;
                let port = self.dependency.port();
                let chain = format!(
                    "chain out {{ type filter hook output priority 0;\n\
                     meta skgid {group} tcp dport {port} reject with tcp reset\n}}"
                );
                room::filter(self.folder, &chain).await?;
            }
            Event::Killed => self.cluster.nodes[node].process.kill(),
            Event::Drained => self.drain(node, true).await?,
            Event::Stopped => {
                self.cluster.nodes[node].process.stop(STOPPING).await?;
                return Ok(Some(Instant::now()));
            }
        }
        Ok(None)
    }

    async fn mend(&mut self, event: Event, node: usize) -> Result<()> {
        match event {
            Event::Fails => room::lift(self.folder).await?,
            Event::Drained => self.drain(node, false).await?,
            Event::Killed | Event::Stopped => {
                self.cluster.start_again(node)?;
                self.logs[node].begin();
            }
        }
        self.cluster.until_whole().await?;
        self.load.pause(node, false);
        Ok(())
    }

    async fn drain(&self, node: usize, drains: bool) -> Result<()> {
        // Asked of another node, as one does whose node is about to go.
        let (name, to) = (&self.cluster.nodes[node].name, (node + 1) % self.cluster.nodes.len());
        let to = self.cluster.nodes[to].api;
        let path = format!("/v1/nodes/{name}/drain");
        let request = post(to, &path, &format!("{{\"draining\":{drains}}}"));
        let asking = async {
            let mut connection = Connection::open(to).await?;
            let answer = connection.exchange(&request).await?;
            let body = String::from_utf8_lossy(answer.body);
            ensure!(answer.status < 300, "{path} answers {}: {body}", answer.status);
            Ok(())
        };
        tokio::time::timeout(COMMAND, asking).await.with_context(|| format!("{path} is silent"))?
    }
}

/// How long an attempt at this node took that failed, if a log line tells of one.
fn attempt(line: &str, id: &str) -> Option<Duration> {
    if !line.contains("an attempt failed") {
        return None;
    }
    let event: Value = serde_json::from_str(line).ok()?;
    let at_it = event["target"] == "swarmer::dispatch" && event["node"] == id;
    at_it.then(|| Duration::from_millis(event["took_ms"].as_u64().unwrap_or(0)))
}

/// What the requests and the failed attempts say.
fn judge(
    nodes: usize,
    struck: usize,
    start: Instant,
    ended: Option<Instant>,
    watch: Duration,
    seen: &[Seen],
    attempts: &[Attempt],
) -> Outcome {
    let mut sent: Vec<Vec<Duration>> = vec![Vec::new(); nodes];
    let mut after_end = 0;
    let mut note = |by: usize, at: Instant| {
        sent[by].push(at.saturating_duration_since(start));
        after_end += u64::from(ended.is_some_and(|ended| at > ended));
    };
    // What Swarmer answered instead of the copy is in the log as an attempt.
    let answered = seen.iter().filter(|seen| seen.server == Some(struck) && !seen.refused);
    answered.filter(|seen| seen.sent >= start).for_each(|seen| note(seen.from, seen.sent));
    attempts.iter().filter(|a| a.at >= start).for_each(|attempt| note(attempt.by, attempt.at));
    let mut senders: Vec<Sender> = sent.into_iter().map(Sender::of).collect();
    senders.remove(struck);
    let since = || seen.iter().filter(|seen| seen.ended >= start);
    let failed = || since().filter(|seen| seen.fault.is_some());
    let late = watch.saturating_sub(LEFT_ALONE);
    Outcome {
        to_the_end: senders.iter().filter(|sender| sender.last > late).count(),
        senders,
        requests: since().filter(|seen| seen.from != struck).count() as u64,
        failed: failed().filter(|seen| seen.from != struck).count() as u64,
        failed_there: failed().filter(|seen| seen.from == struck).count() as u64,
        after_end,
        first_fault: failed().find_map(|seen| seen.fault.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failed_attempts_at_the_struck_node_are_counted() {
        let line = |node: &str, message: &str| {
            format!(
                "{{\"node\":\"{node}\",\"message\":\"{message}\",\"target\":\"swarmer::dispatch\",\
                 \"took_ms\":7}}"
            )
        };
        let told = |line: String| attempt(&line, "a1");
        assert_eq!(told(line("a1", "an attempt failed")), Some(Duration::from_millis(7)));
        assert_eq!(told(line("a2", "an attempt failed")), None);
        assert_eq!(told(line("a1", "something else")), None);
        assert_eq!(told("an attempt failed, in no JSON".into()), None);
    }

    #[test]
    fn what_a_node_sent_to_the_copy_is_told_by_answers_and_by_failed_attempts() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let seen = |from, sent: Instant, server, refused, fault: Option<&str>| Seen {
            from,
            sent,
            ended: sent + Duration::from_millis(5),
            server,
            refused,
            fault: fault.map(str::to_owned),
        };
        let all = [
            // Before it, and under way then.
            seen(0, start - Duration::from_secs(1), Some(1), false, None),
            seen(0, start - Duration::from_millis(1), Some(1), false, Some("late")),
            // Answered by the copy itself, by another one, and by Swarmer for the copy.
            seen(0, at(100), Some(1), false, Some("502")),
            seen(0, at(200), Some(2), false, None),
            seen(2, at(300), Some(1), true, Some("trap")),
            seen(1, at(400), Some(1), true, Some("trap")),
        ];
        let attempts = [Attempt { by: 2, at: at(302) }, Attempt { by: 2, at: at(9_500) }];
        let watch = Duration::from_secs(10);
        let outcome = judge(3, 1, start, Some(at(301)), watch, &all, &attempts);
        let ms = Duration::from_millis;
        let wanted = [(100, 1, 0), (302, 1, 1)];
        let wanted = wanted.map(|(last, sent, later)| Sender { last: ms(last), sent, later });
        assert_eq!(outcome.senders, wanted);
        assert_eq!((outcome.to_the_end, outcome.after_end), (0, 2));
        let goes_on = (0..10).map(|second| ms(second * 1_000)).collect();
        assert_eq!(Sender::of(goes_on), Sender { last: ms(9_000), sent: 10, later: 0 });
        assert_eq!((outcome.requests, outcome.failed, outcome.failed_there), (4, 3, 1));
        assert_eq!(outcome.first_fault.as_deref(), Some("late"));
    }
}
