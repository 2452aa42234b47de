//! Faults: a seed gives a schedule, which is data; hands carry it out.

mod aim;
mod change;
mod deeds;
mod draw;
mod fault;
mod field;
mod hands;
mod kind;
mod mark;
mod members;
mod memory;
mod schedule;
mod topology;
mod words;

pub use change::Change;
pub use fault::{Fault, Loss, Who};
pub use field::Field;
pub use hands::{Done, Hands};
pub use kind::Kind;
pub use mark::Mark;
pub use schedule::{CALM_MS, Schedule, Timed};
pub use topology::Shape;
