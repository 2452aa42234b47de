//! What goes on without a region: writes, as the others have a majority, and the answers of functions,
//! wherever their copies stood.

use super::{
    Verdict,
    map::{Loss, Map},
    silence::{changes, longest},
};
use crate::history::{Action, Operation};

/// Nobody waits for so long while a region is away. The cluster promises a new leader and an answer from
/// elsewhere within a few seconds; on a machine with twenty times the work that it can do 12 s were seen.
/// Less than the 30 s after which copies of a dead node are placed anew: nobody should wait for that.
pub const WITHIN_MS: u64 = 20_000;
const WITHIN_NS: u64 = WITHIN_MS * 1_000_000;

const WRITES: &str = "while a region is lost, writes go on";
const ANSWERS: &str = "while a region is lost, every other ingress has answers of functions";

/// Every loss of a region that lasted long enough.
pub fn writes(history: &[Operation]) -> Verdict {
    let map = Map::of(history);
    let all: Vec<&Operation> = history.iter().filter(|op| changes(&op.action)).collect();
    let (mut checked, mut violations) = (0, Vec::new());
    for loss in map.losses.iter().filter(|loss| is_long(loss)) {
        // Who asked nothing was refused nothing.
        if !all.iter().any(|op| during(op, loss)) {
            continue;
        }
        checked += 1;
        let silence = longest(&all, (loss.from_ns, loss.to_ns));
        if silence > WITHIN_NS {
            let (nodes, ms) = (loss.nodes.join(" "), silence / 1_000_000);
            violations.push(format!("without {nodes} no write was done for {ms} ms"));
        }
    }
    Verdict::of(WRITES, checked, violations)
}

/// Every ingress outside of a region that was lost for long enough.
pub fn answers(history: &[Operation]) -> Verdict {
    let map = Map::of(history);
    let is_call = |op: &&Operation| matches!(op.action, Action::Call { .. });
    let (mut checked, mut violations) = (0, Vec::new());
    for loss in map.losses.iter().filter(|loss| is_long(loss)) {
        let others = map.members(loss.to_ns);
        for ingress in others.into_iter().filter(|node| !loss.nodes.iter().any(|lost| lost == node))
        {
            let here = history.iter().filter(is_call).filter(|op| op.node == ingress);
            let here: Vec<&Operation> = here.filter(|op| during(op, loss)).collect();
            if here.is_empty() {
                continue;
            }
            checked += 1;
            let silence = longest(&here, (loss.from_ns, loss.to_ns));
            if silence > WITHIN_NS {
                let (nodes, ms) = (loss.nodes.join(" "), silence / 1_000_000);
                let last = here.iter().rfind(|op| !op.is_ok()).map(|op| op.to_string());
                violations.push(format!(
                    "without {nodes} {ingress} gave no answer for {ms} ms: {}",
                    last.unwrap_or_default()
                ));
            }
        }
    }
    Verdict::of(ANSWERS, checked, violations)
}

fn is_long(loss: &Loss<'_>) -> bool {
    loss.to_ns - loss.from_ns > WITHIN_NS
}

fn during(operation: &Operation, loss: &Loss<'_>) -> bool {
    operation.completed_ns > loss.from_ns && operation.invoked_ns < loss.to_ns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::sample::{at, done, failed, ok},
        history::Answer,
    };

    const SECOND: u64 = 1_000_000_000;

    fn lost(from: u64, to: u64) -> Operation {
        let nodes = vec!["n1".into(), "n4".into()];
        ok(90, (from * SECOND, to * SECOND), Action::Lost { nodes }, done(0))
    }

    fn write(id: u64, from: u64, to: u64) -> Operation {
        let action = Action::Write { key: "a".into(), value: id, request: None };
        ok(id, (from * SECOND, to * SECOND), action, done(id))
    }

    #[test]
    fn a_time_without_writes_is_found() {
        let judged = |writes: &[Operation]| {
            super::writes(&[std::slice::from_ref(&lost(10, 40)), writes].concat())
        };
        assert!(judged(&[write(1, 11, 14), write(2, 20, 30)]).is_valid());
        assert_eq!(judged(&[write(1, 11, 14), write(2, 20, 30)]).checked, 1);
        assert!(judged(&[write(1, 11, 14)]).is_invalid(), "not any more after that");
        assert!(judged(&[write(1, 20, 31), write(2, 32, 33)]).is_invalid(), "late");
        assert!(judged(&[write(1, 9, 14), write(2, 32, 33)]).is_invalid(), "it began before");
        let refused = failed(1, (11 * SECOND, 14 * SECOND), write(1, 0, 0).action);
        assert!(judged(&[refused, write(2, 41, 42)]).is_invalid());
    }

    #[test]
    fn an_ingress_without_answers_is_found() {
        let stand = |id, node: &str| {
            at(node, ok(id, (0, 0), Action::Stands { region: node.into() }, done(0)))
        };
        let call = |id, node: &str, from: u64, to: u64| {
            let action = Action::Call { call: format!("c{id}"), deadline_ms: 5_000 };
            let echo = format!("c{id}");
            let answer = Answer::Served { echo, version: 1, answers: 1, by: "n3".into() };
            at(node, ok(id, (from * SECOND, to * SECOND), action, answer))
        };
        let judged = |calls: &[Operation]| {
            let world = ["n1", "n2", "n3", "n4"].iter().zip(80..).map(|(node, id)| stand(id, node));
            let world: Vec<Operation> = world.chain([lost(10, 40)]).collect();
            answers(&[world.as_slice(), calls].concat())
        };
        let good = [call(1, "n2", 11, 12), call(2, "n2", 29, 30), call(3, "n3", 15, 16)];
        let good = [good.as_slice(), &[call(4, "n3", 30, 31)]].concat();
        assert!(judged(&good).is_valid());
        assert_eq!(judged(&good).checked, 2);
        assert!(judged(&good[..3]).is_invalid(), "n3 has none in the last 24 s");
        assert!(judged(&good[1..]).is_valid(), "20 s are borne");
        let refused = at("n2", failed(5, (11 * SECOND, 12 * SECOND), call(5, "n2", 0, 0).action));
        let told = judged(std::slice::from_ref(&refused)).to_string();
        assert!(told.contains("n2 gave no answer for 30000 ms: #5"), "{told}");
        // Who is in it has no network to ask by, and who was removed is nobody's ingress.
        assert_eq!(judged(&[at("n1", refused.clone())]).checked, 0);
        let expel = at("n2", ok(6, (1, 2), Action::Expel, done(0)));
        assert_eq!(judged(&[refused, expel]).checked, 0);
    }

    #[test]
    fn a_short_loss_or_one_in_which_nobody_wrote_claims_nothing() {
        assert_eq!(writes(&[lost(10, 30), write(1, 11, 12)]).checked, 0);
        assert_eq!(writes(&[lost(10, 40), write(1, 41, 42)]).checked, 0);
        assert_eq!(writes(&[write(1, 31, 32)]).checked, 0);
    }
}
