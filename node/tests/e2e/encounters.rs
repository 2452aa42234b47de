//! Members that meet those that they do not know yet.

use crate::common::{Cluster, get, until};

/// Whether some line of a log has all these words.
fn told(log: &str, words: &[&str]) -> bool {
    log.lines().any(|line| words.iter().all(|word| line.contains(word)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_not_called_a_stranger_by_one_that_has_just_started() {
    let mut cluster = Cluster::found(3).await;
    // The third one is away while a fourth is admitted, and has nobody to hear of it.
    cluster.nodes[2].kill();
    let fourth = cluster.join("n4").await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    let before: Vec<usize> = cluster.nodes.iter().map(|node| node.log_text().len()).collect();
    let seeds = cluster.seeds.clone();
    cluster.start(2);
    cluster.nodes[fourth].start(&seeds, None, 1);
    until("the third one meets the fourth", || async {
        let (third, fourth) = (cluster.nodes[2].log_text(), cluster.nodes[fourth].log_text());
        let code = "SW-MESH-STARTING";
        (told(&third, &[code, "by=\"us\""]) && told(&fourth, &[code])).then_some(())
    })
    .await;
    cluster.start(0);
    cluster.start(1);
    cluster.all_ready().await;
    for (node, from) in cluster.nodes.iter().zip(before) {
        let log = node.log_text();
        let log = &log[from..];
        assert!(!log.contains("NOT-ADMITTED") && !log.contains("not-admitted"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_ready_once_another_member_answers_and_stays_so_without_a_quorum() {
    let mut cluster = Cluster::found(3).await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    cluster.start(0);
    let url = cluster.nodes[0].api_url("/readyz");
    let ready = async || get(&cluster.http, &url).await.ok();
    until("it waits for somebody to answer", || async {
        let answer = ready().await?;
        assert_ne!(answer.status, 200, "it is ready, and alone: {}", answer.text());
        answer.text().contains("waiting for another member to answer").then_some(())
    })
    .await;
    cluster.start(1);
    let http = cluster.http.clone();
    cluster.nodes[0].ready(&http).await;
    cluster.nodes[1].ready(&http).await;
    cluster.nodes[1].kill();
    until("the quorum is lost", || async {
        (cluster.status(0).await["quorum"] == false).then_some(())
    })
    .await;
    let answer = get(&http, &url).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}
