//! Faults: a seed gives a schedule, which is data; hands carry it out.

mod hands;
mod schedule;
mod topology;

pub use hands::{Done, Hands};
pub use schedule::{Fault, Kind, Schedule, Timed, Who};
pub use topology::Shape;
