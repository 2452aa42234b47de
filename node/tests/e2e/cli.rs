//! The command line as a tool among others: readers that go away, secrets in files, what it shows.

use std::{
    io::Seek as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use swarmer_model::Digest;
use swarmer_runtime::fixtures;

use crate::{
    bad_input::{refused, with_hello},
    common::{Cluster, Node, binary, ended, get, until},
};

/// What shells give to a program that a closed pipe ended.
const CLOSED: Option<i32> = Some(141);

fn command(node: Option<&Node>, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.env_remove("SWARMER_LOG").env_remove("SWARMER_BIN").stdin(Stdio::null());
    if let Some(node) = node {
        command.args(["--addr", &format!("http://{}", node.api)]);
    }
    command.args(arguments);
    command
}

/// Runs it with an output that nobody reads: it must end with `exit`, and say nothing.
fn unread(node: Option<&Node>, arguments: &[&str], exit: Option<i32>) {
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let mut said = tempfile::tempfile().unwrap();
    let mut unread = command(node, arguments);
    unread.stdout(closed()).stderr(said.try_clone().unwrap());
    let status = ended(&mut unread.spawn().unwrap());
    said.rewind().unwrap();
    let said = std::io::read_to_string(said).unwrap();
    assert_eq!(status.code(), exit, "{arguments:?}: {said}");
    assert!(!said.contains("panicked") && !said.contains("error:"), "{arguments:?}: {said}");
    // And nobody hears what it has to say.
    unread.stdout(closed()).stderr(closed());
    assert_eq!(ended(&mut unread.spawn().unwrap()).code(), exit, "{arguments:?}, unheard");
}

#[test]
fn offline_commands_end_quietly_when_nobody_reads() {
    for arguments in [
        &["completion", "bash"][..],
        &["explain"],
        &["explain", "-o", "json"],
        &["explain", "SW-RAFT-NO-QUORUM"],
        &["token", "bootstrap"],
        &["--help"],
        &["help", "deploy"],
        &["--version"],
    ] {
        unread(None, arguments, CLOSED);
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = command(None, &["completion", "bash"]).stdout(full).output().unwrap();
    refused(&output, 1, "SW-CLI-FAILED", &["cannot print"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_end_quietly_when_nobody_reads() {
    let cluster = Cluster::found(1).await;
    let node = &cluster.nodes[0];
    with_hello(&cluster).await;
    let file = cluster.base.path().join("hello.yaml");
    std::fs::write(&file, node.cli_ok(&["get", "function", "hello", "-o", "yaml"])).unwrap();
    let (file, component) = (file.to_str().unwrap(), cluster.component("b", &fixtures::hello_p2()));
    for arguments in [
        &["members"][..],
        &["members", "-o", "json"],
        &["status"],
        &["doctor"],
        &["get", "functions", "-o", "json"],
        &["describe", "function", "hello"],
        &["diff", "-f", file],
        &["apply", "-f", file],
        &["invoke", "hello", "--include"],
        &["invoke", "hello"],
        &["rollout", "status", "hello"],
        &["logs", "hello", "--follow"],
        &["token", "create"],
        &["token", "list"],
        &["deploy", &component],
    ] {
        unread(Some(node), arguments, CLOSED);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_on_when_nobody_reads_its_log() {
    let mut cluster = Cluster::prepare(1);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let (http, token) = (cluster.http.clone(), cluster.token.clone());
    let node = &mut cluster.nodes[0];
    let mut start = node.command(&[], Some(&token), 1);
    node.adopt(start.stdout(Stdio::null()).stderr(writer).spawn().unwrap());
    node.ready(&http).await;
    assert!(node.stop().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_go_to_new_files_that_only_their_owner_reads() {
    let cluster = Cluster::found(1).await;
    let node = &cluster.nodes[0];
    let base = cluster.base.path();
    let read = |path: &Path| {
        let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
        std::fs::read_to_string(path).unwrap()
    };
    let check = |node: Option<&Node>, name: &str, arguments: &[&str], start: &str| {
        let path = base.join(name);
        let arguments = [arguments, &["--out", path.to_str().unwrap()]].concat();
        let output = command(node, &arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let token = read(&path);
        assert!(token.starts_with(start) && token.lines().count() == 1, "{token}");
        // Never over another one.
        let output = command(node, &arguments).output().unwrap();
        refused(&output, 2, "SW-CLI-USAGE", &["--out", "exists"]);
        assert_eq!(read(&path), token);
    };
    check(None, "founding", &["token", "bootstrap"], "swf1.");
    check(Some(node), "join", &["token", "create"], "swj1.");
    // With JSON, the answer is printed without what is in the file.
    let path = base.join("api");
    let told =
        node.cli_ok(&["token", "create", "--api", "-o", "json", "--out", path.to_str().unwrap()]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert!(told["id"].is_string() && told.get("token").is_none(), "{told}");
    assert!(!read(&path).trim().is_empty());
    // One that was not made leaves no file.
    let path = base.join("none");
    let path = path.to_str().unwrap();
    let output = node.cli(&["token", "create", "--ttl", "banana", "--out", path]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(!Path::new(path).exists());
    // Without it, the token is printed alone.
    let output = command(None, &["token", "bootstrap"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("swf1.") && text.lines().count() == 1, "{text}");
    assert!(output.stderr.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_shown_with_the_version_of_their_software() {
    let cluster = Cluster::found(3).await;
    for node in &cluster.nodes {
        until("all versions are known", || async {
            let members: Value =
                serde_json::from_str(&node.cli_ok(&["members", "-o", "json"])).unwrap();
            let members = members["items"].as_array().unwrap().clone();
            let known = |member: &Value| member["version"] == env!("CARGO_PKG_VERSION");
            (members.len() == 3 && members.iter().all(known)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_shown_with_how_far_they_are_from_the_node_that_is_asked() {
    let cluster = Cluster::found(3).await;
    for (own, node) in cluster.nodes.iter().enumerate() {
        until("the ways to both others are known", || async {
            let members: Value =
                serde_json::from_str(&node.cli_ok(&["members", "-o", "json"])).unwrap();
            let known: Vec<Option<f64>> =
                members["items"].as_array()?.iter().map(|m| m["rttMs"].as_f64()).collect();
            // On one machine, which may be busy.
            let far = |rtt: &f64| *rtt > 0.0 && *rtt < 1000.0;
            let others = known.iter().flatten().filter(|rtt| far(rtt)).count();
            (known.len() == 3 && known[own].is_none() && others == 2).then_some(())
        })
        .await;
        assert!(cluster.metric(own, "swarmer_gossip_round_trips_total").await >= 2);
        assert!(node.cli_ok(&["members"]).contains("RTT MS"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diff_is_what_apply_does_and_changes_nothing() {
    let cluster = Cluster::found(1).await;
    let node = &cluster.nodes[0];
    with_hello(&cluster).await;
    node.cli_ok(&["deploy", &cluster.component("hello", &fixtures::hello_p2()), "--env", "A=1"]);
    let digest = Digest::of(&fixtures::hello_p2());
    let path = cluster.base.path().join("hello.yaml");
    let write = |name: &str| {
        let text = format!(
            "apiVersion: swarmer/v1\nkind: Function\nmetadata: {{name: {name}}}\nspec:\n  \
             component: {digest}\n  limits: {{memory: 32MiB}}\n"
        );
        std::fs::write(&path, text).unwrap();
    };
    let file = path.to_str().unwrap();
    let revision = || async {
        let url = node.api_url("/v1/namespaces/default/functions/hello");
        get(&cluster.http, &url).await.unwrap().json()["metadata"]["revision"].clone()
    };
    write("hello");
    let before = revision().await;
    let told = node.cli_ok(&["diff", "-f", file]);
    // What the file does not name goes back to its default: `apply` replaces.
    for line in ["- spec.env.A: \"1\"", "~ spec.limits.memory: \"64MiB\" -> \"32MiB\""] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert_eq!(revision().await, before, "a diff wrote something");
    node.cli_ok(&["apply", "-f", file]);
    assert_eq!(node.cli_ok(&["diff", "-f", file]), "function default/hello\n");
    write("fresh");
    let told = node.cli_ok(&["diff", "-f", file]);
    assert!(told.starts_with("function default/fresh (new)\n"), "{told}");
    assert!(told.contains("+ spec.limits.memory: \"32MiB\""), "{told}");
    assert_eq!(node.cli(&["get", "function", "fresh"]).status.code(), Some(3));
}

#[test]
fn options_that_mean_nothing_to_a_command_are_refused() {
    for arguments in [&["node", "--addr", "x"][..], &["--addr", "x", "completion", "bash"]] {
        let output = command(None, arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--addr"), "{said}");
    }
}

#[test]
fn the_binary_has_no_planted_bugs_and_cannot_be_told_to() {
    let output = command(None, &["--version"]).env("SWARMER_PLANTED", "accept-replay").output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    assert_eq!(said, concat!("swarmer ", env!("CARGO_PKG_VERSION"), "\n"));
}
