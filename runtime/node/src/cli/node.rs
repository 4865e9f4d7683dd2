//! `amphi node …`: the nodes of the cluster.

use amphi_protocol::ids::NodeId;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Global;
use super::client::Client;
use super::failure::{Failure, exit};
use super::screen::{Cell, Screen, Style, facts, items, state_cell, state_mark, table, text_of};

/// `amphi node …`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// All nodes
    Ls(LsArgs),
    /// One node
    Show(NodeArgs),
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
    }
    Ok(exit::OK)
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
    let pairs = [
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
    format!("{}\n{}", style.paint(paint, &format!("{glyph} {state}")), facts(&pairs, style))
}
