//! Guests that misbehave: each gets its own code within its deadline, and nobody else suffers.

use std::time::{Duration, Instant};

use swarmer_runtime::{
    BodyError, CallError, FunctionConfig,
    fixtures::{self, Behaviour, behaviour_p2},
};

use crate::common::{Bench, get, text, until};

const TIME: Duration = Duration::from_secs(5);

fn short() -> FunctionConfig {
    FunctionConfig {
        timeout: Duration::from_millis(300),
        cpu: Duration::from_millis(100),
        memory_bytes: 4 << 20,
        ..FunctionConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_misdeed_has_its_code_in_time() {
    let bench = Bench::new();
    for behaviour in [
        Behaviour::Trap,
        Behaviour::Loop,
        Behaviour::Allocate,
        Behaviour::Flood,
        Behaviour::NeverAnswer,
        Behaviour::Silent,
    ] {
        let mut config = short();
        if behaviour == Behaviour::Loop {
            // On a busy machine it takes long to use up even a little CPU time.
            config.timeout = TIME;
        }
        let function = bench.load(&behaviour_p2(behaviour), config).await;
        let start = Instant::now();
        let error = function.call(get("/"), bench.context(TIME)).await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(3), "{behaviour:?}: {:?}", start.elapsed());
        let right = match behaviour {
            Behaviour::Trap => {
                matches!(&error, CallError::Trap(why) if why.contains("unreachable") && !why.contains('\n'))
            }
            Behaviour::Loop => matches!(error, CallError::CpuLimit { .. }),
            Behaviour::Allocate => error == CallError::MemoryLimit { limit: 4 << 20 },
            // Which of the two it hits first depends on the machine.
            Behaviour::Flood => {
                matches!(error, CallError::CpuLimit { .. } | CallError::Timeout { .. })
            }
            Behaviour::NeverAnswer => matches!(error, CallError::Timeout { .. }),
            _ => error == CallError::NoAnswer,
        };
        assert!(right, "{behaviour:?}: {error:?}");
        assert!(!error.not_started(), "{behaviour:?}");
        until("the end", || function.usage().running == 0).await;
        assert_eq!(function.usage().failed, 1, "{behaviour:?}");
        assert!(function.usage().memory_peak_bytes <= 4 << 20, "{behaviour:?}");
    }
    let log = bench.lines.text();
    for wanted in [
        "SW-RUNTIME-TRAP: instance died before answering",
        "wasm backtrace",
        "SW-RUNTIME-CPU-LIMIT",
        "SW-RUNTIME-MEMORY-LIMIT",
        "SW-RUNTIME-TIMEOUT",
        "stdout: flood",
    ] {
        assert!(log.contains(wanted), "{wanted} is not in the log");
    }
    assert!(bench.lines.0.lock().len() < 5000, "the flood is bounded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_not_finished_is_broken_off() {
    let bench = Bench::new();
    let hang = bench.load(&behaviour_p2(Behaviour::HeadersThenHang), short()).await;
    let answer = hang.call(get("/"), bench.context(TIME)).await.unwrap();
    assert_eq!(answer.status(), 200);
    let error = text(answer).await.unwrap_err();
    assert!(matches!(error, BodyError::Broken(CallError::Timeout { .. })), "{error:?}");

    let trap = bench.load(&behaviour_p2(Behaviour::HeadersThenTrap), short()).await;
    for _ in 0..20 {
        // Its head has not left when it dies.
        let error = trap.call(get("/"), bench.context(TIME)).await.unwrap_err();
        assert!(matches!(error, CallError::Trap(_)), "{error:?}");
    }
    assert_eq!(trap.usage().failed, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callers_deadline_counts_too() {
    let bench = Bench::new();
    let never = behaviour_p2(Behaviour::NeverAnswer);
    let function = bench.load(&never, FunctionConfig::default()).await;
    let start = Instant::now();
    let context = bench.context(Duration::from_millis(50));
    let error = function.call(get("/"), context).await.unwrap_err();
    assert!(matches!(error, CallError::Timeout { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loops_on_every_thread_do_not_stop_others() {
    let bench = Bench::new();
    let config = FunctionConfig { cpu: Duration::from_secs(4), ..FunctionConfig::default() };
    let spin = bench.load(&behaviour_p2(Behaviour::Loop), config).await;
    let hello = bench.load(&fixtures::hello_p2(), FunctionConfig::default()).await;
    let loops: Vec<_> = (0..4)
        .map(|_| {
            let (spin, context) = (spin.clone(), bench.context(TIME));
            tokio::spawn(async move { spin.call(get("/"), context).await.map(|_| ()) })
        })
        .collect();
    until("all loops", || spin.usage().running == 4).await;
    for _ in 0..10 {
        let start = Instant::now();
        let answer = hello.call(get("/"), bench.context(TIME)).await.unwrap();
        assert_eq!(text(answer).await.unwrap(), "hello from swarmer\n");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
    assert_eq!(spin.usage().running, 4, "they looped all the time");
    loops.iter().for_each(tokio::task::JoinHandle::abort);
    until("the stop of the loops", || spin.usage().running == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_is_shed_and_heals() {
    let bench = Bench::new();
    let config = FunctionConfig { concurrency: 1, queue: 1, ..FunctionConfig::default() };
    let function = bench.load(&behaviour_p2(Behaviour::NeverAnswer), config).await;
    let call = |time| {
        let (function, context) = (function.clone(), bench.context(time));
        tokio::spawn(async move { function.call(get("/"), context).await.map(|_| ()) })
    };
    let runs = call(TIME);
    until("the start", || function.usage().running == 1).await;
    let waits = call(TIME);
    until("the queue", || function.usage().waiting == 1).await;
    let error = call(TIME).await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Busy { .. }) && error.not_started(), "{error:?}");
    assert!(error.retry_after().is_some());
    waits.abort();
    assert!(waits.await.unwrap_err().is_cancelled());
    let error = call(Duration::from_millis(30)).await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Busy { .. }), "late in the queue: {error:?}");
    runs.abort();
    assert!(runs.await.unwrap_err().is_cancelled());
    until("the stop", || function.usage().running == 0).await;
    let usage = function.usage();
    assert_eq!((usage.requests, usage.cancelled, usage.refused), (1, 1, 2));

    let off = FunctionConfig { concurrency: 0, ..FunctionConfig::default() };
    let off = bench.load(&fixtures::hello_p2(), off).await;
    let error = off.call(get("/"), bench.context(TIME)).await.unwrap_err();
    assert_eq!(error, CallError::SwitchedOff);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pool_is_an_answer_not_a_fault() {
    let bench = Bench::with(std::sync::Arc::new(swarmer_runtime::NoEgress), |config| {
        config.pool_instances = 8;
    });
    let slots = bench.handle.pool().slots;
    assert_eq!(slots, 8);
    let never = bench.load(&behaviour_p2(Behaviour::NeverAnswer), FunctionConfig::default()).await;
    let hello = bench.load(&fixtures::hello_p2(), FunctionConfig::default()).await;
    let calls: Vec<_> = (0..slots)
        .map(|_| {
            let (never, context) = (never.clone(), bench.context(TIME));
            tokio::spawn(async move { never.call(get("/"), context).await.map(|_| ()) })
        })
        .collect();
    until("a full pool", || bench.handle.pool().taken == slots).await;
    let error = hello.call(get("/"), bench.context(Duration::from_millis(50))).await.unwrap_err();
    assert!(matches!(error, CallError::NodeBusy { .. }) && error.not_started(), "{error:?}");
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    let answer = hello.call(get("/"), bench.context(TIME)).await.unwrap();
    assert_eq!(text(answer).await.unwrap(), "hello from swarmer\n");
}
