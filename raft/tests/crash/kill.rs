//! kill -9 of a real process on the real file system.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use swarmer_raft::disk::RealDisk;
use swarmer_raft::wal::{Wal, WalConfig};

use super::history::ANSWERS;
use super::history::{Dice, History, Model, Step, think};

/// Kills of one directory; two run side by side.
const KILLS: u64 = 105;
const DIR: &str = "SWARMER_CRASH_CHILD_DIR";
const SEED: &str = "SWARMER_CRASH_CHILD_SEED";
/// The child ends by itself after so many steps, should nobody kill it.
const MAX_STEPS: usize = 20_000;

fn config(dir: &std::path::Path) -> WalConfig {
    WalConfig {
        segment_bytes: 32 * 1024,
        max_record_bytes: 2 * 1024,
        cache_bytes: 4 * 1024,
        ..WalConfig::new(dir)
    }
}

/// Not a test: the process that is killed. It does nothing unless the harness starts it.
#[test]
fn child() {
    let (Ok(dir), Ok(seed)) = (std::env::var(DIR), std::env::var(SEED)) else { return };
    let mut dice = Dice(seed.parse().unwrap());
    let (wal, recovered) = Wal::open(Arc::new(RealDisk), config(dir.as_ref())).unwrap();
    let mut model = Model::read(&wal, &recovered).unwrap();
    let mut committed =
        recovered.committed.map_or(0, |c| u64::from_le_bytes(c[..].try_into().unwrap()));
    let mut tags = dice.next() & !0xffff_ffff;
    let in_flight = Arc::new((Mutex::new(0_u64), Condvar::new()));
    let limit = 1 + dice.below(12);
    let say = |line: String| {
        // One write, so that a line is whole or missing. A closed pipe ends the process.
        std::io::stderr().write_all(line.as_bytes()).expect("the harness listens");
    };
    for _ in 0..MAX_STEPS {
        let step = think(&mut dice, &mut tags, &model, committed);
        if let Step::Committed(n) = step {
            committed = n;
        }
        model.apply(&step);
        {
            let mut flying = in_flight.0.lock();
            while *flying >= limit {
                in_flight.1.wait(&mut flying);
            }
            *flying += 1;
        }
        say(format!("{}\n", step.line()));
        let answered = Arc::clone(&in_flight);
        let silent = matches!(step, Step::Committed(_));
        step.submit(&wal, move |result| {
            match result {
                Ok(()) if silent => {}
                Ok(()) => say("ok\n".to_owned()),
                Err(error) => say(format!("error {error}\n")),
            }
            *answered.0.lock() -= 1;
            answered.1.notify_one();
        });
    }
}

/// Lets a child write, kills it, and notes what it said. Returns how many calls were answered.
fn write_and_kill(dir: &std::path::Path, dice: &mut Dice, history: &mut History) -> usize {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(SEED, dice.next().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pipe = BufReader::new(child.stderr.take().unwrap());
    let (tell, told) = mpsc::sync_channel(ANSWERS);
    let reader = std::thread::spawn(move || {
        for line in pipe.lines().map_while(Result::ok) {
            let _ = tell.send(line);
        }
    });
    let mut open_parts = std::collections::VecDeque::new();
    let mut answered = 0;
    let mut note = |line: String| {
        if line == "ok" {
            history.acknowledge(open_parts.pop_front().expect("answers follow calls"));
            answered += 1;
            true
        } else {
            let step = Step::parse(&line).unwrap_or_else(|| panic!("the child said: {line}"));
            let parts = history.submit(&step);
            if !matches!(step, Step::Committed(_)) {
                open_parts.push_back(parts);
            }
            false
        }
    };
    let mut wanted = dice.below(40);
    if wanted > 0 {
        while wanted > 0 {
            let line = told.recv_timeout(Duration::from_secs(30)).expect("the child goes on");
            wanted -= u64::from(note(line));
        }
    } else {
        // Somewhere while it starts and opens the log.
        let until = Instant::now() + Duration::from_micros(dice.below(12_000));
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match told.recv_timeout(left) {
                Ok(line) => drop(note(line)),
                Err(_) => break,
            }
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for line in told {
        note(line);
    }
    reader.join().unwrap();
    answered
}

fn rounds(seed: u64) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    let mut dice = Dice(seed);
    let mut history = History::default();
    let mut answered = 0;
    for round in 0..KILLS {
        answered += write_and_kill(&path, &mut dice, &mut history);
        let (wal, recovered) = Wal::open(Arc::new(RealDisk), config(&path))
            .unwrap_or_else(|e| panic!("seed {seed}, kill {round}: {e}"));
        if let Err(violation) = history.reopened(&wal, &recovered) {
            panic!("seed {seed}, kill {round}: {violation}");
        }
        wal.close().unwrap();
    }
    answered
}

#[test]
fn no_kill_loses_anything_acknowledged() {
    let halves: Vec<_> =
        [1, 2].map(|seed| std::thread::spawn(move || rounds(seed))).into_iter().collect();
    let answered: usize = halves.into_iter().map(|half| half.join().unwrap()).sum();
    println!("seeds 1 and 2: {} kills, {answered} calls acknowledged", 2 * KILLS);
    assert!(answered > 1_000);
}
