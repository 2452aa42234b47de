//! Three nodes of etcd on loopback, and its JSON gateway.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::subject::Member;
use crate::{cluster::output, process::free_addresses};

/// What `--version` says first.
pub(super) async fn version(binary: &Path) -> Result<String> {
    let mut command = std::process::Command::new(binary);
    command.arg("--version");
    let output = output(command).await.with_context(|| format!("start {}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Three nodes with the defaults of etcd but for its quota, not started yet.
pub(super) fn members(binary: &Path, folder: &Path) -> Result<Vec<Member>> {
    let addresses = free_addresses(6)?;
    let name = |i: usize| format!("etcd-{}", i + 1);
    let all = (0..3).map(|i| format!("{}=http://{}", name(i), addresses[3 + i]));
    let all = all.collect::<Vec<_>>().join(",");
    let member = |i: usize| {
        let (client, peer) =
            (format!("http://{}", addresses[i]), format!("http://{}", addresses[3 + i]));
        let data = folder.join(name(i)).display().to_string();
        let own = name(i);
        let words = [
            binary.to_str().context("the path of etcd is not text")?,
            "--name",
            &own,
            "--data-dir",
            &data,
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &all,
            // It keeps every value until it is told otherwise, and takes no put beyond 2 GB.
            "--quota-backend-bytes",
            "8589934592",
            "--log-level",
            "error",
        ];
        let command = words.iter().map(|word| (*word).to_owned()).collect();
        Ok(Member { name: name(i), api: addresses[i], command, process: None })
    };
    (0..3).map(member).collect()
}

/// The gateway tells 64-bit numbers as text.
pub(super) fn number(value: &Value) -> Option<u64> {
    value.as_str()?.parse().ok()
}

/// Whether a node's status says that it leads.
pub(super) fn leads(status: &Value) -> bool {
    let leader = number(&status["leader"]);
    leader.is_some() && leader == number(&status["header"]["member_id"])
}
