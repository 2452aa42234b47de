//! What the node and each function may use.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, time::Duration};

use crate::outgoing::Outgoing;

/// Instances that one node holds at a time, unless configured.
pub const DEFAULT_POOL_INSTANCES: u32 = 1000;
/// Largest component that is compiled, unless configured.
pub const DEFAULT_COMPONENT_BYTES: u64 = 64 << 20;
/// Memory of one instance, unless the function says otherwise.
pub const DEFAULT_MEMORY_BYTES: u64 = 64 << 20;
/// Wall clock of one call, unless the function says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Calls of one function that run at a time on a node, unless the function says otherwise.
pub const DEFAULT_CONCURRENCY: u32 = 100;
/// Calls that wait for each one that may run: beyond two turns of work waiting is hopeless.
pub const QUEUE_PER_SLOT: u32 = 2;

/// How a node runs functions.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where compiled images are kept. Made with mode 0700; nobody else may write there, since
    /// an image is machine code that we trust.
    pub cache_dir: PathBuf,
    /// Most instances at a time. Halved until it fits into the address space of the process.
    pub pool_instances: u32,
    /// The command that compiles a component in a process of its own: usually this binary and a
    /// hidden sub-command that calls [`crate::compile_child_main`]. `None` compiles in this
    /// process, without limits: for tests.
    pub compile_command: Option<Vec<OsString>>,
    /// What compiling may use.
    pub compile: CompileLimits,
}

impl Config {
    /// The defaults, with images in this directory and compilation in this process.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            pool_instances: DEFAULT_POOL_INSTANCES,
            compile_command: None,
            compile: CompileLimits::default(),
        }
    }
}

/// What compiling one component may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// Largest component in bytes.
    pub component_bytes: u64,
    /// Address space of the compiling process in bytes.
    pub memory_bytes: u64,
    /// CPU time of the compiling process.
    pub cpu: Duration,
    /// Wall clock.
    pub wall: Duration,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            component_bytes: DEFAULT_COMPONENT_BYTES,
            // A JavaScript engine of 13 MB needs under 2 GiB; twice that is still no danger.
            memory_bytes: 4 << 30,
            cpu: Duration::from_secs(120),
            wall: Duration::from_secs(180),
        }
    }
}

/// How one version of a function runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionConfig {
    /// Environment variables, also readable as `wasi:config`. The guest sees no others.
    pub env: BTreeMap<String, String>,
    /// Bytes of all memories and tables of one instance together.
    pub memory_bytes: u64,
    /// Wall clock of a whole call: waiting, running, and the answer's last byte.
    pub timeout: Duration,
    /// CPU time of one call.
    pub cpu: Duration,
    /// Calls that run at a time on this node; 0 switches the function off.
    pub concurrency: u32,
    /// Calls that may wait for a slot.
    pub queue: u32,
    /// Where it may send requests to.
    pub outgoing: Outgoing,
    /// Requests that one 0.3 instance serves one after another before it is replaced; 1 gives
    /// each request an instance of its own. 0.2 instances always serve one.
    pub reuse: u32,
}

impl Default for FunctionConfig {
    fn default() -> Self {
        Self {
            env: BTreeMap::new(),
            memory_bytes: DEFAULT_MEMORY_BYTES,
            timeout: DEFAULT_TIMEOUT,
            cpu: DEFAULT_TIMEOUT,
            concurrency: DEFAULT_CONCURRENCY,
            queue: DEFAULT_CONCURRENCY * QUEUE_PER_SLOT,
            outgoing: Outgoing::none(),
            reuse: 128,
        }
    }
}
