//! What a test may need of its machine.

use std::{
    env, fmt, fs,
    process::{Command, Stdio},
    str::FromStr,
    thread,
};

/// Something that a test may need and a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Capability {
    /// Effective user id 0.
    Root,
    /// May make network namespaces with `ip netns` and virtual links.
    NetNamespaces,
    /// May filter packets with `nft` in a network namespace of its own.
    Nftables,
    /// May make an XFS file system in a file and mount it.
    Xfs,
    /// May mount a tmpfs.
    Tmpfs,
    /// May make TUN devices.
    Tun,
    /// `faketime` shifts the wall clock of a child.
    Faketime,
    /// A C compiler, for preloaded fault shims.
    Cc,
    /// An address of this machine that IPv6 sockets can bind: `::1`.
    Ipv6,
}

impl Capability {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Root,
        Self::NetNamespaces,
        Self::Nftables,
        Self::Xfs,
        Self::Tmpfs,
        Self::Tun,
        Self::Faketime,
        Self::Cc,
        Self::Ipv6,
    ];

    /// Its name in skip lines and in `#[ignore = "needs <name>"]`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::NetNamespaces => "net-namespaces",
            Self::Nftables => "nftables",
            Self::Xfs => "xfs",
            Self::Tmpfs => "tmpfs",
            Self::Tun => "tun",
            Self::Faketime => "faketime",
            Self::Cc => "cc",
            Self::Ipv6 => "ipv6",
        }
    }

    /// How to come by it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Root => "run as root",
            Self::NetNamespaces => "run as root with CAP_SYS_ADMIN; apt-get install iproute2",
            Self::Nftables => "run as root; apt-get install nftables",
            Self::Xfs => "run as root with loop devices; apt-get install xfsprogs",
            Self::Tmpfs => "run as root with CAP_SYS_ADMIN",
            Self::Tun => "run as root with /dev/net/tun",
            Self::Faketime => "apt-get install faketime",
            Self::Cc => "apt-get install gcc",
            Self::Ipv6 => "enable IPv6 on the loopback device",
        }
    }

    /// Looks whether this machine has it, by trying. Leaves nothing behind.
    pub fn probe(self) -> bool {
        match self {
            Self::Root => is_root(),
            Self::NetNamespaces => {
                is_root() && tool("ip") && in_namespace("ip link add swk0 type veth peer name swk1")
            }
            Self::Nftables => {
                is_root() && tool("nft") && in_namespace("nft add table inet swarmer_probe")
            }
            Self::Xfs => is_root() && tool("mkfs.xfs") && makes_xfs(),
            Self::Tmpfs => {
                is_root() && runs("unshare", &["--mount", "mount", "-t", "tmpfs", "probe", "/mnt"])
            }
            Self::Tun => is_root() && fs::File::open("/dev/net/tun").is_ok(),
            Self::Faketime => runs("faketime", &["2030-01-01", "true"]),
            Self::Cc => runs("cc", &["--version"]),
            Self::Ipv6 => std::net::UdpSocket::bind(("::1", 0)).is_ok(),
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Capability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|known| known.name() == text).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|known| known.name()).collect();
            format!("{text:?} is no capability; there are {}", known.join(", "))
        })
    }
}

fn is_root() -> bool {
    // Uid: real, effective, saved, file system.
    fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1))
        == Some("0")
}

fn tool(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).is_file())
}

/// Makes one in a sparse file and mounts it in a mount namespace that ends with the command; the
/// loop device goes with the mount.
fn makes_xfs() -> bool {
    // The smallest that mkfs.xfs makes is 300 MiB.
    const BYTES: u64 = 320 << 20;
    let id = std::process::id();
    let file = env::temp_dir().join(format!("swarmer-probe-{id}-{:?}.xfs", thread::current().id()));
    let made = fs::File::create(&file).and_then(|file| file.set_len(BYTES)).is_ok();
    let script = "PATH=$PATH:/usr/sbin:/sbin; mkfs.xfs -q \"$1\" && mount -o loop \"$1\" /mnt";
    let path = file.to_string_lossy();
    let mounts = made && runs("unshare", &["--mount", "sh", "-c", script, "sh", &path]);
    // What is left is a file in the temporary folder; it does not change the answer.
    let _ = fs::remove_file(&file);
    mounts
}

fn in_namespace(command: &str) -> bool {
    runs("unshare", &["--net", "sh", "-c", command])
}

fn runs(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for capability in Capability::ALL {
            assert_eq!(capability.name().parse(), Ok(*capability));
        }
        assert!("gpu".parse::<Capability>().is_err_and(|text| text.contains("net-namespaces")));
    }

    #[test]
    fn probes_answer() {
        for capability in Capability::ALL {
            println!("{capability}: {}", capability.probe());
        }
        assert!(!runs("no-such-program", &[]));
        assert!(!tool("no-such-program"));
    }
}
