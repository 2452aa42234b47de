//! Brings what is here to what is wanted here, whenever that changes.

use std::{collections::HashSet, sync::Arc, time::Duration};

use swarmer_model::Digest;
use tokio_util::sync::CancellationToken;

use crate::functions::{
    FunctionManager,
    manager::Slot,
    wanted::{Need, wanted},
};

/// How often failures are tried again and load is told.
const TICK: Duration = Duration::from_secs(1);
/// How often it is looked at how calls went: a copy that fails is left alone by all soon after.
const PULSE: Duration = Duration::from_millis(200);
/// How often images that nobody wants are looked for: disk is the only thing they cost.
const PRUNE: Duration = Duration::from_secs(3600);
/// How long a version stays that was started here only because no placed node was ready.
const GUEST_STAY: Duration = Duration::from_secs(60);

impl FunctionManager {
    /// Runs until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut states = self.inner.deps.desired.subscribe();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pulses = tokio::time::interval(PULSE);
        pulses.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Not at the start, when what this node knows may be old.
        let mut prunes = tokio::time::interval_at(tokio::time::Instant::now() + PRUNE, PRUNE);
        prunes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Artifacts whose preparation was asked for; forgotten when no longer wanted, so that a
        // failed one is tried again only after a change or a restart, not every second.
        let mut asked: HashSet<Digest> = HashSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = states.changed() => if changed.is_err() { return },
                _ = pulses.tick() => {
                    self.feel_pulses().await;
                    continue;
                }
                _ = ticks.tick() => self.publish_load().await,
                _ = prunes.tick() => self.prune_images().await,
            }
            states.mark_unchanged();
            self.reconcile(&mut asked).await;
        }
    }

    /// Deletes the images of components that no version names any more. One that was wanted after
    /// all is compiled or fetched again.
    async fn prune_images(&self) {
        let desired = self.inner.deps.desired.current();
        let versions = desired.functions.values().flat_map(|e| &e.function.status.versions);
        let wanted: HashSet<Digest> = versions.map(|v| v.template.component).collect();
        let runtime = self.inner.deps.runtime.clone();
        let pruned = tokio::task::spawn_blocking(move || {
            runtime.prune_images(|digest| wanted.contains(digest))
        });
        if let Ok(images @ 1..) = pruned.await {
            tracing::info!(target: "swarmer::functions", images, "unused images are gone");
        }
    }

    async fn reconcile(&self, asked: &mut HashSet<Digest>) {
        let desired = self.inner.deps.desired.current();
        let wanted = wanted(&desired, self.inner.deps.node);
        let mut digests = HashSet::new();
        for (slot, need) in &wanted {
            let version = desired.functions.get(&slot.0).and_then(|e| e.function.version(slot.1));
            let Some(version) = version else { continue };
            digests.insert(version.template.component);
            match need {
                Need::Loaded => {
                    if self.ready(&slot.0, slot.1).is_none()
                        && !self.failed_lately(slot)
                        && self.accepts_work()
                    {
                        let (this, slot) = (self.clone(), slot.clone());
                        tokio::spawn(async move {
                            // What fails is kept and shown by `loaded`.
                            let _ = this.start(&slot.0, slot.1).await;
                        });
                    }
                }
                Need::Prepared => {
                    if asked.insert(version.template.component) {
                        let (this, digest) = (self.clone(), version.template.component);
                        tokio::spawn(async move {
                            if let Err(problem) = this.prepare(digest).await {
                                tracing::warn!(target: "swarmer::functions", %digest,
                                    code = problem.code.name, detail = %problem.detail,
                                    "a candidate cannot prepare a component");
                            }
                        });
                    }
                }
            }
        }
        asked.retain(|digest| digests.contains(digest));
        self.forget_failures(|slot| wanted.contains_key(slot));
        let mut ready = self.all_ready();
        ready.sort_by_key(|(_, loaded)| loaded.since);
        let here = ready.iter().filter(|(_, loaded)| !loaded.leaving);
        let guests = here.map(|((id, _), _)| Arc::clone(id));
        let crowded = self.room(&desired).crowded_out(guests);
        for (slot, loaded) in ready {
            let weighted = desired
                .functions
                .get(&slot.0)
                .is_some_and(|entry| entry.weights.iter().any(|(version, _)| *version == slot.1));
            let need = wanted.get(&slot);
            // A node that is no candidate may not have it: the version's regions may have changed.
            let guest = weighted
                && need == Some(&Need::Prepared)
                && loaded.since.elapsed() < GUEST_STAY
                && !crowded.contains(&slot.0);
            if need != Some(&Need::Loaded) && !guest && !loaded.leaving {
                // Calls are on their way to it, by nodes that have not heard yet.
                let lingers = need.is_some() || weighted;
                self.unload_soon(slot, lingers);
            }
        }
    }

    fn unload_soon(&self, slot: Slot, lingers: bool) {
        let this = self.clone();
        tokio::spawn(async move { this.unload(&slot, lingers).await });
    }
}
