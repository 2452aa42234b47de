//! The founding protocol as a state machine.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use swarmer_model::NodeId;

use super::{
    Founder, FoundingRecord, FoundingToken, RecordError, RefuseReason, Stage,
    message::{self, Hello, MAX_GRANT_BYTES, Message},
};

/// The most founders of a cluster: the most voters that it can have.
pub const MAX_FOUNDERS: usize = 7;
/// The most links at once: each founder twice (both may dial), and surplus nodes to be told so.
pub const MAX_LINKS: usize = 64;
/// How often a founder says where it stands and asks again; also how often to send
/// [`Input::Tick`].
pub const RESEND_EVERY: Duration = Duration::from_secs(1);
/// How long the one that was consented to may be away before that is called stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// The most addresses in one hello.
const MAX_KNOWN: usize = 16;

/// One stream to another founder; numbers are the driver's and are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Which end of a link this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// This node opened the connection.
    Dialer,
    /// The peer did.
    Acceptor,
}

/// What a founder starts from.
#[derive(Debug, Clone)]
pub struct FoundingConfig {
    /// The shared token.
    pub token: FoundingToken,
    /// How many founders there are, itself included: 1 to [`MAX_FOUNDERS`].
    pub expect: usize,
    /// This node.
    pub me: Founder,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A stream is open, dialled or accepted.
    Connected {
        /// Its number.
        link: LinkId,
        /// Which end this is.
        side: Side,
        /// The TLS exporter of the connection, the same on both ends.
        exporter: [u8; 32],
        /// The public key of the peer's certificate, as SubjectPublicKeyInfo.
        peer_spki: Vec<u8>,
    },
    /// A message came in.
    Received {
        /// On which link.
        link: LinkId,
        /// The message.
        bytes: Vec<u8>,
    },
    /// A stream is gone.
    Disconnected {
        /// Which.
        link: LinkId,
    },
    /// The record of this number, and all before, are durable.
    Persisted {
        /// The number.
        sequence: u64,
    },
    /// The cluster is made: what each founder gets, this one included. May be given again with
    /// fresher grants.
    Founded {
        /// Opaque bytes for each founder, at most [`MAX_GRANT_BYTES`] each.
        grants: Vec<(NodeId, Vec<u8>)>,
    },
    /// This founder's own part is durable on its disk.
    GrantStored,
    /// Time passed; at least every [`RESEND_EVERY`].
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send a message. Lost ones are sent again later.
    Send {
        /// On which link.
        link: LinkId,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Make the record durable, in the order of the numbers, then give [`Input::Persisted`].
    Persist {
        /// The number.
        sequence: u64,
        /// What to write; replaces what was written before.
        record: Box<FoundingRecord>,
    },
    /// Close a link (after what was sent on it) and log why.
    Close {
        /// Which.
        link: LinkId,
        /// Why.
        reason: CloseReason,
    },
    /// Dial an address that another founder told of.
    Dial {
        /// `host:port`.
        address: String,
    },
    /// Make the cluster with these founders: CA, first Raft state, grants. Comes again after a
    /// restart until [`Input::Founded`] is durable, always with the same founders, so making it
    /// must be repeatable.
    Found {
        /// All N, this one included, in the order of their ids.
        founders: Vec<Founder>,
    },
    /// This founder's part. Store it, then give [`Input::GrantStored`]; it may come more than
    /// once.
    Granted {
        /// The bytes that the maker of the cluster gave for this founder.
        grant: Vec<u8>,
    },
    /// The cluster stands without this node: end founding and tell the operator.
    JoinInstead {
        /// A member's address.
        hint: String,
    },
    /// Something the operator should read.
    Log {
        /// The text.
        text: String,
    },
}

/// Why a link was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// This node refused the peer.
    Refused(RefuseReason),
    /// The peer says that it refuses this node.
    RefusedByPeer(RefuseReason),
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(reason) => write!(f, "refused a founder: {reason}"),
            Self::RefusedByPeer(reason) => write!(f, "refused by the other founder: {reason}"),
        }
    }
}

struct Link {
    side: Side,
    exporter: [u8; 32],
    peer_spki: Vec<u8>,
    /// Set once the peer has proven the secret.
    peer: Option<NodeId>,
    hello: Option<Hello>,
}

/// One founder.
///
/// Contract: give every input with a `now` that does not go back; carry out the outputs in their
/// order; a record counts as written only when it would survive a power cut. Links may be lost,
/// and messages lost, doubled or reordered, at any point.
pub struct Founding {
    config: FoundingConfig,
    /// Decided, perhaps not durable yet. Nothing that others see depends on it.
    record: FoundingRecord,
    /// What is known to be on disk. Everything that others see follows from this.
    durable: FoundingRecord,
    writing: BTreeMap<u64, FoundingRecord>,
    sequence: u64,
    links: HashMap<LinkId, Link>,
    found_told: bool,
    grant_told: Option<Vec<u8>>,
    join_instead: Option<String>,
    /// When the one that was consented to was last linked.
    maker_seen: Option<Instant>,
    last_resend: Option<Instant>,
    logged: Vec<String>,
    now: Option<Instant>,
    #[cfg(test)]
    pub(super) planted_bug: bool,
}

impl Founding {
    /// A founder, new or after a restart.
    ///
    /// # Errors
    /// [`RecordError::Foreign`] if the record is of another node or cluster.
    ///
    /// # Panics
    /// If `expect` is not 1 to [`MAX_FOUNDERS`]: the configuration checks that.
    pub fn new(
        config: FoundingConfig,
        record: Option<FoundingRecord>,
    ) -> Result<Self, RecordError> {
        assert!((1..=MAX_FOUNDERS).contains(&config.expect), "checked by the configuration");
        let record = match record {
            None => FoundingRecord::new(config.token.cluster, config.me.node),
            Some(record) if record.cluster != config.token.cluster => {
                return Err(RecordError::Foreign { what: "another cluster" });
            }
            Some(record) if record.node != config.me.node => {
                return Err(RecordError::Foreign { what: "another node" });
            }
            Some(record) => record,
        };
        Ok(Self {
            config,
            durable: record.clone(),
            record,
            writing: BTreeMap::new(),
            sequence: 0,
            links: HashMap::new(),
            found_told: false,
            grant_told: None,
            join_instead: None,
            maker_seen: None,
            last_resend: None,
            logged: Vec::new(),
            now: None,
            #[cfg(test)]
            planted_bug: false,
        })
    }

    /// Takes one input and returns what to do. Call it once with [`Input::Tick`] at the start.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Output> {
        let mut out = Vec::new();
        self.now = Some(now);
        match input {
            Input::Connected { link, side, exporter, peer_spki } => {
                self.connected(link, side, exporter, peer_spki, &mut out);
            }
            Input::Received { link, bytes } => self.received(link, &bytes, &mut out),
            Input::Disconnected { link } => {
                self.links.remove(&link);
            }
            Input::Persisted { sequence } => {
                let later = self.writing.split_off(&(sequence + 1));
                let done = std::mem::replace(&mut self.writing, later);
                if let Some((_, record)) = done.into_iter().next_back() {
                    self.durable = record;
                    self.tell_all(&mut out);
                }
            }
            Input::Founded { grants } => self.founded(grants, &mut out),
            Input::GrantStored => {
                if !self.record.granted {
                    self.record.granted = true;
                    self.persist(&mut out);
                }
            }
            Input::Tick => {
                let due = self.last_resend.is_none_or(|last| now >= last + RESEND_EVERY);
                if due {
                    self.last_resend = Some(now);
                    self.tell_all(&mut out);
                }
            }
        }
        self.react(now, &mut out);
        out
    }

    /// Whether this founder has made the cluster and must go on answering the others.
    pub fn is_maker(&self) -> bool {
        self.visible().decided.is_some()
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        let record = &self.durable;
        if record.granted {
            return if record.grants.is_some() { Stage::Founded } else { Stage::Granted };
        }
        if let Some(hint) = &self.join_instead {
            return Stage::JoinInstead { hint: hint.clone() };
        }
        if record.grants.is_some() {
            return Stage::Founded;
        }
        if self.record.decided.is_some() {
            return Stage::Initialising;
        }
        if let Some(why) = self.stuck() {
            return Stage::Stuck { why };
        }
        match &record.consent {
            None if self.record.consent.is_some() => Stage::Consenting,
            None => {
                let mut have = vec![self.config.me.name.clone()];
                have.extend(self.peers().values().map(|hello| hello.founder.name.clone()));
                have.dedup();
                Stage::Waiting { missing: self.config.expect.saturating_sub(have.len()), have }
            }
            Some(maker) if maker.node == self.config.me.node => {
                let have: Vec<String> =
                    self.record.received.iter().map(|founder| founder.name.clone()).collect();
                Stage::Collecting { missing: self.config.expect.saturating_sub(have.len()), have }
            }
            Some(maker) => Stage::AwaitingGrant {
                from: maker.name.clone(),
                address: maker.advertise.clone(),
                connected: self.peers().contains_key(&maker.node),
            },
        }
    }

    /// The state that others may learn of.
    fn visible(&self) -> &FoundingRecord {
        #[cfg(test)]
        if self.planted_bug {
            return &self.record;
        }
        &self.durable
    }

    /// The other founders that are linked now, in the order of their ids.
    fn peers(&self) -> BTreeMap<NodeId, &Hello> {
        self.links.values().filter_map(|link| Some((link.peer?, link.hello.as_ref()?))).collect()
    }

    fn link_to(&self, node: NodeId) -> Option<LinkId> {
        let to = self.links.iter().filter(|(_, link)| link.peer == Some(node));
        to.map(|(id, _)| *id).min()
    }

    fn persist(&mut self, out: &mut Vec<Output>) {
        self.sequence += 1;
        self.writing.insert(self.sequence, self.record.clone());
        out.push(Output::Persist {
            sequence: self.sequence,
            record: Box::new(self.record.clone()),
        });
    }

    fn log_once(&mut self, text: String, out: &mut Vec<Output>) {
        // Bounded: there are only a few kinds of text for each of a few peers.
        if self.logged.len() < MAX_LINKS && !self.logged.contains(&text) {
            self.logged.push(text.clone());
            out.push(Output::Log { text });
        }
    }

    fn send(&self, link: LinkId, message: &Message, out: &mut Vec<Output>) {
        out.push(Output::Send { link, bytes: message.encode() });
    }

    fn refuse(&mut self, link: LinkId, reason: RefuseReason, out: &mut Vec<Output>) {
        self.send(link, &Message::Refuse(reason), out);
        self.links.remove(&link);
        out.push(Output::Close { link, reason: CloseReason::Refused(reason) });
    }

    fn connected(
        &mut self,
        link: LinkId,
        side: Side,
        exporter: [u8; 32],
        peer_spki: Vec<u8>,
        out: &mut Vec<Output>,
    ) {
        if self.links.len() >= MAX_LINKS {
            return self.refuse(link, RefuseReason::Full, out);
        }
        self.send(link, &self.proof(side, &exporter), out);
        self.links.insert(link, Link { side, exporter, peer_spki, peer: None, hello: None });
    }

    fn proof(&self, side: Side, exporter: &[u8; 32]) -> Message {
        let FoundingToken { cluster, secret } = &self.config.token;
        let me = &self.config.me;
        Message::Prove {
            cluster: *cluster,
            node: me.node,
            spki: me.spki.clone(),
            mac: message::prove(secret, *cluster, side, exporter, me.node, &me.spki),
        }
    }

    fn hello(&self) -> Message {
        let mut known: Vec<String> =
            self.peers().values().map(|hello| hello.founder.advertise.clone()).collect();
        known.truncate(MAX_KNOWN);
        let record = self.visible();
        Message::Hello(Hello {
            founder: self.config.me.clone(),
            expect: u8::try_from(self.config.expect).unwrap_or(u8::MAX),
            consent: record.consent.as_ref().map(|founder| founder.node),
            granted: record.granted || record.grants.is_some(),
            known,
        })
    }

    /// Says to every proven peer where this founder stands, and asks the maker for the grant.
    fn tell_all(&self, out: &mut Vec<Output>) {
        let hello = self.hello();
        let mut links: Vec<(&LinkId, &Link)> = self.links.iter().collect();
        links.sort_unstable_by_key(|(id, _)| **id);
        for (id, link) in links {
            // The peer says hello once it has this node's proof: until then it may have been lost.
            if link.hello.is_none() {
                self.send(*id, &self.proof(link.side, &link.exporter), out);
            }
            if link.peer.is_some() {
                self.send(*id, &hello, out);
            }
        }
        self.ask_maker(out);
    }

    fn ask_maker(&self, out: &mut Vec<Output>) {
        let record = self.visible();
        let Some(maker) = &record.consent else { return };
        if maker.node == self.config.me.node || record.granted {
            return;
        }
        if let Some(link) = self.link_to(maker.node) {
            let consent = Message::Consent { from: self.config.me.node, to: maker.node };
            self.send(link, &consent, out);
        }
    }

    fn received(&mut self, id: LinkId, bytes: &[u8], out: &mut Vec<Output>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let message = Message::decode(bytes);
        match (message, link.peer) {
            (None, _) => self.refuse(id, RefuseReason::Protocol, out),
            (Some(Message::Refuse(reason)), _) => {
                self.links.remove(&id);
                out.push(Output::Close { link: id, reason: CloseReason::RefusedByPeer(reason) });
            }
            (Some(Message::Prove { cluster, node, spki, mac }), None) => {
                let proof = (cluster, node, spki, mac);
                match self.check_proof(id, &proof) {
                    Err(reason) => self.refuse(id, reason, out),
                    Ok(()) => {
                        if let Some(link) = self.links.get_mut(&id) {
                            link.peer = Some(node);
                        }
                        let hello = self.hello();
                        self.send(id, &hello, out);
                    }
                }
            }
            // Before the proof nothing is believed; after it, a second proof says nothing new.
            (Some(_), None) | (Some(Message::Prove { .. }), Some(_)) => {}
            (Some(Message::Hello(hello)), Some(peer)) => self.hello_from(id, peer, hello, out),
            (Some(Message::Consent { from, to }), Some(peer)) => {
                if from != peer {
                    return self.refuse(id, RefuseReason::Protocol, out);
                }
                if to == self.config.me.node {
                    self.consent_from(id, peer, out);
                }
            }
            (Some(Message::Grant { to, grant }), Some(peer)) => {
                let maker = self.durable.consent.as_ref().map(|founder| founder.node);
                if to == self.config.me.node && maker == Some(peer) && !self.durable.granted {
                    self.grant_told = Some(grant.clone());
                    out.push(Output::Granted { grant });
                }
            }
            (Some(Message::AlreadyFounded { hint }), Some(peer)) => {
                self.already_founded(peer, hint, out);
            }
        }
    }

    fn check_proof(
        &self,
        id: LinkId,
        (cluster, node, spki, mac): &(swarmer_model::ClusterId, NodeId, Vec<u8>, [u8; 32]),
    ) -> Result<(), RefuseReason> {
        let link = self.links.get(&id).ok_or(RefuseReason::Protocol)?;
        let token = &self.config.token;
        if *cluster != token.cluster {
            return Err(RefuseReason::OtherCluster);
        }
        let peer_side = match link.side {
            Side::Dialer => Side::Acceptor,
            Side::Acceptor => Side::Dialer,
        };
        if !message::check(
            &token.secret,
            token.cluster,
            peer_side,
            &link.exporter,
            *node,
            spki,
            mac,
        ) {
            return Err(RefuseReason::WrongSecret);
        }
        if *spki != link.peer_spki {
            return Err(RefuseReason::WrongKey);
        }
        let other_key = |link: &Link| link.peer == Some(*node) && link.peer_spki != *spki;
        if *node == self.config.me.node || self.links.values().any(other_key) {
            return Err(RefuseReason::SameNode);
        }
        Ok(())
    }

    fn hello_from(&mut self, id: LinkId, peer: NodeId, hello: Hello, out: &mut Vec<Output>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if hello.founder.node != peer || hello.founder.spki != link.peer_spki {
            return self.refuse(id, RefuseReason::Protocol, out);
        }
        if usize::from(hello.expect) != self.config.expect {
            return self.refuse(id, RefuseReason::OtherExpect, out);
        }
        let known: Vec<String> = hello.known.iter().take(MAX_KNOWN).cloned().collect();
        let unconsented = hello.consent.is_none() && !hello.granted;
        link.hello = Some(hello);

        let addresses: Vec<&str> = self
            .links
            .values()
            .filter_map(|l| Some(&*l.hello.as_ref()?.founder.advertise))
            .collect();
        for address in known {
            if address != self.config.me.advertise && !addresses.contains(&address.as_str()) {
                out.push(Output::Dial { address });
            }
        }
        // A node without any consent that meets a standing cluster is surplus, or has lost its
        // disk. One that did consent is answered by the founder that it consented to.
        // A founder's hello may be older than its consent, if the two came by different links.
        let visible = self.visible();
        let surplus = match &visible.grants {
            Some(grants) => !grants.iter().any(|(node, _)| *node == peer),
            None => visible.granted,
        };
        if unconsented && surplus {
            let hint = self.hint();
            self.send(id, &Message::AlreadyFounded { hint }, out);
        }
        // The maker says hello when a link is new and when it has founded: ask at once.
        if self.visible().consent.as_ref().is_some_and(|maker| maker.node == peer) {
            self.ask_maker(out);
        }
    }

    /// The address of the founder that made the cluster, as far as it is known here.
    fn hint(&self) -> String {
        match &self.durable.consent {
            Some(maker) => maker.advertise.clone(),
            None => self.config.me.advertise.clone(),
        }
    }

    fn consent_from(&mut self, id: LinkId, peer: NodeId, out: &mut Vec<Output>) {
        let visible = self.visible();
        if let Some(grants) = &visible.grants {
            let answer = match grants.iter().find(|(node, _)| *node == peer) {
                Some((to, grant)) => Message::Grant { to: *to, grant: grant.clone() },
                None => Message::AlreadyFounded { hint: self.hint() },
            };
            return self.send(id, &answer, out);
        }
        if self.record.decided.is_some() {
            return; // The cluster is being made; the peer asks again.
        }
        let known = self.record.received.iter().any(|founder| founder.node == peer);
        let founder = self.links.get(&id).and_then(|link| link.hello.as_ref());
        // Without its hello it is not known who it is; it says both again.
        if let (false, Some(hello)) = (known, founder)
            && self.record.received.len() < MAX_FOUNDERS * 2
        {
            self.record.received.push(hello.founder.clone());
            self.persist(out);
        }
    }

    fn already_founded(&mut self, peer: NodeId, hint: String, out: &mut Vec<Output>) {
        if self.record.granted || self.record.grants.is_some() {
            let text = format!(
                "node {peer} says that the cluster {} was founded by others too: two clusters \
                 have one id; stop one of them, remove its data directories and let its nodes join",
                self.config.token.cluster
            );
            return self.log_once(text, out);
        }
        let maker = self.record.consent.as_ref().map(|founder| founder.node);
        let bound = maker.is_some_and(|maker| maker != peer && maker != self.config.me.node);
        let collecting = maker == Some(self.config.me.node) && self.record.decided.is_some();
        if bound || collecting {
            // Only the founder that this one consented to can say that it came too late.
            let text = format!("node {peer} says that the cluster was already founded");
            return self.log_once(text, out);
        }
        if self.join_instead.is_none() {
            self.join_instead = Some(hint.clone());
            out.push(Output::JoinInstead { hint });
        }
    }

    fn founded(&mut self, mut grants: Vec<(NodeId, Vec<u8>)>, out: &mut Vec<Output>) {
        let Some(decided) = &self.record.decided else {
            return self.log_once("a cluster was made that nobody asked for".to_owned(), out);
        };
        grants.retain(|(node, grant)| {
            grant.len() <= MAX_GRANT_BYTES && decided.iter().any(|founder| founder.node == *node)
        });
        if grants.len() != decided.len() {
            let text = "the made cluster has no fitting grant for each founder".to_owned();
            return self.log_once(text, out);
        }
        if self.record.grants.as_ref() != Some(&grants) {
            self.record.grants = Some(grants);
            self.persist(out);
        }
    }

    /// What follows from the state as it is now.
    fn react(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.consent(out);
        self.decide(out);
        let maker = self.durable.consent.as_ref().map(|maker| maker.node);
        if self.maker_seen.is_none() || maker.is_some_and(|maker| self.link_to(maker).is_some()) {
            self.maker_seen = Some(now);
        }
        let visible = self.visible();
        if let (Some(founders), None, false) = (&visible.decided, &visible.grants, self.found_told)
        {
            let founders = founders.clone();
            self.found_told = true;
            out.push(Output::Found { founders });
        }
        let me = self.config.me.node;
        if let (Some(grants), false) = (&self.durable.grants, self.durable.granted)
            && let Some((_, own)) = grants.iter().find(|(node, _)| *node == me)
            && self.grant_told.as_ref() != Some(own)
        {
            let grant = own.clone();
            self.grant_told = Some(grant.clone());
            out.push(Output::Granted { grant });
        }
        if let Some(why) = self.stuck() {
            self.log_once(why, out);
        }
    }

    /// The one consent: to the lowest id, once all N have met.
    fn consent(&mut self, out: &mut Vec<Output>) {
        if self.record.consent.is_some() || self.join_instead.is_some() {
            return;
        }
        let peers = self.peers();
        if peers.len() + 1 < self.config.expect {
            return;
        }
        let me = &self.config.me;
        let lowest = peers.values().map(|hello| &hello.founder).min_by_key(|founder| founder.node);
        // Whoever was consented to already stays with itself: going elsewhere would leave those
        // consents without a use.
        let chosen = match lowest {
            Some(other) if other.node < me.node && self.record.received.is_empty() => other.clone(),
            _ => me.clone(),
        };
        if chosen.node == me.node
            && !self.record.received.iter().any(|founder| founder.node == chosen.node)
        {
            self.record.received.push(chosen.clone());
        }
        self.record.consent = Some(chosen);
        self.persist(out);
        #[cfg(test)]
        if self.planted_bug {
            self.tell_all(out);
        }
    }

    /// With N consents, its own among them, this founder makes the cluster.
    fn decide(&mut self, out: &mut Vec<Output>) {
        let me = self.config.me.node;
        let record = &self.visible();
        let own = record.received.iter().any(|founder| founder.node == me);
        if self.record.decided.is_some()
            || self.join_instead.is_some()
            || !own
            || record.received.len() < self.config.expect
        {
            return;
        }
        let mut founders = record.received.clone();
        // Its own consent may have come last; it is one of the N.
        founders.sort_by_key(|founder| (founder.node != me, founder.node));
        founders.truncate(self.config.expect);
        founders.sort_by_key(|founder| founder.node);
        self.record.decided = Some(founders);
        self.persist(out);
    }

    fn stuck(&self) -> Option<String> {
        let record = &self.durable;
        let maker = record.consent.as_ref()?;
        if record.granted || self.record.decided.is_some() || self.join_instead.is_some() {
            return None;
        }
        let remedy = "stop all founders, remove their data directories (nothing is in them yet), \
                      make a new token with `swarmer token bootstrap` and start again";
        let peers = self.peers();
        let me = &self.config.me;
        let replaced = peers
            .values()
            .find(|hello| {
                hello.founder.node != maker.node && hello.founder.advertise == maker.advertise
            })
            .filter(|_| maker.node != me.node && !peers.contains_key(&maker.node));
        if let Some(other) = replaced {
            return Some(format!(
                "stuck: this node has consented to {} ({}), node {}, but node {} is there now: it \
                 has lost its disk; {remedy}",
                maker.name, maker.advertise, maker.node, other.founder.node
            ));
        }
        if peers.values().any(|hello| hello.granted) {
            return None;
        }
        // Everybody here has consented, and nobody can reach N any more.
        let mut votes: BTreeMap<NodeId, usize> = BTreeMap::new();
        *votes.entry(maker.node).or_default() += 1;
        for hello in peers.values() {
            *votes.entry(hello.consent?).or_default() += 1;
        }
        let open = votes.values().any(|count| *count >= self.config.expect);
        if peers.len() + 1 >= self.config.expect && votes.len() > 1 && !open {
            return Some(format!(
                "stuck: {} nodes hold this founding token, more than the {} expected, and their \
                 consents are split; {remedy}",
                peers.len() + 1,
                self.config.expect
            ));
        }
        let away = self.now?.saturating_duration_since(self.maker_seen?);
        (away >= STUCK_AFTER && maker.node != me.node).then(|| {
            format!(
                "stuck: {} ({}), node {}, was chosen to found the cluster and is away; start it \
                 again with its data directory; if that is lost, {remedy}",
                maker.name, maker.advertise, maker.node
            )
        })
    }
}
