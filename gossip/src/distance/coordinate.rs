//! Where a node says that it stands.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::point::Point;
use crate::MAX_ROUND_TRIP;

/// Dimensions of the space. Fewer bend the Internet; more gain nothing and make records larger.
pub const DIMENSIONS: usize = 8;
/// The furthest from the origin in each dimension, in microseconds: no round trip that counts is
/// longer than this.
const FURTHEST: u32 = MAX_ROUND_TRIP.as_micros() as u32;
/// The most that an error can be, in thousandths.
const MAX_ERROR_PERMILLE: u16 = 1500;

/// A point of the space, as it travels: whole numbers, so that none of them is infinite or no
/// number at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Coordinate {
    /// Where it is, microseconds from the origin.
    pub position: [i32; DIMENSIONS],
    /// What the way from the node to the rest of the network takes, microseconds: it is part of
    /// every way of this node.
    pub height: u32,
    /// What the space has wrong about this node's ways, on average, microseconds.
    pub adjustment: i32,
    /// How far its estimates were off lately, thousandths; at most 1500.
    pub error: u16,
}

impl Coordinate {
    /// Whether it is within the bounds. One that is not comes from no node of ours.
    pub fn is_sound(&self) -> bool {
        self.position.iter().all(|at| at.unsigned_abs() <= FURTHEST)
            && self.height <= FURTHEST
            && self.adjustment.unsigned_abs() <= FURTHEST
            && self.error <= MAX_ERROR_PERMILLE
    }

    /// The estimated round trip between two nodes.
    pub fn distance(&self, other: &Self) -> Duration {
        Duration::from_secs_f64(Point::from(self).distance(&Point::from(other)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: i32, height: u32, adjustment: i32) -> Coordinate {
        let mut position = [0; DIMENSIONS];
        position[0] = x;
        Coordinate { position, height, adjustment, error: 100 }
    }

    #[test]
    fn the_distance_is_the_way_between_the_points_and_both_heights_adjusted() {
        let (a, b) = (at(-3_000, 100, 50), at(4_000, 200, -20));
        assert_eq!(a.distance(&b), Duration::from_micros(7_330));
        assert_eq!(b.distance(&a), a.distance(&b));
        // An adjustment never makes a way that takes no time.
        let low = at(-3_000, 100, -9_000);
        assert_eq!(low.distance(&b), Duration::from_micros(7_300));
    }

    #[test]
    fn what_is_out_of_bounds_is_not_sound() {
        assert!(at(10_000_000, 10_000_000, -10_000_000).is_sound());
        assert!(at(-10_000_000, 0, 0).is_sound());
        let error = Coordinate { error: 1501, ..at(0, 0, 0) };
        for wrong in [at(10_000_001, 0, 0), at(i32::MIN, 0, 0), at(0, 10_000_001, 0), error] {
            assert!(!wrong.is_sound(), "{wrong:?}");
        }
        assert!(!at(0, 0, i32::MIN).is_sound());
    }
}
