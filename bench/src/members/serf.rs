//! Agents of serf on loopback, and as much of their RPC as sets a tag.

use std::{net::SocketAddr, path::Path, time::Instant};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{cluster::output, process::free_addresses};

/// One agent, before it is started.
pub(super) struct Agent {
    pub(super) name: String,
    pub(super) listen: SocketAddr,
    pub(super) rpc: SocketAddr,
    pub(super) command: Vec<String>,
}

/// What `serf version` says first.
pub(super) async fn version(binary: &Path) -> Result<String> {
    let mut command = std::process::Command::new(binary);
    command.arg("version");
    let output = output(command).await.with_context(|| format!("start {}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// So many agents with the defaults of serf, which are those for a LAN. The first `seeds` are
/// those that the others join by.
pub(super) fn agents(binary: &Path, count: usize, seeds: usize) -> Result<Vec<Agent>> {
    let addresses = free_addresses(2 * count)?;
    let binary = binary.to_str().context("the path of serf is not text")?;
    let agent = |i: usize| {
        let name = format!("bench-{}", i + 1);
        let (listen, rpc) = (addresses[i], addresses[count + i]);
        let mut command = vec![binary.to_owned(), "agent".to_owned()];
        let mut flag = |name: &str, value: String| command.extend([name.to_owned(), value]);
        flag("-node", name.clone());
        flag("-bind", listen.to_string());
        flag("-rpc-addr", rpc.to_string());
        // Not itself, nor one that starts later: to have joined one of them is enough for it.
        for seed in &addresses[..seeds.min(i)] {
            flag("-retry-join", seed.to_string());
        }
        flag("-retry-interval", "1s".to_owned());
        Agent { name, listen, rpc, command }
    };
    Ok((0..count).map(agent).collect())
}

/// Sets a tag of an agent; when it was sent. The connection stays open for as long as it is kept.
pub(super) async fn set_tag(rpc: SocketAddr, value: &str) -> Result<(TcpStream, Instant)> {
    let mut stream = TcpStream::connect(rpc).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&handshake()).await?;
    // Its answer, so that the tag is set at once.
    stream.read_u8().await?;
    let sent = Instant::now();
    stream.write_all(&tag(value)).await?;
    Ok((stream, sent))
}

fn handshake() -> Vec<u8> {
    let mut bytes = head("handshake", 0);
    bytes.push(map(1));
    text(&mut bytes, "Version");
    bytes.push(1);
    bytes
}

fn tag(value: &str) -> Vec<u8> {
    let mut bytes = head("tags", 1);
    bytes.push(map(1));
    text(&mut bytes, "Tags");
    bytes.push(map(1));
    text(&mut bytes, "bench");
    text(&mut bytes, value);
    bytes
}

/// What every request begins with; MessagePack, as all of it.
fn head(command: &str, number: u8) -> Vec<u8> {
    let mut bytes = vec![map(2)];
    text(&mut bytes, "Command");
    text(&mut bytes, command);
    text(&mut bytes, "Seq");
    bytes.push(number);
    bytes
}

/// The head of a map of fewer than 16 entries.
fn map(entries: u8) -> u8 {
    0x80 | entries
}

/// A text of fewer than 32 bytes.
fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(0xa0 | (text.len() as u8 & 0x1f));
    bytes.extend_from_slice(text.as_bytes());
}
