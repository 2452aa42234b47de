//! The node's life: start, become a member, serve, drain, stop.

mod membership;
mod parts;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use swarmer_gossip::RecordUpdate;
use swarmer_mesh::{
    identity::{Identity, NodeKey, SystemClock},
    transport::{self, Dependencies, GossipSocket, Transport},
};
use swarmer_model::Coded as _;
use swarmer_runtime::{Runtime, WorkThreads};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{
        Context, Images, Replicator,
        admission::{PeerBook, settle},
        authority::HeldAuthority,
        capacity, collect,
        data_dir::DataDir,
        decisions::Decisions,
        encounters,
        health::Looks,
        identity::{Grant, KeptGrant, identity_problem},
        io_runtime::IoRuntime,
        leading, leases, members, placement,
        readiness::Readiness,
        streams::{Slots, Strangers, Streams},
        voting,
    },
    api::{self, OnceContext},
    artifacts::ArtifactStore,
    audit, codes,
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
        let dir = DataDir::open(&config.data_dir, &config.name)?;
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
        audit::init(dir.path(), &config.name, dir.meta().boot)?;
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
            None => Identity::outside(node, key.clone()),
        };
        let mut transport_config = transport::Config::new(config.listen, io.handle().clone());
        transport_config.data = work.handle().clone();
        transport_config.faults = config.allow_faults;
        transport_config.wire_max = config.wire_max;
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
        let strangers = Arc::new(Strangers { slots: Arc::clone(&slots), book: book.clone() });
        tokio::spawn(audit::follow_refusals(handle.clone(), shutdown.clone()));
        tokio::spawn(audit::keep(shutdown.clone()));
        let transport_over = io.spawn(transport.run(streams, strangers, shutdown.clone()));
        let api = Arc::new(OnceContext::default());
        // Off loopback the API shows the node's certificate, which only a member has.
        let api_listener = if config.api.ip().is_loopback() {
            let open = !config.access_control;
            tokio::spawn(api::serve(api_listener, Arc::clone(&api), None, open, shutdown.clone()));
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

    /// Serves as a member until `stop`, then drains.
    async fn serve(
        &mut self,
        grant: Grant,
        stop: &mut (impl Future<Output = ()> + Unpin),
    ) -> Outcome<()> {
        self.api.set_stage("starting as a member".to_owned());
        let node = self.dir.meta().node;
        let kept = KeptGrant::new(self.dir.path(), grant.clone());
        let authority = HeldAuthority::new(self.config.certificate_ttl);
        let (control, keeper) = self.open_control(&kept, &authority).await?;
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
            parts::runtime_config(self.dir.path(), &self.config)?,
            self.work.handle().clone(),
            Arc::clone(&egress) as Arc<dyn swarmer_runtime::Egress>,
            Arc::new(logs.clone()),
            Arc::new(images.clone()),
        )
        .map_err(|error| Problem::of(&error, "starting the runtime"))?;
        let functions = FunctionManager::new(functions::Deps {
            node,
            artifacts: artifacts.clone(),
            capacity: capacity::of_placement(capacity::capacity(&self.config)),
            fetch: Arc::new(replicator.clone()),
            runtime: runtime.handle(),
            desired: desired.clone(),
            gossip: gossip.clone(),
        });
        images.set_parts(functions.clone(), runtime.handle(), desired.clone());
        let catalog = Catalog::follow(gossip.clone(), &desired, self.shutdown.clone());
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
            run: rand::random(),
            name: self.config.name.clone(),
            cluster: grant.cluster,
            advertise: self.advertise,
            claim: self.config.place.clone(),
            seeds: self.config.join.clone(),
            looks: Looks::default(),
            data_dir: self.dir.path().to_owned(),
            allow_faults: self.config.allow_faults,
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
            founding_authority: grant.founding_authority()?,
            authority,
            decisions: Decisions::default(),
            started: Instant::now(),
            readiness: Readiness::default(),
        });
        let _ = self.slots.context.set(Arc::clone(&context));
        tokio::spawn(functions.clone().run(self.shutdown.clone()));
        let api_certificate = self.serve_api(&grant)?;
        self.keep_keys(&context, &kept, api_certificate)?;
        tokio::spawn(leading::tell(Arc::clone(&context), self.shutdown.clone()));
        tokio::spawn(placement::run(Arc::clone(&context), self.shutdown.clone()));
        tokio::spawn(leases::run(context.control.clone(), self.shutdown.clone()));
        tokio::spawn(keeper.clone().run(context.gossip.clone()));
        tokio::spawn(voting::run(
            Arc::clone(&context),
            keeper.clone(),
            self.config.voter_grace_ms,
            self.shutdown.clone(),
        ));
        tokio::spawn(collect::run(Arc::clone(&context), self.shutdown.clone()));
        tokio::spawn(Arc::clone(&context).introduce());
        let (dir, shutdown) = (self.dir.clone(), self.shutdown.clone());
        tokio::spawn(encounters::run(Arc::clone(&context), dir, shutdown));
        tokio::spawn(settle(
            self.book.clone(),
            control.clone(),
            desired.clone(),
            self.shutdown.clone(),
        ));
        tokio::spawn(members::notice_removal(
            self.transport.clone(),
            Arc::clone(&self.api),
            self.shutdown.clone(),
        ));
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

        let fatal = control.fatal();
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
        keeper.close().await;
        if let Err(error) = control.shutdown().await {
            tracing::warn!(target: "swarmer::node", %error, "the control state was not closed cleanly");
        }
        outcome
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
        if let Some(handle) = context.control.raft() {
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
}

fn internal(error: impl ToString) -> Problem {
    Problem::new(codes::INTERNAL, error.to_string())
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
