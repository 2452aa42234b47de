//! What a node counts of packets that come to it.

use anyhow::{Result, bail};
use http::Method;

use super::PATIENCE;
use crate::cluster::Gateway;

/// Counts since the node's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Datagrams that are no QUIC.
    pub(super) came: u64,
    /// The same, sent.
    pub(super) sent: u64,
    /// Those of them that came and were refused.
    pub(super) refused: u64,
    /// Of these, for being another cluster's.
    pub(super) foreign: u64,
    /// Connections and streams that were refused.
    pub(super) connections: u64,
    /// Handshakes that were given up: too many, or too slow.
    pub(super) dropped: u64,
}

impl Counts {
    /// By the node's metrics.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) async fn of(gateway: &mut Gateway) -> Result<Self> {
        let reply = gateway.send(Method::GET, "/metrics", &[], "", PATIENCE).await;
        let Ok(reply) = reply else { bail!("no metrics: {reply:?}") };
        Ok(Self::read(&String::from_utf8_lossy(&reply.body)))
    }

    /// Records inside of a datagram have refusals of their own; those say nothing of the datagram.
    fn read(text: &str) -> Self {
        let mut counts = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            // Whole numbers, which the format writes as floats.
            let value = value.split('.').next().and_then(|whole| whole.parse().ok()).unwrap_or(0);
            match name {
                "swarmer_gossip_datagrams_in_total" => counts.came = value,
                "swarmer_gossip_datagrams_out_total" => counts.sent = value,
                "swarmer_transport_refused_total" => counts.connections = value,
                "swarmer_transport_dropped_total" => counts.dropped = value,
                _ if name.starts_with("swarmer_gossip_refused_total{") => {
                    counts.refused += if name.contains("-record") { 0 } else { value };
                    counts.foreign += if name.contains("foreign-cluster") { value } else { 0 };
                }
                _ => {}
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_and_their_refusals_are_counted_and_records_are_not() {
        let text = "# TYPE swarmer_gossip_refused_total counter\n\
            swarmer_gossip_datagrams_in_total 120\n\
            swarmer_gossip_datagrams_out_total 7\n\
            swarmer_gossip_refused_total{reason=\"replayed\"} 12\n\
            swarmer_gossip_refused_total{reason=\"old-boot\"} 3.0\n\
            swarmer_gossip_refused_total{reason=\"foreign-cluster\"} 2\n\
            swarmer_gossip_refused_total{reason=\"stale-record\"} 40\n\
            swarmer_transport_refused_total 5\n\
            swarmer_transport_dropped_total 6\n";
        let wanted =
            Counts { came: 120, sent: 7, refused: 17, foreign: 2, connections: 5, dropped: 6 };
        assert_eq!(Counts::read(text), wanted);
    }
}
