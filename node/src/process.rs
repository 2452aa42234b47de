//! Processes: ending together with the one that started us.

use crate::{
    codes,
    problem::{Outcome, Problem},
};

/// Ends this process when its parent, which must be `parent`, ends, even by kill -9.
#[expect(unsafe_code, reason = "the kernel offers this only by prctl")]
pub(crate) fn die_with_parent(parent: u32) -> Outcome<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and changes nothing but this process's own
    // setting; no memory is passed.
    let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // The parent may have ended before the setting was made.
    if set != 0 || std::os::unix::process::parent_id() != parent {
        let why = format!("process {parent}, with which this node should end, is not its parent");
        return Err(Problem::new(codes::CONFIG, why));
    }
    Ok(())
}

/// Sends a signal to a process that this one started.
#[expect(unsafe_code, reason = "the standard library can only send SIGKILL, and to a Child only")]
pub(crate) fn signal(pid: u32, signal: i32) {
    if let Ok(pid) = i32::try_from(pid)
        && pid > 1
    {
        // SAFETY: kill takes two integers; `pid` is above 1, so it is one process, not a group.
        let _ = unsafe { libc::kill(pid, signal) };
    }
}

/// Sends a signal to the process group of a process that this one started as its first.
#[expect(unsafe_code, reason = "the standard library cannot do this")]
pub(crate) fn signal_group(leader: u32, signal: i32) {
    if let Ok(leader) = i32::try_from(leader)
        && leader > 1
    {
        // SAFETY: kill takes two integers; `leader` is above 1, so its negative is one group, and
        // neither this process's own nor all processes.
        let _ = unsafe { libc::kill(-leader, signal) };
    }
}

/// Whether a process is there and not a zombie.
pub(crate) fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z')
    })
}
