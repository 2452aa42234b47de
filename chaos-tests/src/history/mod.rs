//! What clients did and were told: the only thing that checkers read.

mod file;
mod op;
mod placed;
mod recorder;
mod strange;

pub use file::{FORMAT, Header, Malformed, read, validate, write};
pub use op::{Action, Answer, Event, Operation, Outcome, Relic, Step};
pub use placed::{Commit, Fact, Member, Placed, Rule};
pub use recorder::{Client, Recorder};
pub use strange::Strange;
