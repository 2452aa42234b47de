//! Operators empty a region as a whole, and let it take work again; routes say which regions their
//! requests go to.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use swarmer_runtime::fixtures;

use crate::{
    bad_input::{problem, refused},
    common::{Cluster, Node, get, request, until},
    keys::{Load, with_hello_on_all},
};

/// n1 and n4 in eu, n2 and n3 in us; all but n4 founded it.
const EU: [&str; 2] = ["n1", "n4"];
const ALL: [usize; 4] = [0, 1, 2, 3];

async fn two_regions() -> Cluster {
    let mut cluster = Cluster::prepare(3);
    for (i, region) in ["eu", "us", "us"].into_iter().enumerate() {
        cluster.nodes[i].extra = ["--region", region].map(str::to_owned).to_vec();
        cluster.start(i);
    }
    cluster.all_ready().await;
    join(&mut cluster, "n4", "eu").await;
    cluster
}

async fn join(cluster: &mut Cluster, name: &str, region: &str) {
    let token = cluster.join_token(&["--region", region]);
    let mut node = Node::new(cluster.base.path(), name);
    node.start(&cluster.seeds, Some(&token), 1);
    node.ready(&cluster.http).await;
    cluster.nodes.push(node);
}

/// Waits until a region is as `so` has it, by the word of node 0.
async fn region(cluster: &Cluster, name: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    let url = cluster.nodes[0].api_url("/v1/regions");
    until(what, || async {
        let list = get(&cluster.http, &url).await.ok()?.json();
        let items = list["items"].as_array()?.clone();
        items.into_iter().find(|item| item["name"] == name).filter(|item| so(item))
    })
    .await
}

/// Waits until a request that enters at a node is answered in eu, or in us.
async fn answered_in(cluster: &Cluster, i: usize, eu: bool) {
    let url = cluster.nodes[i].url("/hello");
    until(&format!("node {i} has its answers from the right region"), || async {
        let answer = get(&cluster.http, &url).await.ok()?;
        (EU.contains(&answer.header("x-swarmer-node")) == eu).then_some(())
    })
    .await;
}

fn said(node: &Node, arguments: &[&str]) -> Value {
    serde_json::from_str(&node.cli_ok(&[&["-o", "json", "region"], arguments].concat())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_drained_and_takes_work_again_without_a_failed_request() {
    let mut cluster = two_regions().await;
    with_hello_on_all(&cluster, "2").await;
    let both = |item: &Value| item["copies"] == 1;
    let us = region(&cluster, "us", "a copy in us", both).await;
    assert_eq!((&us["state"], &us["nodes"]), (&"open".into(), &2.into()), "{us}");
    assert_eq!((&us["alive"], &us["functions"]), (&2.into(), &1.into()), "{us}");
    region(&cluster, "eu", "a copy in eu", both).await;
    region(&cluster, "us", "two votes in us", |item| item["voters"] == 2).await;

    let load = Load::on(&cluster, &ALL);
    let before = load.good();
    until("a load", || async { (load.good() > before + 50).then_some(()) }).await;
    let node = &cluster.nodes[1];
    let told = said(node, &["drain", "us", "--wait", "--reason", "power work"]);
    assert_eq!((&told["changed"], &told["copies"]), (&true.into(), &0.into()), "{told}");
    assert_eq!((&told["state"], &told["reason"]), (&"drained".into(), &"power work".into()));
    region(&cluster, "eu", "both copies in eu", |item| item["copies"] == 2).await;
    let url = node.api_url("/v1/doctor");
    let items = get(&cluster.http, &url).await.unwrap().json()["items"].take();
    let warns = |check: &str, words: &str| {
        items.as_array().unwrap().iter().any(|item| {
            item["check"] == check
                && item["state"] == "warn"
                && item["detail"].as_str().unwrap().contains(words)
        })
    };
    assert!(warns("drained", "\"us\""), "{items}");
    assert!(warns("regions", "without it there is no quorum"), "of two one is vital: {items}");
    // Also what enters in us is answered in eu.
    for i in ALL {
        answered_in(&cluster, i, true).await;
    }
    // One vote of us has a node of eu to go to, and who leads stands in eu.
    let voted = |item: &Value| item["voters"] == 2 && item["leads"] == true;
    region(&cluster, "eu", "votes and leadership in eu", voted).await;
    let us = region(&cluster, "us", "one vote left in us", |item| item["voters"] == 1).await;
    assert_eq!((&us["drained"], &us["leads"]), (&true.into(), &false.into()), "{us}");
    // Who leads now has to look first.
    let url = node.api_url("/v1/namespaces/default/placements/hello/explanation");
    let explained = until("the leader's planner has looked", || async {
        let answer = get(&cluster.http, &url).await.ok()?;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    for node in explained["nodes"].as_array().unwrap().iter().filter(|n| n["region"] == "us") {
        assert_eq!(node["text"], "region us is drained", "{explained}");
    }
    assert_eq!(explained["nodes"].as_array().unwrap().len(), 4);
    let members = node.cli_ok(&["members"]);
    assert!(members.contains("its region is drained"), "{members}");
    // Once more it changes nothing, and says so; what was said first stays.
    let told = said(node, &["drain", "us", "--reason", "another"]);
    assert_eq!((&told["changed"], &told["reason"]), (&false.into(), &"power work".into()));
    let table = node.cli_ok(&["region", "drain", "us"]);
    assert!(table.contains("region us is drained already"), "{table}");

    let told = said(node, &["resume", "us"]);
    assert_eq!((&told["changed"], &told["state"]), (&true.into(), &"resumed".into()), "{told}");
    region(&cluster, "us", "a copy in us again", both).await;
    region(&cluster, "eu", "the other one in eu", both).await;
    for i in [1, 2] {
        answered_in(&cluster, i, false).await;
    }
    assert_eq!(said(node, &["resume", "us"])["changed"], false);
    load.none_failed().await;

    // Whoever joins a drained region later is drained too.
    cluster.nodes[0].cli_ok(&["region", "drain", "eu"]);
    join(&mut cluster, "n5", "eu").await;
    until("n5 is drained", || async {
        let members =
            get(&cluster.http, &cluster.nodes[1].api_url("/v1/members")).await.ok()?.json();
        let items = members["items"].as_array()?;
        items.iter().any(|item| item["name"] == "n5" && item["state"] == "draining").then_some(())
    })
    .await;
    cluster.nodes[0].cli_ok(&["region", "resume", "eu"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_drained_region_may_hold_stays_there_serves_and_is_told() {
    let cluster = two_regions().await;
    let node = &cluster.nodes[0];
    let dir = cluster.base.path().join("app");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("hello.wasm"), fixtures::hello_p2()).unwrap();
    let function = |name: &str, replicas: u32, regions: &str| {
        format!(
            "[[function]]\nname = \"{name}\"\ncomponent = \"hello.wasm\"\n\
             replicas = {replicas}\nregions = [{regions}]\n"
        )
    };
    let manifest = [
        "name = \"app\"\n".to_owned(),
        function("hello", 1, "\"us\""),
        function("slip", 1, "\"us\", \"eu1\""),
    ];
    std::fs::write(dir.join("swarmer.toml"), manifest.concat()).unwrap();
    let output = node.cli(&["deploy", dir.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "a region may come later: {told}");
    let note = "note: no node is in region [eu1]; nearest: eu";
    assert_eq!(told.matches(note).count(), 1, "{told}");
    assert_eq!(told.matches("note: ").count(), 1, "{told}");
    cluster.serves(&ALL, "/hello").await;

    let load = Load::on(&cluster, &ALL);
    let output = node.cli(&["region", "drain", "us", "--wait"]);
    let words = ["region us", "default/hello: 0 of 1 copies placed", "region us is drained"];
    refused(&output, 4, "SW-CLI-REGION-HELD", &words);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("stays there: default/hello"), "{told}");
    // The whole cluster: nothing is left to go to, and all of it serves.
    node.cli_ok(&["region", "drain", "eu"]);
    region(&cluster, "eu", "eu is drained", |item| item["drained"] == true).await;
    for i in ALL {
        let answer = get(&cluster.http, &cluster.nodes[i].url("/hello")).await.unwrap();
        assert_eq!(answer.status, 200, "{i}: {}", answer.text());
    }
    // What is deployed now stands nowhere, and still starts where it is called.
    let file = cluster.component("late", &fixtures::hello_p2());
    node.cli_ok(&["deploy", &file, "--name", "late", "--no-wait"]);
    cluster.serves(&ALL, "/late").await;
    for name in ["us", "eu"] {
        node.cli_ok(&["region", "resume", name]);
    }
    load.none_failed().await;

    let words = ["there is no region \"uss\"", "did you mean us?"];
    refused(&node.cli(&["region", "drain", "uss"]), 3, "SW-API-NOT-FOUND", &words);
    let words = ["there is no region \"mars\"", "there are: eu, us"];
    refused(&node.cli(&["region", "resume", "mars"]), 3, "SW-API-NOT-FOUND", &words);
    let long = "x".repeat(300);
    let output = node.cli(&["region", "drain", "us", "--reason", &long]);
    refused(&output, 2, "SW-MODEL-INVALID", &["spec.reason", "256"]);
}

/// How many of these requests, all answered well, each node answered.
async fn answers(cluster: &Cluster, i: usize, path: &str, requests: u32) -> BTreeMap<String, u32> {
    let mut nodes = BTreeMap::new();
    for _ in 0..requests {
        let answer = get(&cluster.http, &cluster.nodes[i].url(path)).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        *nodes.entry(answer.header("x-swarmer-node").to_owned()).or_default() += 1;
    }
    nodes
}

/// Waits until a node answers what enters at another one.
async fn answers_for(cluster: &Cluster, name: &str, i: usize, path: &str) {
    let url = cluster.nodes[i].url(path);
    until(&format!("{name} answers {path} for node {i}"), || async {
        let answer = get(&cluster.http, &url).await.ok()?;
        (answer.status == 200 && answer.header("x-swarmer-node") == name).then_some(())
    })
    .await;
}

/// One node in each of three regions, on loopback each as near as the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_says_which_regions_take_over_and_what_each_gets() {
    let mut cluster = Cluster::prepare(3);
    for (i, region) in ["eu", "us", "ap"].into_iter().enumerate() {
        cluster.nodes[i].extra = ["--region", region].map(str::to_owned).to_vec();
        cluster.start(i);
    }
    cluster.all_ready().await;
    let dir = cluster.base.path().join("app");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("hello.wasm"), fixtures::hello_p2()).unwrap();
    let manifest = |ap: u32| {
        format!(
            "name = \"app\"\n\
             [[function]]\nname = \"all\"\ncomponent = \"hello.wasm\"\nreplicas = 3\n\
             distribute = [{{ from = \"eu\", to = {{ eu = 70, ap = {ap} }} }}]\n\
             failover = [{{ from = \"uss\", to = [\"eu\"] }}]\n\
             [[function]]\nname = \"away\"\ncomponent = \"hello.wasm\"\n\
             regions = [\"us\", \"ap\"]\n\
             failover = [{{ from = \"eu\", to = [\"ap\"] }}]\n"
        )
    };
    let deploy = |ap: u32| {
        std::fs::write(dir.join("swarmer.toml"), manifest(ap)).unwrap();
        cluster.nodes[0].cli(&["deploy", dir.to_str().unwrap()])
    };
    let words = ["spec.routes[0].distribute[0].to", "must be 100 percent together"];
    refused(&deploy(20), 2, "SW-CLI-MANIFEST", &words);
    let output = deploy(30);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("note: no node is in region [uss]; nearest: us"), "{told}");
    assert_eq!(told.matches("note: ").count(), 1, "{told}");

    // Routes of one function may differ; nothing may be sent where it may never be.
    let path = "/v1/namespaces/default/functions/away";
    let url = cluster.nodes[1].api_url(path);
    let mut away = get(&cluster.http, &url).await.unwrap().json();
    assert_eq!(away["spec"]["routes"][0]["failover"], json!([{ "from": "eu", "to": ["ap"] }]));
    away["spec"]["routes"].as_array_mut().unwrap().push(json!({ "path": "/plain" }));
    let mut never = away.clone();
    never["spec"]["routes"][1]["distribute"] = json!([{ "from": "us", "to": { "eu": 100 } }]);
    let answer = request(&cluster.http, "PUT", &url, never.to_string()).await.unwrap();
    let words = ["spec.routes[1].distribute[0].to", "one of spec.placement.regions"];
    problem(&answer, 422, "SW-MODEL-INVALID", &words);
    let answer = request(&cluster.http, "PUT", &url, away.to_string()).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());

    // 150 of 500, within six standard deviations, and all others where they came in.
    for (name, i) in [("n3", 0), ("n1", 0), ("n2", 1)] {
        answers_for(&cluster, name, i, "/all").await;
    }
    let nodes = answers(&cluster, 0, "/all", 500).await;
    assert!((88..=212).contains(&nodes["n3"]) && !nodes.contains_key("n2"), "{nodes:?}");
    assert_eq!(answers(&cluster, 1, "/all", 50).await["n2"], 50, "nothing is said of us");
    // As near as the other one, and never it.
    answers_for(&cluster, "n3", 0, "/away").await;
    assert_eq!(answers(&cluster, 0, "/away", 100).await["n3"], 100);
    answers_for(&cluster, "n2", 0, "/plain").await;
    answers_for(&cluster, "n2", 1, "/away").await;
    assert_eq!(answers(&cluster, 1, "/away", 50).await["n2"], 50);

    cluster.nodes[2].kill();
    answers_for(&cluster, "n2", 0, "/away").await;
    assert_eq!(answers(&cluster, 0, "/away", 100).await["n2"], 100);
    assert_eq!(answers(&cluster, 0, "/all", 100).await["n1"], 100);
}

/// Three founders in one region have all votes until the map allows better; then it may be lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn votes_move_to_regions_that_join_later_and_the_chosen_one_leads() {
    let mut cluster = Cluster::prepare(3);
    for i in 0..3 {
        let extra = ["--region", "us", "--voter-grace-ms", "1000"];
        cluster.nodes[i].extra = extra.map(str::to_owned).to_vec();
        cluster.start(i);
    }
    cluster.all_ready().await;
    region(&cluster, "us", "all votes in us", |item| item["voters"] == 3).await;
    join(&mut cluster, "n4", "eu").await;
    join(&mut cluster, "n5", "ap").await;
    for name in ["us", "eu", "ap"] {
        region(&cluster, name, "one vote in each", |item| item["voters"] == 1).await;
    }
    for i in 0..3 {
        let log = cluster.nodes[i].log_text();
        assert!(!log.contains("drop learner"), "a new learner is taken for a dead one: {log}");
    }
    let doctor = get(&cluster.http, &cluster.nodes[0].api_url("/v1/doctor")).await.unwrap().json();
    let said_so = |item: &Value| item["check"] == "regions" && item["state"] == "ok";
    assert!(doctor["items"].as_array().unwrap().iter().any(said_so), "{doctor}");

    let told = said(&cluster.nodes[0], &["lead", "eu"]);
    assert_eq!((&told["chosen"], &told["changed"]), (&true.into(), &true.into()), "{told}");
    region(&cluster, "eu", "eu leads", |item| item["leads"] == true).await;
    let told = said(&cluster.nodes[0], &["lead", "ap"]);
    assert_eq!(told["chosen"], true, "{told}");
    region(&cluster, "ap", "ap leads", |item| item["leads"] == true).await;
    let eu = region(&cluster, "eu", "eu does not", |item| item["leads"] == false).await;
    assert_eq!(eu["chosen"], false, "one region at a time: {eu}");

    // The region in which the cluster was founded is gone at once; who is left takes changes.
    for i in 0..3 {
        cluster.nodes[i].kill();
    }
    let url = cluster.nodes[4].api_url("/v1/regions/ap/lead");
    until("a change without us", || async {
        let answer = request(&cluster.http, "DELETE", &url, "").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    let words = ["there is no region \"eup\"", "did you mean eu?"];
    refused(&cluster.nodes[4].cli(&["region", "lead", "eup"]), 3, "SW-API-NOT-FOUND", &words);
    assert!(cluster.nodes[4].cli_ok(&["region", "lead", "--any"]).contains("no region was chosen"));
}

/// What may be in one region only from now on is served by no node of another one, though that one has
/// had it for a few seconds only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_is_bound_to_a_region_leaves_the_others_at_once() {
    let cluster = two_regions().await;
    let node = &cluster.nodes[0];
    let dir = cluster.base.path().join("app");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("hello.wasm"), fixtures::hello_p2()).unwrap();
    let deploy = |rest: &str| {
        let head = "name = \"app\"\n[[function]]\nname = \"hello\"\ncomponent = \"hello.wasm\"\n";
        std::fs::write(dir.join("swarmer.toml"), format!("{head}{rest}")).unwrap();
        node.cli_ok(&["deploy", dir.to_str().unwrap()]);
    };
    deploy("replicas = 4\npriority = -5\n");
    cluster.serves(&ALL, "/hello").await;
    answered_in(&cluster, 1, false).await;
    let bound = Instant::now();
    deploy("replicas = 2\nregions = [\"eu\"]\n");
    for i in ALL {
        answered_in(&cluster, i, true).await;
    }
    assert!(bound.elapsed() < Duration::from_secs(30), "{:?}", bound.elapsed());
}
