//! Functions in the control state: read, changed by one transaction, deleted.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use swarmer_model::{Function, Key, Placement, Revision};
use swarmer_raft::{Entry, Expect, Outcome as TxnOutcome, Txn, View};

use crate::{
    agent::Context,
    api::{
        functions::{claims, near},
        request::{MAX_ATTEMPTS, WriteHeaders},
        router::BARRIER,
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

pub(super) fn function_of(key: &str, entry: &Entry) -> Outcome<Function> {
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
    let (seen, entries) = view.get_many(&[keys[0].as_str(), keys[1].as_str()]);
    Ok((seen, stored(&keys[0], entries[0].as_ref(), entries[1].as_ref())?))
}

fn stored(
    key: &Key,
    function: Option<&Entry>,
    placement: Option<&Entry>,
) -> Outcome<Option<Stored>> {
    let Some(entry) = function else { return Ok(None) };
    let function = function_of(key.as_str(), entry)?;
    let placement = placement_of(placement);
    Ok(Some(Stored { function, revision: entry.revision, placement }))
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

/// What becomes of a function.
pub(super) enum Next {
    Put(Box<Function>),
    Delete,
    /// It stays, and the transaction happens only if it is as it was seen.
    Keep,
}

/// What a function is to become: from what it is now and the revision of the state.
pub(super) type Change<'a> = dyn Fn(Option<&Stored>, Revision) -> Outcome<Next> + Send + Sync + 'a;

/// What is wanted of one function.
pub(super) struct Write<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// The revision that the client has seen, if it said so.
    pub(super) expected: Option<Revision>,
    pub(super) change: &'a Change<'a>,
    /// Which change of a request with several it is.
    pub(super) place: Option<&'a str>,
}

impl Write<'_> {
    /// The problem, told of this one.
    fn told(&self, problem: Problem) -> Problem {
        match self.place {
            Some(place) => problem.at(place),
            None => problem,
        }
    }

    fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Several writes, judged at one revision of the state.
struct Judged {
    /// What each becomes; none where it goes, or does not exist.
    becomes: Vec<Option<Becomes>>,
    txn: Txn,
}

/// What a function becomes.
struct Becomes {
    function: Function,
    placement: Placement,
    /// Of its last change; none if that is this one.
    revision: Option<Revision>,
}

/// Looks at writes without doing them.
fn judge(view: &View, writes: &[Write<'_>]) -> Outcome<(Revision, Judged)> {
    let keys = writes.iter().flat_map(|write| {
        [Key::function(write.namespace, write.name), Key::placement(write.namespace, write.name)]
    });
    let keys: Vec<Key> = keys.collect();
    let (seen, entries) = view.get_many(&keys.iter().map(Key::as_str).collect::<Vec<_>>());
    let mut judged = Judged { becomes: Vec::new(), txn: Txn::new() };
    let mut moves = Vec::new();
    let mut near: BTreeMap<&str, Vec<near::Move>> = BTreeMap::new();
    for (write, (keys, entries)) in writes.iter().zip(keys.chunks(2).zip(entries.chunks(2))) {
        let before = stored(&keys[0], entries[0].as_ref(), entries[1].as_ref())?;
        let found = before.as_ref().map(|before| before.revision);
        check_seen(write.expected, found, &write.id()).map_err(|problem| write.told(problem))?;
        let next = (write.change)(before.as_ref(), seen);
        let next = next.map_err(|problem| write.told(problem))?;
        let expect = found.map_or(Expect::Absent, Expect::At);
        judged.txn = judged.txn.check(keys[0].as_str(), expect);
        let held = before.as_ref().map(|before| claims::keys(&before.function)).unwrap_or_default();
        let unchanged = |before: Stored| {
            let Stored { function, revision, placement } = before;
            Becomes { function, placement, revision: Some(revision) }
        };
        let then = match &next {
            Next::Put(next) => Some(&**next),
            Next::Delete => None,
            Next::Keep => before.as_ref().map(|before| &before.function),
        };
        let now = before.as_ref().map(|before| &before.function);
        near.entry(write.namespace).or_default().push(near::Move::of(write.name, now, then));
        let (wanted, becomes) = match next {
            Next::Put(mut next) => {
                next.metadata.revision = None;
                let same = before.as_ref().is_some_and(|before| {
                    let mut now = before.function.clone();
                    now.metadata.revision = None;
                    now == *next
                });
                let claims = claims::keys(&next);
                if same {
                    (claims, before.map(unchanged))
                } else {
                    let value = serde_json::to_vec(&next)
                        .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
                    judged.txn = judged.txn.put(keys[0].as_str(), Bytes::from(value));
                    let placement = before.map(|before| before.placement).unwrap_or_default();
                    (claims, Some(Becomes { function: *next, placement, revision: None }))
                }
            }
            Next::Delete => {
                judged.txn = judged.txn.delete(keys[0].as_str()).delete(keys[1].as_str());
                (BTreeSet::new(), None)
            }
            Next::Keep => (held.clone(), before.map(unchanged)),
        };
        moves.push(claims::Move { owner: write.id(), before: held, after: wanted });
        judged.becomes.push(becomes);
    }
    let plan = claims::plan(&moves, |key| claims::look(view, key))?;
    judged.txn = plan.add_to(judged.txn);
    for (namespace, moves) in near {
        let expected = near::plan(&moves, |name| near::look(view, namespace, name))?;
        judged.txn = near::add_to(judged.txn, namespace, expected);
    }
    Ok((seen, judged))
}

/// Whether a newer state may judge otherwise.
fn depends_on_state(problem: &Problem) -> bool {
    let those =
        [codes::CONFLICT, codes::EXISTS, codes::NOT_FOUND, codes::ROUTE_TAKEN, codes::NEAR_CIRCLE];
    those.contains(&problem.code)
}

/// What one function would become, without doing it.
pub(super) async fn preview(context: &Context, write: Write<'_>) -> Outcome<Option<Function>> {
    let view = context.control.view();
    let writes = [write];
    let judged = match judge(&view, &writes) {
        Err(problem) if depends_on_state(&problem) => {
            context.control.barrier(BARRIER).await?;
            judge(&view, &writes)
        }
        judged => judged,
    };
    let (_, mut judged) = judged?;
    Ok(judged.becomes.pop().flatten().map(|becomes| becomes.function))
}

/// What came of writes.
pub(super) struct Written {
    /// The state in which they are done.
    pub(super) revision: Revision,
    /// The functions, in the order of the writes; none where it is gone.
    pub(super) functions: Vec<Option<Stored>>,
}

impl Written {
    /// Shows each function as these writes left it, where others have changed it since.
    fn undo_later(&mut self, becomes: Vec<Option<Becomes>>) {
        for (now, becomes) in self.functions.iter_mut().zip(becomes) {
            let later = now.as_ref().is_none_or(|now| now.revision > self.revision);
            if let (true, Some(Becomes { mut function, placement, revision })) = (later, becomes) {
                let revision = revision.unwrap_or(self.revision);
                function.metadata.revision = Some(revision);
                *now = Some(Stored { function, revision, placement });
            }
        }
    }
}

/// Changes functions by one transaction, together with the claims of their routes and
/// what else must stay as it was seen. A race that is
/// lost is run again, unless the client said what it had seen.
///
/// What this node knows may be old: it never refuses by it, nor says that nothing has to be done.
pub(super) async fn commit(
    context: &Context,
    headers: &WriteHeaders,
    writes: &[Write<'_>],
) -> Outcome<Written> {
    let view = context.control.view();
    let mut fresh = false;
    let mut attempt = 0;
    while attempt < MAX_ATTEMPTS {
        let (seen, judged) = match judge(&view, writes) {
            Ok(judged) => judged,
            Err(problem) if !fresh && depends_on_state(&problem) => {
                context.control.barrier(BARRIER).await?;
                fresh = true;
                continue;
            }
            // It may be refused just because it already happened: then the answer is as it was.
            Err(_) if attempt == 0 && headers.already_applied(context).await? => {
                return written(&view, writes, view.revision());
            }
            Err(problem) => return Err(problem),
        };
        let mut txn = judged.txn;
        txn.request_id = headers.request_id(attempt);
        match context.control.write(txn).await? {
            TxnOutcome::Committed { revision } => {
                let mut done = written(&view, writes, revision)?;
                // What was applied by an earlier try is older than what was judged here.
                if !headers.may_repeat() || revision > seen {
                    done.undo_later(judged.becomes);
                }
                return Ok(done);
            }
            TxnOutcome::Conflict { revision, .. } => {
                // What was in the way must be seen before the next look.
                let _ = view.wait_for(revision, std::time::Duration::from_secs(1)).await;
            }
        }
        attempt += 1;
    }
    let all: Vec<String> = writes.iter().map(Write::id).collect();
    let detail = format!("{} changed {MAX_ATTEMPTS} times while this was tried", all.join(", "));
    Err(Problem::new(codes::CONFLICT, detail).retry_after(1))
}

/// Read again: a retry of what was applied before has another result than was judged.
fn written(view: &View, writes: &[Write<'_>], revision: Revision) -> Outcome<Written> {
    let functions = writes.iter().map(|write| Ok(read(view, write.namespace, write.name)?.1));
    Ok(Written { revision, functions: functions.collect::<Outcome<_>>()? })
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
