//! The next state while it is worked on.
//!
//! What a change of one function makes new for everybody (all routes, maps that are copied) takes as
//! long as there are functions. So of changes that are there at once, only the last state is shown:
//! thousands of functions written one after the other hold nothing up, not the removal of a node
//! behind them.

use std::{sync::Arc, time::Instant};

use swarmer_model::Revision;

use crate::desired::{Change, Desired};

/// A state that takes changes until it is shown.
#[derive(Debug)]
pub(super) struct Draft {
    state: Desired,
    routes_changed: bool,
    /// Whether anything but the revision changed.
    typed: bool,
}

impl Draft {
    pub(super) fn new(state: Desired) -> Self {
        Self { state, routes_changed: false, typed: false }
    }

    /// Takes the changes of one revision.
    pub(super) fn change<'a>(
        &mut self,
        revision: Revision,
        changes: impl IntoIterator<Item = Change<'a>> + Clone,
        now: Instant,
    ) {
        if !changes.clone().into_iter().any(|(key, _, _)| Desired::types(key)) {
            self.state.revision = revision;
            return;
        }
        let changed = self.state.change(revision, changes);
        // Of each revision: who had something to do with a function in between may finish it.
        self.state.stand_again(changed.functions, now);
        self.routes_changed |= changed.routes;
        self.typed = true;
    }

    /// Takes another state as a whole.
    pub(super) fn replace<'a>(
        &mut self,
        revision: Revision,
        all: impl IntoIterator<Item = Change<'a>>,
        now: Instant,
    ) {
        let mut next = Desired::default();
        next.change(revision, all);
        next.stand(&self.state, now);
        self.state = next;
        self.routes_changed = true;
        self.typed = true;
    }

    pub(super) fn revision(&self) -> Revision {
        self.state.revision
    }

    /// The state as it is now; none if nothing but the revision changed since the last one.
    pub(super) fn show(&mut self, now: Instant) -> Option<Arc<Desired>> {
        if !std::mem::take(&mut self.typed) {
            return None;
        }
        if std::mem::take(&mut self.routes_changed) {
            self.state.build_routes();
        }
        self.state.forget(now);
        Some(Arc::new(self.state.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_mesh::identity::FINISH;
    use swarmer_model::{Digest, Function, Metadata, NodeId, Placement};

    fn function(name: &str) -> Vec<u8> {
        let mut function = Function::new(Metadata::named(name), Digest::of(b"1"));
        function.succeed(None, &[], 0);
        serde_json::to_vec(&function).unwrap()
    }

    fn placement(node: u64) -> Vec<u8> {
        let placement = Placement { nodes: vec![NodeId(node)], ..Placement::default() };
        serde_json::to_vec(&placement).unwrap()
    }

    #[test]
    fn many_changes_are_shown_once_and_as_if_each_had_been() {
        let now = Instant::now();
        let (f, one, two) = (function("f"), placement(1), placement(2));
        let changes: [(&str, Option<&[u8]>); 4] = [
            ("functions/default/f", Some(&f)),
            ("placements/default/f", Some(&one)),
            ("tokens/x", Some(b"?")),
            ("placements/default/f", Some(&two)),
        ];
        let mut draft = Draft::new(Desired::default());
        let mut each = Desired::default();
        for (revision, (key, value)) in (1..).zip(changes) {
            draft.change(revision, [(key, revision, value)], now);
            let mut next = each.apply(revision, [(key, revision, value)]);
            next.stand(&each, now);
            each = next;
        }
        let shown = draft.show(now).unwrap();
        assert_eq!((shown.revision, each.revision), (4, 4));
        assert_eq!(shown.route("x", "/f").unwrap().0.changed, 4);
        for state in [&*shown, &each] {
            let standing = state.standing("default", "f").unwrap();
            assert!(standing.may_serve(NodeId(2), now));
            assert!(standing.may_serve(NodeId(1), now), "it may finish what it began in between");
            assert!(!standing.may_serve(NodeId(1), now + FINISH));
        }
        // What stands is not touched by what comes next.
        draft.change(5, [("functions/default/f", 5, None)], now);
        let gone = draft.show(now).unwrap();
        assert!(shown.function("default", "f").is_some());
        assert!(gone.function("default", "f").is_none() && gone.route("x", "/f").is_none());
        assert!(gone.standing("default", "f").is_some(), "until it has finished");
        draft.change(6, [("nodes/1", 6, None)], now);
        assert!(draft.show(now + FINISH * 2).unwrap().standing("default", "f").is_none());
    }

    #[test]
    fn what_changes_the_revision_alone_is_not_shown() {
        let mut draft = Draft::new(Desired::default());
        draft.change(7, [("leases/a/l", 7, Some(&b"1"[..]))], Instant::now());
        assert!(draft.show(Instant::now()).is_none());
        assert_eq!(draft.revision(), 7);
    }
}
