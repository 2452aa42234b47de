//! From a component's bytes to machine code: compiled once, kept on disk, checked before use.

mod cache;
mod child;
mod source;

use std::{
    collections::HashMap,
    ffi::OsString,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use swarmer_model::Digest;
use tokio::sync::Semaphore;
use wasmtime::{
    Engine,
    component::{Component, Linker},
};

pub use child::compile_child_main;
pub use source::{ImageSource, ImageSum, NewImage, NoImages, SharedImage};

pub(crate) use self::cache::ImageDir;
use self::child::Job;
use crate::{
    config::{CompileLimits, Config},
    error::{LoadError, RuntimeError},
    guest::Guest,
    interface::{self, HandlerKind, Prepared, check_header},
};

/// Compilers that run at a time: one uses several threads, and the node has other work.
const COMPILERS: usize = 1;

/// Where a component's bytes are: a file that holds exactly the bytes of its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// The component's digest.
    pub digest: Digest,
    /// The file.
    pub path: PathBuf,
}

/// What is known of a component once it is compiled and linked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its handler.
    pub kind: HandlerKind,
    /// How long it took to have it ready.
    pub took: Duration,
    /// Whether it had to be compiled.
    pub compiled: bool,
}

/// How the images of this node came to be, since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImageCounts {
    /// Compiled here.
    pub compiled: u64,
    /// Taken from other nodes.
    pub fetched: u64,
}

/// All components of the node, in memory and on disk.
pub(crate) struct Components {
    engine: Engine,
    linker: Linker<Guest>,
    images: Arc<ImageDir>,
    limits: CompileLimits,
    command: Option<Vec<OsString>>,
    compilers: Semaphore,
    others: Arc<dyn ImageSource>,
    compiled: AtomicU64,
    fetched: AtomicU64,
    /// One flight for each digest; what is loaded already is found without one.
    flights: Mutex<HashMap<Digest, Flight>>,
}

#[derive(Default)]
struct Flight {
    turn: Arc<tokio::sync::Mutex<()>>,
    loaded: Weak<Prepared>,
}

impl Components {
    pub(crate) fn open(
        engine: &Engine,
        linker: Linker<Guest>,
        config: &Config,
        others: Arc<dyn ImageSource>,
    ) -> Result<Self, RuntimeError> {
        let images = ImageDir::open(&config.cache_dir, &child::compatibility(engine))?;
        Ok(Self {
            engine: engine.clone(),
            linker,
            images: Arc::new(images),
            limits: config.compile,
            command: config.compile_command.clone(),
            compilers: Semaphore::new(COMPILERS),
            others,
            compiled: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            flights: Mutex::default(),
        })
    }

    /// Whether an image of it lies on disk.
    pub(crate) fn is_cached(&self, digest: &Digest) -> bool {
        self.images.has(digest)
    }

    /// The image of a component for another node of the same engine, if it is here.
    pub(crate) async fn share(&self, digest: Digest, compatibility: &str) -> Option<SharedImage> {
        if compatibility != self.images.compatibility() || !self.images.has(&digest) {
            return None;
        }
        let images = Arc::clone(&self.images);
        blocking(move || images.share(&digest)).await.ok().flatten()
    }

    /// What images of this node run on.
    pub(crate) fn compatibility(&self) -> &str {
        self.images.compatibility()
    }

    /// How the images came to be.
    pub(crate) fn counts(&self) -> ImageCounts {
        ImageCounts {
            compiled: self.compiled.load(Ordering::Relaxed),
            fetched: self.fetched.load(Ordering::Relaxed),
        }
    }

    /// Deletes images of components that are not wanted any more; gives their number.
    pub(crate) fn prune(&self, wanted: &dyn Fn(&Digest) -> bool) -> usize {
        self.flights.lock().retain(|digest, flight| {
            flight.loaded.strong_count() > 0
                || Arc::strong_count(&flight.turn) > 1
                || wanted(digest)
        });
        self.images.prune(wanted)
    }

    /// The component, linked: from memory, from its image, from another node's, or compiled. Many
    /// callers at once cause one compilation.
    pub(crate) async fn prepare(
        &self,
        artifact: &Artifact,
    ) -> Result<(Arc<Prepared>, ComponentInfo), LoadError> {
        let start = Instant::now();
        let turn = {
            let mut flights = self.flights.lock();
            let flight = flights.entry(artifact.digest).or_default();
            if let Some(prepared) = flight.loaded.upgrade() {
                return Ok(info(artifact, prepared, start, false));
            }
            flight.turn.clone()
        };
        let _turn = turn.lock().await;
        let loaded = self.flights.lock().get(&artifact.digest).and_then(|f| f.loaded.upgrade());
        if let Some(prepared) = loaded {
            return Ok(info(artifact, prepared, start, false));
        }
        let mut prepared = self.load(artifact.digest).await?;
        if prepared.is_none() {
            prepared = self.fetch(artifact.digest).await?;
        }
        let (prepared, compiled) = match prepared {
            Some(prepared) => (prepared, false),
            None => {
                self.compile(artifact).await?;
                let prepared = self.load(artifact.digest).await?;
                let lost = || LoadError::Compile("the image vanished after it was written".into());
                (prepared.ok_or_else(lost)?, true)
            }
        };
        self.flights.lock().entry(artifact.digest).or_default().loaded = Arc::downgrade(&prepared);
        Ok(info(artifact, prepared, start, compiled))
    }

    /// Loads and links the image, if there is a sound one.
    async fn load(&self, digest: Digest) -> Result<Option<Arc<Prepared>>, LoadError> {
        let (images, engine) = (self.images.clone(), self.engine.clone());
        let linker = self.linker.clone();
        let work = move || {
            let Some(path) = images.checked(&digest) else { return Ok(None) };
            // SAFETY: the image was written by a compiler that this node, or a member that it
            // trusts with code, started; into a directory that only this user may write to; and
            // its checksum still matches.
            let component = match unsafe { Component::deserialize_file(&engine, &path) } {
                Ok(component) => component,
                Err(error) => {
                    tracing::warn!(%digest, %error, "an image cannot be loaded; compiling again");
                    images.remove(&digest);
                    return Ok(None);
                }
            };
            interface::prepare(&linker, &component).map(|prepared| Some(Arc::new(prepared)))
        };
        blocking(work).await?
    }

    /// Takes the image from another node and loads it, if one gives it.
    async fn fetch(&self, digest: Digest) -> Result<Option<Arc<Prepared>>, LoadError> {
        let start = Instant::now();
        let max_bytes = self.limits.component_bytes.saturating_mul(source::IMAGE_FACTOR);
        let mut image = NewImage::new(self.images.temporary(), max_bytes);
        self.others.bring(digest, self.images.compatibility(), &mut image).await;
        let Some(announced) = image.whole() else { return Ok(None) };
        let images = Arc::clone(&self.images);
        let adopted =
            blocking(move || images.adopt(&digest, &image.temporary, Some(announced))).await?;
        if let Err(error) = adopted {
            tracing::warn!(%digest, %error, "another node's image is not taken");
            return Ok(None);
        }
        let prepared = self.load(digest).await?;
        if prepared.is_some() {
            self.fetched.fetch_add(1, Ordering::Relaxed);
            tracing::info!(%digest, bytes = announced.bytes, took = ?start.elapsed(),
                "image taken from another node");
        }
        Ok(prepared)
    }

    async fn compile(&self, artifact: &Artifact) -> Result<(), LoadError> {
        let permit = self.compilers.acquire().await;
        let _permit = permit.map_err(|_| LoadError::Stopping)?;
        let (limit, path, digest) =
            (self.limits.component_bytes, artifact.path.clone(), artifact.digest);
        let bytes = blocking(move || read_component(&path, digest, limit)).await??;
        let temporary = self.images.temporary();
        let job = Job {
            component: artifact.path.clone(),
            digest: artifact.digest,
            image: temporary.path().to_owned(),
            compatibility: self.images.compatibility().to_owned(),
            memory_bytes: self.limits.memory_bytes,
            cpu_s: self.limits.cpu.as_secs().max(1),
        };
        let start = Instant::now();
        match &self.command {
            Some(command) => {
                drop(bytes);
                child::run(command, &job, self.limits.wall).await?;
            }
            None => {
                let engine = self.engine.clone();
                blocking(move || child::compile(&engine, &bytes, &job.image)).await??;
            }
        }
        let images = self.images.clone();
        blocking(move || images.adopt(&digest, &temporary, None)).await??;
        self.compiled.fetch_add(1, Ordering::Relaxed);
        tracing::info!(%digest, took = ?start.elapsed(), "compiled");
        Ok(())
    }
}

fn info(
    artifact: &Artifact,
    prepared: Arc<Prepared>,
    start: Instant,
    compiled: bool,
) -> (Arc<Prepared>, ComponentInfo) {
    let info = ComponentInfo {
        digest: artifact.digest,
        kind: prepared.kind(),
        took: start.elapsed(),
        compiled,
    };
    (prepared, info)
}

/// Reads a component and checks all that can be checked without compiling it.
fn read_component(path: &PathBuf, digest: Digest, limit: u64) -> Result<Vec<u8>, LoadError> {
    let fail = |error: std::io::Error| {
        LoadError::Compile(format!("the component file {path:?} cannot be read: {error}"))
    };
    let bytes = std::fs::metadata(path).map_err(fail)?.len();
    if bytes > limit {
        return Err(LoadError::TooLarge { bytes, limit });
    }
    let bytes = std::fs::read(path).map_err(fail)?;
    let found = Digest::of(&bytes);
    if found != digest {
        return Err(LoadError::WrongDigest { wanted: digest, found });
    }
    check_header(&bytes)?;
    Ok(bytes)
}

/// Runs work that blocks on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LoadError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| LoadError::Compile(format!("a worker thread died: {error}")))
}
