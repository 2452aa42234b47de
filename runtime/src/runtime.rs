//! The runtime of a node, and the handle by which everyone else uses it.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use parking_lot::RwLock;
use swarmer_model::Digest;
use tokio_util::sync::CancellationToken;
use wasmtime::Engine;

use crate::{
    call::{Function, Gate},
    compile::{Artifact, ComponentInfo, Components, ImageCounts, ImageSource, SharedImage},
    config::{Config, FunctionConfig},
    egress::Egress,
    engine::{self, Ticker},
    error::{LoadError, RuntimeError},
    guest,
    key::FunctionKey,
    log::LogSink,
    usage::Usage,
};

/// An instance that waited so long for a request gives its memory back.
const IDLE_AGE: Duration = Duration::from_secs(30);
/// How often that is looked at.
const IDLE_CHECK: Duration = Duration::from_secs(5);

/// What all functions of a node share.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) pool: Gate,
    pub(crate) ticker: Ticker,
    pub(crate) guests: tokio::runtime::Handle,
    pub(crate) io: tokio::runtime::Handle,
    pub(crate) egress: Arc<dyn Egress>,
    pub(crate) sink: Arc<dyn LogSink>,
    pub(crate) idle_instances: AtomicUsize,
}

struct Shared {
    node: Arc<Node>,
    components: Components,
    functions: RwLock<BTreeMap<FunctionKey, Function>>,
    stop: CancellationToken,
}

/// Owns what is loaded. When it is dropped the guests stop at their next tick.
pub struct Runtime {
    handle: Handle,
}

/// The only way to the runtime. Cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

/// How full the node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// Instances that fit.
    pub slots: usize,
    /// Instances that exist, busy or idle.
    pub taken: usize,
    /// Calls that wait for a slot of the node.
    pub waiting: usize,
    /// Functions that are loaded.
    pub functions: usize,
}

impl Runtime {
    /// Starts the engine and its pool; guests run on these threads, see [`crate::WorkThreads`].
    ///
    /// Call it inside another tokio runtime: outgoing requests run there, apart from the guests.
    pub fn build(
        config: Config,
        guests: tokio::runtime::Handle,
        egress: Arc<dyn Egress>,
        sink: Arc<dyn LogSink>,
        images: Arc<dyn ImageSource>,
    ) -> Result<Self, RuntimeError> {
        let (engine, slots) = engine::build(config.pool_instances)?;
        let linker = guest::linker(&engine)
            .map_err(|error| RuntimeError::Engine(format!("host interfaces: {error:#}")))?;
        let components = Components::open(&engine, linker, &config, images)?;
        let io = tokio::runtime::Handle::try_current().unwrap_or_else(|_| guests.clone());
        let node = Arc::new(Node {
            ticker: Ticker::start(engine.clone())?,
            engine,
            // As many may wait as fit: each one that waits holds a slot of its function's queue
            // already, so this bound is never the one that is hit in practice.
            pool: Gate::new(slots as usize, slots as usize),
            guests: guests.clone(),
            io,
            egress,
            sink,
            idle_instances: AtomicUsize::new(0),
        });
        let shared = Arc::new(Shared {
            node,
            components,
            functions: RwLock::default(),
            stop: CancellationToken::new(),
        });
        guests.spawn(expire_idle(Arc::downgrade(&shared), shared.stop.clone()));
        Ok(Self { handle: Handle(shared) })
    }

    /// A handle.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Drains every function, at most this long, and stops.
    pub async fn shutdown(self, patience: Duration) {
        let functions = std::mem::take(&mut *self.handle.0.functions.write());
        futures::future::join_all(functions.values().map(|f| f.drain(patience))).await;
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.handle.0.stop.cancel();
        for function in self.handle.0.functions.read().values() {
            function.retire();
            function.stop();
        }
    }
}

async fn expire_idle(shared: std::sync::Weak<Shared>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(IDLE_CHECK) => {}
        }
        let Some(shared) = shared.upgrade() else { return };
        let functions: Vec<Function> = shared.functions.read().values().cloned().collect();
        for function in functions {
            function.expire_idle(IDLE_AGE);
        }
    }
}

impl Handle {
    /// Takes the image of the component from another node, or compiles it, if none is here; links
    /// it, and says what it is. This is
    /// what a candidate does at deploy, and what refuses a component that cannot run.
    pub async fn prepare(&self, artifact: &Artifact) -> Result<ComponentInfo, LoadError> {
        self.0.components.prepare(artifact).await.map(|(_, info)| info)
    }

    /// Whether a compiled image is here, so that a start takes milliseconds.
    pub fn is_cached(&self, digest: &Digest) -> bool {
        self.0.components.is_cached(digest)
    }

    /// What the images of this node run on: one of another is of no use here.
    pub fn image_compatibility(&self) -> &str {
        self.0.components.compatibility()
    }

    /// The compiled image of a component for another node, which runs images of this
    /// `compatibility`; none if it is not here, or not sound.
    pub async fn share_image(&self, digest: Digest, compatibility: &str) -> Option<SharedImage> {
        self.0.components.share(digest, compatibility).await
    }

    /// How the images of this node came to be, since its start.
    pub fn image_counts(&self) -> ImageCounts {
        self.0.components.counts()
    }

    /// Makes a function ready to be called. One of the same key is replaced: its calls end as
    /// they would, new ones go to the new one.
    pub async fn load(
        &self,
        key: FunctionKey,
        artifact: &Artifact,
        config: FunctionConfig,
    ) -> Result<Function, LoadError> {
        if self.0.stop.is_cancelled() {
            return Err(LoadError::Stopping);
        }
        let (prepared, _) = self.0.components.prepare(artifact).await?;
        let node = self.0.node.clone();
        let function = Function::new(node, key.clone(), artifact.digest, prepared, config);
        let old = self.0.functions.write().insert(key, function.clone());
        if let Some(old) = old {
            old.retire();
        }
        Ok(function)
    }

    /// The function, if it is loaded.
    pub fn get(&self, key: &FunctionKey) -> Option<Function> {
        self.0.functions.read().get(key).cloned()
    }

    /// Takes a function away: new calls are refused (not started), those that run have this long
    /// to end. False if it was not loaded.
    pub async fn unload(&self, key: &FunctionKey, patience: Duration) -> bool {
        let function = self.0.functions.write().remove(key);
        match function {
            Some(function) => {
                function.drain(patience).await;
                true
            }
            None => false,
        }
    }

    /// What every loaded function used.
    pub fn usage(&self) -> Vec<(FunctionKey, Digest, Usage)> {
        let functions = self.0.functions.read();
        functions.iter().map(|(key, f)| (key.clone(), f.digest(), f.usage())).collect()
    }

    /// How full the node is.
    pub fn pool(&self) -> PoolStatus {
        let pool = &self.0.node.pool;
        PoolStatus {
            slots: pool.limit(),
            taken: pool.taken(),
            waiting: pool.waiting(),
            functions: self.0.functions.read().len(),
        }
    }

    /// Deletes the compiled images of all components but these; gives their number. To be called
    /// when versions are gone for good: nothing else bounds the cache.
    pub fn prune_images(&self, wanted: impl Fn(&Digest) -> bool) -> usize {
        self.0.components.prune(&wanted)
    }
}
