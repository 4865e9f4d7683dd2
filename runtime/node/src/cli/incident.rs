//! `amphi incident …`: questions that only a person can answer.

use amphi_protocol::ids::IncidentId;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::Global;
use super::arguments::{ListBounds, cut_note};
use super::client::Client;
use super::failure::{Failure, exit};
use super::screen::{Cell, Screen, Style, facts, items, state_cell, state_mark, table, talk, text_of};

/// `amphi incident …`.
#[derive(Debug, Subcommand)]
pub enum IncidentCommand {
    /// All incidents
    Ls(LsArgs),
    /// One incident
    Show(IncidentArgs),
    /// Say that you look after it
    Ack(AckArgs),
    /// Say what became of a task whose outcome nobody knows
    Resolve(ResolveArgs),
}

/// `incident ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    #[command(flatten)]
    bounds: ListBounds,
}

/// The incident.
#[derive(Debug, Args)]
pub struct IncidentArgs {
    /// The incident's id, as `incident ls` shows it
    #[arg(value_name = "INCIDENT")]
    incident: IncidentId,
}

/// `incident ack`.
#[derive(Debug, Args)]
pub struct AckArgs {
    #[command(flatten)]
    which: IncidentArgs,
    /// A word for others, at most 500 characters
    #[arg(long, short = 'm', value_name = "TEXT")]
    note: Option<String>,
}

/// `incident resolve`.
#[derive(Debug, Args)]
pub struct ResolveArgs {
    #[command(flatten)]
    which: IncidentArgs,
    /// What became of it
    #[arg(long = "as", value_enum, value_name = "OUTCOME")]
    outcome: Outcome,
}

/// What became of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Outcome {
    /// It did its work.
    #[value(name = "succeeded")]
    Succeeded,
    /// It failed.
    #[value(name = "failed")]
    Failed,
    /// It never began; it may be started again.
    #[value(name = "not_started")]
    NotStarted,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::NotStarted => "not_started",
        }
    }
}

/// Runs an `incident` command.
pub async fn incident(global: &Global, screen: Screen, command: IncidentCommand) -> Result<u8, Failure> {
    let client = Client::connect(global).await?;
    match command {
        IncidentCommand::Ls(args) => {
            let reply = client.list("incident.list", "incidents", json!({}), args.bounds.limit()).await?;
            screen.show(&reply, incidents_table)?;
            if let Some(note) = cut_note(&reply, items(&reply, "incidents").len()) {
                talk(&note);
            }
        }
        IncidentCommand::Show(args) => {
            let reply = client.call("incident.get", &json!({ "incident": args.incident })).await?;
            screen.show(&reply, incident_text)?;
        }
        IncidentCommand::Ack(args) => {
            let body = json!({ "incident": args.which.incident, "note": args.note });
            let reply = client.call("incident.ack", &body).await?;
            screen.show(&reply, |reply, _| format!("{} is looked after by {}\n", args.which.incident, text_of(reply, "acked_by")))?;
        }
        IncidentCommand::Resolve(args) => {
            let body = json!({ "incident": args.which.incident, "as": args.outcome.as_str() });
            let reply = client.call("incident.resolve", &body).await?;
            screen.show(&reply, |_, _| format!("{} is resolved as {}\n", args.which.incident, args.outcome.as_str()))?;
        }
    }
    Ok(exit::OK)
}

fn incidents_table(reply: &Value, style: Style) -> String {
    let rows: Vec<Vec<Cell>> = items(reply, "incidents")
        .iter()
        .map(|incident| {
            vec![
                Cell::new(text_of(incident, "incident")),
                state_cell(&text_of(incident, "state")),
                Cell::new(text_of(incident, "kind")),
                Cell::new(format!("{}/{}", text_of(incident, "epic"), text_of(incident, "task"))),
                Cell::new(text_of(incident, "opened_at")),
                Cell::new(text_of(incident, "summary")),
            ]
        })
        .collect();
    if rows.is_empty() {
        "no incidents\n".to_owned()
    } else {
        table(&["INCIDENT", "STATE", "KIND", "TASK", "OPENED", "SUMMARY"], &rows, style)
    }
}

fn incident_text(incident: &Value, style: Style) -> String {
    let state = text_of(incident, "state");
    let (glyph, paint) = state_mark(&state);
    let id = text_of(incident, "incident");
    let mut pairs = vec![
        ("incident", id.clone()),
        ("kind", text_of(incident, "kind")),
        ("task", format!("{}/{}", text_of(incident, "epic"), text_of(incident, "task"))),
        ("opened", text_of(incident, "opened_at")),
        ("summary", text_of(incident, "summary")),
    ];
    if !incident["acked_by"].is_null() {
        let note = if incident["note"].is_null() { String::new() } else { format!(": {}", text_of(incident, "note")) };
        pairs.push(("acked", format!("{} at {}{note}", text_of(incident, "acked_by"), text_of(incident, "acked_at"))));
    }
    let mut out = format!("{}\n{}", style.paint(paint, &format!("{glyph} {state}")), facts(&pairs, style));
    if state != "resolved" {
        out.push_str(&format!("\nlook at what the task did, then: amphi incident resolve {id} --as succeeded|failed|not_started\n"));
    }
    out
}
