//! What two founders say to each other when something is wrong.

use std::time::{Duration, Instant};

use swarmer_model::{ClusterId, NodeId};

use super::*;

fn founder(id: u64, address: &str) -> Founder {
    Founder {
        node: NodeId(id),
        spki: vec![id as u8],
        name: format!("n{id}"),
        advertise: address.to_owned(),
        region: String::new(),
        zone: String::new(),
        labels: Labels::new(),
    }
}

fn config(id: u64, secret: u8, cluster: u128) -> FoundingConfig {
    FoundingConfig {
        token: FoundingToken {
            cluster: ClusterId(cluster),
            secret: Secret::from_bytes([secret; 32]),
        },
        expect: 2,
        me: founder(id, &format!("n{id}:7400")),
    }
}

fn start(config: FoundingConfig) -> Founding {
    Founding::new(config, None).unwrap()
}

/// Links two founders, carries everything, writes every record, and returns what else came out.
fn talk(
    founders: [&mut Founding; 2],
    link: u64,
    exporters: [[u8; 32]; 2],
    spkis: [u8; 2],
    now: Instant,
) -> [Vec<Output>; 2] {
    let link = LinkId(link);
    let mut rest = [Vec::new(), Vec::new()];
    let mut todo = Vec::new();
    for (at, side) in [(0, Side::Dialer), (1, Side::Acceptor)] {
        let peer_spki = vec![spkis[1 - at]];
        todo.push((at, Input::Connected { link, side, exporter: exporters[at], peer_spki }));
    }
    while !todo.is_empty() {
        let (at, input) = todo.remove(0);
        for output in founders[at].handle(input, now) {
            match output {
                Output::Send { bytes, .. } => todo.push((1 - at, Input::Received { link, bytes })),
                Output::Persist { sequence, .. } => todo.push((at, Input::Persisted { sequence })),
                other => rest[at].push(other),
            }
        }
    }
    rest
}

const SAME: [[u8; 32]; 2] = [[1; 32], [1; 32]];

fn refused(outputs: &[Output], reason: RefuseReason) -> bool {
    outputs.iter().any(|output| {
        matches!(output, Output::Close { reason: CloseReason::Refused(r) | CloseReason::RefusedByPeer(r), .. } if *r == reason)
    })
}

#[test]
fn strangers_are_refused_and_both_sides_know_why() {
    let now = Instant::now();
    for (other, exporters, spkis, reason) in [
        (config(2, 9, 1), SAME, [1, 2], RefuseReason::WrongSecret),
        (config(2, 5, 2), SAME, [1, 2], RefuseReason::OtherCluster),
        // A proof that was carried over from another connection.
        (config(2, 5, 1), [[1; 32], [2; 32]], [1, 2], RefuseReason::WrongSecret),
        // The connection ends at somebody else than the one who proves.
        (config(2, 5, 1), SAME, [1, 77], RefuseReason::WrongKey),
    ] {
        let (mut a, mut b) = (start(config(1, 5, 1)), start(other));
        let [of_a, of_b] = talk([&mut a, &mut b], 1, exporters, spkis, now);
        assert!(refused(&of_a, reason), "{reason}: {of_a:?}");
        assert!(refused(&of_b, reason), "{reason}: {of_b:?}");
        assert!(matches!(a.stage(), Stage::Waiting { missing: 1, .. }), "{}", a.stage());
        assert!(matches!(b.stage(), Stage::Waiting { missing: 1, .. }), "{}", b.stage());
    }
}

#[test]
fn two_founders_make_a_cluster_and_a_third_is_told_to_join() {
    let now = Instant::now();
    let (mut a, mut b) = (start(config(1, 5, 1)), start(config(2, 5, 1)));
    assert_eq!(a.stage().to_string(), "waiting for 1 more founder: have n1");
    let [of_a, of_b] = talk([&mut a, &mut b], 1, SAME, [1, 2], now);
    assert!(matches!(&of_a[..], [Output::Found { founders }] if founders.len() == 2), "{of_a:?}");
    assert!(of_b.is_empty(), "{of_b:?}");
    assert!(b.stage().to_string().contains("n1 (n1:7400)"), "{}", b.stage());
    let grants = vec![(NodeId(1), vec![1]), (NodeId(2), vec![2])];
    let outputs = a.handle(Input::Founded { grants }, now);
    let [Output::Persist { sequence, record }] = &outputs[..] else { panic!("{outputs:?}") };
    let record = FoundingRecord::decode(&record.encode()).unwrap();
    a.handle(Input::Persisted { sequence: *sequence }, now);
    assert_eq!(a.stage(), Stage::Founded);

    // After a restart the maker still answers.
    let mut a = Founding::new(config(1, 5, 1), Some(record)).unwrap();
    let [_, of_b] = talk([&mut a, &mut b], 2, SAME, [1, 2], now + RESEND_EVERY);
    assert!(of_b.contains(&Output::Granted { grant: vec![2] }), "{of_b:?}");

    // A hello that is older than its sender's consent (it came by another link) says nothing:
    // its sender is one of the founders.
    let mut early = start(config(2, 5, 1));
    let [of_early, _] = talk([&mut early, &mut a], 4, SAME, [2, 1], now);
    assert_eq!(of_early, [Output::Granted { grant: vec![2] }]);

    let mut c = start(config(3, 5, 1));
    let [of_c, _] = talk([&mut c, &mut a], 3, SAME, [3, 1], now);
    assert!(of_c.contains(&Output::JoinInstead { hint: "n1:7400".into() }), "{of_c:?}");
    assert!(c.stage().to_string().contains("swarmer token create"), "{}", c.stage());
}

#[test]
fn a_maker_that_lost_its_disk_is_reported_with_what_to_do() {
    let now = Instant::now();
    let (mut a, mut b) = (start(config(1, 5, 1)), start(config(2, 5, 1)));
    talk([&mut a, &mut b], 1, SAME, [1, 2], now);
    b.handle(Input::Disconnected { link: LinkId(1) }, now);
    assert!(b.stage().to_string().contains("come back"), "{}", b.stage());
    b.handle(Input::Tick, now + Duration::from_secs(61));
    assert!(matches!(b.stage(), Stage::Stuck { .. }), "{}", b.stage());

    let mut again = config(30, 5, 1);
    again.me.advertise = "n1:7400".into();
    let [of_b, _] = talk([&mut b, &mut start(again)], 2, SAME, [2, 30], now);
    let text = b.stage().to_string();
    assert!(text.contains("lost its disk") && text.contains("token bootstrap"), "{text}");
    assert!(of_b.iter().any(|output| matches!(output, Output::Log { .. })), "{of_b:?}");
}

#[test]
fn a_damaged_or_foreign_record_is_refused() {
    let record = FoundingRecord::new(ClusterId(1), NodeId(1));
    let bytes = record.encode();
    assert_eq!(FoundingRecord::decode(&bytes), Ok(record.clone()));
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert_eq!(FoundingRecord::decode(&damaged), Err(RecordError::Damaged), "byte {at}");
        assert_eq!(FoundingRecord::decode(&bytes[..at]), Err(RecordError::Damaged));
    }
    assert!(Founding::new(config(2, 5, 1), Some(record.clone())).is_err());
    assert!(Founding::new(config(1, 5, 2), Some(record)).is_err());
}

#[test]
fn garbage_closes_the_link_and_nothing_else() {
    let now = Instant::now();
    let mut a = start(config(1, 5, 1));
    for (link, bytes) in [(1, vec![]), (2, vec![9, 9]), (3, vec![1; MAX_MESSAGE_BYTES + 1])] {
        let link = LinkId(link);
        let connected =
            Input::Connected { link, side: Side::Acceptor, exporter: [0; 32], peer_spki: vec![] };
        a.handle(connected, now);
        let outputs = a.handle(Input::Received { link, bytes }, now);
        assert!(refused(&outputs, RefuseReason::Protocol), "{outputs:?}");
    }
    assert!(matches!(a.stage(), Stage::Waiting { .. }));
}
