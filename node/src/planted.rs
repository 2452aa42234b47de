//! The bugs of a test build: [`swarmer_model::planted`], switched on by the environment and said
//! aloud.

use swarmer_model::planted::{self, BUILT_IN, VARIABLE};

use crate::{
    codes,
    problem::{Outcome, Problem},
};

/// What `--version` says.
pub(crate) const VERSION: &str = if BUILT_IN {
    concat!(env!("CARGO_PKG_VERSION"), " WITH PLANTED BUGS, for tests only")
} else {
    env!("CARGO_PKG_VERSION")
};

/// Switches on the bug that the environment names; looked at once, before the node starts. Without
/// the feature there is nothing to switch on, and the variable means nothing.
pub(crate) fn choose() -> Outcome<()> {
    if !BUILT_IN {
        return Ok(());
    }
    let Ok(name) = std::env::var(VARIABLE) else {
        tracing::error!(target: "swarmer::planted", "this build has known bugs that can be switched \
            on: it is for tests, and for nothing else");
        return Ok(());
    };
    let bug =
        name.parse().map_err(|why| Problem::new(codes::CONFIG, format!("{VARIABLE}: {why}")))?;
    planted::choose(bug);
    tracing::error!(target: "swarmer::planted", %bug, "THIS NODE HAS A KNOWN BUG, switched on by \
        {VARIABLE}: it is for tests, and will break its promises");
    Ok(())
}
