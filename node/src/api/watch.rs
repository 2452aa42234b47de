//! `/v1/watch`: changes of the desired state as server-sent events (WHATWG HTML, section 9.2).

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Extension,
    extract::State,
    response::{
        IntoResponse as _,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, stream};
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};
use swarmer_model::{
    Kind, Revision,
    planted::{self, Bug},
};
use swarmer_raft::{RaftError, View, Watch, WatchEnd, WatchItem};
use tokio::{sync::OwnedSemaphorePermit, time::Interval};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{
        Api,
        auth::{Grant, SharedGrant},
        now_ms,
        reply::{Answer, REVISION},
        request::Params,
    },
    codes,
    problem::{Outcome, Problem},
};

/// How often a silent watch shows that it lives; below the idle time of common proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often a watch looks whether its token still holds: a revoked one sees nothing for longer.
const LOOK_AT_TOKEN: Duration = Duration::from_secs(1);
/// What is shown. Tokens never are, nor is what the cluster keeps for itself.
const SHOWN: [Kind; 6] =
    [Kind::Function, Kind::Node, Kind::Region, Kind::Placement, Kind::RouteClaim, Kind::Lease];
/// What is shown to a token of one namespace, within it.
const SHOWN_IN_NAMESPACE: [Kind; 3] = [Kind::Function, Kind::Placement, Kind::Lease];

#[derive(Deserialize)]
pub(super) struct Query {
    from: Option<Revision>,
    #[serde(default)]
    prefix: String,
}

pub(super) async fn watch(
    State(api): State<Arc<Api>>,
    Extension(grant): Extension<SharedGrant>,
    headers: HeaderMap,
    Params(query): Params<Query>,
) -> Answer {
    let context = api.member()?;
    let permit = Arc::clone(&api.watchers).try_acquire_owned().map_err(|_| {
        Problem::new(codes::BUSY, "too many watches are open on this node").retry_after(5)
    })?;
    let mut from = query.from.or(last_event_id(&headers)?);
    if planted::is_on(Bug::SkipWatchEvent) {
        from = from.map(|seen| seen + 1);
    }
    let view = context.control.view();
    let start = match view.watch(from, &query.prefix) {
        Ok(watch) => Source::Open(Box::new(watch)),
        Err(RaftError::Compacted { oldest, .. }) => Source::Compacted(oldest),
        Err(error) => return Err(Problem::of(&error, "watching").into()),
    };
    let revision = view.revision();
    let look = tokio::time::interval(LOOK_AT_TOKEN);
    let stop = api.shutdown.clone();
    let watcher = Watcher { source: start, view, api, grant, look, stop, _permit: permit };
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(watcher.events()).keep_alive(keep_alive).into_response();
    response.headers_mut().insert(REVISION, HeaderValue::from(revision));
    Ok(response)
}

/// Where a client that reconnects left off.
fn last_event_id(headers: &HeaderMap) -> Outcome<Option<Revision>> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let revision = id.to_str().ok().and_then(|id| id.parse().ok());
    revision.map(Some).ok_or_else(|| {
        Problem::new(codes::BAD_REQUEST, format!("Last-Event-ID is {id:?}: must be a revision"))
    })
}

enum Source {
    Open(Box<Watch>),
    Compacted(Revision),
    Ended,
}

struct Watcher {
    source: Source,
    api: Arc<Api>,
    view: View,
    grant: SharedGrant,
    look: Interval,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut watcher| async move {
            let event = watcher.next().await?;
            Some((Ok(event), watcher))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            let watch = match &mut self.source {
                Source::Open(watch) => watch,
                Source::Compacted(oldest) => {
                    let event = compacted(*oldest);
                    self.api.behind.fetch_add(1, Ordering::Relaxed);
                    self.source = Source::Ended;
                    return Some(event);
                }
                Source::Ended => return None,
            };
            let item = tokio::select! {
                () = self.stop.cancelled() => return None,
                _ = self.look.tick() => {
                    if self.grant.stands(&self.view, now_ms()) {
                        continue;
                    }
                    self.source = Source::Ended;
                    return Some(over());
                }
                item = watch.next() => item,
            };
            match item {
                Ok(item) => {
                    if let Some(data) = change(&item, &self.grant) {
                        let id = item.revision.to_string();
                        return Some(
                            Event::default().event("change").id(id).data(data.to_string()),
                        );
                    }
                }
                Err(WatchEnd::Compacted { oldest }) => self.source = Source::Compacted(oldest),
                Err(WatchEnd::Closed) => return None,
            }
        }
    }
}

/// The history does not reach back far enough: the client lists and starts anew.
fn compacted(oldest: Revision) -> Event {
    Event::default().event("compacted").data(json!({ "oldest": oldest }).to_string())
}

/// The token was revoked or has expired: asked anew, the answer would be a refusal.
fn over() -> Event {
    let code = codes::UNAUTHORIZED;
    let why = json!({ "code": code.name, "detail": "the token was revoked or has expired" });
    Event::default().event("unauthorized").data(why.to_string())
}

/// What a change shows to this client; none if nothing.
fn change(item: &WatchItem, grant: &Grant) -> Option<Value> {
    let events: Vec<Value> = item
        .events
        .iter()
        .filter(|event| visible(&event.key, grant))
        .map(|event| {
            let value = event.value.as_deref().map(|value| {
                serde_json::from_slice(value)
                    .unwrap_or_else(|_| json!(String::from_utf8_lossy(value)))
            });
            json!({ "key": event.key, "value": value })
        })
        .collect();
    (!events.is_empty()).then(|| json!({ "revision": item.revision, "events": events }))
}

fn visible(key: &str, grant: &Grant) -> bool {
    match &grant.namespace {
        None => SHOWN.iter().any(|kind| key.starts_with(kind.prefix())),
        Some(namespace) => SHOWN_IN_NAMESPACE.iter().any(|kind| {
            let rest = key.strip_prefix(kind.prefix());
            let rest = rest.and_then(|rest| rest.strip_prefix(namespace.as_str()));
            rest.is_some_and(|rest| rest.starts_with('/'))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use swarmer_model::Role;

    fn of(namespace: Option<&str>) -> Grant {
        let namespace = namespace.map(str::to_owned);
        Grant { token: None, record: None, role: Role::Viewer, namespace }
    }

    #[test]
    fn tokens_and_secrets_are_never_shown() {
        for key in ["tokens/ab", "cluster/ca", "cluster/names/a", "anything"] {
            assert!(!visible(key, &of(None)), "{key}");
        }
        for key in ["functions/a/f", "nodes/1", "placements/a/f", "claims/*/f", "leases/a/l"] {
            assert!(visible(key, &of(None)), "{key}");
        }
    }

    #[test]
    fn a_token_of_a_namespace_sees_only_that() {
        let shop = of(Some("shop"));
        assert!(visible("functions/shop/f", &shop));
        assert!(visible("placements/shop/f", &shop));
        assert!(visible("leases/shop/l", &shop));
        for key in
            ["functions/shop2/f", "functions/bank/shop", "leases/bank/l", "nodes/1", "claims/*/f"]
        {
            assert!(!visible(key, &shop), "{key}");
        }
    }

    #[test]
    fn a_change_is_told_as_json() {
        let event = |key: &str, value: Option<&'static [u8]>| swarmer_raft::Event {
            key: key.into(),
            value: value.map(Bytes::from_static),
        };
        let item = WatchItem {
            revision: 7,
            events: vec![
                event("functions/a/f", Some(br#"{"a":1}"#)),
                event("claims/*/f", Some(b"a/f")),
                event("nodes/1", None),
                event("tokens/x", Some(b"secret")),
            ],
        };
        let told = change(&item, &of(None)).unwrap();
        assert_eq!(told["revision"], 7);
        assert_eq!(told["events"].as_array().unwrap().len(), 3);
        assert_eq!(told["events"][0]["value"]["a"], 1);
        assert_eq!(told["events"][1]["value"], "a/f");
        assert_eq!(told["events"][2]["value"], Value::Null);
        let only = WatchItem { revision: 8, events: vec![event("tokens/x", None)] };
        assert_eq!(change(&only, &of(None)), None);
    }

    #[test]
    fn a_client_goes_on_where_it_left_off() {
        let mut headers = HeaderMap::new();
        assert_eq!(last_event_id(&headers).unwrap(), None);
        headers.insert("last-event-id", "12".parse().unwrap());
        assert_eq!(last_event_id(&headers).unwrap(), Some(12));
        headers.insert("last-event-id", "x".parse().unwrap());
        assert!(last_event_id(&headers).is_err());
    }
}
