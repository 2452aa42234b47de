//! The founding protocol as a state machine.

mod stand;
mod talk;

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use swarmer_model::{ClusterId, NodeId};

use super::{
    FoundingConfig, FoundingRecord, Input, LinkId, Output, RecordError, Side,
    message::{Hello, MAX_GRANT_BYTES},
};

/// The most founders of a cluster: the most voters that it can have.
pub const MAX_FOUNDERS: usize = 7;
/// The most links at once: each founder twice (both may dial), and surplus nodes to be told so.
pub const MAX_LINKS: usize = 64;
/// How often a founder says where it stands and asks again; also how often to send
/// [`Input::Tick`].
pub const RESEND_EVERY: Duration = Duration::from_secs(1);

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
    /// It must not found: it would do so alone, beside somebody at a seed.
    given_up: bool,
    /// A cluster that stands at a seed, as somebody there said without a proof.
    hearsay: Option<ClusterId>,
    seeds_asked: bool,
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
            given_up: false,
            hearsay: None,
            seeds_asked: false,
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
            Input::SeedsAsked => self.seeds_asked = true,
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

    /// Whether the peer of a link has said what there is to know before a consent, or the link is
    /// gone.
    pub fn answered(&self, link: LinkId) -> bool {
        self.links.get(&link).is_none_or(|link| link.hello.is_some())
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
        if !self.is_free() {
            return;
        }
        let peers = self.peers();
        if peers.len() + 1 < self.config.expect {
            return;
        }
        let alone = self.config.expect == 1;
        if alone && (!self.seeds_asked || peers.values().any(|hello| hello.granted)) {
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
}
