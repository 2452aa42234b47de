//! `/v1/doctor`: what is wrong with the cluster, and what to do about each thing.

mod regions;

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use axum::extract::State;
use serde::Serialize;
use serde_json::json;
use swarmer_gossip::Member;
use swarmer_model::{Code, NodeId, RegionState};

use self::regions::{Region, check_regions};
use crate::{
    agent::{Context, HealthReport, Unasked},
    api::{
        Api, nodes, now_ms,
        reply::{self, Answer},
    },
};

/// Clocks further apart than this make log lines and expiries misleading, in milliseconds.
const CLOCK_WARN_MS: u64 = 1_000;
/// Clocks further apart than this endanger certificates, in milliseconds: they are good from a
/// few minutes before they were made.
const CLOCK_FAIL_MS: u64 = 60_000;
/// Certificates are renewed with 12 hours left: one with less than this is not being renewed.
const CERTIFICATE_WARN_MS: u64 = 9 * 3_600_000;
/// A durable write that takes longer delays every change, in milliseconds.
const WRITE_WARN_MS: u64 = 200;

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    /// The node that it is about; none if it is about the cluster.
    node: Option<String>,
    state: Verdict,
    detail: String,
    /// What to do; empty if it is well.
    remedy: String,
}

/// A node's report and how it was got.
#[derive(Debug)]
struct Told {
    report: HealthReport,
    /// This node's clock when it asked and when the answer was here, milliseconds.
    asked_ms: u64,
    answered_ms: u64,
}

/// One admitted node.
#[derive(Debug)]
struct Patient {
    name: String,
    address: String,
    voter: bool,
    word: Word,
}

impl Patient {
    fn told(&self) -> Option<&Told> {
        match &self.word {
            Word::Told(told) => Some(told),
            Word::Dead(_) | Word::Unasked(_) => None,
        }
    }
}

/// What came of asking a node.
#[derive(Debug)]
enum Word {
    /// It was not asked: why it is not thought to live.
    Dead(String),
    Unasked(Unasked),
    Told(Told),
}

/// The cluster, as far as it concerns all.
#[derive(Debug)]
struct Control {
    leader: Option<String>,
    quorum: bool,
    lag: u64,
}

pub(super) async fn doctor(State(api): State<Arc<Api>>) -> Answer {
    let context = api.member()?;
    let (seen, committed) = nodes::all(&context.control.view());
    let status = context.control.status();
    let members = context.gossip.members();
    let asked = committed.iter().map(|(node, _)| ask(&context, &members, node.spec.id));
    let words = futures::future::join_all(asked).await;
    let patients: Vec<Patient> = committed
        .iter()
        .zip(words)
        .map(|((node, _), word)| Patient {
            name: node.metadata.name.clone(),
            address: node.spec.address.to_string(),
            voter: status.voters.contains(&node.spec.id),
            word,
        })
        .collect();
    let control = Control {
        leader: status.leader.map(|leader| context.node_name(leader)),
        quorum: status.quorum_ok,
        lag: status.lag,
    };
    let desired = context.desired.current();
    let mut places: BTreeMap<String, Region> = BTreeMap::new();
    for (node, _) in &committed {
        let name = &node.spec.region;
        let place = places.entry(name.clone()).or_default();
        place.nodes += usize::from(!node.spec.abstains());
        place.voters += usize::from(status.voters.contains(&node.spec.id));
        place.drained = desired.region_state(name) == RegionState::Drained;
    }
    let checks = diagnose(&control, &patients, &places);
    let healthy = checks.iter().all(|check| check.state != Verdict::Fail);
    Ok(reply::read(seen, &json!({ "healthy": healthy, "items": checks })))
}

async fn ask(context: &Context, members: &[Member], node: NodeId) -> Word {
    let member = members.iter().find(|member| member.node == node);
    let dead = match member {
        _ if node == context.node => None,
        None => Some("not seen since this node started".to_owned()),
        Some(member) if member.state.is_active() => None,
        Some(member) => Some(format!("{}: {}", member.state, member.reason)),
    };
    if let Some(why) = dead {
        return Word::Dead(why);
    }
    let asked_ms = now_ms();
    match context.ask_health(node).await {
        Ok(report) => Word::Told(Told { report, asked_ms, answered_ms: now_ms() }),
        Err(unasked) => Word::Unasked(unasked),
    }
}

/// Looks at everything; the worst first.
fn diagnose(
    control: &Control,
    patients: &[Patient],
    regions: &BTreeMap<String, Region>,
) -> Vec<Check> {
    let mut checks = vec![check_control(control, patients)];
    // Whoever reaches the smaller part of a cluster is more likely the one that is cut off.
    let reached = patients.iter().filter(|patient| patient.told().is_some()).count();
    let cut_off = !control.quorum && reached * 2 < patients.len();
    for patient in patients {
        let Some(told) = check_reached(patient, cut_off, &mut checks) else { continue };
        let report = &told.report;
        let mut add = |check, state, detail, remedy: &str| {
            let remedy = if state == Verdict::Ok { String::new() } else { remedy.to_owned() };
            checks.push(Check { check, node: Some(patient.name.clone()), state, detail, remedy });
        };
        let (state, detail) = clock(told);
        add(
            "clock",
            state,
            detail,
            "Let a time service (chrony, systemd-timesyncd) set the machine's clock.",
        );
        let (state, detail) = certificate(report);
        add(
            "certificate",
            state,
            detail,
            "It renews itself while it reaches a voter: see that voters live, and look for swarmer::identity in the node's log.",
        );
        let (state, detail) = match &report.write_ms {
            Ok(ms) if *ms <= WRITE_WARN_MS => {
                (Verdict::Ok, format!("a durable write took {ms} ms"))
            }
            Ok(ms) => (Verdict::Warn, format!("a durable write took {ms} ms")),
            Err(why) => (Verdict::Fail, format!("cannot be written: {why}")),
        };
        add(
            "data directory",
            state,
            detail,
            "Make room on the disk, see that it is writable, or put the directory on a faster one.",
        );
        let (state, detail) = match report.bad_seeds.as_slice() {
            [] => (Verdict::Ok, "all name living members".to_owned()),
            bad => (Verdict::Warn, bad.join("; ")),
        };
        add(
            "seeds",
            state,
            detail,
            "Correct --join: after a restart the node finds the cluster by its seeds.",
        );
        let living = |name: &&String| {
            patients.iter().any(|other| other.name == **name && other.told().is_some())
        };
        let misses: Vec<&str> = report.misses.iter().filter(living).map(String::as_str).collect();
        let (state, detail) = if misses.is_empty() {
            (Verdict::Ok, "sees every member that lives".to_owned())
        } else {
            (Verdict::Warn, format!("does not see {}, which this node reaches", misses.join(", ")))
        };
        add(
            "view",
            state,
            detail,
            "Look at the network between these nodes: their UDP ports must reach each other both ways.",
        );
    }
    checks.push(check_versions(patients));
    checks.extend(check_regions(regions));
    checks.sort_by_key(|check| Reverse(check.state));
    checks
}

fn check_control(control: &Control, patients: &[Patient]) -> Check {
    let lost: Vec<&str> = patients
        .iter()
        .filter(|patient| patient.voter && patient.told().is_none())
        .map(|patient| patient.name.as_str())
        .collect();
    let (state, detail) = match &control.leader {
        Some(leader) if control.quorum && lost.is_empty() => {
            (Verdict::Ok, format!("{leader} leads; this node is {} behind", control.lag))
        }
        Some(leader) if control.quorum => {
            let lost = lost.join(", ");
            (Verdict::Warn, format!("{leader} leads; of the voters {lost} cannot be reached"))
        }
        _ => (Verdict::Fail, "there is no quorum: every change is refused".to_owned()),
    };
    let remedy = match state {
        Verdict::Ok => String::new(),
        _ if lost.is_empty() => "Look at the network between the voters.".to_owned(),
        _ => format!("Start these voters again with their data directories: {}.", lost.join(", ")),
    };
    Check { check: "quorum", node: None, state, detail, remedy }
}

/// Whether the node is there; its report if so.
fn check_reached<'a>(
    patient: &'a Patient,
    cut_off: bool,
    checks: &mut Vec<Check>,
) -> Option<&'a Told> {
    let Patient { name, address, .. } = patient;
    let unreached = |why: &str| {
        let remedy = match cut_off {
            true => "The node that tells this reaches the smaller part of the cluster: look at its own \
                     network, --listen and --advertise first, and ask `swarmer doctor` of another one."
                .to_owned(),
            false => format!(
                "Start it, or open UDP {address} between the machines; if it is gone for good: \
                 swarmer delete node {name}."
            ),
        };
        (Verdict::Fail, format!("{address} cannot be reached: {why}"), remedy)
    };
    let (state, detail, remedy) = match &patient.word {
        Word::Told(told) => {
            let took = told.answered_ms.saturating_sub(told.asked_ms);
            (Verdict::Ok, format!("{address} answers, in {took} ms"), String::new())
        }
        Word::Unasked(Unasked { code, why }) if is_refusal(*code) => {
            let detail = format!("{address} takes no questions: {code}: {why}");
            (Verdict::Fail, detail, code.remedy.to_owned())
        }
        Word::Unasked(Unasked { why, .. }) | Word::Dead(why) => unreached(why),
    };
    let node = Some(name.clone());
    checks.push(Check { check: "reachable", node, state, detail, remedy });
    patient.told()
}

/// Whether one of the two nodes would not, as opposed to could not.
fn is_refusal(code: Code) -> bool {
    ![swarmer_mesh::codes::UNREACHABLE, swarmer_mesh::codes::DEADLINE].contains(&code)
}

/// How far a node's clock is from this one's, as far as the time that the question took tells.
fn clock(told: &Told) -> (Verdict, String) {
    let middle = told.asked_ms.midpoint(told.answered_ms);
    let unsure = told.answered_ms.saturating_sub(told.asked_ms) / 2;
    let apart = told.report.now_ms.abs_diff(middle);
    let state = match apart.saturating_sub(unsure) {
        off if off > CLOCK_FAIL_MS => Verdict::Fail,
        off if off > CLOCK_WARN_MS => Verdict::Warn,
        _ => Verdict::Ok,
    };
    let way = if told.report.now_ms >= middle { "ahead of" } else { "behind" };
    (state, format!("{apart} ms {way} this node's (give or take {unsure} ms)"))
}

fn certificate(report: &HealthReport) -> (Verdict, String) {
    match report.certificate_until_ms.checked_sub(report.now_ms) {
        None => (Verdict::Fail, "has expired".to_owned()),
        Some(left) => {
            let state = if left < CERTIFICATE_WARN_MS { Verdict::Warn } else { Verdict::Ok };
            let minutes = left / 60_000;
            (state, format!("good for {} h {} min", minutes / 60, minutes % 60))
        }
    }
}

fn check_versions(patients: &[Patient]) -> Check {
    let mut versions: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (patient, told) in patients.iter().filter_map(|p| Some((p, p.told()?))) {
        let version = match told.report.wire {
            Some(wire) => format!("{} (wire {wire})", told.report.version),
            None => told.report.version.clone(),
        };
        versions.entry(version).or_default().push(&patient.name);
    }
    let mixed = versions.len() > 1;
    let listed: Vec<String> = versions
        .iter()
        .map(
            |(version, names)| {
                if mixed { format!("{version} on {}", names.join(", ")) } else { version.clone() }
            },
        )
        .collect();
    Check {
        check: "versions",
        node: None,
        state: if mixed { Verdict::Warn } else { Verdict::Ok },
        detail: listed.join("; "),
        remedy: if mixed {
            "Finish the upgrade: one node after another.".to_owned()
        } else {
            String::new()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn told() -> Told {
        let report = HealthReport {
            version: "1.0.0".into(),
            wire: Some(2),
            now_ms: NOW + 5,
            certificate_until_ms: NOW + 20 * 3_600_000,
            write_ms: Ok(3),
            bad_seeds: Vec::new(),
            misses: Vec::new(),
        };
        Told { report, asked_ms: NOW, answered_ms: NOW + 10 }
    }

    fn patient(name: &str) -> Patient {
        let address = format!("{name}:7400");
        Patient { name: name.into(), address, voter: true, word: Word::Told(told()) }
    }

    fn control() -> Control {
        Control { leader: Some("a".into()), quorum: true, lag: 0 }
    }

    /// What is not well, as `check node state`.
    fn ill(control: &Control, patients: &[Patient]) -> Vec<String> {
        let checks = diagnose(control, patients, &BTreeMap::new());
        let ill = checks.into_iter().filter(|check| check.state != Verdict::Ok);
        ill.map(|check| {
            assert!(!check.remedy.is_empty(), "{check:?} says nothing to do");
            format!("{} {} {:?}", check.check, check.node.as_deref().unwrap_or("-"), check.state)
        })
        .collect()
    }

    fn ill_with(change: impl FnOnce(&mut Patient)) -> Vec<String> {
        let mut patients = [patient("a"), patient("b")];
        change(&mut patients[1]);
        ill(&control(), &patients)
    }

    fn told_of(patient: &mut Patient) -> &mut Told {
        match &mut patient.word {
            Word::Told(told) => told,
            other => unreachable!("{other:?}"),
        }
    }

    fn report(patient: &mut Patient) -> &mut HealthReport {
        &mut told_of(patient).report
    }

    #[test]
    fn a_healthy_cluster_has_nothing_to_do() {
        assert_eq!(ill_with(|_| ()), Vec::<String>::new());
        let checks = diagnose(&control(), &[patient("a")], &BTreeMap::new());
        assert!(checks.iter().all(|check| check.remedy.is_empty()));
        assert_eq!(checks.len(), 8, "{checks:?}");
    }

    #[test]
    fn each_illness_is_found_and_no_other() {
        assert_eq!(ill_with(|b| report(b).now_ms = NOW + 2_000), ["clock b Warn"]);
        assert_eq!(ill_with(|b| report(b).now_ms = NOW - 70_000), ["clock b Fail"]);
        assert_eq!(
            ill_with(|b| report(b).certificate_until_ms = NOW + 3_600_000),
            ["certificate b Warn"]
        );
        assert_eq!(ill_with(|b| report(b).certificate_until_ms = NOW), ["certificate b Fail"]);
        assert_eq!(ill_with(|b| report(b).write_ms = Ok(900)), ["data directory b Warn"]);
        let full = || Err("no space left on device".to_owned());
        assert_eq!(ill_with(|b| report(b).write_ms = full()), ["data directory b Fail"]);
        assert_eq!(ill_with(|b| report(b).bad_seeds = vec!["x:1: gone".into()]), ["seeds b Warn"]);
        assert_eq!(ill_with(|b| report(b).misses = vec!["a".into()]), ["view b Warn"]);
        assert_eq!(ill_with(|b| report(b).misses = vec!["c".into()]), Vec::<String>::new());
        assert_eq!(ill_with(|b| report(b).version = "1.1.0".into()), ["versions - Warn"]);
        assert_eq!(ill_with(|b| report(b).wire = Some(1)), ["versions - Warn"]);
        let gone = |b: &mut Patient| {
            b.word = Word::Dead("dead: probe unanswered".into());
        };
        assert_eq!(ill_with(gone), ["reachable b Fail", "quorum - Warn"]);
        // One that would not is not one that could not: another remedy helps.
        for (code, word) in [
            (swarmer_mesh::codes::EXPIRED, swarmer_mesh::codes::EXPIRED.remedy),
            (swarmer_mesh::codes::UNREACHABLE, "open UDP"),
        ] {
            let mut patients = [patient("a"), patient("b")];
            let refused = Unasked { code, why: "for a reason".to_owned() };
            patients[1].word = Word::Unasked(refused);
            let checks = diagnose(&control(), &patients, &BTreeMap::new());
            let check = checks.iter().find(|check| check.check == "reachable").unwrap();
            assert!(check.remedy.contains(word), "{check:?}");
            assert!(check.detail.contains("for a reason"), "{check:?}");
        }
        // Where most are out of reach it is not advised to remove them.
        let removes = |dead: usize| {
            let mut patients = ["a", "b", "c", "d"].map(patient);
            for patient in &mut patients[4 - dead..] {
                patient.word = Word::Dead("dead: probe unanswered".into());
            }
            let control = Control { quorum: dead < 2, ..control() };
            let checks = diagnose(&control, &patients, &BTreeMap::new());
            checks.iter().filter(|check| check.remedy.contains("delete node")).count()
        };
        assert_eq!([1, 2, 3].map(removes), [1, 2, 0]);
        // A slow answer leaves the clock uncertain; that is no fault of the clock.
        assert_eq!(ill_with(|b| told_of(b).answered_ms = NOW + 4_000), Vec::<String>::new());
        let lost = Control { leader: None, quorum: false, lag: 3 };
        assert_eq!(ill(&lost, &[patient("a")]), ["quorum - Fail"]);
    }
}
