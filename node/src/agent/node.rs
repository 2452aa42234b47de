//! The node's life: start, become a member, serve, drain, stop.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use swarmer_gossip::{Facts, Gossip, Load, RecordUpdate};
use swarmer_mesh::{
    founding::{Founder, FoundingToken, JoinToken},
    identity::{Identity, NodeKey, SystemClock},
    transport::{self, Dependencies, GossipSocket, Transport},
};
use swarmer_model::{Coded as _, DEFAULT_REGION};
use swarmer_raft::{FeedSigner, FeedTrust, Follower, Raft, RaftError, disk::RealDisk};
use swarmer_runtime::{Runtime, WorkThreads};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{
        Context, Control, Images, Replicator,
        admission::{PeerBook, SigningKey},
        api_tls::ApiCertificate,
        authority::NodeAuthority,
        bootstrap::bootstrap,
        data_dir::{DataDir, write_bytes},
        founding::{FoundingDriver, config_of},
        gossip,
        identity::{Grant, identity_problem},
        io_runtime::IoRuntime,
        join::{self, JoinRequest},
        members, placement,
        raft_transport::RaftTransport,
        renew,
        streams::{Slots, Strangers, Streams, follow},
    },
    api::{self, OnceContext},
    artifacts::ArtifactStore,
    codes,
    config::NodeConfig,
    desired::DesiredStore,
    dispatch::{Catalog, Dispatcher, MeshEgress},
    functions::{self, FunctionManager, LogBook},
    ingress::Ingress,
    problem::{Outcome, Problem, chain},
};

/// How long others get to notice that this node drains, before it stops taking requests.
const DRAIN_NOTICE: Duration = Duration::from_millis(300);
/// How long functions may take to finish what they have.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long handing over the leadership may take.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(2);
/// Founding links that wait to be taken.
const FOUND_QUEUE: usize = 16;

/// A node that is starting or running.
pub(crate) struct Agent {
    config: NodeConfig,
    dir: DataDir,
    key: NodeKey,
    io: IoRuntime,
    work: WorkThreads,
    book: PeerBook,
    slots: Arc<Slots>,
    transport: transport::Handle,
    gossip_socket: GossipSocket,
    advertise: SocketAddr,
    /// The ingress' listener until it serves.
    http: Option<std::net::TcpListener>,
    api: Arc<OnceContext>,
    /// The API's listener until it serves, where it needs TLS.
    api_listener: Option<TcpListener>,
    /// Ends everything.
    shutdown: CancellationToken,
    transport_over: tokio::task::JoinHandle<()>,
}

impl Agent {
    /// Takes ports and data directory, and answers health checks from now on.
    pub(crate) async fn start(config: NodeConfig) -> Outcome<Self> {
        let mut dir = DataDir::open(&config.data_dir, &config.name)?;
        let key = NodeKey::load_or_generate(&dir.path().join("node.key"))
            .map_err(|error| identity_problem(&error))?;
        let grant = Grant::load(dir.path())?;
        if let Some(grant) = &grant {
            grant.check_owner(&dir, &key)?;
        }
        if let (Some(grant), None) = (&grant, dir.meta().cluster) {
            let cluster = grant.cluster;
            dir.update(|meta| meta.cluster = Some(cluster))?;
        }
        let node = dir.meta().node;
        let http = Some(bind(config.http, "--http").await?.into_std().map_err(internal)?);
        let api_listener = bind(config.api, "--api").await?;
        let io = IoRuntime::new()?;
        let work = WorkThreads::start().map_err(|error| Problem::of(&error, "starting threads"))?;
        let book = PeerBook::default();
        let identity = match &grant {
            Some(grant) => {
                book.set_first(&grant.peers, &grant.voters);
                grant.identity(node, &key)?
            }
            None => Identity::founding(node, key.clone()),
        };
        let mut transport_config = transport::Config::new(config.listen, io.handle().clone());
        transport_config.data = work.handle().clone();
        let dependencies = Dependencies {
            admission: Arc::new(book.clone()),
            addresses: Arc::new(book.clone()),
            clock: Arc::new(SystemClock),
        };
        let (transport, handle, gossip_socket) =
            Transport::build(transport_config, identity, dependencies)
                .map_err(|error| bind_problem(&error, config.listen))?;
        let bound = handle
            .local_addr()
            .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
        let advertise = config.advertise_address(bound);
        let slots = Arc::new(Slots::default());
        let shutdown = CancellationToken::new();
        let streams = Arc::new(Streams { slots: Arc::clone(&slots), book: book.clone() });
        let strangers = Arc::new(Strangers { slots: Arc::clone(&slots) });
        let transport_over = io.spawn(transport.run(streams, strangers, shutdown.clone()));
        let api = Arc::new(OnceContext::default());
        // Off loopback the API shows the node's certificate, which only a member has.
        let api_listener = if config.api.ip().is_loopback() {
            tokio::spawn(api::serve(api_listener, Arc::clone(&api), None, true, shutdown.clone()));
            None
        } else {
            Some(api_listener)
        };
        tracing::info!(target: "swarmer::node", node = %node, name = config.name, boot = dir.meta().boot,
            listen = %bound, advertise = %advertise, "the node starts");
        Ok(Self {
            config,
            dir,
            key,
            io,
            work,
            book,
            slots,
            transport: handle,
            gossip_socket,
            advertise,
            http,
            api,
            api_listener,
            shutdown,
            transport_over,
        })
    }

    /// Becomes a member if it is none yet, and serves until it is told to stop.
    pub(crate) async fn run(mut self) -> Outcome<()> {
        let stop = stop_signal()?;
        tokio::pin!(stop);
        let outcome = tokio::select! {
            () = &mut stop => Ok(None),
            outcome = self.membership() => outcome.map(Some),
        };
        let outcome = match outcome {
            Ok(Some(grant)) => self.serve(grant, &mut stop).await,
            Ok(None) => Ok(()),
            Err(problem) => Err(problem),
        };
        self.shutdown.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(3), &mut self.transport_over).await;
        outcome
    }

    /// The membership that was kept, or the one that founding or joining gives.
    async fn membership(&mut self) -> Outcome<Grant> {
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
                self.serve_founders(driver)?;
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
                self.serve_founders(driver)?;
            }
            grant
        } else {
            let token: JoinToken =
                text.parse().map_err(|error: swarmer_mesh::founding::TokenError| {
                    Problem::new(codes::TOKEN, error.to_string())
                })?;
            let identity = Identity::joining(node, self.key.clone());
            self.transport.set_identity(identity).map_err(|error| identity_problem(&error))?;
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
    fn serve_founders(&self, driver: FoundingDriver) -> Outcome<()> {
        let identity = self.transport.identity().with_found(true);
        self.transport.set_identity(identity).map_err(|error| identity_problem(&error))?;
        tokio::spawn(driver.serve(self.shutdown.clone()));
        Ok(())
    }

    /// Serves as a member until `stop`, then drains.
    async fn serve(
        &mut self,
        grant: Grant,
        stop: &mut (impl Future<Output = ()> + Unpin),
    ) -> Outcome<()> {
        self.api.set_stage("starting as a member".to_owned());
        write_bytes(&self.dir.path().join("ca.pem"), grant.ca_pem().as_bytes())?;
        let node = self.dir.meta().node;
        let control = self.open_control(&grant).await?;
        let desired = DesiredStore::follow(&control.view(), self.shutdown.clone());
        self.book.set_desired(desired.clone(), control.clone());
        let gossip = self.start_gossip(&grant, &control)?;
        self.book.set_members(gossip.subscribe());
        let artifacts =
            ArtifactStore::open(self.dir.path().join("artifacts"), self.config.max_component)
                .await?;
        let replicator = Replicator::new(node, artifacts.clone(), self.transport.clone());
        replicator.set_members(gossip.subscribe());
        let images = Images::new(node, self.transport.clone(), replicator.clone());
        let egress = MeshEgress::new(grant.cluster)?;
        let logs = LogBook::new(self.dir.meta().boot);
        let runtime = Runtime::build(
            runtime_config(self.dir.path(), &self.config)?,
            self.work.handle().clone(),
            Arc::clone(&egress) as Arc<dyn swarmer_runtime::Egress>,
            Arc::new(logs.clone()),
            Arc::new(images.clone()),
        )
        .map_err(|error| Problem::of(&error, "starting the runtime"))?;
        let functions = FunctionManager::new(functions::Deps {
            node,
            artifacts: artifacts.clone(),
            fetch: Arc::new(replicator.clone()),
            runtime: runtime.handle(),
            desired: desired.clone(),
            gossip: gossip.clone(),
        });
        images.set_parts(functions.clone(), runtime.handle(), desired.clone());
        let catalog = Catalog::follow(gossip.subscribe(), &desired, self.shutdown.clone());
        let dispatcher = Dispatcher::new(crate::dispatch::Deps {
            node,
            cluster: grant.cluster,
            name: self.config.name.clone(),
            desired: desired.clone(),
            catalog: catalog.clone(),
            functions: functions.clone(),
            transport: self.transport.clone(),
        });
        egress.set_dispatcher(dispatcher.clone());
        let context = Arc::new(Context {
            node,
            name: self.config.name.clone(),
            cluster: grant.cluster,
            advertise: self.advertise,
            claim: self.config.place.clone(),
            seeds: self.config.join.clone(),
            data_dir: self.dir.path().to_owned(),
            control: control.clone(),
            desired: desired.clone(),
            gossip: gossip.clone(),
            transport: self.transport.clone(),
            runtime: runtime.handle(),
            catalog,
            functions: functions.clone(),
            dispatcher: dispatcher.clone(),
            artifacts,
            replicator,
            images,
            logs,
            ca_fingerprint: fingerprint(&grant)?,
            authority: NodeAuthority::from_grant(&grant)?.map(Arc::new),
            started: Instant::now(),
        });
        let _ = self.slots.context.set(Arc::clone(&context));
        tokio::spawn(functions.clone().run(self.shutdown.clone()));
        let api_certificate = self.serve_api(&grant)?;
        tokio::spawn(renew::run(
            Arc::clone(&context),
            grant.clone(),
            self.key.clone(),
            self.dir.path().to_owned(),
            api_certificate,
            self.shutdown.clone(),
        ));
        if matches!(control, Control::Voter(_)) {
            tokio::spawn(placement::run(Arc::clone(&context), self.shutdown.clone()));
        }
        tokio::spawn(members::run(Arc::clone(&context), self.book.clone(), self.shutdown.clone()));
        let taking = self.shutdown.child_token();
        let listener = self.http.take().ok_or_else(|| internal("the ingress serves already"))?;
        let listener = {
            // Its sockets belong to the threads that serve the requests.
            let _work = self.work.handle().enter();
            TcpListener::from_std(listener).map_err(internal)?
        };
        let ingress = Ingress { listener, dispatcher, node: self.config.name.as_str().into() };
        let ingress = self.work.handle().spawn(ingress.run(taking.clone()));
        self.api.set(Arc::clone(&context));
        tracing::info!(target: "swarmer::node", cluster = %grant.cluster, "the node is a member");

        let fatal = fatal(&control);
        tokio::pin!(fatal);
        let outcome = tokio::select! {
            () = stop => Ok(()),
            error = &mut fatal => Err(Problem::new(
                error.code(),
                format!("the control state can no longer be kept: {}", chain(&error)),
            )),
        };
        if outcome.is_ok() {
            self.drain(&context, &taking, ingress).await;
        }
        runtime.shutdown(if outcome.is_ok() { DRAIN_PATIENCE } else { Duration::ZERO }).await;
        let stopped = match &control {
            Control::Voter(handle) => handle.shutdown().await,
            Control::Follower { follower, .. } => follower.shutdown().await,
        };
        if let Err(error) = stopped {
            tracing::warn!(target: "swarmer::node", %error, "the control state was not closed cleanly");
        }
        outcome
    }

    /// Serves the API with TLS and tokens, where it is reached from other machines.
    fn serve_api(&mut self, grant: &Grant) -> Outcome<Option<ApiCertificate>> {
        let Some(listener) = self.api_listener.take() else { return Ok(None) };
        let certificate = ApiCertificate::new(grant, &self.key)?;
        let tls = Some(certificate.server_config()?);
        let (api, shutdown) = (Arc::clone(&self.api), self.shutdown.clone());
        tokio::spawn(api::serve(listener, api, tls, false, shutdown));
        Ok(Some(certificate))
    }

    async fn drain(
        &self,
        context: &Context,
        taking: &CancellationToken,
        ingress: tokio::task::JoinHandle<()>,
    ) {
        tracing::info!(target: "swarmer::node", "draining");
        self.api.set_stage("draining".to_owned());
        context.functions.drain();
        let _ = context.gossip.publish(RecordUpdate::Draining(true)).await;
        if let Control::Voter(handle) = &context.control {
            let status = handle.status();
            if status.leader == Some(context.node) {
                let members = context.gossip.members();
                let next = status.voters.iter().find(|voter| {
                    **voter != context.node
                        && members.iter().any(|m| m.node == **voter && m.state.is_active())
                });
                if let Some(next) = next
                    && let Err(error) = handle.transfer_leader(*next, TRANSFER_DEADLINE).await
                {
                    tracing::warn!(target: "swarmer::node", %error, "the leadership was not handed over");
                }
            }
        }
        tokio::time::sleep(DRAIN_NOTICE).await;
        taking.cancel();
        let _ = ingress.await;
    }

    async fn open_control(&self, grant: &Grant) -> Outcome<Control> {
        let node = self.dir.meta().node;
        let dir = self.dir.path().join("raft");
        let disk = Arc::new(RealDisk);
        let transport = Arc::new(RaftTransport(self.transport.clone()));
        if grant.is_voter(node) {
            let config = swarmer_raft::Config::new(node, dir);
            // Raft lives on the threads of the connections, not on those of requests.
            let opened = self.io.spawn(Raft::open(config, disk, transport)).await;
            let raft = joined(opened)?
                .map_err(|error| Problem::of(&error, "opening the control state"))?;
            let handle = raft.handle();
            let signer = FeedSigner {
                cluster: grant.cluster,
                node,
                boot: self.dir.meta().boot,
                key: Arc::new(SigningKey(self.key.clone())),
            };
            let _ = self.slots.feed_signer.set(signer);
            let _ = self.slots.raft.set(handle.clone());
            if grant.maker {
                let (handle, grant) = (handle.clone(), grant.clone());
                let dir = self.dir.path().to_owned();
                self.io.spawn(async move {
                    if let Err(problem) = bootstrap(&handle, &grant, &dir).await {
                        tracing::error!(target: "swarmer::founding", detail = %problem.detail,
                            "the first state cannot be made");
                    }
                });
            }
            return Ok(Control::Voter(handle));
        }
        let trust = FeedTrust { cluster: grant.cluster, voters: Arc::new(self.book.clone()) };
        let opening = async move { Follower::open(node, &dir, disk, trust).await };
        let opened = self.io.spawn(opening).await;
        let follower =
            joined(opened)?.map_err(|error| Problem::of(&error, "opening the control state"))?;
        let client = swarmer_raft::Client::new(
            node,
            transport,
            follower.subscribe_status(),
            follower.view(),
            grant.voters.iter().copied().collect(),
        );
        let control = Control::Follower { follower: follower.clone(), client };
        self.io.spawn(follow(
            follower,
            control.clone(),
            self.transport.clone(),
            grant.voters.clone(),
            self.shutdown.clone(),
        ));
        Ok(control)
    }

    fn start_gossip(
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
        let facts = Facts {
            name: self.config.name.clone(),
            addresses: vec![self.advertise],
            wire_min: u16::from(swarmer_mesh::stream::OLDEST_STREAM_VERSION),
            wire_max: u16::from(swarmer_mesh::stream::STREAM_VERSION),
            ingress: Some(SocketAddr::new(self.advertise.ip(), self.config.http.port())),
            voter: matches!(control, Control::Voter(_)),
            draining: false,
            load: Load::default(),
            endpoints: Vec::new(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let config = swarmer_gossip::Config {
            cluster: grant.cluster,
            node,
            boot: self.dir.meta().boot,
            advertise: self.advertise,
            seeds,
            keyring: grant.keyring()?,
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

fn internal(error: impl ToString) -> Problem {
    Problem::new(codes::INTERNAL, error.to_string())
}

fn joined<T>(outcome: Result<T, tokio::task::JoinError>) -> Outcome<T> {
    outcome.map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))
}

/// Ends when the control state can no longer be kept.
async fn fatal(control: &Control) -> RaftError {
    match control {
        Control::Voter(handle) => handle.fatal().await,
        Control::Follower { follower, .. } => follower.fatal().await,
    }
}

fn fingerprint(grant: &Grant) -> Outcome<swarmer_mesh::identity::Fingerprint> {
    let bundle = grant.bundle()?;
    let first = bundle.fingerprints().next();
    first.ok_or_else(|| Problem::new(codes::INTERNAL, "the trust bundle is empty"))
}

fn runtime_config(dir: &Path, config: &NodeConfig) -> Outcome<swarmer_runtime::Config> {
    let program = std::env::current_exe().map_err(|error| {
        Problem::new(codes::INTERNAL, format!("this program's own path: {error}"))
    })?;
    let mut runtime = swarmer_runtime::Config::new(PathBuf::from(dir).join("images"));
    runtime.compile_command = Some(vec![program.into_os_string(), "__compile".into()]);
    runtime.compile.component_bytes = config.max_component.0;
    Ok(runtime)
}

async fn bind(address: SocketAddr, flag: &str) -> Outcome<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let code = if error.kind() == std::io::ErrorKind::AddrInUse {
            codes::PORT_IN_USE
        } else {
            codes::CONFIG
        };
        Problem::new(code, format!("{flag} {address}: {error}"))
    })
}

fn bind_problem(error: &transport::TransportError, address: SocketAddr) -> Problem {
    let text = chain(error);
    if text.contains("in use") {
        return Problem::new(codes::PORT_IN_USE, format!("--listen {address}: {text}"));
    }
    Problem::new(error.code(), text)
}

/// SIGTERM or Ctrl-C.
fn stop_signal() -> Outcome<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>> {
    let listen = |kind| signal(kind).map_err(|e| Problem::new(codes::INTERNAL, e.to_string()));
    let (mut terminate, mut interrupt) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(Box::pin(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }))
}
