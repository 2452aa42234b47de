//! What can go wrong, each with its stable code.

use std::{path::PathBuf, sync::Arc, time::Duration};

use swarmer_model::{Code, Coded, Digest};

use crate::codes;

/// The runtime could not be built.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// The engine refused its configuration, even without a pool.
    #[error("the WebAssembly engine cannot start: {0}")]
    Engine(String),
    /// The cache of compiled images cannot be used.
    #[error("the image cache {path:?} cannot be used: {reason}")]
    Cache {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Threads for the guests could not be started.
    #[error("the guests' threads cannot be started: {0}")]
    Threads(String),
}

impl Coded for RuntimeError {
    fn code(&self) -> Code {
        codes::START
    }
}

/// A component could not be made ready to run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// Not WebAssembly.
    #[error("this is not WebAssembly: it starts with {start}")]
    NotWasm {
        /// The first bytes, as text where they are text.
        start: String,
    },
    /// A core module.
    #[error(
        "this is a core WebAssembly module, not a component: make one with `wasm-tools component new`, or build for wasm32-wasip2"
    )]
    CoreModule,
    /// Damaged, or of features that the engine lacks.
    #[error("the component is not valid: {0}")]
    Invalid(String),
    /// No handler.
    #[error(
        "the component exports no HTTP handler (wasi:http/incoming-handler@0.2 or wasi:http/handler@0.3); it exports {}",
        list(.exports)
    )]
    NoHandler {
        /// What it exports instead.
        exports: Vec<String>,
    },
    /// Imports that we lack, all of them.
    #[error("this node does not offer what the component imports: {}", list(.imports))]
    MissingImports {
        /// Their full names, with a note where only the shape differs.
        imports: Vec<String>,
    },
    /// Too large.
    #[error("the component has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The largest size accepted.
        limit: u64,
    },
    /// Other bytes than announced.
    #[error("the component's digest is {found}, not {wanted}: it was cut short or damaged")]
    WrongDigest {
        /// What was announced.
        wanted: Digest,
        /// What the bytes have.
        found: Digest,
    },
    /// The compiler was stopped.
    #[error("compiling was stopped: {0}")]
    CompileLimit(String),
    /// The compiler or the cache failed.
    #[error("the component could not be compiled: {0}")]
    Compile(String),
    /// The runtime is being shut down.
    #[error("the runtime of this node is stopping")]
    Stopping,
}

impl Coded for LoadError {
    fn code(&self) -> Code {
        match self {
            Self::NotWasm { .. } => codes::NOT_WASM,
            Self::CoreModule => codes::CORE_MODULE,
            Self::Invalid(_) => codes::INVALID_COMPONENT,
            Self::NoHandler { .. } => codes::NO_HANDLER,
            Self::MissingImports { .. } => codes::MISSING_IMPORTS,
            Self::TooLarge { .. } => codes::TOO_LARGE,
            Self::WrongDigest { .. } => codes::WRONG_DIGEST,
            Self::CompileLimit(_) => codes::COMPILE_LIMIT,
            Self::Compile(_) => codes::COMPILE,
            Self::Stopping => codes::DRAINING,
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// A call was refused, or it ended without a whole answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The function's own limit: as many calls as `concurrency` run, and as many as `queue` wait.
    #[error("the function is busy: {running} calls run and {waiting} wait")]
    Busy {
        /// Calls that run.
        running: usize,
        /// Calls that wait.
        waiting: usize,
        /// When to try again.
        retry_after: Duration,
    },
    /// The node's limit: no instance slot became free in time.
    #[error("the node is busy: all its instance slots are taken")]
    NodeBusy {
        /// When to try again.
        retry_after: Duration,
    },
    /// `concurrency` is 0.
    #[error("the function is switched off")]
    SwitchedOff,
    /// Being unloaded.
    #[error("this version of the function is being unloaded")]
    Draining,
    /// Not done before its deadline.
    #[error("no whole answer after {after:?}")]
    Timeout {
        /// How long the caller waited.
        after: Duration,
    },
    /// All CPU time used.
    #[error("the function used more than {limit:?} of CPU time")]
    CpuLimit {
        /// The limit.
        limit: Duration,
    },
    /// Died after memory was refused.
    #[error("the function died after it asked for more than {limit} bytes of memory")]
    MemoryLimit {
        /// The limit.
        limit: u64,
    },
    /// A trap; the first line of it.
    #[error("instance died before answering: {0}")]
    Trap(String),
    /// Returned without an answer.
    #[error("the function returned without an answer")]
    NoAnswer,
    /// The guest's own error.
    #[error("the function answered with an error: {0}")]
    Guest(String),
    /// The caller went away, or dropped the answer's body.
    #[error("the caller went away")]
    Cancelled,
    /// No instance.
    #[error("no instance could be made: {0}")]
    Instantiate(String),
    /// The request is not one that can be handed to a guest.
    #[error("the request cannot be handed to a function: {0}")]
    BadRequest(String),
}

impl CallError {
    /// Whether no guest code ran for this call, so that it may be sent elsewhere without harm.
    pub fn not_started(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::NodeBusy { .. }
                | Self::SwitchedOff
                | Self::Draining
                | Self::Instantiate(_)
                | Self::BadRequest(_)
        )
    }

    /// When the caller may try again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } | Self::NodeBusy { retry_after } => Some(*retry_after),
            _ => None,
        }
    }
}

impl Coded for CallError {
    fn code(&self) -> Code {
        match self {
            Self::Busy { .. } => codes::BUSY,
            Self::NodeBusy { .. } => codes::NODE_BUSY,
            Self::SwitchedOff => codes::SWITCHED_OFF,
            Self::Draining => codes::DRAINING,
            Self::Timeout { .. } => codes::TIMEOUT,
            Self::CpuLimit { .. } => codes::CPU_LIMIT,
            Self::MemoryLimit { .. } => codes::MEMORY_LIMIT,
            Self::Trap(_) => codes::TRAP,
            Self::NoAnswer => codes::NO_ANSWER,
            Self::Guest(_) => codes::GUEST_ERROR,
            Self::Cancelled => codes::CANCELLED,
            Self::Instantiate(_) => codes::INSTANTIATE,
            Self::BadRequest(_) => codes::BAD_REQUEST,
        }
    }
}

/// A body ended before it was whole.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BodyError {
    /// The guest that wrote it died, timed out or was stopped.
    #[error("the answer was broken off: {0}")]
    Broken(#[from] CallError),
    /// Whoever sends it failed: the client's connection, a peer, an upstream.
    #[error("the sender broke the body off: {0}")]
    Source(Arc<dyn std::error::Error + Send + Sync>),
}

impl BodyError {
    /// Wraps the error of the connection that a body comes from.
    pub fn source_error(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Source(Arc::from(error.into()))
    }
}

impl Coded for BodyError {
    fn code(&self) -> Code {
        match self {
            Self::Broken(error) => error.code(),
            Self::Source(_) => codes::BODY_SOURCE,
        }
    }
}
