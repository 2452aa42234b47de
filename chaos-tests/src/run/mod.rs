//! One run: a cluster, clients, faults, healing, verdicts.

mod converge;
mod coverage;
mod observer;
mod outcome;
mod placement;
mod regions;
mod runner;
mod scenario;
mod versions;

pub use coverage::{Coverage, Needs, of_version};
pub use observer::{Leader, Observer, Term};
pub use outcome::{Ending, Run};
pub use regions::THREE as THREE_REGIONS;
pub use runner::{Plan, run};
pub use scenario::{SCENARIOS, Scenario};
