//! Properties of the state machine, its history and what is kept of it.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::{Applied, Catchup, Shared, State, StateBuilder};
use crate::{
    Expect, Outcome, Txn, Update, View, WatchEnd,
    keyspace::{Response, Tail},
};

fn txns() -> impl Strategy<Value = Vec<Txn>> {
    let op = (0..12_u8, any::<bool>(), any::<u8>());
    let check = (0..12_u8, 0..4_u8, 0..40_u64);
    let txn = (0..50_u128, proptest::collection::vec(op, 0..4), proptest::option::of(check));
    proptest::collection::vec(txn, 1..60).prop_map(|list| {
        list.into_iter()
            .map(|(request_id, ops, check)| {
                let mut txn = Txn { request_id, checks: vec![], ops: vec![] };
                for (key, put, value) in ops {
                    let key = format!("k/{key:02}");
                    if txn.ops.iter().all(|op| op.key() != key) {
                        txn = if put { txn.put(key, vec![value]) } else { txn.delete(key) };
                    }
                }
                match check {
                    Some((key, 0, _)) => txn.check(format!("k/{key:02}"), Expect::Absent),
                    Some((key, 1, at)) => txn.check(format!("k/{key:02}"), Expect::At(at)),
                    Some((key, 2, _)) => txn.check(format!("k/{key:02}"), Expect::Exists),
                    _ => txn,
                }
            })
            .collect()
    })
}

fn rebuilt(state: &State) -> State {
    let image = state.image();
    let mut builder = StateBuilder::default();
    for record in image.records() {
        builder.add(record).expect("in order");
    }
    builder.finish(image.revision(), image.chain())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A snapshot and the tail after it are the same as the whole log; batches lead a follower
    /// to the same entries and the same chain; a repeated request changes nothing.
    #[test]
    fn snapshot_and_tail_equal_replay(list in txns(), cut in 0..60_usize) {
        let mut whole = State::default();
        let mut followed = State::default();
        for txn in &list {
            let before = whole.revision();
            let (answer, batch) = whole.apply(txn);
            if let Some(batch) = &batch {
                prop_assert_eq!(batch.revision, before + 1);
                followed.apply_batch(batch).expect("next");
                prop_assert!(followed.apply_batch(batch).is_err());
                let mut forged = (**batch).clone();
                forged.revision += 1;
                forged.events[0].key.push('x');
                prop_assert!(followed.apply_batch(&forged).is_err());
            }
            let (again, nothing) = whole.apply(txn);
            prop_assert_eq!(again, answer);
            prop_assert!(nothing.is_none());
        }
        let cut = cut.min(list.len());
        let mut part = State::default();
        for txn in &list[..cut] {
            part.apply(txn);
        }
        let mut part = rebuilt(&part);
        for txn in &list[cut..] {
            part.apply(txn);
        }
        prop_assert_eq!(&part, &whole);
        prop_assert_eq!(part.image().digest(), whole.image().digest());
        prop_assert_eq!(followed.chain(), whole.chain());
        let entries = |state: &State| -> Vec<_> {
            state.list("").map(|(k, e)| (k.clone(), e.clone())).collect()
        };
        prop_assert_eq!(entries(&followed), entries(&whole));
    }
}

#[test]
fn a_conflict_that_was_answered_does_not_happen_later() {
    let mut state = State::default();
    let late = Txn::new().check("a", Expect::Exists).put("b", "1");
    let (answer, _) = state.apply(&late);
    assert!(matches!(answer, Response::Done(Outcome::Conflict { .. })));
    state.apply(&Txn::new().put("a", "1"));
    assert_eq!(state.apply(&late).0, answer);
    assert!(state.get("b").is_none());
}

#[test]
fn sled_keeps_it_after_a_clean_stop_only() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("applied");
    let shared = Shared::new(State::default(), 1 << 20);
    let position = bytes::Bytes::from_static(b"here");
    let (mut applied, loaded) = Applied::open(&path).expect("open");
    assert!(loaded.is_none());
    applied.refill(&State::default().image(), &bytes::Bytes::new());
    // The second time over what the first left, and with more keys than are only noted.
    for keys in [7, 17_000] {
        for i in 0..keys + 50 {
            let mut txn = Txn::new().put(format!("k/{}", i % keys), vec![i as u8; 10]);
            txn = if i % 3 == 0 { txn.delete(format!("k/{}", (i + 1) % keys)) } else { txn };
            let batch = shared.apply(&txn).1.expect("a change");
            shared.read(|state| applied.note(&[batch], |key| state.get(key).cloned()));
        }
        let state = shared.read(State::clone);
        applied.close(&state.image(), position.clone()).expect("close");
        let (again, loaded) = Applied::open(&path).expect("open");
        let loaded = loaded.expect("clean");
        assert_eq!(loaded.state, state);
        assert_eq!(loaded.position, position);
        applied = again;
    }
    drop(applied);
    // It was not closed cleanly this time.
    assert!(Applied::open(&path).expect("open").1.is_none());
}

#[test]
fn damage_in_sled_is_found() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("applied");
    let mut state = State::default();
    state.apply(&Txn::new().put("a", vec![7; 4000]));
    let (mut applied, _) = Applied::open(&path).expect("open");
    applied.refill(&state.image(), &bytes::Bytes::new());
    applied.close(&state.image(), bytes::Bytes::new()).expect("close");
    let file = path.join("sled/db");
    let mut bytes = std::fs::read(&file).expect("read");
    let at = bytes.windows(64).position(|w| w.iter().all(|b| *b == 7)).expect("the value");
    bytes[at + 32] ^= 1;
    std::fs::write(&file, bytes).expect("write");
    assert!(Applied::open(&path).expect("open").1.is_none());
}

#[tokio::test]
async fn a_slow_watcher_is_told_and_lists_again() {
    let shared = Shared::new(State::default(), 2000);
    let view = View::new(shared.clone());
    let mut slow = view.watch(None, "k/").expect("watch");
    let mut listing = view.list_and_watch("k/");
    let first = listing.next().await;
    assert_eq!(first, Some(Update::Snapshot { revision: 0, entries: vec![] }));
    for i in 0..100 {
        shared.apply(&Txn::new().put(format!("k/{}", i % 3), vec![i; 10]));
    }
    shared.announce();
    let Err(WatchEnd::Compacted { oldest }) = slow.next().await else { panic!("not told") };
    assert!((1..100).contains(&oldest));
    assert!(view.watch(Some(oldest - 1), "").is_err());
    let mut rest = view.watch(Some(oldest), "").expect("watch");
    for revision in oldest + 1..=100 {
        assert_eq!(rest.next().await.expect("item").revision, revision);
    }
    let Some(Update::Snapshot { revision: 100, entries }) = listing.next().await else {
        panic!("not listed again")
    };
    assert_eq!(entries.len(), 3);
    shared.apply(&Txn::new().put("k/0", "new"));
    shared.announce();
    assert!(matches!(listing.next().await, Some(Update::Changes(item)) if item.revision == 101));
    let error = view.wait_for(102, Duration::from_millis(20)).await.expect_err("not there");
    assert!(error.to_string().contains("revision 102"), "{error}");
    shared.close();
    assert_eq!(listing.next().await, None);
}

#[test]
fn a_feed_goes_on_only_where_the_chain_agrees() {
    let shared = Shared::new(State::default(), 1 << 20);
    let mut at = Vec::new();
    for i in 0..5 {
        shared.apply(&Txn::new().put(format!("k{i}"), "x"));
        at.push(shared.read(|state| (state.revision(), state.chain())));
    }
    assert!(matches!(shared.catch_up(Some(at[2])), Catchup::Tail(3)));
    assert!(matches!(shared.catch_up(Some((3, at[1].1))), Catchup::Image(_)));
    assert!(matches!(shared.catch_up(None), Catchup::Image(_)));
    let Tail::Batches(tail) = shared.tail(3) else { panic!("compacted") };
    assert_eq!(tail.iter().map(|b: &Arc<_>| b.revision).collect::<Vec<_>>(), [4, 5]);
}
