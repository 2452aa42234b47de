//! What two founders say to each other when something is wrong.

use std::time::{Duration, Instant};

use swarmer_model::{ClusterId, NodeId};

use super::{message::Message, *};

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
        run: [id as u8; 16],
    }
}

fn start(config: FoundingConfig) -> Founding {
    asked(Founding::new(config, None).unwrap())
}

/// Past the question whether a cluster stands at some seed.
fn asked(mut founder: Founding) -> Founding {
    founder.handle(Input::SeedsAsked, Instant::now());
    founder
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

/// Links a founder to itself, as a seed that is its own address does.
fn talk_to_self(founder: &mut Founding, exporter: [u8; 32], now: Instant) -> Vec<Output> {
    let (dialled, accepted) = (LinkId(1), LinkId(2));
    let mut rest = Vec::new();
    let mut todo: Vec<Input> = [(dialled, Side::Dialer), (accepted, Side::Acceptor)]
        .map(|(link, side)| Input::Connected { link, side, exporter, peer_spki: vec![1] })
        .into();
    while !todo.is_empty() {
        for output in founder.handle(todo.remove(0), now) {
            match output {
                Output::Send { link, bytes } => {
                    let link = if link == dialled { accepted } else { dialled };
                    todo.push(Input::Received { link, bytes });
                }
                other => rest.push(other),
            }
        }
    }
    rest
}

#[test]
fn a_founder_knows_itself_again_and_a_copy_of_its_directory_does_not_pass_for_it() {
    let now = Instant::now();
    let mut own = start(config(1, 5, 1));
    let outputs = talk_to_self(&mut own, [1; 32], now);
    assert!(!outputs.is_empty());
    for output in &outputs {
        assert!(matches!(output, Output::Close { reason: CloseReason::Myself, .. }), "{output:?}");
    }
    assert!(own.answered(LinkId(1)) && own.answered(LinkId(2)));

    // The same id and key, another run: two machines.
    let mut copy = config(1, 5, 1);
    copy.run = [99; 16];
    let outputs = talk([&mut own, &mut start(copy)], 3, SAME, [1, 1], now);
    for of_one in &outputs {
        assert!(refused(of_one, RefuseReason::SameNode), "{outputs:?}");
    }
}

fn alone(id: u64, secret: u8, cluster: u128) -> FoundingConfig {
    FoundingConfig { expect: 1, ..config(id, secret, cluster) }
}

/// Three founders are expected; the one with id 9 dials a member.
fn late(secret: u8) -> FoundingConfig {
    FoundingConfig { expect: 3, ..config(9, secret, 1) }
}

/// A founder dials a member of cluster `by` that keeps this witness and no founding secret.
fn turned_away(
    late: &mut Founding,
    by: u128,
    witness: Option<&Secret>,
) -> (Vec<Output>, TurnedAway) {
    let (now, link, exporter) = (Instant::now(), LinkId(1), [0; 32]);
    let connected = Input::Connected { link, side: Side::Dialer, exporter, peer_spki: vec![1] };
    let outputs = late.handle(connected, now);
    let [Output::Send { bytes, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    let host = Host { cluster: ClusterId(by), address: "m:7400", witness, exporter: &exporter };
    let (node, reason, answer) = turn_away(bytes, &host).unwrap();
    assert_eq!(node, NodeId(9));
    assert!(turn_away(&answer, &host).is_none(), "not a first message");
    (late.handle(Input::Received { link, bytes: answer }, now), reason)
}

fn standing(by: u128, proven: bool) -> Output {
    let reason = CloseReason::Standing { cluster: ClusterId(by), proven };
    Output::Close { link: LinkId(1), reason }
}

#[test]
fn a_member_without_the_secret_turns_founders_away_and_both_know_why() {
    let secret = Secret::from_bytes([5; 32]);
    let witness = secret.witness();
    assert_ne!(witness, secret);
    let join = Output::JoinInstead { hint: "m:7400".into() };

    let (of_late, reason) = turned_away(&mut start(late(5)), 1, Some(&witness));
    assert_eq!(reason, TurnedAway::Spent);
    assert_eq!(of_late, [join, standing(1, true)]);

    // A token of this cluster id with another secret is told from a spent one.
    let mut wrong = start(late(8));
    let (of_wrong, reason) = turned_away(&mut wrong, 1, Some(&witness));
    assert_eq!(reason, TurnedAway::WrongSecret);
    assert!(refused(&of_wrong, RefuseReason::WrongSecret), "{of_wrong:?}");
    assert!(matches!(wrong.stage(), Stage::Waiting { .. }), "{}", wrong.stage());

    // Bound by its consent it waits for its maker, whatever others say.
    for (by, witness, proven) in [(1, Some(&witness), true), (1, None, false), (2, None, false)] {
        let mut bound = start(late(5));
        for id in [1, 2] {
            let me = founder(id, "o:7400");
            let mut other = start(FoundingConfig { me, run: [id as u8; 16], ..late(5) });
            talk([&mut bound, &mut other], id + 10, SAME, [9, id as u8], Instant::now());
        }
        assert!(matches!(bound.stage(), Stage::AwaitingGrant { .. }), "{}", bound.stage());
        let (of_bound, _) = turned_away(&mut bound, by, witness);
        assert_eq!(of_bound, [standing(by, proven)], "{by}");
    }
}

#[test]
fn a_word_that_nothing_proves_ends_no_founding_that_expects_others() {
    let foreign = Secret::from_bytes([77; 32]).witness();
    for (by, witness) in [(1, None), (2, None), (2, Some(&foreign))] {
        let mut one = start(config(9, 5, 1));
        let (of_one, _) = turned_away(&mut one, by, witness);
        assert_eq!(of_one, [standing(by, false)]);
        let stage = one.stage().to_string();
        assert!(stage.contains("waiting for 1 more founder") && stage.contains("at a seed"));
        assert!(stage.contains(&ClusterId(by).to_string()), "{stage}");
        // The other one comes: it founds.
        let [_, of_other] =
            talk([&mut one, &mut start(config(1, 5, 1))], 2, SAME, [9, 1], Instant::now());
        assert!(matches!(&of_other[..], [Output::Found { .. }]), "{of_other:?}");
    }
    // A proof holds for the connection that it was made on, and by the witness alone.
    let witness = Secret::from_bytes([5; 32]).witness();
    let answer = |exporter, witness: &Secret| Message::Standing {
        cluster: ClusterId(1),
        hint: "m:7400".into(),
        proof: Some(message::prove_standing(witness, ClusterId(1), "m:7400", &exporter)),
    };
    let (link, now) = (LinkId(1), Instant::now());
    for (message, proven) in [
        (answer([3; 32], &witness), true),
        (answer([4; 32], &witness), false),
        (answer([3; 32], &foreign), false),
    ] {
        let mut one = start(config(9, 5, 1));
        let (side, exporter) = (Side::Dialer, [3; 32]);
        one.handle(Input::Connected { link, side, exporter, peer_spki: vec![1] }, now);
        let outputs = one.handle(Input::Received { link, bytes: message.encode() }, now);
        assert_eq!(outputs.last(), Some(&standing(1, proven)), "{outputs:?}");
        assert_eq!(matches!(one.stage(), Stage::JoinInstead { .. }), proven);
    }
}

#[test]
fn one_that_founds_alone_is_ended_by_any_word_of_a_cluster() {
    for by in [1, 2] {
        let now = Instant::now();
        let mut alone = Founding::new(alone(9, 5, 1), None).unwrap();
        let (of_alone, _) = turned_away(&mut alone, by, None);
        let reason = GiveUp::Standing { cluster: ClusterId(by) };
        assert_eq!(of_alone, [Output::GiveUp { link: LinkId(1), reason }, standing(by, false)]);
        assert!(alone.handle(Input::SeedsAsked, now).is_empty());
    }
}

#[test]
fn one_that_founds_alone_asks_its_seeds_first_and_founds_beside_no_other_cluster() {
    let now = Instant::now();
    // Nobody answers: it founds, but only when the seeds were asked.
    let mut lonely = Founding::new(alone(1, 5, 1), None).unwrap();
    assert!(lonely.handle(Input::Tick, now).is_empty());
    let outputs = lonely.handle(Input::SeedsAsked, now);
    assert!(matches!(&outputs[..], [Output::Persist { .. }]), "{outputs:?}");

    // The maker of a standing cluster, which still serves founders.
    let standing = || {
        let mut maker = Founding::new(alone(2, 5, 1), None).unwrap();
        let mut todo = vec![Input::SeedsAsked];
        while !todo.is_empty() {
            for output in maker.handle(todo.remove(0), now) {
                match output {
                    Output::Persist { sequence, .. } => todo.push(Input::Persisted { sequence }),
                    Output::Found { .. } => {
                        todo.push(Input::Founded { grants: vec![(NodeId(2), vec![1])] });
                    }
                    Output::Granted { .. } => todo.push(Input::GrantStored),
                    _ => {}
                }
            }
        }
        assert_eq!(maker.stage(), Stage::Founded);
        maker
    };
    for (new, code) in [
        // Its own token again, a foreign one, one of its id with another secret.
        (alone(1, 5, 1), Some(codes::ALREADY_FOUNDED)),
        (alone(3, 5, 1), Some(codes::ALREADY_FOUNDED)),
        (alone(3, 5, 7), Some(codes::OTHER_CLUSTER)),
        (alone(3, 8, 1), Some(codes::WRONG_SECRET)),
    ] {
        let id = u8::try_from(new.me.node.0).unwrap();
        let mut maker = standing();
        let mut new = Founding::new(new, None).unwrap();
        let [of_new, of_maker] = talk([&mut new, &mut maker], 1, SAME, [id, 2], now);
        assert!(new.answered(LinkId(1)));
        let after = new.handle(Input::SeedsAsked, now);
        assert!(after.is_empty(), "it founds all the same: {after:?}");
        let told = of_maker.iter().find_map(|output| match output {
            Output::TurnedAway { reason, .. } => Some(reason.code()),
            _ => None,
        });
        assert_eq!(told, code, "{of_maker:?}");
        let ended = of_new.iter().any(|output| match output {
            Output::JoinInstead { .. } => code == Some(codes::ALREADY_FOUNDED),
            Output::GiveUp { reason: GiveUp::Standing { cluster }, .. } => {
                *cluster == ClusterId(1) && code == Some(codes::OTHER_CLUSTER)
            }
            Output::GiveUp { reason: GiveUp::Alone { reason }, .. } => {
                *reason == RefuseReason::WrongSecret && code == Some(codes::WRONG_SECRET)
            }
            _ => false,
        });
        assert!(ended, "{of_new:?}");
    }
}
