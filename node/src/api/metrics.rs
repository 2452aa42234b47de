//! `/metrics`: the Prometheus text format, version 0.0.4.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use axum::{Extension, extract::State};
use swarmer_gossip::{MemberState, Refusal};
use swarmer_mesh::transport::Direction;
use swarmer_model::EndpointHealth;
use swarmer_raft::{APPEND_BOUNDS_MS, AppendLatency, Role};

use crate::{
    agent::Context,
    api::{
        Api,
        auth::{Grant, SharedGrant},
        reply::{self, Answer},
    },
};

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Clock ticks in `/proc/self/stat` per second: fixed for user space on Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// Nanoseconds in a second.
const NANOS: f64 = 1e9;

pub(super) async fn metrics(
    State(api): State<Arc<Api>>,
    Extension(grant): Extension<SharedGrant>,
) -> Answer {
    let mut text = Text::default();
    build(&mut text);
    process(&mut text);
    // A node that is no member yet has a process to look at all the same.
    text.gauge("swarmer_node_ready", "1 if the node serves.", flag(api.not_ready().is_none()));
    watches(&mut text, &api);
    if let Ok(context) = api.member() {
        node(&mut text, &context);
        raft(&mut text, &context);
        members(&mut text, &context);
        functions(&mut text, &context, &grant);
        artifacts(&mut text, &context);
        dispatch(&mut text, &context);
        transport(&mut text, &context);
        gossip(&mut text, &context);
    }
    Ok(reply::text(CONTENT_TYPE, text.0))
}

fn flag(on: bool) -> f64 {
    if on { 1.0 } else { 0.0 }
}

fn build(text: &mut Text) {
    text.head("swarmer_build_info", "gauge", "1, with the version as a label.");
    text.sample("swarmer_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
}

fn process(text: &mut Text) {
    if let Ok(status) = std::fs::read_to_string("/proc/self/status")
        && let Some(bytes) = resident_bytes(&status)
    {
        text.gauge("swarmer_process_resident_bytes", "Memory of the process.", bytes);
    }
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
        && let Some(seconds) = cpu_seconds(&stat)
    {
        let help = "CPU time of the process, guests included.";
        text.counter("swarmer_process_cpu_seconds_total", help, seconds);
    }
}

/// `VmRSS` of `/proc/self/status`, which is told in KiB.
fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0)
}

/// User and system time of `/proc/self/stat`: the 14th and 15th field, counted behind the name,
/// which may itself hold blanks and parentheses.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[expect(clippy::cast_precision_loss, reason = "counters below 2^52; the format is a float")]
fn watches(text: &mut Text, api: &Api) {
    text.gauge("swarmer_api_watches", "Watches that are open.", api.watching() as f64);
    let (behind, stalled) = api.cut();
    let name = "swarmer_api_watches_behind_total";
    text.counter(name, "Watches told to list again: they fell behind the history.", behind as f64);
    let name = "swarmer_api_connections_stalled_total";
    text.counter(name, "Connections broken off: their clients took nothing.", stalled as f64);
}

fn node(text: &mut Text, context: &Context) {
    let uptime = context.started.elapsed().as_secs_f64();
    text.gauge("swarmer_node_uptime_seconds", "Time since the node started.", uptime);
    let desired = context.desired.current();
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    text.gauge(
        "swarmer_desired_functions",
        "Functions in the desired state.",
        desired.functions.len() as f64,
    );
}

#[expect(clippy::cast_precision_loss, reason = "counters below 2^52; the format is a float")]
fn raft(text: &mut Text, context: &Context) {
    let status = context.control.status();
    text.gauge("swarmer_raft_term", "The current term.", status.term as f64);
    text.gauge("swarmer_raft_revision", "Revision of the local state.", status.revision as f64);
    let applied = status.applied_index.unwrap_or(0) as f64;
    text.gauge("swarmer_raft_applied_index", "The last index applied.", applied);
    text.gauge("swarmer_raft_is_leader", "1 on the leader.", flag(status.role == Role::Leader));
    text.gauge("swarmer_raft_quorum", "1 if a quorum was heard of lately.", flag(status.quorum_ok));
    text.gauge("swarmer_raft_lag_entries", "Entries known, not yet applied.", status.lag as f64);
    text.gauge("swarmer_raft_voters", "Voters.", status.voters.len() as f64);
    let help = "Changes sent away because too many were under way.";
    text.counter(
        "swarmer_raft_writes_refused_total",
        help,
        context.control.refused_writes() as f64,
    );
    let name = "swarmer_raft_sent_writes_messages_total";
    text.head(name, "counter", "Messages with writes to the leader, by version of the wire.");
    for (version, count) in context.control.sent_writes() {
        text.sample(name, &[("version", &version.to_string())], count as f64);
    }
    if let Some(handle) = context.control.raft() {
        let multiplier = f64::from(handle.multiplier());
        let help = "How many times longer than on a quiet LAN heartbeats and elections take.";
        text.gauge("swarmer_raft_timing_multiplier", help, multiplier);
        let latencies = handle.append_latencies().into_iter();
        appends(
            text,
            latencies.map(|(node, latency)| (context.node_name(node), latency)).collect(),
        );
    }
}

/// Round trips of AppendEntries to each other voter and learner; zeros of a node that never led.
#[expect(clippy::cast_precision_loss, reason = "counters below 2^52; the format is a float")]
fn appends(text: &mut Text, latencies: Vec<(String, AppendLatency)>) {
    const NAME: &str = "swarmer_raft_append_seconds";
    text.head(NAME, "histogram", "Round trips of AppendEntries, heartbeats too, from here.");
    for (peer, latency) in &latencies {
        let mut count = 0;
        let bounds = APPEND_BOUNDS_MS.iter().map(|bound| (bound / 1e3).to_string());
        for (bucket, bound) in latency.buckets.iter().zip(bounds.chain(["+Inf".to_owned()])) {
            count += bucket;
            let labels = [("peer", peer.as_str()), ("le", &bound)];
            text.sample(&format!("{NAME}_bucket"), &labels, count as f64);
        }
        let labels = [("peer", peer.as_str())];
        text.sample(&format!("{NAME}_sum"), &labels, latency.sum.as_secs_f64());
        text.sample(&format!("{NAME}_count"), &labels, count as f64);
    }
    let name = "swarmer_raft_append_unanswered_total";
    text.head(name, "counter", "AppendEntries whose channel broke before an answer came.");
    for (peer, latency) in &latencies {
        text.sample(name, &[("peer", peer)], latency.unanswered as f64);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a cluster has far fewer members than 2^52")]
fn members(text: &mut Text, context: &Context) {
    let members = context.gossip.members();
    text.head("swarmer_members", "gauge", "Members by the state that this node thinks they have.");
    let states = [MemberState::Alive, MemberState::Suspect, MemberState::Down, MemberState::Left];
    for state in states {
        let count = members.iter().filter(|member| member.state == state).count();
        text.sample("swarmer_members", &[("state", &state.to_string())], count as f64);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counters below 2^52; the format is a float")]
fn functions(text: &mut Text, context: &Context, grant: &Grant) {
    let pool = context.runtime.pool();
    text.gauge("swarmer_runtime_pool_slots", "Instances that fit.", pool.slots as f64);
    text.gauge("swarmer_runtime_pool_taken", "Instances that exist.", pool.taken as f64);
    text.gauge("swarmer_runtime_pool_waiting", "Calls that wait for a slot.", pool.waiting as f64);
    text.gauge("swarmer_runtime_functions", "Versions that are loaded.", pool.functions as f64);
    let images = context.runtime.image_counts();
    let help = "Components compiled on this node.";
    text.counter("swarmer_runtime_compilations_total", help, images.compiled as f64);
    let help = "Compiled images taken from other nodes.";
    text.counter("swarmer_runtime_images_fetched_total", help, images.fetched as f64);
    // Names are of those only who may list them.
    let mut all = context.functions.status();
    all.retain(|status| {
        status.function.split_once('/').is_some_and(|(namespace, _)| grant.covers(namespace))
    });
    type Read = fn(&swarmer_runtime::Usage) -> f64;
    let columns: [(&str, &str, &str, Read); 13] = [
        ("requests_total", "counter", "Calls that were started.", |u| u.requests as f64),
        ("failed_total", "counter", "Calls that failed by the guest's fault.", |u| u.failed as f64),
        ("errors_total", "counter", "Calls answered with a status of 500 or above.", |u| {
            u.errors as f64
        }),
        ("refused_total", "counter", "Calls refused before they started.", |u| u.refused as f64),
        ("cancelled_total", "counter", "Calls whose caller left.", |u| u.cancelled as f64),
        ("cpu_seconds_total", "counter", "CPU time of guests.", |u| u.cpu_ns as f64 / NANOS),
        ("wall_seconds_total", "counter", "Wall clock of guests.", |u| u.wall_ns as f64 / NANOS),
        ("in_bytes_total", "counter", "Bytes of request bodies read.", |u| u.bytes_in as f64),
        ("out_bytes_total", "counter", "Bytes of answer bodies sent.", |u| u.bytes_out as f64),
        ("outgoing_total", "counter", "Requests that guests sent.", |u| u.outgoing as f64),
        ("memory_peak_bytes", "gauge", "Largest memory of an instance.", |u| {
            u.memory_peak_bytes as f64
        }),
        ("running", "gauge", "Calls that run.", |u| u.running as f64),
        ("waiting", "gauge", "Calls that wait.", |u| u.waiting as f64),
    ];
    for (name, kind, help, read) in columns {
        let name = format!("swarmer_function_{name}");
        text.head(&name, kind, help);
        for status in &all {
            let Some(usage) = &status.usage else { continue };
            let version = status.version.to_string();
            let labels = [("function", status.function.as_str()), ("version", &version)];
            text.sample(&name, &labels, read(usage));
        }
    }
    text.head(
        "swarmer_function_ready",
        "gauge",
        "1 if the version is loaded here, 0 if it failed.",
    );
    for status in &all {
        let version = status.version.to_string();
        let labels = [("function", status.function.as_str()), ("version", &version)];
        text.sample("swarmer_function_ready", &labels, flag(status.error.is_none()));
    }
    let help = "1 if the copy here fails call after call and others get its calls, 0.5 on trial.";
    text.head("swarmer_function_failing", "gauge", help);
    for status in &all {
        let version = status.version.to_string();
        let labels = [("function", status.function.as_str()), ("version", &version)];
        let failing = match status.health {
            EndpointHealth::Good => 0.0,
            EndpointHealth::Trial => 0.5,
            EndpointHealth::Failing => 1.0,
        };
        text.sample("swarmer_function_failing", &labels, failing);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counters below 2^52; the format is a float")]
fn artifacts(text: &mut Text, context: &Context) {
    let (artifacts, bytes) = context.artifacts.collected();
    let help = "Artifacts deleted because nothing named them.";
    text.counter("swarmer_artifact_collected_total", help, artifacts as f64);
    let help = "Bytes of artifacts deleted because nothing named them.";
    text.counter("swarmer_artifact_collected_bytes_total", help, bytes as f64);
}

#[expect(clippy::cast_precision_loss, reason = "counters below 2^52; the format is a float")]
fn dispatch(text: &mut Text, context: &Context) {
    let refusals = context.dispatcher.refusals();
    let name = "swarmer_dispatch_not_entitled_total";
    let help = "Claims of other nodes refused: to speak for a function, to have served one.";
    text.head(name, "counter", help);
    text.sample(name, &[("claim", "source")], refusals.sources() as f64);
    text.sample(name, &[("claim", "server")], refusals.servers() as f64);
    text.gauge(
        "swarmer_dispatch_not_entitled_endpoints",
        "Endpoints that nodes tell of and may not serve, by this node's copy of the state.",
        context.catalog.current().not_entitled() as f64,
    );
}

#[expect(clippy::cast_precision_loss, reason = "counters below 2^52; the format is a float")]
fn transport(text: &mut Text, context: &Context) {
    let stats = context.transport.stats();
    let counters: [(&str, &str, u64); 6] = [
        ("dials_total", "Dials of members begun.", stats.dials),
        ("dial_failures_total", "Dials of members that failed.", stats.dial_failures),
        ("refused_total", "Connections and streams refused.", stats.refused),
        ("dropped_total", "Connection attempts dropped for their number.", stats.dropped),
        ("streams_opened_total", "Streams opened to members.", stats.streams_opened),
        ("streams_served_total", "Streams of members served.", stats.streams_served),
    ];
    for (name, help, value) in counters {
        text.counter(&format!("swarmer_transport_{name}"), help, value as f64);
    }
    let handshakes = stats.handshakes as f64;
    text.gauge("swarmer_transport_handshakes", "Handshakes in progress.", handshakes);
    text.head("swarmer_transport_connections", "gauge", "Connections that stand.");
    for (direction, count) in [("inbound", stats.inbound), ("outbound", stats.outbound)] {
        let labels = [("direction", direction)];
        text.sample("swarmer_transport_connections", &labels, count as f64);
    }
    let name = "swarmer_transport_version_connections";
    let help = "Connections opened by this node that stand, by version of the wire.";
    text.head(name, "gauge", help);
    let connections = context.transport.connections();
    let mut versions: BTreeMap<u8, f64> = BTreeMap::new();
    // The accepting side does not know it before the first stream.
    for connection in connections.iter().filter(|c| c.direction == Direction::Outbound) {
        *versions.entry(connection.version).or_default() += 1.0;
    }
    for (version, count) in versions {
        text.sample(name, &[("version", &version.to_string())], count);
    }
    // One series for each peer: the connections of all classes and directions together.
    let mut peers: BTreeMap<swarmer_model::NodeId, (f64, f64, f64, f64)> = BTreeMap::new();
    for connection in connections {
        let peer = peers.entry(connection.peer).or_insert((0.0, 0.0, 0.0, 0.0));
        peer.0 = peer.0.max(connection.rtt.as_secs_f64());
        peer.1 += connection.sent_bytes as f64;
        peer.2 += connection.received_bytes as f64;
        peer.3 += connection.lost_packets as f64;
    }
    type Read = fn(&(f64, f64, f64, f64)) -> f64;
    // Of living connections only, so these fall when one ends: gauges.
    let columns: [(&str, &str, Read); 4] = [
        ("rtt_seconds", "Smoothed round trip time, the longest of the connections.", |p| p.0),
        ("sent_bytes", "Bytes sent on the connections that stand.", |p| p.1),
        ("received_bytes", "Bytes received on the connections that stand.", |p| p.2),
        ("lost_packets", "Packets lost on the connections that stand.", |p| p.3),
    ];
    for (name, help, read) in columns {
        let name = format!("swarmer_transport_peer_{name}");
        text.head(&name, "gauge", help);
        for (peer, values) in &peers {
            text.sample(&name, &[("peer", &context.node_name(*peer))], read(values));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counters below 2^52; the format is a float")]
fn gossip(text: &mut Text, context: &Context) {
    let stats = context.gossip.stats();
    let counters: [(&str, &str, u64); 11] = [
        ("datagrams_in_total", "Datagrams taken from the socket.", stats.datagrams_in),
        ("datagrams_out_total", "Datagrams handed to the socket.", stats.datagrams_out),
        ("out_bytes_total", "Bytes handed to the socket.", stats.bytes_out),
        ("dropped_total", "Datagrams dropped by a full queue.", stats.datagrams_dropped),
        ("push_pulls_total", "Exchanges of all state that succeeded.", stats.push_pulls),
        ("push_pulls_failed_total", "Exchanges that failed.", stats.push_pulls_failed),
        ("probes_failed_total", "Probes that nobody answered.", stats.probes_failed),
        (
            "inquiries_failed_total",
            "Members asked out of turn, as nothing was heard of them, that said nothing.",
            stats.inquiries_failed,
        ),
        ("vetoes_total", "Deaths that a living connection held back.", stats.vetoes),
        ("round_trips_total", "Ways to members that were measured.", stats.round_trips),
        ("stalls_total", "Times that this node itself was late.", stats.stalls),
    ];
    for (name, help, value) in counters {
        text.counter(&format!("swarmer_gossip_{name}"), help, value as f64);
    }
    text.gauge("swarmer_gossip_records", "Records in the catalog.", stats.records as f64);
    let help = "Number of the key that this node seals with; a rotation brings the next one.";
    text.gauge("swarmer_gossip_key_id", help, stats.key.into());
    text.gauge("swarmer_gossip_keys", "Keys that this node opens with.", stats.keys as f64);
    text.head("swarmer_gossip_refused_total", "counter", "What was refused, by reason.");
    for reason in Refusal::ALL {
        let labels = [("reason", reason.label())];
        text.sample("swarmer_gossip_refused_total", &labels, stats.refused(*reason) as f64);
    }
}

/// Writes the text format.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            self.0.push(if i == 0 { '{' } else { ',' });
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, "counter", help);
        self.sample(name, &[], value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let mut text = Text::default();
        text.gauge("swarmer_a", "Help.", 1.0);
        text.head("swarmer_b_total", "counter", "Help.");
        text.sample("swarmer_b_total", &[("f", "x\"y\\z\n"), ("v", "1")], 2.5);
        assert_eq!(
            text.0,
            "# HELP swarmer_a Help.\n# TYPE swarmer_a gauge\nswarmer_a 1\n\
             # HELP swarmer_b_total Help.\n# TYPE swarmer_b_total counter\n\
             swarmer_b_total{f=\"x\\\"y\\\\z\\n\",v=\"1\"} 2.5\n"
        );
    }

    #[test]
    fn the_histogram_of_appends_is_cumulative_and_whole() {
        let mut buckets = [0; APPEND_BOUNDS_MS.len() + 1];
        (buckets[0], buckets[1], buckets[APPEND_BOUNDS_MS.len()]) = (3, 2, 1);
        let sum = std::time::Duration::from_millis(1500);
        let latency = AppendLatency { buckets, sum, unanswered: 4 };
        let mut text = Text::default();
        appends(&mut text, vec![("b".to_owned(), latency)]);
        for line in [
            "swarmer_raft_append_seconds_bucket{peer=\"b\",le=\"0.00025\"} 3",
            "swarmer_raft_append_seconds_bucket{peer=\"b\",le=\"0.0005\"} 5",
            "swarmer_raft_append_seconds_bucket{peer=\"b\",le=\"1\"} 5",
            "swarmer_raft_append_seconds_bucket{peer=\"b\",le=\"+Inf\"} 6",
            "swarmer_raft_append_seconds_sum{peer=\"b\"} 1.5",
            "swarmer_raft_append_seconds_count{peer=\"b\"} 6",
            "swarmer_raft_append_unanswered_total{peer=\"b\"} 4",
        ] {
            assert!(text.0.lines().any(|l| l == line), "{line} is not in {}", text.0);
        }
    }

    #[test]
    fn the_process_is_read_from_proc() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t   12 kB\n"), Some(12.0 * 1024.0));
        assert_eq!(resident_bytes(""), None);
        let stat = "42 (a (b) c) S 1 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 8 0 1 2 3";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("42 (a"), None);
        let mut text = Text::default();
        process(&mut text);
        assert!(text.0.contains("swarmer_process_resident_bytes"), "{}", text.0);
        assert!(text.0.contains("swarmer_process_cpu_seconds_total"), "{}", text.0);
    }
}
