//! After healing: all agree, and every node takes writes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use http::Method;

use super::observer::Observer;
use crate::{
    check::Verdict,
    cluster::Port,
    history::{Answer, Outcome},
    workload::{
        Context, Documents, Followers, LISTS, PATIENCE, REGISTERS, SET, lists_of, members, read,
        snapshot, write,
    },
};

/// Within this after healing.
const WITHIN: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// The register of the last writes.
const LAST: &str = "last";

const WRITES: &str = "within 30 s of healing every node takes writes";
const AGREE: &str = "within 30 s of healing all agree, and followers have seen the last write";
const EQUAL: &str = "equal state at equal revision";

/// What came of it.
pub(super) struct Converged {
    pub(super) verdicts: Vec<Verdict>,
    pub(super) notes: Vec<String>,
}

/// What a node's own copy holds: revision, and each function's name, revision and value. The hash
/// is of the changes; this shows that what was made of them is equal too, and where it is not.
type Copied = (u64, BTreeMap<(String, String), (u64, Option<String>)>);

/// Waits for it, and takes down the last writes and reads.
pub(super) async fn converge(
    context: &Context,
    observer: &Observer,
    followers: &Followers,
    healed: Instant,
) -> Converged {
    let nodes = context.cluster.whole();
    let mut client = context.recorder.client();
    let (mut last, mut refused) = (0, Vec::new());
    for node in nodes.iter().copied() {
        let mut gateway = context.cluster.gateway(node, Port::Api);
        // Unique, above all that clients write.
        let mut value = 1_000_000_000 * (node as u64 + 1);
        loop {
            value += 1;
            let outcome = write(context, &mut client, &mut gateway, LAST, value).await;
            if let Outcome::Ok { answer } = &outcome {
                if let Answer::Done { revision: Some(revision) } = answer {
                    last = last.max(*revision);
                }
                break;
            }
            if healed.elapsed() > WITHIN {
                refused.push(format!("{}: {outcome:?}", context.cluster.name(node)));
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    let mut notes =
        vec![format!("every node took a write {} ms after healing", healed.elapsed().as_millis())];
    let (mut apart, mut unequal) = (Vec::new(), Vec::new());
    loop {
        let (mut copies, mut states) = (Vec::new(), Vec::new());
        for node in nodes.iter().copied() {
            copies.push(copy(context, node).await);
            let mut gateway = context.cluster.gateway(node, Port::Api);
            states.push(observer.look(&context.cluster, &context.recorder, &mut gateway).await);
        }
        let mut behind = followers.behind(last);
        behind.retain(|node| nodes.contains(node));
        unequal.extend(differences(context, &copies));
        let revisions: Vec<Option<u64>> =
            states.iter().map(|state| state.as_ref().map(|state| state.revision)).collect();
        let first = revisions.first().copied().flatten();
        if first.is_some() && revisions.iter().all(|r| *r == first) && behind.is_empty() {
            notes.push(format!("all agreed {} ms after healing", healed.elapsed().as_millis()));
            break;
        }
        if healed.elapsed() > WITHIN {
            let behind: Vec<&str> = behind.iter().map(|i| &**context.cluster.name(*i)).collect();
            apart.push(format!(
                "revisions {revisions:?}; followers that have not seen {last}: {behind:?}"
            ));
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    let lists = lists_of(&context.recorder.history());
    for node in nodes.iter().copied() {
        let mut gateway = context.cluster.gateway(node, Port::Api);
        read(&mut client, &mut gateway, LAST).await;
        members(&mut client, &mut gateway).await;
        if !lists.is_empty() {
            snapshot(&mut client, &mut gateway, lists.iter().copied()).await;
        }
    }
    let (compared, differences) = observer.states();
    unequal.extend(differences);
    notes.push(format!("{compared} looks met a revision whose hash another node had told"));
    let equal = if compared == 0 && unequal.is_empty() {
        let why = "no two nodes told the hash of their state at the same revision";
        Verdict::unknown(EQUAL, 0, why.to_owned())
    } else {
        Verdict::of(EQUAL, compared, unequal)
    };
    let verdicts = vec![
        Verdict::of(WRITES, nodes.len(), refused),
        Verdict::of(AGREE, nodes.len(), apart),
        equal,
    ];
    Converged { verdicts, notes }
}

/// A node's own copy of all namespaces; none if it cannot be read, or changed in between.
async fn copy(context: &Context, node: usize) -> Option<Copied> {
    let mut gateway = context.cluster.gateway(node, Port::Api);
    let (mut functions, mut seen) = (BTreeMap::new(), None);
    for namespace in [REGISTERS, SET, LISTS] {
        let path = format!("/v1/namespaces/{namespace}/functions");
        let reply = gateway.send(Method::GET, &path, &[], "", PATIENCE).await.ok()?;
        let revision: u64 = reply.header("x-swarmer-revision").parse().ok()?;
        if *seen.get_or_insert(revision) != revision {
            return None;
        }
        for item in reply.json()["items"].as_array()? {
            let name = item["metadata"]["name"].as_str()?.to_owned();
            let own = item["metadata"]["revision"].as_u64()?;
            functions.insert(
                (namespace.to_owned(), name),
                (own, Documents::text(item).map(str::to_owned)),
            );
        }
    }
    Some((seen?, functions))
}

fn differences(context: &Context, copies: &[Option<Copied>]) -> Vec<String> {
    let mut at: BTreeMap<u64, (usize, &Copied)> = BTreeMap::new();
    let mut differences = Vec::new();
    for (node, copy) in copies.iter().enumerate() {
        let Some(copy) = copy else { continue };
        let (first, other) = at.entry(copy.0).or_insert((node, copy));
        let keys = copy.1.keys().chain(other.1.keys());
        let odd = keys.filter(|key| copy.1.get(*key) != other.1.get(*key));
        for key in odd.take(1) {
            differences.push(format!(
                "at revision {} {key:?} is {:?} on {} and {:?} on {}",
                copy.0,
                other.1.get(key),
                context.cluster.name(*first),
                copy.1.get(key),
                context.cluster.name(node),
            ));
        }
    }
    differences
}
