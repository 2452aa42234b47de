//! Many runs in one command, and the table of them.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, bail};
use chaos_tests::{
    report::{self, Ran, Row, Sums},
    run::{Ending, Plan, SCENARIOS, Scenario},
};

use crate::keep::{carry_out, lacking};

/// So many runs in a row that prove nothing or cannot be made: it will not get better.
const GIVE_UP: usize = 10;

/// When it is enough.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// Power was cut so often.
    Cuts(u64),
    /// So much time has passed.
    Elapsed(Duration),
}

/// Runs of some scenarios in turn, each round with the next seed.
#[derive(Debug)]
pub(crate) struct Series {
    name: &'static str,
    scenarios: Vec<&'static Scenario>,
    seed: u64,
    lasts: Duration,
    folder: PathBuf,
}

impl Series {
    /// The scenarios of power cuts.
    pub(crate) fn power(out: &Path, seed: Option<u64>, lasts: Duration) -> Self {
        let scenarios = SCENARIOS.iter().filter(|scenario| scenario.name.ends_with("-power"));
        Self::new("power", scenarios.collect(), out, seed, lasts)
    }

    /// All scenarios.
    pub(crate) fn soak(out: &Path, seed: Option<u64>, lasts: Duration) -> Self {
        Self::new("soak", SCENARIOS.iter().collect(), out, seed, lasts)
    }

    fn new(
        name: &'static str,
        scenarios: Vec<&'static Scenario>,
        out: &Path,
        seed: Option<u64>,
        lasts: Duration,
    ) -> Self {
        let seed = seed.unwrap_or_else(new_seed);
        Self { name, scenarios, seed, lasts, folder: out.join(format!("{name}-{seed}")) }
    }

    /// Runs until it is enough. The table is written after each run.
    ///
    /// # Errors
    /// Nothing can be run, or nothing comes of it any more.
    pub(crate) fn run(mut self, until: Until) -> Result<Ending> {
        std::fs::create_dir_all(&self.folder)?;
        let (mut rows, began) = (Vec::new(), Instant::now());
        for scenario in std::mem::take(&mut self.scenarios) {
            let why = lacking(&Plan::of(scenario.name, self.seed, self.lasts)?);
            if why.is_empty() {
                self.scenarios.push(scenario);
            } else {
                println!("skipped: {}: this machine lacks {}", scenario.name, why.join(", "));
                let result = Err(format!("this machine lacks {}", why.join(", ")));
                rows.push(Row { scenario: scenario.name.to_owned(), seed: None, result });
            }
        }
        let mut in_vain = 0;
        let mut turns = (self.seed..)
            .flat_map(|seed| self.scenarios.iter().map(move |scenario| (seed, *scenario)));
        while !enough(until, began, &rows) {
            let Some((seed, scenario)) = turns.next() else { bail!("nothing can be run here") };
            let row = self.one(scenario, seed);
            let proves = row.result.as_ref().is_ok_and(|ran| ran.ending != Ending::Void);
            in_vain = if proves { 0 } else { in_vain + 1 };
            rows.push(row);
            self.write(&rows)?;
            if in_vain >= GIVE_UP {
                bail!("{GIVE_UP} runs in a row proved nothing; see {}", self.folder.display());
            }
        }
        let text = self.write(&rows)?;
        println!("\n{text}\ntable: {}", self.folder.join("index.html").display());
        Ok(ending(&rows))
    }

    fn one(&self, scenario: &Scenario, seed: u64) -> Row {
        let ran = Plan::of(scenario.name, seed, self.lasts).and_then(|plan| {
            let run = carry_out(&plan, &self.folder, false)?;
            Ok(Ran::of(&run, format!("{}-{seed}", scenario.name)))
        });
        let result = ran.map_err(|error| {
            println!("{} seed {seed} could not be run: {error:#}", scenario.name);
            format!("{error:#}")
        });
        Row { scenario: scenario.name.to_owned(), seed: Some(seed), result }
    }

    fn write(&self, rows: &[Row]) -> Result<String> {
        let title = format!("{} from seed {}", self.name, self.seed);
        let text = report::markdown(&title, rows);
        std::fs::write(self.folder.join("table.md"), &text)?;
        std::fs::write(self.folder.join("index.html"), report::table(&title, rows))?;
        Ok(text)
    }
}

/// One that was not used before: the seconds since 1970.
pub(crate) fn new_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs())
}

fn enough(until: Until, began: Instant, rows: &[Row]) -> bool {
    match until {
        Until::Cuts(cuts) => Sums::of(rows).power_cuts >= cuts,
        Until::Elapsed(lasts) => began.elapsed() >= lasts,
    }
}

/// Invalid if any run is. Void if one could not be made, or none proved anything: a single void run
/// among others only did too little.
fn ending(rows: &[Row]) -> Ending {
    let ended = |ending: Ending| {
        rows.iter().any(|row| row.result.as_ref().is_ok_and(|ran| ran.ending == ending))
    };
    let broken = rows.iter().any(|row| row.result.is_err() && row.seed.is_some());
    if ended(Ending::Invalid) {
        Ending::Invalid
    } else if broken || !ended(Ending::Passed) {
        Ending::Void
    } else {
        Ending::Passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(result: Option<Ending>) -> Row {
        let ran = |ending| Ran {
            ending,
            lasted_s: 1,
            told: (1, 0, 0),
            leaders: 0,
            struck: [].into(),
            power_cuts: 5,
            valid: (1, 1),
            why: Vec::new(),
            folder: String::new(),
        };
        let result = result.map(ran).ok_or_else(|| "broken".to_owned());
        Row { scenario: "s".into(), seed: Some(1), result }
    }

    #[test]
    fn one_invalid_run_makes_all_invalid_and_a_broken_one_is_told() {
        use Ending::{Invalid, Passed, Void};
        assert_eq!(ending(&[row(Some(Passed)), row(Some(Void))]), Passed);
        assert_eq!(ending(&[row(Some(Passed)), row(Some(Invalid)), row(None)]), Invalid);
        assert_eq!(ending(&[row(Some(Passed)), row(None)]), Void);
        assert_eq!(ending(&[row(Some(Void))]), Void);
        assert_eq!(ending(&[]), Void);
    }

    #[test]
    fn cuts_of_void_runs_are_not_enough() {
        let enough = |rows: &[Row]| enough(Until::Cuts(6), Instant::now(), rows);
        assert!(!enough(&[row(Some(Ending::Passed)), row(Some(Ending::Void)), row(None)]));
        assert!(enough(&[row(Some(Ending::Passed)), row(Some(Ending::Invalid))]));
    }
}
