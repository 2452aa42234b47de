//! Makes functions ready, once each, however many ask for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use parking_lot::{Mutex, RwLock};
use swarmer_gossip::{Endpoint, EndpointState, RecordUpdate};
use swarmer_model::{Coded as _, Digest, EndpointHealth, NodeId, Revision, Template};
use swarmer_runtime::{Function, FunctionConfig, FunctionKey, Outgoing};
use swarmer_scheduler::{Capacity, Lack, Used};

use crate::{
    agent::{Failure, MAX_FAILURES, is_of_node},
    artifacts::ArtifactStore,
    codes,
    desired::{Desired, DesiredStore, FunctionEntry},
    functions::{
        pulse::Pulse,
        room::{Room, placed},
    },
    problem::{Outcome, Problem},
};

/// How long a failed version is left alone before it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How long calls of a version that is taken away may take to end.
const UNLOAD_PATIENCE: Duration = Duration::from_secs(60);
/// How long a withdrawn version of a candidate takes calls still: gossip over an ocean that loses
/// packets, several times over.
const LINGER: Duration = Duration::from_secs(2);
/// Calls that wait for each slot; as the runtime has it.
const QUEUE_PER_SLOT: u32 = swarmer_runtime::QUEUE_PER_SLOT;

/// Brings an artifact here from the nodes that have it.
#[async_trait]
pub(crate) trait FetchArtifact: Send + Sync + 'static {
    /// Returns when the artifact is in this node's store, verified and durable.
    async fn fetch(&self, digest: Digest) -> Outcome<()>;
}

/// What the manager is made from.
pub(crate) struct Deps {
    pub(crate) node: NodeId,
    pub(crate) artifacts: ArtifactStore,
    pub(crate) fetch: Arc<dyn FetchArtifact>,
    pub(crate) runtime: swarmer_runtime::Handle,
    pub(crate) desired: DesiredStore,
    pub(crate) gossip: swarmer_gossip::Handle,
    /// What this node can hold.
    pub(crate) capacity: Capacity,
}

/// Function and version.
pub(super) type Slot = (Arc<str>, u32);
type Loading<T> = Shared<BoxFuture<'static, Outcome<T>>>;

/// One version as it stands on this node.
#[derive(Debug, Clone)]
pub(crate) struct LocalStatus {
    pub(crate) function: String,
    pub(crate) version: u32,
    /// Why it is not ready; none if it is.
    pub(crate) error: Option<String>,
    pub(crate) usage: Option<swarmer_runtime::Usage>,
    /// How its calls went of late.
    pub(crate) health: EndpointHealth,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct FunctionManager {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) deps: Deps,
    ready: RwLock<HashMap<Arc<str>, BTreeMap<u32, Loaded>>>,
    loading: Mutex<HashMap<Slot, Loading<Function>>>,
    preparing: Mutex<HashMap<Digest, Loading<()>>>,
    failed: Mutex<HashMap<Slot, Failed>>,
    /// Loaded, and told of that they cannot be announced: it is tried again and again.
    unannounced: Mutex<HashSet<Slot>>,
    draining: AtomicBool,
    /// What is taken by what is placed here, and as of which revision.
    placed: Mutex<(Revision, Used)>,
}

/// What became of the last try.
struct Failed {
    problem: Problem,
    at: Instant,
    tries: u32,
}

#[derive(Clone)]
pub(super) struct Loaded {
    pub(super) function: Function,
    pub(super) since: Instant,
    /// It is withdrawn, and takes calls only of those who have not heard that yet.
    pub(super) leaving: bool,
    pulse: Arc<Mutex<Pulse>>,
}

impl FunctionManager {
    pub(crate) fn new(deps: Deps) -> Self {
        Self {
            inner: Arc::new(Inner {
                deps,
                ready: RwLock::default(),
                loading: Mutex::default(),
                preparing: Mutex::default(),
                failed: Mutex::default(),
                unannounced: Mutex::default(),
                draining: AtomicBool::new(false),
                placed: Mutex::default(),
            }),
        }
    }

    /// The version, if it is loaded here.
    pub(crate) fn ready(&self, id: &str, version: u32) -> Option<Function> {
        let ready = self.inner.ready.read();
        ready.get(id)?.get(&version).map(|loaded| loaded.function.clone())
    }

    /// Whether this node takes new work.
    pub(crate) fn accepts_work(&self) -> bool {
        !self.inner.draining.load(Ordering::Relaxed)
    }

    /// From now on nothing new is loaded here.
    pub(crate) fn drain(&self) {
        self.inner.draining.store(true, Ordering::Relaxed);
    }

    /// Loads the version if it is not loaded yet. It goes on when the caller stops waiting.
    pub(crate) async fn start(&self, id: &Arc<str>, version: u32) -> Outcome<Function> {
        if let Some(function) = self.ready(id, version) {
            return Ok(function);
        }
        if !self.accepts_work() {
            return Err(Problem::new(codes::DRAINING, "this node is being emptied"));
        }
        let slot = (Arc::clone(id), version);
        let loading = {
            let mut all = self.inner.loading.lock();
            match all.get(&slot) {
                Some(loading) => loading.clone(),
                None => {
                    self.admit(id, all.keys().map(|(id, _)| id))?;
                    let this = self.clone();
                    let own = slot.clone();
                    let task = tokio::spawn(async move {
                        let outcome = this.load(&own).await;
                        this.loaded(&own, &outcome).await;
                        outcome
                    });
                    let loading = joined(task).boxed().shared();
                    all.insert(slot, loading.clone());
                    loading
                }
            }
        };
        loading.await
    }

    /// Refuses a function that is not placed here while there is no room for it beside what is, and
    /// beside those that were started so before.
    fn admit<'a>(&self, id: &Arc<str>, loading: impl Iterator<Item = &'a Arc<str>>) -> Outcome<()> {
        let Deps { desired, node, .. } = &self.inner.deps;
        let desired = desired.current();
        // What may not start here at all is refused for that.
        let is_guest = |entry: &Arc<FunctionEntry>| {
            !entry.placement.nodes.contains(node) && entry.placement.candidates.contains(node)
        };
        if !desired.functions.get(id).is_some_and(is_guest) {
            return Ok(());
        }
        let mut others: BTreeSet<Arc<str>> = self.inner.ready.read().keys().cloned().collect();
        others.extend(loading.cloned());
        others.remove(id);
        let mut room = self.room(&desired);
        others.iter().for_each(|other| room.occupy(other));
        let lack = match room.take(id) {
            None => return Ok(()),
            Some(Lack::Functions) => "places for functions",
            Some(Lack::Memory) => "memory",
            Some(Lack::Concurrency) => "requests at once",
        };
        let detail = format!("no copy of {id} answers, and this node has too little {lack} left");
        Err(Problem::new(codes::NO_ROOM, detail).retry_after(1))
    }

    /// What is left here beside what is placed here.
    pub(super) fn room<'a>(&self, desired: &'a Desired) -> Room<'a> {
        let Deps { node, capacity, .. } = &self.inner.deps;
        let mut known = self.inner.placed.lock();
        let (revision, mut used) = *known;
        if revision != desired.revision {
            used = placed(desired, *node);
            *known = (desired.revision, used);
        }
        Room::of(desired, *node, *capacity, used)
    }

    async fn loaded(&self, slot: &Slot, outcome: &Outcome<Function>) {
        match outcome {
            Ok(function) => {
                let (function, since) = (function.clone(), Instant::now());
                let pulse = Arc::default();
                let loaded = Loaded { function, since, leaving: false, pulse };
                {
                    let mut ready = self.inner.ready.write();
                    let versions = ready.entry(Arc::clone(&slot.0)).or_default();
                    versions.insert(slot.1, loaded.clone());
                }
                self.inner.failed.lock().remove(slot);
                self.publish(slot, &loaded).await;
            }
            Err(problem) => {
                tracing::warn!(target: "swarmer::functions", function = %slot.0, version = slot.1,
                    code = problem.code.name, detail = %problem.detail, "a function does not load");
                let mut failed = self.inner.failed.lock();
                let tries = failed.get(slot).map_or(0, |before| before.tries).saturating_add(1);
                let (problem, at) = (problem.clone(), Instant::now());
                failed.insert(slot.clone(), Failed { problem, at, tries });
            }
        }
        self.inner.loading.lock().remove(slot);
    }

    async fn publish(&self, slot: &Slot, loaded: &Loaded) {
        let function = &loaded.function;
        let endpoint = Endpoint {
            function: slot.0.to_string(),
            version: slot.1,
            state: EndpointState::Ready,
            in_flight: u32::try_from(function.usage().running).unwrap_or(u32::MAX),
            concurrency: function.config().concurrency,
            health: loaded.pulse.lock().health(),
        };
        let told = self.inner.deps.gossip.publish(RecordUpdate::Endpoint(endpoint)).await;
        let mut unannounced = self.inner.unannounced.lock();
        match told {
            Ok(_) => {
                unannounced.remove(slot);
            }
            Err(error) => {
                if unannounced.insert(slot.clone()) {
                    tracing::warn!(target: "swarmer::functions", function = %slot.0,
                        version = slot.1, code = error.code().name, %error,
                        "an endpoint cannot be announced: no request is sent here for it; if the \
                         record is full, add nodes or lower --capacity-functions of this one");
                }
            }
        }
    }

    async fn load(&self, slot: &Slot) -> Outcome<Function> {
        let desired = self.inner.deps.desired.current();
        let entry = desired.functions.get(&slot.0).cloned();
        drop(desired);
        let Some(entry) = entry else {
            return Err(Problem::new(codes::NOT_FOUND, format!("there is no function {}", slot.0)));
        };
        let own = self.inner.deps.node;
        let placement = &entry.placement;
        if !placement.nodes.contains(&own) && !placement.candidates.contains(&own) {
            let detail =
                format!("{} is neither placed on this node nor a candidate for it", slot.0);
            return Err(Problem::new(codes::NO_UPSTREAM, detail));
        }
        let Some(version) = entry.function.version(slot.1) else {
            let detail = format!("{} has no version {}", slot.0, slot.1);
            return Err(Problem::new(codes::NOT_FOUND, detail));
        };
        let template = version.template.clone();
        let key = FunctionKey::new(Arc::clone(&entry.namespace), Arc::clone(&entry.name), slot.1);
        self.prepare(template.component).await?;
        let config = runtime_config(&template)?;
        let runtime = &self.inner.deps.runtime;
        let artifact = self.inner.deps.artifacts.artifact(template.component);
        match runtime.load(key.clone(), &artifact, config).await {
            Ok(function) => Ok(function),
            Err(error) => Err(Problem::of(&error, &format!("loading {key}"))),
        }
    }

    /// Brings artifact and compiled image of a component here, once.
    pub(crate) async fn prepare(&self, digest: Digest) -> Outcome<()> {
        let preparing = {
            let mut all = self.inner.preparing.lock();
            match all.get(&digest) {
                Some(preparing) => preparing.clone(),
                None => {
                    let this = self.clone();
                    let task = tokio::spawn(async move {
                        let outcome = this.fetch_and_compile(digest).await;
                        this.inner.preparing.lock().remove(&digest);
                        outcome
                    });
                    let preparing = joined(task).boxed().shared();
                    all.insert(digest, preparing.clone());
                    preparing
                }
            }
        };
        preparing.await
    }

    async fn fetch_and_compile(&self, digest: Digest) -> Outcome<()> {
        let deps = &self.inner.deps;
        if !deps.artifacts.hold(&digest).await {
            deps.fetch.fetch(digest).await?;
        }
        // Also where there is an image: whether a component can run here is told by linking it.
        let doing = format!("preparing {}", digest.short());
        let artifact = deps.artifacts.artifact(digest);
        let error = match deps.runtime.prepare(&artifact).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        // Damage on disk is found by its hash and set aside: another node's copy is whole.
        if deps.artifacts.read(&digest).await?.is_some() {
            return Err(Problem::of(&error, &doing));
        }
        deps.fetch.fetch(digest).await?;
        let again = deps.runtime.prepare(&artifact).await;
        again.map(|_| ()).map_err(|error| Problem::of(&error, &doing))
    }

    /// Everything that is loaded here.
    pub(super) fn all_ready(&self) -> Vec<(Slot, Loaded)> {
        let ready = self.inner.ready.read();
        let all = ready.iter().flat_map(|(id, versions)| {
            versions.iter().map(|(version, loaded)| ((Arc::clone(id), *version), loaded.clone()))
        });
        all.collect()
    }

    /// Whether the version failed a moment ago.
    pub(super) fn failed_lately(&self, slot: &Slot) -> bool {
        let failed = self.inner.failed.lock();
        failed.get(slot).is_some_and(|last| last.at.elapsed() < RETRY_AFTER)
    }

    /// What could not be made ready by this node's own fault.
    pub(crate) fn failures(&self) -> Vec<Failure> {
        let failed = self.inner.failed.lock();
        let own = failed.iter().filter(|(_, last)| is_of_node(last.problem.code));
        let own = own.map(|((id, _), Failed { problem, tries, .. })| Failure {
            function: id.to_string(),
            code: problem.code.name.to_owned(),
            detail: problem.detail.clone(),
            tries: *tries,
        });
        own.take(MAX_FAILURES).collect()
    }

    /// Forgets failures of versions that are wanted no more.
    pub(super) fn forget_failures(&self, keep: impl Fn(&Slot) -> bool) {
        self.inner.failed.lock().retain(|slot, _| keep(slot));
    }

    /// Takes a version away: told to the others first, then nothing new is taken, then what runs
    /// is finished. One that leaves already leaves once.
    ///
    /// A candidate that `lingers` takes calls until all others have heard of it: the first of those
    /// on their way would start it anew, and it would stay for as long again.
    pub(super) async fn unload(&self, slot: &Slot, lingers: bool) {
        {
            let mut ready = self.inner.ready.write();
            let loaded = ready.get_mut(&slot.0).and_then(|versions| versions.get_mut(&slot.1));
            let Some(loaded) = loaded.filter(|loaded| !loaded.leaving) else { return };
            loaded.leaving = true;
        }
        let update = RecordUpdate::RemoveEndpoint { function: slot.0.to_string(), version: slot.1 };
        if let Err(error) = self.inner.deps.gossip.publish(update).await {
            tracing::warn!(target: "swarmer::functions", function = %slot.0, %error,
                "an endpoint cannot be withdrawn");
        }
        self.inner.unannounced.lock().remove(slot);
        if lingers {
            tokio::time::sleep(LINGER).await;
        }
        let loaded = {
            let mut ready = self.inner.ready.write();
            let versions = ready.get_mut(&slot.0);
            let loaded = versions.and_then(|versions| versions.remove(&slot.1));
            if ready.get(&slot.0).is_some_and(BTreeMap::is_empty) {
                ready.remove(&slot.0);
            }
            loaded
        };
        if let Some(loaded) = loaded {
            self.inner.deps.runtime.unload(loaded.function.key(), UNLOAD_PATIENCE).await;
        }
    }

    /// Tells the others how busy each function is.
    pub(super) async fn publish_load(&self) {
        for (slot, loaded) in self.all_ready().into_iter().filter(|(_, loaded)| !loaded.leaving) {
            self.publish(&slot, &loaded).await;
        }
    }

    /// Looks at how the calls of each copy went, and tells the others where that changed how it
    /// stands.
    pub(super) async fn feel_pulses(&self) {
        let now = Instant::now();
        for (slot, loaded) in self.all_ready().into_iter().filter(|(_, loaded)| !loaded.leaving) {
            let usage = loaded.function.usage();
            let health = {
                let mut pulse = loaded.pulse.lock();
                pulse.look(&usage, now).then(|| pulse.health())
            };
            let Some(health) = health else { continue };
            let (function, version) = (&slot.0, slot.1);
            match health {
                EndpointHealth::Failing => {
                    tracing::warn!(target: "swarmer::functions", %function, version,
                    "a copy fails call after call: others get its calls where there are any")
                }
                EndpointHealth::Trial => {
                    tracing::info!(target: "swarmer::functions", %function, version,
                    "a copy that failed is tried again with a few calls")
                }
                EndpointHealth::Good => {
                    tracing::info!(target: "swarmer::functions", %function, version,
                    "a copy that failed does well again")
                }
            }
            self.publish(&slot, &loaded).await;
        }
    }

    /// How everything stands here, for `describe` and metrics.
    pub(crate) fn status(&self) -> Vec<LocalStatus> {
        let ready = self.all_ready().into_iter().map(|((id, version), loaded)| LocalStatus {
            function: id.to_string(),
            version,
            error: None,
            usage: Some(loaded.function.usage()),
            health: loaded.pulse.lock().health(),
        });
        let failed = self.inner.failed.lock();
        let failed = failed.iter().map(|((id, version), Failed { problem, .. })| LocalStatus {
            function: id.to_string(),
            version: *version,
            error: Some(format!("{}: {}", problem.code, problem.detail)),
            usage: None,
            health: EndpointHealth::Good,
        });
        ready.chain(failed).collect()
    }
}

async fn joined<T>(task: tokio::task::JoinHandle<Outcome<T>>) -> Outcome<T> {
    match task.await {
        Ok(outcome) => outcome,
        Err(error) => Err(Problem::new(codes::INTERNAL, format!("the work broke off: {error}"))),
    }
}

/// A version's template as the runtime takes it.
fn runtime_config(template: &Template) -> Outcome<FunctionConfig> {
    let limits = &template.limits;
    let outgoing = Outgoing::parse(&template.outgoing)
        .map_err(|error| Problem::new(codes::BAD_REQUEST, error.to_string()))?;
    Ok(FunctionConfig {
        env: template.env.clone(),
        memory_bytes: limits.memory.0,
        timeout: limits.timeout.duration(),
        cpu: limits.cpu.duration(),
        concurrency: limits.concurrency,
        queue: limits.concurrency.saturating_mul(QUEUE_PER_SLOT),
        outgoing,
        ..FunctionConfig::default()
    })
}
