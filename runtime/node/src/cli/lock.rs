//! `amphi lock ls|show`: what is held, by whom, and who waits for it.

use amphi_protocol::ids::Resource;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Global;
use super::arguments::{ListBounds, cut_note};
use super::client::Client;
use super::events::{now_ms, timestamp_ms};
use super::failure::{Failure, exit};
use super::screen::{Cell, Screen, Style, duration_text, items, table, talk, text_of};

/// `amphi lock …`.
#[derive(Debug, Subcommand)]
pub enum LockCommand {
    /// All resources that are held or waited for
    Ls(LsArgs),
    /// One resource
    Show(ShowArgs),
}

/// `lock show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The resource, for instance env/production
    #[arg(value_name = "RESOURCE")]
    resource: Resource,
}

/// `lock ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    #[command(flatten)]
    bounds: ListBounds,
}

/// Runs a `lock` command.
pub async fn lock(global: &Global, screen: Screen, command: LockCommand) -> Result<u8, Failure> {
    let args = match command {
        LockCommand::Ls(args) => args,
        LockCommand::Show(args) => return show(global, screen, &args.resource).await,
    };
    let client = Client::connect(global).await?;
    let reply = client.list("lock.list", "locks", json!({}), args.bounds.limit()).await?;
    screen.show(&reply, |reply, style| locks_table(reply, now_ms(), style))?;
    if let Some(note) = cut_note(&reply, items(&reply, "locks").len()) {
        talk(&note);
    }
    Ok(exit::OK)
}

/// The name, with the names in use that share a path with it.
fn name_text(lock: &Value) -> String {
    let others: Vec<&str> = items(lock, "overlaps").iter().filter_map(Value::as_str).collect();
    let name = text_of(lock, "resource");
    if others.is_empty() { name } else { format!("{name} (overlaps {})", others.join(", ")) }
}

/// `{"resource","locks"}`: one entry for each space in which the name means something, none if nobody holds it or waits for it.
async fn show(global: &Global, screen: Screen, resource: &Resource) -> Result<u8, Failure> {
    let client = Client::connect(global).await?;
    let mut reply = client.list("lock.list", "locks", json!({}), None).await?;
    if let Some(locks) = reply["locks"].as_array_mut() {
        locks.retain(|lock| lock["resource"] == resource.as_str());
    }
    let found = json!({ "resource": resource, "locks": reply["locks"] });
    screen.show(&found, |found, style| match items(found, "locks") {
        [] => format!("{resource} is free, and nobody waits for it\n"),
        _ => locks_table(found, now_ms(), style),
    })?;
    Ok(exit::OK)
}

/// The table of `lock ls`.
pub fn locks_table(reply: &Value, now_ms: u64, style: Style) -> String {
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for lock in items(reply, "locks") {
        let holders = items(lock, "holders");
        let queue: Vec<String> = items(lock, "queue").iter().map(|waiter| waiter_text(waiter, now_ms)).collect();
        let queue = if queue.is_empty() { "-".to_owned() } else { format!("{}: {}", queue.len(), queue.join(", ")) };
        // Further readers of the same resource stand on their own lines, under the first.
        for position in 0..holders.len().max(1) {
            let first = position == 0;
            let holder = holders.get(position);
            let lease = holder.and_then(|holder| holder["lease_left_ms"].as_u64());
            rows.push(vec![
                Cell::new(if first { name_text(lock) } else { String::new() }),
                Cell::new(if first { text_of(lock, "mode") } else { String::new() }),
                Cell::new(holder.map_or("-".to_owned(), |h| format!("{}/{}", text_of(h, "epic"), text_of(h, "task")))),
                Cell::new(holder.map_or("-".to_owned(), |h| text_of(h, "token"))),
                Cell::new(lease.map_or("-".to_owned(), duration_text)),
                Cell::new(if first { queue.clone() } else { String::new() }),
            ]);
        }
    }
    if rows.is_empty() { "no locks\n".to_owned() } else { table(&["RESOURCE", "MODE", "HOLDER", "TOKEN", "LEASE", "QUEUE"], &rows, style) }
}

fn waiter_text(waiter: &Value, now_ms: u64) -> String {
    let since = match &waiter["since"] {
        Value::String(text) => timestamp_ms(text),
        other => other.as_u64(),
    };
    let waits = since.map_or(String::new(), |since| format!(", waits {}", duration_text(now_ms.saturating_sub(since))));
    format!("{}/{} ({}{waits})", text_of(waiter, "epic"), text_of(waiter, "task"), text_of(waiter, "mode"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_and_waiters_are_named() {
        let reply = json!({"locks": [{"resource": "env/production", "mode": "read",
            "holders": [{"epic": "e-1", "task": "a", "attempt": 1, "token": 18, "lease_left_ms": 252_000},
                        {"epic": "e-1", "task": "b", "attempt": 1, "token": 19, "lease_left_ms": 1_000}],
            "queue": [{"epic": "e-2", "task": "deploy", "mode": "write", "since": "1970-01-01T00:00:02.000Z"}]}]});
        assert_eq!(
            locks_table(&reply, 40_000, Style::PLAIN),
            "RESOURCE        MODE  HOLDER  TOKEN  LEASE  QUEUE\n\
             env/production  read  e-1/a   18     4m12s  1: e-2/deploy (write, waits 38s)\n                      e-1/b   19     1.0s\n"
        );
    }
}
