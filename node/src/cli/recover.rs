//! `recover`: a cluster goes on from one voter when a majority is gone for good.

use std::{io, path::PathBuf};

use clap::Args;

use crate::{
    agent::Recovery,
    cli::say,
    codes,
    problem::{Outcome, Problem},
};

/// The longest line that is read as an answer.
const MAX_ANSWER: u64 = 1024;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer recover --data-dir /var/lib/swarmer --force\n\n\
    For a cluster whose majority of voters will never come back. Stop this node first; take the\n\
    voter with the highest revision. It becomes the only voter, the others are no members any more,\n\
    and the cluster grows new voters from the nodes that follow. What was acknowledged and did not\n\
    reach this node is lost. The other voters must never be started again with their directories:\n\
    together they could still decide something else. While a majority can be brought back, do that.")]
pub(crate) struct Recover {
    /// The data directory of the stopped node
    #[arg(long, env = "SWARMER_DATA_DIR", default_value = "swarmer-data")]
    data_dir: PathBuf,
    /// Do it; without this nothing is changed
    #[arg(long)]
    force: bool,
    /// Do not ask for the cluster's id
    #[arg(long, requires = "force")]
    yes_lose_data: bool,
}

impl Recover {
    pub(crate) fn run(self) -> Outcome<()> {
        let recovery = Recovery::open(&self.data_dir)?;
        let (cluster, name) = (recovery.cluster(), recovery.name());
        if !self.force {
            let why = format!("{name} would become the only voter of cluster {cluster}");
            return Err(Problem::new(codes::NOT_CONFIRMED, why));
        }
        say(&format!(
            "{name} becomes the only voter of cluster {cluster}.\n\
             - Changes that were acknowledged and are not in this node's log are lost.\n\
             - The other voters are no members any more. Never start them again with the data they\n  \
             have: a majority of them would be the same cluster with another history.\n\
             - Nodes that follow and know more than this node follow again when it has passed them."
        ));
        if !self.yes_lose_data {
            say("Type the cluster's id to go on:");
            let mut answer = String::new();
            let read = io::Read::take(io::stdin(), MAX_ANSWER);
            io::BufRead::read_line(&mut io::BufReader::new(read), &mut answer)
                .map_err(|error| Problem::new(codes::NOT_CONFIRMED, error.to_string()))?;
            if answer.trim() != cluster {
                return Err(Problem::new(codes::NOT_CONFIRMED, "that is not the cluster's id"));
            }
        }
        let done = recovery.run()?;
        let lost = done.voters.len().saturating_sub(1);
        say(&format!(
            "Done, at revision {} and term {}: {lost} voters are left behind. Start the node as \
             before.",
            done.revision, done.term
        ));
        Ok(())
    }
}
