//! Whether a function that is not placed on this node may run here all the same.
//!
//! What is placed here has its room; a guest, which is here because it was called where no copy
//! stands, takes only what is left beside that. The planner knows nothing of guests, so that one goes
//! when a copy comes that needs its room.

use std::{collections::BTreeSet, sync::Arc};

use swarmer_model::NodeId;
use swarmer_scheduler::{Capacity, Lack, Used};

use crate::desired::{Desired, FunctionEntry};

/// What is left of a node beside what is placed on it.
pub(super) struct Room<'a> {
    desired: &'a Desired,
    node: NodeId,
    capacity: Capacity,
    used: Used,
}

/// What is taken of the node by what is placed on it.
pub(super) fn placed(desired: &Desired, node: NodeId) -> Used {
    let mut used = Used::default();
    for entry in desired.functions.values().filter(|e| e.placement.nodes.contains(&node)) {
        used.put(entry.demand());
    }
    used
}

impl<'a> Room<'a> {
    /// `placed`: see [`placed`].
    pub(super) fn of(desired: &'a Desired, node: NodeId, capacity: Capacity, placed: Used) -> Self {
        Self { desired, node, capacity, used: placed }
    }

    fn guest(&self, id: &str) -> Option<&'a FunctionEntry> {
        let entry = self.desired.functions.get(id)?;
        (!entry.placement.nodes.contains(&self.node)).then_some(&**entry)
    }

    /// Counts one that is here, whether it has room or not.
    pub(super) fn occupy(&mut self, id: &str) {
        if let Some(entry) = self.guest(id) {
            self.used.put(entry.demand());
        }
    }

    /// What there is too little of for one more guest, if it takes the room when there is some. One
    /// that is placed here or is none any more is no guest.
    pub(super) fn take(&mut self, id: &str) -> Option<Lack> {
        let entry = self.guest(id)?;
        let lack = self.used.lacks(entry.demand(), self.capacity);
        if lack.is_none() {
            self.used.put(entry.demand());
        }
        lack
    }

    /// Those of the guests, the ones that were here first in front, that have no room any more.
    pub(super) fn crowded_out(
        mut self,
        guests: impl IntoIterator<Item = Arc<str>>,
    ) -> BTreeSet<Arc<str>> {
        // Each takes its room once, whatever versions of it are here.
        let mut seen = BTreeSet::new();
        let once = guests.into_iter().filter(|id| seen.insert(Arc::clone(id)));
        once.filter(|id| self.take(id).is_some()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_model::{ByteSize, Digest, Function, Metadata, Placement};

    /// Functions that take so many bytes and may have as many requests at once, on these nodes.
    fn desired(functions: &[(&str, u32, &[u64])]) -> Desired {
        let mut changes = Vec::new();
        for (name, takes, nodes) in functions {
            let mut function = Function::new(Metadata::named(*name), Digest::of(b"1"));
            function.spec.placement.memory = ByteSize(u64::from(*takes));
            function.spec.template.limits.concurrency = *takes;
            function.succeed(None, &[], 0);
            let nodes = nodes.iter().copied().map(NodeId).collect();
            let placement = Placement { nodes, ..Placement::default() };
            let key = |kind: &str| format!("{kind}/default/{name}");
            changes.push((key("functions"), serde_json::to_vec(&function).unwrap()));
            changes.push((key("placements"), serde_json::to_vec(&placement).unwrap()));
        }
        let changes = changes.iter().map(|(key, value)| (key.as_str(), 1, Some(value.as_slice())));
        Desired::default().apply(1, changes)
    }

    fn capacity(functions: u32, memory_bytes: u64, concurrency: Option<u64>) -> Capacity {
        Capacity { functions, memory_bytes, concurrency }
    }

    #[test]
    fn a_guest_takes_only_what_is_left_beside_what_is_placed_here() {
        let desired = desired(&[("here", 60, &[1]), ("away", 50, &[2]), ("small", 40, &[])]);
        let here = placed(&desired, NodeId(1));
        let lack = |capacity, id| Room::of(&desired, NodeId(1), capacity, here).take(id);
        let memory = |bytes| capacity(10, bytes, None);
        assert_eq!(lack(memory(109), "default/away"), Some(Lack::Memory));
        assert_eq!(lack(memory(110), "default/away"), None);
        assert_eq!(lack(memory(109), "default/small"), None);
        let requests = |most| capacity(10, u64::MAX, Some(most));
        assert_eq!(lack(requests(109), "default/away"), Some(Lack::Concurrency));
        assert_eq!(lack(requests(110), "default/away"), None);
        assert_eq!(lack(capacity(1, u64::MAX, None), "default/away"), Some(Lack::Functions));
        // What is placed here has its room, however full the node is.
        assert_eq!(lack(memory(1), "default/here"), None);
        assert_eq!(lack(memory(1), "default/unknown"), None);
    }

    #[test]
    fn guests_go_when_what_is_placed_needs_their_room_the_last_one_first() {
        let ids = ["default/a", "default/b"].map(Arc::<str>::from);
        let guests = |of: &Desired, bytes| {
            let here = placed(of, NodeId(1));
            let room = Room::of(of, NodeId(1), capacity(10, bytes, None), here);
            room.crowded_out(ids.clone()).into_iter().collect::<Vec<_>>()
        };
        let alone = desired(&[("a", 40, &[2]), ("b", 40, &[2]), ("new", 60, &[])]);
        assert_eq!(guests(&alone, 100), [] as [Arc<str>; 0]);
        let placed = desired(&[("a", 40, &[2]), ("b", 40, &[2]), ("new", 60, &[1])]);
        assert_eq!(guests(&placed, 100), [ids[1].clone()]);
        assert_eq!(guests(&placed, 90), ids);
        assert_eq!(guests(&placed, 140), [] as [Arc<str>; 0]);
    }
}
