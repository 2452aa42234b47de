//! Sends one request to one function, wherever it runs, and again where the rules allow it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue, Request, Response};
use parking_lot::Mutex;
use swarmer_mesh::{
    call::{
        self, Body, CallError, CallHead, Destination, ReplayableBody, Served,
        retry::{self, Attempt, Retry, RetryBudget, RetryBudgetConfig},
    },
    routing::{
        Balancer, Choice, Endpoint, Outlier, OutlierConfig, Preference, RegionRules, pick_version,
    },
    stream::StreamKind,
    transport,
};
use swarmer_model::{
    ClusterId, NodeId,
    planted::{self, Bug},
};
use swarmer_runtime::CallContext;

use crate::{
    codes,
    desired::{Desired, DesiredStore, FunctionEntry},
    dispatch::{
        Catalog, Index, Refusals, Source,
        body::to_runtime,
        rule::{self, Failed},
    },
    functions::FunctionManager,
    problem::{Outcome, Problem},
};

/// How long a call waits for a function that was deployed a moment ago to be placed.
const PLACEMENT_WAIT: Duration = Duration::from_secs(2);
/// How long a stream may take to be opened before another node is tried.
const OPEN_DEADLINE: Duration = Duration::from_secs(3);
/// The most nodes that one call is sent to.
const MAX_NODES_TRIED: usize = 8;

/// Tells which version answered.
const VERSION_HEADER: HeaderName = HeaderName::from_static("x-swarmer-version");
/// Tells which node answered.
const NODE_HEADER: HeaderName = HeaderName::from_static("x-swarmer-node");

/// What travels with a request besides itself. Dropping the call's future ends the work.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// When the caller stops waiting.
    pub(crate) deadline: Instant,
    /// The function of this node that calls; none from outside.
    pub(crate) source: Option<Source>,
    /// How many nodes the call has passed.
    pub(crate) hop: u8,
    /// The W3C `traceparent`.
    pub(crate) traceparent: Arc<str>,
    /// What the route that it came by says of regions; none if nothing, or if it came by its
    /// function's name.
    pub(crate) regions: Option<Arc<RegionRules>>,
}

/// What the dispatcher is made from.
pub(crate) struct Deps {
    pub(crate) node: NodeId,
    pub(crate) cluster: ClusterId,
    pub(crate) name: String,
    pub(crate) desired: DesiredStore,
    pub(crate) catalog: Catalog,
    pub(crate) functions: FunctionManager,
    pub(crate) transport: transport::Handle,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dispatcher {
    inner: Arc<Inner>,
}

struct Inner {
    deps: Deps,
    balancer: Balancer,
    outlier: Mutex<Outlier>,
    budget: Mutex<RetryBudget>,
    name_header: HeaderValue,
    refusals: Refusals,
}

impl Dispatcher {
    pub(crate) fn new(deps: Deps) -> Self {
        let now = Instant::now();
        let name_header = HeaderValue::from_str(&deps.name)
            .unwrap_or_else(|_| HeaderValue::from_static("unnamed"));
        Self {
            inner: Arc::new(Inner {
                balancer: Balancer::new(),
                outlier: Mutex::new(Outlier::new(OutlierConfig::default())),
                budget: Mutex::new(RetryBudget::new(RetryBudgetConfig::default(), now)),
                name_header,
                refusals: Refusals::default(),
                deps,
            }),
        }
    }

    pub(crate) fn deps(&self) -> &Deps {
        &self.inner.deps
    }

    /// What was refused because it was not the other node's to do.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.inner.refusals
    }

    /// Routes a request that came in from outside.
    pub(crate) async fn route(
        &self,
        request: Request<Body>,
        mut call: Call,
    ) -> Outcome<Response<Body>> {
        let host = request
            .uri()
            .authority()
            .map(|authority| authority.as_str())
            .or_else(|| request.headers().get(http::header::HOST).and_then(|h| h.to_str().ok()))
            .unwrap_or_default();
        let path = request.uri().path();
        let desired = self.inner.deps.desired.current();
        let Some((entry, regions)) = desired.route(host, path) else {
            let detail = format!("no route for host {host:?} and path {path:?}");
            return Err(Problem::new(codes::NO_ROUTE, detail));
        };
        let entry = Arc::clone(entry);
        call.regions = regions.cloned();
        drop(desired);
        self.call(&entry, request, call).await
    }

    /// Calls a function: picks a version by weight and the node by readiness, distance and load.
    pub(crate) async fn call(
        &self,
        entry: &FunctionEntry,
        request: Request<Body>,
        mut call: Call,
    ) -> Outcome<Response<Body>> {
        if call.hop >= call::MAX_HOPS {
            let detail =
                format!("{} would be hop {} of at most {}", entry.id, call.hop + 1, call::MAX_HOPS);
            return Err(Problem::new(codes::TOO_MANY_HOPS, detail));
        }
        let request = rule::take_request(request)?;
        let Some(mut version) = pick_version(&entry.weights, rand::random()) else {
            let detail = format!("{} has no version with a weight", entry.id);
            return Err(Problem::new(codes::NO_UPSTREAM, detail));
        };
        if planted::is_on(Bug::RouteToRemovedVersion)
            && let Some(before) = entry.function.version(version.saturating_sub(1))
        {
            version = before.number;
        }
        let Some(known) = entry.function.version(version) else {
            let detail = format!("{} has no version {version}", entry.id);
            return Err(Problem::new(codes::NO_UPSTREAM, detail));
        };
        let limits = &known.template.limits;
        if limits.concurrency == 0 {
            return Err(Problem::new(
                codes::SWITCHED_OFF,
                format!("{} version {version}", entry.id),
            ));
        }
        call.deadline = call.deadline.min(Instant::now() + limits.timeout.duration());
        let deps = &self.inner.deps;
        let local = deps.functions.ready(&entry.id, version).filter(|_| {
            // Looked at only where it could be served here.
            let catalog = deps.catalog.current();
            match self.is_spread(&call) {
                // This node is one of those among whom is chosen, unless it is leaving: then it
                // answers where nobody else does.
                true => catalog.answering(&entry.id, version).is_empty(),
                false => !catalog.leaves_to_others(deps.node, &entry.id, version),
            }
        });
        let admitted = match &local {
            Some(function) => Some(function.admit(runtime_context(&call)).await),
            None => None,
        };
        let mut response = match admitted {
            // The common case first, without the machinery of retries: what fails after it was
            // started here is not tried again.
            Some(Ok(admitted)) => {
                let answer = admitted.call(request.map(to_runtime)).await;
                self.answered_here(answer).map_err(|failed| *failed.problem)?
            }
            Some(Err(error)) => {
                let (failed, tried) = (Failed::of_runtime(&error), vec![self.inner.deps.node]);
                let (parts, body) = request.into_parts();
                let body = ReplayableBody::new(body);
                self.after_failure(failed, entry, version, parts, body, &call, tried).await?
            }
            None => {
                let placed = self.placed(entry, call.deadline).await;
                let entry = placed.as_deref().unwrap_or(entry);
                let (parts, body) = request.into_parts();
                let body = ReplayableBody::new(body);
                // Boxed: its state is large, and the local call would carry it along.
                Box::pin(self.anywhere(entry, version, parts, body, &call, Vec::new())).await?
            }
        };
        if let Some(label) = entry.label(version) {
            response.headers_mut().insert(VERSION_HEADER, label.clone());
        }
        Ok(response)
    }

    /// Whether the call's route spreads what enters here over regions: then this node is one of
    /// several, whatever is ready here.
    fn is_spread(&self, call: &Call) -> bool {
        call.regions.as_deref().is_some_and(|rules| {
            let deps = &self.inner.deps;
            let desired = deps.desired.current();
            let own = desired.nodes.get(&deps.node);
            own.is_some_and(|own| rules.of(&own.spec.region).is_spread())
        })
    }

    /// The function once it is placed, if it is not placed yet: between a deploy and its placement
    /// lie some milliseconds, and a request that comes in them is no error.
    async fn placed(&self, entry: &FunctionEntry, deadline: Instant) -> Option<Arc<FunctionEntry>> {
        let is_placed = |entry: &FunctionEntry| entry.placed_at.is_some();
        if is_placed(entry) {
            return None;
        }
        let desired = &self.inner.deps.desired;
        let seen =
            desired.wait_until(|state| state.functions.get(&entry.id).is_none_or(|e| is_placed(e)));
        let left = deadline.saturating_duration_since(Instant::now()).min(PLACEMENT_WAIT);
        let state = tokio::time::timeout(left, seen).await.ok().flatten()?;
        state.functions.get(&entry.id).cloned()
    }

    /// Decides about a failed attempt, and goes on elsewhere where the rules allow it.
    #[expect(clippy::too_many_arguments, reason = "one attempt's whole state, in one place")]
    async fn after_failure(
        &self,
        failed: Failed,
        entry: &FunctionEntry,
        version: u32,
        parts: http::request::Parts,
        body: ReplayableBody,
        call: &Call,
        tried: Vec<NodeId>,
    ) -> Outcome<Response<Body>> {
        if self.may_retry(&failed, &parts, &body, tried.len(), call) {
            // Boxed: the failure path is rare, its state is large.
            let next = Box::pin(self.anywhere(entry, version, parts, body, call, tried));
            return match next.await {
                // What stopped the first attempt explains more than "nobody else is there".
                Err(problem) if problem.code == codes::NO_UPSTREAM => Err(*failed.problem),
                other => other,
            };
        }
        Err(*failed.problem)
    }

    fn may_retry(
        &self,
        failed: &Failed,
        parts: &http::request::Parts,
        body: &ReplayableBody,
        attempts: usize,
        call: &Call,
    ) -> bool {
        let attempt = Attempt {
            method: &parts.method,
            error: &failed.error,
            body_replayable: body.is_replayable(),
            attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
            deadline: call.deadline,
        };
        let now = Instant::now();
        retry::decide(&attempt, &mut self.inner.budget.lock(), now) == Retry::Again
    }

    /// Tries nodes one after another, those of `tried` left out.
    async fn anywhere(
        &self,
        entry: &FunctionEntry,
        version: u32,
        parts: http::request::Parts,
        body: ReplayableBody,
        call: &Call,
        mut tried: Vec<NodeId>,
    ) -> Outcome<Response<Body>> {
        self.inner.budget.lock().on_call(Instant::now());
        // Those that refused for want of room: they did nothing for the call, and to ask the next one
        // is no load that a budget would have to bound.
        let mut roomless = 0;
        loop {
            let (node, in_flight) = self.choose(entry, version, call, &tried)?;
            let Some(attempt) = body.attempt() else {
                return Err(Problem::new(
                    codes::NO_UPSTREAM,
                    "the request's body cannot be sent again",
                ));
            };
            let begun = Instant::now();
            let outcome = if node == self.inner.deps.node {
                self.start_local(entry, version, parts.clone(), attempt, call).await
            } else {
                self.run_remote(node, entry, version, parts.clone(), attempt, call).await
            };
            let now = Instant::now();
            match outcome {
                Ok(response) => {
                    self.inner.outlier.lock().succeeded(node);
                    return Ok(keep_until_end(response, in_flight));
                }
                Err(failed) => {
                    let took_ms = u64::try_from((now - begun).as_millis()).unwrap_or(u64::MAX);
                    tracing::debug!(target: "swarmer::dispatch", function = %entry.id, version,
                        %node, took_ms, error = %failed.problem.detail, "an attempt failed");
                    if failed.node_fault {
                        self.inner.outlier.lock().failed(node, now);
                    }
                    tried.push(node);
                    let no_room = failed.problem.code.name == codes::NO_ROOM.name;
                    roomless += usize::from(no_room);
                    let attempts = tried.len() - roomless;
                    let again = match no_room {
                        true => body.is_replayable() && now < call.deadline,
                        false => self.may_retry(&failed, &parts, &body, attempts, call),
                    };
                    if tried.len() >= MAX_NODES_TRIED || !again {
                        return Err(*failed.problem);
                    }
                    if self.choose(entry, version, call, &tried).is_err() {
                        return Err(*failed.problem);
                    }
                }
            }
        }
    }

    fn choose(
        &self,
        entry: &FunctionEntry,
        version: u32,
        call: &Call,
        tried: &[NodeId],
    ) -> Outcome<(NodeId, swarmer_mesh::routing::InFlight)> {
        let deps = &self.inner.deps;
        let index = deps.catalog.current();
        let spent = |endpoints: &[Endpoint]| endpoints.iter().all(|e| tried.contains(&e.node));
        let ready = match index.ready(&entry.id, version) {
            // Whoever is being emptied still answers: better than a start elsewhere, or an error.
            ready if spent(ready) => index.answering(&entry.id, version),
            ready => ready,
        };
        let desired = deps.desired.current();
        let own = desired.nodes.get(&deps.node).map(|node| &node.spec);
        let region = own.map_or("", |spec| &spec.region);
        let rules = call.regions.as_deref();
        let prefer = rules.map(|rules| rules.of(region)).unwrap_or_default();
        // Who could start it matters only where nobody has it.
        let candidates = match spent(ready) {
            true => self.starters(entry, &index, &desired, prefer),
            false => Vec::new(),
        };
        let choice = Choice {
            own: deps.node,
            region,
            zone: own.map_or("", |spec| &spec.zone),
            ready,
            candidates: &candidates,
            exclude: tried,
            prefer,
        };
        let outlier = self.inner.outlier.lock();
        match self.inner.balancer.choose(&choice, &outlier, &mut rand::rng(), Instant::now()) {
            Ok(picked) => Ok((picked.node, picked.in_flight)),
            Err(error) => {
                let detail = format!("{} version {version}: {error}", entry.id);
                Err(Problem::new(codes::NO_UPSTREAM, detail).retry_after(1))
            }
        }
    }

    /// The nodes that start the function, those that live: those that it is placed on first, as they
    /// load it this moment, then the candidates; both by the way to their regions, and those regions
    /// before others that the call's route names to take over.
    fn starters(
        &self,
        entry: &FunctionEntry,
        index: &Index,
        desired: &Desired,
        prefer: Preference<'_>,
    ) -> Vec<NodeId> {
        let deps = &self.inner.deps;
        let region = |node: NodeId| desired.nodes.get(&node).map(|node| node.spec.region.as_str());
        let own = region(deps.node);
        let mut starters: Vec<NodeId> = Vec::new();
        for nodes in [&entry.placement.nodes, &entry.placement.candidates] {
            let mut nodes = nodes.clone();
            if planted::is_on(Bug::ForgetRegion) {
                nodes.retain(|node| entry.placement.nodes.contains(node));
            }
            nodes.sort_by_key(|node| {
                let there = region(*node);
                let order = prefer.order(own.unwrap_or_default(), there.unwrap_or_default());
                (order, index.way_between(own, there))
            });
            for node in nodes {
                let starts = match node == deps.node {
                    true => deps.functions.accepts_work(),
                    false => index.is_alive(node),
                };
                if starts && !starters.contains(&node) {
                    starters.push(node);
                }
            }
        }
        starters
    }

    /// Runs it here, loading it first if need be.
    async fn start_local(
        &self,
        entry: &FunctionEntry,
        version: u32,
        parts: http::request::Parts,
        body: Body,
        call: &Call,
    ) -> Result<Response<Body>, Failed> {
        let left = call.deadline.saturating_duration_since(Instant::now());
        let function = rule::start(&self.inner.deps.functions, &entry.id, version, left).await?;
        match function.admit(runtime_context(call)).await {
            Ok(admitted) => {
                let request = Request::from_parts(parts, to_runtime(body));
                self.answered_here(admitted.call(request).await)
            }
            Err(error) => Err(Failed::of_runtime(&error)),
        }
    }

    /// What a function of this node answered, as the mesh has it.
    fn answered_here(
        &self,
        outcome: Result<Response<swarmer_runtime::Body>, swarmer_runtime::CallError>,
    ) -> Result<Response<Body>, Failed> {
        let mut response = rule::answer(outcome)?;
        response.headers_mut().insert(NODE_HEADER, self.inner.name_header.clone());
        Ok(response)
    }

    async fn run_remote(
        &self,
        node: NodeId,
        entry: &FunctionEntry,
        version: u32,
        parts: http::request::Parts,
        body: Body,
        call: &Call,
    ) -> Result<Response<Body>, Failed> {
        let deps = &self.inner.deps;
        let destination = Destination {
            namespace: entry.namespace.to_string(),
            name: entry.name.to_string(),
            version: Some(version),
        };
        let mut head = CallHead::from_parts(parts, destination);
        head.hop = call.hop;
        head.revision = entry.changed;
        if let Some(source) = &call.source {
            head.revision = head.revision.max(source.changed);
            head.source = Some(source.workload.clone());
        }
        head.trace.traceparent = call.traceparent.to_string();
        let since = Instant::now();
        let failed = |error: CallError| {
            if error == CallError::Deadline {
                return Failed::late(since);
            }
            let detail =
                format!("{} version {version} on node {}: {error}", entry.id, self.node_name(node));
            let node_fault = matches!(
                error,
                CallError::Unreachable { .. }
                    | CallError::Broken { .. }
                    | CallError::WrongServer { .. }
            );
            let problem = Problem::new(swarmer_model::Coded::code(&error), detail);
            let problem = if error.not_started() { problem.retry_after(1) } else { problem };
            Failed { error, problem: problem.into(), node_fault }
        };
        let deadline = tokio::time::Instant::from_std(call.deadline);
        let (send, recv, prefix) = deps
            .transport
            .open_with_prefix(
                node,
                transport::Class::Data,
                StreamKind::Call,
                open_deadline(call.deadline),
            )
            .await
            .map_err(|error| failed(CallError::unreachable(error)))?;
        let sent = call::send_call_with_prefix(send, recv, prefix, head, body, deadline);
        let mut response = sent.await.map_err(failed)?;
        if let Some(served) = response.extensions().get::<Served>() {
            self.served_well(node, entry, version, served).map_err(failed)?;
        }
        if let Some(refused) = response.extensions().get::<call::Refused>().copied() {
            return Err(rule::told_by(node, refused, response).await);
        }
        let served = response.extensions().get::<Served>().map_or(node, |served| served.node);
        if let Ok(name) = HeaderValue::from_str(&self.node_name(served)) {
            response.headers_mut().insert(NODE_HEADER, name);
        }
        Ok(response)
    }

    /// A node's name, for people.
    pub(crate) fn node_name(&self, node: NodeId) -> String {
        let desired = self.inner.deps.desired.current();
        desired.nodes.get(&node).map_or_else(|| node.to_string(), |n| n.metadata.name.clone())
    }
}

/// A stream is opened at once on a living connection; a dial must leave time to go elsewhere.
fn open_deadline(deadline: Instant) -> tokio::time::Instant {
    deadline.min(Instant::now() + OPEN_DEADLINE).into()
}

fn runtime_context(call: &Call) -> CallContext {
    CallContext {
        deadline: call.deadline,
        traceparent: Some(Arc::clone(&call.traceparent)),
        hop: call.hop,
    }
}

/// Keeps the count of a call in flight until its answer's last byte.
fn keep_until_end(
    response: Response<Body>,
    in_flight: swarmer_mesh::routing::InFlight,
) -> Response<Body> {
    use http_body_util::BodyExt as _;
    response.map(|body| {
        if http_body::Body::is_end_stream(&body) {
            return body;
        }
        body.map_frame(move |frame| {
            let _counted = &in_flight;
            frame
        })
        .boxed_unsync()
    })
}
