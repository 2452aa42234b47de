//! How long the disk took lately to make a group of records durable.

use std::time::{Duration, Instant};

/// How long a window is. What is told covers one to two of them: long enough for some dozens of
/// groups on a cluster at rest, short enough that a disk that recovered is believed soon.
const WINDOW: Duration = Duration::from_secs(10);
/// Classes by doubling, from a microsecond to an hour.
const CLASSES: usize = 32;

/// What the disk did in the last ten to twenty seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// How many groups of records were written and synced.
    pub groups: u64,
    /// At most so long took 99 of 100 of them; exact to a factor of two.
    pub p99: Duration,
}

/// Counts groups by how long they took, in two windows.
#[derive(Debug, Default)]
pub(super) struct PaceWindow {
    now: [u64; CLASSES],
    last: [u64; CLASSES],
    began: Option<Instant>,
}

impl PaceWindow {
    pub(super) fn note(&mut self, took: Duration, at: Instant) {
        self.turn(at);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let class = usize::try_from(micros.ilog2()).unwrap_or(CLASSES);
        self.now[class.min(CLASSES - 1)] += 1;
    }

    pub(super) fn pace(&mut self, at: Instant) -> Pace {
        self.turn(at);
        let counts = self.now.iter().zip(&self.last).map(|(now, last)| now + last);
        let counts: Vec<u64> = counts.collect();
        let groups = counts.iter().sum();
        let mut slower = groups;
        for (class, count) in (1..).zip(&counts) {
            slower -= count;
            if slower * 100 <= groups && groups > 0 {
                return Pace { groups, p99: Duration::from_micros(1 << class) };
            }
        }
        Pace { groups, p99: Duration::ZERO }
    }

    fn turn(&mut self, at: Instant) {
        let began = *self.began.get_or_insert(at);
        let windows = at.saturating_duration_since(began).as_secs() / WINDOW.as_secs();
        if windows == 0 {
            return;
        }
        let now = std::mem::take(&mut self.now);
        self.last = if windows == 1 { now } else { Default::default() };
        self.began = Some(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_group_in_a_hundred_is_not_told_two_are_and_both_are_forgotten() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut window = PaceWindow::default();
        assert_eq!(window.pace(start), Pace::default());
        for _ in 0..199 {
            window.note(ms(1), start);
        }
        window.note(ms(300), start);
        assert_eq!(window.pace(start).p99, Duration::from_micros(1024));
        window.note(ms(300), start + ms(9000));
        window.note(ms(300), start + ms(9000));
        let pace = window.pace(start + ms(19_000));
        assert_eq!(pace, Pace { groups: 202, p99: Duration::from_micros(1 << 19) });
        assert_eq!(window.pace(start + ms(40_000)), Pace::default());
    }
}
