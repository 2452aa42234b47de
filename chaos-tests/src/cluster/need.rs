//! What faults need of the machine.

use std::{collections::BTreeSet, fs::File, path::Path};

use super::{clock, regions::Regions, site::Site};

/// Something that a fault needs and a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// A disk of its own for each node, which can lose power and become full.
    Disk,
    /// A library between each node and its disk.
    Shim,
    /// A switch of our own between the nodes.
    Switch,
    /// A wall clock of its own for each node.
    Clock,
}

/// What a cluster is fitted with.
#[derive(Debug, Clone, Default)]
pub struct Gear {
    /// For these faults.
    pub needs: BTreeSet<Need>,
    /// The seed of what the wires do to each packet.
    pub seed: u64,
    /// So many of the nodes, the first ones, begin as if they were of an older binary.
    pub old: usize,
    /// So many of the nodes, the last ones, do not found the cluster but join it once it stands.
    pub joiners: usize,
    /// Whether there are places for strangers in their network.
    pub stranger: bool,
    /// Where the nodes stand; none: all in one place, with nothing between them.
    pub regions: Option<Regions>,
    /// Where each node stands and what it can hold; empty: nothing is said of it.
    pub sites: &'static [Site],
}

impl Need {
    /// What the machine lacks for it, each with how to come by it; empty if it lacks nothing.
    pub fn lacking(self) -> Vec<String> {
        match self {
            Self::Disk => {
                let mut lacking = lacking_tools(&[
                    ("mkfs.xfs", "xfsprogs"),
                    ("xfs_io", "xfsprogs"),
                    ("mount", "mount"),
                    ("umount", "mount"),
                ]);
                if !Path::new("/dev/loop-control").exists() {
                    lacking.push("/dev/loop-control: a kernel with loop devices".to_owned());
                }
                lacking
            }
            Self::Shim => lacking_tools(&[("cc", "gcc")]),
            Self::Switch => match File::open("/dev/net/tun") {
                Ok(_) => Vec::new(),
                Err(error) => vec![format!("/dev/net/tun ({error}): a kernel with TUN devices")],
            },
            Self::Clock => {
                let mut lacking = lacking_tools(&[("mount", "mount")]);
                if clock::library().is_none() {
                    lacking.push("libfaketime: apt-get install faketime".to_owned());
                }
                lacking
            }
        }
    }
}

/// What every run needs and is not there, each with how to come by it; empty if all is.
pub fn missing_tools() -> Vec<String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root: network namespaces and packet filters need it".to_owned());
    }
    missing.extend(lacking_tools(&[
        ("ip", "iproute2"),
        ("nft", "nftables"),
        ("unshare", "util-linux"),
        ("nsenter", "util-linux"),
    ]));
    missing
}

/// Of these tools, each with its package, those that are not there.
fn lacking_tools(tools: &[(&str, &str)]) -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |tool: &str| {
        let folders = std::env::split_paths(&path);
        folders.chain(["/usr/sbin".into(), "/sbin".into()]).any(|at| at.join(tool).is_file())
    };
    let lacking = tools.iter().filter(|(tool, _)| !there(tool));
    lacking.map(|(tool, package)| format!("{tool}: apt-get install {package}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_is_not_there_is_told_with_its_package() {
        assert_eq!(lacking_tools(&[("sh", "dash")]), Vec::<String>::new());
        let told = lacking_tools(&[("no-such-tool", "nowhere"), ("sh", "dash")]);
        assert_eq!(told, ["no-such-tool: apt-get install nowhere"]);
    }
}
