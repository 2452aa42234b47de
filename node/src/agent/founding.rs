//! Drives the founding core: dials seeds, carries its messages, writes its record, makes what it
//! says to make. All decisions are the core's.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use swarmer_mesh::{
    founding::{
        CloseReason, Founder, Founding, FoundingConfig, FoundingRecord, GiveUp, Input, LinkId,
        MAX_MESSAGE_BYTES, Output, RESEND_EVERY, Side, codes as founding_codes,
    },
    identity::{Authority, CERTIFICATE_VALIDITY},
    stream::{read_frame, write_frame},
    transport::{FoundStream, Handle},
};
use swarmer_model::{ClusterId, NodeId};
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{
        authority::api_names,
        data_dir::{read_bytes, read_json, write_bytes, write_json},
        identity::{GossipKey, Grant, PeerInfo, identity_problem},
    },
    codes,
    problem::{Outcome, Problem, chain},
};

/// What the core keeps, which has the other founders' parts on the one that made the cluster.
const RECORD: &str = "founding.bin";
/// The secrets of the cluster that this founder made.
const MADE: &str = "made.json";
/// How often the core is told the time and seeds without a link are dialled.
const TICK: Duration = Duration::from_millis(200);
/// How long one dial may take.
const DIAL_DEADLINE: Duration = Duration::from_secs(3);
/// How long one that founds alone waits for its seeds to answer: longer than a dial.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// When a seed that turned out to be this node itself is dialled again: its name may move.
const SELF_AGAIN: Duration = Duration::from_secs(60);
/// When a seed that says that a cluster stands there is asked again.
const STANDING_AGAIN: Duration = Duration::from_secs(5);
/// How often such a seed is told of.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// Messages that wait on one link; more means a peer that does not read: it is cut.
const LINK_QUEUE: usize = 64;
/// Events that wait for the driver.
const EVENT_QUEUE: usize = 256;

/// A stream that another founder opened.
pub(crate) struct AcceptedLink {
    pub(crate) spki: Vec<u8>,
    pub(crate) exporter: [u8; 32],
    pub(crate) remote: SocketAddr,
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
    /// What it said first, where that was read already.
    pub(crate) first: Option<Bytes>,
    /// Dropped when the link is over: the connection is kept until then.
    pub(crate) over: tokio::sync::oneshot::Sender<()>,
}

enum Event {
    Dialled { seed: String, outcome: Result<Box<FoundStream>, String> },
    Message { link: LinkId, bytes: Vec<u8> },
    Gone { link: LinkId },
}

struct Link {
    queue: mpsc::Sender<Bytes>,
    seed: Option<String>,
    remote: SocketAddr,
    _over: Option<tokio::sync::oneshot::Sender<()>>,
}

/// The secrets of the cluster that this founder makes; durable before anybody gets a part of it.
#[derive(Serialize, Deserialize)]
struct Made {
    ca_key_pem: String,
    #[serde(with = "hex::serde")]
    ca: Vec<u8>,
    #[serde(with = "hex::serde")]
    gossip_key: [u8; 32],
}

/// Founds, or helps to found, one cluster.
pub(crate) struct FoundingDriver {
    core: Founding,
    config: FoundingConfig,
    dir: PathBuf,
    transport: Handle,
    seeds: Vec<String>,
    accepted: mpsc::Receiver<AcceptedLink>,
    events: mpsc::Receiver<Event>,
    event_sender: mpsc::Sender<Event>,
    links: HashMap<LinkId, Link>,
    dialling: HashSet<String>,
    retry: HashMap<String, Instant>,
    /// Seeds that were dialled once, and what came of it is known.
    asked: HashSet<String>,
    /// Whether some seed answered at all.
    answered: bool,
    /// Until when the seeds may answer; none once the core was told that they were asked.
    ask_until: Option<Instant>,
    next_link: u64,
    /// When a seed was last told of that says that a cluster stands there.
    told_standing: HashMap<String, Instant>,
    told: String,
    granted: Option<Grant>,
    failed: Option<Problem>,
    /// Whether it looks for the others, or only waits for them to come.
    dials: bool,
}

impl FoundingDriver {
    pub(crate) fn new(
        config: FoundingConfig,
        dir: &Path,
        transport: Handle,
        seeds: Vec<String>,
        accepted: mpsc::Receiver<AcceptedLink>,
    ) -> Outcome<Self> {
        let record =
            read_bytes(&dir.join(RECORD))?.map(|bytes| FoundingRecord::decode(&bytes)).transpose();
        let damaged = |error: &dyn std::fmt::Display| {
            Problem::new(codes::DATA_DIR_FOREIGN, format!("{}: {RECORD}: {error}", dir.display()))
        };
        let record = record.map_err(|error| damaged(&error))?;
        let core = Founding::new(config.clone(), record).map_err(|error| damaged(&error))?;
        let (event_sender, events) = mpsc::channel(EVENT_QUEUE);
        Ok(Self {
            core,
            config,
            dir: dir.to_owned(),
            transport,
            seeds,
            accepted,
            events,
            event_sender,
            links: HashMap::new(),
            dialling: HashSet::new(),
            retry: HashMap::new(),
            asked: HashSet::new(),
            answered: false,
            ask_until: Some(Instant::now() + ASK_DEADLINE),
            next_link: 0,
            told_standing: HashMap::new(),
            told: String::new(),
            granted: None,
            failed: None,
            dials: true,
        })
    }

    /// Runs until this node has its part of the cluster.
    pub(crate) async fn until_granted(&mut self, stage: impl Fn(String)) -> Outcome<Grant> {
        self.input(Input::Tick);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Some(problem) = self.failed.take() {
                return Err(problem);
            }
            if let Some(grant) = self.granted.take() {
                return Ok(grant);
            }
            let now = self.core.stage().to_string();
            if now != self.told {
                tracing::info!(target: "swarmer::founding", stage = now, "founding");
                self.told.clone_from(&now);
                stage(now);
            }
            self.step(&mut ticks).await;
        }
    }

    /// Goes on answering the other founders, so that those that were away get their part too.
    pub(crate) async fn serve(mut self, shutdown: CancellationToken) {
        self.dials = false;
        self.input(Input::Tick);
        let mut ticks = tokio::time::interval(RESEND_EVERY);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.step(&mut ticks) => {}
            }
            if let Some(problem) = self.failed.take() {
                tracing::error!(target: "swarmer::founding", detail = %problem.detail, "founding");
            }
        }
    }

    async fn step(&mut self, ticks: &mut tokio::time::Interval) {
        tokio::select! {
            _ = ticks.tick() => {
                self.dial_seeds();
                self.input(Input::Tick);
            }
            Some(link) = self.accepted.recv() => self.accept(link),
            Some(event) = self.events.recv() => self.on_event(event),
        }
        self.ask_seeds();
    }

    /// Tells the core, once, when all seeds were asked.
    fn ask_seeds(&mut self) {
        let Some(until) = self.ask_until else { return };
        for link in &self.links {
            if let (id, Link { seed: Some(seed), .. }) = link
                && self.core.answered(*id)
            {
                self.answered = true;
                self.asked.insert(seed.clone());
            }
        }
        let known = |seed: &String| *seed == self.config.me.advertise || self.asked.contains(seed);
        if !self.seeds.iter().all(known) && Instant::now() < until {
            return;
        }
        self.ask_until = None;
        let others = self.seeds.iter().any(|seed| *seed != self.config.me.advertise);
        if self.config.expect == 1 && self.dials && others && !self.answered {
            tracing::warn!(target: "swarmer::founding", seeds = self.seeds.join(","),
                "no seed answers; this node founds a cluster by itself, as --bootstrap-expect 1 says");
        }
        self.input(Input::SeedsAsked);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Dialled { seed, outcome } => {
                self.dialling.remove(&seed);
                match outcome {
                    Ok(stream) => {
                        let stream = *stream;
                        let link = self.add_link(
                            stream.send,
                            stream.recv,
                            stream.remote,
                            Some(seed),
                            None,
                        );
                        self.input(Input::Connected {
                            link,
                            side: Side::Dialer,
                            exporter: stream.exporter,
                            peer_spki: stream.spki,
                        });
                    }
                    Err(why) => {
                        tracing::debug!(target: "swarmer::founding", seed, why, "no link");
                        self.asked.insert(seed.clone());
                        self.retry.insert(seed, Instant::now() + TICK * 2);
                    }
                }
            }
            Event::Message { link, bytes } => self.input(Input::Received { link, bytes }),
            Event::Gone { link } => {
                if let Some(seed) = self.links.remove(&link).and_then(|link| link.seed) {
                    self.asked.insert(seed.clone());
                    self.retry.insert(seed, Instant::now() + TICK * 5);
                }
                self.input(Input::Disconnected { link });
            }
        }
    }

    fn accept(&mut self, accepted: AcceptedLink) {
        tracing::debug!(target: "swarmer::founding", remote = %accepted.remote, "a founder dialled");
        let link =
            self.add_link(accepted.send, accepted.recv, accepted.remote, None, Some(accepted.over));
        self.input(Input::Connected {
            link,
            side: Side::Acceptor,
            exporter: accepted.exporter,
            peer_spki: accepted.spki,
        });
        if let Some(first) = accepted.first {
            self.input(Input::Received { link, bytes: first.to_vec() });
        }
    }

    fn add_link(
        &mut self,
        mut send: SendStream,
        mut recv: RecvStream,
        remote: SocketAddr,
        seed: Option<String>,
        over: Option<tokio::sync::oneshot::Sender<()>>,
    ) -> LinkId {
        self.next_link += 1;
        let link = LinkId(self.next_link);
        let (queue, mut waiting) = mpsc::channel::<Bytes>(LINK_QUEUE);
        tokio::spawn(async move {
            while let Some(bytes) = waiting.recv().await {
                if write_frame(&mut send, bytes).await.is_err() {
                    return;
                }
            }
            let _ = send.finish();
            // What was written last, a refusal for example, is to arrive.
            let _ = tokio::time::timeout(Duration::from_secs(1), send.stopped()).await;
        });
        let events = self.event_sender.clone();
        tokio::spawn(async move {
            while let Ok(bytes) = read_frame(&mut recv, MAX_MESSAGE_BYTES).await {
                if events.send(Event::Message { link, bytes: bytes.to_vec() }).await.is_err() {
                    return;
                }
            }
            let _ = events.send(Event::Gone { link }).await;
        });
        self.links.insert(link, Link { queue, seed, remote, _over: over });
        link
    }

    fn dial_seeds(&mut self) {
        if !self.dials {
            return;
        }
        let linked: HashSet<&String> =
            self.links.values().filter_map(|link| link.seed.as_ref()).collect();
        let now = Instant::now();
        let due: Vec<String> = self
            .seeds
            .iter()
            .filter(|seed| {
                !linked.contains(seed)
                    && !self.dialling.contains(*seed)
                    && self.retry.get(*seed).is_none_or(|at| now >= *at)
                    && **seed != self.config.me.advertise
            })
            .cloned()
            .collect();
        for seed in due {
            self.dial(seed);
        }
    }

    fn dial(&mut self, seed: String) {
        if !self.dialling.insert(seed.clone()) {
            return;
        }
        let (transport, events) = (self.transport.clone(), self.event_sender.clone());
        tokio::spawn(async move {
            let outcome = dial(&transport, &seed).await.map(Box::new);
            let _ = events.send(Event::Dialled { seed, outcome }).await;
        });
    }

    /// Gives the core one input and carries out what it says, which may be further inputs.
    fn input(&mut self, input: Input) {
        let mut inputs = std::collections::VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.core.handle(input, Instant::now()) {
                match self.carry_out(output) {
                    Ok(Some(next)) => inputs.push_back(next),
                    Ok(None) => {}
                    Err(problem) => self.failed = Some(problem),
                }
            }
        }
    }

    fn carry_out(&mut self, output: Output) -> Outcome<Option<Input>> {
        match output {
            Output::Send { link, bytes } => {
                if let Some(to) = self.links.get(&link)
                    && to.queue.try_send(Bytes::from(bytes)).is_err()
                {
                    self.links.remove(&link);
                    return Ok(Some(Input::Disconnected { link }));
                }
            }
            Output::Persist { sequence, record } => {
                write_bytes(&self.dir.join(RECORD), &record.encode())?;
                return Ok(Some(Input::Persisted { sequence }));
            }
            Output::Close { link, reason } => {
                if let Some(gone) = self.links.remove(&link) {
                    self.closed(gone, reason);
                }
            }
            Output::Dial { address } => {
                if self.dials
                    && address != self.config.me.advertise
                    && !self.links.values().any(|link| link.seed.as_ref() == Some(&address))
                {
                    self.dial(address);
                }
            }
            Output::Found { founders } => {
                let grants = self.make(&founders)?;
                return Ok(Some(Input::Founded { grants }));
            }
            Output::Granted { grant } => {
                let grant = Grant::decode(&grant)?;
                grant.save(&self.dir)?;
                self.granted = Some(grant);
                return Ok(Some(Input::GrantStored));
            }
            Output::JoinInstead { hint } => {
                let cluster = self.config.token.cluster;
                let why = format!(
                    "the cluster of this founding token, {cluster}, stands already, without this \
                     node (a member is at {hint}); the token is spent"
                );
                return Err(Problem::new(founding_codes::ALREADY_FOUNDED, why));
            }
            Output::GiveUp { link, reason } => {
                let token = self.config.token.cluster;
                let seed = self.links.get(&link).and_then(|link| link.seed.clone());
                let seed = seed.unwrap_or_default();
                return Err(match reason {
                    GiveUp::Standing { cluster } if cluster == token => {
                        let why = format!(
                            "the seed {seed} (--join) says that the cluster of this founding \
                             token, {token}, stands already"
                        );
                        Problem::new(founding_codes::ALREADY_FOUNDED, why)
                    }
                    GiveUp::Standing { cluster } => {
                        let why = format!(
                            "the seed {seed} (--join) says that it is a member of cluster \
                             {cluster}, and the founding token is for another one, {token}: no \
                             cluster is founded beside one that the node was told to join"
                        );
                        Problem::new(founding_codes::OTHER_CLUSTER, why)
                    }
                    GiveUp::Alone { reason } => {
                        let why = format!(
                            "{reason}; with --bootstrap-expect 1 no cluster is founded beside a \
                             seed (--join) that founds, or founded, with others"
                        );
                        Problem::new(reason.code(), why)
                    }
                });
            }
            Output::TurnedAway { link, node, reason } => {
                if let Some(link) = self.links.get(&link) {
                    let why = format!("node {node}: {reason}");
                    self.transport.turned_away(reason.code(), link.remote, "found", &why);
                }
            }
            Output::Log { text } => tracing::warn!(target: "swarmer::founding", "{text}"),
        }
        Ok(None)
    }

    fn closed(&mut self, gone: Link, reason: CloseReason) {
        let mut pause = Duration::from_secs(2);
        match reason {
            CloseReason::Myself => {
                pause = SELF_AGAIN;
                tracing::debug!(target: "swarmer::founding", seed = gone.seed, "a seed is this node");
            }
            CloseReason::Standing { cluster, proven } => {
                pause = STANDING_AGAIN;
                self.tell_standing(&gone, cluster, proven);
            }
            // Anybody may come: it is logged as rarely as all refusals of strangers.
            CloseReason::Refused(reason) if gone.seed.is_none() => {
                self.transport.turned_away(reason.code(), gone.remote, "found", &reason);
            }
            CloseReason::Refused(_) | CloseReason::RefusedByPeer(_) => {
                tracing::warn!(target: "swarmer::founding", %reason, seed = gone.seed,
                    remote = %gone.remote, "a founding link is closed");
            }
        }
        if let Some(seed) = gone.seed {
            self.answered |= reason != CloseReason::Myself;
            self.asked.insert(seed.clone());
            self.retry.insert(seed, Instant::now() + pause);
        }
    }

    /// Says which seed told of a cluster, and what follows; at most now and then.
    fn tell_standing(&mut self, gone: &Link, cluster: ClusterId, proven: bool) {
        let (Some(seed), false) = (&gone.seed, proven) else { return };
        let now = Instant::now();
        if self.told_standing.get(seed).is_some_and(|at| now < *at + TELL_AGAIN) {
            return;
        }
        // Bounded by the seeds.
        self.told_standing.insert(seed.clone(), now);
        let code = match cluster == self.config.token.cluster {
            true => founding_codes::ALREADY_FOUNDED,
            false => founding_codes::OTHER_CLUSTER,
        };
        tracing::warn!(target: "swarmer::founding", code = code.name, seed, remote = %gone.remote,
            %cluster, "a seed says that it is a member of a cluster that stands, and nothing proves \
            it: this node goes on looking for the other founders. {}", code.remedy);
    }

    /// Makes authority and keys, once: after a crash the same ones are handed out again.
    fn make(&self, founders: &[Founder]) -> Outcome<Vec<(NodeId, Vec<u8>)>> {
        let cluster = self.config.token.cluster;
        let path = self.dir.join(MADE);
        let made = match read_json::<Made>(&path)? {
            Some(made) => made,
            None => {
                let authority = Authority::create(cluster, SystemTime::now())
                    .map_err(|error| identity_problem(&error))?;
                let made = Made {
                    ca_key_pem: authority.key_pem(),
                    ca: authority.certificate_der().to_vec(),
                    gossip_key: rand::random(),
                };
                write_json(&path, &made)?;
                made
            }
        };
        let authority = Authority::from_parts(&made.ca_key_pem, made.ca.clone())
            .map_err(|error| identity_problem(&error))?;
        let peers: Vec<PeerInfo> = founders.iter().map(peer_info).collect::<Outcome<_>>()?;
        let grant = |founder: &Founder| {
            let address = peer_info(founder)?.address;
            let names = api_names(&founder.name, address);
            let now = SystemTime::now();
            let issued = authority
                .issue_named(founder.node, &founder.spki, &names, now, CERTIFICATE_VALIDITY)
                .map_err(|error| identity_problem(&error))?;
            let grant = Grant {
                cluster,
                ca: made.ca.clone(),
                authorities: None,
                founding_ca: None,
                certificate: issued.der().to_vec(),
                gossip_keys: vec![GossipKey { id: 1, key: made.gossip_key }],
                gossip_generation: 0,
                peers: peers.clone(),
                voters: founders.iter().map(|founder| founder.node).collect(),
                ca_key_pem: Some(made.ca_key_pem.clone()),
                next_ca: None,
                maker: founder.node == self.config.me.node,
                witness: (founder.node == self.config.me.node)
                    .then(|| hex::encode(self.config.token.secret.witness().expose())),
            };
            Ok((founder.node, grant.encode()))
        };
        founders.iter().map(grant).collect()
    }
}

/// Deletes what is kept of a founding that is over, the key of its authority above all.
pub(crate) fn forget(dir: &Path) -> Outcome<()> {
    for file in [MADE, RECORD] {
        match fs::remove_file(dir.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let why = format!("{}: {file}: {error}", dir.display());
                return Err(Problem::new(codes::DATA_DIR, why));
            }
            _ => {}
        }
    }
    Ok(())
}

fn peer_info(founder: &Founder) -> Outcome<PeerInfo> {
    let address = founder.advertise.parse().map_err(|_| {
        let why = format!("founder {} advertises {:?}", founder.name, founder.advertise);
        Problem::new(codes::CONFIG, why)
    })?;
    Ok(PeerInfo {
        node: founder.node,
        name: founder.name.clone(),
        spki: founder.spki.clone(),
        address,
        region: founder.region.clone(),
        zone: founder.zone.clone(),
        labels: founder.labels.clone(),
    })
}

async fn dial(transport: &Handle, seed: &str) -> Result<FoundStream, String> {
    let deadline = tokio::time::Instant::now() + DIAL_DEADLINE;
    let name = seed.to_owned();
    let resolving = tokio::task::spawn_blocking(move || name.to_socket_addrs());
    let addresses = tokio::time::timeout_at(deadline, resolving).await;
    let Ok(Ok(Ok(addresses))) = addresses else {
        return Err("the name does not resolve".to_owned());
    };
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        match transport.dial_found(address, deadline).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = chain(&error),
        }
    }
    Err(last)
}

/// The config of the core for this node.
pub(crate) fn config_of(
    token: swarmer_mesh::founding::FoundingToken,
    expect: u32,
    me: Founder,
) -> FoundingConfig {
    FoundingConfig { token, expect: expect as usize, me, run: rand::random() }
}
