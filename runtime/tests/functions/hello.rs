//! The plain way: load, call, read.

use std::time::Duration;

use swarmer_runtime::{CallError, FunctionConfig, HandlerKind, fixtures};

use crate::common::{Bench, get, text};

const TIME: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_answers_with_its_own_environment_only() {
    let bench = Bench::new();
    let plain = bench.load(&fixtures::hello_p2(), FunctionConfig::default()).await;
    assert_eq!(plain.kind(), HandlerKind::Wasi02);
    let mut config = FunctionConfig::default();
    config.env.insert("OTHER".into(), "x".into());
    config.env.insert("GREETING".into(), "grüezi".into());
    let greeting = bench.load(&fixtures::hello_p2(), config).await;
    let mut long = FunctionConfig::default();
    long.env.insert("GREETING".into(), "y".repeat(100_000));
    let long = bench.load(&fixtures::hello_p2(), long).await;
    for _ in 0..3 {
        let answer = plain.call(get("/"), bench.context(TIME)).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(text(answer).await.unwrap(), "hello from swarmer\n");
        let answer = greeting.call(get("/"), bench.context(TIME)).await.unwrap();
        assert_eq!(text(answer).await.unwrap(), "grüezi\n");
    }
    let answer = long.call(get("/"), bench.context(TIME)).await.unwrap();
    assert_eq!(text(answer).await.unwrap().len(), 100_001);
    let usage = plain.usage();
    assert_eq!((usage.requests, usage.instances, usage.failed, usage.bytes_out), (3, 3, 0, 57));
    assert!(usage.memory_peak_bytes >= 65536 && usage.cpu_ns > 0 && usage.wall_ns > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_headers_and_trailers_arrive() {
    use http_body_util::BodyExt;
    let bench = Bench::new();
    let marks = fixtures::behaviour_p2(fixtures::Behaviour::Marks);
    let function = bench.load(&marks, FunctionConfig::default()).await;
    let answer = function.call(get("/"), bench.context(TIME)).await.unwrap();
    assert_eq!(answer.status(), 418);
    assert_eq!(answer.headers()["x-fixture"], "yes");
    let body = answer.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-fixture"], "yes");
    assert_eq!(body.to_bytes(), "whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_host_is_refused_not_run() {
    let bench = Bench::new();
    let function = bench.load(&fixtures::hello_p2(), FunctionConfig::default()).await;
    let request = http::Request::get("/").body(swarmer_runtime::empty()).unwrap();
    let error = function.call(request, bench.context(TIME)).await.unwrap_err();
    assert!(matches!(error, CallError::BadRequest(_)) && error.not_started());
    assert_eq!(function.usage().requests, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unloading_waits_then_stops_what_is_left() {
    let bench = Bench::new();
    let never = fixtures::behaviour_p2(fixtures::Behaviour::NeverAnswer);
    let function = bench.load(&never, FunctionConfig::default()).await;
    let call = tokio::spawn({
        let (function, context) = (function.clone(), bench.context(TIME));
        async move { function.call(get("/"), context).await.map(|_| ()) }
    });
    crate::common::until("the start", || function.usage().running == 1).await;
    assert!(bench.handle.unload(function.key(), Duration::from_millis(20)).await);
    assert!(matches!(call.await.unwrap(), Err(CallError::Trap(_))));
    let error = function.call(get("/"), bench.context(TIME)).await.unwrap_err();
    assert!(error == CallError::Draining && error.not_started());
    assert!(bench.handle.get(function.key()).is_none());
    assert!(!bench.handle.unload(function.key(), TIME).await);
}
