//! Functions: WebAssembly components that answer HTTP requests, on wasmtime.
//!
//! [`Runtime::build`] takes the threads for guests ([`WorkThreads`]) and gives a [`Handle`]. [`Handle::load`] turns
//! the file of a component into a [`Function`]; [`Function::call`] calls it. What the room needs
//! of the others it asks for by three traits: [`Egress`] sends the requests of guests, [`LogSink`]
//! takes their log lines, [`ImageSource`] brings what another node has compiled.
//!
//! A component exports `wasi:http/incoming-handler@0.2.x` (a fresh instance for each request) or
//! `wasi:http/handler@0.3.x` (an instance serves requests one after another). All of WASI is
//! linked and nothing is granted: no directory, no socket, no variable that is not declared.
//! Memory, CPU time, wall clock, queue, log and outgoing requests of every call are bounded, and
//! an answer that could not be finished is broken off, never ended as if it were whole.

mod body;
mod call;
pub mod codes;
mod compile;
mod config;
mod egress;
mod engine;
mod error;
#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;
mod guest;
mod interface;
mod key;
mod log;
mod outgoing;
mod runtime;
mod threads;
mod usage;

pub use body::{Body, empty, from_http, full};
pub use call::{Admitted, Function, check_request};
pub use compile::{
    Artifact, ComponentInfo, ImageCounts, ImageSource, ImageSum, NewImage, NoImages, SharedImage,
    compile_child_main,
};
pub use config::{
    CompileLimits, Config, DEFAULT_COMPONENT_BYTES, DEFAULT_CONCURRENCY, DEFAULT_MEMORY_BYTES,
    DEFAULT_POOL_INSTANCES, DEFAULT_TIMEOUT, FunctionConfig, QUEUE_PER_SLOT,
};
pub use egress::{Egress, EgressContext, EgressError, EgressOptions, NoEgress};
pub use error::{BodyError, CallError, LoadError, RuntimeError};
pub use interface::{HandlerKind, check_header};
pub use key::{CallContext, FunctionKey};
pub use log::{LINE_BYTES, LogLine, LogSink, LogStream, TracingSink};
pub use outgoing::{InvalidDestination, Outgoing, is_internal};
pub use runtime::{Handle, PoolStatus, Runtime};
pub use threads::WorkThreads;
pub use usage::Usage;
