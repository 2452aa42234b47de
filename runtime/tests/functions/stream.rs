//! Bodies: both ways, whole, in constant memory, and the guest stopped when nobody reads.

use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use swarmer_runtime::{
    BodyError, FunctionConfig,
    fixtures::{Behaviour, behaviour_p2, echo_p2},
};

use crate::common::{Bench, get, until};

const TIME: Duration = Duration::from_secs(60);

fn long() -> FunctionConfig {
    FunctionConfig { timeout: TIME, cpu: TIME, ..FunctionConfig::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_goes_through_and_back_with_its_trailers() {
    const PIECES: u64 = 512;
    const PIECE: usize = 64 << 10;
    let bench = Bench::new();
    let function = bench.load(&echo_p2(), long()).await;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = sent.clone();
    let frames = futures::stream::iter((0..=PIECES).map(move |at| {
        counter.store(at, std::sync::atomic::Ordering::Relaxed);
        Ok::<_, BodyError>(if at < PIECES {
            Frame::data(Bytes::from(vec![at as u8; PIECE]))
        } else {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-sum", http::HeaderValue::from_static("42"));
            Frame::trailers(trailers)
        })
    }));
    let request = http::Request::post("http://test.example/")
        .body(StreamBody::new(frames).boxed_unsync())
        .unwrap();
    let answer = function.call(request, bench.context(TIME)).await.unwrap();
    let mut body = answer.into_body();
    let (mut got, mut trailers) = (0_u64, None);
    while let Some(frame) = body.frame().await {
        match frame.unwrap().into_data() {
            Ok(data) => {
                assert!(
                    data.iter()
                        .enumerate()
                        .all(|(i, b)| { *b == ((got + i as u64) / PIECE as u64) as u8 })
                );
                got += data.len() as u64;
                let ahead = sent.load(std::sync::atomic::Ordering::Relaxed) * PIECE as u64;
                assert!(ahead < got + (1 << 20), "{ahead} read when {got} were written");
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    assert_eq!(got, PIECES * PIECE as u64);
    assert_eq!(trailers.unwrap()["x-sum"], "42");
    let usage = function.usage();
    assert_eq!((usage.bytes_in, usage.bytes_out), (got, got));
    assert!(usage.memory_peak_bytes < 1 << 20, "{}", usage.memory_peak_bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_on_the_way_in_is_no_end() {
    let bench = Bench::new();
    let function = bench.load(&echo_p2(), long()).await;
    let frames = futures::stream::iter([
        Ok(Frame::data(Bytes::from_static(b"half"))),
        Err(BodyError::source_error("connection reset")),
    ]);
    let request = http::Request::post("http://test.example/")
        .body(StreamBody::new(frames).boxed_unsync())
        .unwrap();
    let whole = match function.call(request, bench.context(TIME)).await {
        Ok(answer) => answer.into_body().collect().await.is_ok(),
        Err(_) => false,
    };
    assert!(!whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_body_stops_the_guest() {
    let bench = Bench::new();
    for behaviour in [Behaviour::HeadersThenHang, Behaviour::Big(1 << 40)] {
        let function = bench.load(&behaviour_p2(behaviour), long()).await;
        let answer = function.call(get("/"), bench.context(TIME)).await.unwrap();
        let mut body = answer.into_body();
        body.frame().await.unwrap().unwrap();
        assert_eq!(function.usage().running, 1);
        drop(body);
        until("the stop", || function.usage().running == 0).await;
        if behaviour == Behaviour::HeadersThenHang {
            // The other one may notice by itself that nobody reads.
            assert_eq!(function.usage().cancelled, 1);
        }
        until("the slot", || bench.handle.pool().taken == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_the_guest_back() {
    let bench = Bench::new();
    let function = bench.load(&behaviour_p2(Behaviour::Big(100_000)), long()).await;
    let answer = function.call(get("/"), bench.context(TIME)).await.unwrap();
    let mut body = answer.into_body();
    let mut got = 0;
    for _ in 0..10 {
        got += body.frame().await.unwrap().unwrap().into_data().unwrap().len() as u64;
    }
    let cpu = function.usage().cpu_ns;
    assert_eq!(function.usage().bytes_out, got);
    assert_eq!(cpu, function.usage().cpu_ns);
    assert_eq!(function.usage().running, 1, "400 MB cannot be in flight");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_head_is_no_reason_to_kill_the_guest() {
    let bench = Bench::new();
    let function = bench.load(&behaviour_p2(Behaviour::Marks), long()).await;
    let mut request = get("/");
    *request.method_mut() = http::Method::HEAD;
    let answer = function.call(request, bench.context(TIME)).await.unwrap();
    drop(answer);
    until("the end", || function.usage().running == 0).await;
    assert_eq!(function.usage().cancelled, 0);
}
