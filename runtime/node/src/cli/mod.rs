//! The command line: a plain client of the public interface, plus the commands that start nodes.
//!
//! `stdout` is the result, `stderr` is talk, `--json` works everywhere, nothing waits without a bound, and no command decides anything
//! about an epic: the cluster does. One file per noun; start at [`Cli`] and [`execute`].

mod agent;
mod arguments;
mod backup;
mod bars;
mod catalog;
mod client;
mod completion;
mod config;
mod context;
mod demo;
mod doctor;
mod doctor_cluster;
mod epic;
mod epic_file;
mod epic_report;
mod event_line;
mod events;
mod failure;
mod feed;
mod follow;
mod frame;
mod graph;
mod graph_svg;
mod incident;
mod journal_file;
mod lines;
mod lock;
mod node;
mod output;
pub mod plan;
mod progress;
mod queue;
mod role;
mod run;
mod schema;
mod screen;
mod task;
mod task_logs;
mod top;
mod tree;
mod up;
mod verdict;
mod version;
mod why;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use arguments::DurationArg;
use failure::Failure;
pub use screen::talk;
use screen::{ColorChoice, Screen};

/// Runs teams of agents on epics: durable, supervised, verifiable.
#[derive(Debug, Parser)]
#[command(
    name = "amphi",
    version,
    propagate_version = true,
    infer_subcommands = false,
    arg_required_else_help = true,
    after_help = "Examples:\n  amphi up                                 a cluster on this machine\n  amphi run release.epic.yaml --wait       submit and follow to the end\n  amphi why EPIC/TASK                      what a task waits for\n\nExit codes: 0 ok, 1 the work failed, 2 usage or invalid file, 3 not found, 4 denied, 5 conflict,\n6 cluster unreachable (retry is safe), 7 timed out (the epic runs on), 8 a person is needed, 130 interrupted."
)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Machine-readable results: one JSON object, or NDJSON for streams
    #[arg(long, global = true)]
    pub json: bool,
    /// The cluster's NATS server (else AMPHI_NATS_URL, else the one that runs in the data folder)
    #[arg(long, global = true, value_name = "URL")]
    pub nats: Option<String>,
    /// A context of the `nats` command line instead of --nats
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The local data folder [default: $XDG_DATA_HOME/amphi]
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// How long one request may take
    #[arg(long, global = true, value_name = "D", default_value = "10s", hide_short_help = true)]
    pub request_timeout: DurationArg,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", hide_short_help = true)]
    pub color: ColorChoice,
}

/// All commands for people and scripts; `node` and `guard` are the program's own and stand in `main`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Release a real application on a cluster of three nodes, and check everything
    Demo(demo::DemoArgs),
    /// Run a cluster in the foreground: NATS (unless --nats names one) and nodes
    Up(up::UpArgs),
    /// Submit an epic and follow it
    Run(run::RunArgs),
    /// Check, submit, look at and cancel epics
    #[command(subcommand)]
    Epic(epic::EpicCommand),
    /// Look at tasks, retry or cancel them
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Say what a task waits for
    Why(why::WhyArgs),
    /// Report the progress of the task that this runs in
    Progress(progress::ProgressArgs),
    /// The supervision trees of all nodes
    Tree(tree::TreeArgs),
    /// Agents
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Roles that agents can have
    #[command(subcommand)]
    Role(role::RoleCommand),
    /// Nodes
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Locks, their holders and their queues
    #[command(subcommand)]
    Lock(lock::LockCommand),
    /// Tasks that wait to run
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Questions that only a person can answer
    #[command(subcommand)]
    Incident(incident::IncidentCommand),
    /// Nodes, epics and agents at work, what waits and what is locked
    Top(top::TopArgs),
    /// What the tasks of an epic, or of all epics, wrote
    Logs(output::LogsArgs),
    /// Public events of all epics
    Events(events::EventsArgs),
    /// Look for what is wrong with this machine or the cluster
    Doctor(doctor::DoctorArgs),
    /// Copy a running cluster into a folder, and prove the copy by restoring it
    Backup(backup::BackupArgs),
    /// Make the data folder of a cluster from a backup
    Restore(backup::RestoreArgs),
    /// Schemas of files and events
    #[command(subcommand)]
    Schema(schema::SchemaCommand),
    /// The configuration in effect
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Completion of commands and flags for a shell
    Completion(completion::CompletionArgs),
    /// Version, commit and protocol number
    Version,
}

impl Command {
    /// What is logged unless `AMPHI_LOG` says otherwise: clients only speak up when something is wrong.
    pub fn log_level(&self) -> &'static str {
        match self {
            Self::Up(_) => "info",
            _ => "warn",
        }
    }
}

/// Runs a command; gives the exit code.
pub async fn execute(cli: Cli) -> u8 {
    let Cli { global, command } = cli;
    let screen = Screen::new(global.json, global.color);
    match dispatch(&global, screen, command).await {
        Ok(code) => code,
        Err(failure) => report(&failure, screen),
    }
}

async fn dispatch(global: &Global, screen: Screen, command: Command) -> Result<u8, Failure> {
    match command {
        Command::Demo(args) => demo::demo(global, screen, args).await,
        Command::Up(args) => up::up(global, args).await,
        Command::Run(args) => run::run(global, screen, args).await,
        Command::Epic(command) => epic::epic(global, screen, command).await,
        Command::Task(command) => task::task(global, screen, command).await,
        Command::Why(args) => why::why(global, screen, args).await,
        Command::Progress(args) => progress::progress(screen, args),
        Command::Tree(args) => tree::tree(global, screen, args).await,
        Command::Agent(command) => agent::agent(global, screen, command).await,
        Command::Role(command) => role::role(global, screen, command).await,
        Command::Node(command) => node::node(global, screen, command).await,
        Command::Lock(command) => lock::lock(global, screen, command).await,
        Command::Queue(command) => queue::queue(global, screen, command).await,
        Command::Incident(command) => incident::incident(global, screen, command).await,
        Command::Top(args) => top::top(global, screen, args).await,
        Command::Logs(args) => output::logs(global, screen, args).await,
        Command::Events(args) => events::events(global, screen, args).await,
        Command::Doctor(args) => doctor::doctor(global, screen, args).await,
        Command::Backup(args) => backup::backup(global, screen, args).await,
        Command::Restore(args) => backup::restore(global, screen, args).await,
        Command::Schema(command) => schema::schema(screen, command),
        Command::Config(command) => config::config(global, screen, command),
        Command::Completion(args) => completion::completion(screen, &args),
        Command::Version => version::version(screen),
    }
}

/// Tells the user: the error object on standard output with `--json`, else text on standard error.
fn report(failure: &Failure, screen: Screen) -> u8 {
    if screen.json {
        if let Some(json) = failure.as_json() {
            // If nobody reads it, the exit code still tells.
            let _ = screen.line(&json);
        }
    } else if let Some(text) = failure.as_text(screen.talk_style) {
        talk(text.trim_end());
    }
    failure.exit_code()
}

/// Wrong use of the command line, as clap found it: help and version go to standard output with exit 0, the rest is exit 2.
pub fn report_usage(error: &clap::Error, json: bool) -> u8 {
    if error.use_stderr() && json {
        let text = error.render().to_string();
        let message = text.trim_start_matches("error: ").lines().next().unwrap_or_default().to_owned();
        let failure = Failure::usage(message).hint("amphi --help");
        return report(&failure, Screen::new(true, ColorChoice::Never));
    }
    let _ = error.print();
    if error.use_stderr() { 2 } else { 0 }
}

#[cfg(test)]
mod tests;
