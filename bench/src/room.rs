//! A network of the bench's own: nothing else is on it, so that its loopback counts what the
//! measured processes send, and packets may be lost there without harm to anybody.
//!
//! It is a network namespace without a name (network_namespaces(7)). It goes away with the last
//! process that is in it, so there is nothing to clean up.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::cluster::output;

/// What the rules stand in.
const TABLE: &str = "inet bench";

/// Moves the calling thread, and all that it starts from now on, into a new network with nothing
/// but a loopback. To be called on the main thread, which starts the processes; a thread that ran
/// before stays where it was.
pub(crate) async fn enter() -> Result<()> {
    unshare().context(
        "a network namespace of its own, so that only what is measured is counted: it needs root",
    )?;
    run("ip", &["link", "set", "lo", "up"]).await
}

/// Whether packets can be filtered in here: `nft` is installed and works.
pub(crate) async fn can_filter() -> bool {
    run("nft", &["list", "tables"]).await.is_ok()
}

/// Puts these chains in force, instead of those before.
pub(crate) async fn filter(folder: &Path, chains: &str) -> Result<()> {
    let file = folder.join("rules.nft");
    // An empty table of the name first, so that there is one to delete.
    let text =
        format!("table {TABLE} {{}}\ndelete table {TABLE}\ntable {TABLE} {{\n{chains}\n}}\n");
    std::fs::write(&file, text)?;
    run("nft", &["-f", &file.display().to_string()]).await
}

/// Lets every packet through again.
pub(crate) async fn lift(folder: &Path) -> Result<()> {
    filter(folder, "").await
}

async fn run(program: &str, words: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(words);
    let output = output(command).await.with_context(|| format!("start {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", words.join(" "), errors.trim());
    Ok(())
}

#[expect(unsafe_code, reason = "the standard library has no namespaces")]
fn unshare() -> std::io::Result<()> {
    // SAFETY: unshare takes flags; CLONE_NEWNET changes where this thread's new sockets are made,
    // and no memory or descriptor.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
