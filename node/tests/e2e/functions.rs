//! Functions as their authors deploy them: apps, versions, routes.

use crate::{
    bad_input::refused,
    common::{Cluster, get, until},
};
use swarmer_runtime::fixtures;

fn app(cluster: &Cluster) -> std::path::PathBuf {
    let dir = cluster.base.path().join("app");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("greeter.wasm"), fixtures::hello_p2()).unwrap();
    std::fs::write(dir.join("front.wasm"), fixtures::caller()).unwrap();
    let manifest = "name = \"shop\"\n\n\
        [[function]]\nname = \"greeter\"\ncomponent = \"greeter.wasm\"\nroute = \"/greeter\"\n\
        [function.env]\nGREETING = \"good day\"\n\n\
        [[function]]\nname = \"front\"\ncomponent = \"front.wasm\"\nroute = \"/\"\n";
    std::fs::write(dir.join("swarmer.toml"), manifest).unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_of_two_functions_calls_inside_and_goes_back_a_version() {
    let cluster = Cluster::found(3).await;
    let dir = app(&cluster);
    cluster.nodes[0].cli_ok(&["deploy", dir.to_str().unwrap()]);
    cluster.serves(&[0, 1, 2], "/greeter").await;
    // `front` passes on what http://greeter.internal/… answers, on whatever nodes both run.
    for node in &cluster.nodes {
        let url = node.url("/greeter.internal/greeter");
        let answer = until("the inner call works", || async {
            get(&cluster.http, &url).await.ok().filter(|answer| answer.status == 200)
        })
        .await;
        assert_eq!(answer.text(), "good day\n");
    }
    // The next version, then back.
    let manifest = std::fs::read_to_string(dir.join("swarmer.toml")).unwrap();
    std::fs::write(dir.join("swarmer.toml"), manifest.replace("good day", "good night")).unwrap();
    cluster.nodes[1].cli_ok(&["deploy", dir.to_str().unwrap(), "--name", "greeter"]);
    answers(&cluster, "/greeter", "good night\n").await;
    cluster.nodes[2].cli_ok(&["rollout", "undo", "greeter"]);
    answers(&cluster, "/greeter", "good day\n").await;
    let list = cluster.nodes[0].cli_ok(&["-o", "json", "get", "functions"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    cluster.nodes[0].cli_ok(&["delete", "function", "greeter"]);
    until("the route is gone", || async {
        let answer = get(&cluster.http, &cluster.nodes[1].url("/greeter/x")).await.ok()?;
        // `front` has the root route, so what is left is its answer, not the greeter's.
        (answer.text() != "good day\n").then_some(())
    })
    .await;
}

async fn answers(cluster: &Cluster, path: &str, text: &str) {
    for node in &cluster.nodes {
        let url = node.url(path);
        until(&format!("{url} says {text:?}"), || async {
            get(&cluster.http, &url).await.ok().filter(|answer| answer.text() == text)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_belongs_to_one_function() {
    let cluster = Cluster::found(3).await;
    let hello = cluster.component("hello", &fixtures::hello_p2());
    cluster.nodes[0].cli_ok(&["deploy", &hello, "--name", "a", "--route", "/shop"]);
    let output = cluster.nodes[1].cli(&["deploy", &hello, "--name", "b", "--route", "/shop"]);
    refused(&output, 4, "SW-API-ROUTE-TAKEN", &["/shop", "default/a"]);
}
