//! Functions in the control state: read, changed by one transaction, deleted.

use std::collections::BTreeSet;

use bytes::Bytes;
use swarmer_model::{Function, Key, Placement, Revision};
use swarmer_raft::{Entry, Outcome as TxnOutcome, Txn, View};

use crate::{
    agent::Context,
    api::{
        functions::claims,
        request::{MAX_ATTEMPTS, WriteHeaders},
    },
    codes,
    desired::serving,
    problem::{Outcome, Problem},
};

/// A function as it stands in the state.
pub(super) struct Stored {
    /// With `metadata.revision` filled in.
    pub(super) function: Function,
    pub(super) revision: Revision,
    pub(super) placement: Placement,
}

impl Stored {
    /// The versions that requests are sent to now.
    pub(super) fn serving(&self) -> Vec<u32> {
        let shares = serving(&self.function, &self.placement);
        shares.into_iter().map(|target| target.version).collect()
    }
}

pub(super) fn missing(namespace: &str, name: &str) -> Problem {
    Problem::new(codes::NOT_FOUND, format!("there is no function {namespace}/{name}"))
}

fn function_of(key: &str, entry: &Entry) -> Outcome<Function> {
    let mut function: Function = serde_json::from_slice(&entry.value).map_err(|error| {
        let detail = format!("{key} cannot be read by this version: {error}");
        Problem::new(codes::INTERNAL, detail)
    })?;
    function.metadata.revision = Some(entry.revision);
    Ok(function)
}

fn placement_of(entry: Option<&Entry>) -> Placement {
    entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or_default()
}

/// A function with its placement, at one revision of the state.
pub(super) fn read(
    view: &View,
    namespace: &str,
    name: &str,
) -> Outcome<(Revision, Option<Stored>)> {
    let keys = [Key::function(namespace, name), Key::placement(namespace, name)];
    let (seen, mut entries) = view.get_many(&[keys[0].as_str(), keys[1].as_str()]);
    let placement = placement_of(entries.pop().flatten().as_ref());
    let Some(entry) = entries.pop().flatten() else { return Ok((seen, None)) };
    let function = function_of(keys[0].as_str(), &entry)?;
    Ok((seen, Some(Stored { function, revision: entry.revision, placement })))
}

/// All functions of a namespace. What cannot be read by this version is left out, and logged.
pub(super) fn list(view: &View, namespace: &str) -> (Revision, Vec<Stored>) {
    let prefix: String = Key::function(namespace, "").into();
    let (seen, entries) = view.list(&prefix);
    let mut all = Vec::new();
    for (key, entry) in entries {
        match function_of(&key, &entry) {
            Ok(function) => {
                let placement = Key::placement(namespace, &function.metadata.name);
                let placement = placement_of(view.get(placement.as_str()).as_ref());
                all.push(Stored { function, revision: entry.revision, placement });
            }
            Err(problem) => {
                tracing::error!(target: "swarmer::api", key, detail = %problem.detail,
                    "a function is left out of a list");
            }
        }
    }
    (seen, all)
}

/// Whether the function is as the client has seen it; revision 0 is "there is none".
fn check_seen(expected: Option<Revision>, found: Option<Revision>, id: &str) -> Outcome<()> {
    match (expected, found) {
        (None, _) | (Some(0), None) => Ok(()),
        (Some(expected), Some(found)) if expected == found => Ok(()),
        (Some(expected), found) => {
            let now = found.map_or("does not exist".to_owned(), |r| format!("is at revision {r}"));
            let detail = format!("{id} was seen at revision {expected}, it {now}");
            Err(Problem::new(codes::CONFLICT, detail))
        }
    }
}

/// What a function is to become: from what it is now and the revision of the state.
pub(super) type Change<'a> =
    dyn Fn(Option<&Stored>, Revision) -> Outcome<Function> + Send + Sync + 'a;

/// One step of a change, looked at without doing it.
pub(super) fn preview(
    view: &View,
    (namespace, name): (&str, &str),
    expected: Option<Revision>,
    change: &Change<'_>,
) -> Outcome<Function> {
    let (seen, stored) = read(view, namespace, name)?;
    let found = stored.as_ref().map(|stored| stored.revision);
    check_seen(expected, found, &format!("{namespace}/{name}"))?;
    let (next, _) = step(view, seen, stored.as_ref(), change)?;
    Ok(next)
}

/// The next function and its claims.
fn step(
    view: &View,
    seen: Revision,
    stored: Option<&Stored>,
    change: &Change<'_>,
) -> Outcome<(Function, claims::Plan)> {
    let mut next = change(stored, seen)?;
    next.metadata.revision = None;
    let before = stored.map(|stored| claims::keys(&stored.function)).unwrap_or_default();
    let look = |key: &str| claims::look(view, key);
    let plan = claims::plan(&next.id(), &before, &claims::keys(&next), look)?;
    Ok((next, plan))
}

/// Changes a function by one transaction, together with the claims of its routes. A race that is
/// lost is run again, unless the client said what it had seen.
pub(super) async fn commit(
    context: &Context,
    headers: &WriteHeaders,
    (namespace, name): (&str, &str),
    expected: Option<Revision>,
    change: &Change<'_>,
) -> Outcome<Stored> {
    let view = context.control.view();
    let id = format!("{namespace}/{name}");
    let key = Key::function(namespace, name);
    for attempt in 0..MAX_ATTEMPTS {
        let (seen, stored) = read(&view, namespace, name)?;
        let found = stored.as_ref().map(|stored| stored.revision);
        let judged = check_seen(expected, found, &id)
            .and_then(|()| step(&view, seen, stored.as_ref(), change));
        let (next, plan) = match judged {
            Ok(next) => next,
            // It may be refused just because it already happened: then the answer is as it was.
            Err(problem) => match stored {
                Some(stored) if attempt == 0 && headers.already_applied(context).await? => {
                    return Ok(stored);
                }
                _ => return Err(problem),
            },
        };
        if let Some(stored) = stored {
            let mut now = stored.function.clone();
            now.metadata.revision = None;
            if now == next {
                return Ok(stored);
            }
        }
        let value = serde_json::to_vec(&next)
            .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
        let expect = found.map_or(swarmer_raft::Expect::Absent, swarmer_raft::Expect::At);
        let mut txn = Txn::new().check(key.as_str(), expect).put(key.as_str(), Bytes::from(value));
        txn = plan.add_to(txn, &id);
        txn.request_id = headers.request_id(attempt);
        match context.control.write(txn).await? {
            TxnOutcome::Committed { revision } => {
                // Read again: a retry of what was applied before has another result than `next`.
                return match read(&view, namespace, name)? {
                    (_, Some(stored)) => Ok(stored),
                    (_, None) => {
                        let mut function = next;
                        function.metadata.revision = Some(revision);
                        Ok(Stored { function, revision, placement: Placement::default() })
                    }
                };
            }
            TxnOutcome::Conflict { revision, .. } => {
                let deadline = std::time::Duration::from_secs(1);
                // What was in the way must be seen before the next look.
                let _ = view.wait_for(revision, deadline).await;
            }
        }
    }
    let detail = format!("{id} changed {MAX_ATTEMPTS} times while this was tried");
    Err(Problem::new(codes::CONFLICT, detail).retry_after(1))
}

/// Deletes a function with its placement and claims.
pub(super) async fn delete(
    context: &Context,
    headers: &WriteHeaders,
    (namespace, name): (&str, &str),
) -> Outcome<Revision> {
    let view = context.control.view();
    let id = format!("{namespace}/{name}");
    for attempt in 0..MAX_ATTEMPTS {
        let (seen, stored) = read(&view, namespace, name)?;
        let judged = match &stored {
            None => Err(missing(namespace, name)),
            Some(stored) => check_seen(headers.if_match, Some(stored.revision), &id),
        };
        if let Err(problem) = judged {
            if attempt == 0 && headers.already_applied(context).await? {
                return Ok(seen);
            }
            return Err(problem);
        }
        let Some(stored) = stored else { return Err(missing(namespace, name)) };
        let key = Key::function(namespace, name);
        let look = |key: &str| claims::look(&view, key);
        let before = claims::keys(&stored.function);
        let plan = claims::plan(&id, &before, &BTreeSet::new(), look)?;
        let mut txn = Txn::new()
            .check(key.as_str(), swarmer_raft::Expect::At(stored.revision))
            .delete(key)
            .delete(Key::placement(namespace, name));
        txn = plan.add_to(txn, &id);
        txn.request_id = headers.request_id(attempt);
        match context.control.write(txn).await? {
            TxnOutcome::Committed { revision } => return Ok(revision),
            TxnOutcome::Conflict { revision, .. } => {
                let _ = view.wait_for(revision, std::time::Duration::from_secs(1)).await;
            }
        }
    }
    let detail = format!("{id} changed {MAX_ATTEMPTS} times while this was tried");
    Err(Problem::new(codes::CONFLICT, detail).retry_after(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_must_still_be_so() {
        assert!(check_seen(None, Some(3), "f").is_ok());
        assert!(check_seen(Some(3), Some(3), "f").is_ok());
        assert!(check_seen(Some(0), None, "f").is_ok(), "create only");
        for (expected, found) in [(Some(3), Some(4)), (Some(3), None), (Some(0), Some(1))] {
            assert_eq!(check_seen(expected, found, "f").unwrap_err().code, codes::CONFLICT);
        }
    }
}
