//! The wires between the nodes, and what cuts them.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::mpsc};

use anyhow::{Context as _, Result};
use parking_lot::Mutex;

use super::{namespace::Namespace, switch::Switch, tun, wires::Wires};

/// The name of every node's device.
const DEVICE: &str = "eth0";

/// One namespace for each node, and what is between them.
#[derive(Debug)]
pub struct Network {
    nodes: Vec<Namespace>,
    between: Between,
}

#[derive(Debug)]
enum Between {
    /// The kernel's bridge, in a namespace of its own: fast.
    Bridge { _held: Namespace },
    /// Ours, which can delay, reorder, duplicate and slow down.
    Switch(Switch),
}

impl Network {
    /// Wires `count` nodes together by the kernel's bridge.
    ///
    /// # Errors
    /// What a tool said.
    pub fn new(count: usize) -> Result<Self> {
        let bridge = Namespace::new()?;
        bridge.run(&["ip", "link", "add", "br0", "type", "bridge"], "")?;
        bridge.run(&["ip", "link", "set", "br0", "up"], "")?;
        let mut nodes = Vec::new();
        for i in 0..count {
            let node = Namespace::new()?;
            let (port, pid) = (format!("v{i}"), node.pid().to_string());
            let link = ["ip", "link", "add", &port, "type", "veth", "peer", "name", DEVICE];
            bridge.run(&[&link[..], &["netns", &pid]].concat(), "")?;
            bridge.run(&["ip", "link", "set", &port, "master", "br0", "up"], "")?;
            up(&node, i)?;
            nodes.push(node);
        }
        Ok(Self { nodes, between: Between::Bridge { _held: bridge } })
    }

    /// Wires them together by a switch of our own.
    ///
    /// # Errors
    /// What a tool said, or there are no TUN devices.
    pub fn switched(count: usize, wires: Wires) -> Result<Self> {
        let (mut nodes, mut devices) = (Vec::new(), Vec::new());
        for i in 0..count {
            let node = Namespace::new()?;
            // A device is in the namespace of the thread that makes it.
            let (tell, told) = mpsc::sync_channel(1);
            node.handle().spawn(async move { drop(tell.send(tun::open(DEVICE))) });
            devices.push(told.recv().context("the namespace's thread ended")??);
            up(&node, i)?;
            nodes.push(node);
        }
        let node_of = |address: Ipv4Addr| match address.octets() {
            [10, 77, 0, last] => usize::from(last).checked_sub(1),
            _ => None,
        };
        Ok(Self { nodes, between: Between::Switch(Switch::start(devices, node_of, wires)?) })
    }

    /// The wires of our own switch.
    ///
    /// # Errors
    /// The kernel switches.
    pub fn wires(&self) -> Result<&Mutex<Wires>> {
        match &self.between {
            Between::Switch(switch) => Ok(switch.wires()),
            Between::Bridge { .. } => anyhow::bail!("the kernel switches for this cluster"),
        }
    }

    /// All wires are good again.
    pub(super) fn heal(&self) {
        if let Between::Switch(switch) = &self.between {
            switch.wires().lock().heal_all();
        }
    }

    /// The address of a node among the others.
    pub fn address(node: usize) -> Ipv4Addr {
        let last = u8::try_from(node + 1).unwrap_or(u8::MAX);
        Ipv4Addr::new(10, 77, 0, last)
    }

    /// The namespace of a node.
    pub fn inside(&self, node: usize) -> &Namespace {
        &self.nodes[node]
    }

    /// Drops what comes `.0` → `.1` at the receiver, and `loss` percent of everything else. It
    /// replaces what was dropped before, in one step at each node.
    ///
    /// # Errors
    /// What `nft` said.
    pub fn cut(&self, cuts: &BTreeSet<(usize, usize)>, loss: u8) -> Result<()> {
        for (at, node) in self.nodes.iter().enumerate() {
            let rules = rules(at, cuts, loss);
            node.run(&["nft", "-f", "-"], &rules).with_context(|| format!("at node {at}"))?;
        }
        Ok(())
    }
}

impl super::Cluster {
    /// The process that holds a node's network namespace: who enters it is on that node's machine.
    pub fn holder(&self, node: usize) -> u32 {
        self.network.inside(node).pid()
    }
}

/// The device of a node gets its address.
fn up(node: &Namespace, number: usize) -> Result<()> {
    let address = format!("{}/24", Network::address(number));
    node.run(&["ip", "addr", "add", &address, "dev", DEVICE], "")?;
    node.run(&["ip", "link", "set", DEVICE, "up"], "")?;
    node.run(&["ip", "link", "set", "lo", "up"], "")
}

/// What `nft` is told at one node. A drop on the way in: on the way out the sender would get an
/// error, which no partition gives.
fn rules(at: usize, cuts: &BTreeSet<(usize, usize)>, loss: u8) -> String {
    // Adding first makes the deletion succeed where there is no table yet.
    let mut text = "add table ip chaos\ndelete table ip chaos\n".to_owned();
    text.push_str("table ip chaos {\nchain in {\ntype filter hook input priority 0;\n");
    for (from, _) in cuts.iter().filter(|(_, to)| *to == at) {
        text.push_str(&format!("ip saddr {} drop\n", Network::address(*from)));
    }
    match loss {
        0 => {}
        1..=99 => {
            text.push_str(&format!("iifname \"eth0\" numgen random mod 100 < {loss} drop\n"));
        }
        _ => text.push_str("iifname \"eth0\" drop\n"),
    }
    text.push_str("}\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_drops_what_is_cut_on_its_way_in_and_nothing_else() {
        let cuts = BTreeSet::from([(0, 1), (2, 1), (1, 0)]);
        let text = rules(1, &cuts, 0);
        assert!(text.contains("10.77.0.1 drop") && text.contains("10.77.0.3 drop"), "{text}");
        assert!(!text.contains("10.77.0.2") && !text.contains("numgen"), "{text}");
        assert!(rules(2, &cuts, 7).contains("mod 100 < 7 drop"));
        assert!(!rules(2, &cuts, 7).contains("saddr"));
    }
}
