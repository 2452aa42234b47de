//! One run: a cluster, clients, faults, healing, verdicts.

mod converge;
mod coverage;
mod observer;
mod outcome;
mod runner;
mod scenario;

pub use coverage::{Coverage, Needs};
pub use observer::{Leader, Observer, Term};
pub use outcome::{Ending, Run};
pub use runner::{Plan, run};
pub use scenario::{SCENARIOS, Scenario};
