//! The hands for changes of the members. What comes of each is in the history: a change that the
//! cluster does not bring to an end, or an intruder that it does not refuse, is a violation there.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};

use super::{
    change::Change,
    hands::{Hands, sleep},
    mark::Mark,
};
use crate::{
    check::CUT_OFF_MS,
    cluster::{Entry, Gateway, Lost, Port, Reply},
    history::{Action, Answer, Client, Outcome, Relic},
    workload::{read, write},
};

/// How long the cluster may take to let a node in, to let one go, or to choose its voters.
const WITHIN: Duration = Duration::from_secs(60);
/// How long a deletion may take: the node waits 20 s for a vote to move.
const DELETION: Duration = Duration::from_secs(25);
/// How long a look or a request for a token may take.
const ASK: Duration = Duration::from_secs(5);
/// Between two tries.
const AGAIN_MS: u64 = 200;
/// How often a removed node writes and reads after it should have been cut off.
const LATE: u64 = 3;
/// Between two requests through it.
const PACE_MS: u64 = 100;
/// The register that removed nodes write.
const REGISTER: &str = "trespass";
/// Above all that clients write.
const TRESPASS_VALUES: u64 = 900_000_000;

impl Hands {
    /// Carries the changes out, up to the first that does not come to its end: that is a violation, and
    /// each one after it would take as long as it may.
    pub(super) async fn change(&self, changes: &[Change], calm_ms: u64) -> Result<()> {
        for change in changes {
            let mut client = self.recorder.client();
            if !self.settle(&mut client).await {
                return Ok(());
            }
            let (from_ns, what) = (self.now(), change.to_string());
            let struck = match change {
                Change::Grow => self.grow(&mut client).await?,
                Change::Shrink => self.leave(&mut client, self.cluster.guest(), &what).await?,
                Change::Replace(node) => {
                    self.cluster.wipe(*node, false).await?;
                    let replaced = self.expel(&mut client, *node).await
                        && self.admit(&mut client, *node).await?;
                    replaced.then_some((Mark::Replace, *node))
                }
                Change::Intrude { from, with } => self.intrude(&mut client, *from, *with).await?,
                Change::Unseat => self.unseat(&mut client, &what).await?,
            };
            let Some((mark, node)) = struck else { return Ok(()) };
            self.tell(mark, from_ns, vec![node], what);
            sleep(calm_ms).await;
        }
        Ok(())
    }

    /// Removes a node for good: it is shut out, and its disk is gone.
    pub(super) async fn remove(&self, node: usize) -> Result<()> {
        let from_ns = self.now();
        if self.expel(&mut self.recorder.client(), node).await {
            self.cluster.lose_log(node).await?;
            self.tell(Mark::Shrink, from_ns, vec![node], format!("remove n{}", node + 1));
        }
        Ok(())
    }

    async fn grow(&self, client: &mut Client) -> Result<Option<(Mark, usize)>> {
        let guest = self.cluster.guest();
        self.cluster.wipe(guest, false).await?;
        Ok(self.admit(client, guest).await?.then_some((Mark::Grow, guest)))
    }

    /// Removes a node that lives, lets it go on, and takes its disk away.
    async fn leave(
        &self,
        client: &mut Client,
        node: usize,
        what: &str,
    ) -> Result<Option<(Mark, usize)>> {
        let removed = self.expel(client, node).await;
        if removed {
            self.trespass(client, node, what).await;
        }
        self.cluster.wipe(node, false).await?;
        Ok(removed.then_some((Mark::Shrink, node)))
    }

    async fn unseat(&self, client: &mut Client, what: &str) -> Result<Option<(Mark, usize)>> {
        let (leader, _) = self.leader_and_voters().await;
        let leader = leader.unwrap_or_else(|| self.leader());
        let removed = self.leave(client, leader, what).await?.is_some();
        let done = removed && self.admit(client, leader).await?;
        Ok(done.then_some((Mark::Unseat, leader)))
    }

    async fn intrude(
        &self,
        client: &mut Client,
        from: usize,
        with: Relic,
    ) -> Result<Option<(Mark, usize)>> {
        let (leader, voters) = self.leader_and_voters().await;
        let count = self.cluster.count();
        // Who never had a vote has none to lose with its log. Not the leader: one thing at a time.
        let fits = |node: &usize| voters.contains(node) && Some(*node) != leader;
        let node = (0..count).map(|i| (from + i) % count).find(fits).unwrap_or(from);
        self.cluster.wipe(node, with == Relic::Id).await?;
        if with == Relic::Name {
            self.new_token(node).await?;
        }
        let (cluster, name) = (&self.cluster, self.cluster.name(node));
        let work = async {
            match cluster.intrude(node, WITHIN).await {
                Ok(Entry::LetIn) => Outcome::Ok { answer: Answer::Done { revision: None } },
                Ok(Entry::Refused(code)) => Outcome::Failed { why: code },
                Ok(Entry::Pending) => {
                    Outcome::Unknown { why: "it waits, neither let in nor refused".into() }
                }
                Err(error) => Outcome::Harness { why: error.to_string() },
            }
        };
        let outcome = client.does(name, Action::Intrude { with }, work).await;
        if !matches!(outcome, Outcome::Failed { .. }) {
            return Ok(None);
        }
        self.cluster.wipe(node, false).await?;
        let replaced = self.expel(client, node).await && self.admit(client, node).await?;
        Ok(replaced.then_some((Mark::Refuse, node)))
    }

    /// Asks for the removal of a node until it is done. Gives whether it is.
    async fn expel(&self, client: &mut Client, node: usize) -> bool {
        let name = self.cluster.name(node);
        let path = format!("/v1/nodes/{name}");
        // What stands at any other node is that the target is a member: it has been for seconds.
        let work = async {
            let (began, mut asked, mut last) = (Instant::now(), false, String::new());
            for by in self.others(node).into_iter().cycle() {
                if began.elapsed() > WITHIN {
                    break;
                }
                let mut api = self.api(by);
                let reply = api.send(Method::DELETE, &path, &[], "", DELETION).await;
                match reply {
                    Ok(reply) if reply.status == 200 || (asked && reply.status == 404) => {
                        return Outcome::Ok { answer: Answer::Done { revision: None } };
                    }
                    Ok(reply) => {
                        asked |= reply.status >= 500;
                        last = told(&reply);
                    }
                    Err(Lost::Sent(why)) => (asked, last) = (true, why),
                    Err(Lost::NotSent(why)) => last = why,
                }
                sleep(AGAIN_MS).await;
            }
            Outcome::Unknown { why: format!("not within {WITHIN:?}: {last}") }
        };
        let outcome = client.does(name, Action::Expel, work).await;
        self.cluster.excuse(node);
        matches!(outcome, Outcome::Ok { .. })
    }

    /// Lets a node in that has nothing on its disk. Gives whether it is ready.
    async fn admit(&self, client: &mut Client, node: usize) -> Result<bool> {
        let token = self.new_token(node).await;
        let name = self.cluster.name(node);
        let work = async {
            if let Err(error) = token {
                return Outcome::Unknown { why: error.to_string() };
            }
            match self.cluster.start(node).await {
                Err(error) => Outcome::Harness { why: error.to_string() },
                Ok(()) if self.cluster.comes(node, WITHIN).await => {
                    Outcome::Ok { answer: Answer::Done { revision: None } }
                }
                Ok(()) => Outcome::Unknown {
                    why: format!("not within {WITHIN:?}:\n{}", self.cluster.last_words(node)),
                },
            }
        };
        Ok(matches!(client.does(name, Action::Admit, work).await, Outcome::Ok { .. }))
    }

    /// Gives a node a new token to join with.
    async fn new_token(&self, node: usize) -> Result<()> {
        let wish = json!({ "kind": "join" }).to_string();
        let (began, mut last) = (Instant::now(), String::new());
        for by in self.others(node).into_iter().cycle() {
            if began.elapsed() > WITHIN {
                break;
            }
            match self.api(by).send(Method::POST, "/v1/tokens", &[], wish.clone(), ASK).await {
                Ok(reply) => match reply.json()["token"].as_str() {
                    Some(token) => return self.cluster.give_token(node, token),
                    None => last = told(&reply),
                },
                Err(Lost::Sent(why) | Lost::NotSent(why)) => last = why,
            }
            sleep(AGAIN_MS).await;
        }
        anyhow::bail!("no token is made within {WITHIN:?}: {last}")
    }

    /// Writes and reads through a node that was removed and goes on.
    async fn trespass(&self, client: &mut Client, node: usize, what: &str) {
        let from_ns = self.now();
        let mut gateway = self.api(node);
        let (began, mut late) = (Instant::now(), 0);
        while late < LATE && began.elapsed() < WITHIN && self.cluster.runs(node) {
            late += u64::from(began.elapsed() > Duration::from_millis(CUT_OFF_MS));
            let value = TRESPASS_VALUES + self.now() / 1_000;
            write(&self.context, client, &mut gateway, REGISTER, value).await;
            read(client, &mut gateway, REGISTER).await;
            sleep(PACE_MS).await;
        }
        if late > 0 {
            self.tell(Mark::Trespass, from_ns, vec![node], format!("{what}: it goes on"));
        }
    }

    /// Waits until there are three voters and nobody is about to become one. Gives whether it is so.
    async fn settle(&self, client: &mut Client) -> bool {
        let work = async {
            let (began, mut seen) = (Instant::now(), Value::Null);
            while began.elapsed() < WITHIN {
                for node in 0..self.cluster.count() {
                    let Some(status) = self.status(node).await else { continue };
                    let voters = named(&status, "voters").len();
                    if status["quorum"] == true
                        && voters == self.cluster.count()
                        && named(&status, "learners").is_empty()
                    {
                        return Outcome::Ok { answer: Answer::Done { revision: None } };
                    }
                    seen = status;
                }
                sleep(AGAIN_MS).await;
            }
            let (voters, learners) = (named(&seen, "voters"), named(&seen, "learners"));
            let why = format!("after {WITHIN:?} {voters:?} vote and {learners:?} learn");
            Outcome::Unknown { why }
        };
        matches!(client.does("any", Action::Settle, work).await, Outcome::Ok { .. })
    }

    /// Who leads and who votes, by the word of one who leads.
    async fn leader_and_voters(&self) -> (Option<usize>, BTreeSet<usize>) {
        let number = |name: &str| {
            (0..=self.cluster.guest()).find(|node| &**self.cluster.name(*node) == name)
        };
        for node in 0..=self.cluster.guest() {
            let Some(status) = self.status(node).await else { continue };
            if status["leader"]["name"].as_str().and_then(number) == Some(node) {
                let voters = named(&status, "voters");
                return (Some(node), voters.iter().filter_map(|name| number(name)).collect());
            }
        }
        (None, BTreeSet::new())
    }

    async fn status(&self, node: usize) -> Option<Value> {
        if !self.cluster.runs(node) {
            return None;
        }
        let reply = self.api(node).send(Method::GET, "/v1/status", &[], "", ASK).await;
        reply.ok().filter(|reply| reply.status == 200).map(|reply| reply.json())
    }

    fn others(&self, node: usize) -> Vec<usize> {
        let count = self.cluster.count();
        (1..=count).map(|i| (node + i) % count).filter(|other| *other != node).collect()
    }

    fn api(&self, node: usize) -> Gateway {
        self.cluster.gateway(node, Port::Api)
    }
}

fn named(status: &Value, what: &str) -> Vec<String> {
    let nodes = status[what].as_array().map(Vec::as_slice).unwrap_or_default();
    nodes.iter().filter_map(|node| Some(node["name"].as_str()?.to_owned())).collect()
}

fn told(reply: &Reply) -> String {
    format!("{} {} {}", reply.status, reply.code(), reply.json()["detail"])
}
