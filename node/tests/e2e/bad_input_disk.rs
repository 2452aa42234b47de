//! Full disks, for real: a small file system of its own for a node, and no byte left on it.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use swarmer_runtime::fixtures;
use swarmer_testkit::{Capability, require};

use crate::{
    bad_input::{Neighbour, artifacts, refused, told, with_hello},
    common::{Answer, Cluster, Node, get, request, until},
};

/// How long a node may take to find out that it cannot start.
const SOON: Duration = Duration::from_secs(20);
/// So many changes fill more than the half of a segment of the log, from which on the next one is
/// prepared.
const MANY: u32 = 2_000;
/// What a change carries: so many annotations of the largest size.
const PADDING: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A tmpfs in a mount namespace of its own, which ends with this, or with the test's process.
struct SmallDisk {
    holder: Child,
    dir: PathBuf,
}

impl SmallDisk {
    /// Mounts it over an empty directory; only what is started by [`SmallDisk::enter`] sees it.
    fn over(dir: &Path, mib: u32) -> Self {
        fs::create_dir_all(dir).unwrap();
        let script = "mount -t tmpfs -o size=\"$2\"m swarmer-test \"$1\" && echo ready && read _";
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
            .arg(dir)
            .arg(mib.to_string())
            // Its end ends the holder, also when this process is killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { holder, dir: dir.to_owned() }
    }

    /// What a node is started by to see it.
    fn enter(&self) -> Vec<String> {
        let holder = self.holder.id().to_string();
        ["nsenter", "--mount", "--target", &holder, "--"].map(str::to_owned).to_vec()
    }

    /// The way to its files from outside.
    fn path(&self) -> PathBuf {
        let dir = self.dir.strip_prefix("/").unwrap();
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(dir)
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Takes the last byte.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.ballast()).unwrap();
        for bytes in [1 << 20, 4096, 1] {
            let zeros = vec![0; bytes];
            loop {
                match file.write(&zeros) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
                        break;
                    }
                }
            }
        }
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

const FUNCTION: &str = "/v1/namespaces/default/functions/hello";

/// Changes the function's annotations and nothing else: a write of a known size.
async fn change(cluster: &Cluster, node: &Node, number: u32) -> Result<Answer, String> {
    let mut function = get(&cluster.http, &node.api_url(FUNCTION)).await?.json();
    let mut annotations = serde_json::json!({ "number": number.to_string() });
    for name in PADDING {
        annotations[name] = "x".repeat(1024).into();
    }
    let Some(metadata) = function["metadata"].as_object_mut() else {
        return Err(format!("no function: {function}"));
    };
    metadata.insert("annotations".into(), annotations);
    metadata.remove("revision");
    request(&cluster.http, "PUT", &node.api_url(FUNCTION), function.to_string()).await
}

/// The number of the last change that a node knows of.
async fn known(cluster: &Cluster, node: &Node) -> Option<u32> {
    let function = get(&cluster.http, &node.api_url(FUNCTION)).await.ok()?.json();
    function["metadata"]["annotations"]["number"].as_str()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_its_voter_and_the_others_go_on() {
    if !require(Capability::Tmpfs) {
        return;
    }
    let mut cluster = Cluster::prepare(3);
    let disk = SmallDisk::over(&cluster.nodes[2].dir, 64);
    cluster.nodes[2].wrap = disk.enter();
    for i in 0..3 {
        cluster.start(i);
    }
    cluster.all_ready().await;
    with_hello(&cluster).await;
    let before = artifacts(&disk.path());
    disk.fill();
    let neighbour = Neighbour::of(&cluster.http, &cluster.nodes[0]);

    // An upload onto it is refused, and leaves no half file; at another node it is taken.
    let other = cluster.component("other", &fixtures::hello_p3());
    let output = cluster.nodes[2].cli(&["deploy", &other]);
    refused(&output, 1, "SW-NODE-STORAGE", &["default/other", "No space left on device"]);
    assert_eq!(artifacts(&disk.path()), before);
    let hello = get(&cluster.http, &cluster.nodes[2].url("/hello")).await.unwrap();
    assert_eq!(hello.status, 200, "it serves what it has");
    cluster.nodes[0].cli_ok(&["deploy", &other, "--replicas", "2"]);

    // Its log cannot grow any more: it stops rather than say yes to what it cannot keep. All
    // changes are acknowledged all the same, by the other two.
    let mut last = 0;
    while cluster.nodes[2].is_running() {
        last += 1;
        assert!(last <= MANY, "it goes on:\n{}", cluster.nodes[2].log_text());
        let answer = change(&cluster, &cluster.nodes[0], last).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let status = cluster.nodes[2].wait();
    assert_eq!(status.code(), Some(1));
    let log = cluster.nodes[2].log_text();
    told(&log, "SW-RAFT-DISK-FULL", &["No space left on device", "Free space"]);
    for i in [0, 1] {
        until("the others know of all changes", || async {
            (known(&cluster, &cluster.nodes[i]).await == Some(last)).then_some(())
        })
        .await;
    }
    last += 1;
    assert_eq!(change(&cluster, &cluster.nodes[1], last).await.unwrap().status, 200);
    cluster.serves(&[0, 1], "/hello").await;
    cluster.serves(&[0, 1], "/other").await;
    neighbour.fine().await;

    // As long as there is no room it does not start, and says why.
    let seeds = cluster.seeds.clone();
    let output = cluster.nodes[2].fails(&seeds, None, 3, SOON);
    refused(&output, 1, "SW-NODE-STORAGE", &["node.json", "No space left on device"]);
    // With room it is whole again.
    disk.free();
    cluster.start(2);
    cluster.all_ready().await;
    until("it has caught up", || async {
        (known(&cluster, &cluster.nodes[2]).await == Some(last)).then_some(())
    })
    .await;
    cluster.serves(&[2], "/hello").await;
    cluster.serves(&[2], "/other").await;
    let output = cluster.nodes[2].cli(&["deploy", &other, "--name", "again"]);
    assert!(output.status.success(), "{output:?}");
    last += 1;
    assert_eq!(change(&cluster, &cluster.nodes[2], last).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_log_loses_nothing_that_was_acknowledged() {
    if !require(Capability::Tmpfs) {
        return;
    }
    let mut cluster = Cluster::found(1).await;
    with_hello(&cluster).await;
    assert!(cluster.nodes[0].stop().unwrap().success());
    // Its log, and nothing else, moves to a small disk.
    let dir = cluster.nodes[0].dir.join("raft");
    let old = cluster.nodes[0].dir.join("raft.old");
    fs::rename(&dir, &old).unwrap();
    let disk = SmallDisk::over(&dir, 32);
    let copied = Command::new("cp").arg("-a").arg(old.join(".")).arg(disk.path()).status().unwrap();
    assert!(copied.success());
    cluster.nodes[0].wrap = disk.enter();
    cluster.start(0);
    cluster.all_ready().await;
    let mut acknowledged = 0;
    let mut revision = 0;
    let mut attempted = 1;
    assert_eq!(change(&cluster, &cluster.nodes[0], attempted).await.unwrap().status, 200);
    disk.fill();
    let refusal = loop {
        attempted += 1;
        assert!(attempted <= MANY, "it goes on:\n{}", cluster.nodes[0].log_text());
        match change(&cluster, &cluster.nodes[0], attempted).await {
            Ok(answer) if answer.status == 200 => {
                acknowledged = attempted;
                revision = answer.json()["metadata"]["revision"].as_u64().unwrap();
            }
            // The one that it could not keep: an error with a code, or a node that is gone.
            Ok(answer) => break Some(answer),
            Err(_) => break None,
        }
    };
    if let Some(answer) = refusal {
        assert!(answer.status >= 500, "{}", answer.text());
        assert!(answer.header("x-swarmer-error").starts_with("SW-RAFT-"), "{}", answer.text());
    }
    assert_eq!(cluster.nodes[0].wait().code(), Some(1));
    told(&cluster.nodes[0].log_text(), "SW-RAFT-DISK-FULL", &["No space left on device"]);
    assert!(acknowledged > 1, "some were taken before it was full");

    disk.free();
    cluster.start(0);
    cluster.all_ready().await;
    let found = known(&cluster, &cluster.nodes[0]).await.unwrap();
    assert!((acknowledged..=attempted).contains(&found), "{acknowledged}..={attempted}: {found}");
    let now: Value = cluster.status(0).await;
    assert!(now["revision"].as_u64().unwrap() >= revision, "{now}");
    cluster.serves(&[0], "/hello").await;
    attempted += 1;
    let answer = change(&cluster, &cluster.nodes[0], attempted).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_could_not_be_audited_is_refused_and_none_goes_by_unseen() {
    if !require(Capability::Tmpfs) {
        return;
    }
    let mut cluster = Cluster::found(1).await;
    with_hello(&cluster).await;
    assert!(cluster.nodes[0].stop().unwrap().success());
    // Its audit log, and nothing else, moves to a small disk.
    let dir = cluster.nodes[0].dir.join("audit");
    let old = cluster.nodes[0].dir.join("audit.old");
    fs::rename(&dir, &old).unwrap();
    let disk = SmallDisk::over(&dir, 1);
    let copied = Command::new("cp").arg("-a").arg(old.join(".")).arg(disk.path()).status().unwrap();
    assert!(copied.success());
    cluster.nodes[0].wrap = disk.enter();
    cluster.start(0);
    cluster.all_ready().await;
    disk.fill();
    let mut acknowledged = 0;
    let refusal = loop {
        let answer = change(&cluster, &cluster.nodes[0], acknowledged + 1).await.unwrap();
        if answer.status != 200 {
            break answer;
        }
        acknowledged += 1;
        // The last page of the file has room for some.
        assert!(acknowledged < 100, "changes go on without a record");
    };
    assert_eq!(refusal.status, 507, "{}", refusal.text());
    assert_eq!(refusal.header("x-swarmer-error"), "SW-AUDIT-UNWRITABLE");
    assert!(refusal.text().contains("No space left on device"), "{}", refusal.text());
    assert_eq!(known(&cluster, &cluster.nodes[0]).await, Some(acknowledged), "reads go on");
    cluster.serves(&[0], "/hello").await;
    let log = cluster.nodes[0].log_text();
    let line = log.lines().find(|line| line.contains("SW-AUDIT-UNWRITABLE"));
    assert!(line.is_some_and(|line| line.contains("No space left on device")), "{log}");

    disk.free();
    acknowledged += 1;
    let answer = change(&cluster, &cluster.nodes[0], acknowledged).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    cluster.nodes[0].cli_ok(&["audit", "--verify"]);
    let text = cluster.nodes[0].cli_ok(&["-o", "json", "audit", "--tail", "10000"]);
    let value: Value = serde_json::from_str(&text).unwrap();
    let ours = value["items"].as_array().unwrap().iter().filter(|record| {
        let changes = record["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
        record["who"] == "open"
            && changes
                .iter()
                .any(|change| change["verb"] == "update" && change["kind"] == "Function")
    });
    assert_eq!(ours.count() as u32, acknowledged, "{text}");
}
