//! Who may do what: API tokens, roles, and the one rule that stands in for them on loopback.

use std::{net::IpAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use swarmer_model::{Key, Role, TokenKind, TokenRecord};
use swarmer_raft::View;

use crate::{
    agent::Context,
    api::now_ms,
    codes,
    problem::{Outcome, Problem},
};

/// What API tokens start with.
pub(super) const TOKEN_PREFIX: &str = "swa1.";

/// What a path gives access to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Anyone: liveness and readiness tell nothing worth hiding.
    Public,
    /// Reading what concerns the cluster as a whole.
    Look,
    /// Reading in the namespace that the path names.
    LookIn,
    /// Reading keys of all kinds; the handler narrows it down to the token's namespace.
    LookAcross,
    /// Changing what is shared by all namespaces and harms none: artifacts.
    Supply,
    /// Changing or calling in the namespace that the path names.
    ChangeIn,
    /// Nodes, tokens.
    Govern,
}

impl Access {
    /// The least role that has it.
    fn role(self) -> Option<Role> {
        match self {
            Self::Public => None,
            Self::Look | Self::LookIn | Self::LookAcross => Some(Role::Viewer),
            Self::Supply | Self::ChangeIn => Some(Role::Editor),
            Self::Govern => Some(Role::Admin),
        }
    }
}

/// What the bearer of a token may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    /// The token's id; none where no token is needed.
    pub(super) token: Option<String>,
    /// Where the token's record stands in the desired state.
    pub(super) record: Option<Key>,
    pub(super) role: Role,
    /// The only namespace; all of them if none.
    pub(super) namespace: Option<String>,
}

impl Grant {
    /// Everything.
    pub(super) fn everything() -> Self {
        Self { token: None, record: None, role: Role::Admin, namespace: None }
    }

    /// Whether it holds still: its token was neither revoked nor has it expired. For answers that
    /// go on for long.
    pub(super) fn stands(&self, view: &View, now_ms: u64) -> bool {
        let Some(key) = &self.record else { return true };
        let Some(entry) = view.get(key.as_str()) else { return false };
        serde_json::from_slice::<TokenRecord>(&entry.value)
            .is_ok_and(|record| !record.expired(now_ms))
    }

    /// Whether it reaches into a namespace.
    pub(super) fn covers(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
    }

    /// Decides about one request; `namespace` is the one that its path names.
    pub(super) fn check(&self, access: Access, namespace: Option<&str>) -> Outcome<()> {
        let Some(needed) = access.role() else { return Ok(()) };
        let forbidden = |why: String| Err(Problem::new(codes::FORBIDDEN, why));
        if self.role < needed {
            return forbidden(format!("it needs the role {}", role_name(needed)));
        }
        let Some(own) = &self.namespace else { return Ok(()) };
        match access {
            Access::Govern => forbidden(format!(
                "the token is of the namespace {own:?}; this concerns the whole cluster"
            )),
            Access::LookIn | Access::ChangeIn if namespace != Some(own) => {
                forbidden(format!("the token is of the namespace {own:?} only"))
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Editor => "editor",
        Role::Admin => "admin",
    }
}

/// A new API token: its text, shown once, and the hash under which it is kept.
pub(super) fn new_token() -> (String, String) {
    let secret: [u8; 32] = rand::random();
    (format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(secret)), hash(&secret))
}

fn hash(secret: &[u8]) -> String {
    hex::encode(Sha256::digest(secret))
}

/// The hash of the token that a request carries.
fn token_hash(headers: &HeaderMap) -> Outcome<String> {
    let refuse = |why: &str| Problem::new(codes::UNAUTHORIZED, why);
    let value = headers
        .get(header::AUTHORIZATION)
        .ok_or_else(|| refuse("there is no `Authorization: Bearer` header"))?;
    let text = value.to_str().unwrap_or_default();
    let token = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => return Err(refuse("the Authorization header is not of the form `Bearer TOKEN`")),
    };
    let malformed = || refuse("the token is malformed; an API token starts with swa1.");
    let secret = token.strip_prefix(TOKEN_PREFIX).ok_or_else(malformed)?;
    let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| malformed())?;
    if secret.len() != 32 {
        return Err(malformed());
    }
    Ok(hash(&secret))
}

/// The grant of the token that a request carries. The secret is 32 random bytes and found by its
/// hash, so that no comparison tells anything about it.
pub(super) fn grant(context: &Context, headers: &HeaderMap) -> Outcome<Grant> {
    let hash = token_hash(headers)?;
    let unknown = || Problem::new(codes::UNAUTHORIZED, "the token is not known; was it revoked?");
    let key = Key::token(&hash);
    let entry = context.control.view().get(key.as_str()).ok_or_else(unknown)?;
    let record: TokenRecord = serde_json::from_slice(&entry.value).map_err(|_| unknown())?;
    Ok(Grant { record: Some(key), ..of_record(record, now_ms())? })
}

fn of_record(record: TokenRecord, now_ms: u64) -> Outcome<Grant> {
    if record.expired(now_ms) {
        let why = format!("the token {} has expired", record.id);
        return Err(Problem::new(codes::UNAUTHORIZED, why));
    }
    match record.kind {
        TokenKind::Api { role, namespace } => {
            Ok(Grant { token: Some(record.id), record: None, role, namespace })
        }
        TokenKind::Join { .. } => {
            Err(Problem::new(codes::UNAUTHORIZED, "this is a join token; it opens no API"))
        }
    }
}

/// Where no token is needed, a web page in the operator's browser must not get in: its requests
/// carry its own `Origin`, or the name under which its host was bound to loopback.
pub(super) fn check_browser(headers: &HeaderMap, authority: Option<&str>) -> Outcome<()> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"));
    let forbidden = |why: String| Err(Problem::new(codes::BROWSER, why));
    let host = authority.or_else(|| text(header::HOST));
    if let Some(host) = host
        && !is_local(host)
    {
        return forbidden(format!(
            "an API without tokens answers to addresses only, not to {host:?}"
        ));
    }
    if let Some(origin) = text(header::ORIGIN)
        && origin.split_once("://").map(|(_, rest)| rest) != host
    {
        return forbidden(format!("an API without tokens takes no requests of {origin:?}"));
    }
    Ok(())
}

/// Whether this is an address or a name of this machine's loopback: no DNS server can say so.
fn is_local(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.parse::<IpAddr>().is_ok() || host == "localhost" || host.ends_with(".localhost")
}

/// The namespace that a path names, as it stands there: names have no escapes, so an escaped one
/// is never a token's own.
pub(super) fn namespace_of(path: &str) -> Option<&str> {
    path.strip_prefix("/v1/namespaces/")?.split('/').next()
}

/// A shared grant, put into the request's extensions for handlers that narrow further.
pub(super) type SharedGrant = Arc<Grant>;

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_model::Place;

    fn of(role: Role, namespace: Option<&str>) -> Grant {
        let namespace = namespace.map(str::to_owned);
        Grant { token: Some("t".into()), record: None, role, namespace }
    }

    #[test]
    fn the_decision_table() {
        use Access::{ChangeIn, Govern, Look, LookAcross, LookIn, Public, Supply};
        let all = [Public, Look, LookIn, LookAcross, Supply, ChangeIn, Govern];
        // Who, in which namespace the path lies, and what is allowed, in the order of `all`.
        let table = [
            (of(Role::Viewer, None), "shop", [true, true, true, true, false, false, false]),
            (of(Role::Editor, None), "shop", [true, true, true, true, true, true, false]),
            (of(Role::Admin, None), "shop", [true; 7]),
            (of(Role::Viewer, Some("shop")), "shop", [true, true, true, true, false, false, false]),
            (of(Role::Editor, Some("shop")), "shop", [true, true, true, true, true, true, false]),
            (of(Role::Admin, Some("shop")), "shop", [true, true, true, true, true, true, false]),
            (
                of(Role::Viewer, Some("shop")),
                "bank",
                [true, true, false, true, false, false, false],
            ),
            (of(Role::Editor, Some("shop")), "bank", [true, true, false, true, true, false, false]),
            (of(Role::Admin, Some("shop")), "bank", [true, true, false, true, true, false, false]),
        ];
        for (grant, namespace, expected) in table {
            for (access, expected) in all.into_iter().zip(expected) {
                let outcome = grant.check(access, Some(namespace));
                assert_eq!(outcome.is_ok(), expected, "{grant:?} {access:?} in {namespace}");
                if let Err(problem) = outcome {
                    assert_eq!(problem.code, codes::FORBIDDEN);
                }
            }
        }
    }

    #[test]
    fn a_token_is_found_by_its_hash_and_others_are_refused() {
        let (text, hash) = new_token();
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            token_hash(&headers)
        };
        assert_eq!(with(&format!("Bearer {text}")).unwrap(), hash);
        assert_eq!(with(&format!("bearer  {text}")).unwrap(), hash);
        for bad in ["", "Basic x", "Bearer", "Bearer swj1.x", "Bearer swa1.AAAA", &text] {
            let problem = with(bad).unwrap_err();
            assert_eq!(problem.code, codes::UNAUTHORIZED, "{bad}");
            assert!(!problem.detail.contains("AAAA"));
        }
        assert_eq!(token_hash(&HeaderMap::new()).unwrap_err().code, codes::UNAUTHORIZED);
    }

    #[test]
    fn expired_and_join_tokens_open_nothing() {
        let record =
            |kind| TokenRecord { id: "a".into(), kind, expires_at_ms: 10, created_at_ms: 0 };
        let api = TokenKind::Api { role: Role::Viewer, namespace: None };
        assert_eq!(of_record(record(api.clone()), 9).unwrap().role, Role::Viewer);
        assert!(of_record(record(api), 10).unwrap_err().detail.contains("expired"));
        let join = TokenKind::Join { uses_left: 1, place: Place::default() };
        assert!(of_record(record(join), 0).unwrap_err().detail.contains("join token"));
    }

    #[test]
    fn web_pages_do_not_get_in_where_no_token_is_needed() {
        let check = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            check_browser(&headers, None).is_ok()
        };
        for good in ["127.0.0.1:7401", "localhost:7401", "[::1]:7401", "a.localhost"] {
            assert!(check(good, None), "{good}");
        }
        assert!(check("127.0.0.1:7401", Some("http://127.0.0.1:7401")));
        assert!(!check("evil.example:7401", None), "a name rebound to loopback");
        assert!(!check("127.0.0.1:7401", Some("http://evil.example")), "a foreign page");
        assert!(!check("127.0.0.1:7401", Some("null")), "a page without an origin");
    }

    #[test]
    fn the_namespace_is_read_from_the_path_as_it_stands() {
        assert_eq!(namespace_of("/v1/namespaces/a/functions"), Some("a"));
        assert_eq!(namespace_of("/v1/namespaces/%61/functions"), Some("%61"));
        assert_eq!(namespace_of("/v1/nodes"), None);
    }
}
