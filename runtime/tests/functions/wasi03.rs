//! The same promises for 0.3 guests, whose instances are used again.

use std::time::Duration;

use http_body::Body as _;
use http_body_util::BodyExt as _;
use swarmer_runtime::{
    BodyError, CallError, FunctionConfig, HandlerKind,
    fixtures::{Behaviour03, behaviour_p3, hello_p2, hello_p3},
};

use crate::common::{Bench, get, text, until};

const TIME: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_answers_and_its_instance_is_used_again_so_many_times() {
    let bench = Bench::new();
    let config = FunctionConfig { reuse: 5, ..FunctionConfig::default() };
    let function = bench.load(&hello_p3(), config).await;
    assert_eq!(function.kind(), HandlerKind::Wasi03);
    for _ in 0..10 {
        let answer = function.call(get("/"), bench.context(TIME)).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(text(answer).await.unwrap(), "hello from swarmer\n");
    }
    let usage = function.usage();
    assert_eq!((usage.requests, usage.instances, usage.failed), (10, 2, 0));
    assert!(bench.handle.unload(function.key(), TIME).await);
    until("the slots", || bench.handle.pool().taken == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_function_gives_its_slots_back() {
    let bench = Bench::new();
    let old = bench.load(&hello_p3(), FunctionConfig::default()).await;
    let answer = old.call(get("/"), bench.context(TIME)).await.unwrap();
    assert_eq!(text(answer).await.unwrap(), "hello from swarmer\n");
    assert_eq!(bench.handle.pool().taken, 1, "its instance waits for the next request");
    let artifact = bench.artifact(&hello_p3());
    let key = old.key().clone();
    let new = bench.handle.load(key, &artifact, FunctionConfig::default()).await.unwrap();
    until("the slot", || bench.handle.pool().taken == 0).await;
    assert_eq!(old.call(get("/"), bench.context(TIME)).await.unwrap_err(), CallError::Draining);
    let answer = new.call(get("/"), bench.context(TIME)).await.unwrap();
    assert_eq!(text(answer).await.unwrap(), "hello from swarmer\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_a_told_length_is_whole() {
    let bench = Bench::new();
    for size in [1, 16 << 10, 64 << 10, (1 << 20) + 1] {
        let function =
            bench.load(&behaviour_p3(Behaviour03::Sized(size)), FunctionConfig::default()).await;
        for _ in 0..20 {
            let answer = function.call(get("/"), bench.context(TIME)).await.unwrap();
            assert_eq!(answer.headers()["content-length"], size.to_string());
            let body = answer.into_body();
            let hint = body.size_hint();
            assert!(
                hint.lower() <= u64::from(size)
                    && hint.upper().is_none_or(|u| u == u64::from(size))
            );
            let body = body.collect().await.unwrap().to_bytes();
            assert_eq!(body.len(), size as usize);
            assert!((0..size).zip(&body).all(|(i, byte)| i as u8 == *byte), "{size} bytes");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_do_not_mix() {
    let bench = Bench::new();
    let function = bench.load(&hello_p3(), FunctionConfig::default()).await;
    let calls = (0..200).map(|_| {
        let (function, context) = (function.clone(), bench.context(TIME));
        tokio::spawn(async move { text(function.call(get("/"), context).await.unwrap()).await })
    });
    for call in futures::future::join_all(calls).await {
        assert_eq!(call.unwrap().unwrap(), "hello from swarmer\n");
    }
    assert!(function.usage().instances < 200, "some were used again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_misdeed_has_its_code_and_its_instance_is_gone() {
    let bench = Bench::new();
    let config = || FunctionConfig {
        timeout: Duration::from_millis(300),
        cpu: Duration::from_millis(100),
        ..FunctionConfig::default()
    };
    // On a busy machine it takes long to use up even a little CPU time.
    let patient = FunctionConfig { timeout: TIME, ..config() };
    let spin = bench.load(&behaviour_p3(Behaviour03::Loop), patient).await;
    let error = spin.call(get("/"), bench.context(TIME)).await.unwrap_err();
    assert!(matches!(error, CallError::CpuLimit { .. }), "{error:?}");

    let trap = bench.load(&behaviour_p3(Behaviour03::HeadersThenTrap), config()).await;
    // Its head has not left when it dies.
    let error = trap.call(get("/"), bench.context(TIME)).await.unwrap_err();
    assert!(matches!(error, CallError::Trap(_)), "{error:?}");

    let hang = bench.load(&behaviour_p3(Behaviour03::HeadersThenHang), config()).await;
    let answer = hang.call(get("/"), bench.context(TIME)).await.unwrap();
    let error = text(answer).await.unwrap_err();
    assert!(matches!(error, BodyError::Broken(CallError::Timeout { .. })), "{error:?}");

    let answer = hang.call(get("/"), bench.context(TIME)).await.unwrap();
    drop(answer);
    until("the stop", || hang.usage().running == 0).await;
    assert_eq!(hang.usage().cancelled, 1);
    assert_eq!(hang.usage().instances, 2);
    until("the slots", || bench.handle.pool().taken == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_call_is_over_when_its_answer_is_there() {
    let bench = Bench::new();
    for (component, waiting) in [(hello_p2(), 0), (hello_p3(), 1)] {
        let function = bench.load(&component, FunctionConfig::default()).await;
        for _ in 0..3 {
            let answer = function.call(get("/"), bench.context(TIME)).await.unwrap();
            let usage = function.usage();
            assert_eq!((usage.running, usage.failed), (0, 0), "the guest has nothing left to do");
            assert_eq!(bench.handle.pool().taken, waiting, "its instance is gone, or waits");
            assert!(answer.body().size_hint().exact().is_some(), "and the answer is whole");
        }
        assert!(bench.handle.unload(function.key(), TIME).await);
        assert_eq!(bench.handle.pool().taken, 0);
    }
}

/// Answers of a well-behaved neighbour, while another goes on.
async fn neighbour(bench: &Bench, hello: &swarmer_runtime::Function) {
    for _ in 0..20 {
        let answer = hello.call(get("/"), bench.context(TIME)).await.unwrap();
        assert_eq!(text(answer).await.unwrap(), "hello from swarmer\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_goes_on_writing_is_stopped_when_nobody_reads_any_more() {
    let bench = Bench::new();
    let hello = bench.load(&hello_p3(), FunctionConfig::default()).await;
    let config =
        || FunctionConfig { timeout: TIME * 6, cpu: TIME * 6, ..FunctionConfig::default() };
    let endless = bench.load(&behaviour_p3(Behaviour03::Endless), config()).await;
    for round in 1..=3 {
        let answer = endless.call(get("/"), bench.context(TIME * 6)).await.unwrap();
        let mut body = answer.into_body();
        let mut bytes = 0;
        while bytes < 1 << 20 {
            bytes += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
        }
        assert_eq!(endless.usage().running, 1);
        neighbour(&bench, &hello).await;
        drop(body);
        // Long before any of its limits.
        until("the stop", || endless.usage().running == 0).await;
        let usage = endless.usage();
        assert_eq!((usage.cancelled, usage.failed, usage.instances), (round, 0, round));
    }
    // The neighbour's instance is all that is left.
    until("the slots", || bench.handle.pool().taken == 1).await;
    neighbour(&bench, &hello).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_writes_more_than_it_told_is_stopped() {
    let bench = Bench::new();
    let hello = bench.load(&hello_p3(), FunctionConfig::default()).await;
    let component = behaviour_p3(Behaviour03::BeyondLength);
    let beyond = bench.load(&component, FunctionConfig::default()).await;
    match beyond.call(get("/"), bench.context(TIME)).await {
        // Whoever reads sees at most what was told, or an answer that is broken off.
        Ok(answer) => {
            let body = answer.into_body().collect().await;
            assert!(body.is_err() || body.unwrap().to_bytes().len() <= 19);
        }
        Err(error) => assert!(!error.not_started(), "{error:?}"),
    }
    until("the stop", || beyond.usage().running == 0).await;
    until("the slots", || bench.handle.pool().taken == 0).await;
    neighbour(&bench, &hello).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_works_on_for_ever_after_its_answer_is_stopped_by_its_limits() {
    let bench = Bench::new();
    let hello = bench.load(&hello_p3(), FunctionConfig::default()).await;
    let config = FunctionConfig {
        timeout: TIME * 6,
        cpu: Duration::from_millis(100),
        ..FunctionConfig::default()
    };
    let busy = bench.load(&behaviour_p3(Behaviour03::BusyAfter), config).await;
    let answer = busy.call(get("/"), bench.context(TIME * 6)).await.unwrap();
    assert_eq!(text(answer).await.unwrap(), "hello from swarmer\n", "its answer was whole");
    neighbour(&bench, &hello).await;
    until("the stop", || busy.usage().running == 0).await;
    let usage = busy.usage();
    assert_eq!((usage.requests, usage.instances), (1, 1));
    until("the slots", || bench.handle.pool().taken == 1).await;
    // The next call has an instance of its own.
    let answer = busy.call(get("/"), bench.context(TIME * 6)).await.unwrap();
    assert_eq!(text(answer).await.unwrap(), "hello from swarmer\n");
    assert_eq!(busy.usage().instances, 2);
}
