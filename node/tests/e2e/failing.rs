//! A copy that fails call after call is left alone by all nodes, those that never asked it too, and
//! taken back when it does well.

use std::collections::BTreeSet;

use swarmer_runtime::fixtures::{self, Behaviour};

use crate::common::{Answer, Cluster, get, until};

/// The guest calls this and passes on the answer.
const GOOD: &str = "/hello.internal/hello";
/// It may not call this, gets no answer, and traps.
const BAD: &str = "/nowhere.example/x";
const FAILING: &str = "swarmer_function_failing{function=\"default/caller\",version=\"1\"}";

async fn ask(cluster: &Cluster, node: usize, path: &str) -> Answer {
    get(&cluster.http, &cluster.nodes[node].url(path)).await.unwrap()
}

/// Who answered so many good calls that entered there.
async fn servers(cluster: &Cluster, node: usize, calls: usize) -> BTreeSet<String> {
    let mut servers = BTreeSet::new();
    for _ in 0..calls {
        let answer = ask(cluster, node, GOOD).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        servers.insert(answer.header("x-swarmer-node").to_owned());
    }
    servers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_fails_call_after_call_is_left_alone_by_all_and_taken_back() {
    let cluster = Cluster::found(3).await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    cluster.nodes[0].cli_ok(&["deploy", &hello, "--replicas", "3"]);
    let caller = cluster.component("caller", &fixtures::behaviour_p2(Behaviour::CallerOrTrap));
    cluster.nodes[0].cli_ok(&["deploy", &caller, "--route", "/", "--replicas", "2"]);
    let name = |node: usize| cluster.nodes[node].name.clone();
    let elsewhere = until("both copies serve, one node has none", || async {
        let mut all = Vec::new();
        for node in 0..3 {
            all.push(servers(&cluster, node, 30).await);
        }
        let own = |node: usize| all[node] == BTreeSet::from([name(node)]);
        (0..3).find(|&node| all[node].len() == 2 && own((node + 1) % 3) && own((node + 2) % 3))
    })
    .await;
    let [bad, good] = [1, 2].map(|step| (elsewhere + step) % 3);
    // What enters there stays there, as the copy does well so far.
    until("its own node calls it a failing one", || async {
        let answer = ask(&cluster, bad, BAD).await;
        assert_eq!(answer.header("x-swarmer-error"), "SW-RUNTIME-TRAP", "{}", answer.text());
        (cluster.metric(bad, FAILING).await == 1).then_some(())
    })
    .await;
    // Who never had a failure from it knows, and it leaves its own calls to the other.
    let hints = |node: usize| {
        let url = cluster.nodes[node].api_url("/v1/namespaces/default/functions/caller");
        let http = &cluster.http;
        async move { get(http, &url).await.unwrap().json()["live"]["hints"].to_string() }
    };
    let told = format!("version 1 failed call after call on {}", name(bad));
    for node in [elsewhere, bad] {
        until("it is known", || async { hints(node).await.contains(&told).then_some(()) }).await;
    }
    for node in [elsewhere, bad] {
        assert_eq!(servers(&cluster, node, 30).await, BTreeSet::from([name(good)]));
    }
    // A few calls show that it does well again: after five seconds.
    until("its own calls come back to it", || async {
        (servers(&cluster, bad, 30).await == BTreeSet::from([name(bad)])).then_some(())
    })
    .await;
    until("nothing is held against it", || async {
        (!hints(elsewhere).await.contains("call after call")).then_some(())
    })
    .await;
}
