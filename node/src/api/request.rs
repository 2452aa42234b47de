//! What handlers take from a request: path, query, bounded JSON, the headers of writes.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
};
use http::{HeaderMap, header, request::Parts};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use swarmer_model::{FieldFault, Revision, codes as model_codes, field_faults};
use swarmer_raft::{Expect, Outcome as TxnOutcome, Txn};

use crate::{
    agent::Context,
    api::reply::Failure,
    codes,
    manifest::with_nearest,
    problem::{Outcome, Problem},
};

/// The longest JSON body: a resource has at most 8 KiB in the control state.
pub(super) const MAX_JSON_BYTES: usize = 64 << 10;
/// How long a JSON body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// The longest `Idempotency-Key`.
const MAX_KEY_BYTES: usize = 255;
/// How often a write that lost a race reads again and tries again.
pub(super) const MAX_ATTEMPTS: u32 = 5;

fn bad(detail: impl std::fmt::Display) -> Failure {
    Failure(Problem::new(codes::BAD_REQUEST, detail.to_string()))
}

/// The parameters of the path, decoded.
pub(super) struct At<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for At<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(value)| Self(value)).map_err(|error| bad(error.body_text()))
    }
}

/// The query.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        query.map(|Query(value)| Self(value)).map_err(|error| bad(error.body_text()))
    }
}

/// The bytes of a JSON body, bounded in length and time.
pub(super) struct JsonBytes(Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBytes {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        Ok(Self(collect(request.into_body()).await?))
    }
}

async fn collect(body: Body) -> Outcome<Bytes> {
    let whole = Limited::new(body, MAX_JSON_BYTES).collect();
    match tokio::time::timeout(BODY_DEADLINE, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let detail = format!("the document has more than {MAX_JSON_BYTES} bytes");
            Err(Problem::new(codes::BODY_TOO_LARGE, detail))
        }
        Ok(Err(error)) => {
            Err(Problem::new(codes::BAD_REQUEST, format!("the document broke off: {error}")))
        }
        Err(_) => {
            let detail = format!("the document took more than {} s", BODY_DEADLINE.as_secs());
            Err(Problem::new(codes::DEADLINE, detail))
        }
    }
}

impl JsonBytes {
    /// Reads the body as `T`; a field that is not known is told with the one probably meant.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Outcome<T> {
        serde_json::from_slice(&self.0).map_err(|error| malformed(with_nearest(&error.to_string())))
    }

    /// The same, and the default where there is no body.
    pub(super) fn read_if_any<T: DeserializeOwned + Default>(&self) -> Outcome<T> {
        if self.0.is_empty() { Ok(T::default()) } else { self.read() }
    }

    /// See [`read_resource`].
    pub(super) fn read_resource<T: DeserializeOwned>(&self, kind: &str) -> Outcome<T> {
        let value =
            serde_json::from_slice(&self.0).map_err(|error| malformed(error.to_string()))?;
        read_resource(kind, value)
    }
}

/// Reads a resource of `kind`. What this API adds to its answers (`live`) is left out, so that an
/// answer can be edited and sent back.
pub(super) fn read_resource<T: DeserializeOwned>(
    kind: &str,
    mut value: serde_json::Value,
) -> Outcome<T> {
    if let Some(fields) = value.as_object_mut() {
        fields.remove("live");
    }
    let faults = field_faults(kind, &value);
    if faults.is_empty() {
        return serde_json::from_value(value).map_err(|error| malformed(error.to_string()));
    }
    let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let mut problem = malformed(told.join("; "));
    let violation = |fault: &FieldFault| json!({ "field": fault.field(), "rule": fault.what });
    problem.violations = faults.iter().map(violation).collect();
    Err(problem)
}

fn malformed(detail: String) -> Problem {
    Problem::new(model_codes::MALFORMED, detail)
}

/// The headers by which a client makes a write safe: `If-Match` and `Idempotency-Key`.
#[derive(Debug, Clone, Default)]
pub(super) struct WriteHeaders {
    /// The revision that the client has seen.
    pub(super) if_match: Option<Revision>,
    /// SHA-256 over key, method and path.
    key: Option<[u8; 32]>,
}

impl<S: Send + Sync> FromRequestParts<S> for WriteHeaders {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Self::of(&parts.headers, parts.method.as_str(), parts.uri.path()).map_err(Failure)
    }
}

impl WriteHeaders {
    fn of(headers: &HeaderMap, method: &str, path: &str) -> Outcome<Self> {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"));
        let if_match = match text(header::IF_MATCH.as_str()) {
            None | Some("*") => None,
            Some(tag) => {
                let number = tag.trim().trim_start_matches("W/").trim_matches('"');
                Some(number.parse::<Revision>().map_err(|_| {
                    let detail = format!("If-Match is {tag:?}: must be a revision such as \"12\"");
                    Problem::new(codes::BAD_REQUEST, detail)
                })?)
            }
        };
        let key = match text("idempotency-key") {
            None => None,
            Some(key) if key.is_empty() || key.len() > MAX_KEY_BYTES => {
                let detail = format!("Idempotency-Key must have 1 to {MAX_KEY_BYTES} characters");
                return Err(Problem::new(codes::BAD_REQUEST, detail));
            }
            Some(key) => {
                let mut hash = Sha256::new();
                for part in [key, method, path] {
                    hash.update((part.len() as u64).to_be_bytes());
                    hash.update(part);
                }
                Some(hash.finalize().into())
            }
        };
        Ok(Self { if_match, key })
    }

    /// The request id of an attempt. With a key it is the same in every retry of the client; each
    /// attempt has its own, because the answer "conflict" is remembered under it too.
    pub(super) fn request_id(&self, attempt: u32) -> u128 {
        let Some(key) = self.key else { return rand::random() };
        let mut hash = Sha256::new();
        hash.update(key);
        hash.update(attempt.to_be_bytes());
        let hash: [u8; 32] = hash.finalize().into();
        let (first, _) = hash.split_first_chunk::<16>().expect("32 is more than 16");
        u128::from_be_bytes(*first)
    }

    /// Whether this may be another try of a request that was applied before.
    pub(super) fn may_repeat(&self) -> bool {
        self.key.is_some()
    }

    /// Whether this request was applied before, by an earlier try of the client. Asked only when
    /// the request would be refused now: perhaps just because it already happened.
    pub(super) async fn already_applied(&self, context: &Context) -> Outcome<bool> {
        if !self.may_repeat() {
            return Ok(false);
        }
        for attempt in 0..MAX_ATTEMPTS {
            // A check that no state fulfils: a new request changes nothing, an old one is
            // answered as it was then.
            let mut txn = Txn::new().check("cluster/never", Expect::At(Revision::MAX));
            txn.request_id = self.request_id(attempt);
            if let TxnOutcome::Committed { .. } = context.control.write(txn).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_model::Function;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn if_match_is_a_revision() {
        let of = |tag| WriteHeaders::of(&headers(&[("if-match", tag)]), "PUT", "/a");
        for good in ["\"12\"", "12", "W/\"12\""] {
            assert_eq!(of(good).unwrap().if_match, Some(12), "{good}");
        }
        assert_eq!(of("*").unwrap().if_match, None);
        assert_eq!(of("abc").unwrap_err().code, codes::BAD_REQUEST);
    }

    #[test]
    fn one_key_is_one_request_and_each_attempt_has_its_own_id() {
        let of = |key, method, path| {
            WriteHeaders::of(&headers(&[("idempotency-key", key)]), method, path).unwrap()
        };
        let id = of("k", "PUT", "/a").request_id(0);
        assert_eq!(id, of("k", "PUT", "/a").request_id(0));
        for other in [of("l", "PUT", "/a"), of("k", "POST", "/a"), of("k", "PUT", "/b")] {
            assert_ne!(id, other.request_id(0));
        }
        assert_ne!(id, of("k", "PUT", "/a").request_id(1));
        let none = WriteHeaders::default();
        assert_ne!(none.request_id(0), none.request_id(0));
        let long = headers(&[("idempotency-key", &"x".repeat(256))]);
        assert!(WriteHeaders::of(&long, "PUT", "/a").is_err());
    }

    #[test]
    fn an_unknown_field_is_told_by_its_path_with_the_nearest_name() {
        let text = format!(
            r#"{{"apiVersion":"swarmer/v1","kind":"Function","metadata":{{"name":"a"}},
               "spec":{{"component":"{}","limits":{{"timout":"5s"}}}}}}"#,
            swarmer_model::Digest::of(b"x")
        );
        let problem = JsonBytes(text.into()).read_resource::<Function>("Function").unwrap_err();
        assert_eq!(problem.code, model_codes::MALFORMED);
        assert_eq!(problem.detail, "spec.limits.timout: unknown field; did you mean `timeout`?");
        assert_eq!(problem.document("a")["violations"][0]["field"], "spec.limits.timout");
        let problem = JsonBytes("{".into()).read_resource::<Function>("Function").unwrap_err();
        assert!(problem.detail.contains("line 1"), "{problem}");
    }

    #[test]
    fn an_answer_can_be_sent_back() {
        let mut function =
            Function::new(swarmer_model::Metadata::named("a"), swarmer_model::Digest::of(b"x"));
        function.succeed(None, &[], 0);
        let mut value = serde_json::to_value(&function).unwrap();
        value["live"] = serde_json::json!({ "ready": 1 });
        let again = JsonBytes(value.to_string().into()).read_resource::<Function>("Function");
        assert_eq!(again.unwrap(), function);
    }

    #[tokio::test]
    async fn a_large_document_is_refused() {
        let problem = collect(Body::from(vec![b' '; MAX_JSON_BYTES + 1])).await.unwrap_err();
        assert_eq!(problem.code, codes::BODY_TOO_LARGE);
        assert!(collect(Body::from(vec![b' '; MAX_JSON_BYTES])).await.is_ok());
    }
}
