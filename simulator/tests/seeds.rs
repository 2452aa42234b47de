//! A few seeds, each in a process of its own; the long run is `cargo run -p simulator -- run`.

use std::{
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

/// Seeds that are always run; the first has five voters.
const FIXED: [u64; 3] = [3, 4, 5];
/// Simulated seconds of each: faults for two thirds, then calm.
const SECONDS: &str = "12";

struct Run {
    text: String,
    passed: bool,
}

fn run(seed: u64, more: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_simulator"))
        .args(["replay", &seed.to_string(), "--seconds", SECONDS])
        .args(more)
        .output()
        .expect("the simulator runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    Run { text: text + &errors, passed: output.status.success() }
}

#[test]
fn fixed_seeds_hold_every_promise() {
    for seed in FIXED {
        let run = run(seed, &[]);
        assert!(run.passed, "{}", run.text);
        println!("{}", run.text);
    }
}

#[test]
fn a_new_seed_holds_every_promise() {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let run = run(time.as_secs(), &[]);
    assert!(run.passed, "{}", run.text);
    println!("{}", run.text);
}

#[test]
fn a_seed_is_the_same_run_each_time() {
    let [one, other] = [0, 1].map(|_| run(7, &["--json"]));
    assert!(one.text.contains("\"hash\":\""), "{}", one.text);
    assert_eq!(one.text, other.text, "two runs of one seed differ");
    let another = run(8, &["--json"]);
    assert_ne!(one.text, another.text, "two seeds give one run");
}

#[test]
fn what_is_planted_is_found() {
    for (bug, invariant) in [("reads-without-barrier", "linearizable"), ("watch-skips", "watch")] {
        let found = (1..=3).any(|seed| {
            let run = run(seed, &["--bug", bug]);
            !run.passed && run.text.contains(&format!("    {invariant}: "))
        });
        assert!(found, "{bug} is not found in three seeds");
    }
}
