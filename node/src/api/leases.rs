//! `/v1/namespaces/{namespace}/leases`: acquired, renewed, released, shown.
//!
//! A lease is held from the transaction that creates its entry to the one that deletes it, so the
//! revision at which the entry came to be is the fencing token. Whether it is over is decided by
//! the leader alone (`agent::leases`), which deletes it; nothing here looks at a clock.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use swarmer_model::{Key, Kind, Lease, LeaseSpec, LeaseStatus, Millis, Resource as _, Revision};
use swarmer_raft::{Entry, Expect, Outcome as TxnOutcome, Txn};

use crate::{
    agent::Context,
    api::{
        Api,
        reply::{self, Answer},
        request::{At, JsonBytes, MAX_ATTEMPTS, WriteHeaders},
        router::BARRIER,
    },
    codes,
    problem::{Outcome, Problem},
};

/// The most leases of a cluster: the leader keeps the time of each. Ten for each of a thousand
/// nodes.
const MAX_LEASES: usize = 10_000;

type Named = At<(String, String)>;

/// What a lease is asked for with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acquire {
    holder: String,
    ttl: Millis,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Renew {
    token: Revision,
    /// As before if none.
    ttl: Option<Millis>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    token: Revision,
}

fn read(key: &str, entry: &Entry) -> Outcome<Lease> {
    let mut lease: Lease = serde_json::from_slice(&entry.value).map_err(|error| {
        Problem::new(codes::INTERNAL, format!("{key} cannot be read by this version: {error}"))
    })?;
    lease.metadata.revision = Some(entry.revision);
    lease.status = Some(LeaseStatus { token: entry.created });
    Ok(lease)
}

fn write(lease: &Lease) -> Outcome<Vec<u8>> {
    serde_json::to_vec(lease).map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))
}

fn answer(seen: Revision, lease: &Lease) -> Response {
    reply::resource(seen, lease.metadata.revision.unwrap_or_default(), lease)
}

/// Somebody has it.
fn held(lease: &Lease) -> Problem {
    let name = &lease.metadata.name;
    let token = lease.status.as_ref().map(|status| status.token).unwrap_or_default();
    let LeaseSpec { holder, ttl } = &lease.spec;
    Problem::new(
        codes::LEASE_HELD,
        format!("{holder:?} holds {name:?} with the token {token}, for up to {ttl} at a time"),
    )
    .retry_after(1)
}

/// The caller has it no more, or never had.
fn lost(name: &str, token: Revision, now: Option<&Lease>) -> Problem {
    let now = match now {
        None => "nobody holds it now".to_owned(),
        Some(now) => format!("{:?} holds it now", now.spec.holder),
    };
    let detail = format!("the possession of {name:?} with the token {token} is over: {now}");
    Problem::new(codes::LEASE_LOST, detail)
}

pub(super) async fn list(State(api): State<Arc<Api>>, At(namespace): At<String>) -> Answer {
    let prefix: String = Key::lease(&namespace, "").into();
    let (seen, entries) = api.member()?.control.view().list(&prefix);
    // What cannot be read by this version is left out.
    let leases = entries.iter().filter_map(|(key, entry)| read(key, entry).ok());
    Ok(reply::list(seen, leases.map(|lease| json!(lease)).collect()))
}

pub(super) async fn get(State(api): State<Arc<Api>>, At((namespace, name)): Named) -> Answer {
    let store = Leases::of(api.member()?, &namespace, &name);
    let (seen, lease) = store.now()?;
    let missing = || Problem::new(codes::NOT_FOUND, format!("nobody holds {namespace}/{name}"));
    Ok(answer(seen, &lease.ok_or_else(missing)?))
}

pub(super) async fn acquire(
    State(api): State<Arc<Api>>,
    At((namespace, name)): Named,
    headers: WriteHeaders,
    body: JsonBytes,
) -> Answer {
    let Acquire { holder, ttl, annotations } = body.read()?;
    let wanted = Lease::new(&namespace, &name, LeaseSpec { holder, ttl }).annotated(annotations);
    wanted.validate()?;
    let store = Leases::of(api.member()?, &namespace, &name);
    let (seen, lease) = store.acquire(&headers, &wanted).await?;
    let mut response = answer(seen, &lease);
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

pub(super) async fn renew(
    State(api): State<Arc<Api>>,
    At((namespace, name)): Named,
    headers: WriteHeaders,
    body: JsonBytes,
) -> Answer {
    let Renew { token, ttl, annotations } = body.read()?;
    let store = Leases::of(api.member()?, &namespace, &name);
    let change = |lease: &mut Lease| -> Outcome<()> {
        if let Some(ttl) = ttl {
            lease.spec.ttl = ttl;
        }
        if let Some(annotations) = &annotations {
            lease.metadata.annotations.clone_from(annotations);
        }
        Ok(lease.validate()?)
    };
    let (seen, lease) = store.renew(&headers, token, change).await?;
    let mut response = answer(seen, &lease);
    // It stays with its holder, who does this many times a minute.
    response.extensions_mut().insert(reply::Unchanged);
    Ok(response)
}

pub(super) async fn release(
    State(api): State<Arc<Api>>,
    At((namespace, name)): Named,
    headers: WriteHeaders,
    body: JsonBytes,
) -> Answer {
    let Release { token } = body.read()?;
    let store = Leases::of(api.member()?, &namespace, &name);
    let revision = store.release(&headers, token).await?;
    let released: Value = json!({ "released": name, "token": token, "revision": revision });
    Ok(reply::read(revision, &released))
}

/// One lease in the control state.
struct Leases {
    context: Arc<Context>,
    key: Key,
    name: String,
}

impl Leases {
    fn of(context: Arc<Context>, namespace: &str, name: &str) -> Self {
        Self { context, key: Key::lease(namespace, name), name: name.to_owned() }
    }

    fn entry(&self) -> (Revision, Option<Entry>) {
        let (seen, mut entries) = self.context.control.view().get_many(&[self.key.as_str()]);
        (seen, entries.pop().flatten())
    }

    fn now(&self) -> Outcome<(Revision, Option<Lease>)> {
        let (seen, entry) = self.entry();
        let lease = entry.map(|entry| read(self.key.as_str(), &entry)).transpose()?;
        Ok((seen, lease))
    }

    /// As the cluster has it now: what this node knows may be old, so it refuses nothing by it.
    async fn fresh(&self) -> Outcome<(Revision, Option<Lease>)> {
        self.context.control.barrier(BARRIER).await?;
        self.now()
    }

    async fn acquire(&self, headers: &WriteHeaders, wanted: &Lease) -> Outcome<(Revision, Lease)> {
        for attempt in 0..MAX_ATTEMPTS {
            let mut now = self.now()?.1;
            if now.is_some() {
                now = self.fresh().await?.1;
            }
            if let Some(now) = now {
                // Sent again by the one who has it, it may be what made it the holder.
                let again = headers.may_repeat() && now.spec.holder == wanted.spec.holder;
                if !again {
                    return Err(held(&now));
                }
            }
            if self.context.control.view().count(Kind::Lease.prefix(), MAX_LEASES) >= MAX_LEASES {
                let detail = format!("there are {MAX_LEASES} leases already; release some");
                return Err(Problem::new(codes::BUSY, detail).retry_after(1));
            }
            let key = self.key.as_str();
            let mut txn = Txn::new().check(key, Expect::Absent).put(key, write(wanted)?);
            txn.request_id = headers.request_id(attempt);
            match self.context.control.write(txn).await? {
                TxnOutcome::Committed { revision: token } => return self.mine(token).await,
                TxnOutcome::Conflict { .. } => {
                    if let (_, Some(now)) = self.fresh().await? {
                        return Err(held(&now));
                    }
                }
            }
        }
        let detail = format!("{:?} changed hands {MAX_ATTEMPTS} times meanwhile", self.name);
        Err(Problem::new(codes::CONFLICT, detail).retry_after(1))
    }

    /// What was acquired with this token. An acquisition that is sent again is answered as it was
    /// then, and may have ended since.
    async fn mine(&self, token: Revision) -> Outcome<(Revision, Lease)> {
        let is_mine = |lease: &Lease| lease.status.as_ref().is_some_and(|s| s.token == token);
        if let (seen, Some(lease)) = self.now()?
            && is_mine(&lease)
        {
            return Ok((seen, lease));
        }
        match self.fresh().await? {
            (seen, Some(lease)) if is_mine(&lease) => Ok((seen, lease)),
            (_, now) => Err(lost(&self.name, token, now.as_ref())),
        }
    }

    async fn renew(
        &self,
        headers: &WriteHeaders,
        token: Revision,
        change: impl Fn(&mut Lease) -> Outcome<()>,
    ) -> Outcome<(Revision, Lease)> {
        for attempt in 0..MAX_ATTEMPTS {
            let (_, mut lease) = self.mine(token).await?;
            let expected = lease.metadata.revision.take().unwrap_or_default();
            change(&mut lease)?;
            lease.status = None;
            let key = self.key.as_str();
            let mut txn = Txn::new().check(key, Expect::At(expected)).put(key, write(&lease)?);
            txn.request_id = headers.request_id(attempt);
            match self.context.control.write(txn).await? {
                // Sent again it is answered as it was then, which may be other than what is here.
                TxnOutcome::Committed { .. } if headers.may_repeat() => {
                    return self.mine(token).await;
                }
                TxnOutcome::Committed { revision } => {
                    lease.metadata.revision = Some(revision);
                    lease.status = Some(LeaseStatus { token });
                    return Ok((revision, lease));
                }
                TxnOutcome::Conflict { .. } => {
                    self.context.control.barrier(BARRIER).await?;
                }
            }
        }
        let detail = format!("{:?} was renewed {MAX_ATTEMPTS} times meanwhile", self.name);
        Err(Problem::new(codes::CONFLICT, detail).retry_after(1))
    }

    async fn release(&self, headers: &WriteHeaders, token: Revision) -> Outcome<Revision> {
        for attempt in 0..MAX_ATTEMPTS {
            let lease = match self.mine(token).await {
                Ok((_, lease)) => lease,
                // It is over just because it was released, by an earlier try.
                Err(_) if headers.already_applied(&self.context).await? => {
                    return Ok(self.context.control.view().revision());
                }
                Err(problem) => return Err(problem),
            };
            let expected = lease.metadata.revision.unwrap_or_default();
            let key = self.key.as_str();
            let mut txn = Txn::new().check(key, Expect::At(expected)).delete(key);
            txn.request_id = headers.request_id(attempt);
            match self.context.control.write(txn).await? {
                TxnOutcome::Committed { revision } => return Ok(revision),
                TxnOutcome::Conflict { .. } => {
                    self.context.control.barrier(BARRIER).await?;
                }
            }
        }
        let detail = format!("{:?} was renewed {MAX_ATTEMPTS} times meanwhile", self.name);
        Err(Problem::new(codes::CONFLICT, detail).retry_after(1))
    }
}
