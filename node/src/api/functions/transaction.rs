//! `POST /v1/namespaces/{namespace}/transactions`: several functions changed together, or none.

use std::{collections::BTreeSet, sync::Arc};

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use swarmer_model::{Function, Invalid, Resource as _, Revision, codes as model_codes};

use super::{
    check_names, check_place, prepare,
    resource::{self, Change, Next, Stored, Write},
    succeeded,
};
use crate::{
    api::{
        Api,
        reply::{self, Answer},
        request::{At, JsonBytes, WriteHeaders, read_resource},
    },
    codes,
    manifest::with_nearest,
    problem::{Outcome, Problem},
};

/// The most functions of one transaction: with their routes they must fit into one of the log.
const MAX_CHANGES: usize = 32;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Each an [`AskedChange`], read one by one: what is wrong with one is told of that one.
    changes: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum AskedChange {
    /// A Function; its `metadata.revision`, if given, must be the present one.
    Put(Value),
    Delete(Named),
    /// Nothing is done to it, but the others happen only if it is as it was seen.
    Check(Named),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    /// 0: there is none.
    revision: Option<Revision>,
}

/// One change, understood.
struct Wanted {
    /// Where it stands in the document, such as `changes[2].put`.
    place: String,
    name: String,
    expected: Option<Revision>,
    what: What,
}

enum What {
    Put(Box<Function>),
    Delete,
    Check,
}

impl Wanted {
    fn of(at: usize, asked: Value, namespace: &str) -> Outcome<Self> {
        let place = format!("changes[{at}]");
        let asked: AskedChange = serde_json::from_value(asked).map_err(|error| {
            let why = with_nearest(&error.to_string());
            Problem::new(model_codes::MALFORMED, why).at(&place)
        })?;
        let place = match &asked {
            AskedChange::Put(_) => format!("{place}.put"),
            AskedChange::Delete(_) => format!("{place}.delete"),
            AskedChange::Check(_) => format!("{place}.check"),
        };
        Self::understood(asked, namespace, &place).map_err(|problem| problem.at(&place))
    }

    fn understood(asked: AskedChange, namespace: &str, place: &str) -> Outcome<Self> {
        let place = place.to_owned();
        let wanted = match asked {
            AskedChange::Put(value) => {
                let function: Function = read_resource(Function::KIND, value)?;
                let name = function.metadata.name.clone();
                check_place(&function, namespace, &name)?;
                let expected = function.metadata.revision;
                Self { place, name, expected, what: What::Put(Box::new(function)) }
            }
            AskedChange::Delete(Named { name, revision }) => {
                Self { place, name, expected: revision, what: What::Delete }
            }
            AskedChange::Check(Named { name, revision }) => {
                if revision.is_none() {
                    let rule = "the revision that was seen; 0 if there was none";
                    return Err(Invalid::one("revision", "", rule).into());
                }
                Self { place, name, expected: revision, what: What::Check }
            }
        };
        check_names(namespace, &wanted.name)?;
        Ok(wanted)
    }

    fn next(&self, namespace: &str, previous: Option<&Stored>, seen: Revision) -> Outcome<Next> {
        match (&self.what, previous) {
            (What::Put(function), _) => Ok(succeeded(function, previous, seen)?),
            (What::Delete, Some(_)) => Ok(Next::Delete),
            (What::Delete, None) => Err(resource::missing(namespace, &self.name)),
            (What::Check, _) => Ok(Next::Keep),
        }
    }
}

fn understand(asked: Asked, namespace: &str) -> Outcome<Vec<Wanted>> {
    let count = asked.changes.len();
    if count == 0 || count > MAX_CHANGES {
        let rule = format!("1 to {MAX_CHANGES} changes");
        return Err(Invalid::one("changes", count, rule).into());
    }
    let wanted: Vec<Wanted> = asked
        .changes
        .into_iter()
        .enumerate()
        .map(|(at, asked)| Wanted::of(at, asked, namespace))
        .collect::<Outcome<_>>()?;
    let mut names = BTreeSet::new();
    for one in &wanted {
        if !names.insert(&one.name) {
            let rule = "each function at most once in a transaction";
            return Err(Problem::from(Invalid::one("name", &one.name, rule)).at(&one.place));
        }
    }
    Ok(wanted)
}

pub(in crate::api) async fn transact(
    State(api): State<Arc<Api>>,
    At(namespace): At<String>,
    headers: WriteHeaders,
    body: JsonBytes,
) -> Answer {
    let context = api.member()?;
    if headers.if_match.is_some() {
        let why = "If-Match means nothing for several functions: give each change its revision";
        return Err(Problem::new(codes::BAD_REQUEST, why).into());
    }
    let wanted = understand(body.read()?, &namespace)?;
    for one in &wanted {
        if let What::Put(function) = &one.what {
            prepare(&context, function).await.map_err(|problem| problem.at(&one.place))?;
        }
    }
    let changes: Vec<Box<Change<'_>>> = wanted
        .iter()
        .map(|one| {
            let namespace = namespace.as_str();
            Box::new(move |previous: Option<&Stored>, seen: Revision| {
                one.next(namespace, previous, seen)
            }) as Box<Change<'_>>
        })
        .collect();
    let writes: Vec<Write<'_>> = wanted
        .iter()
        .zip(&changes)
        .map(|(one, change)| Write {
            namespace: &namespace,
            name: &one.name,
            expected: one.expected,
            change: &**change,
            place: Some(&one.place),
        })
        .collect();
    let done = resource::commit(&context, &headers, &writes).await?;
    let items = wanted.iter().zip(&done.functions).map(|(one, stored)| {
        json!({ "name": one.name, "revision": stored.as_ref().map(|stored| stored.revision) })
    });
    let value = json!({ "revision": done.revision, "items": items.collect::<Vec<_>>() });
    Ok(reply::read(done.revision, &value))
}

#[cfg(test)]
mod tests {
    use swarmer_model::{Digest, Metadata};

    use super::*;

    fn asked(changes: Value) -> Outcome<Vec<Wanted>> {
        let asked: Asked = serde_json::from_value(json!({ "changes": changes })).unwrap();
        understand(asked, "default")
    }

    #[test]
    fn what_cannot_be_one_transaction_is_refused() {
        let function = Function::new(Metadata::named("a"), Digest::of(b"1"));
        let put = json!({ "put": function });
        assert_eq!(
            asked(json!([put, { "check": { "name": "b", "revision": 0 } }])).unwrap().len(),
            2
        );
        let many: Vec<Value> =
            (0..=MAX_CHANGES).map(|i| json!({ "delete": { "name": format!("f{i}") } })).collect();
        let mut wrong = put.clone();
        wrong["put"]["spec"]["limits"] = json!({ "timout": "5s" });
        let mut rule = put.clone();
        rule["put"]["metadata"]["namespace"] = json!("shop");
        let check = json!({ "check": { "name": "b", "revision": 0 } });
        for (bad, says) in [
            (json!([]), &["1 to 32"][..]),
            (json!(many), &["1 to 32"]),
            (
                json!([put, { "delete": { "name": "a" } }]),
                &["at most once", "changes[1].delete.name"],
            ),
            (
                json!([check, { "check": { "name": "a" } }]),
                &["was seen", "changes[1].check.revision"],
            ),
            (json!([{ "delete": { "name": "A b" } }]), &["changes[0].delete.name"]),
            (json!([check, wrong]), &["changes[1].put.spec.limits.timout", "`timeout`"]),
            (json!([check, rule]), &["changes[1].put.metadata.namespace"]),
            (json!([check, { "delet": { "name": "a" } }]), &["changes[1]", "delete"]),
            (json!([check, { "delete": { "nam": "a" } }]), &["changes[1]", "did you mean `name`"]),
        ] {
            let problem = asked(bad).err().expect(says[0]);
            let text = problem.document("n").to_string();
            assert!(says.iter().all(|word| text.contains(word)), "{says:?}: {text}");
        }
    }
}
