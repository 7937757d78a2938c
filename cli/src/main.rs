//! `naru`: the one binary. Subcommands, wiring and terminal output; decides nothing.
//!
//! Exit codes: 0 done, 1 failed, 2 usage. An error is one readable sentence on stderr.

mod args;
mod children;
mod cluster;
mod image;
mod kubeconfig;
mod loopback;
mod manifests;
mod node;
mod output;
mod runtime;
mod server;
mod signals;
mod up;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};

// The system allocator keeps far more of what a burst of pods needed for a moment.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    output::init_logging(cli.verbose);
    // One TLS implementation for every library in the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("naru: {}", output::sentence(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(args) => block_on(up::run(args)),
        Command::Server(args) => block_on(server::run(args)),
        Command::Node(args) => block_on(node::run(args)),
        Command::Runtime(args) => block_on(runtime::run(args)),
        Command::Image(args) => block_on(image::run(args)),
        Command::Kubeconfig(args) => kubeconfig::run(&args),
        Command::Version(args) => output::version(&args),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "naru", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}
