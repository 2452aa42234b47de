//! When a leader with a slow disk hands over.

use std::collections::BTreeMap;

use swarmer_model::NodeId;
use swarmer_scheduler::{DiskPace, SlowDisk};

fn pace(p99_ms: u64) -> DiskPace {
    DiskPace { groups: 100, p99_us: p99_ms * 1000 }
}

fn others(paces: &[u64]) -> BTreeMap<NodeId, DiskPace> {
    (2..).map(NodeId).zip(paces.iter().map(|ms| pace(*ms))).collect()
}

/// Whether it hands over when it is so for a minute, and to whom.
fn after_a_minute(own: DiskPace, others: &BTreeMap<NodeId, DiskPace>) -> Option<NodeId> {
    let mut disk = SlowDisk::default();
    let looks = (0..60).filter_map(|second| disk.look(own, others, second * 1000));
    looks.last().map(|slow| slow.to)
}

#[test]
fn a_leader_hands_over_to_the_fastest_if_its_disk_alone_is_slow() {
    assert_eq!(after_a_minute(pace(400), &others(&[8, 4])), Some(NodeId(3)));
    assert_eq!(after_a_minute(pace(400), &others(&[4, 400, 8, 8])), Some(NodeId(2)));
    for (what, own, others) in [
        ("fast", pace(8), others(&[1, 1])),
        ("all are slow", pace(400), others(&[400, 200])),
        ("most are slow", pace(400), others(&[1, 400, 400, 400])),
        ("slower, not by much", pace(120), others(&[60, 60])),
        ("too few writes", DiskPace { groups: 19, p99_us: 400_000 }, others(&[1, 1])),
        ("alone", pace(400), BTreeMap::new()),
        (
            "nothing known of others",
            pace(400),
            BTreeMap::from([(NodeId(2), DiskPace { groups: 3, p99_us: 1000 })]),
        ),
    ] {
        assert_eq!(after_a_minute(own, &others), None, "{what}");
    }
}

#[test]
fn a_stall_that_passes_moves_nothing() {
    let mut disk = SlowDisk::default();
    let others = others(&[4, 4]);
    for round in 0..10 {
        let start = round * 20_000;
        for second in 0..10 {
            assert_eq!(disk.look(pace(400), &others, start + second * 1000), None);
        }
        assert_eq!(disk.look(pace(8), &others, start + 10_000), None);
    }
    assert_eq!(disk.look(pace(400), &others, 900_000), None);
    let slow = disk.look(pace(400), &others, 910_000).unwrap();
    assert_eq!(
        slow.to_string(),
        "the leader's disk takes up to 400 ms for a write, those of most other voters 4 ms, for 10 s"
    );
}
