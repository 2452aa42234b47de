//! The cluster's authority on a voter: certificates for admitted keys, and nothing else.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::RwLock;
use swarmer_mesh::identity::Authority;
use swarmer_model::NodeId;
use swarmer_raft::View;

use crate::{
    agent::{
        identity::{Grant, KeptGrant, PeerInfo, identity_problem},
        keys::{Authorities, Ring, committed},
    },
    problem::Outcome,
};

/// Whom a certificate is for.
pub(crate) struct Subject<'a> {
    pub(crate) node: NodeId,
    pub(crate) spki: &'a [u8],
    pub(crate) name: &'a str,
    pub(crate) address: SocketAddr,
}

/// The names under which people reach a node's API.
pub(crate) fn api_names(name: &str, address: SocketAddr) -> Vec<String> {
    vec![name.to_owned(), address.ip().to_string(), "localhost".to_owned(), "127.0.0.1".to_owned()]
}

/// The authority with what new members are told.
pub(crate) struct NodeAuthority {
    authority: Authority,
    grant: Grant,
    /// How long its certificates live.
    ttl: Duration,
}

impl NodeAuthority {
    /// The authority that a grant holds, on a voter.
    pub(crate) fn from_grant(grant: &Grant, ttl: Duration) -> Outcome<Option<Self>> {
        let Some(pem) = &grant.ca_key_pem else { return Ok(None) };
        let authority = Authority::from_parts(pem, grant.ca.clone())
            .map_err(|error| identity_problem(&error))?;
        Ok(Some(Self { authority, grant: grant.clone(), ttl }))
    }

    /// How long its certificates live.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// A certificate over the key of an admitted node.
    pub(crate) fn issue(&self, subject: &Subject<'_>, now: SystemTime) -> Outcome<Vec<u8>> {
        let names = api_names(subject.name, subject.address);
        let Subject { node, spki, .. } = subject;
        let issued = self.authority.issue_named(*node, spki, &names, now, self.ttl);
        let certificate = issued.map_err(|error| identity_problem(&error))?;
        Ok(certificate.der().to_vec())
    }

    /// What a node gets that joins; `voters` are those of now, and so are the keys of gossip and the
    /// authorities of `view`, if any were committed.
    pub(crate) fn grant_for(
        &self,
        subject: &Subject<'_>,
        voters: Vec<PeerInfo>,
        view: &View,
        now: SystemTime,
    ) -> Outcome<Grant> {
        let mut grant = Grant {
            certificate: self.issue(subject, now)?,
            ca_key_pem: None,
            next_ca: None,
            maker: false,
            witness: None,
            voters: voters.iter().map(|voter| voter.node).collect(),
            peers: voters,
            ..self.grant.clone()
        };
        if let Some((ring, _)) = committed::<Ring>(view)? {
            ring.put_into(&mut grant);
        }
        if let Some((authorities, _)) = committed::<Authorities>(view)? {
            authorities.put_into(&mut grant)?;
        }
        Ok(grant)
    }
}

/// The authority while this node holds it: it comes with a vote and goes with it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HeldAuthority {
    held: Arc<RwLock<Option<Arc<NodeAuthority>>>>,
    /// How long the certificates live that it issues.
    ttl: Duration,
}

impl HeldAuthority {
    /// Not held yet.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { held: Arc::default(), ttl }
    }

    /// Takes it from a grant that has it, or gives it up with one that has not.
    pub(crate) fn follow(&self, kept: &KeptGrant) -> Outcome<()> {
        // Read while nobody else takes another one: the last to come has the newest.
        let mut held = self.held.write();
        *held = NodeAuthority::from_grant(&kept.get(), self.ttl)?.map(Arc::new);
        Ok(())
    }

    pub(crate) fn get(&self) -> Option<Arc<NodeAuthority>> {
        self.held.read().clone()
    }
}
