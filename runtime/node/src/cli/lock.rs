//! `amphi lock …`: what is held, by whom, and who waits for it; and locks for scripts and people outside of all epics.

use std::time::Duration;

use amphi_protocol::api::ErrorCode;
use amphi_protocol::ids::{OwnerName, ProjectId, Resource};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Global;
use super::arguments::{DurationArg, ListBounds, cut_note};
use super::client::Client;
use super::events::{now_ms, timestamp_ms};
use super::failure::{Failure, exit};
use super::screen::{Cell, Screen, Style, duration_text, items, table, talk, text_of};

/// How long one request keeps the place in the queue. Whoever dies while waiting is out of it after that.
const PLACE: Duration = Duration::from_secs(15);
/// How often a request is sent again, to keep the place.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// `amphi lock …`.
#[derive(Debug, Subcommand)]
pub enum LockCommand {
    /// All resources that are held or waited for
    Ls(LsArgs),
    /// One resource
    Show(ShowArgs),
    /// Take a lock from outside of all epics; prints its fencing token
    Acquire(AcquireArgs),
    /// Keep a lock that was acquired
    Renew(RenewArgs),
    /// Give a lock back
    Release(ReleaseArgs),
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

/// What is locked.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// The resource, for instance env/production or file/src/*.rs
    #[arg(value_name = "RESOURCE")]
    resource: Resource,
    /// The project in which the name counts
    #[arg(long, value_name = "P", default_value = "default")]
    project: ProjectId,
    /// The workspace that a `file/…` resource belongs to, as `lock ls --json` shows it
    #[arg(long, value_name = "DIR")]
    folder: Option<String>,
}

/// `lock acquire`.
#[derive(Debug, Args)]
pub struct AcquireArgs {
    #[command(flatten)]
    name: NameArgs,
    /// Alone (the default)
    #[arg(long, conflicts_with = "read")]
    write: bool,
    /// Beside other readers
    #[arg(long)]
    read: bool,
    /// For how long, unless it is renewed: 1s to 1d
    #[arg(long, value_name = "D", default_value = "30s")]
    ttl: DurationArg,
    /// Who holds it; the same owner asking again gets the same lock [default: a new name]
    #[arg(long, value_name = "NAME")]
    owner: Option<OwnerName>,
    /// Wait in the queue for so long if it is taken
    #[arg(long, value_name = "D")]
    wait: Option<DurationArg>,
}

/// Whose lock.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct WhoseArgs {
    /// The token under which it is held
    #[arg(long, value_name = "N")]
    token: Option<u64>,
    /// The owner
    #[arg(long, value_name = "NAME")]
    owner: Option<OwnerName>,
}

/// `lock renew`.
#[derive(Debug, Args)]
pub struct RenewArgs {
    #[command(flatten)]
    name: NameArgs,
    #[command(flatten)]
    whose: WhoseArgs,
    /// For how long from now on [default: as long as the last time]
    #[arg(long, value_name = "D")]
    ttl: Option<DurationArg>,
}

/// `lock release`.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    #[command(flatten)]
    name: NameArgs,
    #[command(flatten)]
    whose: WhoseArgs,
}

/// Runs a `lock` command.
pub async fn lock(global: &Global, screen: Screen, command: LockCommand) -> Result<u8, Failure> {
    match command {
        LockCommand::Ls(args) => list(global, screen, &args).await,
        LockCommand::Show(args) => show(global, screen, &args.resource).await,
        LockCommand::Acquire(args) => acquire(global, screen, args).await,
        LockCommand::Renew(args) => {
            let mut body = body(&args.name, Some(&args.whose));
            body["ttl_ms"] = args.ttl.map_or(Value::Null, |ttl| json!(millis(ttl.0)));
            let reply = Client::connect(global).await?.call("lock.renew", &body).await?;
            screen.show(&reply, |reply, _| format!("{} is yours for {}\n", args.name.resource, left_text(reply)))?;
            Ok(exit::OK)
        }
        LockCommand::Release(args) => {
            let reply = Client::connect(global).await?.call("lock.release", &body(&args.name, Some(&args.whose))).await?;
            screen.show(&reply, |_, _| format!("{} is released\n", args.name.resource))?;
            Ok(exit::OK)
        }
    }
}

fn body(name: &NameArgs, whose: Option<&WhoseArgs>) -> Value {
    let (token, owner) = (whose.and_then(|whose| whose.token), whose.and_then(|whose| whose.owner.clone()));
    json!({ "resource": name.resource, "project": name.project, "folder": name.folder, "token": token, "owner": owner })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn left_text(reply: &Value) -> String {
    reply["lease_left_ms"].as_u64().map_or_else(|| "-".to_owned(), duration_text)
}

async fn acquire(global: &Global, screen: Screen, args: AcquireArgs) -> Result<u8, Failure> {
    let client = Client::connect(global).await?;
    let owner = args.owner.clone().unwrap_or_else(new_owner);
    let mut body = body(&args.name, None);
    body["owner"] = json!(owner);
    body["mode"] = json!(if args.read { "read" } else { "write" });
    body["ttl_ms"] = json!(millis(args.ttl.0));
    let asked = tokio::select! {
        asked = ask(&client, &body, args.wait.map(|wait| wait.0)) => asked,
        _ = tokio::signal::ctrl_c() => {
            // Nobody waits any more; what does not get through is out of the queue by itself soon.
            let _gone = client.call("lock.release", &body).await;
            return Ok(exit::INTERRUPTED);
        }
    };
    screen.show(&asked?, |reply, _| format!("{}\n", text_of(reply, "token")))?;
    if !screen.json {
        talk(&format!(
            "{} is yours for {}: renew or release it with --owner {owner:?}",
            args.name.resource,
            duration_text(millis(args.ttl.0))
        ));
    }
    Ok(exit::OK)
}

/// Asks once, or as long as there is time; asking again keeps the place.
async fn ask(client: &Client, body: &Value, wait: Option<Duration>) -> Result<Value, Failure> {
    let Some(wait) = wait else { return client.call("lock.acquire", body).await };
    let (deadline, mut body) = (Instant::now() + wait, body.clone());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let is_last = left <= ASK_AGAIN;
        body["wait_ms"] = json!(millis(left.min(PLACE)));
        let patience = if is_last { left + Duration::from_secs(8) } else { ASK_AGAIN };
        match client.patient(patience).call("lock.acquire", &body).await {
            Err(failure) if !is_last && failure.code() == Some(ErrorCode::RequestTimeout) => {}
            // Whoever leads next knows the place too.
            Err(failure) if !is_last && failure.code() == Some(ErrorCode::ClusterNoLeader) => {}
            answer => return answer,
        }
    }
}

/// A name that nobody else has.
fn new_owner() -> OwnerName {
    OwnerName::parse(&format!("cli-{}", uuid::Uuid::now_v7().simple())).expect("letters, digits and a dash are an owner")
}

async fn list(global: &Global, screen: Screen, args: &LsArgs) -> Result<u8, Failure> {
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
                Cell::new(holder.map_or("-".to_owned(), party_text)),
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
    format!("{} ({}{waits})", party_text(waiter), text_of(waiter, "mode"))
}

/// A task, or an owner outside of all epics.
fn party_text(party: &Value) -> String {
    match party["owner"].as_str() {
        Some(owner) => format!("{owner} (outside)"),
        None => format!("{}/{}", text_of(party, "epic"), text_of(party, "task")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_and_waiters_are_named() {
        let reply = json!({"locks": [{"resource": "env/production", "mode": "read",
            "holders": [{"epic": "e-1", "task": "a", "attempt": 1, "token": 18, "lease_left_ms": 252_000},
                        {"epic": null, "task": null, "attempt": null, "owner": "ann", "token": 19, "lease_left_ms": 1_000}],
            "queue": [{"epic": "e-2", "task": "deploy", "mode": "write", "since": "1970-01-01T00:00:02.000Z"}]}]});
        assert_eq!(
            locks_table(&reply, 40_000, Style::PLAIN),
            "RESOURCE        MODE  HOLDER         TOKEN  LEASE  QUEUE\n\
             env/production  read  e-1/a          18     4m12s  1: e-2/deploy (write, waits 38s)\n                      ann (outside)  19     1.0s\n"
        );
    }
}
