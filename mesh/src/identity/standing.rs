//! Which nodes may speak for a function, and which may serve it.
//!
//! A node may speak only for functions that are placed on it or that it is a candidate for. Each
//! node judges that by its own copy of the desired state: the receiver of a call judges the
//! caller, the caller judges who serves. What is taken from a node ends a little later than the
//! entry that takes it away, since calls that run there are let end.

use std::time::{Duration, Instant};

use swarmer_model::{ClusterId, Digest, NodeId};

use super::Workload;

/// How long a node may finish what it began for a function that was taken from it: it hears of
/// that a little later, keeps for up to a minute what it had started for want of another node,
/// and lets calls end for up to another minute.
pub const FINISH: Duration = Duration::from_secs(150);
/// The nodes, and the components, that a function remembers beyond those it has: more than ten
/// moves inside of [`FINISH`]. The oldest go first.
const MAX_FORMER: usize = 64;

/// The nodes and components of one function, by one node's copy of the desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    nodes: Vec<Held<NodeId>>,
    components: Vec<Held<Digest>>,
}

/// One of them, for ever or until it has finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held<T> {
    what: T,
    until: Option<Instant>,
}

/// Why a node may not speak for a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoStanding {
    /// The workload is of another trust domain.
    #[error("it is of cluster {claimed}")]
    OtherCluster {
        /// The cluster that was named.
        claimed: ClusterId,
    },
    /// There is no such function.
    #[error("there is no such function")]
    UnknownFunction,
    /// The function is neither placed on the node, nor is the node a candidate for it.
    #[error("it is neither placed on that node nor is the node a candidate for it")]
    NotPlaced,
    /// No version of the function has this component.
    #[error("no version of it has this component")]
    UnknownComponent,
}

/// Whether `peer` may speak for `workload`, by what this node knows of that function. `cluster`
/// is this node's own.
///
/// # Errors
/// Why not.
pub fn may_speak(
    cluster: ClusterId,
    peer: NodeId,
    workload: &Workload,
    standing: Option<&Standing>,
    now: Instant,
) -> Result<(), NoStanding> {
    if workload.cluster != cluster {
        return Err(NoStanding::OtherCluster { claimed: workload.cluster });
    }
    let standing = standing.ok_or(NoStanding::UnknownFunction)?;
    if !standing.may_serve(peer, now) {
        return Err(NoStanding::NotPlaced);
    }
    if !holds(&standing.components, &workload.component, now) {
        return Err(NoStanding::UnknownComponent);
    }
    Ok(())
}

impl Standing {
    /// What stands once the function has these nodes (those it is placed on and its candidates)
    /// and these components; none of both when it was deleted.
    #[must_use]
    pub fn next(
        &self,
        nodes: impl IntoIterator<Item = NodeId>,
        components: impl IntoIterator<Item = Digest>,
        now: Instant,
    ) -> Self {
        Self {
            nodes: succeed(&self.nodes, nodes, now),
            components: succeed(&self.components, components, now),
        }
    }

    /// Whether a node may serve the function.
    pub fn may_serve(&self, node: NodeId, now: Instant) -> bool {
        holds(&self.nodes, &node, now)
    }

    /// Whether nobody has anything to do with the function any more.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

fn holds<T: PartialEq>(all: &[Held<T>], what: &T, now: Instant) -> bool {
    all.iter().any(|held| held.what == *what && held.until.is_none_or(|until| until > now))
}

/// Those that are there now, then those that were, until they have finished.
fn succeed<T: PartialEq + Copy>(
    before: &[Held<T>],
    now_there: impl IntoIterator<Item = T>,
    now: Instant,
) -> Vec<Held<T>> {
    let mut next: Vec<Held<T>> = Vec::new();
    for what in now_there {
        if !next.iter().any(|held| held.what == what) {
            next.push(Held { what, until: None });
        }
    }
    let present = next.len();
    for held in before {
        let until = held.until.unwrap_or(now + FINISH);
        if until > now && !next[..present].iter().any(|there| there.what == held.what) {
            next.push(Held { what: held.what, until: Some(until) });
        }
    }
    let former = &mut next[present..];
    former.sort_by_key(|held| std::cmp::Reverse(held.until));
    next.truncate(present + MAX_FORMER);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(1);

    fn workload(cluster: ClusterId, component: &[u8]) -> Workload {
        let component = Digest::of(component);
        Workload { cluster, namespace: "default".into(), name: "front".into(), component }
    }

    #[test]
    fn a_node_speaks_only_for_what_it_holds() {
        let now = Instant::now();
        let [v1, v2] = [Digest::of(b"v1"), Digest::of(b"v2")];
        let first = Standing::default().next([NodeId(1), NodeId(2)], [v1], now);
        // Node 2 lost it and version 2 came; then version 1 went; then it was deleted.
        let moved = first.next([NodeId(1), NodeId(3)], [v1, v2], now);
        let pruned = moved.next([NodeId(1), NodeId(3)], [v2], now);
        let deleted = pruned.next([], [], now);
        let (other, soon, late) = (ClusterId(2), now + FINISH / 2, now + FINISH);
        let cases = [
            ("placed", CLUSTER, 1, "v1", Some(&first), now, Ok(())),
            ("candidate", CLUSTER, 2, "v1", Some(&first), now, Ok(())),
            ("neither", CLUSTER, 3, "v1", Some(&first), now, Err(NoStanding::NotPlaced)),
            ("no version", CLUSTER, 1, "v2", Some(&first), now, Err(NoStanding::UnknownComponent)),
            ("unknown", CLUSTER, 1, "v1", None, now, Err(NoStanding::UnknownFunction)),
            (
                "foreign",
                other,
                1,
                "v1",
                Some(&first),
                now,
                Err(NoStanding::OtherCluster { claimed: other }),
            ),
            ("new node, new version", CLUSTER, 3, "v2", Some(&moved), now, Ok(())),
            ("finishing", CLUSTER, 2, "v1", Some(&moved), soon, Ok(())),
            ("finished", CLUSTER, 2, "v1", Some(&moved), late, Err(NoStanding::NotPlaced)),
            ("stays", CLUSTER, 1, "v1", Some(&moved), late, Ok(())),
            ("old version ends", CLUSTER, 1, "v1", Some(&pruned), soon, Ok(())),
            (
                "old version ended",
                CLUSTER,
                1,
                "v1",
                Some(&pruned),
                late,
                Err(NoStanding::UnknownComponent),
            ),
            ("deleted, ends", CLUSTER, 3, "v2", Some(&deleted), soon, Ok(())),
            ("deleted", CLUSTER, 3, "v2", Some(&deleted), late, Err(NoStanding::NotPlaced)),
        ];
        for (what, cluster, node, component, standing, at, expected) in cases {
            let workload = workload(cluster, component.as_bytes());
            let said = may_speak(CLUSTER, NodeId(node), &workload, standing, at);
            assert_eq!(said, expected, "{what}");
        }
    }

    #[test]
    fn time_to_finish_is_given_once_and_what_is_remembered_is_bounded() {
        let start = Instant::now();
        let mut standing = Standing::default().next([NodeId(1)], [], start);
        standing = standing.next([], [], start);
        // Other changes do not prolong it.
        let later = start + FINISH / 2;
        standing = standing.next([], [], later);
        assert!(standing.may_serve(NodeId(1), later));
        assert!(!standing.may_serve(NodeId(1), start + FINISH));
        assert!(standing.next([], [], start + FINISH).is_empty());
        // One that comes back is as it was.
        assert!(standing.next([NodeId(1)], [], later).may_serve(NodeId(1), later + FINISH * 2));
        for node in 0..1000 {
            let at = later + Duration::from_millis(node);
            standing = standing.next([NodeId(node + 10)], [], at);
        }
        assert_eq!(standing.nodes.len(), 1 + MAX_FORMER);
        assert!(standing.may_serve(NodeId(1008), later + Duration::from_secs(2)), "the newest");
        assert!(!standing.may_serve(NodeId(10), later + Duration::from_secs(2)), "the oldest");
    }
}
