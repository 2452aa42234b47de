//! Whether what was accepted serves, and why not yet.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    cli::{Client, Printer, output::at},
    codes,
    problem::{Outcome, Problem},
};

/// How long a new version may take until it serves.
const ROLLOUT_DEADLINE: Duration = Duration::from_secs(120);
/// Trouble that lasts so long is the answer: before, another node may be about to serve.
const TROUBLE_AFTER: Duration = Duration::from_secs(4);
/// How long the other nodes may take to see what serves: then it is done all the same.
const EVERYWHERE_DEADLINE: Duration = Duration::from_secs(5);
/// How often the rollout is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Waits until what `accepted` is the answer to serves: until a placement was planned for its
/// revision, and requests go by it.
pub(crate) async fn until_it_serves(
    client: &Client,
    printer: &Printer,
    path: &str,
    name: &str,
    accepted: &Value,
) -> Outcome<Value> {
    let start = Instant::now();
    let mut troubled = None;
    let ours = Ours::of(name, accepted);
    let mut revision = ours.revision;
    loop {
        let function = ours.look(client, path).await?;
        let newer = revision_of(&function);
        if newer > revision {
            printer.progress(&format!(
                "{name}: revision {revision} was followed by {newer}, which has the same version; \
                 waiting for that one"
            ));
            revision = newer;
        }
        match judge(name, revision, &function["live"]) {
            Rollout::Done => return until_everywhere(client, printer, path, &ours).await,
            Rollout::Failed(why) => return Err(Problem::new(codes::ROLLOUT_FAILED, why)),
            Rollout::Waiting(why) if start.elapsed() > ROLLOUT_DEADLINE => {
                let seconds = ROLLOUT_DEADLINE.as_secs();
                let why =
                    format!("{name} is accepted, but does not serve after {seconds} s: {why}");
                return Err(Problem::new(codes::ROLLOUT_FAILED, why));
            }
            Rollout::Troubled(why) => {
                if troubled.get_or_insert_with(Instant::now).elapsed() > TROUBLE_AFTER {
                    return Err(Problem::new(codes::ROLLOUT_FAILED, why));
                }
                tokio::time::sleep(POLL).await;
            }
            Rollout::Waiting(_) => {
                troubled = None;
                tokio::time::sleep(POLL).await;
            }
        }
    }
}

/// Waits, not for long, until the ingress of every living node knows what serves.
async fn until_everywhere(
    client: &Client,
    printer: &Printer,
    path: &str,
    ours: &Ours,
) -> Outcome<Value> {
    let start = Instant::now();
    let (path, name) = (format!("{path}?everywhere=true"), &ours.name);
    loop {
        let function = ours.look(client, &path).await?;
        let behind = at(&function, "live.behind").as_array().cloned().unwrap_or_default();
        let behind: Vec<&str> = behind.iter().filter_map(Value::as_str).collect();
        if behind.is_empty() {
            return Ok(function);
        }
        if start.elapsed() > EVERYWHERE_DEADLINE {
            printer.progress(&format!(
                "{name}: it serves, but {} has not seen that yet, and may answer 404 or 503 until \
                 it has; see `swarmer doctor`",
                behind.join(", ")
            ));
            return Ok(function);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn revision_of(function: &Value) -> u64 {
    at(function, "metadata.revision").as_u64().unwrap_or_default()
}

/// The change that is waited for.
struct Ours {
    name: String,
    revision: u64,
    /// The version that it wants to serve, and the digest of its component: a function that was
    /// deleted and made anew counts from 1 again.
    version: (Value, Value),
}

impl Ours {
    fn of(name: &str, accepted: &Value) -> Self {
        let (revision, version) = (revision_of(accepted), Self::wanted(accepted));
        Self { name: name.to_owned(), revision, version }
    }

    fn wanted(function: &Value) -> (Value, Value) {
        let target = at(function, "live.target").clone();
        let versions = at(function, "live.versions").as_array();
        let version = versions.into_iter().flatten().find(|v| v["number"] == target);
        (target, version.map_or(Value::Null, |version| version["component"].clone()))
    }

    /// The function as it stands now, as long as it is still ours.
    async fn look(&self, client: &Client, path: &str) -> Outcome<Value> {
        match client.get(path).await {
            Ok(function) => self.still(function),
            Err(problem) if problem.code == codes::NOT_FOUND => {
                let why = format!(
                    "{} was accepted at revision {}, and deleted since",
                    self.name, self.revision
                );
                Err(Problem::new(codes::ROLLOUT_OVERTAKEN, why))
            }
            Err(problem) => Err(problem),
        }
    }

    /// A change that came after ours wants another version to serve: ours need not come to serve
    /// any more, and must not be told as if it did.
    fn still(&self, function: Value) -> Outcome<Value> {
        let (newer, wanted) = (revision_of(&function), Self::wanted(&function));
        if newer <= self.revision || wanted == self.version {
            return Ok(function);
        }
        let why = format!(
            "{} was accepted at revision {} with version {}; the change of revision {newer} came \
             after it and wants version {} to serve",
            self.name, self.revision, self.version.0, wanted.0
        );
        Err(Problem::new(codes::ROLLOUT_OVERTAKEN, why))
    }
}

/// How far a change has come.
#[derive(Debug, PartialEq, Eq)]
enum Rollout {
    Done,
    /// Why not yet.
    Waiting(String),
    /// A node cannot make it ready; another may be about to.
    Troubled(String),
    Failed(String),
}

/// What `live` says of a function's revision. A placement of another revision says nothing.
fn judge(name: &str, revision: u64, live: &Value) -> Rollout {
    // The copy of the state that answers may be older than the one that accepted it.
    if live["plannedRevision"].as_u64().unwrap_or_default() < revision {
        return Rollout::Waiting("the leader has not planned where it runs".to_owned());
    }
    let still = match live["version"].as_u64() {
        Some(version) if live["version"] != live["target"] && live["ready"] != 0 => {
            format!("; version {version} goes on serving")
        }
        _ => String::new(),
    };
    if let Some(conflict) = live["conflict"].as_str() {
        let why = format!("{name} is accepted, but no node is given a copy: {conflict}{still}");
        return Rollout::Failed(why);
    }
    let ready = live["ready"].as_u64().unwrap_or_default();
    if live["upToDate"] == true && (ready > 0 || live["switchedOff"] == true) {
        return Rollout::Done;
    }
    if let Some(error) = live["error"].as_str() {
        return Rollout::Troubled(format!("{name}: {error}{still}"));
    }
    let reasons = live["reasons"].as_array().cloned().unwrap_or_default();
    let reasons: Vec<&str> = reasons.iter().filter_map(|r| r["text"].as_str()).collect();
    Rollout::Waiting(if reasons.is_empty() {
        format!("no node told why{still}")
    } else {
        format!("{}{still}", reasons.join("; "))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_later_change_to_another_version_is_told_and_one_of_the_same_is_not() {
        let function = |revision: u64, target: u64, component: &str| {
            let versions = json!([
                { "number": 1, "component": "sha256:one" },
                { "number": 2, "component": component },
                { "number": 3, "component": "sha256:three" },
            ]);
            json!({
                "metadata": { "revision": revision },
                "live": { "target": target, "versions": versions },
            })
        };
        let ours = Ours::of("f", &function(7, 2, "sha256:two"));
        for same in [
            function(7, 2, "sha256:two"),
            function(9, 2, "sha256:two"),
            // A copy of the state that is older than what was accepted.
            function(6, 1, "sha256:two"),
        ] {
            assert!(ours.still(same).is_ok());
        }
        for other in [function(9, 3, "sha256:two"), function(9, 2, "sha256:another")] {
            let problem = ours.still(other).unwrap_err();
            assert_eq!((problem.code, problem.code.exit_code()), (codes::ROLLOUT_OVERTAKEN, 4));
            assert!(problem.detail.contains("revision 9"), "{problem}");
        }
    }

    #[test]
    fn only_the_plan_of_its_own_revision_is_an_answer() {
        let live = |planned: u64, version: u64, conflict: Option<&str>| {
            json!({
                "plannedRevision": planned, "version": version, "target": 2, "ready": 1,
                "switchedOff": false, "conflict": conflict, "error": null, "reasons": [],
                "upToDate": planned == 7 && version == 2 && conflict.is_none(),
            })
        };
        let waits = |live: &Value| matches!(judge("f", 7, live), Rollout::Waiting(_));
        assert!(waits(&live(5, 2, None)), "ready endpoints of the placement before");
        assert!(waits(&live(5, 1, Some("no node"))), "a conflict of the placement before");
        assert!(waits(&live(7, 1, None)), "placed, and not ready yet");
        assert_eq!(judge("f", 7, &live(7, 2, None)), Rollout::Done);
        let Rollout::Failed(why) = judge("f", 7, &live(7, 1, Some("no node"))) else {
            panic!("a conflict at its own revision is the answer")
        };
        assert!(why.contains("no node") && why.contains("version 1 goes on serving"), "{why}");
        // One node's trouble is no answer while another serves, and else only if it lasts.
        let mut trouble = live(7, 1, None);
        trouble["error"] = json!("n2: no room");
        assert!(
            matches!(judge("f", 7, &trouble), Rollout::Troubled(why) if why.contains("no room"))
        );
        let mut served = live(7, 2, None);
        served["error"] = json!("n2: no room");
        assert_eq!(judge("f", 7, &served), Rollout::Done);
    }
}
