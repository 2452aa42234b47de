use stateright::semantics::{ConsistencyTester as _, LinearizabilityTester, SequentialSpec};

use super::*;
use crate::{
    check::{
        Judgement,
        sample::{done, failed, ok, unknown},
    },
    seed::Seeded,
};

/// The same register, as the other checker wants it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Spec(Cell);

impl SequentialSpec for Spec {
    type Op = Op;
    type Ret = ();

    fn invoke(&mut self, op: &Op) {
        self.0 = Register.step(&self.0, op).unwrap_or(self.0);
    }

    fn is_valid_step(&mut self, op: &Op, _: &()) -> bool {
        let next = Register.step(&self.0, op);
        self.0 = next.unwrap_or(self.0);
        next.is_some()
    }
}

/// A small history: some that a real register made, some with one answer changed.
fn small(random: &mut Seeded) -> Vec<Call<Op>> {
    let clients = 1 + random.index(4);
    let mut cell = Cell::ABSENT;
    let mut revision = 0;
    // What each client does now: what it is to do, since when, and its effect once it took place.
    let mut busy: Vec<Option<(u64, Option<Op>)>> = vec![None; clients];
    let mut calls = Vec::new();
    let mut now = 0;
    for _ in 0..(4 + random.index(22)) {
        now += 1;
        let client = random.index(clients);
        match busy[client] {
            None => busy[client] = Some((now, None)),
            Some((since, None)) => {
                // It takes effect now.
                revision += 1;
                let value = random.below(3);
                let op = match (random.below(3), cell.value) {
                    (0, seen) => Op::Read(seen.map(|seen| (seen, cell.floor))),
                    (1, Some(seen)) => Op::Cas((seen, cell.floor), value, Some(revision)),
                    _ => Op::Write(value, Some(revision)),
                };
                cell = Register.step(&cell, &op).unwrap();
                busy[client] = Some((since, Some(op)));
            }
            Some((invoked, Some(op))) => {
                busy[client] = None;
                calls.push(Call { op, invoked, completed: Some(now) });
            }
        }
    }
    for (invoked, op) in busy.into_iter().flatten() {
        // Nobody heard the answer, whether it took effect or not.
        let op = match op {
            Some(Op::Write(value, _)) => Op::Write(value, None),
            Some(Op::Cas(seen, value, _)) => Op::Cas(seen, value, None),
            Some(Op::Read(_)) => continue,
            None => Op::Write(random.below(3), None),
        };
        calls.push(Call { op, invoked, completed: None });
    }
    if !calls.is_empty() && random.chance(60) {
        let at = random.index(calls.len());
        calls[at].op = match calls[at].op {
            Op::Read(Some((value, at))) if random.chance(50) => Op::Read(Some((value ^ 1, at))),
            Op::Read(Some((value, at))) => Op::Read(Some((value, at.saturating_sub(1)))),
            Op::Read(None) => Op::Read(Some((1, 1))),
            Op::Write(value, known) => Op::Write(value ^ 1, known),
            Op::Cas((seen, at), value, known) => Op::Cas((seen, at + 1), value, known),
        };
    }
    calls
}

fn by_stateright(calls: &[Call<Op>]) -> bool {
    let mut times: Vec<(u64, bool, usize)> = Vec::new();
    for (i, call) in calls.iter().enumerate() {
        times.push((call.invoked, false, i));
        times.extend(call.completed.map(|completed| (completed, true, i)));
    }
    times.sort_unstable();
    let mut tester = LinearizabilityTester::new(Spec(Cell::ABSENT));
    // A thread each would forbid nothing: order between threads is by real time here.
    for (_, end, i) in times {
        if end {
            tester.on_return(i, ()).unwrap();
        } else {
            tester.on_invoke(i, calls[i].op).unwrap();
        }
    }
    tester.is_consistent()
}

#[test]
fn it_agrees_with_another_checker_on_thousands_of_small_histories() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..6_000 {
        let calls = small(&mut Seeded::new(seed, "small histories"));
        let ours = search(&Register, Cell::ABSENT, &calls, BUDGET) == Search::Linearizable;
        assert_eq!(ours, by_stateright(&calls), "seed {seed}: {calls:#?}");
        if ours { good += 1 } else { bad += 1 }
    }
    println!("{good} linearizable, {bad} not");
    assert!(good > 500 && bad > 500, "{good} {bad}: one sided");
}

fn read(key: &str) -> Action {
    Action::Read { key: key.into() }
}

fn write(key: &str, value: u64) -> Action {
    Action::Write { key: key.into(), value, request: None }
}

fn gave(value: u64, revision: u64) -> Answer {
    Answer::Value { value: Some(value), revision: Some(revision) }
}

fn cas(seen_value: u64, seen_revision: u64, value: u64) -> Action {
    Action::Cas { key: "a".into(), seen_value, seen_revision, value }
}

#[test]
fn a_lost_write_is_found_and_explained() {
    let mut history = vec![
        ok(1, (0, 10), write("a", 1), done(5)),
        ok(2, (20, 30), write("a", 2), done(6)),
        ok(3, (40, 50), read("a"), gave(2, 6)),
    ];
    assert!(check(&history).is_valid());
    history.push(ok(4, (60, 70), read("a"), gave(1, 5)));
    let verdict = check(&history);
    let Judgement::Invalid(why) = &verdict.judgement else { panic!("{verdict}") };
    assert!(why[0].contains("#4") && why[0].contains("could be: 2@6"), "{}", why[0]);
}

#[test]
fn planted_violations_are_found() {
    let stale = [
        ok(1, (0, 10), write("a", 1), done(5)),
        ok(2, (20, 30), read("a"), Answer::Value { value: None, revision: None }),
    ];
    let never_written = [ok(1, (0, 10), read("a"), gave(4, 5))];
    let failed_but_seen =
        [failed(1, (0, 10), write("a", 1)), ok(2, (20, 30), read("a"), gave(1, 5))];
    let two_cas_of_one = [
        ok(1, (0, 10), write("a", 1), done(5)),
        ok(2, (20, 30), cas(1, 5, 2), done(6)),
        ok(3, (20, 30), cas(1, 5, 3), done(7)),
    ];
    let revision_back =
        [ok(1, (0, 10), write("a", 1), done(5)), ok(2, (20, 30), write("a", 2), done(4))];
    // The same value as before, at another revision: seen by revision alone.
    let aba = [
        ok(1, (0, 10), write("a", 1), done(5)),
        ok(2, (20, 30), write("a", 2), done(6)),
        ok(3, (40, 50), write("a", 1), done(7)),
        ok(4, (60, 70), cas(1, 5, 9), done(8)),
    ];
    // Answered as done, but the state went on without it.
    let done_in_vain = [
        ok(1, (0, 10), write("a", 1), done(5)),
        ok(2, (20, 30), write("a", 2), done(6)),
        ok(3, (40, 50), write("a", 1), done(5)),
        ok(4, (60, 70), read("a"), gave(2, 6)),
    ];
    let all: [&[Operation]; 7] = [
        &stale,
        &never_written,
        &failed_but_seen,
        &two_cas_of_one,
        &revision_back,
        &aba,
        &done_in_vain,
    ];
    for history in all {
        assert!(check(history).is_invalid(), "{history:#?}");
    }
}

#[test]
fn an_unknown_write_may_come_late_or_never() {
    let mut history = vec![
        ok(1, (0, 10), write("a", 1), done(5)),
        unknown(2, (20, 30), write("a", 2)),
        ok(3, (40, 50), read("a"), gave(1, 5)),
    ];
    assert!(check(&history).is_valid(), "never");
    history.push(ok(4, (60, 70), read("a"), gave(2, 9)));
    assert!(check(&history).is_valid(), "late");
    history.push(ok(5, (80, 90), read("a"), gave(1, 5)));
    assert!(check(&history).is_invalid(), "but not undone");
}

#[test]
fn keys_are_judged_by_themselves_and_a_search_without_end_gives_up() {
    let mut history = Vec::new();
    for id in 0..40 {
        let written = Answer::Done { revision: None };
        history.push(ok(id, (0, 1_000), write("hard", id % 3), written));
    }
    history.push(ok(90, (2_000, 2_001), read("hard"), gave(7, 9)));
    let verdict = check_within(&history, 1_000);
    assert!(matches!(verdict.judgement, Judgement::Unknown(_)), "{verdict}");
    history.push(ok(91, (0, 10), read("easy"), gave(1, 1)));
    let verdict = check_within(&history, 1_000);
    assert!(verdict.is_invalid(), "another key's violation stands: {verdict}");
}
