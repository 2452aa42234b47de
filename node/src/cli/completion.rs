//! `completion`: the script that completes commands in a shell.

use clap::Args;

use crate::{
    cli::{Format, Printer},
    problem::Outcome,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer completion bash > /etc/bash_completion.d/swarmer\n  \
    swarmer completion zsh > ~/.zfunc/_swarmer")]
pub(crate) struct Completion {
    /// Which shell
    shell: clap_complete::Shell,
}

impl Completion {
    pub(crate) fn run(&self, command: &mut clap::Command) -> Outcome<()> {
        // Into memory first: the generator panics when it cannot write.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, command, "swarmer", &mut script);
        Printer::new(Format::Table).bytes(&script)
    }
}
