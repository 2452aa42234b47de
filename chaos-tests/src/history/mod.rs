//! What clients did and were told: the only thing that checkers read.

mod file;
mod op;

pub use file::{FORMAT, Header, Malformed, read, validate, write};
pub use op::{Action, Answer, Event, Operation, Outcome, Step};
