//! How a function stands now: which versions serve where, and why not.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use swarmer_model::{EndpointHealth, Function, NodeId, Placement, TrafficTarget};
use swarmer_scheduler::unknown_regions;

use super::near;
use crate::{
    agent::{Context, FunctionReport},
    desired::serving,
};

/// How long nodes may take to say why a function is not ready, where that was not asked for: what
/// the answer is about is known without them. A round trip over the globe takes less.
const REPORT_DEADLINE: Duration = Duration::from_millis(400);
/// The same, where it was asked for.
const DESCRIBE_DEADLINE: Duration = Duration::from_secs(2);

/// Whether nodes are asked why a function is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Never,
    IfNotReady,
    Always,
}

/// The field `live` of a function's answer.
pub(super) async fn live(
    context: &Context,
    function: &Function,
    placement: &Placement,
    ask: Ask,
) -> Value {
    let id = function.id();
    let index = context.catalog.current();
    let ready = |version: u32| {
        let nodes: BTreeSet<NodeId> =
            index.answering(&id, version).iter().map(|endpoint| endpoint.node).collect();
        let nodes = nodes.into_iter().filter(|node| placement.nodes.contains(node));
        nodes.count()
    };
    let mut live = shape(function, placement, ready, |node| context.node_name(node));
    let desired = context.desired.current();
    let known = desired.nodes.values().map(|node| node.spec.region.as_str());
    // No faults: things that may well be meant so, and most often are slips.
    let mut hints = unknown_regions(&function.spec.regions(), known);
    hints.extend(near::unknown(function, &desired));
    for version in &function.status.versions {
        let failing = index.answering(&id, version.number).iter();
        let failing = failing.filter(|endpoint| endpoint.health != EndpointHealth::Good);
        let failing: Vec<String> = failing.map(|e| context.node_name(e.node)).collect();
        if !failing.is_empty() {
            hints.push(format!(
                "version {} failed call after call on {}: others get nearly all of its calls, where \
                 there are any, until it does well; `swarmer logs {}` says why",
                version.number,
                failing.join(", "),
                function.metadata.name,
            ));
        }
    }
    live["hints"] = json!(hints);
    let unready = live["upToDate"] == false || (live["ready"] == 0 && live["switchedOff"] == false);
    if ask == Ask::Always || (ask == Ask::IfNotReady && unready) {
        let patience = if ask == Ask::Always { DESCRIBE_DEADLINE } else { REPORT_DEADLINE };
        let (reports, silent) = context.reports(&id, patience).await;
        let version = u32::try_from(live["target"].as_u64().unwrap_or(0)).unwrap_or(0);
        let error = told(&reports, version, |node| context.node_name(node));
        live["error"] = json!(error);
        // What they would say is not known.
        let silent: Vec<String> = silent.into_iter().map(|n| context.node_name(n)).collect();
        live["silent"] = json!(silent);
    }
    live
}

/// What can be said without asking anyone.
fn shape(
    function: &Function,
    placement: &Placement,
    ready: impl Fn(u32) -> usize,
    name: impl Fn(NodeId) -> String,
) -> Value {
    let (wanted, served) = (function.weights(), serving(function, placement));
    let weight = |shares: &[TrafficTarget], version: u32| {
        shares.iter().find(|target| target.version == version).map_or(0, |target| target.weight)
    };
    // The newest of those with the highest weight.
    let main = |shares: &[TrafficTarget]| {
        let share = shares.iter().max_by_key(|target| (target.weight, target.version));
        share.and_then(|target| function.version(target.version))
    };
    let serving = main(&served);
    let versions: Vec<Value> = function
        .status
        .versions
        .iter()
        .map(|version| {
            json!({
                "number": version.number,
                "component": version.template.component,
                "weight": weight(&served, version.number),
                "wantedWeight": weight(&wanted, version.number),
                "ready": ready(version.number),
            })
        })
        .collect();
    let reasons: Vec<Value> = placement
        .reasons
        .iter()
        .map(|reason| match reason.node {
            Some(node) => json!({ "node": name(node), "text": reason.text }),
            None => json!({ "text": reason.text }),
        })
        .collect();
    let planned = function.metadata.revision == Some(placement.revision);
    let up_to_date = planned && placement.conflict.is_none() && served == wanted;
    let nodes: Vec<String> = placement.nodes.iter().map(|node| name(*node)).collect();
    json!({
        // What serves now, and what is to serve; the same once it is up to date.
        "version": serving.map(|version| version.number),
        "target": main(&wanted).map(|version| version.number),
        // For which revision of the function the placement was planned.
        "plannedRevision": placement.revision,
        "upToDate": up_to_date,
        "label": serving.map(swarmer_model::Version::label),
        "ready": serving.map_or(0, |version| ready(version.number)),
        "switchedOff": serving.is_some_and(|version| version.template.limits.concurrency == 0),
        "versions": versions,
        "nodes": nodes,
        "reasons": reasons,
        "conflict": placement.conflict,
    })
}

/// Why the version is not ready, told by the nodes where it is not.
fn told(
    reports: &[FunctionReport],
    version: u32,
    name: impl Fn(NodeId) -> String,
) -> Option<String> {
    let errors = reports.iter().filter(|report| report.version == version);
    let errors: Vec<String> = errors
        .filter_map(|report| {
            Some(format!("node {}: {}", name(report.node), report.error.as_ref()?))
        })
        .collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_model::{Digest, Metadata, PlacementReason, TrafficTarget};

    fn two_versions() -> Function {
        let mut first = Function::new(Metadata::named("f"), Digest::of(b"1"));
        first.succeed(None, &[], 0);
        let mut second = Function::new(Metadata::named("f"), Digest::of(b"2"));
        second.succeed(Some(&first), &[], 1);
        second
    }

    #[test]
    fn the_highest_weight_is_the_version_that_serves() {
        let mut function = two_versions();
        let placement = Placement {
            nodes: vec![NodeId(7)],
            reasons: vec![PlacementReason { node: Some(NodeId(8)), text: "no room".into() }],
            ..Placement::default()
        };
        function.metadata.revision = Some(7);
        let shape = |function: &Function| {
            shape(function, &placement, |v| v as usize, |node| format!("n{}", node.0))
        };
        let live = shape(&function);
        assert_eq!(live["version"], 2);
        assert_eq!(live["ready"], 2);
        assert_eq!(live["nodes"][0], "n7");
        assert_eq!(live["reasons"][0]["node"], "n8");
        assert_eq!(live["versions"][0]["weight"], 0);
        assert_eq!(live["switchedOff"], false);
        let target = |version, weight| TrafficTarget { version, weight };
        function.spec.traffic = vec![target(1, 9), target(2, 1)];
        let live = shape(&function);
        assert_eq!(live["version"], 1);
        assert_eq!(live["versions"][1]["weight"], 1);
        function.status.versions[0].template.limits.concurrency = 0;
        assert_eq!(shape(&function)["switchedOff"], true);
    }

    #[test]
    fn what_is_wanted_is_not_told_as_served() {
        let mut function = two_versions();
        function.metadata.revision = Some(7);
        let target = |version| vec![TrafficTarget { version, weight: 1 }];
        let told = |revision, version, conflict: Option<&str>| {
            let placement = Placement {
                revision,
                nodes: vec![NodeId(7)],
                traffic: target(version),
                conflict: conflict.map(str::to_owned),
                ..Placement::default()
            };
            let live = shape(&function, &placement, |_| 1, |node| format!("n{}", node.0));
            (live["version"].as_u64(), live["target"].as_u64(), live["upToDate"].as_bool())
        };
        assert_eq!(told(5, 1, None), (Some(1), Some(2), Some(false)), "not planned yet");
        assert_eq!(told(7, 1, None), (Some(1), Some(2), Some(false)), "not ready yet");
        assert_eq!(told(7, 1, Some("no")), (Some(1), Some(2), Some(false)), "nowhere");
        assert_eq!(told(5, 2, None), (Some(2), Some(2), Some(false)), "planned for another one");
        assert_eq!(told(7, 2, None), (Some(2), Some(2), Some(true)));
    }

    #[test]
    fn only_errors_of_the_serving_version_are_told() {
        let report = |node, version, error: Option<&str>| FunctionReport {
            node: NodeId(node),
            version,
            error: error.map(str::to_owned),
        };
        let name = |node: NodeId| format!("n{}", node.0);
        let reports = [report(1, 1, Some("old")), report(1, 2, None), report(2, 2, Some("trap"))];
        assert_eq!(told(&reports, 2, name).as_deref(), Some("node n2: trap"));
        assert_eq!(told(&reports[..2], 2, name), None);
    }
}
