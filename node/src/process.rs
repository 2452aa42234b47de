//! Processes: ending together with the one that started us.

use rustix::process::{
    Pid, Signal, kill_process, kill_process_group, set_parent_process_death_signal,
};

use crate::{
    codes,
    problem::{Outcome, Problem},
};

/// Ends this process when its parent, which must be `parent`, ends, even by kill -9.
pub(crate) fn die_with_parent(parent: u32) -> Outcome<()> {
    let set = set_parent_process_death_signal(Some(Signal::KILL));
    // The parent may have ended before the setting was made.
    if set.is_err() || std::os::unix::process::parent_id() != parent {
        let why = format!("process {parent}, with which this node should end, is not its parent");
        return Err(Problem::new(codes::CONFIG, why));
    }
    Ok(())
}

/// Sends a signal to a process that this one started; one that is gone is not missed.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = started(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Sends a signal to the process group of a process that this one started as its first.
pub(crate) fn signal_group(leader: u32, signal: Signal) {
    if let Some(leader) = started(leader) {
        let _ = kill_process_group(leader, signal);
    }
}

/// The id of a process that somebody started: neither none nor the first of all.
fn started(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?).filter(|pid| !pid.is_init())
}

/// Whether a process is there and not a zombie.
pub(crate) fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z')
    })
}
