//! Every path of the API: one table, from which router, access control and OpenAPI are made.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    handler::Handler,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::{MethodFilter, MethodRouter, any, on},
};
use http::Method;

use crate::{
    api::{
        Api, artifacts, audit_log,
        auth::{self, Access, Grant, SharedGrant},
        doctor, functions, keys, leases, members, metrics, nodes, openapi, regions,
        reply::{Answer, Failure, Unchanged, finish},
        tokens, watch,
    },
    audit::{self, Refusal, Who},
    codes,
    problem::{Outcome, Problem},
};

/// How long a read or a small write may take: longer than an election.
const SHORT: Duration = Duration::from_secs(30);
/// How long a write may take that fetches, compiles and copies.
const LONG: Duration = Duration::from_secs(230);
/// How long a read waits until it is linearizable.
pub(super) const BARRIER: Duration = Duration::from_secs(5);

/// One method of one path.
pub(super) struct Endpoint {
    /// None for every method.
    pub(super) method: Option<Method>,
    pub(super) path: &'static str,
    pub(super) access: Access,
    /// None where the answer goes on for as long as it is wanted; the handler bounds it then.
    pub(super) deadline: Option<Duration>,
    pub(super) summary: &'static str,
    /// Query parameters and what they mean.
    pub(super) query: &'static [(&'static str, &'static str)],
    /// The schema of the request's body.
    pub(super) body: Option<&'static str>,
    /// The schema of the answer's body.
    pub(super) answer: Option<&'static str>,
    /// Whether a write may say which revision of the resource it has seen by `If-Match`.
    pub(super) if_match: bool,
    handler: MethodRouter<Arc<Api>>,
}

impl Endpoint {
    fn new<T: 'static>(
        method: Method,
        path: &'static str,
        access: Access,
        summary: &'static str,
        handler: impl Handler<T, Arc<Api>>,
    ) -> Self {
        let filter = match method {
            Method::PUT => MethodFilter::PUT,
            Method::POST => MethodFilter::POST,
            Method::DELETE => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        };
        Self {
            method: Some(method),
            path,
            access,
            deadline: Some(SHORT),
            summary,
            query: &[],
            body: None,
            answer: None,
            if_match: true,
            handler: on(filter, handler),
        }
    }

    fn get<T: 'static>(
        path: &'static str,
        access: Access,
        summary: &'static str,
        handler: impl Handler<T, Arc<Api>>,
    ) -> Self {
        Self::new(Method::GET, path, access, summary, handler)
    }

    fn any<T: 'static>(
        path: &'static str,
        summary: &'static str,
        handler: impl Handler<T, Arc<Api>>,
    ) -> Self {
        Self {
            method: None,
            deadline: None,
            handler: any(handler),
            ..Self::get(path, Access::ChangeIn, summary, nothing_here)
        }
    }

    fn within(mut self, deadline: Option<Duration>) -> Self {
        self.deadline = deadline;
        self
    }

    fn query(mut self, query: &'static [(&'static str, &'static str)]) -> Self {
        self.query = query;
        self
    }

    fn body(mut self, schema: &'static str) -> Self {
        self.body = Some(schema);
        self
    }

    fn answers(mut self, schema: &'static str) -> Self {
        self.answer = Some(schema);
        self
    }

    fn of_several(mut self) -> Self {
        self.if_match = false;
        self
    }

    /// Whether `?consistency=linearizable` means something here.
    pub(super) fn is_read(&self) -> bool {
        matches!(self.access, Access::Look | Access::LookIn | Access::LookAcross | Access::Govern)
            && self.method == Some(Method::GET)
    }
}

/// Every path, in the order of the documentation.
pub(super) fn endpoints() -> Vec<Endpoint> {
    use Access::{ChangeIn, Govern, Look, LookAcross, LookIn, Public, Supply};
    const FUNCTIONS: &str = "/v1/namespaces/{namespace}/functions";
    const FUNCTION: &str = "/v1/namespaces/{namespace}/functions/{name}";
    const PLACEMENTS: &str = "/v1/namespaces/{namespace}/placements";
    const PLACEMENT: &str = "/v1/namespaces/{namespace}/placements/{name}";
    const LEASES: &str = "/v1/namespaces/{namespace}/leases";
    const LEASE: &str = "/v1/namespaces/{namespace}/leases/{name}";
    vec![
        Endpoint::get("/livez", Public, "Whether the process answers", members::livez),
        Endpoint::get(
            "/readyz",
            Public,
            "Whether the node serves, or what it waits for",
            members::readyz,
        ),
        Endpoint::get("/metrics", Look, "Prometheus metrics of this node", metrics::metrics),
        Endpoint::get(
            "/v1/status",
            Look,
            "Leader, term, revision, quorum, members",
            members::status,
        ),
        Endpoint::get(
            "/v1/members",
            Look,
            "All members and why they are thought so",
            members::members,
        ),
        Endpoint::get(
            "/v1/doctor",
            Govern,
            "What is wrong with the cluster, and what to do about it",
            doctor::doctor,
        ),
        Endpoint::get("/v1/nodes", Look, "All admitted nodes", nodes::list),
        Endpoint::get("/v1/nodes/{node}", Look, "One node, by name or id", nodes::get)
            .answers("Node"),
        Endpoint::new(
            Method::DELETE,
            "/v1/nodes/{node}",
            Govern,
            "End a node's admission",
            nodes::delete,
        ),
        Endpoint::new(
            Method::POST,
            "/v1/nodes/{node}/drain",
            Govern,
            "Empty a node, or let it take work again",
            nodes::drain,
        )
        .body("Drain")
        .answers("Node"),
        Endpoint::new(
            Method::POST,
            "/v1/nodes/{node}/faults",
            Govern,
            "Strike a node that allows it, for a bounded time",
            nodes::strike,
        )
        .body("Fault"),
        Endpoint::get(
            "/v1/regions",
            Look,
            "All regions: their nodes, votes and functions, and which are drained",
            regions::list,
        ),
        Endpoint::new(
            Method::POST,
            "/v1/regions/{region}/drain",
            Govern,
            "Empty all nodes of a region, those too that join it later",
            regions::drain,
        )
        .body("DrainRegion"),
        Endpoint::new(
            Method::POST,
            "/v1/regions/{region}/resume",
            Govern,
            "Let a region take work again; what its drain took away comes back",
            regions::resume,
        ),
        Endpoint::new(
            Method::POST,
            "/v1/regions/{region}/lead",
            Govern,
            "Choose the region in which the leader stands, while a voter of it can lead",
            regions::lead,
        ),
        Endpoint::new(
            Method::DELETE,
            "/v1/regions/{region}/lead",
            Govern,
            "Let the leader stand anywhere again",
            regions::lead_no_more,
        ),
        Endpoint::get(
            "/v1/keys",
            Look,
            "The keys of the cluster, by number, and how far a rotation is",
            keys::list,
        ),
        Endpoint::new(
            Method::POST,
            "/v1/keys/gossip/rotate",
            Govern,
            "Replace the key that members seal gossip with",
            keys::rotate_gossip,
        )
        .of_several(),
        Endpoint::new(
            Method::POST,
            "/v1/keys/authority/rotate",
            Govern,
            "Replace the authority that signs the certificates of all nodes",
            keys::rotate_authority,
        )
        .of_several(),
        Endpoint::get("/v1/tokens", Govern, "All tokens, without their secrets", tokens::list),
        Endpoint::new(Method::POST, "/v1/tokens", Govern, "Make a token", tokens::create)
            .body("NewToken"),
        Endpoint::new(
            Method::DELETE,
            "/v1/tokens/{id}",
            Govern,
            "Make a token worthless",
            tokens::delete,
        ),
        Endpoint::get("/v1/artifacts/{digest}", Look, "The bytes of an artifact", artifacts::get)
            .within(Some(LONG)),
        Endpoint::new(
            Method::PUT,
            "/v1/artifacts/{digest}",
            Supply,
            "Upload a component; it is checked, compiled and copied to three nodes",
            artifacts::put,
        )
        .within(None)
        .body("Component"),
        Endpoint::get(FUNCTIONS, LookIn, "All functions of a namespace", functions::list),
        Endpoint::get(FUNCTION, LookIn, "One function and how it stands", functions::get)
            .query(&[
                ("describe", "true: why it is not ready, asked of its nodes"),
                ("everywhere", "true: `live.behind`, the living nodes that have not seen this yet"),
            ])
            .answers("Function"),
        Endpoint::new(Method::PUT, FUNCTION, ChangeIn, "Create or change", functions::put)
            .within(Some(LONG))
            .query(&[("dryRun", "true: only say what it would become, or why it is refused")])
            .body("Function")
            .answers("Function"),
        Endpoint::new(
            Method::DELETE,
            FUNCTION,
            ChangeIn,
            "Delete with placement and routes",
            functions::delete,
        ),
        Endpoint::new(
            Method::POST,
            "/v1/namespaces/{namespace}/functions/{name}/rollout/undo",
            ChangeIn,
            "Bring back the version before",
            functions::undo,
        )
        .answers("Function"),
        Endpoint::new(
            Method::POST,
            "/v1/namespaces/{namespace}/transactions",
            ChangeIn,
            "Change several functions together, or none of them",
            functions::transact,
        )
        .within(Some(LONG))
        .of_several()
        .body("Transaction"),
        Endpoint::get(
            "/v1/namespaces/{namespace}/functions/{name}/logs",
            LookIn,
            "The last lines that it wrote, from all nodes",
            functions::logs,
        )
        .query(&[
            ("tail", "how many lines of each node, at most 10000; 100 by default"),
            ("after", "`next` of the answer before: only what was written since then"),
        ]),
        Endpoint::any(
            "/v1/namespaces/{namespace}/functions/{name}/invoke",
            "Call the function at its first route",
            functions::invoke,
        ),
        Endpoint::any(
            "/v1/namespaces/{namespace}/functions/{name}/invoke/{*path}",
            "Call the function below its first route",
            functions::invoke,
        ),
        Endpoint::get(PLACEMENTS, LookIn, "Which nodes serve what, and why", functions::placements),
        Endpoint::get(PLACEMENT, LookIn, "Which nodes serve it, and why", functions::placement)
            .answers("Placement"),
        Endpoint::get(
            "/v1/namespaces/{namespace}/placements/{name}/explanation",
            LookIn,
            "For every node, why the function stands there or not, by the leader's planner",
            functions::explanation,
        ),
        Endpoint::get(
            // Not of a namespace: it tells of the functions of all of them.
            "/v1/decision",
            Govern,
            "The last decision that moved a function, with all that it was made from",
            functions::decision,
        )
        .query(&[("namespace", "of the function"), ("name", "of the function")]),
        Endpoint::get(LEASES, LookIn, "All leases of a namespace that are held", leases::list),
        Endpoint::get(LEASE, LookIn, "One lease: who holds it, with which token", leases::get)
            .answers("Lease"),
        Endpoint::new(
            Method::POST,
            "/v1/namespaces/{namespace}/leases/{name}/acquire",
            ChangeIn,
            "Hold a lease that nobody holds",
            leases::acquire,
        )
        .body("AcquireLease")
        .answers("Lease"),
        Endpoint::new(
            Method::POST,
            "/v1/namespaces/{namespace}/leases/{name}/renew",
            ChangeIn,
            "Go on holding a lease: its whole time from now on",
            leases::renew,
        )
        .body("RenewLease")
        .answers("Lease"),
        Endpoint::new(
            Method::POST,
            "/v1/namespaces/{namespace}/leases/{name}/release",
            ChangeIn,
            "Give a lease back",
            leases::release,
        )
        .body("ReleaseLease"),
        Endpoint::get(
            "/v1/watch",
            LookAcross,
            "Changes of the desired state as they come",
            watch::watch,
        )
        .within(None)
        .query(&[
            ("from", "the revision after which changes are wanted; from now on by default"),
            ("prefix", "only keys that start with it, such as functions/default/"),
        ]),
        Endpoint::get(
            "/v1/audit",
            Govern,
            "What was changed by way of this node, and what it refused",
            audit_log::audit,
        )
        .query(&[
            ("tail", "how many of the newest records, at most 10000; 100 by default"),
            ("verify", "true: instead, whether all records are there as they were written"),
        ]),
        Endpoint::get(
            "/v1/backup",
            Govern,
            "All functions with their versions at one revision, one JSON document a line",
            functions::backup,
        ),
        Endpoint::new(
            Method::POST,
            "/v1/restore",
            Govern,
            "Put back a function of a backup with its versions; one that differs stays as it is",
            functions::restore,
        )
        .within(Some(LONG))
        .query(&[("dryRun", "true: only say whether it could be put back")])
        .body("Function"),
        Endpoint::get("/v1/openapi.json", Look, "This document", openapi::document),
        Endpoint::get("/v1/schemas", Look, "The kinds that have a JSON Schema", openapi::schemas),
        Endpoint::get("/v1/schemas/{kind}", Look, "The JSON Schema of one kind", openapi::schema),
    ]
}

/// The router over all of them.
pub(super) fn router(api: Arc<Api>) -> Router {
    let mut router = Router::new();
    for endpoint in endpoints() {
        let rule = Rule {
            api: Arc::clone(&api),
            access: endpoint.access,
            deadline: endpoint.deadline,
            read: endpoint.is_read(),
        };
        let handler = endpoint.handler.layer(from_fn_with_state(rule, guard));
        router = router.route(endpoint.path, handler);
    }
    router
        .fallback(nothing_here)
        .method_not_allowed_fallback(not_so)
        .layer(from_fn_with_state(Arc::clone(&api), finish))
        .with_state(api)
}

async fn nothing_here(request: Request) -> Answer {
    let path = request.uri().path().to_owned();
    Err(Problem::new(codes::NO_ENDPOINT, format!("there is no {path:?}")).into())
}

async fn not_so(request: Request) -> Answer {
    let detail = format!("{} has no method {}", request.uri().path(), request.method());
    Err(Problem::new(codes::METHOD, detail).into())
}

/// What holds for one endpoint.
#[derive(Clone)]
struct Rule {
    api: Arc<Api>,
    access: Access,
    deadline: Option<Duration>,
    read: bool,
}

/// Admits a request, and bounds the time of its answer's head.
async fn guard(State(rule): State<Rule>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut who = Who::Nobody;
    let grant = match rule.admit(&request, &mut who) {
        Ok(grant) => grant,
        Err(problem) => {
            tracing::debug!(target: "swarmer::api", %method, path, code = problem.code.name,
                "a request is refused");
            if matches!(problem.code.status, 401 | 403) {
                let (what, reason) = (format!("{method} {path}"), problem.detail.as_str());
                let code = problem.code;
                audit::refused(Refusal { who, what: &what, from: None, code, reason });
            }
            return Failure(problem).into_response();
        }
    };
    let answer = audit::WHO.scope(who, rule.answer(request, next, &grant));
    let response = match rule.deadline {
        None => answer.await,
        Some(deadline) => match tokio::time::timeout(deadline, answer).await {
            Ok(response) => response,
            Err(_) => {
                let detail = format!("no answer after {} s", deadline.as_secs());
                Failure(Problem::new(codes::DEADLINE, detail)).into_response()
            }
        },
    };
    let writes = matches!(rule.access, Access::Supply | Access::ChangeIn | Access::Govern);
    let changed = response.extensions().get::<Unchanged>().is_none();
    if writes && !rule.read && changed {
        // Who changed what: never the token itself, never bodies.
        tracing::info!(target: "swarmer::audit", %method, path,
            status = response.status().as_u16(), token = grant.token.as_deref());
    }
    response
}

impl Rule {
    /// What the request may do; `who` becomes the one who sent it, as far as that is known.
    fn admit(&self, request: &Request, who: &mut Who) -> Outcome<SharedGrant> {
        let headers = request.headers();
        if self.access == Access::Public {
            return Ok(Arc::new(Grant::everything()));
        }
        if self.api.open {
            let authority = request.uri().authority().map(|authority| authority.as_str());
            auth::check_browser(headers, authority)?;
            *who = Who::Open;
            return Ok(Arc::new(Grant::everything()));
        }
        let grant = auth::grant(&*self.api.member()?, headers)?;
        if let Some(token) = &grant.token {
            *who = Who::Token(token.clone());
        }
        grant.check(self.access, auth::namespace_of(request.uri().path()))?;
        Ok(Arc::new(grant))
    }

    async fn answer(&self, mut request: Request, next: Next, grant: &SharedGrant) -> Response {
        if self.read
            && let Some(wish) = consistency(request.uri().query())
            && let Err(problem) = self.wait(wish).await
        {
            return Failure(problem).into_response();
        }
        request.extensions_mut().insert(Arc::clone(grant));
        next.run(request).await
    }

    /// Waits until the local state has everything that was acknowledged before.
    async fn wait(&self, wish: &str) -> Outcome<()> {
        match wish {
            "local" => Ok(()),
            "linearizable" => {
                let context = self.api.member()?;
                context.control.barrier(BARRIER).await?;
                Ok(())
            }
            _ => {
                let detail = format!("consistency is {wish:?}: must be local or linearizable");
                Err(Problem::new(codes::BAD_REQUEST, detail))
            }
        }
    }
}

fn consistency(query: Option<&str>) -> Option<&str> {
    query?.split('&').find_map(|pair| pair.strip_prefix("consistency="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consistency_is_found_in_a_query() {
        assert_eq!(consistency(Some("a=b&consistency=linearizable")), Some("linearizable"));
        assert_eq!(consistency(Some("inconsistency=x")), None);
        assert_eq!(consistency(None), None);
    }

    #[test]
    fn every_change_needs_more_than_a_look_and_only_health_is_public() {
        for endpoint in endpoints() {
            let looks = matches!(
                endpoint.access,
                Access::Public | Access::Look | Access::LookIn | Access::LookAcross
            );
            let reads = endpoint.method == Some(Method::GET);
            assert!(reads || !looks, "{:?} {}", endpoint.method, endpoint.path);
            if endpoint.access == Access::Public {
                assert!(matches!(endpoint.path, "/livez" | "/readyz"), "{}", endpoint.path);
            }
            let in_namespace = matches!(endpoint.access, Access::LookIn | Access::ChangeIn);
            assert_eq!(in_namespace, endpoint.path.contains("{namespace}"), "{}", endpoint.path);
        }
    }
}
