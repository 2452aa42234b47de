//! Who may do what, on a real node with access control: every path of the API, every method, every
//! kind of token, in its own namespace and in another. And that what may be looked at tells
//! nothing of other namespaces.

use std::collections::BTreeSet;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use swarmer_runtime::fixtures;

use crate::common::{Answer, Cluster, Http, PATIENCE, until};

/// What a path wants of a token.
#[derive(Debug, Clone, Copy)]
enum Need {
    Nothing,
    /// Any token of the API.
    Token,
    /// At least this role, in the namespace of the path.
    Within(Role),
    /// At least this role, of whatever namespace.
    Anywhere(Role),
    /// An admin of no namespace.
    Cluster,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Viewer,
    Editor,
    Admin,
}

use Need::{Anywhere, Cluster as Whole, Nothing, Token, Within};
use Role::{Admin, Editor, Viewer};

const FUNCTION: &str = "/v1/namespaces/{namespace}/functions/{name}";
const INVOKE: &str = "/v1/namespaces/{namespace}/functions/{name}/invoke";
const INVOKE_BELOW: &str = "/v1/namespaces/{namespace}/functions/{name}/invoke/{path}";

/// Written by hand, beside the API's own table: a path that is not here fails the test.
const EXPECTED: &[(&str, &str, Need)] = &[
    ("get", "/livez", Nothing),
    ("get", "/readyz", Nothing),
    ("get", "/metrics", Token),
    ("get", "/v1/status", Token),
    ("get", "/v1/members", Token),
    ("get", "/v1/doctor", Whole),
    ("get", "/v1/nodes", Token),
    ("get", "/v1/nodes/{node}", Token),
    ("delete", "/v1/nodes/{node}", Whole),
    ("post", "/v1/nodes/{node}/drain", Whole),
    ("post", "/v1/nodes/{node}/faults", Whole),
    ("get", "/v1/regions", Token),
    ("post", "/v1/regions/{region}/drain", Whole),
    ("post", "/v1/regions/{region}/resume", Whole),
    ("post", "/v1/regions/{region}/lead", Whole),
    ("delete", "/v1/regions/{region}/lead", Whole),
    ("get", "/v1/keys", Token),
    ("post", "/v1/keys/gossip/rotate", Whole),
    ("post", "/v1/keys/authority/rotate", Whole),
    ("get", "/v1/tokens", Whole),
    ("post", "/v1/tokens", Whole),
    ("delete", "/v1/tokens/{id}", Whole),
    ("get", "/v1/artifacts/{digest}", Token),
    ("put", "/v1/artifacts/{digest}", Anywhere(Editor)),
    ("get", "/v1/namespaces/{namespace}/functions", Within(Viewer)),
    ("get", FUNCTION, Within(Viewer)),
    ("put", FUNCTION, Within(Editor)),
    ("delete", FUNCTION, Within(Editor)),
    ("post", "/v1/namespaces/{namespace}/functions/{name}/rollout/undo", Within(Editor)),
    ("post", "/v1/namespaces/{namespace}/transactions", Within(Editor)),
    ("get", "/v1/namespaces/{namespace}/functions/{name}/logs", Within(Viewer)),
    ("get", INVOKE, Within(Editor)),
    ("put", INVOKE, Within(Editor)),
    ("post", INVOKE, Within(Editor)),
    ("delete", INVOKE, Within(Editor)),
    ("patch", INVOKE, Within(Editor)),
    ("get", INVOKE_BELOW, Within(Editor)),
    ("put", INVOKE_BELOW, Within(Editor)),
    ("post", INVOKE_BELOW, Within(Editor)),
    ("delete", INVOKE_BELOW, Within(Editor)),
    ("patch", INVOKE_BELOW, Within(Editor)),
    ("get", "/v1/namespaces/{namespace}/placements", Within(Viewer)),
    ("get", "/v1/namespaces/{namespace}/placements/{name}", Within(Viewer)),
    ("get", "/v1/namespaces/{namespace}/placements/{name}/explanation", Within(Viewer)),
    ("get", "/v1/decision", Whole),
    ("get", "/v1/namespaces/{namespace}/leases", Within(Viewer)),
    ("get", "/v1/namespaces/{namespace}/leases/{name}", Within(Viewer)),
    ("post", "/v1/namespaces/{namespace}/leases/{name}/acquire", Within(Editor)),
    ("post", "/v1/namespaces/{namespace}/leases/{name}/renew", Within(Editor)),
    ("post", "/v1/namespaces/{namespace}/leases/{name}/release", Within(Editor)),
    ("get", "/v1/watch", Token),
    ("get", "/v1/audit", Whole),
    ("get", "/v1/backup", Whole),
    ("post", "/v1/restore", Whole),
    ("get", "/v1/openapi.json", Token),
    ("get", "/v1/schemas", Token),
    ("get", "/v1/schemas/{kind}", Token),
];

/// One that asks.
#[derive(Debug, Clone)]
struct Bearer {
    name: String,
    token: Option<String>,
    /// None for one that is not known (any more) to the cluster.
    grant: Option<(Role, Option<&'static str>)>,
}

impl Bearer {
    /// 200 stands for whatever the path answers to those whom it lets in.
    fn expected(&self, need: Need, namespace: &str) -> u16 {
        let Some((role, scope)) = self.grant else {
            return if matches!(need, Nothing) { 200 } else { 401 };
        };
        let within = scope.is_none_or(|own| own == namespace);
        let allowed = match need {
            Nothing | Token => true,
            Within(least) => role >= least && within,
            Anywhere(least) => role >= least,
            Whole => role == Admin && scope.is_none(),
        };
        if allowed { 200 } else { 403 }
    }
}

/// Sends a request, and gives the head of the answer and its body, which may never end.
async fn open(
    http: &Http,
    method: &str,
    url: &str,
    token: Option<&str>,
    body: impl Into<Bytes>,
) -> http::Response<hyper::body::Incoming> {
    let mut request = http::Request::builder().method(method).uri(url);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Full::new(body.into())).unwrap();
    let answer = tokio::time::timeout(PATIENCE, http.request(request)).await;
    answer.unwrap_or_else(|_| panic!("{method} {url}: no answer")).unwrap()
}

pub(crate) async fn ask(
    http: &Http,
    method: &str,
    url: &str,
    token: &str,
    body: impl Into<Bytes>,
) -> Answer {
    let (head, body) = open(http, method, url, Some(token), body).await.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes();
    Answer { status: head.status.as_u16(), headers: head.headers, body }
}

/// A cluster of one node that asks for tokens, and the first admin's token.
pub(crate) async fn with_access_control() -> (Cluster, String) {
    let mut cluster = Cluster::prepare(1);
    cluster.nodes[0].extra.push("--access-control".into());
    cluster.start(0);
    cluster.all_ready().await;
    let admin = std::fs::read_to_string(cluster.nodes[0].dir.join("admin.token")).unwrap();
    (cluster, admin.trim().to_owned())
}

pub(crate) async fn make_token(cluster: &Cluster, admin: &str, what: Value) -> (String, String) {
    let url = cluster.nodes[0].api_url("/v1/tokens");
    let answer = ask(&cluster.http, "POST", &url, admin, what.to_string()).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let text = |field: &str| answer.json()[field].as_str().unwrap().to_owned();
    (text("token"), text("id"))
}

async fn bearers(cluster: &Cluster, admin: &str) -> Vec<Bearer> {
    let nobody =
        |name: &str, token: Option<String>| Bearer { name: name.to_owned(), token, grant: None };
    let mut all = vec![nobody("nobody", None)];
    for (name, role) in [("viewer", Viewer), ("editor", Editor), ("admin", Admin)] {
        for scope in [None, Some("shop")] {
            let what = json!({ "kind": "api", "ttl": "1h", "role": name, "namespace": scope });
            let (token, _) = make_token(cluster, admin, what).await;
            let name = format!("{name} of {}", scope.unwrap_or("all"));
            all.push(Bearer { name, token: Some(token), grant: Some((role, scope)) });
        }
    }
    let what = json!({ "kind": "api", "ttl": "1h", "role": "admin" });
    let (revoked, id) = make_token(cluster, admin, what).await;
    let url = cluster.nodes[0].api_url(&format!("/v1/tokens/{id}"));
    assert_eq!(ask(&cluster.http, "DELETE", &url, admin, "").await.status, 200);
    all.push(nobody("revoked", Some(revoked)));
    let what = json!({ "kind": "api", "ttl": "1ms", "role": "admin" });
    all.push(nobody("expired", Some(make_token(cluster, admin, what).await.0)));
    let what = json!({ "kind": "join", "ttl": "1h" });
    all.push(nobody("join token", Some(make_token(cluster, admin, what).await.0)));
    all.push(nobody("garbage", Some("swa1.AAAA".to_owned())));
    all
}

/// The path with names of things that are not there.
fn filled(path: &str, namespace: &str) -> String {
    path.replace("{namespace}", namespace)
        .replace("{digest}", &"0".repeat(64))
        .replace("{kind}", "Function")
        .replace(['{', '}'], "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_lets_in_whom_it_should_verb_by_kind() {
    let (cluster, admin) = with_access_control().await;
    let (http, node) = (&cluster.http, &cluster.nodes[0]);
    let document = ask(http, "GET", &node.api_url("/v1/openapi.json"), &admin, "").await.json();
    let mut documented = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            documented.insert((method.clone(), path.clone()));
        }
    }
    let listed: BTreeSet<(String, String)> = EXPECTED
        .iter()
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    assert_eq!(documented, listed, "each path of the API, and nothing else, has its expectation");

    let bearers = bearers(&cluster, &admin).await;
    let mut wrong = Vec::new();
    for (method, path, need) in EXPECTED {
        let in_namespace = path.contains("{namespace}");
        let namespaces: &[&str] = if in_namespace { &["shop", "bank"] } else { &[""] };
        for namespace in namespaces {
            let url = node.api_url(&filled(path, namespace));
            for bearer in &bearers {
                let method = method.to_uppercase();
                let answer = open(http, &method, &url, bearer.token.as_deref(), "{}").await;
                let found = match answer.status().as_u16() {
                    refused @ (401 | 403) => refused,
                    _ => 200,
                };
                let expected = bearer.expected(*need, namespace);
                if found != expected {
                    wrong.push(format!(
                        "{} on {method} {path} in {namespace:?}: {found}, not {expected}",
                        bearer.name
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // An escaped name of the own namespace is no way around, nor into another one.
    let viewer = bearers.iter().find(|bearer| bearer.name == "viewer of shop").unwrap();
    for path in ["/v1/namespaces/%62ank/functions", "/v1/namespaces/shop%2F..%2Fbank/functions"] {
        let token = viewer.token.as_deref().unwrap();
        let answer = ask(http, "GET", &node.api_url(path), token, "").await;
        assert_eq!(answer.status, 403, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_namespace_sees_nothing_of_others_and_a_watch_ends_with_its_token() {
    let (cluster, admin) = with_access_control().await;
    let (http, node) = (&cluster.http, &cluster.nodes[0]);
    let hello = cluster.component("hello", &fixtures::hello_p2());
    let other = cluster.component("other", &fixtures::hello_p3());
    let deploy = |file: &str, name: &str, namespace: &str, route: &str, token: &str| {
        node.cli(&[
            "--token",
            token,
            "deploy",
            file,
            "--name",
            name,
            "--namespace",
            namespace,
            "--route",
            route,
        ])
    };
    let done = deploy(&other, "vault", "bank", "/taken", &admin);
    assert!(done.status.success(), "{done:?}");
    let what = json!({ "kind": "api", "ttl": "1h", "role": "editor", "namespace": "shop" });
    let (editor, id) = make_token(&cluster, &admin, what).await;
    let done = deploy(&hello, "till", "shop", "/till", &editor);
    assert!(done.status.success(), "{done:?}");
    let url = node.api_url("/v1/namespaces/bank/functions/vault");
    let vault = ask(http, "GET", &url, &admin, "").await.json();
    let secret = vault["spec"]["component"].as_str().unwrap().to_owned();

    // A route that is taken does not tell by whom.
    let refused = deploy(&hello, "second", "shop", "/taken", &editor);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("SW-API-ROUTE-TAKEN") && !said.contains("vault"), "{said}");

    // Nothing that it may read names the other function or its component.
    let mut looked = 0;
    for (method, path, need) in EXPECTED {
        let reads = *method == "get" && !path.contains("invoke") && *path != "/v1/watch";
        if !reads || matches!(need, Whole) {
            continue;
        }
        let url = node.api_url(&filled(path, "shop").replace("/name", "/till"));
        let answer = ask(http, "GET", &url, &editor, "").await;
        let text = answer.text();
        assert!(!text.contains("vault") && !text.contains(&secret), "{path}: {text}");
        looked += 1;
    }
    assert!(looked > 10, "{looked}");
    let metrics = ask(http, "GET", &node.api_url("/metrics"), &editor, "").await.text();
    assert!(metrics.contains("shop/till"), "its own are there: {metrics}");
    let all = ask(http, "GET", &node.api_url("/metrics"), &admin, "").await.text();
    assert!(all.contains("bank/vault"), "and the others are to be seen by those who may: {all}");
    // Not the bytes either, not even by their digest; its own are given.
    let artifact = |digest: &str| node.api_url(&format!("/v1/artifacts/{digest}"));
    assert_eq!(ask(http, "GET", &artifact(&secret), &editor, "").await.status, 404);
    assert_eq!(ask(http, "GET", &artifact(&secret), &admin, "").await.status, 200);
    let till = ask(http, "GET", &node.api_url("/v1/namespaces/shop/functions/till"), &editor, "")
        .await
        .json();
    let own = till["spec"]["component"].as_str().unwrap();
    assert_eq!(ask(http, "GET", &artifact(own), &editor, "").await.status, 200);

    // A watch from the first change on brings its own function, nothing of the other, and ends
    // when its token is revoked.
    let watch = open(http, "GET", &node.api_url("/v1/watch?from=0"), Some(&editor), "").await;
    assert_eq!(watch.status(), 200);
    let mut events = watch.into_body();
    let mut text = String::new();
    let mut revoked = false;
    loop {
        let frame = tokio::time::timeout(PATIENCE, events.frame()).await;
        let Some(frame) = frame.expect("a watch says something, or ends") else { break };
        if let Ok(data) = frame.unwrap().into_data() {
            text.push_str(&String::from_utf8_lossy(&data));
        }
        if !revoked && text.contains("functions/shop/till") {
            revoked = true;
            let url = node.api_url(&format!("/v1/tokens/{id}"));
            assert_eq!(ask(http, "DELETE", &url, &admin, "").await.status, 200);
        }
    }
    assert!(revoked && text.contains("event: unauthorized"), "{text}");
    assert!(!text.contains("vault") && !text.contains(&secret), "{text}");
    until("the token opens nothing", || async {
        let answer = ask(http, "GET", &node.api_url("/v1/status"), &editor, "").await;
        (answer.status == 401).then_some(())
    })
    .await;
}
