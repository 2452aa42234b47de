//! The parts of a member that take more than a line to start.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use swarmer_gossip::{Facts, Gossip, HeldKeys, Load};
use swarmer_model::wire;
use swarmer_raft::FeedSigner;
use tokio::sync::mpsc;

use super::Agent;
use crate::{
    agent::{
        Control,
        admission::SigningKey,
        api_tls::ApiCertificate,
        authority::HeldAuthority,
        bootstrap::bootstrap,
        capacity::capacity,
        context::Context,
        gossip,
        identity::{Grant, KeptGrant},
        keys::{self, Authorities, Ring, Rotated as _, TakeAuthorities, TakeRing},
        renew,
        shown::Shown,
        voting::{Keeper, KeeperDeps},
    },
    api, codes,
    config::NodeConfig,
    problem::{Outcome, Problem},
};

impl Agent {
    /// Serves the API with TLS and tokens, where it is reached from other machines.
    pub(super) fn serve_api(&mut self, grant: &Grant) -> Outcome<Option<ApiCertificate>> {
        let Some(listener) = self.api_listener.take() else { return Ok(None) };
        let certificate = ApiCertificate::new(grant, &self.key)?;
        let tls = Some(certificate.server_config()?);
        let (api, shutdown) = (Arc::clone(&self.api), self.shutdown.clone());
        tokio::spawn(api::serve(listener, api, tls, false, shutdown));
        Ok(Some(certificate))
    }

    /// Keeps all that this node is known by and knows others by, over time.
    pub(super) fn keep_keys(
        &self,
        context: &Arc<Context>,
        kept: &KeptGrant,
        api: Option<ApiCertificate>,
    ) -> Outcome<()> {
        let (key, transport) = (self.key.clone(), self.transport.clone());
        let shown = Shown::new(&self.dir, key.clone(), kept.clone(), transport, api);
        shown.show()?;
        let shutdown = || self.shutdown.clone();
        let (context, kept) = (|| Arc::clone(context), || kept.clone());
        tokio::spawn(keys::run::<Ring>(context(), kept(), shutdown()));
        tokio::spawn(keys::run::<Authorities>(context(), kept(), shutdown()));
        let (control, gossip) = (context().control.clone(), context().gossip.clone());
        let ring = TakeRing::new(kept(), gossip);
        tokio::spawn(keys::follow(control.clone(), self.book.clone(), ring, shutdown()));
        let authorities = TakeAuthorities {
            dir: self.dir.path().to_owned(),
            kept: kept(),
            shown: shown.clone(),
            authority: context().authority.clone(),
            founding_over: self.slots.founding_over.clone(),
        };
        tokio::spawn(keys::follow(control, self.book.clone(), authorities, shutdown()));
        tokio::spawn(keys::tell(context(), kept(), shown.clone(), shutdown()));
        tokio::spawn(renew::run(context(), kept(), key, shown, shutdown()));
        Ok(())
    }

    /// What this node says of the authorities as it starts.
    fn authority_word(&self, grant: &Grant, votes: bool) -> Outcome<HeldKeys> {
        let own = grant.identity(self.dir.meta().node, &self.key)?.membership;
        let all = Authorities::of(grant)?;
        Ok(own.map(|own| all.word_of(&own, grant, votes)).unwrap_or_default())
    }

    /// Opens the desired state, as what this node is to it.
    pub(super) async fn open_control(
        &self,
        grant: &KeptGrant,
        authority: &HeldAuthority,
    ) -> Outcome<(Control, Keeper)> {
        let (node, first) = (self.dir.meta().node, grant.get());
        authority.follow(grant)?;
        let signer = FeedSigner {
            cluster: first.cluster,
            node,
            boot: self.dir.meta().boot,
            key: Arc::new(SigningKey(self.key.clone())),
        };
        let _ = self.slots.feed_signer.set(signer);
        let keeper = Keeper::new(KeeperDeps {
            dir: self.dir.clone(),
            cluster: first.cluster,
            io: self.io.handle().clone(),
            transport: self.transport.clone(),
            slots: Arc::clone(&self.slots),
            book: self.book.clone(),
            grant: grant.clone(),
            authority: authority.clone(),
            snapshot_log: self.config.snapshot_log,
            log_keep: self.config.log_keep,
            shutdown: self.shutdown.clone(),
        });
        let control = keeper.open().await?;
        if let Some(handle) = control.raft().filter(|_| first.maker) {
            let (control, dir) = (control.clone(), self.dir.path().to_owned());
            self.io.spawn(async move {
                if let Err(problem) = bootstrap(&control, &handle, &first, &dir).await {
                    tracing::error!(target: "swarmer::founding", detail = %problem.detail,
                        "the first state cannot be made");
                }
            });
        }
        let _ = self.slots.keeper.set(keeper.clone());
        Ok((control, keeper))
    }

    pub(super) fn start_gossip(
        &mut self,
        grant: &Grant,
        control: &Control,
    ) -> Outcome<swarmer_gossip::Handle> {
        let node = self.dir.meta().node;
        let mut seeds = self.config.join.clone();
        for peer in &grant.peers {
            let address = peer.address.to_string();
            if peer.node != node
                && !seeds.contains(&address)
                && seeds.len() < swarmer_gossip::MAX_SEEDS
            {
                seeds.push(address);
            }
        }
        let own = self.advertise.to_string();
        seeds.retain(|seed| *seed != own);
        let voter = control.status().voters.contains(&node);
        let facts = Facts {
            name: self.config.name.clone(),
            addresses: vec![self.advertise],
            wire_min: wire::OLDEST.min(self.config.wire_max).into(),
            wire_max: self.config.wire_max.into(),
            ingress: Some(SocketAddr::new(self.advertise.ip(), self.config.http.port())),
            voter,
            draining: false,
            load: Load::default(),
            endpoints: Vec::new(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            authority: self.authority_word(grant, voter)?,
            capacity: capacity(&self.config),
            ..Facts::default()
        };
        let config = swarmer_gossip::Config {
            cluster: grant.cluster,
            node,
            boot: self.dir.meta().boot,
            advertise: self.advertise,
            seeds,
            keyring: Ring::of(grant)?.keyring()?,
            facts,
            members_file: Some(self.dir.path().join("members.bin")),
            timing: swarmer_gossip::Timing::default(),
        };
        let deps = gossip::deps(
            self.gossip_socket.sender(),
            self.transport.clone(),
            self.book.clone(),
            self.key.clone(),
        );
        let (gossip, handle) = Gossip::build(config, deps)
            .map_err(|error| Problem::of(&error, "starting membership"))?;
        let _ = self.slots.gossip.set(handle.clone());
        self.io.spawn(gossip.run(self.shutdown.clone()));
        let silence = gossip::look_into_silence(
            self.transport.clone(),
            handle.clone(),
            self.shutdown.clone(),
        );
        self.io.spawn(silence);
        let (_, empty) = mpsc::channel(1);
        let mut incoming = std::mem::replace(&mut self.gossip_socket.incoming, empty);
        let to = handle.clone();
        self.io.spawn(async move {
            while let Some((from, bytes)) = incoming.recv().await {
                to.datagram(from, bytes);
            }
        });
        Ok(handle)
    }
}

pub(super) fn runtime_config(dir: &Path, config: &NodeConfig) -> Outcome<swarmer_runtime::Config> {
    let program = std::env::current_exe().map_err(|error| {
        Problem::new(codes::INTERNAL, format!("this program's own path: {error}"))
    })?;
    let mut runtime = swarmer_runtime::Config::new(PathBuf::from(dir).join("images"));
    runtime.compile_command = Some(vec![program.into_os_string(), "__compile".into()]);
    runtime.compile.component_bytes = config.max_component.0;
    Ok(runtime)
}
