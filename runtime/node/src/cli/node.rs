//! `amphi node …`: the nodes of the cluster.

use std::time::Duration;

use amphi_protocol::ids::NodeId;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::Global;
use super::arguments::DurationArg;
use super::client::Client;
use super::failure::{Failure, exit};
use super::screen::{Cell, Screen, Style, facts, items, state_cell, state_mark, table, talk, text_of};

/// Between two looks at a node that is drained.
const POLL: Duration = Duration::from_millis(250);
/// Attempts that are named while a drain waits.
const WAITS_SHOWN: usize = 5;

/// `amphi node …`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// All nodes
    Ls(LsArgs),
    /// One node
    Show(NodeArgs),
    /// Give a node nothing new, hand over what it runs without a failure, and wait until it is empty
    Drain(DrainArgs),
    /// Shut a node out: its NATS user ends at once and for good, and its tasks run elsewhere
    Revoke(NodeArgs),
}

/// `node drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// How long what it runs may go on; then it is handed over
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    grace: DurationArg,
    /// Give it work again
    #[arg(long, conflicts_with_all = ["grace", "timeout", "detach"])]
    off: bool,
    /// Stop waiting after this time (exit 7); the node is drained all the same
    #[arg(long, value_name = "DURATION", conflicts_with = "detach")]
    timeout: Option<DurationArg>,
    /// Do not wait
    #[arg(long)]
    detach: bool,
}

/// Which nodes.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Only nodes with this label
    #[arg(long = "label", value_name = "K=V")]
    labels: Vec<String>,
}

/// The node.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The node, for instance node-1
    #[arg(value_name = "NODE")]
    node: NodeId,
}

/// Runs a `node` command.
pub async fn node(global: &Global, screen: Screen, command: NodeCommand) -> Result<u8, Failure> {
    let client = Client::connect(global).await?;
    match command {
        NodeCommand::Ls(args) => {
            let mut reply = client.list("node.list", "nodes", json!({}), None).await?;
            let wanted = |node: &Value| {
                args.labels
                    .iter()
                    .all(|label| label.split_once('=').is_some_and(|(key, value)| node["labels"][key].as_str() == Some(value)))
            };
            if let Some(nodes) = reply["nodes"].as_array_mut() {
                nodes.retain(wanted);
            }
            screen.show(&reply, nodes_table)?;
        }
        NodeCommand::Show(args) => screen.show(&client.call("node.get", &json!({ "node": args.node })).await?, node_text)?,
        NodeCommand::Drain(args) => return drain(&client, screen, args).await,
        NodeCommand::Revoke(NodeArgs { node }) => {
            let reply = client.call("node.revoke", &json!({ "node": node })).await?;
            screen.show(&reply, |_, _| format!("{node} is shut out\n"))?;
        }
    }
    Ok(exit::OK)
}

async fn drain(client: &Client, screen: Screen, args: DrainArgs) -> Result<u8, Failure> {
    let node = args.node.node;
    if args.off {
        let reply = client.call("node.drain", &json!({ "node": node, "off": true })).await?;
        screen.show(&reply, |_, _| format!("{node} takes work again\n"))?;
        return Ok(exit::OK);
    }
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout.0);
    let mut reply = client.call("node.drain", &json!({ "node": node, "timeout_ms": args.grace.0.as_millis() as u64 })).await?;
    if let Some(note) = reply["note"].as_str() {
        talk(&format!("{node}: {note}"));
    }
    let mut said = String::new();
    while !args.detach && reply["state"] == "draining" {
        let waits = waits_text(&reply);
        if waits != said {
            talk(&format!("{node} is draining; {waits}"));
            said = waits;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            screen.show(&reply, node_text)?;
            return Ok(exit::TIMED_OUT);
        }
        sleep(POLL).await;
        reply = client.call("node.get", &json!({ "node": node })).await?;
    }
    screen.show(&reply, |reply, _| match reply["state"].as_str() {
        Some("drained") => format!("{node} is drained; it takes work again with its next start, or by `amphi node drain {node} --off`\n"),
        Some("draining") => format!("{node} is draining; `amphi node show {node}` says for what it waits\n"),
        state => format!("{node} is {}\n", state.unwrap_or("gone")),
    })?;
    // Somebody else took it back, or it died: it is not what was asked for.
    let as_asked = matches!(reply["state"].as_str(), Some("drained" | "draining"));
    Ok(if as_asked { exit::OK } else { exit::FAILED })
}

/// What a drain waits for, in words.
fn waits_text(node: &Value) -> String {
    let waits: Vec<String> = items(&node["drain"], "waits_for")
        .iter()
        .map(|wait| {
            let why = match wait["why"].as_str() {
                Some("retry_0") => "must not be tried again, so it finishes",
                Some("handing_over") => "is being handed over",
                _ => "may finish until its grace is over",
            };
            format!("{}/{} {why}", text_of(wait, "epic"), text_of(wait, "task"))
        })
        .collect();
    let shown = waits.iter().take(WAITS_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    let more = if waits.len() > WAITS_SHOWN { format!(" and {} more", waits.len() - WAITS_SHOWN) } else { String::new() };
    if waits.is_empty() { "it runs nothing".to_owned() } else { format!("{shown}{more}") }
}

fn leads(node: &Value) -> String {
    let shards: Vec<String> = items(node, "leads").iter().map(Value::to_string).collect();
    if shards.is_empty() { "-".to_owned() } else { format!("shard {}", shards.join(",")) }
}

fn labels(node: &Value) -> String {
    let pairs = node["labels"].as_object().into_iter().flatten();
    let words: Vec<String> = pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(" ") }
}

fn nodes_table(reply: &Value, style: Style) -> String {
    let rows: Vec<Vec<Cell>> = items(reply, "nodes")
        .iter()
        .map(|node| {
            vec![
                Cell::new(text_of(node, "id")),
                state_cell(&text_of(node, "state")),
                Cell::new(text_of(node, "pid")),
                Cell::new(leads(node)),
                Cell::new(text_of(node, "running")),
                Cell::new(text_of(node, "incarnation")),
                Cell::new(labels(node)),
            ]
        })
        .collect();
    if rows.is_empty() {
        "no nodes\n".to_owned()
    } else {
        table(&["NODE", "STATE", "PID", "LEADS", "RUNNING", "INCARNATION", "LABELS"], &rows, style)
    }
}

fn node_text(node: &Value, style: Style) -> String {
    let state = text_of(node, "state");
    let (glyph, paint) = state_mark(&state);
    let mut pairs = vec![
        ("node", text_of(node, "id")),
        ("pid", text_of(node, "pid")),
        ("leads", leads(node)),
        ("running", text_of(node, "running")),
        ("capacity", text_of(node, "capacity")),
        ("labels", labels(node)),
        ("restarts", text_of(node, "restarts")),
        ("last exit", text_of(node, "last_exit")),
        ("incarnation", text_of(node, "incarnation")),
    ];
    if state == "draining" {
        pairs.push(("waits for", waits_text(node)));
        pairs.push(("grace until", text_of(&node["drain"], "until")));
    }
    format!("{}\n{}", style.paint(paint, &format!("{glyph} {state}")), facts(&pairs, style))
}
