//! Liveness: within 30 s of healing every node takes writes, and all come to the same revision.

use std::{sync::Arc, time::Duration};

use swarmer_raft::{Outcome, Txn};
use tokio::time::{Instant, sleep, timeout_at};

use super::{membership, placement};
use crate::{node::Node, world::World};

/// How long after healing everything must be well.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_secs(3);

/// Each machine runs, and each of their nodes takes a write.
pub(crate) async fn writes(world: &Arc<World>, until: Instant) {
    let all = world.ids().into_iter().map(|id| async move {
        let writes = async {
            loop {
                if let Some(node) = world.net.node(id) {
                    let txn = Txn::new().put(format!("alive/{}", id.0), "yes");
                    if let Some(Ok(Outcome::Committed { .. })) = node.write(txn, DEADLINE).await {
                        return;
                    }
                }
                sleep(LOOK).await;
            }
        };
        if timeout_at(until, writes).await.is_err() {
            let text = format!("node {} takes no write {LIMIT:?} after healing", id.0);
            world.oracle.lock().violate("liveness", text);
        }
    });
    futures::future::join_all(all).await;
}

/// All machines run and are at one revision.
fn level(world: &World, nodes: &[Arc<Node>]) -> Result<(), String> {
    let there: Vec<_> = nodes.iter().map(|n| (n.id.0, n.view().revision())).collect();
    if nodes.len() != world.ids().len() {
        return Err(format!("of {} nodes there are {there:?}", world.ids().len()));
    }
    if there.windows(2).any(|pair| pair[0].1 != pair[1].1) {
        return Err(format!("nodes are at different revisions: {there:?}"));
    }
    Ok(())
}

/// One thing that must become true.
type Look<'a> = (&'static str, Box<dyn Fn() -> Result<(), String> + Send + 'a>);

/// Waits until all is well; what is not by then is a violation.
pub(crate) async fn settles(world: &Arc<World>, until: Instant) {
    let looks: [Look<'_>; 3] = [
        ("liveness", Box::new(|| level(world, &world.net.nodes()))),
        ("membership", Box::new(|| membership::agreed(&world.net.nodes()))),
        (
            "placement",
            Box::new(|| {
                let leader = world.net.leader().and_then(|leader| world.net.node(leader));
                placement::fixpoint(leader.as_deref())
            }),
        ),
    ];
    for (invariant, look) in looks {
        let mut well = look();
        while well.is_err() && Instant::now() < until {
            sleep(LOOK).await;
            well = look();
        }
        if let Err(why) = well {
            world.oracle.lock().violate(invariant, format!("{LIMIT:?} after healing: {why}"));
        }
    }
}
