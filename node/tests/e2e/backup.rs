//! A backup of a cluster that serves, put into another cluster of another size.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use swarmer_runtime::fixtures;

use crate::{
    bad_input::{Neighbour, artifacts, problem, refused, with_hello},
    common::{Cluster, get, request},
};

fn path(namespace: &str, name: &str) -> String {
    format!("/v1/namespaces/{namespace}/functions/{name}")
}

async fn function(cluster: &Cluster, namespace: &str, name: &str) -> Value {
    let url = format!("{}?consistency=linearizable", path(namespace, name));
    get(&cluster.http, &cluster.nodes[0].api_url(&url)).await.unwrap().json()
}

/// What a backup keeps of a function.
fn kept(function: &Value) -> Value {
    let mut kept = function.clone();
    kept.as_object_mut().unwrap().remove("live");
    kept["metadata"].as_object_mut().unwrap().remove("revision");
    kept
}

/// The version that answers on a route.
async fn version(cluster: &Cluster, route: &str) -> String {
    cluster.serves(&[0], route).await;
    let answer = get(&cluster.http, &cluster.nodes[0].url(route)).await.unwrap();
    answer.header("x-swarmer-version").split('-').next().unwrap().to_owned()
}

/// A cluster of three with `default/hello`, and `shop/b` of two versions and with a note.
async fn source() -> Cluster {
    let cluster = Cluster::found(3).await;
    with_hello(&cluster).await;
    for bytes in [fixtures::hello_p2(), fixtures::echo_p2()] {
        let file = cluster.component("b", &bytes);
        cluster.nodes[0].cli_ok(&["deploy", &file, "--name", "b", "--namespace", "shop"]);
    }
    let mut b = kept(&function(&cluster, "shop", "b").await);
    b["metadata"]["annotations"] = json!({ "note": "of the shop" });
    let url = cluster.nodes[1].api_url(&path("shop", "b"));
    let answer = request(&cluster.http, "PUT", &url, b.to_string()).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    cluster
}

/// Takes a backup at the second node.
fn take(cluster: &Cluster) -> PathBuf {
    let file = cluster.base.path().join("all.backup");
    let said = cluster.nodes[1].cli_ok(&["backup", file.to_str().unwrap()]);
    assert!(said.contains("2 function(s), 2 component(s)"), "{said}");
    file
}

/// The bytes with those at `at` inverted.
fn spoilt(good: &[u8], at: usize) -> Vec<u8> {
    let mut bad = good.to_vec();
    bad[at] ^= 0xff;
    bad
}

fn position(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_three_nodes_is_restored_to_one() {
    let old = source().await;
    let neighbour = Neighbour::of(&old.http, &old.nodes[2]);
    let file = take(&old);
    neighbour.fine().await;
    let name = file.to_str().unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = old.nodes[0].cli(&["backup", name]);
    refused(&again, 4, "SW-CLI-FILE-EXISTS", &[name, "--force"]);
    old.nodes[0].cli_ok(&["backup", name, "--force"]);
    let left = fs::read_dir(old.base.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|n| n.to_string_lossy().contains("swarmer-backup")).collect();
    assert!(left.is_empty(), "{left:?}");
    let (hello, b) = (function(&old, "default", "hello").await, function(&old, "shop", "b").await);
    assert_eq!(b["status"]["versions"].as_array().unwrap().len(), 2);
    drop(old.nodes);

    let new = Cluster::found(1).await;
    // `old.base` has the file still.
    let said = new.nodes[0].cli_ok(&["restore", name]);
    assert_eq!(said, "default/hello restored\nshop/b restored\n");
    for (namespace, name, before) in [("default", "hello", &hello), ("shop", "b", &b)] {
        assert_eq!(kept(&function(&new, namespace, name).await), kept(before));
    }
    assert_eq!(version(&new, "/hello").await, "1");
    assert_eq!(version(&new, "/b").await, "2");
    // Once more: nothing has to be done, and nothing is.
    let revision = function(&new, "shop", "b").await["metadata"]["revision"].clone();
    let said = new.nodes[0].cli_ok(&["restore", name]);
    assert_eq!(said, "default/hello was there already\nshop/b was there already\n");
    assert_eq!(function(&new, "shop", "b").await["metadata"]["revision"], revision);
    // As after a restore that broke off: what is missing is put back.
    new.nodes[0].cli_ok(&["delete", "function", "hello"]);
    let said = new.nodes[0].cli_ok(&["restore", name]);
    assert_eq!(said, "default/hello restored\nshop/b was there already\n");
    // The version before is there with its bytes.
    new.nodes[0].cli_ok(&["rollout", "undo", "b", "--namespace", "shop"]);
    assert_eq!(version(&new, "/b").await, "1");
    // Now it is another one than in the backup: nothing of the backup is put beside it.
    new.nodes[0].cli_ok(&["delete", "function", "hello"]);
    refused(&new.nodes[0].cli(&["restore", name]), 4, "SW-API-EXISTS", &["shop/b", "nothing"]);
    let url = new.nodes[0].api_url("/v1/restore");
    let answer = request(&new.http, "POST", &url, kept(&b).to_string()).await.unwrap();
    problem(&answer, 409, "SW-API-EXISTS", &["shop/b"]);
    let gone = get(&new.http, &new.nodes[0].api_url(&path("default", "hello"))).await.unwrap();
    assert_eq!(gone.status, 404);
    assert_eq!(version(&new, "/b").await, "1");
    // A route that another one has.
    new.nodes[0].cli_ok(&["delete", "function", "b", "--namespace", "shop"]);
    let other = new.component("other", &fixtures::hello_p2());
    new.nodes[0].cli_ok(&["deploy", &other, "--name", "other", "--route", "/b"]);
    refused(&new.nodes[0].cli(&["restore", name]), 4, "SW-API-ROUTE-TAKEN", &["/b", "shop/b"]);
    let gone = get(&new.http, &new.nodes[0].api_url(&path("default", "hello"))).await.unwrap();
    assert_eq!(gone.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_changes_nothing() {
    let old = source().await;
    let file = take(&old);
    let good = fs::read(&file).unwrap();
    drop(old.nodes);
    let new = Cluster::found(1).await;
    let node = &new.nodes[0];
    let bad = new.base.path().join("bad.backup");
    let name = bad.to_str().unwrap();
    let put = |bytes: &[u8]| fs::write(&bad, bytes).unwrap();
    let end = good.len();
    let newer = [&good[..8], &2_u32.to_be_bytes(), &good[12..]].concat();
    let component = position(&good, b"\0asm");
    for (what, bytes, code, says) in [
        ("magic", spoilt(&good, 0), "SW-CLI-BACKUP-DAMAGED", "begin"),
        ("header", spoilt(&good, 60), "SW-CLI-BACKUP-DAMAGED", "byte"),
        (
            "function",
            spoilt(&good, position(&good, b"of the shop")),
            "SW-CLI-BACKUP-DAMAGED",
            "byte",
        ),
        ("component", spoilt(&good, component + 100), "SW-CLI-BACKUP-DAMAGED", "byte"),
        ("digest of all", spoilt(&good, end - 1), "SW-CLI-BACKUP-DAMAGED", "end"),
        ("lost end", good[..end - 1].to_vec(), "SW-CLI-BACKUP-DAMAGED", "breaks off"),
        ("lost half", good[..end / 2].to_vec(), "SW-CLI-BACKUP-DAMAGED", "breaks off"),
        ("empty", Vec::new(), "SW-CLI-BACKUP-DAMAGED", "breaks off"),
        ("longer", [good.as_slice(), b"x"].concat(), "SW-CLI-BACKUP-DAMAGED", "follow"),
        ("newer", newer, "SW-CLI-BACKUP-NEWER", "format 2"),
    ] {
        put(&bytes);
        eprintln!("{what}");
        refused(&node.cli(&["restore", name]), 2, code, &[name, says]);
        refused(&node.cli(&["restore", name, "--verify-only"]), 2, code, &[name, says]);
    }
    refused(&node.cli(&["restore", "/no/such.backup"]), 3, "SW-CLI-FILE", &["/no/such.backup"]);
    // Nobody is asked to verify a file.
    let offline = ["restore", "--verify-only", "--addr", "http://127.0.0.1:1"];
    let said = node.cli_ok(&[&offline[..], &[file.to_str().unwrap()]].concat());
    assert!(said.contains("whole"), "{said}");
    let all = get(&new.http, &node.api_url("/v1/backup")).await.unwrap().text();
    let header: Value = serde_json::from_str(all.lines().next().unwrap()).unwrap();
    assert_eq!((&header["functions"], all.lines().count()), (&json!(0), 1));
    assert!(artifacts(&node.dir).is_empty());
    // A function whose component nobody has is not taken, nor one without its history.
    let line = position(&good, b"{\"apiVersion\"");
    let mut documents = serde_json::Deserializer::from_slice(&good[line..]).into_iter::<Value>();
    let mut function = documents.next().unwrap().unwrap();
    let url = node.api_url("/v1/restore");
    let answer = request(&new.http, "POST", &url, function.to_string()).await.unwrap();
    problem(&answer, 422, "SW-ARTIFACT-MISSING", &[]);
    function["status"]["versions"] = json!([]);
    let answer = request(&new.http, "POST", &url, function.to_string()).await.unwrap();
    problem(&answer, 422, "SW-MODEL-INVALID", &["status.versions"]);
    // Where it cannot be written, nothing is left.
    let nowhere = Path::new("/no/such/folder/a.backup").to_str().unwrap();
    refused(&node.cli(&["backup", nowhere]), 1, "SW-CLI-FILE-WRITE", &[nowhere]);
}
