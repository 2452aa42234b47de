//! The wasmtime engine: code generation, the pool of instances, the clock that interrupts guests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::error::RuntimeError;

/// How often a running guest is interrupted to let others run and to check its CPU time.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// Memory of a slot that stays mapped between instances: a small guest starts without a page
/// fault. Measured: twice the requests a second of a pool that keeps nothing.
const KEEP_RESIDENT_BYTES: usize = 64 << 10;
/// A component is made of several core modules (adapter, shims, the engine of a language):
/// so many fit into the pool for each component instance on average.
const CORE_INSTANCES_PER_COMPONENT: u32 = 4;
/// Most core modules, memories and tables of one component.
const MAX_CORE_INSTANCES: u32 = 100;
const MAX_MEMORIES: u32 = 8;
const MAX_TABLES: u32 = 32;
/// Elements of a table; language engines have tables of some ten thousand.
pub(crate) const TABLE_ELEMENTS: usize = 100_000;
/// The smallest pool worth having; below it instances are allocated one by one.
const SMALLEST_POOL: u32 = 8;

/// What decides over the machine code. Compiling processes and the node must agree on it.
pub(crate) fn code_config() -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true).wasm_component_model_async(true);
    config
}

fn pool_config(instances: u32) -> PoolingAllocationConfig {
    let core = instances.saturating_mul(CORE_INSTANCES_PER_COMPONENT).max(MAX_CORE_INSTANCES);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(core)
        .total_memories(instances.saturating_add(instances / 2).max(MAX_MEMORIES))
        .total_tables(instances.saturating_mul(2).max(MAX_TABLES))
        .total_stacks(instances.saturating_mul(2))
        .total_gc_heaps(instances)
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_component(MAX_MEMORIES)
        .max_tables_per_component(MAX_TABLES)
        .max_tables_per_module(MAX_TABLES)
        .table_elements(TABLE_ELEMENTS)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        // What a guest wrote goes with it: cleaning several slots at once is no faster (measured),
        // and each of them would hold up to its function's memory limit until then.
        .decommit_batch_size(1);
    pool
}

/// The engine, and how many instances it holds at a time.
///
/// The pool reserves address space for all its slots at once (about 4 GiB each); where a limit
/// of the process does not allow that, half as many are tried, and so on.
pub(crate) fn build(instances: u32) -> Result<(Engine, u32), RuntimeError> {
    let mut size = instances.max(1);
    while size >= SMALLEST_POOL {
        let mut config = code_config();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool_config(size)));
        match Engine::new(&config) {
            Ok(engine) => {
                if size < instances {
                    tracing::warn!(wanted = instances, size, "the instance pool had to be smaller");
                }
                return Ok((engine, size));
            }
            Err(error) => tracing::debug!(size, %error, "the instance pool does not fit"),
        }
        size /= 2;
    }
    let engine =
        Engine::new(&code_config()).map_err(|error| RuntimeError::Engine(format!("{error:#}")))?;
    if instances >= SMALLEST_POOL {
        tracing::warn!("no address space for an instance pool: instances are slower to start");
    }
    Ok((engine, instances.max(1)))
}

/// Advances the engine's epoch while guests run, and sleeps while none does.
pub(crate) struct Ticker {
    shared: Arc<TickerShared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct TickerShared {
    running: AtomicUsize,
    stop: AtomicBool,
    thread: std::sync::OnceLock<thread::Thread>,
}

impl Ticker {
    pub(crate) fn start(engine: Engine) -> Result<Self, RuntimeError> {
        let shared = Arc::new(TickerShared::default());
        let inner = shared.clone();
        let thread = thread::Builder::new()
            .name("guest-ticker".to_owned())
            .spawn(move || {
                while !inner.stop.load(Ordering::Acquire) {
                    if inner.running.load(Ordering::Acquire) == 0 {
                        thread::park();
                    } else {
                        thread::sleep(TICK);
                        engine.increment_epoch();
                    }
                }
            })
            .map_err(|error| RuntimeError::Threads(error.to_string()))?;
        // The thread cannot have been set before: this is the only place.
        let _ = shared.thread.set(thread.thread().clone());
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A guest runs until the result is dropped.
    pub(crate) fn running(&self) -> Running {
        if self.shared.running.fetch_add(1, Ordering::AcqRel) == 0 {
            self.shared.wake();
        }
        Running(self.shared.clone())
    }
}

impl TickerShared {
    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// While this lives, the epoch advances.
pub(crate) struct Running(Arc<TickerShared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}
