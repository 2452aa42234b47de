//! What this node shows of its membership, and whom it believes: to other nodes, to clients of the API,
//! and in the file that clients are given.

use std::{path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use swarmer_mesh::{identity::NodeKey, transport};
use swarmer_model::NodeId;
use tokio::sync::watch;

use crate::{
    agent::{
        api_tls::ApiCertificate,
        data_dir::{DataDir, write_bytes},
        identity::{Grant, KeptGrant, identity_problem},
    },
    problem::Outcome,
};

/// The file with the authorities that clients of the API trust.
const CA_FILE: &str = "ca.pem";

/// Brings what is kept before the eyes of others, wherever it was changed. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shown(Arc<Inner>);

struct Inner {
    node: NodeId,
    key: NodeKey,
    kept: KeptGrant,
    transport: transport::Handle,
    api: Option<ApiCertificate>,
    ca_file: PathBuf,
    /// What is shown; one changes it at a time, so that it never goes back.
    last: Mutex<Option<Grant>>,
    changes: watch::Sender<()>,
}

impl Shown {
    pub(crate) fn new(
        dir: &DataDir,
        key: NodeKey,
        kept: KeptGrant,
        transport: transport::Handle,
        api: Option<ApiCertificate>,
    ) -> Self {
        let (node, ca_file) = (dir.meta().node, dir.path().join(CA_FILE));
        let (last, (changes, _)) = (Mutex::default(), watch::channel(()));
        Self(Arc::new(Inner { node, key, kept, transport, api, ca_file, last, changes }))
    }

    /// Shows what is kept by now. Repeatable; after a failure part of it may be shown.
    pub(crate) fn show(&self) -> Outcome<()> {
        let shown = &*self.0;
        let mut last = shown.last.lock();
        let kept = shown.kept.get();
        let same = |last: &Grant| {
            last.certificate == kept.certificate
                && last.ca == kept.ca
                && last.authorities == kept.authorities
        };
        if last.as_ref().is_some_and(same) {
            return Ok(());
        }
        let identity = kept.identity(shown.node, &shown.key)?;
        shown.transport.set_identity(identity).map_err(|error| identity_problem(&error))?;
        if let Some(api) = &shown.api {
            api.renew(&kept, &shown.key)?;
        }
        write_bytes(&shown.ca_file, kept.ca_pem()?.as_bytes())?;
        *last = Some(kept);
        shown.changes.send_replace(());
        Ok(())
    }

    /// Tells that something else is shown.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }
}
