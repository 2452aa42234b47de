//! Who is met where a member of this cluster should be: members of other clusters, and copies of this
//! node. Both are silent otherwise, since neither side takes the other's datagrams.

use std::{
    collections::HashMap,
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use swarmer_gossip::{MAX_SEED_ADDRESSES, Twin};
use swarmer_mesh::{
    codes,
    founding::{MAX_MESSAGE_BYTES, Meeting, Presence},
    stream::{read_frame, write_frame},
};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::agent::{Context, data_dir::DataDir};

/// How long gossip gets to find the seeds before somebody is asked who is there.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// How often the seeds that name no living member are asked.
const LOOK: Duration = Duration::from_secs(30);
/// How long one may take to answer, with its name.
const ASK_DEADLINE: Duration = Duration::from_secs(3);
/// How often the same thing is told.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// What was told is remembered for so many addresses: more than a node has seeds.
const MAX_TOLD: usize = 256;

/// Asks who is at seeds that name no living member, and where a copy of this node seems to be, until
/// `shutdown`.
pub(crate) async fn run(context: Arc<Context>, dir: DataDir, shutdown: CancellationToken) {
    let mut twins = context.gossip.twin();
    let mut told = HashMap::new();
    let mut look = Instant::now() + FIRST_LOOK;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep_until(look) => {
                for address in unknown(&context).await {
                    meet(&context, address, &mut told).await;
                }
                look = Instant::now() + LOOK;
            }
            changed = twins.changed() => {
                if changed.is_err() {
                    return;
                }
                let twin = *twins.borrow_and_update();
                if let Some(twin) = twin {
                    // Once the copy is gone the next start of this node is a member again.
                    if let Err(error) = dir.outrun(twin.boot) {
                        tracing::warn!(target: "swarmer::node", code = error.code.name,
                            "the number of starts could not be raised: {}", error.detail);
                    }
                    suspect(&context, twin, &mut told).await;
                }
            }
        }
    }
}

type Told = HashMap<(Option<SocketAddr>, &'static str), Instant>;

/// Whether it is time to tell something of an address again.
fn is_due(told: &mut Told, address: Option<SocketAddr>, what: &'static str) -> bool {
    let now = Instant::now();
    told.retain(|_, at| now < *at + TELL_AGAIN);
    if told.len() >= MAX_TOLD || told.contains_key(&(address, what)) {
        return false;
    }
    told.insert((address, what), now);
    true
}

/// The addresses of seeds at which no living member is.
async fn unknown(context: &Context) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for seed in context.seeds.clone() {
        let resolving = tokio::task::spawn_blocking(move || seed.to_socket_addrs());
        // Gossip says what does not resolve.
        let Ok(Ok(Ok(addresses))) = timeout(ASK_DEADLINE, resolving).await else { continue };
        found.extend(addresses.take(MAX_SEED_ADDRESSES));
    }
    let members = context.gossip.members();
    found.retain(|address| {
        let lives = members.iter().any(|m| m.state.is_active() && m.addr == *address);
        !lives && *address != context.advertise
    });
    found
}

/// Asks who is at an address, and tells what is wrong about it.
async fn meet(context: &Context, address: SocketAddr, told: &mut Told) {
    let deadline = Instant::now() + ASK_DEADLINE;
    let asking = async {
        let mut stream = context.transport.dial_found(address, deadline).await.ok()?;
        write_frame(&mut stream.send, Bytes::from(context.presence().ask())).await.ok()?;
        let _ = stream.send.finish();
        let answer = read_frame(&mut stream.recv, MAX_MESSAGE_BYTES).await.ok()?;
        let same_key = stream.spki == context.transport.identity().key.spki();
        Some(context.presence().meets(&Presence::answering(&answer)?, same_key))
    };
    // The transport says whom it did not reach.
    let Ok(Some(meeting)) = timeout_at(deadline, asking).await else { return };
    let Some(code) = meeting.code() else { return };
    if !is_due(told, Some(address), code.name) {
        return;
    }
    if meeting == Meeting::Twin {
        tell_twin(address);
    } else {
        tracing::warn!(target: "swarmer::node", event = "foreign_seed", code = code.name,
            seed = %address, "at this seed (--join) is {meeting}; this node is of cluster {} and \
            takes no part there. {}", context.cluster, code.remedy);
    }
}

/// A record that somebody signed with this node's key.
async fn suspect(context: &Context, twin: Twin, told: &mut Told) {
    if is_due(told, twin.addr, "record") {
        let at = twin.addr.map(tracing::field::display);
        tracing::error!(target: "swarmer::node", event = "twin", code = codes::TWIN.name, at,
            boot = twin.boot, "the other members know this node from start {} of it at another \
            place, and refuse what this process says (old-boot, replayed): a copy of the data \
            directory runs there, or ran there. {} If no copy runs any more, restart this node \
            once.", twin.boot, codes::TWIN.remedy);
    }
    if let Some(address) = twin.addr
        && address != context.advertise
    {
        // So that the other one says it too.
        meet(context, address, told).await;
    }
}

fn tell_twin(address: SocketAddr) {
    tracing::error!(target: "swarmer::node", event = "twin", code = codes::TWIN.name, at = %address,
        "another process runs with this node's id and key; the other members take one of the two \
        for this node and refuse the other. {}", codes::TWIN.remedy);
}

/// Another member has asked who is here.
pub(crate) fn asked(context: &Context, other: &Presence, spki: &[u8], remote: SocketAddr) {
    let same_key = spki == context.transport.identity().key.spki();
    let meeting = context.presence().meets(other, same_key);
    let Some(code) = meeting.code() else { return };
    let remedy = code.remedy;
    let why = match meeting {
        Meeting::Twin => format!("it is {meeting}. {remedy}"),
        _ => format!("node {} is {meeting}, with this node as a seed. {remedy}", other.node),
    };
    // As rarely as all refusals: whoever proves a key can ask.
    context.transport.turned_away(code, remote, "found", &why);
}
