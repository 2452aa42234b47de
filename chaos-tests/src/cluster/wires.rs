//! What wires between nodes do to packets: when each arrives, whether it does, and how often. No
//! clock and no socket: times come in, times go out.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::seed::Seeded;

/// The most that waits before a slow wire; what comes then is lost, as in a full queue of a router.
const QUEUE_US: u64 = 500_000;
/// How much later than its turn a packet comes that others overtake.
const LATE_US: (u64, u64) = (500, 20_000);
/// How much later the second one of a duplicate comes.
const AGAIN_US: (u64, u64) = (0, 5_000);

/// What is wrong with a wire, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quality {
    /// Milliseconds that every packet takes longer.
    pub delay_ms: u32,
    /// At most so many milliseconds more, differing from packet to packet; their order stays.
    pub jitter_ms: u32,
    /// So many packets of a hundred are overtaken by later ones.
    pub reorder: u8,
    /// So many packets of a hundred come twice.
    pub duplicate: u8,
    /// Thousands of bits a second; 0: no bound.
    pub kbit: u32,
    /// So many packets of a hundred never come.
    #[serde(default)]
    pub loss: u8,
}

impl Quality {
    /// Every packet at once, in its order, and once.
    pub const PERFECT: Self =
        Self { delay_ms: 0, jitter_ms: 0, reorder: 0, duplicate: 0, kbit: 0, loss: 0 };

    /// Both at once.
    fn and(self, other: Self) -> Self {
        let kbit = match (self.kbit, other.kbit) {
            (0, kbit) | (kbit, 0) => kbit,
            (one, two) => one.min(two),
        };
        Self {
            delay_ms: self.delay_ms + other.delay_ms,
            jitter_ms: self.jitter_ms.max(other.jitter_ms),
            reorder: self.reorder.max(other.reorder),
            duplicate: self.duplicate.max(other.duplicate),
            kbit,
            loss: self.loss.max(other.loss),
        }
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delay_ms, jitter_ms, reorder, duplicate, kbit, loss } = self;
        write!(f, "{delay_ms} ms later")?;
        if *jitter_ms > 0 {
            write!(f, ", up to {jitter_ms} ms more")?;
        }
        if *reorder > 0 {
            write!(f, ", {reorder} % out of order")?;
        }
        if *duplicate > 0 {
            write!(f, ", {duplicate} % twice")?;
        }
        if *loss > 0 {
            write!(f, ", {loss} % lost")?;
        }
        if *kbit > 0 { write!(f, ", at {kbit} kbit/s") } else { Ok(()) }
    }
}

/// From a node to another one.
pub(super) type Pair = (usize, usize);

/// All wires. Those of which nothing is said deliver at once.
#[derive(Debug)]
pub struct Wires {
    random: Seeded,
    next: u64,
    /// What they are as long as nothing strikes; of those that are not here, perfect.
    laid: BTreeMap<Pair, Quality>,
    active: BTreeMap<u64, (Vec<Pair>, Quality)>,
    lines: BTreeMap<Pair, Line>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Line {
    quality: Quality,
    /// When it has sent what waits before it.
    free_us: u64,
    /// When the last packet that keeps its turn arrives.
    last_us: u64,
}

impl Wires {
    /// Good ones.
    pub fn new(seed: u64) -> Self {
        let random = Seeded::new(seed, "wires");
        let (laid, active, lines) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { random, next: 0, laid, active, lines }
    }

    /// Lays wires that are no better than this, ever: what strikes them comes on top.
    #[must_use]
    pub fn laid(mut self, wires: impl IntoIterator<Item = ((usize, usize), Quality)>) -> Self {
        self.laid.extend(wires);
        self.lines.extend(self.laid.keys().map(|pair| (*pair, Line::default())));
        self.set();
        self
    }

    /// Makes wires worse, until [`Wires::heal`] is called with what this gives. What strikes the same
    /// wire at the same time adds up.
    pub fn degrade(&mut self, pairs: Vec<Pair>, quality: Quality) -> u64 {
        self.next += 1;
        self.active.insert(self.next, (pairs, quality));
        self.set();
        self.next
    }

    /// Ends it.
    pub fn heal(&mut self, id: u64) {
        self.active.remove(&id);
        self.set();
    }

    /// Ends all of it; wires that were laid long stay long.
    pub fn heal_all(&mut self) {
        self.active.clear();
        self.set();
    }

    fn set(&mut self) {
        for (pair, line) in &mut self.lines {
            line.quality = self.laid.get(pair).copied().unwrap_or_default();
        }
        for (pairs, quality) in self.active.values() {
            for pair in pairs {
                let line = self.lines.entry(*pair).or_default();
                line.quality = line.quality.and(*quality);
            }
        }
    }

    /// When a packet arrives that is sent now; never, or twice. Times are microseconds.
    pub fn sent(&mut self, now_us: u64, pair: Pair, bytes: usize) -> [Option<u64>; 2] {
        let Self { random, lines, .. } = self;
        let Some(line) = lines.get_mut(&pair) else { return [Some(now_us), None] };
        let Quality { delay_ms, jitter_ms, reorder, duplicate, kbit, loss } = line.quality;
        // Nothing is drawn where nothing is lost: an old seed means what it meant.
        if loss > 0 && random.chance(loss.into()) {
            return [None, None];
        }
        let mut at = now_us;
        if kbit > 0 {
            let begins = line.free_us.max(now_us);
            if begins - now_us > QUEUE_US {
                return [None, None];
            }
            // Bits by thousands of bits a second are milliseconds.
            line.free_us = begins + bytes as u64 * 8 * 1_000 / u64::from(kbit);
            at = line.free_us;
        }
        at += u64::from(delay_ms) * 1_000 + random.below(u64::from(jitter_ms) * 1_000 + 1);
        if random.chance(reorder.into()) {
            at += random.between(LATE_US.0, LATE_US.1);
        } else {
            at = at.max(line.last_us);
            line.last_us = at;
        }
        let again = random.chance(duplicate.into());
        [Some(at), again.then(|| at + random.between(AGAIN_US.0, AGAIN_US.1))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of packets of 1,000 bytes that are sent every 100 µs.
    fn arrivals(quality: Quality, count: u64) -> Vec<[Option<u64>; 2]> {
        let mut wires = Wires::new(7);
        wires.degrade(vec![(0, 1)], quality);
        (0..count).map(|i| wires.sent(i * 100, (0, 1), 1_000)).collect()
    }

    fn firsts(quality: Quality, count: u64) -> Vec<u64> {
        arrivals(quality, count).into_iter().filter_map(|[first, _]| first).collect()
    }

    #[test]
    fn a_good_wire_delivers_at_once_and_a_pair_is_a_direction() {
        let mut wires = Wires::new(7);
        let id = wires.degrade(vec![(0, 1)], Quality { delay_ms: 5, ..Quality::default() });
        assert_eq!(wires.sent(10, (1, 0), 100), [Some(10), None]);
        assert_eq!(wires.sent(10, (0, 1), 100), [Some(5_010), None]);
        wires.degrade(vec![(0, 1)], Quality { delay_ms: 7, ..Quality::default() });
        assert_eq!(wires.sent(10, (0, 1), 100), [Some(12_010), None], "they add up");
        wires.heal(id);
        assert_eq!(wires.sent(10_000, (0, 1), 100), [Some(17_000), None]);
        wires.heal_all();
        assert_eq!(wires.sent(20_000, (0, 1), 100), [Some(20_000), None]);
    }

    #[test]
    fn jitter_differs_and_keeps_the_order_while_reordering_does_not() {
        let quality = Quality { delay_ms: 2, jitter_ms: 10, ..Quality::default() };
        let times = firsts(quality, 500);
        assert!(times.is_sorted(), "jitter alone overtakes nothing");
        let late = times.iter().zip(0..).map(|(at, i): (_, u64)| at - i * 100);
        assert!(late.clone().all(|late| late >= 2_000) && late.max() > Some(8_000));
        let times = firsts(Quality { reorder: 20, ..quality }, 500);
        let overtaken = times.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!((20..200).contains(&overtaken), "{overtaken} of 500");
    }

    #[test]
    fn so_many_come_twice() {
        let twice = arrivals(Quality { duplicate: 30, ..Quality::default() }, 1_000);
        let twice = twice.iter().filter(|[_, again]| again.is_some()).count();
        assert!((200..400).contains(&twice), "{twice} of 1000");
    }

    #[test]
    fn a_slow_wire_sends_at_its_rate_and_loses_what_does_not_fit() {
        // 8,000 bits at 800 kbit/s take 10 ms.
        let times = firsts(Quality { kbit: 800, ..Quality::default() }, 1_000);
        assert_eq!(times[..3], [10_000, 20_000, 30_000]);
        assert!(times.len() < 100, "{} of 1000 in 0.1 s", times.len());
        assert!(times.len() > 50, "half a second waits");
    }

    #[test]
    fn so_many_are_lost() {
        let come = firsts(Quality { loss: 30, ..Quality::default() }, 1_000).len();
        assert!((600..800).contains(&come), "{come} of 1000 come");
    }

    #[test]
    fn what_was_laid_is_made_worse_and_healed_to_what_it_was() {
        let laid = Quality { delay_ms: 40, ..Quality::default() };
        let mut wires = Wires::new(7).laid([((0, 1), laid)]);
        assert_eq!(wires.sent(0, (0, 1), 100), [Some(40_000), None]);
        wires.degrade(vec![(0, 1)], Quality { delay_ms: 5, ..Quality::default() });
        assert_eq!(wires.sent(100, (0, 1), 100), [Some(45_100), None]);
        wires.heal_all();
        assert_eq!(wires.sent(100_000, (0, 1), 100), [Some(140_000), None]);
    }

    #[test]
    fn a_seed_gives_the_same_arrivals() {
        let quality = Quality { jitter_ms: 9, reorder: 9, duplicate: 9, ..Quality::default() };
        assert_eq!(arrivals(quality, 100), arrivals(quality, 100));
    }
}
