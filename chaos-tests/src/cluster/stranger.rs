//! Places in the nodes' network where no member is: one from which anything is sent, and one with a
//! node of another cluster.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;

use super::{
    binary::Binary,
    fittings::Fittings,
    gateway::{Gateway, Port},
    launch::{Launch, listen},
    machine::Cluster,
    network::Network,
    node::Node,
    tap::PORT,
};

/// How many places that are.
pub(super) const PLACES: usize = 2;
/// The name of the node of the other cluster.
const NAME: &str = "foreign";
/// How long one node may take to found a cluster, or to come back as a member of it.
const READY: Duration = Duration::from_secs(60);
/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// The node of the other cluster.
pub(super) struct Foreign {
    pub(super) node: Arc<Mutex<Node>>,
    /// From its next start on the members of our cluster are its seeds.
    meets: Arc<AtomicBool>,
}

impl Foreign {
    /// Not started yet; `place` is its number in the network, `seeds` are our members.
    ///
    /// # Errors
    /// Its token cannot be made.
    pub(super) fn new(
        binary: &Binary,
        place: usize,
        folder: PathBuf,
        seeds: &[String],
        fittings: Fittings,
    ) -> Result<Self> {
        let token = folder.join(format!("{NAME}.token"));
        std::fs::write(&token, binary.founding_token()?)?;
        let meets = Arc::new(AtomicBool::new(false));
        // It founds alone: with seeds it would be told that a cluster stands there, and end.
        let launch = |seeds: &[String]| Launch {
            binary: binary.clone(),
            token: token.clone(),
            seeds: seeds.to_vec(),
            expect: 1,
            regions: None,
            sites: &[],
        };
        let alone = launch(&[]).of(place, NAME, &fittings);
        let among = launch(seeds).of(place, NAME, &fittings);
        let told = Arc::clone(&meets);
        let start = Arc::new(move || if told.load(Ordering::Relaxed) { among() } else { alone() });
        let log = folder.join(format!("{NAME}.log"));
        let node = Node::new(NAME.to_owned(), log, fittings, start);
        Ok(Self { node: Arc::new(Mutex::new(node)), meets })
    }
}

impl Cluster {
    /// The place from which anything is sent, as a number in the network.
    fn nowhere(&self) -> usize {
        self.guest() + 1
    }

    /// The place of the node of another cluster.
    fn abroad(&self) -> usize {
        self.guest() + 2
    }

    /// All that can send to a node and is no stranger: the others, the guest, and the node of another
    /// cluster, if there is one.
    pub(super) fn others(&self, node: usize) -> impl Iterator<Item = usize> {
        let last = if self.foreign.is_some() { self.abroad() } else { self.guest() };
        let stranger = self.foreign.is_some().then_some(self.nowhere());
        (0..=last).filter(move |other| *other != node && Some(*other) != stranger)
    }

    /// Where a node listens for the others.
    pub fn door(node: usize) -> SocketAddr {
        (Network::address(node), PORT).into()
    }

    /// A socket where no member is. What is sent through it comes to the nodes by the same wires as
    /// what they send to each other.
    ///
    /// # Errors
    /// There is no such place in this cluster, or the socket's.
    pub async fn stranger_socket(&self) -> Result<UdpSocket> {
        if self.foreign.is_none() {
            bail!("this cluster has no place for strangers");
        }
        // The socket belongs to the namespace of the thread that opens it.
        let inside = self.network.inside(self.nowhere()).handle();
        let open = inside.spawn(async { UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) });
        let socket = open.await.context("the namespace is gone")??;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Lets one node found another cluster, and then look for members at our nodes' addresses.
    ///
    /// # Errors
    /// It does not come to be ready, or there is no place for it.
    pub async fn found_foreign(&self) -> Result<()> {
        let Some(foreign) = &self.foreign else { bail!("this cluster has no place for another") };
        self.start_foreign(foreign).await?;
        foreign.node.lock().ask_to_stop();
        let began = Instant::now();
        while foreign.node.lock().is_stopping() {
            if began.elapsed() > STOP {
                bail!("the node of the other cluster does not stop");
            }
            tokio::time::sleep(LOOK).await;
        }
        foreign.meets.store(true, Ordering::Relaxed);
        self.start_foreign(foreign).await
    }

    async fn start_foreign(&self, foreign: &Foreign) -> Result<()> {
        let node = Arc::clone(&foreign.node);
        let started = self.network.inside(self.abroad()).handle();
        let started = started.spawn(async move { node.lock().start() });
        started.await.context("the namespace is gone")??;
        let mut gateway = self.foreign_gateway();
        let began = Instant::now();
        loop {
            let reply = gateway.send(http::Method::GET, "/readyz", &[], "", LOOK).await;
            if reply.is_ok_and(|reply| reply.status == 200) {
                return Ok(());
            }
            if began.elapsed() > READY {
                let log = foreign.node.lock().log.clone();
                let log = std::fs::read_to_string(log).unwrap_or_default();
                let last = log.len().saturating_sub(2_000);
                let last = log.get(last..).unwrap_or(&log);
                bail!("the node of the other cluster is not ready after {READY:?}:\n{last}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A way to the API of the node of another cluster.
    pub fn foreign_gateway(&self) -> Gateway {
        let inside = self.network.inside(self.abroad()).handle().clone();
        Gateway::new(inside, Port::Api, NAME.into())
    }

    /// The seeds that lead to our members.
    pub(super) fn seeds(count: usize) -> Vec<String> {
        (0..count).map(listen).collect()
    }
}
