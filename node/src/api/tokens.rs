//! `/v1/tokens`: join tokens and API tokens. Their secrets are shown once and never kept.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use swarmer_mesh::founding::JoinToken;
use swarmer_model::{
    Invalid, Key, Kind, Millis, Place, Role, TokenKind, TokenRecord, Violations, check_name,
    nearest,
};
use swarmer_raft::{Expect, Txn, View};

use crate::{
    agent::TxnExt as _,
    api::{
        Api, auth, now_ms,
        reply::{self, Answer},
        request::{At, JsonBytes, WriteHeaders},
        rfc3339,
    },
    codes,
    config::parse_labels,
    desired::Desired,
    problem::{Outcome, Problem},
};

/// The longest life of a join token: it lets machines in, so it should not lie around.
const MAX_JOIN_TTL: Millis = Millis::secs(90 * 86_400);
/// The longest life of an API token.
const MAX_API_TTL: Millis = Millis::secs(10 * 365 * 86_400);
/// The life of a token whose maker does not say.
const DEFAULT_TTL: Millis = Millis::secs(3_600);
/// The most nodes that one token admits.
const MAX_USES: u32 = 10_000;
/// The most tokens at once; expired ones count until they are revoked.
const MAX_TOKENS: usize = 10_000;
/// Digits of the hash that name a token.
const ID_DIGITS: usize = 8;

/// What a token is asked to be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "kind")]
enum NewToken {
    Join {
        ttl: Option<Millis>,
        uses: Option<u32>,
        region: Option<String>,
        zone: Option<String>,
        #[serde(default)]
        labels: Vec<String>,
    },
    Api {
        ttl: Option<Millis>,
        role: Role,
        namespace: Option<String>,
    },
}

impl NewToken {
    /// What is kept of it, and how long it lives.
    fn check(self) -> Result<(TokenKind, Millis), Invalid> {
        let mut violations = Violations::default();
        let (kind, ttl, max) = match self {
            Self::Join { ttl, uses, region, zone, labels } => {
                let uses_left = uses.unwrap_or(1);
                if uses_left == 0 || uses_left > MAX_USES {
                    violations.add("uses", uses_left, format!("from 1 to {MAX_USES}"));
                }
                let labels = parse_labels("labels", &labels, &mut violations);
                let place = Place { region, zone, labels };
                place.check(&mut violations);
                (TokenKind::Join { uses_left, place }, ttl, MAX_JOIN_TTL)
            }
            Self::Api { ttl, role, namespace } => {
                if let Some(namespace) = &namespace {
                    check_name("namespace", namespace, &mut violations);
                }
                (TokenKind::Api { role, namespace }, ttl, MAX_API_TTL)
            }
        };
        let ttl = ttl.unwrap_or(DEFAULT_TTL);
        if ttl.0 == 0 || ttl > max {
            violations.add("ttl", ttl, format!("above 0 and at most {max}"));
        }
        violations.finish()?;
        Ok((kind, ttl))
    }
}

/// A token as lists show it.
fn shown(record: &TokenRecord) -> Value {
    let mut value = json!({
        "id": record.id,
        "expires": rfc3339(record.expires_at_ms),
        "created": rfc3339(record.created_at_ms),
    });
    match &record.kind {
        TokenKind::Join { uses_left, place } => {
            value["kind"] = json!("join");
            value["usesLeft"] = json!(uses_left);
            value["region"] = json!(place.region);
            value["zone"] = json!(place.zone);
            value["labels"] = json!(place.labels);
        }
        TokenKind::Api { role, namespace } => {
            value["kind"] = json!("api");
            value["role"] = json!(role);
            value["namespace"] = json!(namespace);
        }
    }
    value
}

pub(super) async fn list(State(api): State<Arc<Api>>) -> Answer {
    let (seen, entries) = api.member()?.control.view().list(Kind::Token.prefix());
    let records = entries
        .iter()
        .filter_map(|(_, entry)| serde_json::from_slice::<TokenRecord>(&entry.value).ok());
    Ok(reply::list(seen, records.map(|record| shown(&record)).collect()))
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    headers: WriteHeaders,
    body: JsonBytes,
) -> Answer {
    let context = api.member()?;
    let (kind, ttl) = body.read::<NewToken>()?.check()?;
    let view = context.control.view();
    if view.list(Kind::Token.prefix()).1.len() >= MAX_TOKENS {
        let detail = format!("there are {MAX_TOKENS} tokens already; revoke some");
        return Err(Problem::new(codes::CONFLICT, detail).into());
    }
    let (token, hash) = match &kind {
        TokenKind::Join { .. } => {
            let token = JoinToken::generate(context.cluster, context.pin()?.0);
            (token.text(), hex::encode(token.secret.hash()))
        }
        TokenKind::Api { .. } => auth::new_token(),
    };
    let now = now_ms();
    let record = TokenRecord {
        id: hash.chars().take(ID_DIGITS).collect(),
        kind,
        expires_at_ms: now.saturating_add(ttl.0),
        created_at_ms: now,
    };
    let value = serde_json::to_vec(&record)
        .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
    let key = Key::token(&hash);
    let mut txn = Txn::new().check(key.as_str(), Expect::Absent).put(key.as_str(), value);
    txn.request_id = headers.request_id(0);
    context.control.write(txn).await?.committed("making a token")?;
    if view.get(key.as_str()).is_none() {
        // An earlier try made one, and its secret went with its answer: it is kept nowhere.
        let detail = "a token was made under this Idempotency-Key already, its secret is shown \
                      once only; revoke that token, and make one under another key";
        return Err(Problem::new(codes::CONFLICT, detail).into());
    }
    let mut value = shown(&record);
    value["token"] = json!(token);
    value["hints"] = json!(slip(&context.desired.current(), &record.kind).as_slice());
    Ok(reply::json(StatusCode::CREATED, &value))
}

/// What is no fault, as a region may be new, and perhaps a slip.
fn slip(desired: &Desired, kind: &TokenKind) -> Option<String> {
    let TokenKind::Join { place, .. } = kind else { return None };
    let region = place.region.as_ref()?;
    let known = || desired.nodes.values().map(|node| node.spec.region.as_str());
    if known().any(|known| known == region) {
        return None;
    }
    // The next number is a new region, not a slip.
    let letters = |name: &str| name.replace(|c: char| c.is_ascii_digit(), "");
    let meant = nearest(region, known()).filter(|meant| letters(meant) != letters(region))?;
    Some(format!("no node is in region {region} yet; nearest: {meant}"))
}

/// The key of the token with this id, or with a longer part of its hash.
fn find(view: &View, id: &str) -> Outcome<(String, u64)> {
    let missing = || Problem::new(codes::NOT_FOUND, format!("there is no token {id:?}"));
    let hex = id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if id.len() < ID_DIGITS || !hex {
        return Err(missing());
    }
    let (_, found) = view.list(Key::token(id).as_str());
    match found.as_slice() {
        [] => Err(missing()),
        [(key, entry)] => Ok((key.clone(), entry.revision)),
        _ => {
            let detail = format!("{id:?} is the beginning of several tokens; give more digits");
            Err(Problem::new(codes::CONFLICT, detail))
        }
    }
}

pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    At(id): At<String>,
    headers: WriteHeaders,
) -> Answer {
    let context = api.member()?;
    let view = context.control.view();
    let (key, _) = match find(&view, &id) {
        Ok(found) => found,
        Err(problem) => {
            if headers.already_applied(&context).await? {
                return Ok(reply::read(view.revision(), &json!({ "deleted": id })));
            }
            return Err(problem.into());
        }
    };
    // Revoking wins over whatever else happens to the token at this moment.
    let mut txn = Txn::new().delete(key);
    txn.request_id = headers.request_id(0);
    let revision = context.control.write(txn).await?.committed("revoking a token")?;
    Ok(reply::read(revision, &json!({ "deleted": id, "revision": revision })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(TokenKind, Millis), String> {
        let new: NewToken = serde_json::from_str(text).map_err(|error| error.to_string())?;
        new.check().map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn what_the_command_line_sends_is_understood() {
        let (kind, ttl) = check(
            r#"{"kind":"join","ttl":"1h","uses":2,"region":null,"zone":"z1","labels":["gpu=yes"]}"#,
        )
        .unwrap();
        let TokenKind::Join { uses_left, place } = kind else { panic!("{kind:?}") };
        assert_eq!((uses_left, place.flags().as_str()), (2, "--zone z1 --label gpu=yes"));
        assert_eq!(ttl, Millis::secs(3600));
        let (kind, _) =
            check(r#"{"kind":"api","ttl":"1h","role":"editor","namespace":null}"#).unwrap();
        assert_eq!(kind, TokenKind::Api { role: Role::Editor, namespace: None });
        assert!(check(r#"{"kind":"join","uses":2,"ttl":"1h"}"#).is_ok());
    }

    #[test]
    fn bounds_hold() {
        for (bad, part) in [
            (r#"{"kind":"join","ttl":"91d"}"#, "ttl"),
            (r#"{"kind":"join","ttl":"0s"}"#, "ttl"),
            (r#"{"kind":"join","uses":0}"#, "uses"),
            (r#"{"kind":"join","region":"EU!"}"#, "region"),
            (r#"{"kind":"join","zone":""}"#, "zone"),
            (r#"{"kind":"join","labels":["gpu"]}"#, "labels"),
            (r#"{"kind":"api","role":"viewer","ttl":"4000d"}"#, "ttl"),
            (r#"{"kind":"api","role":"king"}"#, "king"),
            (r#"{"kind":"api"}"#, "role"),
            (r#"{"kind":"what"}"#, "what"),
            (r#"{"kind":"join","role":"admin"}"#, "role"),
        ] {
            assert!(check(bad).unwrap_err().contains(part), "{bad}");
        }
    }

    #[test]
    fn a_list_shows_no_hash_beyond_the_id() {
        let record = TokenRecord {
            id: "00112233".into(),
            kind: TokenKind::Api { role: Role::Viewer, namespace: Some("shop".into()) },
            expires_at_ms: 1_000,
            created_at_ms: 0,
        };
        let value = shown(&record);
        assert_eq!(value["expires"], "1970-01-01T00:00:01.000Z");
        assert_eq!(value["role"], "viewer");
        assert_eq!(value["kind"], "api");
        assert!(value.get("token").is_none());
    }
}
