//! `swarmer`: one binary that turns plain machines into a self-organising cluster which runs
//! functions and services with a mesh built in.

// `cli::output` is the one way to print: these panic when the reader went away.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod agent;
mod api;
mod artifacts;
mod audit;
mod backup;
mod cli;
mod codes;
mod config;
mod desired;
mod dispatch;
mod functions;
mod ingress;
mod listener;
mod manifest;
mod patience;
mod planted;
mod problem;
mod process;
mod telemetry;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
