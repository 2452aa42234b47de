//! `swarmer`: one binary that turns plain machines into a self-organising cluster which runs
//! functions and services with a mesh built in.

mod agent;
mod api;
mod artifacts;
mod cli;
mod codes;
mod config;
mod desired;
mod dispatch;
mod functions;
mod ingress;
mod listener;
mod manifest;
mod problem;
mod process;
mod telemetry;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
