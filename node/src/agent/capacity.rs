//! What this node can hold of functions.

use std::path::Path;

use swarmer_gossip::Capacity;

use crate::config::NodeConfig;

/// As it is configured; otherwise the memory of the machine, or of the process's cgroup if that has
/// less.
pub(crate) fn capacity(config: &NodeConfig) -> Capacity {
    let memory_bytes = config
        .capacity_memory
        .map(|memory| memory.0)
        .or_else(|| of_machine(Path::new("/")))
        .unwrap_or(u64::MAX);
    Capacity {
        functions: config.capacity_functions,
        memory_bytes,
        concurrency: config.capacity_concurrency,
    }
}

/// The same as placement reckons with it.
pub(crate) fn of_placement(told: Capacity) -> swarmer_scheduler::Capacity {
    let Capacity { functions, memory_bytes, concurrency } = told;
    swarmer_scheduler::Capacity { functions, memory_bytes, concurrency }
}

/// What files below this root say; `None` if none says anything.
fn of_machine(root: &Path) -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(root.join(path.trim_start_matches('/'))).ok();
    let machine = read("proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    });
    // cgroup v2: a limit above the own group binds as well.
    let group = read("proc/self/cgroup").and_then(|text| {
        let own = text.lines().find_map(|line| line.strip_prefix("0::"))?.to_owned();
        let limits = Path::new(&own).ancestors().filter_map(|group| {
            let path = format!("sys/fs/cgroup/{}/memory.max", group.display());
            read(&path.replace("//", "/"))?.trim().parse::<u64>().ok()
        });
        limits.min()
    });
    machine.into_iter().chain(group).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_least_limit_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!(of_machine(root), None);
        write(root, "proc/meminfo", "MemTotal:       16384 kB\nMemFree:  1 kB\n");
        assert_eq!(of_machine(root), Some(16 << 20));
        write(root, "proc/self/cgroup", "0::/system.slice/swarmer.service\n");
        write(root, "sys/fs/cgroup/system.slice/swarmer.service/memory.max", "max\n");
        assert_eq!(of_machine(root), Some(16 << 20));
        write(root, "sys/fs/cgroup/system.slice/memory.max", "1048576\n");
        assert_eq!(of_machine(root), Some(1 << 20));
        write(root, "proc/meminfo", "nothing that is understood\n");
        assert_eq!(of_machine(root), Some(1 << 20));
    }

    #[test]
    fn this_machine_has_some() {
        assert!(of_machine(Path::new("/")).is_some_and(|bytes| bytes > 1 << 20));
    }
}
