//! The codes of this room.

use swarmer_model::Code;

/// The node cannot run functions at all.
pub const START: Code = Code::new(
    "SW-RUNTIME-START",
    500,
    "The function runtime could not start on this node.",
    "Read the reason in the message: most often the cache directory cannot be written, or the address space of the process is limited (ulimit -v).",
);
/// The bytes are no WebAssembly at all.
pub const NOT_WASM: Code = Code::new(
    "SW-RUNTIME-NOT-WASM",
    422,
    "The file is not WebAssembly.",
    "Deploy a WebAssembly component, for example the output of `cargo build --target wasm32-wasip2`.",
);
/// A core module where a component is needed.
pub const CORE_MODULE: Code = Code::new(
    "SW-RUNTIME-CORE-MODULE",
    422,
    "The file is a core WebAssembly module, not a component.",
    "Build for wasm32-wasip2, or turn the module into a component with `wasm-tools component new`.",
);
/// The component is damaged or uses what this engine does not know.
pub const INVALID_COMPONENT: Code = Code::new(
    "SW-RUNTIME-INVALID-COMPONENT",
    422,
    "The component is damaged or uses a WebAssembly feature that this node does not run.",
    "Check it with `wasm-tools validate`; the message names the place.",
);
/// No HTTP handler is exported.
pub const NO_HANDLER: Code = Code::new(
    "SW-RUNTIME-NO-HANDLER",
    422,
    "The component exports neither wasi:http/incoming-handler@0.2 nor wasi:http/handler@0.3.",
    "Build it for the world wasi:http/proxy (0.2) or wasi:http/service (0.3).",
);
/// An import that no interface of ours gives.
pub const MISSING_IMPORTS: Code = Code::new(
    "SW-RUNTIME-MISSING-IMPORTS",
    422,
    "The component imports interfaces that this node does not offer.",
    "Remove the imports that the message names, or compose the component with one that exports them.",
);
/// The component is larger than allowed.
pub const TOO_LARGE: Code = Code::new(
    "SW-RUNTIME-TOO-LARGE",
    413,
    "The component is larger than this cluster accepts.",
    "Strip debug information (`wasm-tools strip`), or raise the limit in the configuration.",
);
/// The bytes are not those that the digest promises.
pub const WRONG_DIGEST: Code = Code::new(
    "SW-RUNTIME-WRONG-DIGEST",
    422,
    "The bytes of the component do not have the digest they were announced with.",
    "The upload or the copy was cut short or damaged: send it again.",
);
/// Compiling took too much.
pub const COMPILE_LIMIT: Code = Code::new(
    "SW-RUNTIME-COMPILE-LIMIT",
    422,
    "Compiling the component needed more memory or time than is allowed.",
    "Make the component smaller, or raise the limits of compilation in the node's configuration.",
);
/// Compiling failed for a reason of the node.
pub const COMPILE: Code = Code::new(
    "SW-RUNTIME-COMPILE",
    500,
    "The component could not be compiled on this node.",
    "Read the reason in the node's log; a full disk or a cache directory that cannot be written are the usual ones.",
);
/// The function has its limit of calls, and the queue before it is full.
pub const BUSY: Code = Code::new(
    "SW-RUNTIME-BUSY",
    429,
    "The function already runs as many calls as it may on this node, and its queue is full.",
    "Try again after the time in retry-after; raise the function's concurrency if this lasts.",
);
/// The whole node is busy.
pub const NODE_BUSY: Code = Code::new(
    "SW-RUNTIME-NODE-BUSY",
    503,
    "Every instance slot of this node is taken.",
    "Try again after the time in retry-after; add nodes if this lasts.",
);
/// Concurrency zero.
pub const SWITCHED_OFF: Code = Code::new(
    "SW-RUNTIME-SWITCHED-OFF",
    503,
    "The function is switched off: its concurrency is 0.",
    "Set the function's concurrency above 0 to serve it again.",
);
/// The function is being taken away.
pub const DRAINING: Code = Code::new(
    "SW-RUNTIME-DRAINING",
    503,
    "This version of the function is being unloaded from the node.",
    "Try again: another version or another node serves it.",
);
/// The wall clock limit.
pub const TIMEOUT: Code = Code::new(
    "SW-RUNTIME-TIMEOUT",
    504,
    "The function did not finish its answer in time.",
    "Look in its log for what it waited for; raise its timeout if it truly needs longer.",
);
/// The CPU limit.
pub const CPU_LIMIT: Code = Code::new(
    "SW-RUNTIME-CPU-LIMIT",
    500,
    "The function used all the CPU time that one call may use.",
    "Look for an endless loop; raise the function's CPU limit if it truly needs more.",
);
/// The memory limit.
pub const MEMORY_LIMIT: Code = Code::new(
    "SW-RUNTIME-MEMORY-LIMIT",
    500,
    "The function died after it was refused memory beyond its limit.",
    "Look for what it keeps in memory; raise the function's memory if it truly needs more.",
);
/// The guest trapped.
pub const TRAP: Code = Code::new(
    "SW-RUNTIME-TRAP",
    500,
    "The instance died before it finished its answer.",
    "The function's log has the whole trap with its backtrace.",
);
/// The guest returned without an answer.
pub const NO_ANSWER: Code = Code::new(
    "SW-RUNTIME-NO-ANSWER",
    502,
    "The function returned without an answer.",
    "Every way through the handler must set the response.",
);
/// The guest answered with an error code instead of a response.
pub const GUEST_ERROR: Code = Code::new(
    "SW-RUNTIME-GUEST-ERROR",
    502,
    "The function answered with a wasi:http error instead of a response.",
    "The message has the function's own error.",
);
/// The caller went away.
pub const CANCELLED: Code = Code::new(
    "SW-RUNTIME-CANCELLED",
    499,
    "The caller went away before the answer was complete.",
    "Nothing: the instance was stopped.",
);
/// The instance could not be made.
pub const INSTANTIATE: Code = Code::new(
    "SW-RUNTIME-INSTANTIATE",
    500,
    "An instance of the function could not be made.",
    "The message has the reason; a component that needs more instances, tables or memory than the pool allows is the usual one.",
);
/// The request cannot be handed to a guest.
pub const BAD_REQUEST: Code = Code::new(
    "SW-RUNTIME-BAD-REQUEST",
    400,
    "The request cannot be handed to a function.",
    "Send a valid host header, or an absolute URI.",
);
/// The other side of a body failed.
pub const BODY_SOURCE: Code = Code::new(
    "SW-RUNTIME-BODY-SOURCE",
    502,
    "The sender of a body broke it off.",
    "Look at the side that sent it.",
);
/// A destination that the function did not declare.
pub const EGRESS_DENIED: Code = Code::new(
    "SW-RUNTIME-EGRESS-DENIED",
    403,
    "The function called a destination that it does not declare.",
    "Add the host that the log line names to the function's `outgoing` list.",
);
/// A destination that could not be reached.
pub const EGRESS_FAILED: Code = Code::new(
    "SW-RUNTIME-EGRESS-FAILED",
    502,
    "An outgoing request of the function failed.",
    "The message says at which step; check the destination.",
);

/// All of them, for the docs.
pub const ALL: &[Code] = &[
    START,
    NOT_WASM,
    CORE_MODULE,
    INVALID_COMPONENT,
    NO_HANDLER,
    MISSING_IMPORTS,
    TOO_LARGE,
    WRONG_DIGEST,
    COMPILE_LIMIT,
    COMPILE,
    BUSY,
    NODE_BUSY,
    SWITCHED_OFF,
    DRAINING,
    TIMEOUT,
    CPU_LIMIT,
    MEMORY_LIMIT,
    TRAP,
    NO_ANSWER,
    GUEST_ERROR,
    CANCELLED,
    INSTANTIATE,
    BAD_REQUEST,
    BODY_SOURCE,
    EGRESS_DENIED,
    EGRESS_FAILED,
];
