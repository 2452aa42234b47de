//! Random calls against a model: what is read is right at every moment, and after reopening.

use std::sync::mpsc;

use proptest::prelude::*;
use swarmer_raft::disk::SimDisk;
use swarmer_raft::wal::Recovered;

use super::damage::open;
use super::history::ANSWERS;
use super::history::{Dice, Model, Step, think};

fn check(seed: u64, calls: usize) {
    let mut dice = Dice(seed);
    let (mut tags, mut committed) = (0, 0);
    let mut disk = SimDisk::new();
    let mut model = Model::default();
    let (mut wal, _) = open(&disk).unwrap();
    let (tell, told) = mpsc::sync_channel(ANSWERS);
    let mut answers = 0;
    for _ in 0..calls {
        let step = think(&mut dice, &mut tags, &model, committed);
        if let Step::Committed(n) = step {
            committed = n;
        }
        model.apply(&step);
        let tell = tell.clone();
        step.submit(&wal, move |result| drop(tell.send(result)));
        answers += 1;
        // Without waiting for the disk: entries are in memory, on disk, or both.
        let next = model.next();
        assert_eq!(wal.last_index(), model.entries.last_key_value().map(|(i, _)| *i));
        let first = model.entries.first_key_value().map_or(next, |(i, _)| *i);
        let from = first + dice.below(next - first + 1);
        let read = wal.read(from..next, usize::MAX).unwrap();
        let expected: Vec<_> = model
            .entries
            .range(from..)
            .map(|(i, (tag, len))| (*i, super::history::content(*tag, *len)))
            .collect();
        assert_eq!(read, expected);
        if dice.below(20) == 0 {
            for _ in 0..answers {
                told.recv_timeout(std::time::Duration::from_secs(20)).unwrap().unwrap();
            }
            answers = 0;
            if dice.below(2) == 0 {
                wal.close().unwrap();
            }
            disk = disk.restart();
            let recovered: Recovered;
            (wal, recovered) = open(&disk).unwrap();
            assert_eq!(Model::read(&wal, &recovered).unwrap(), model);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_is_what_was_asked_of_it(seed: u64, calls in 1..150_usize) {
        check(seed, calls);
    }
}
