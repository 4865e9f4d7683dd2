//! `amphi epic …`: check a file, look at epics, cancel them.

use std::path::PathBuf;
use std::time::Duration;

use amphi_protocol::api::ErrorCode;
use amphi_protocol::ids::EpicId;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::arguments::{DurationArg, EPIC_STATES, ListBounds, cut_note};
use super::client::Client;
use super::event_line::{Detail, event_line};
use super::failure::{Failure, exit};
use super::follow::{EVENTS_PAGE, FollowOptions, follow};
use super::screen::{Cell, Paint, Screen, Style, facts, items, state_cell, state_mark, table, talk, text_of};
use super::{Global, epic_file, epic_report, graph, journal_file, plan, task, verdict};

/// `amphi epic …`.
#[derive(Debug, Subcommand)]
pub enum EpicCommand {
    /// Check an epic file, offline; all problems at once
    Validate(epic_file::FileArgs),
    /// Show what an epic file expands to, offline
    Plan(epic_file::FileArgs),
    /// Draw the graph of an epic file, or of an epic with its states
    Graph(graph::GraphArgs),
    /// List epics
    Ls(LsArgs),
    /// One epic with its tasks
    Show(IdArgs),
    /// Follow an epic to its end
    Watch(WatchArgs),
    /// The whole history of an epic, from the journal
    Events(IdArgs),
    /// Judge the history of an epic by the laws
    Verify(VerifyArgs),
    /// How long an epic took and why: critical path, speed-up, coordination, utilisation
    Report(epic_report::ReportArgs),
    /// The journal of an epic as NDJSON, for `verify --journal`
    Export(ExportArgs),
    /// Let nothing new of an epic start; what runs goes on
    Pause(IdArgs),
    /// Let a paused epic go on
    Resume(IdArgs),
    /// Open new runs of what did not end well, or of a task and all that comes after it
    Retry(RetryArgs),
    /// Cancel an epic; its processes end
    Cancel(CancelArgs),
}

/// The epic.
#[derive(Debug, Args)]
pub struct IdArgs {
    /// The epic's id, as `run` and `epic ls` show it
    #[arg(value_name = "EPIC")]
    id: EpicId,
}

/// `epic ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Only epics in this state
    #[arg(long, value_name = "STATE", value_parser = EPIC_STATES)]
    state: Option<String>,
    /// Only epics whose id begins so
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Only epics of this project
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    #[command(flatten)]
    bounds: ListBounds,
}

/// `epic watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Stop following then; the epic runs on (exit 7)
    #[arg(long, value_name = "D")]
    timeout: Option<DurationArg>,
}

/// `epic verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The epic's id; without it everything is judged, the whole cluster or the whole file
    #[arg(value_name = "EPIC")]
    id: Option<EpicId>,
    /// Judge an exported journal, offline (`-` is standard input)
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
}

/// `epic export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Write to a file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// `epic retry`.
#[derive(Debug, Args)]
pub struct RetryArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Run this task and everything after it again, also what succeeded
    #[arg(long, value_name = "TASK")]
    from: Option<String>,
}

/// `epic cancel`.
#[derive(Debug, Args)]
pub struct CancelArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Then undo what succeeded and has an `undo`, the last first
    #[arg(long)]
    undo: bool,
}

/// Runs an `epic` command.
pub async fn epic(global: &Global, screen: Screen, command: EpicCommand) -> Result<u8, Failure> {
    match command {
        EpicCommand::Validate(args) => epic_file::validate(screen, &args),
        EpicCommand::Plan(args) => plan::plan(screen, &args),
        EpicCommand::Graph(args) => graph::graph(global, screen, &args).await,
        EpicCommand::Ls(args) => ls(global, screen, args).await,
        EpicCommand::Show(args) => show(global, screen, &args.id).await,
        EpicCommand::Watch(args) => watch(global, screen, args).await,
        EpicCommand::Events(args) => events(global, screen, &args.id).await,
        EpicCommand::Verify(args) => verify(global, screen, args).await,
        EpicCommand::Report(args) => epic_report::report(global, screen, &args).await,
        EpicCommand::Export(args) => {
            journal_file::export(&Client::connect(global).await?, screen, &args.id.id, args.output.as_deref()).await
        }
        EpicCommand::Pause(args) => change(global, screen, ("epic.pause", json!({ "epic": args.id })), "is paused").await,
        EpicCommand::Resume(args) => change(global, screen, ("epic.resume", json!({ "epic": args.id })), "goes on").await,
        EpicCommand::Retry(args) => {
            let body = json!({ "epic": args.id.id, "from": args.from });
            change(global, screen, ("epic.retry", body), "is tried again").await
        }
        EpicCommand::Cancel(args) => cancel(global, screen, &args).await,
    }
}

/// Asks about one epic; an unknown one is answered with the nearest that exists.
pub async fn ask_epic(client: &Client, endpoint: &str, body: &Value) -> Result<Value, Failure> {
    match client.call(endpoint, body).await {
        Err(failure) if failure.code() == Some(ErrorCode::EpicNotFound) => {
            let wanted = body["epic"].as_str().unwrap_or_default();
            Err(match nearest_epic(client, wanted).await {
                Some(near) => failure.hint(format!("did you mean `{near}`? `amphi epic ls` lists all")),
                None => failure.hint("`amphi epic ls` lists all"),
            })
        }
        other => other,
    }
}

async fn nearest_epic(client: &Client, wanted: &str) -> Option<String> {
    let reply = client.call("epic.list", &json!({ "limit": 500 })).await.ok()?;
    let ids: Vec<&str> = items(&reply, "epics").iter().filter_map(|epic| epic["epic"].as_str()).collect();
    nearest(&ids, wanted)
}

/// The id that begins with `wanted`, or the most similar one if it is similar at all.
fn nearest(ids: &[&str], wanted: &str) -> Option<String> {
    if let Some(id) = ids.iter().find(|id| id.starts_with(wanted)) {
        return Some((*id).to_owned());
    }
    let scored = ids.iter().map(|id| (strsim::jaro_winkler(id, wanted), *id));
    scored.filter(|(score, _)| *score > 0.85).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, id)| id.to_owned())
}

async fn ls(global: &Global, screen: Screen, args: LsArgs) -> Result<u8, Failure> {
    let client = Client::connect(global).await?;
    let request = args.state.map_or(json!({}), |state| json!({ "state": state }));
    let is_picked = args.name.is_some() || args.project.is_some();
    // What is picked here must have been seen first.
    let limit = if is_picked { None } else { args.bounds.limit() };
    let mut reply = client.list("epic.list", "epics", request, limit).await?;
    if let (true, Some(epics)) = (is_picked, reply["epics"].as_array_mut()) {
        let name = args.name.as_deref().unwrap_or_default();
        epics.retain(|epic| epic["epic"].as_str().is_some_and(|id| id.starts_with(name)));
        epics.retain(|epic| args.project.as_deref().is_none_or(|project| epic["project"] == project));
        let found = epics.len();
        epics.truncate(args.bounds.limit().unwrap_or(found));
        if epics.len() < found {
            let next = epics.last().map_or(Value::Null, |epic| epic["epic"].clone());
            (reply["next"], reply["total"]) = (next, found.into());
        }
    }
    screen.show(&reply, epics_table)?;
    if let Some(note) = cut_note(&reply, items(&reply, "epics").len()) {
        talk(&note);
    }
    Ok(exit::OK)
}

fn epics_table(reply: &Value, style: Style) -> String {
    let rows: Vec<Vec<Cell>> = items(reply, "epics")
        .iter()
        .map(|epic| {
            vec![
                Cell::new(text_of(epic, "epic")),
                state_cell(&text_of(epic, "state")),
                Cell::new(done_text(epic)),
                Cell::new(text_of(epic, "project")),
                Cell::new(text_of(epic, "priority")),
                Cell::new(text_of(epic, "submitted_at")),
                Cell::new(text_of(epic, "ended_at")),
                Cell::new(parent_text(epic)),
            ]
        })
        .collect();
    if rows.is_empty() {
        "no epics\n".to_owned()
    } else {
        table(&["EPIC", "STATE", "DONE", "PROJECT", "PRIORITY", "SUBMITTED", "ENDED", "PART OF"], &rows, style)
    }
}

/// `3/7`: tasks that are over, of all.
pub fn done_text(epic: &Value) -> String {
    let Some(counts) = epic["counts"].as_object() else { return "-".to_owned() };
    let sum = |over: bool| -> u64 {
        let wanted = counts
            .iter()
            .filter(|(state, _)| !over || matches!(state.as_str(), "succeeded" | "failed" | "cancelled" | "skipped" | "undone"));
        wanted.filter_map(|(_, count)| count.as_u64()).sum()
    };
    format!("{}/{}", sum(true), sum(false))
}

/// `EPIC/TASK` that a sub-epic is the work of.
fn parent_text(epic: &Value) -> String {
    let parent = &epic["parent"];
    if parent.is_null() { "-".to_owned() } else { format!("{}/{}", text_of(parent, "epic"), text_of(parent, "task")) }
}

async fn show(global: &Global, screen: Screen, id: &EpicId) -> Result<u8, Failure> {
    let client = Client::connect(global).await?;
    // The first question is small, so that a mistyped id gets its hint; the second reads all pages of tasks.
    ask_epic(&client, "epic.get", &json!({ "epic": id, "limit": 1 })).await?;
    let reply = client.list("epic.get", "tasks", json!({ "epic": id }), None).await?;
    screen.show(&reply, epic_text)?;
    Ok(exit::OK)
}

fn epic_text(epic: &Value, style: Style) -> String {
    let state = text_of(epic, "state");
    let (glyph, paint) = state_mark(&state);
    let inputs = epic["inputs"].as_object().filter(|inputs| !inputs.is_empty()).map_or("-".to_owned(), |_| epic["inputs"].to_string());
    let mut out = facts(
        &[
            ("epic", text_of(epic, "epic")),
            ("name", text_of(epic, "name")),
            ("project", text_of(epic, "project")),
            ("priority", text_of(epic, "priority")),
            ("inputs", inputs),
            ("submitted", format!("{} by {}", text_of(epic, "submitted_at"), text_of(epic, "submitted_by"))),
            ("ended", text_of(epic, "ended_at")),
            ("part of", parent_text(epic)),
        ],
        style,
    );
    out.insert_str(0, &format!("{}\n", style.paint(paint, &format!("{glyph} {state}"))));
    out.push('\n');
    out.push_str(&task::tasks_table(items(epic, "tasks"), false, style));
    for task in items(epic, "tasks").iter().filter(|task| task["child"].is_string()) {
        let percent = task["percent"].as_u64().map(|percent| format!("  {percent} %")).unwrap_or_default();
        out.push_str(&format!(
            "\n{} {}  is epic {}{percent}",
            style.paint(Paint::Mark, "└─"),
            text_of(task, "task"),
            text_of(task, "child")
        ));
    }
    if out.ends_with(|c| c != '\n') {
        out.push('\n');
    }
    if epic["undoing"] == Value::Bool(true) {
        out.push_str(&format!(
            "\n{} it is undone before it ends: what succeeded and has an undo, the last first\n",
            style.paint(Paint::Warn, "↶")
        ));
    }
    let left = items(epic, "tasks").iter().filter(|task| task["undo"] == Value::Bool(true) && task["state"] == "succeeded").count();
    if left > 0 {
        out.push_str(&format!("\n{} not undone, because their undo failed: {left} (amphi incident ls)\n", style.paint(Paint::Bad, "✗")));
    }
    if state == "waiting" {
        out.push_str(&format!("\n{} a person is needed: amphi incident ls\n", style.paint(Paint::Warn, "☝")));
    }
    out
}

async fn watch(global: &Global, screen: Screen, args: WatchArgs) -> Result<u8, Failure> {
    let client = Client::connect(global).await?;
    ask_epic(&client, "epic.get", &json!({ "epic": args.id.id, "limit": 1 })).await?;
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout.0);
    follow(&client, screen, &args.id.id, FollowOptions { deadline, stop_when_waiting: false, has_history: true }).await
}

async fn events(global: &Global, screen: Screen, id: &EpicId) -> Result<u8, Failure> {
    let client = Client::connect(global).await?;
    let mut after = 0;
    loop {
        let body = json!({ "epic": id, "after": after, "limit": EVENTS_PAGE });
        let reply = ask_epic(&client, "epic.events", &body).await?;
        let mut page = String::new();
        for event in items(&reply, "events") {
            let line = if screen.json { Some(event.to_string()) } else { event_line(event, Detail::All, screen.style) };
            page.extend(line);
            page.push('\n');
        }
        screen.write(&page)?;
        match reply["next"].as_u64() {
            Some(next) if next > after => after = next,
            _ => return Ok(exit::OK),
        }
    }
}

/// Judging a cluster means reading all that ever happened in it.
const VERIFY_ALL_WITHIN: Duration = Duration::from_secs(600);

async fn verify(global: &Global, screen: Screen, args: VerifyArgs) -> Result<u8, Failure> {
    let verdict = match (&args.journal, &args.id) {
        (Some(path), id) => journal_file::check(path, id.as_ref())?,
        (None, Some(id)) => ask_epic(&Client::connect(global).await?, "epic.verify", &json!({ "epic": id })).await?,
        (None, None) => Client::connect(global).await?.patient(VERIFY_ALL_WITHIN).call("epic.verify", &json!({})).await?,
    };
    screen.show(&verdict, verdict::verdict_text)?;
    Ok(if verdict["ok"] == Value::Bool(true) { exit::OK } else { exit::FAILED })
}

async fn change(global: &Global, screen: Screen, (endpoint, body): (&str, Value), done: &str) -> Result<u8, Failure> {
    let reply = ask_epic(&Client::connect(global).await?, endpoint, &body).await?;
    screen.show(&reply, |reply, _| format!("{} {done}\n", text_of(reply, "epic")))?;
    Ok(exit::OK)
}

async fn cancel(global: &Global, screen: Screen, args: &CancelArgs) -> Result<u8, Failure> {
    let id = &args.id.id;
    let client = Client::connect(global).await?;
    let reply = ask_epic(&client, "epic.cancel", &json!({ "epic": id, "undo": args.undo })).await?;
    let then = if args.undo { " and undone" } else { "" };
    screen.show(&reply, |_, _| format!("{id} is being cancelled{then}; follow it: amphi epic watch {id}\n"))?;
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_epic_is_answered_with_the_nearest() {
        let ids = ["deploy-v2-7k3f", "hotfix-19c2"];
        assert_eq!(nearest(&ids, "deploy-v2-7k3").as_deref(), Some("deploy-v2-7k3f"));
        assert_eq!(nearest(&ids, "hotfix-19c3").as_deref(), Some("hotfix-19c2"));
        assert_eq!(nearest(&ids, "zzz"), None);
    }

    #[test]
    fn an_epic_shows_its_state_and_its_tasks() {
        let epic = json!({"epic": "e-1", "name": "e", "project": "default", "priority": 2, "state": "running", "inputs": {},
            "submitted_by": "local", "submitted_at": "2026-11-20T23:41:07.113Z", "ended_at": null,
            "tasks": [{"epic": "e-1", "task": "a", "kind": "run", "state": "running", "run": 1, "attempt": 1, "agent": "node-1-BuildMaster-1"}]});
        let text = epic_text(&epic, Style::PLAIN);
        assert_eq!(
            text,
            "▶ running\nepic       e-1\nname       e\nproject    default\npriority   2\nsubmitted  2026-11-20T23:41:07.113Z by local\n\n\
             TASK  STATE      KIND  RUN.ATT  AGENT                 WHY\na     ▶ running  run   1.1      node-1-BuildMaster-1\n"
        );
    }
}
