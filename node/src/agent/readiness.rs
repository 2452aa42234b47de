//! When a node that starts can serve as a member.

use std::sync::atomic::{AtomicBool, Ordering};

/// What a node sees of its own membership.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signs {
    /// There is some copy of the control state.
    pub(crate) state: bool,
    /// A leader with a quorum was heard of lately, or is this node.
    pub(crate) leader: bool,
    /// The control state names this node as a member.
    pub(crate) admitted: bool,
    /// Its certificate is in its time by its own clock, and of an authority that it believes: else the
    /// others take no calls of it.
    pub(crate) certified: bool,
    /// Another member lives, and one has taken a request by the certificate that this node shows: else
    /// it slept while the authority changed.
    pub(crate) answered: bool,
}

impl Signs {
    /// What is missing.
    fn missing(self) -> Option<&'static str> {
        if !self.state {
            return Some(match self.leader {
                false => "waiting for a leader of the control state",
                true => "waiting for the first copy of the control state",
            });
        }
        if !self.admitted {
            return Some("waiting for this node's admission to arrive");
        }
        if !self.certified {
            return Some("waiting for a certificate that the other members take by now");
        }
        // One that is alone leads itself.
        (!self.answered && !self.leader).then_some("waiting for another member to answer")
    }
}

/// Whether the node can serve as a member. Once it can, it stays so while it runs: a quorum that is
/// lost later takes nothing from what it serves.
#[derive(Debug, Default)]
pub(crate) struct Readiness(AtomicBool);

impl Readiness {
    /// Why it cannot yet; `None` once it can.
    pub(crate) fn look(&self, signs: impl FnOnce() -> Signs) -> Option<&'static str> {
        if self.0.load(Ordering::Relaxed) {
            return None;
        }
        let missing = signs().missing();
        if missing.is_none() {
            self.0.store(true, Ordering::Relaxed);
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_when_it_can_serve_and_stays_so() {
        let all =
            Signs { state: true, leader: true, admitted: true, certified: true, answered: true };
        for (signs, word) in [
            (Signs { state: false, leader: false, ..all }, "leader"),
            (Signs { state: false, ..all }, "copy"),
            (Signs { admitted: false, ..all }, "admission"),
            (Signs { certified: false, ..all }, "certificate"),
            (Signs { leader: false, answered: false, ..all }, "another member"),
        ] {
            let readiness = Readiness::default();
            let why = readiness.look(|| signs).unwrap();
            assert!(why.contains(word), "{why}");
            assert_eq!(readiness.look(|| all), None);
            // Later losses do not matter.
            assert_eq!(readiness.look(|| signs), None);
        }
        // Without a quorum, beside another member; and alone, where it leads itself.
        for signs in [Signs { leader: false, ..all }, Signs { answered: false, ..all }] {
            assert_eq!(Readiness::default().look(|| signs), None, "{signs:?}");
        }
    }
}
