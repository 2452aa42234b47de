//! Setting the transport up, running and stopping it.

use std::{fmt, sync::Arc, time::Duration};

use futures::future::join_all;
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, Runtime as _};
use ring::hmac;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    AddressBook, JoinHandler, StreamHandler,
    accept::Acceptor,
    close::CloseCode,
    config::{Config, GOSSIP_QUEUE, MAX_UDP_PAYLOAD},
    error::TransportError,
    faults::{Faults, FaultySocket},
    gossip::{GossipSender, GossipSocket},
    handle::Handle,
    pulse,
    runtime::Threads,
    shared::{ServerConfigs, Shared, prepare},
    socket::{Counters, SharedSocket, bind},
    steer::Ids,
    vigil,
};
use crate::{
    identity::{Admission, Identity, NodeKey, WallClock},
    stream::Class,
};

/// For the last packets of a stop to go out.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// The two ends of QUIC on the port, each with a socket of its own (see [`super::steer`]). Which of
/// them a connection is on decides about the threads that drive it, and about nothing else.
pub(crate) struct Endpoints {
    control: Endpoint,
    data: Endpoint,
}

impl Endpoints {
    /// The one from which connections of a class are dialled.
    pub(crate) fn of(&self, class: Class) -> &Endpoint {
        match class {
            Class::Control => &self.control,
            Class::Data => &self.data,
        }
    }

    fn both(&self) -> [&Endpoint; 2] {
        [&self.control, &self.data]
    }

    /// What peers that dial from now on meet.
    pub(crate) fn set_server_config(&self, server: Option<ServerConfigs>) {
        let (control, data) = server.map(|server| (server.control, server.data)).unzip();
        self.control.set_server_config(control);
        self.data.set_server_config(data);
    }
}

/// What the transport asks others.
#[derive(Clone)]
pub struct Dependencies {
    /// Who may take part.
    pub admission: Arc<dyn Admission>,
    /// Where members are.
    pub addresses: Arc<dyn AddressBook>,
    /// What time it is.
    pub clock: Arc<dyn WallClock>,
}

impl fmt::Debug for Dependencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dependencies").finish_non_exhaustive()
    }
}

/// The accepting side of the transport; see the module.
pub struct Transport {
    shared: Arc<Shared>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

impl Transport {
    /// Binds the port. From now on the handle dials and gossip flows; peers are accepted once
    /// [`Self::run`] is called. May be called on any thread: all work is on the runtimes that
    /// the configuration names.
    ///
    /// # Errors
    /// The address cannot be had, or key and certificate do not fit together.
    pub fn build(
        config: Config,
        identity: Identity,
        dependencies: Dependencies,
    ) -> Result<(Self, Handle, GossipSocket), TransportError> {
        let Dependencies { admission, addresses, clock } = dependencies;
        let key = identity.key.clone();
        let (current, server) = prepare(&config, identity, 0, &clock, &admission)?;
        let failed = |source| TransportError::Bind { address: config.listen, source };
        let (io, calls) = (Threads(config.io.clone()), Threads(config.data.clone()));
        let (tell, incoming) = mpsc::channel(GOSSIP_QUEUE);
        let counters = Arc::new(Counters::default());
        let [control, data] = bind(config.listen).map_err(failed)?;
        let faults = config.faults.then(Arc::<Faults>::default);
        let faulty = |socket| FaultySocket::around(socket, faults.as_ref());
        let control = faulty(io.wrap_udp_socket(control).map_err(failed)?);
        let socket = SharedSocket::new(control, tell, counters.clone()).map_err(failed)?;
        let socket = Arc::new(socket);
        let data = faulty(calls.wrap_udp_socket(data).map_err(failed)?);
        let (for_control, for_data) = server.map(|server| (server.control, server.data)).unzip();
        let open = |class, server, socket: Arc<dyn AsyncUdpSocket>, threads| {
            let settings = endpoint_config(class, &key);
            Endpoint::new_with_abstract_socket(settings, server, socket, Arc::new(threads))
        };
        let endpoints = Endpoints {
            control: open(Class::Control, for_control, socket.clone(), io).map_err(failed)?,
            data: open(Class::Data, for_data, data, calls).map_err(failed)?,
        };
        let shared = Shared::new(config, endpoints, clock, admission, addresses, current, faults);
        let shared = Arc::new(shared);
        let sender = GossipSender { socket, counters };
        let gossip = GossipSocket { incoming, sender };
        Ok((Self { shared: shared.clone() }, Handle::new(shared), gossip))
    }

    /// Serves peers until `shutdown`, then stops: new streams are answered "not started",
    /// running handlers get [`Config::stop_grace`], then all is closed.
    pub async fn run(
        self,
        streams: Arc<dyn StreamHandler>,
        joins: Arc<dyn JoinHandler>,
        shutdown: CancellationToken,
    ) {
        let shared = self.shared;
        let tasks = TaskTracker::new();
        let kill = CancellationToken::new();
        let acceptor = Acceptor {
            shared: shared.clone(),
            streams,
            joins,
            tasks: tasks.clone(),
            kill: kill.clone(),
        };
        let (io, data) = (&shared.config.io, &shared.config.data);
        let accepting = [
            io.spawn(acceptor.clone().run(Class::Control, io.clone())),
            data.spawn(acceptor.run(Class::Data, data.clone())),
        ];
        let pulse = io.spawn(pulse::keep(Arc::downgrade(&shared)));
        if let Err(error) = vigil::keep(&shared) {
            tracing::error!(target: "swarmer::mesh", %error,
                "no thread for the vigil: a silent data connection is given up late");
        }
        shutdown.cancelled().await;
        shared.stopping.cancel();
        let _ = pulse.await;
        shared.endpoints.set_server_config(None);
        wait_for_handlers(&shared).await;
        kill.cancel();
        for endpoint in shared.endpoints.both() {
            endpoint.close(CloseCode::SHUTDOWN.var(), b"the node stops");
        }
        // Accept loops end with their endpoint, the connections' loops with their connections.
        let _ = timeout(CLOSE_GRACE, join_all(accepting)).await;
        tasks.close();
        let _ = timeout(CLOSE_GRACE, tasks.wait()).await;
        let idle = shared.endpoints.both().map(Endpoint::wait_idle);
        let _ = timeout(CLOSE_GRACE, join_all(idle)).await;
    }
}

fn endpoint_config(class: Class, key: &NodeKey) -> EndpointConfig {
    // The same for every run of the node, so that a peer whose connection was with the run before
    // is told so by a stateless reset (RFC 9000, section 10.3) with its next packet.
    let seed = hmac::Key::new(hmac::HMAC_SHA256, key.to_pem().as_bytes());
    let seed = hmac::sign(&seed, format!("stateless reset 1 {}", class.as_str()).as_bytes());
    let mut config =
        EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, seed.as_ref())));
    // Without it, QUIC packets of a peer could look like gossip.
    config.grease_quic_bit(false);
    config.cid_generator(move || Box::new(Ids(class)));
    config
        .max_udp_payload_size(MAX_UDP_PAYLOAD)
        .expect("the bound is between QUIC's 1,200 and 65,527 bytes");
    config
}

async fn wait_for_handlers(shared: &Shared) {
    /// Often enough that a stop without work is quick.
    const LOOK: Duration = Duration::from_millis(10);
    let done = async {
        while shared.registry.infos().iter().any(|connection| connection.streams > 0) {
            tokio::time::sleep(LOOK).await;
        }
    };
    let _ = timeout(shared.config.stop_grace, done).await;
}
