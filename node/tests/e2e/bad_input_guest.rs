//! Functions that misbehave: each ends by its own code in its own time, and harms no other.

use std::time::{Duration, Instant};

use swarmer_runtime::fixtures::{self, Behaviour};

use crate::{
    bad_input::{Neighbour, problem, with_hello},
    common::{Cluster, get, until},
};

/// What each of them may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misbehaving_function_gets_its_own_error_and_harms_no_other() {
    let cluster = Cluster::found(1).await;
    let node = &cluster.nodes[0];
    with_hello(&cluster).await;
    // What it does; status, code, and the word that its message has.
    let cases: [(&str, Behaviour, u16, &[&str], &str); 8] = [
        ("trap", Behaviour::Trap, 500, &["SW-RUNTIME-TRAP"], "unreachable"),
        ("loop", Behaviour::Loop, 500, &["SW-RUNTIME-CPU-LIMIT", "SW-RUNTIME-TIMEOUT"], ""),
        ("allocate", Behaviour::Allocate, 500, &["SW-RUNTIME-MEMORY-LIMIT"], "16777216"),
        ("flood", Behaviour::Flood, 500, &["SW-RUNTIME-CPU-LIMIT", "SW-RUNTIME-TIMEOUT"], ""),
        ("never", Behaviour::NeverAnswer, 504, &["SW-RUNTIME-TIMEOUT"], "no whole answer"),
        ("silent", Behaviour::Silent, 502, &["SW-RUNTIME-NO-ANSWER"], "without an answer"),
        ("hang", Behaviour::HeadersThenHang, 200, &[], ""),
        // Nothing of its answer has left when it dies.
        ("head", Behaviour::HeadersThenTrap, 500, &["SW-RUNTIME-TRAP"], "unreachable"),
    ];
    for (name, behaviour, ..) in cases {
        let path = cluster.component(name, &fixtures::behaviour_p2(behaviour));
        node.cli_ok(&["deploy", &path, "--name", name, "--timeout", "1s", "--memory", "16MiB"]);
    }
    let neighbour = Neighbour::of(&cluster.http, node);
    let calls = cases.map(|(name, _, status, codes, word)| {
        let (http, url) = (cluster.http.clone(), node.url(&format!("/{name}")));
        tokio::spawn(async move {
            let start = Instant::now();
            let answer = get(&http, &url).await;
            (name, status, codes, word, answer, start.elapsed())
        })
    });
    for call in calls {
        let (name, status, codes, word, answer, took) = call.await.unwrap();
        assert!(took < TIMEOUT + SLACK, "{name} took {took:?}");
        if name == "hang" {
            // Its head was sent: the answer must be seen to break off.
            assert!(answer.is_err(), "hang ended as if it were whole: {answer:?}");
            continue;
        }
        let answer = answer.unwrap();
        let code = answer.header("x-swarmer-error").to_owned();
        // Which limit a busy guest meets first depends on the machine.
        assert!(codes.contains(&code.as_str()), "{name}: {code}: {}", answer.text());
        let status = if code == "SW-RUNTIME-TIMEOUT" { 504 } else { status };
        problem(&answer, status, &code, &[word]);
        assert_eq!(answer.header("x-swarmer-node"), node.name, "{name}");
    }
    neighbour.fine().await;

    // What ended each is in its log, also for the one whose client could not be told.
    for (name, code) in [
        ("trap", "SW-RUNTIME-TRAP"),
        ("allocate", "SW-RUNTIME-MEMORY-LIMIT"),
        ("never", "SW-RUNTIME-TIMEOUT"),
        ("hang", "SW-RUNTIME-TIMEOUT"),
    ] {
        until(&format!("{name}: {code} is in the log"), || async {
            node.cli_ok(&["logs", name]).contains(code).then_some(())
        })
        .await;
    }
    // A flood is cut and told so; what the others wrote is still there.
    let flood = node.cli_ok(&["logs", "flood"]);
    assert!(flood.contains("flood"), "{flood}");
    assert!(flood.len() < 8 << 20, "the flood's log has {} bytes", flood.len());
    // Nothing is left running that takes from the others.
    until("all instances are gone", || async {
        (cluster.metric(0, "swarmer_runtime_pool_taken").await < 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_that_are_over_hold_no_memory() {
    const LIMIT: u64 = 64 << 20;
    let cluster = Cluster::found(1).await;
    let node = &cluster.nodes[0];
    let path = cluster.component("greedy", &fixtures::behaviour_p2(Behaviour::Allocate));
    node.cli_ok(&["deploy", &path, "--name", "greedy", "--memory", "64MiB"]);
    let url = node.url("/greedy");
    let call = || async {
        let answer = get(&cluster.http, &url).await.unwrap();
        problem(&answer, 500, "SW-RUNTIME-MEMORY-LIMIT", &[&LIMIT.to_string()]);
    };
    call().await;
    let before = node.anonymous_bytes();
    for _ in 0..20 {
        call().await;
    }
    // Each of them wrote to all the memory that it may have.
    let more = node.anonymous_bytes().saturating_sub(before);
    assert!(more < LIMIT / 2, "20 guests that are over hold {more} bytes more than one");
}
