//! Outgoing requests: only where declared, with the trace, several at a time.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use swarmer_runtime::{
    Body, Egress, EgressContext, EgressError, EgressOptions, FunctionConfig, FunctionKey, Outgoing,
    fixtures::{Behaviour, behaviour_p2, caller},
    full,
};
use tokio::sync::Barrier;

use crate::common::{Bench, get, text, until};

const TIME: Duration = Duration::from_secs(5);
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

struct World {
    seen: Mutex<Vec<(String, Option<String>, FunctionKey)>>,
    /// `/a` and `/b` are answered when both are there.
    both: Barrier,
    gone: Arc<tokio::sync::Notify>,
}

struct Gone(Arc<tokio::sync::Notify>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[async_trait::async_trait]
impl Egress for World {
    async fn send(
        &self,
        from: &FunctionKey,
        context: EgressContext,
        request: http::Request<Body>,
        _: EgressOptions,
    ) -> Result<http::Response<Body>, EgressError> {
        let parent = request.headers().get("traceparent").map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(parent.as_deref(), context.traceparent.as_deref());
        let uri = request.uri().to_string();
        let path = request.uri().path().to_owned();
        self.seen.lock().push((uri.clone(), parent, from.clone()));
        match path.as_str() {
            "/refused" => return Err(EgressError::Refused("nobody listens".to_owned())),
            "/hang" => {
                let _gone = Gone(self.gone.clone());
                return std::future::pending().await;
            }
            "/a" | "/b" => {
                self.both.wait().await;
            }
            _ => {}
        }
        Ok(http::Response::builder().status(201).body(full(format!("you asked {uri}"))).unwrap())
    }
}

fn world() -> Arc<World> {
    Arc::new(World { seen: Mutex::default(), both: Barrier::new(2), gone: Arc::default() })
}

fn declares(list: &[&str]) -> FunctionConfig {
    FunctionConfig { outgoing: Outgoing::parse(list).unwrap(), ..FunctionConfig::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_where_they_are_declared_and_nowhere_else() {
    let world = world();
    let bench = Bench::with(world.clone(), |_| {});
    let function = bench.load(&caller(), declares(&["api.test:8080"])).await;
    let context = bench.context(TIME).traced(PARENT);
    let answer = function.call(get("/api.test:8080/x?y=1"), context.clone()).await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(text(answer).await.unwrap(), "you asked http://api.test:8080/x?y=1");
    let answer = function.call(get("/other.shop.internal/z"), context.clone()).await.unwrap();
    assert_eq!(text(answer).await.unwrap(), "you asked http://other.shop.internal/z");
    assert_eq!(world.seen.lock().len(), 2);
    assert!(
        world.seen.lock().iter().all(|(_, parent, from)| {
            parent.as_deref() == Some(PARENT) && from == function.key()
        })
    );

    let answer = function.call(get("/evil.test/x"), context.clone()).await.unwrap();
    assert_eq!(answer.status(), 502);
    assert_eq!(text(answer).await.unwrap(), "error 15", "HTTP-request-denied");
    assert_eq!(world.seen.lock().len(), 2, "it never left");
    let log = bench.lines.text();
    assert!(log.contains("SW-RUNTIME-EGRESS-DENIED"), "{log}");
    assert!(log.contains("Add \"evil.test\" to its `outgoing` list"), "{log}");
    let traced = |l: &swarmer_runtime::LogLine| {
        l.trace_id.as_deref() == Some("0af7651916cd43dd8448eb211c80319c")
    };
    assert!(bench.lines.0.lock().iter().all(traced));

    let answer = function.call(get("/api.test:8080/refused"), context).await.unwrap();
    assert_eq!(text(answer).await.unwrap(), "error 06", "connection-refused");
    assert_eq!(function.usage().outgoing, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_requests_are_on_their_way_at_once() {
    let bench = Bench::with(world(), |_| {});
    let function = bench.load(&behaviour_p2(Behaviour::CallsTwo), declares(&["*"])).await;
    let answer = function.call(get("/api.test"), bench.context(TIME)).await.unwrap();
    assert_eq!(text(answer).await.unwrap(), "you asked http://api.test/a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_guest_takes_its_requests_with_it() {
    let world = world();
    let bench = Bench::with(world.clone(), |_| {});
    let function = bench.load(&caller(), declares(&["*"])).await;
    let context = bench.context(TIME);
    let call = tokio::spawn({
        let function = function.clone();
        async move { function.call(get("/api.test/hang"), context).await.map(|_| ()) }
    });
    until("the request", || !world.seen.lock().is_empty()).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    tokio::time::timeout(TIME, world.gone.notified()).await.unwrap();
}
