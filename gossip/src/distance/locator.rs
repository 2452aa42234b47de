//! Where this node stands, by the round trips that it measures.

use std::{collections::VecDeque, time::Duration};

use rand::rngs::StdRng;
use swarmer_model::NodeId;

use super::{Coordinate, Distances, point, point::Point, round_trips::RoundTrips};
use crate::MAX_ROUND_TRIP;

/// How much one round trip weighs in the error, and how far it moves the point (Vivaldi's c_e and
/// c_c).
const ERROR_SHARE: f64 = 0.25;
const MOVE_SHARE: f64 = 0.25;
/// Round trips that the adjustment is the mean of.
const ADJUSTMENT_WINDOW: usize = 20;
/// Seconds from the origin at which the pull towards it is a second. It keeps all the points
/// together from drifting away, and is far too weak to bend distances.
const GRAVITY: f64 = 150.0;
/// Round trips until the point says anything.
const MEANINGFUL: u64 = 16;
/// Round trips over which the point that is told to others is smoothed: what jitters is no news.
const SMOOTHED: f64 = 16.0;
/// A move of less is none, whatever the distances are: routers take ways that differ by so much for
/// equal.
const LEAST_MOVE: Duration = Duration::from_millis(5);
/// A move is worth telling if it is more than this share of the usual distance.
const NOTABLE_MOVE: f64 = 0.1;

/// Holds this node's point and the last round trips to others. No clock and no random source
/// inside.
#[derive(Clone)]
pub struct Locator {
    own: Point,
    /// What `own` was of late, on average.
    smooth: Point,
    /// How far the space without adjustments was off, seconds; the newest last.
    off: VecDeque<f64>,
    trips: RoundTrips,
    updates: u64,
}

impl Default for Locator {
    fn default() -> Self {
        Self {
            own: Point::origin(),
            smooth: Point::origin(),
            off: VecDeque::new(),
            trips: RoundTrips::default(),
            updates: 0,
        }
    }
}

impl Locator {
    /// Takes a measured round trip to a peer and where that one stands. What cannot be (no time at
    /// all, more than [`MAX_ROUND_TRIP`], a point out of bounds) changes nothing and is `false`.
    pub fn update(
        &mut self,
        now: Duration,
        peer: NodeId,
        theirs: &Coordinate,
        rtt: Duration,
        rng: &mut StdRng,
    ) -> bool {
        if rtt.is_zero() || rtt > MAX_ROUND_TRIP || !theirs.is_sound() {
            return false;
        }
        let rtt = self.trips.take(now, peer, rtt).as_secs_f64();
        let theirs = Point::from(theirs);
        self.step(&theirs, rtt, rng);
        self.adjust(&theirs, rtt);
        let gravity = (self.own.raw_distance(&Point::origin()) / GRAVITY).powi(2);
        self.own.push(-gravity, &Point::origin(), rng);
        self.updates += 1;
        if self.own.coordinate().is_none() {
            // Led astray, perhaps by others: the next round trips find the way back.
            self.own = Point::origin();
            self.smooth = Point::origin();
            self.off.clear();
            self.updates = 0;
        }
        self.follow();
        true
    }

    /// The same, as if all had been measured now.
    #[cfg(feature = "formed")]
    pub(crate) fn as_of(&self, now: Duration) -> Self {
        Self { trips: self.trips.as_of(now), ..self.clone() }
    }

    /// One step of Vivaldi: the surer the peer and the less sure this node, the larger.
    fn step(&mut self, theirs: &Point, rtt: f64, rng: &mut StdRng) {
        let distance = self.own.distance(theirs);
        let wrong = (distance - rtt).abs() / rtt;
        let weight = self.own.error / (self.own.error + theirs.error).max(f64::EPSILON);
        let share = ERROR_SHARE * weight;
        self.own.error = (wrong * share + self.own.error * (1.0 - share)).min(point::MAX_ERROR);
        self.own.push(MOVE_SHARE * weight * (rtt - distance), theirs, rng);
    }

    fn adjust(&mut self, theirs: &Point, rtt: f64) {
        if self.off.len() == ADJUSTMENT_WINDOW {
            self.off.pop_front();
        }
        self.off.push_back(rtt - self.own.raw_distance(theirs));
        // Both ends of a way adjust it: half for each.
        self.own.adjustment = self.off.iter().sum::<f64>() / (2.0 * ADJUSTMENT_WINDOW as f64);
    }

    fn follow(&mut self) {
        let share = 1.0 / (self.updates.max(1) as f64).min(SMOOTHED);
        let blend = |smooth: &mut f64, own: f64| *smooth += (own - *smooth) * share;
        for (smooth, own) in self.smooth.position.iter_mut().zip(&self.own.position) {
            blend(smooth, *own);
        }
        blend(&mut self.smooth.height, self.own.height);
        blend(&mut self.smooth.adjustment, self.own.adjustment);
        self.smooth.error = self.own.error;
    }

    /// Round trips that moved the point so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// When the round trip to the node was measured last.
    pub fn measured_at(&self, node: NodeId) -> Option<Duration> {
        self.trips.at(node)
    }

    /// Where the node stands at this moment: what the others' steps are made from.
    pub fn coordinate(&self) -> Coordinate {
        // A point that left the bounds was put back.
        self.own.coordinate().unwrap_or(ORIGIN)
    }

    /// Where it stood of late, once that says anything: for estimates, and to be told to all.
    pub fn settled(&self) -> Option<Coordinate> {
        self.smooth.coordinate().filter(|_| self.updates >= MEANINGFUL)
    }

    /// Whether what was told last is so wrong that it should be told anew: nothing was, or
    /// distances changed by more than a tenth of the usual one and more than five milliseconds.
    pub fn has_moved(&self, now: Duration, told: Option<&Coordinate>) -> bool {
        let (Some(settled), Some(told)) = (self.settled(), told) else {
            return self.settled().is_some() && told.is_none();
        };
        let (settled, told) = (Point::from(&settled), Point::from(told));
        let raised = (settled.height + settled.adjustment - told.height - told.adjustment).abs();
        // No distance to anybody changed by more than that.
        let moved = settled.apart(&told) + raised;
        let mut usual: Vec<Duration> = self.trips.fresh(now).map(|(_, (rtt, _))| rtt).collect();
        usual.sort_unstable();
        let usual = usual.get(usual.len() / 2).copied().unwrap_or_default();
        moved > LEAST_MOVE.max(usual.mul_f64(NOTABLE_MOVE)).as_secs_f64()
    }

    /// What is known of the ways to the others.
    pub fn distances(&self, now: Duration) -> Distances {
        Distances { own: self.settled(), measured: self.trips.fresh(now).collect() }
    }

    /// Forgets a node that is no member any more.
    pub fn forget(&mut self, node: NodeId) {
        self.trips.forget(node);
    }
}

/// Where every node begins, as it travels.
const ORIGIN: Coordinate =
    Coordinate { position: [0; super::DIMENSIONS], height: 10, adjustment: 0, error: 1500 };
