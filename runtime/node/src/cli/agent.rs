//! `amphi agent …`: agents, and a fresh start for one of them.

use amphi_protocol::ids::AgentId;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Global;
use super::arguments::{DurationArg, ListBounds, cut_note};
use super::client::Client;
use super::failure::{Failure, exit};
use super::screen::{Cell, Screen, Style, facts, items, state_cell, state_mark, table, talk, text_of};

/// Characters of a payload that a line shows.
const PAYLOAD_SHOWN: usize = 160;

/// `amphi agent …`.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// All agents
    Ls(LsArgs),
    /// One agent
    Show(AgentArgs),
    /// Replace an agent, also one in quarantine; what it ran is tried again as its task says
    Restart(AgentArgs),
    /// Give an agent nothing new until it is resumed; what it runs goes on
    Pause(AgentArgs),
    /// Give a paused or drained agent work again
    Resume(AgentArgs),
    /// Give an agent nothing new, and hand over what it runs
    Drain(DrainArgs),
}

/// `agent drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// How long what it runs may go on; then it is handed over, which is no failure
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    grace: DurationArg,
}

/// `agent ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    #[command(flatten)]
    bounds: ListBounds,
}

/// The agent.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The agent, for instance node-1-BuildMaster-2
    #[arg(value_name = "AGENT")]
    agent: AgentId,
}

/// Runs an `agent` command.
pub async fn agent(global: &Global, screen: Screen, command: AgentCommand) -> Result<u8, Failure> {
    let client = Client::connect(global).await?;
    match command {
        AgentCommand::Ls(args) => {
            let reply = client.list("agent.list", "agents", json!({}), args.bounds.limit()).await?;
            screen.show(&reply, agents_table)?;
            if let Some(note) = cut_note(&reply, items(&reply, "agents").len()) {
                talk(&note);
            }
        }
        AgentCommand::Show(args) => {
            let reply = client.call("agent.get", &json!({ "agent": args.agent })).await?;
            screen.show(&reply, agent_text)?;
        }
        AgentCommand::Restart(args) => {
            let reply = client.call("agent.restart", &json!({ "agent": args.agent })).await?;
            screen.show(&reply, |_, _| format!("{} is being restarted\n", args.agent))?;
        }
        AgentCommand::Pause(args) => {
            let reply = client.call("agent.pause", &json!({ "agent": args.agent })).await?;
            screen.show(&reply, |_, _| format!("{} takes nothing new; `amphi agent resume {0}` takes that back\n", args.agent))?;
        }
        AgentCommand::Resume(args) => {
            let reply = client.call("agent.resume", &json!({ "agent": args.agent })).await?;
            screen.show(&reply, |_, _| format!("{} takes work again\n", args.agent))?;
        }
        AgentCommand::Drain(args) => {
            let agent = args.agent.agent;
            let body = json!({ "agent": agent, "timeout_ms": args.grace.0.as_millis() as u64 });
            let reply = client.call("agent.drain", &body).await?;
            screen.show(&reply, |reply, _| match reply["task"].is_null() {
                true => format!("{agent} is drained; `amphi agent resume {agent}` takes that back\n"),
                false => format!("{agent} takes nothing new and hands {} over if it still runs then\n", work(reply)),
            })?;
        }
    }
    Ok(exit::OK)
}

fn skills(agent: &Value) -> String {
    items(agent, "skills").iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

fn work(agent: &Value) -> String {
    if agent["task"].is_null() { "-".to_owned() } else { format!("{}/{}", text_of(agent, "epic"), text_of(agent, "task")) }
}

fn agents_table(reply: &Value, style: Style) -> String {
    let rows: Vec<Vec<Cell>> = items(reply, "agents")
        .iter()
        .map(|agent| {
            vec![
                Cell::new(text_of(agent, "agent")),
                Cell::new(text_of(agent, "role")),
                state_cell(&text_of(agent, "state")),
                Cell::new(work(agent)),
                Cell::new(text_of(agent, "restarts")),
                Cell::new(text_of(agent, "node")),
                Cell::new(skills(agent)),
            ]
        })
        .collect();
    if rows.is_empty() {
        "no agents\n".to_owned()
    } else {
        table(&["AGENT", "ROLE", "STATE", "WORK", "RESTARTS", "NODE", "SKILLS"], &rows, style)
    }
}

fn agent_text(agent: &Value, style: Style) -> String {
    let state = text_of(agent, "state");
    let (glyph, paint) = state_mark(&state);
    let pairs = [
        ("agent", text_of(agent, "agent")),
        ("role", text_of(agent, "role")),
        ("skills", skills(agent)),
        ("node", text_of(agent, "node")),
        ("work", work(agent)),
        ("restarts", text_of(agent, "restarts")),
        ("duty", text_of(agent, "duty")),
    ];
    format!("{}\n{}{}", style.paint(paint, &format!("{glyph} {state}")), facts(&pairs, style), messages_text(agent, style))
}

/// The last messages, the latest last.
fn messages_text(agent: &Value, style: Style) -> String {
    let shown = |message: &Value| {
        let payload = message["payload"].to_string();
        let cut: String = payload.chars().take(PAYLOAD_SHOWN).collect();
        let payload = if cut.len() < payload.len() { format!("{cut}…") } else { cut };
        let at = text_of(message, "at");
        let about = if message["beadsTaskId"].is_null() { "-".to_owned() } else { text_of(message, "beadsTaskId") };
        vec![
            Cell::new(at.get(11..19).unwrap_or(&at)),
            Cell::new(text_of(message, "from")),
            Cell::new(text_of(message, "type")),
            Cell::new(about),
            Cell::new(payload),
        ]
    };
    let rows: Vec<Vec<Cell>> = items(agent, "messages").iter().map(shown).collect();
    if rows.is_empty() { String::new() } else { format!("\n{}", table(&["AT", "FROM", "MESSAGE", "ABOUT", "PAYLOAD"], &rows, style)) }
}
