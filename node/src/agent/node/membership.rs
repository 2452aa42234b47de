//! How a node becomes a member, or finds that it is one.

use std::{os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use swarmer_mesh::founding::{Founder, FoundingToken, JoinToken};
use swarmer_model::DEFAULT_REGION;
use tokio::sync::mpsc;

use super::Agent;
use crate::{
    agent::{
        founding::{FoundingDriver, config_of},
        identity::{Grant, identity_problem},
        join::{self, JoinRequest},
    },
    codes,
    problem::{Outcome, Problem},
};

/// Founding links that wait to be taken.
const FOUND_QUEUE: usize = 16;

impl Agent {
    /// The membership that was kept, or the one that founding or joining gives.
    pub(super) async fn membership(&mut self) -> Outcome<Grant> {
        let node = self.dir.meta().node;
        let token = self.token_text()?;
        if let Some(grant) = Grant::load(self.dir.path())? {
            if let Some(token) = &token {
                grant.check_token(self.dir.path(), token)?;
            }
            // A maker goes on answering founders that were away; a join token is of no use here.
            if grant.maker
                && let Some(Ok(token)) = token.as_deref().map(str::parse::<FoundingToken>)
                && token.cluster == grant.cluster
            {
                let driver = self.founding_driver(token)?;
                self.serve_founders(driver);
            }
            return Ok(grant);
        }
        let Some(text) = token else {
            let why = format!("{} is no member's directory yet", self.dir.path().display());
            return Err(Problem::new(codes::NO_TOKEN, why));
        };
        let stage = self.stage();
        let grant = if text.starts_with("swf1.") {
            let token: FoundingToken =
                text.parse().map_err(|error: swarmer_mesh::founding::TokenError| {
                    Problem::new(codes::TOKEN, error.to_string())
                })?;
            let mut driver = self.founding_driver(token)?;
            let grant = driver.until_granted(stage).await?;
            self.become_member(&grant)?;
            if grant.maker {
                self.serve_founders(driver);
            }
            grant
        } else {
            let token: JoinToken =
                text.parse().map_err(|error: swarmer_mesh::founding::TokenError| {
                    Problem::new(codes::TOKEN, error.to_string())
                })?;
            let request = JoinRequest::new(&token, &self.key, node, &self.config, self.advertise);
            let grant =
                join::join(&self.transport, &token, &request, &self.config.join, stage).await?;
            grant.save(self.dir.path())?;
            self.become_member(&grant)?;
            grant
        };
        Ok(grant)
    }

    fn stage(&self) -> impl Fn(String) + use<> {
        let api = Arc::clone(&self.api);
        move |stage| api.set_stage(stage)
    }

    fn become_member(&mut self, grant: &Grant) -> Outcome<()> {
        let node = self.dir.meta().node;
        self.book.set_first(&grant.peers, &grant.voters);
        let identity = grant.identity(node, &self.key)?;
        self.transport.set_identity(identity).map_err(|error| identity_problem(&error))?;
        self.dir.update(|meta| meta.cluster = Some(grant.cluster))
    }

    fn token_text(&self) -> Outcome<Option<String>> {
        let Some(path) = &self.config.token_file else { return Ok(None) };
        let text = std::fs::read_to_string(path).map_err(|error| {
            Problem::new(codes::CONFIG, format!("--token-file {}: {error}", path.display()))
        })?;
        warn_of_readers(path);
        Ok(Some(text.trim().to_owned()))
    }

    fn founding_driver(&self, token: FoundingToken) -> Outcome<FoundingDriver> {
        let claim = self.config.place.clone();
        let me = Founder {
            node: self.dir.meta().node,
            spki: self.key.spki(),
            name: self.config.name.clone(),
            advertise: self.advertise.to_string(),
            region: claim.region.unwrap_or_else(|| DEFAULT_REGION.to_owned()),
            zone: claim.zone.unwrap_or_default(),
            labels: claim.labels,
        };
        let (sender, accepted) = mpsc::channel(FOUND_QUEUE);
        let _ = self.slots.founders.set(sender);
        FoundingDriver::new(
            config_of(token, self.config.bootstrap_expect, me),
            self.dir.path(),
            self.transport.clone(),
            self.config.join.clone(),
            accepted,
        )
    }

    /// Lets the other founders come for their part.
    fn serve_founders(&self, driver: FoundingDriver) {
        let (over, shutdown) = (self.slots.founding_over.clone(), self.shutdown.clone());
        tokio::spawn(async move { over.run_until_cancelled(driver.serve(shutdown)).await });
    }
}

/// Says so when others than its owner may read a token: who reads it may join, or found.
fn warn_of_readers(path: &Path) {
    const OTHERS: u32 = 0o077;
    let mode = std::fs::metadata(path).map(|meta| meta.permissions().mode());
    if let Ok(mode) = mode.map(|mode| mode & 0o777)
        && mode & OTHERS != 0
    {
        tracing::warn!(target: "swarmer::node", path = %path.display(), mode = format!("{mode:o}"),
            "others than its owner may use the token file; `chmod 600` it");
    }
}
