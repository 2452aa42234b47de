//! A runtime in a temporary directory, its log kept, its way out scripted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use parking_lot::Mutex;
use swarmer_model::Digest;
use swarmer_runtime::{
    Artifact, Body, BodyError, CallContext, Config, Egress, Function, FunctionConfig, FunctionKey,
    Handle, ImageSource, LogLine, LogSink, NoEgress, NoImages, Runtime, WorkThreads, empty,
};

#[derive(Default)]
pub(crate) struct Lines(pub(crate) Mutex<Vec<LogLine>>);

impl LogSink for Lines {
    fn line(&self, line: LogLine) {
        self.0.lock().push(line);
    }
}

impl Lines {
    pub(crate) fn text(&self) -> String {
        self.0.lock().iter().map(|l| format!("{}: {}\n", l.stream.as_str(), l.text)).collect()
    }
}

pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) handle: Handle,
    pub(crate) lines: Arc<Lines>,
    _runtime: Runtime,
    _threads: WorkThreads,
    next: AtomicU32,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(Arc::new(NoEgress), |_| {})
    }

    pub(crate) fn with(egress: Arc<dyn Egress>, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().join("images"));
        config.pool_instances = 64;
        change(&mut config);
        Self::build(dir, config, egress, Arc::new(NoImages))
    }

    /// One that asks others for images before it compiles.
    pub(crate) fn beside(images: Arc<dyn ImageSource>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().join("images"));
        config.pool_instances = 64;
        Self::build(dir, config, Arc::new(NoEgress), images)
    }

    fn build(
        dir: tempfile::TempDir,
        config: Config,
        egress: Arc<dyn Egress>,
        images: Arc<dyn ImageSource>,
    ) -> Self {
        let lines = Arc::new(Lines::default());
        let threads = WorkThreads::with(2).unwrap();
        let guests = threads.handle().clone();
        let runtime = Runtime::build(config, guests, egress, lines.clone(), images).unwrap();
        let handle = runtime.handle();
        Self { dir, handle, lines, _runtime: runtime, _threads: threads, next: AtomicU32::new(1) }
    }

    pub(crate) fn artifact(&self, component: &[u8]) -> Artifact {
        let digest = Digest::of(component);
        let path = self.dir.path().join(digest.hex());
        std::fs::write(&path, component).unwrap();
        Artifact { digest, path }
    }

    pub(crate) async fn load(&self, component: &[u8], config: FunctionConfig) -> Function {
        let key = FunctionKey::new("default", "test", self.next.fetch_add(1, Ordering::Relaxed));
        self.handle.load(key, &self.artifact(component), config).await.unwrap()
    }

    pub(crate) fn context(&self, time: Duration) -> CallContext {
        CallContext::until(Instant::now() + time)
    }
}

pub(crate) fn get(path: &str) -> http::Request<Body> {
    http::Request::get(format!("http://test.example{path}")).body(empty()).unwrap()
}

pub(crate) async fn text(answer: http::Response<Body>) -> Result<String, BodyError> {
    let bytes = answer.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

/// Waits for something that happens on another thread, without a fixed sleep as the test's pace.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
