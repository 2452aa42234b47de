//! Deletes artifacts that nothing names any more, each node by itself.

use std::{collections::HashSet, sync::Arc, time::Duration};

use swarmer_model::Digest;
use tokio_util::sync::CancellationToken;

use crate::{agent::Context, desired::Desired};

/// How often a node looks: disk is the only thing that it costs.
const EVERY: Duration = Duration::from_secs(3600);
/// How long an artifact stays that nothing names: an upload may be named days of work later, and
/// a deleted function be brought back.
const GRACE: Duration = Duration::from_secs(24 * 3600);

/// Every component that some version names.
fn named(desired: &Desired) -> HashSet<Digest> {
    let versions = desired.functions.values().flat_map(|e| &e.function.status.versions);
    let kept = versions.map(|version| version.template.component);
    let wanted = desired.functions.values().map(|e| e.function.spec.template.component);
    kept.chain(wanted).collect()
}

/// Runs until `shutdown`.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        // Only by a copy of the state that is known to be fresh.
        let status = context.control.status();
        if context.not_ready().is_some() || !status.quorum_ok || status.lag > 0 {
            continue;
        }
        let named = named(&context.desired.current());
        match context.artifacts.collect(|digest| named.contains(digest), GRACE).await {
            Ok((0, _)) => {}
            Ok((artifacts, bytes)) => tracing::info!(target: "swarmer::artifact", artifacts, bytes,
                "artifacts that nothing names are gone"),
            Err(problem) => tracing::warn!(target: "swarmer::artifact", code = problem.code.name,
                detail = %problem.detail, "unused artifacts stay for now"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_model::{Function, Metadata};

    #[test]
    fn every_version_that_is_kept_is_named() {
        let mut first = Function::new(Metadata::named("f"), Digest::of(b"1"));
        first.succeed(None, &[], 0);
        let mut second = Function::new(Metadata::named("f"), Digest::of(b"2"));
        second.succeed(Some(&first), &[1], 1);
        let value = serde_json::to_vec(&second).unwrap();
        let change = [("functions/default/f", 1, Some(value.as_slice()))];
        let desired = Desired::default().apply(1, change);
        assert_eq!(named(&desired), HashSet::from([Digest::of(b"1"), Digest::of(b"2")]));
        assert!(named(&Desired::default()).is_empty());
    }
}
