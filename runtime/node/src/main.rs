//! The `amphi` binary: one program for the command line, the nodes and the guards of their tasks.
//!
//! This file only tells these apart and starts the runtime. A guard runs before any thread exists, because it must stay small and
//! alone; everything else is a command of [`cli`].

mod backup;
mod cli;
mod gateway;
mod node;
mod up;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Threads of the runtime, at least: a blocking call in one must not stop the others.
const WORKERS_MIN: usize = 4;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "guard") {
        amphi_adapters::process::guard_main(arguments);
    }
    if is_node_process() {
        return run_node();
    }
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let json = std::env::args_os().take_while(|argument| argument != "--").any(|argument| argument == "--json");
            return ExitCode::from(cli::report_usage(&error, json));
        }
    };
    start_log(cli.command.log_level());
    // Fails only if one is installed already, and there is no other.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            cli::talk(&format!("error[internal]: the runtime cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(cli::execute(cli));
    // A reader of standard input may still be blocked; nothing is left that must be waited for.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// Logs go to standard error. `AMPHI_LOG` takes the usual directives, for instance `debug` or `amphi=trace,async_nats=info`.
fn start_log(level: &str) {
    // Unless somebody asks: the library tells of every connection what we tell once.
    let wanted = std::env::var_os("AMPHI_LOG").filter(|wanted| !wanted.is_empty());
    let wanted = wanted.map_or_else(|| format!("{level},async_nats=warn"), |wanted| wanted.to_string_lossy().into_owned());
    let filter = EnvFilter::builder().with_default_directive(level.parse().expect("a level is a directive")).parse_lossy(wanted);
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).init();
}

/// `amphi node --spec -`, as `amphi up` starts its children; everything else after `node` is a command for people.
fn is_node_process() -> bool {
    let arguments: Vec<_> = std::env::args_os().skip(1).take(3).collect();
    arguments.len() >= 2 && arguments[0] == "node" && arguments[1] == "--spec"
}

fn run_node() -> ExitCode {
    start_log("info");
    // Fails only if one is installed already, and there is no other.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match runtime() {
        Ok(runtime) => {
            let code = runtime.block_on(node::run());
            runtime.shutdown_background();
            ExitCode::from(code)
        }
        Err(error) => {
            tracing::error!("the runtime cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let workers = std::thread::available_parallelism().map_or(WORKERS_MIN, |cores| cores.get().max(WORKERS_MIN));
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
}
