//! `amphi queue ls`: tasks that wait to run, over all epics.

use clap::{Args, Subcommand};
use serde_json::json;

use super::Global;
use super::arguments::{ListBounds, cut_note};
use super::client::Client;
use super::failure::{Failure, exit};
use super::screen::{Screen, items, talk};
use super::task::tasks_table;

/// Most tasks that one answer holds.
const QUEUE_MAX: usize = 10_000;

/// `amphi queue …`.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// All of them, in the order in which they will be served
    Ls(LsArgs),
}

/// `queue ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    #[command(flatten)]
    bounds: ListBounds,
}

/// Runs a `queue` command.
pub async fn queue(global: &Global, screen: Screen, command: QueueCommand) -> Result<u8, Failure> {
    let QueueCommand::Ls(args) = command;
    let client = Client::connect(global).await?;
    // The queue has no pages: what is served first changes between two requests.
    let reply = client.call("queue.list", &json!({ "limit": args.bounds.limit().unwrap_or(QUEUE_MAX) })).await?;
    screen.show(&reply, |reply, style| tasks_table(items(reply, "tasks"), true, style))?;
    if let Some(note) = cut_note(&reply, items(&reply, "tasks").len()) {
        talk(&note);
    }
    Ok(exit::OK)
}
