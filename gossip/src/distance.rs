//! How far the members are from each other, in time: measured where this node asked lately, else
//! estimated from where each node says that it stands.
//!
//! Vivaldi (Dabek et al. 2004): every node holds a point in a space in which the distance of two
//! points is the round trip between them, and moves its own a little with each round trip that it
//! measures. Heights are from there too; the adjustment against what no space can hold (ways that
//! break the triangle inequality) is from Lee et al. 2010, the median filter and the weak pull to
//! the origin from Ledlie, Gardner and Seltzer 2007.

mod coordinate;
mod distances;
mod locator;
mod point;
mod round_trips;

pub use coordinate::{Coordinate, DIMENSIONS};
pub use distances::Distances;
pub use locator::Locator;
