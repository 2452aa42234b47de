//! The space and what moves a point in it.

use rand::{RngExt, rngs::StdRng};

use super::coordinate::{Coordinate, DIMENSIONS};

/// The lowest height, seconds: no way takes less than twice that.
pub(super) const MIN_HEIGHT: f64 = 10e-6;
/// The error of a node that knows nothing yet, and the largest.
pub(super) const MAX_ERROR: f64 = 1.5;
/// Two points closer than this stand on each other, seconds.
const SAME: f64 = 1e-6;

/// A point of the space, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Point {
    pub(super) position: [f64; DIMENSIONS],
    pub(super) height: f64,
    pub(super) adjustment: f64,
    pub(super) error: f64,
}

impl Point {
    /// Where every node begins.
    pub(super) fn origin() -> Self {
        Self { position: [0.0; DIMENSIONS], height: MIN_HEIGHT, adjustment: 0.0, error: MAX_ERROR }
    }

    /// How far apart the positions are, without heights.
    pub(super) fn apart(&self, other: &Self) -> f64 {
        let squares = self.position.iter().zip(&other.position).map(|(a, b)| (a - b).powi(2));
        squares.sum::<f64>().sqrt()
    }

    /// The way between two points, without the adjustments.
    pub(super) fn raw_distance(&self, other: &Self) -> f64 {
        self.apart(other) + self.height + other.height
    }

    /// The way between two points: above zero.
    pub(super) fn distance(&self, other: &Self) -> f64 {
        let raw = self.raw_distance(other);
        let adjusted = raw + self.adjustment + other.adjustment;
        if adjusted > 0.0 { adjusted } else { raw }
    }

    /// Moves the point by `force` seconds away from the other one; a force below zero pulls it
    /// nearer. Of points that stand on each other any direction leads away.
    pub(super) fn push(&mut self, force: f64, from: &Self, rng: &mut StdRng) {
        let apart = self.apart(from);
        let direction = if apart > SAME {
            let mut away = self.position;
            for (at, other) in away.iter_mut().zip(&from.position) {
                *at = (*at - other) / apart;
            }
            self.height =
                (self.height + (self.height + from.height) * force / apart).max(MIN_HEIGHT);
            away
        } else {
            any_direction(rng)
        };
        for (at, along) in self.position.iter_mut().zip(&direction) {
            *at += along * force;
        }
    }

    /// The same as it travels; `None` if it left the bounds.
    pub(super) fn coordinate(&self) -> Option<Coordinate> {
        let micros = |seconds: f64| {
            let micros = (seconds * 1e6).round();
            (micros.abs() < f64::from(i32::MAX)).then_some(micros as i32)
        };
        let mut position = [0; DIMENSIONS];
        for (to, from) in position.iter_mut().zip(&self.position) {
            *to = micros(*from)?;
        }
        let coordinate = Coordinate {
            position,
            height: u32::try_from(micros(self.height)?).ok()?,
            adjustment: micros(self.adjustment)?,
            error: (self.error.clamp(0.0, MAX_ERROR) * 1e3).round() as u16,
        };
        coordinate.is_sound().then_some(coordinate)
    }
}

impl From<&Coordinate> for Point {
    fn from(told: &Coordinate) -> Self {
        Self {
            position: told.position.map(|at| f64::from(at) / 1e6),
            height: f64::from(told.height) / 1e6,
            adjustment: f64::from(told.adjustment) / 1e6,
            error: f64::from(told.error) / 1e3,
        }
    }
}

fn any_direction(rng: &mut StdRng) -> [f64; DIMENSIONS] {
    let drawn: [f64; DIMENSIONS] = std::array::from_fn(|_| rng.random_range(-1.0..1.0));
    let length = drawn.iter().map(|at| at * at).sum::<f64>().sqrt();
    if length > SAME {
        return drawn.map(|at| at / length);
    }
    let mut along = [0.0; DIMENSIONS];
    along[0] = 1.0;
    along
}
