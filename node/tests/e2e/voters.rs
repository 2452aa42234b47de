//! Voters come and go while the cluster works: killed, deleted, restarted, wiped.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use swarmer_runtime::fixtures;
use swarmer_testkit::{Capability, require};

use crate::common::{Cluster, Http, Node, binary, get, until};

/// How long a voter may be dead in these tests.
const GRACE: [&str; 2] = ["--voter-grace-ms", "1500"];

fn extra() -> Vec<String> {
    GRACE.map(str::to_owned).to_vec()
}

/// Three founders that lose patience soon.
async fn three() -> Cluster {
    let mut cluster = Cluster::prepare(3);
    for i in 0..3 {
        cluster.nodes[i].extra = extra();
        cluster.start(i);
    }
    cluster.all_ready().await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_emptied_lets_another_one_lead() {
    let cluster = Cluster::found(3).await;
    let leader = cluster.leader(0).await;
    let other = (leader + 1) % 3;
    let name = cluster.nodes[leader].name.clone();
    cluster.nodes[other].cli_ok(&["drain", &name]);
    until("another one leads", || async {
        let now = cluster.leader(other).await;
        (now != leader).then_some(())
    })
    .await;
    let status = cluster.status(other).await;
    assert_eq!(status["voters"].as_array().map(Vec::len), Some(3), "it keeps its vote: {status}");
}

/// As those that joined do.
async fn join(cluster: &mut Cluster, name: &str, by: usize) -> usize {
    join_by_token(cluster, name, by, &["token", "create"]).await
}

async fn join_by_token(cluster: &mut Cluster, name: &str, by: usize, create: &[&str]) -> usize {
    let text = cluster.nodes[by].cli_ok(create);
    let token = cluster.base.path().join(format!("{name}.token"));
    std::fs::write(&token, text).unwrap();
    let mut node = Node::new(cluster.base.path(), name);
    node.extra = extra();
    node.start(&cluster.seeds, Some(&token), 1);
    let http = cluster.http.clone();
    node.ready(&http).await;
    cluster.nodes.push(node);
    cluster.nodes.len() - 1
}

async fn restart(cluster: &mut Cluster, i: usize) {
    let (seeds, http) = (cluster.seeds.clone(), cluster.http.clone());
    cluster.nodes[i].start(&seeds, None, 1);
    cluster.nodes[i].ready(&http).await;
}

fn names(status: &Value, path: &str) -> Vec<String> {
    let nodes = status[path].as_array().cloned().unwrap_or_default();
    let names = nodes.iter().filter_map(|node| node["name"].as_str().map(str::to_owned));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Waits until every one of these nodes says that these and no others vote, by a leader that it
/// knows.
async fn voters(cluster: &Cluster, ask: &[usize], expected: &[&str]) {
    for i in ask {
        until(&format!("{} knows the voters {expected:?}", cluster.nodes[*i].name), || async {
            let status = cluster.status(*i).await;
            let so = names(&status, "voters") == expected
                && status["quorum"] == true
                && status["votersSettled"] == true;
            (so && names(&status, "learners").is_empty()).then_some(())
        })
        .await;
    }
}

async fn role(cluster: &Cluster, i: usize) -> String {
    cluster.status(i).await["node"]["role"].as_str().unwrap_or_default().to_owned()
}

async fn follows(cluster: &Cluster, i: usize) {
    until(&format!("{} follows", cluster.nodes[i].name), || async {
        (role(cluster, i).await == "follower").then_some(())
    })
    .await;
}

/// Whether a node's directory holds the authority's key anywhere.
fn holds_key(node: &Node) -> bool {
    let text = std::fs::read_to_string(node.dir.join("identity.json")).unwrap();
    let grant: Value = serde_json::from_str(&text).unwrap();
    grant["ca_key_pem"].is_string() || node.dir.join("made.json").exists()
}

/// Requests without a pause, until told to stop; gives those that were not answered by 200.
fn load(http: &Http, url: String, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<Vec<String>> {
    let http = http.clone();
    tokio::spawn(async move {
        let mut failed = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            match get(&http, &url).await {
                Ok(answer) if answer.status == 200 => {}
                Ok(answer) => failed.push(format!("{}: {}", answer.status, answer.text())),
                Err(why) => failed.push(why),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        failed
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_is_gone_is_replaced_and_comes_back_as_a_follower() {
    let mut cluster = three().await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", "hello"]);
    let spare = join(&mut cluster, "n4", 0).await;
    cluster.serves(&[0, 1, 2, 3], "/hello").await;
    assert!(!holds_key(&cluster.nodes[spare]), "a follower has no business with the key");
    follows(&cluster, spare).await;
    // Not the leader, so that nothing else happens at the same time.
    let leader = cluster.leader(spare).await;
    let victim = (0..3).find(|i| *i != leader).unwrap();
    let stay: Vec<usize> = (0..4).filter(|i| *i != victim).collect();

    // The spare serves while it becomes a voter.
    let stop = Arc::new(AtomicBool::new(false));
    let serving = load(&cluster.http, cluster.nodes[spare].url("/hello"), Arc::clone(&stop));
    cluster.nodes[victim].kill();
    let expected: Vec<String> = stay.iter().map(|i| cluster.nodes[*i].name.clone()).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    voters(&cluster, &stay, &expected).await;
    until("the new voter holds the authority", || async {
        holds_key(&cluster.nodes[spare]).then_some(())
    })
    .await;
    cluster.nodes[spare].cli_ok(&["token", "create"]);
    stop.store(true, Ordering::Relaxed);
    let failed = serving.await.unwrap();
    assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed.first());

    // It is a voter that counts: with another one gone there is still a majority.
    let second = (0..3).find(|i| *i != victim && *i != leader).unwrap();
    cluster.nodes[second].kill();
    cluster.nodes[spare].cli_ok(&["token", "create"]);

    // The first one comes back, finds that it lost its vote, gives up the key, and gets the vote
    // of the second one, on the log that it had.
    restart(&mut cluster, victim).await;
    let back: Vec<usize> = (0..4).filter(|i| *i != second).collect();
    let expected: Vec<String> = back.iter().map(|i| cluster.nodes[*i].name.clone()).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    voters(&cluster, &back, &expected).await;
    cluster.serves(&back, "/hello").await;

    // Now there is no spare: the second one comes back and follows.
    restart(&mut cluster, second).await;
    follows(&cluster, second).await;
    assert!(!holds_key(&cluster.nodes[second]), "the key went with the vote");
    voters(&cluster, &[second], &expected).await;
    cluster.nodes[second].cli_ok(&["token", "create"]);
    cluster.serves(&[second], "/hello").await;
    let log = cluster.nodes[second].log_text();
    assert!(log.contains("this node has no vote any more and follows"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_are_deleted_one_after_another_and_the_last_voter_is_not() {
    let mut cluster = three().await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", "hello"]);
    let fourth = join(&mut cluster, "n4", 0).await;
    cluster.serves(&[0, 1, 2, 3], "/hello").await;

    // The leader itself, asked at the newcomer.
    let leader = cluster.leader(fourth).await;
    let name = cluster.nodes[leader].name.clone();
    cluster.nodes[fourth].cli_ok(&["delete", "node", &name]);
    let mut stay: Vec<usize> = (0..4).filter(|i| *i != leader).collect();
    let expected = |cluster: &Cluster, of: &[usize]| -> Vec<String> {
        of.iter().map(|i| cluster.nodes[*i].name.clone()).collect()
    };
    let three = expected(&cluster, &stay);
    voters(&cluster, &stay, &three.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // What was removed goes on sending, and is a stranger.
    assert!(cluster.nodes[leader].is_running());
    cluster.serves(&stay, "/hello").await;
    let before = cluster.status(fourth).await;
    cluster.nodes[leader].kill();

    // All that are left come back without it.
    for i in stay.clone() {
        cluster.nodes[i].kill();
    }
    for i in stay.clone() {
        let seeds = cluster.seeds.clone();
        cluster.nodes[i].start(&seeds, None, 1);
    }
    let http = cluster.http.clone();
    for i in stay.clone() {
        cluster.nodes[i].ready(&http).await;
    }
    voters(&cluster, &stay, &three.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(cluster.status(fourth).await["cluster"], before["cluster"]);
    // Whoever joins now learns of the voters of now.
    let fifth = join(&mut cluster, "n5", fourth).await;
    cluster.serves(&[fifth], "/hello").await;
    cluster.nodes[fourth].cli_ok(&["delete", "node", "n5"]);
    cluster.nodes[fifth].kill();

    // Down to one; that one stays.
    while stay.len() > 1 {
        let gone = stay.remove(0);
        let name = cluster.nodes[gone].name.clone();
        cluster.nodes[fourth].cli_ok(&["delete", "node", &name]);
        cluster.nodes[gone].kill();
    }
    assert_eq!(stay, [fourth]);
    voters(&cluster, &[fourth], &["n4"]).await;
    let last = cluster.nodes[fourth].cli(&["delete", "node", "n4"]);
    let said = String::from_utf8_lossy(&last.stderr).into_owned();
    assert!(!last.status.success() && said.contains("SW-API-VOTE-NEEDED"), "{said}");
    cluster.nodes[fourth].cli_ok(&["token", "create"]);
    cluster.serves(&[fourth], "/hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_grows_voters_and_a_learner_that_is_killed_in_the_middle_goes_on() {
    let mut cluster = Cluster::prepare(1);
    cluster.nodes[0].extra = extra();
    cluster.start(0);
    cluster.all_ready().await;
    let second = join(&mut cluster, "n2", 0).await;
    voters(&cluster, &[0, second], &["n1"]).await;
    let third = join(&mut cluster, "n3", 0).await;
    // Each is killed as soon as it says that it takes the log, whatever it did of that.
    for i in [second, third] {
        until("it takes the log", || async {
            let log = cluster.nodes[i].log_text();
            log.contains("takes the log as a learner").then_some(())
        })
        .await;
        cluster.nodes[i].kill();
        restart(&mut cluster, i).await;
    }
    voters(&cluster, &[0, second, third], &["n1", "n2", "n3"]).await;
    // The founder is not needed any more.
    cluster.nodes[0].kill();
    cluster.nodes[second].cli_ok(&["token", "create"]);
    cluster.nodes[third].cli_ok(&["token", "create"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_labelled_so_gets_no_vote_and_gives_its_own_away() {
    let never = ["token", "create", "--label", "vote=never"];
    let mut cluster = Cluster::prepare(1);
    cluster.nodes[0].extra = extra();
    cluster.nodes[0].extra.extend(["--label".to_owned(), "vote=never".to_owned()]);
    cluster.start(0);
    cluster.all_ready().await;
    let second = join_by_token(&mut cluster, "n2", 0, &never).await;
    // There must be one.
    voters(&cluster, &[0, second], &["n1"]).await;
    for name in ["n3", "n4", "n5"] {
        join(&mut cluster, name, 0).await;
    }
    voters(&cluster, &[0, second, 2, 3, 4], &["n3", "n4", "n5"]).await;
    // Not even where a voter is gone for good.
    cluster.nodes[4].kill();
    let sixth = join(&mut cluster, "n6", 2).await;
    voters(&cluster, &[0, second, 2, 3, sixth], &["n3", "n4", "n6"]).await;
    let wrong = ["token", "create", "--label", "vote=no"];
    let refused = cluster.nodes[0].cli(&wrong);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("never, or no such label"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_log_is_lost_does_not_vote_under_its_old_id() {
    let mut cluster = three().await;
    cluster.nodes[0].cli_ok(&["token", "create"]);
    let victim = 2;
    assert!(cluster.nodes[victim].stop().unwrap().success());
    let dir = cluster.nodes[victim].dir.clone();
    let refused = |node: &Node| {
        let limit = Duration::from_secs(20);
        let output = node.fails(&cluster.seeds, Some(&cluster.token), 3, limit);
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains("SW-NODE-LOG-LOST"), "{said}");
    };
    // The disk with the log is lost.
    let lost = cluster.base.path().join("lost");
    std::fs::rename(dir.join("raft"), &lost).unwrap();
    refused(&cluster.nodes[victim]);
    // A new disk, with nothing but who the node is.
    let whole = cluster.base.path().join("whole");
    std::fs::rename(&dir, &whole).unwrap();
    std::fs::create_dir(&dir).unwrap();
    for file in ["node.json", "node.key", "identity.json"] {
        std::fs::copy(whole.join(file), dir.join(file)).unwrap();
    }
    refused(&cluster.nodes[victim]);
    // With its log it is what it was.
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::rename(&whole, &dir).unwrap();
    std::fs::rename(&lost, dir.join("raft")).unwrap();
    cluster.start(victim);
    let http = cluster.http.clone();
    cluster.nodes[victim].ready(&http).await;
    voters(&cluster, &[victim], &["n1", "n2", "n3"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_goes_on_from_one_voter_when_the_others_are_gone_for_good() {
    let mut cluster = three().await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", "hello"]);
    let fourth = join(&mut cluster, "n4", 0).await;
    cluster.serves(&[0, 1, 2, 3], "/hello").await;
    // A majority dies at once, before anybody can be replaced.
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    cluster.serves(&[2, fourth], "/hello").await;
    let id = cluster.status(2).await["cluster"].as_str().unwrap().to_owned();
    assert!(cluster.nodes[2].stop().unwrap().success());
    let recover = |arguments: &[&str], dir: &std::path::Path, answer: &str| {
        let mut child = Command::new(binary())
            .env_remove("SWARMER_LOG")
            .arg("recover")
            .arg("--data-dir")
            .arg(dir)
            .args(arguments)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that asks nothing may be gone before it is told anything.
        let _ = child.stdin.take().unwrap().write_all(answer.as_bytes());
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let dir = cluster.nodes[2].dir.clone();
    for (what, arguments, answer) in [
        ("unasked", &[][..], id.as_str()),
        ("mistyped", &["--force"], "yes"),
        ("silent", &["--force"], ""),
    ] {
        let (done, said) = recover(arguments, &dir, answer);
        assert!(!done && said.contains("SW-CLI-NOT-CONFIRMED"), "{what}: {said}");
    }
    let (done, said) = recover(&["--force"], &cluster.nodes[fourth].dir, &id);
    assert!(!done && said.contains("SW-NODE-DATA-DIR-LOCKED"), "a running node: {said}");
    let (done, said) = recover(&["--force"], &dir, &format!("{id}\n"));
    assert!(done && said.contains("Never start them again"), "{said}");

    restart(&mut cluster, 2).await;
    cluster.nodes[2].cli_ok(&["token", "create"]);
    cluster.serves(&[2, fourth], "/hello").await;
    let fifth = join(&mut cluster, "n5", 2).await;
    voters(&cluster, &[2, fourth, fifth], &["n3", "n4", "n5"]).await;
    assert_eq!(cluster.status(fifth).await["cluster"], id.as_str());
    cluster.serves(&[fifth], "/hello").await;
    // A name of those that were left behind is free again.
    let members = get(&cluster.http, &cluster.nodes[2].api_url("/v1/nodes")).await.unwrap().json();
    assert_eq!(members["items"].as_array().unwrap().len(), 3, "{members}");
}

/// Makes every sync of a process take long while a file is there.
const SLOW_DISK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
static int slowly(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *slow = getenv("SLOW_WHILE");
    if (slow && access(slow, F_OK) == 0) usleep(150000);
    return real(fd);
}
int fdatasync(int fd) { return slowly("fdatasync", fd); }
int fsync(int fd) { return slowly("fsync", fd); }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_slow_lets_another_one_lead() {
    if !require(Capability::Cc) {
        return;
    }
    let mut cluster = Cluster::prepare(3);
    let base = cluster.base.path().to_owned();
    let (source, shim) = (base.join("slow.c"), base.join("slow.so"));
    std::fs::write(&source, SLOW_DISK).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&shim, &source])
        .arg("-ldl")
        .status()
        .unwrap();
    assert!(built.success());
    let slow = |i: usize| base.join(format!("slow-{i}"));
    for i in 0..3 {
        let preload = format!("LD_PRELOAD={}", shim.display());
        let file = format!("SLOW_WHILE={}", slow(i).display());
        cluster.nodes[i].wrap = vec!["env".to_owned(), preload, file];
        cluster.start(i);
    }
    cluster.all_ready().await;
    let first = cluster.leader(0).await;
    std::fs::write(slow(first), "").unwrap();
    let other = (first + 1) % 3;
    until("another one leads", || async {
        // Without writes no disk is slow.
        cluster.nodes[other].cli_ok(&["token", "create"]);
        (cluster.leader(other).await != first).then_some(())
    })
    .await;
    let log = cluster.nodes[first].log_text();
    assert!(log.contains("the leader's disk takes up to"), "{log}");
    cluster.nodes[first].cli_ok(&["token", "create"]);
}
