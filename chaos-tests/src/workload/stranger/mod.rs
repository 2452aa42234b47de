//! Somebody in the nodes' network who is no member: noise, damaged and borrowed packets, connections
//! that are only begun, handshakes with made-up certificates; and a member of another cluster.

mod packets;
mod quic;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use http::Method;
use serde_json::Value;
use tokio::net::UdpSocket;

use super::{Context, PATIENCE, counts::Counts, think};
use crate::{
    cluster::{Cluster, Gateway},
    history::{Action, Answer, Client, Outcome, Strange},
    seed::Seeded,
};
use packets::{flipped, is_refusal, noise, quic_noise};

/// What the one on a bare socket sends.
const KINDS: [Strange; 6] = [
    Strange::Noise,
    Strange::QuicNoise,
    Strange::Flipped,
    Strange::Elsewhere,
    Strange::Initials,
    Strange::Handshakes,
];
/// Packets in one burst.
const BURST: usize = 40;
/// First packets in one burst: more than a node takes from one address before it wants the address to
/// be proven, and less than would shut the stranger out.
const INITIALS: usize = 48;
/// How long members' datagrams are taken down for a burst.
const LISTEN: Duration = Duration::from_millis(800);
/// Between two datagrams: no queue overflows.
const PACE: Duration = Duration::from_millis(2);
/// After that long no packet is on its way any more.
const SETTLED: Duration = Duration::from_millis(300);
/// In percent: how often nobody else reaches the node meanwhile, so that what came is the stranger's.
const ALONE: u64 = 50;
/// How long the node of another cluster is looked at for one line of the history.
const ABROAD: Duration = Duration::from_secs(2);
/// Between two looks at who is a member.
const CENSUS: Duration = Duration::from_secs(1);
/// How long a state that nobody changes may go on to move by itself, as the planner has its say.
const STILL: Duration = Duration::from_secs(4);
/// How long it may take to become still.
const UNREST: Duration = Duration::from_secs(60);
/// Between two looks at that.
const LOOK: Duration = Duration::from_millis(200);

/// The stranger of a run.
#[derive(Debug, Clone)]
pub struct Stranger {
    /// The SPIFFE id of each member, to be claimed.
    members: Vec<String>,
}

impl Stranger {
    /// Founds the other cluster, and strikes every node by everything while no client changes anything:
    /// the state must stand still.
    ///
    /// # Errors
    /// The other cluster cannot be founded, or ours does not come to rest.
    pub async fn set_up(context: &Context) -> Result<Self> {
        let (cluster, mut client) = (&context.cluster, context.recorder.client());
        let arrival = async { outcome(arrive(context).await) };
        let arrival = client.does("all", Action::Strange { what: Strange::Foreign }, arrival).await;
        if let Outcome::Failed { why } = arrival {
            bail!("the node of another cluster: {why}");
        }
        let mut members = Vec::new();
        for node in 0..cluster.count() {
            let status = status(&mut context.api(node)).await.context("a node tells nothing")?;
            let (of, id) = (status["cluster"].as_str(), &status["node"]["id"]);
            let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
            let of = of.context("a node tells of no cluster")?;
            members.push(format!("spiffe://{of}.swarmer/node/{id}"));
        }
        let stranger = Self { members };
        look(context, &mut client).await;
        let mut random = context.random("stranger before");
        for kind in KINDS {
            for node in 0..cluster.count() {
                stranger.strike(context, &mut client, kind, node, false, &mut random).await;
            }
        }
        look(context, &mut client).await;
        Ok(stranger)
    }

    /// Strikes node after node by kind after kind, until the run stops it.
    pub async fn run(self, context: Context) {
        let mut random = context.random("stranger");
        let mut client = context.recorder.client();
        let nodes = 0..context.cluster.count();
        let mut bursts: Vec<(Strange, usize)> = KINDS
            .into_iter()
            .flat_map(|kind| nodes.clone().map(move |node| (kind, node)))
            .collect();
        while !context.is_stopped() {
            random.shuffle(&mut bursts);
            for (kind, node) in bursts.iter().copied() {
                if context.is_stopped() {
                    return;
                }
                let alone = match kind {
                    // Of these alone a node might take every one.
                    Strange::Elsewhere => true,
                    Strange::Noise | Strange::Flipped => random.chance(ALONE),
                    _ => false,
                };
                self.strike(&context, &mut client, kind, node, alone, &mut random).await;
                think(&mut random, 100).await;
            }
        }
    }

    /// One burst, taken down.
    async fn strike(
        &self,
        context: &Context,
        client: &mut Client,
        kind: Strange,
        node: usize,
        alone: bool,
        random: &mut Seeded,
    ) {
        let name = context.cluster.name(node).to_string();
        let work = async { outcome(self.burst(context, kind, node, alone, random).await) };
        client.does(&name, Action::Strange { what: kind }, work).await;
    }

    async fn burst(
        &self,
        context: &Context,
        kind: Strange,
        node: usize,
        alone: bool,
        random: &mut Seeded,
    ) -> Result<Answer> {
        let (cluster, mut api) = (&context.cluster, context.api(node));
        let socket = cluster.stranger_socket().await?;
        if kind == Strange::Handshakes {
            let (member, to) =
                (&self.members[random.index(self.members.len())], Cluster::door(node));
            let before = Counts::of(&mut api).await?;
            let dialled = quic::handshakes(socket, to, member, random).await?;
            let after = Counts::of(&mut api).await?;
            let refused = after.connections.saturating_sub(before.connections);
            let (packets, served) = (dialled.packets, dialled.served);
            return Ok(Answer::Heard { packets, came: 0, refused, served });
        }
        let packets = made(context, kind, node, random).await?;
        let cut = if alone { Some(cluster.shut(node)?) } else { None };
        if alone {
            tokio::time::sleep(SETTLED).await;
        }
        let heard = send(&mut api, socket, node, &packets).await;
        if let Some(cut) = cut
            && !cluster.mend(cut)?
        {
            bail!("the others reached it meanwhile");
        }
        let Heard { came, datagrams, connections, answers } = heard?;
        let (came, refused) = match kind {
            Strange::QuicNoise => (0, answers),
            Strange::Initials => (0, answers + connections),
            // What another cluster sends is counted for itself.
            _ if alone => (came, datagrams),
            _ => (0, datagrams),
        };
        Ok(Answer::Heard { packets: packets.len() as u64, came, refused, served: 0 })
    }

    /// Takes down what the member of another cluster sends, until the run stops it. What is refused of
    /// it nobody can tell from what is refused of the stranger now: a flipped bit may name a cluster.
    pub async fn abroad(self, context: Context) {
        let mut client = context.recorder.client();
        let mut foreign = context.cluster.foreign_gateway();
        while !context.is_stopped() {
            let watched = async {
                let before = Counts::of(&mut foreign).await?.sent;
                tokio::time::sleep(ABROAD).await;
                let packets = Counts::of(&mut foreign).await?.sent.saturating_sub(before);
                Ok(Answer::Heard { packets, came: 0, refused: 0, served: 0 })
            };
            let work = async { outcome(watched.await) };
            client.does("all", Action::Strange { what: Strange::Foreign }, work).await;
            let own = vec![foreign.node().to_string()];
            count(&mut client, &mut foreign, own).await;
        }
    }
}

fn outcome(answer: Result<Answer>) -> Outcome {
    match answer {
        Ok(answer) => Outcome::Ok { answer },
        Err(error) => Outcome::Failed { why: format!("{error:#}") },
    }
}

/// Founds the other cluster and waits until ours is at rest again. Nobody else sends anything strange
/// meanwhile: what is refused for being another cluster's is.
async fn arrive(context: &Context) -> Result<Answer> {
    let before = foreign(context).await?;
    context.cluster.found_foreign().await?;
    rest(context).await?;
    let refused = foreign(context).await?.saturating_sub(before);
    let packets = Counts::of(&mut context.cluster.foreign_gateway()).await?.sent;
    Ok(Answer::Heard { packets, came: 0, refused, served: 0 })
}

/// What our nodes refused for being another cluster's.
async fn foreign(context: &Context) -> Result<u64> {
    let mut refused = 0;
    for node in 0..context.cluster.count() {
        refused += Counts::of(&mut context.api(node)).await?.foreign;
    }
    Ok(refused)
}

/// Who is a member by the word of one node, again and again until the run stops it. Nobody is let in
/// and nobody removed meanwhile.
pub async fn census(context: Context, node: usize) {
    let mut client = context.recorder.client();
    let mut api = context.api(node);
    let names = (0..context.cluster.count()).map(|node| context.cluster.name(node).to_string());
    let admitted: Vec<String> = names.collect();
    while !context.is_stopped() {
        count(&mut client, &mut api, admitted.clone()).await;
        tokio::time::sleep(CENSUS).await;
    }
}

async fn count(client: &mut Client, gateway: &mut Gateway, admitted: Vec<String>) {
    let name = gateway.node().to_string();
    let work = async {
        let reply = gateway.send(Method::GET, "/v1/members", &[], "", PATIENCE).await;
        let items = reply.ok().and_then(|reply| reply.json()["items"].as_array().cloned());
        let Some(items) = items else { return Outcome::Failed { why: "no list".to_owned() } };
        let named = |item: &Value| item["name"].as_str().unwrap_or_default().to_owned();
        Outcome::Ok { answer: Answer::Names { names: items.iter().map(named).collect() } }
    };
    client.does(&name, Action::Members { admitted }, work).await;
}

/// What is sent in one burst.
async fn made(
    context: &Context,
    kind: Strange,
    node: usize,
    random: &mut Seeded,
) -> Result<Vec<Vec<u8>>> {
    if let Strange::Noise | Strange::QuicNoise = kind {
        let packet = if kind == Strange::Noise { noise } else { quic_noise };
        return Ok((0..BURST).map(|_| packet(random)).collect());
    }
    if kind == Strange::Initials {
        return quic::initials(INITIALS).await;
    }
    let mut heard = context.cluster.overhear(node, LISTEN).await?;
    heard.truncate(BURST);
    if heard.is_empty() {
        bail!("the members said nothing");
    }
    if kind == Strange::Flipped {
        heard.iter_mut().for_each(|packet| *packet = flipped(random, packet));
    }
    Ok(heard)
}

/// What a node made of a burst.
struct Heard {
    /// Datagrams that came, of anybody.
    came: u64,
    /// Refused datagrams, of anybody; but for those of another cluster unless nobody else sent any.
    datagrams: u64,
    /// Handshakes that it gave up.
    connections: u64,
    /// Packets by which it refused.
    answers: u64,
}

async fn send(
    api: &mut Gateway,
    socket: std::net::UdpSocket,
    node: usize,
    packets: &[Vec<u8>],
) -> Result<Heard> {
    let (socket, to) = (UdpSocket::from_std(socket)?, Cluster::door(node));
    let before = Counts::of(api).await?;
    for packet in packets {
        socket.send_to(packet, to).await?;
        tokio::time::sleep(PACE).await;
    }
    tokio::time::sleep(SETTLED).await;
    let after = Counts::of(api).await?;
    let (mut answers, mut answer) = (0, [0; 2_048]);
    while let Ok(length) = socket.try_recv(&mut answer) {
        answers += u64::from(is_refusal(&answer[..length]));
    }
    Ok(Heard {
        came: after.came.saturating_sub(before.came),
        datagrams: after.refused.saturating_sub(before.refused),
        connections: after.dropped.saturating_sub(before.dropped),
        answers,
    })
}

async fn status(gateway: &mut Gateway) -> Option<Value> {
    let reply = gateway.send(Method::GET, "/v1/status", &[], "", PATIENCE).await.ok()?;
    (reply.status == 200).then(|| reply.json())
}

/// How far a node's state is.
async fn state(gateway: &mut Gateway) -> Option<(u64, String)> {
    let status = status(gateway).await?;
    Some((status["revision"].as_u64()?, status["stateHash"].as_str()?.to_owned()))
}

/// Waits until the state of all nodes is one and has not moved for a while.
async fn rest(context: &Context) -> Result<()> {
    let began = Instant::now();
    let (mut last, mut since) = (Vec::new(), Instant::now());
    while since.elapsed() < STILL || last.windows(2).any(|two| two[0] != two[1]) {
        if began.elapsed() > UNREST {
            bail!("the state moves on though nobody changes it: {last:?}");
        }
        let mut now = Vec::new();
        for node in 0..context.cluster.count() {
            now.push(state(&mut context.api(node)).await);
        }
        if now != last {
            (last, since) = (now, Instant::now());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Takes down how far each node is.
async fn look(context: &Context, client: &mut Client) {
    for node in 0..context.cluster.count() {
        let mut api = context.api(node);
        let name = context.cluster.name(node).to_string();
        let work = async {
            match state(&mut api).await {
                Some((revision, hash)) => Outcome::Ok { answer: Answer::State { revision, hash } },
                None => Outcome::Failed { why: "no status".to_owned() },
            }
        };
        client.does(&name, Action::Look, work).await;
    }
}
