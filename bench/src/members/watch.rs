//! What every node tells in its log of the others: read, not asked for, so that watching all of
//! them costs none of them anything.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::subject::Kind;
use crate::{process::Process, tail::Tail};

/// How often the logs are looked at: a time is late by so much at most.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// What a node tells of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// It lives; or it does again.
    Alive,
    /// It is dead, not merely suspected.
    Dead,
    /// It went in good order.
    Left,
    /// Something else that it says of itself is another.
    Changed,
}

/// One such word.
#[derive(Debug)]
pub(super) struct Told {
    /// Who tells it.
    pub(super) by: usize,
    /// Of whom, as it calls it.
    pub(super) of: String,
    pub(super) word: Word,
    /// When it was read.
    pub(super) at: Instant,
}

/// The logs of all nodes, and what they say in the end.
pub(super) struct Watch {
    kind: Kind,
    logs: Vec<Tail>,
    /// As which the others know each node. Empty until it has said it.
    names: Vec<String>,
    /// The last word of each on each.
    last: Vec<HashMap<String, Word>>,
    /// Which nodes were killed or stopped, so that it is right to call them dead.
    away: Vec<bool>,
    /// Two halves are cut off from each other: deaths are no mistakes then.
    pub(super) apart: bool,
    /// How often a living node was called dead while it could be reached.
    pub(super) false_deaths: usize,
}

impl Watch {
    pub(super) fn new<'a>(kind: Kind, processes: impl Iterator<Item = &'a Process>) -> Self {
        let logs: Vec<Tail> = processes.map(|process| Tail::new(process.log())).collect();
        let (names, last) = (vec![String::new(); logs.len()], vec![HashMap::new(); logs.len()]);
        let away = vec![false; logs.len()];
        Self { kind, logs, names, last, away, apart: false, false_deaths: 0 }
    }

    /// This node is killed or stopped from now on.
    pub(super) fn end(&mut self, node: usize) {
        self.away[node] = true;
    }

    /// This node was started again, with a new log and nothing known.
    pub(super) fn begin(&mut self, node: usize) {
        self.logs[node].begin();
        self.last[node].clear();
        self.away[node] = false;
    }

    /// What was told since the last look.
    pub(super) fn look(&mut self) -> Result<Vec<Told>> {
        let mut all = Vec::new();
        for (by, log) in self.logs.iter_mut().enumerate() {
            let at = Instant::now();
            log.lines(|line| match read(self.kind, line) {
                Some(Line::Own(name)) => self.names[by] = name,
                Some(Line::Other(of, word)) => all.push(Told { by, of, word, at }),
                None => {}
            })?;
        }
        let away = |name: &str| {
            let node = self.names.iter().position(|known| known == name);
            node.is_some_and(|node| self.away[node])
        };
        let deaths = all.iter().filter(|told| told.word == Word::Dead && !away(&told.of)).count();
        self.false_deaths += if self.apart { 0 } else { deaths };
        for told in all.iter().filter(|told| told.word != Word::Changed) {
            self.last[told.by].insert(told.of.clone(), told.word);
        }
        Ok(all)
    }

    /// Whether the last word of this node on that one was this.
    pub(super) fn says(&self, by: usize, of: usize, word: Word) -> bool {
        self.last[by].get(&self.names[of]) == Some(&word)
    }

    /// Looks until `done` says so, told of what came; fails if that takes longer than this.
    pub(super) async fn until(
        &mut self,
        patience: Duration,
        what: &str,
        mut done: impl FnMut(&Self, &[Told]) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            let told = self.look()?;
            if done(self, &told) {
                return Ok(());
            }
            ensure!(start.elapsed() < patience, "{what}: not within {patience:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until each of these nodes has told this of that one; how long after `since` each did.
    pub(super) async fn until_told(
        &mut self,
        patience: Duration,
        (of, word): (usize, Word),
        by: &[usize],
        since: Instant,
    ) -> Result<Vec<Duration>> {
        let name = self.names[of].clone();
        let mut times: Vec<Option<Duration>> = vec![None; self.logs.len()];
        self.until(patience, &format!("{word:?} of {name}"), |_, told| {
            for told in told.iter().filter(|told| told.of == name && told.word == word) {
                times[told.by].get_or_insert(told.at.saturating_duration_since(since));
            }
            by.iter().all(|by| times[*by].is_some())
        })
        .await?;
        Ok(by.iter().filter_map(|by| times[*by]).collect())
    }
}

/// What a line says that is of interest.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// Who the node is itself.
    Own(String),
    Other(String, Word),
}

fn read(kind: Kind, line: &str) -> Option<Line> {
    match kind {
        Kind::Swarmer => of_swarmer(line),
        Kind::Serf => of_serf(line),
    }
}

/// Lines of JSON, `--log-format json`.
fn of_swarmer(line: &str) -> Option<Line> {
    let member = line.contains("swarmer::gossip::member");
    if !member && !line.contains("the node starts") {
        return None;
    }
    let event: Value = serde_json::from_str(line).ok()?;
    let node = event["node"].as_str()?.to_owned();
    if !member {
        return Some(Line::Own(node));
    }
    let word = match event["after"].as_str()? {
        "alive" => Word::Alive,
        "dead" => Word::Dead,
        "left" => Word::Left,
        // A suspicion is no word yet.
        _ => return None,
    };
    Some(Line::Other(node, word))
}

/// Lines such as `2026/11/30 04:03:51 [INFO] serf: EventMemberFailed: n3 127.0.0.1`.
fn of_serf(line: &str) -> Option<Line> {
    let line = line.trim();
    if let Some(name) = line.strip_prefix("Node name: '") {
        return Some(Line::Own(name.trim_end_matches('\'').to_owned()));
    }
    let (event, rest) = line.split_once("serf: EventMember")?.1.split_once(": ")?;
    let word = match event {
        "Join" => Word::Alive,
        "Failed" => Word::Dead,
        "Leave" => Word::Left,
        "Update" => Word::Changed,
        _ => return None,
    };
    Some(Line::Other(rest.split_whitespace().next()?.to_owned(), word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tell_who_they_are_and_what_they_think_of_others() {
        let other = |name: &str, word| Some(Line::Other(name.to_owned(), word));
        let serf = |text: &str| read(Kind::Serf, text);
        assert_eq!(serf("            Node name: 'n1'"), Some(Line::Own("n1".into())));
        let line = "    2026/11/30 04:03:51 [INFO] serf: EventMemberFailed: n3 127.0.0.1";
        assert_eq!(serf(line), other("n3", Word::Dead));
        let line = "    2026/11/30 04:03:44 [INFO] serf: EventMemberUpdate: n2";
        assert_eq!(serf(line), other("n2", Word::Changed));
        let line = "    2026/11/30 04:03:47 [INFO] memberlist: Suspect n3 has failed, no acks";
        assert_eq!(serf(line), None);

        let swarmer = |text: &str| read(Kind::Swarmer, text);
        let line = r#"{"timestamp":"2026-11-30T04:02:06.1Z","level":"INFO","node":"a1","name":"bench-1","message":"the node starts","target":"swarmer::node"}"#;
        assert_eq!(swarmer(line), Some(Line::Own("a1".into())));
        let line = |after: &str| {
            format!(r#"{{"node":"a1","after":"{after}","target":"swarmer::gossip::member"}}"#)
        };
        assert_eq!(swarmer(&line("dead")), other("a1", Word::Dead));
        assert_eq!(swarmer(&line("alive")), other("a1", Word::Alive));
        assert_eq!(swarmer(&line("suspect")), None);
        assert_eq!(swarmer("not JSON, but swarmer::gossip::member"), None);
    }
}
