//! `amphi task …`: tasks of an epic, their output, retry and cancel.

use amphi_protocol::ids::{AgentId, EpicId};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Global;
use super::arguments::{ListBounds, TASK_STATES, TaskArg, cut_note};
use super::client::Client;
use super::epic::ask_epic;
use super::failure::{Failure, exit};
use super::screen::{Cell, Screen, Style, facts, items, state_cell, state_mark, table, talk, text_of};
use super::task_logs::{LogsArgs, logs};

/// `amphi task …`.
#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// The tasks of an epic
    Ls(LsArgs),
    /// One task
    Show(TaskArgs),
    /// What a task wrote
    Logs(LogsArgs),
    /// Open a new run of an ended task, and of what was cancelled because of it
    Retry(TaskArgs),
    /// Leave out a task that has not started or did not end well; what needs it goes on
    Skip(TaskArgs),
    /// Cancel a task; its processes end
    Cancel(TaskArgs),
    /// Say which agent has the next attempt of a task that has not started
    Assign(AssignArgs),
}

/// `task ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// The epic
    #[arg(value_name = "EPIC")]
    epic: EpicId,
    /// Only tasks in this state
    #[arg(long, value_name = "STATE", value_parser = TASK_STATES, hide_possible_values = true)]
    state: Option<String>,
    #[command(flatten)]
    bounds: ListBounds,
}

/// The task.
#[derive(Debug, Args)]
pub struct TaskArgs {
    /// The task, for instance deploy-v2-7k3f/unit or deploy-v2-7k3f/unit[2]
    #[arg(value_name = "EPIC/TASK")]
    task: TaskArg,
}

/// `task assign`.
#[derive(Debug, Args)]
pub struct AssignArgs {
    /// The task, for instance deploy-v2-7k3f/unit or deploy-v2-7k3f/unit[2]
    #[arg(value_name = "EPIC/TASK")]
    task: TaskArg,
    /// The agent; `amphi agent ls` lists them
    #[arg(value_name = "AGENT")]
    agent: AgentId,
}

/// Runs a `task` command.
pub async fn task(global: &Global, screen: Screen, command: TaskCommand) -> Result<u8, Failure> {
    match command {
        TaskCommand::Ls(args) => ls(global, screen, args).await,
        TaskCommand::Show(args) => {
            let reply = ask_epic(&Client::connect(global).await?, "task.get", &args.task.body()).await?;
            screen.show(&reply, task_text)?;
            Ok(exit::OK)
        }
        TaskCommand::Logs(args) => logs(global, screen, args).await,
        TaskCommand::Retry(args) => change(global, screen, "task.retry", &args.task, "is tried again").await,
        TaskCommand::Skip(args) => change(global, screen, "task.skip", &args.task, "is skipped").await,
        TaskCommand::Assign(args) => assign(global, screen, args).await,
        TaskCommand::Cancel(args) => change(global, screen, "task.cancel", &args.task, "is being cancelled").await,
    }
}

async fn change(global: &Global, screen: Screen, endpoint: &str, task: &TaskArg, done: &str) -> Result<u8, Failure> {
    let reply = ask_epic(&Client::connect(global).await?, endpoint, &task.body()).await?;
    screen.show(&reply, |_, _| format!("{}/{} {done}\n", task.epic, task.task))?;
    Ok(exit::OK)
}

async fn assign(global: &Global, screen: Screen, args: AssignArgs) -> Result<u8, Failure> {
    let body = json!({ "epic": args.task.epic, "task": args.task.task, "agent": args.agent });
    let reply = ask_epic(&Client::connect(global).await?, "task.assign", &body).await?;
    screen.show(&reply, |_, _| format!("{}/{} waits for {}\n", args.task.epic, args.task.task, args.agent))?;
    Ok(exit::OK)
}

async fn ls(global: &Global, screen: Screen, args: LsArgs) -> Result<u8, Failure> {
    let client = Client::connect(global).await?;
    // A state is picked here, so all tasks must be seen for it.
    let limit = if args.state.is_some() { None } else { args.bounds.limit() };
    // The first question is about the epic itself, so that a mistyped one gets its hint.
    ask_epic(&client, "task.list", &json!({ "epic": args.epic, "limit": 1 })).await?;
    let mut reply = client.list("task.list", "tasks", json!({ "epic": args.epic }), limit).await?;
    if let (Some(state), Some(tasks)) = (&args.state, reply["tasks"].as_array_mut()) {
        tasks.retain(|task| task["state"] == *state.as_str());
    }
    screen.show(&reply, |reply, style| tasks_table(items(reply, "tasks"), false, style))?;
    if let Some(note) = cut_note(&reply, items(&reply, "tasks").len()) {
        talk(&note);
    }
    Ok(exit::OK)
}

/// Tasks, one per line; with their epic if they come from several.
pub fn tasks_table(tasks: &[Value], with_epic: bool, style: Style) -> String {
    if tasks.is_empty() {
        return "no tasks\n".to_owned();
    }
    let rows: Vec<Vec<Cell>> = tasks
        .iter()
        .map(|task| {
            let name = if with_epic { format!("{}/{}", text_of(task, "epic"), text_of(task, "task")) } else { text_of(task, "task") };
            let number = |field: &str| task[field].as_u64().unwrap_or(0);
            let attempt = if number("attempt") == 0 { "-".to_owned() } else { format!("{}.{}", number("run"), number("attempt")) };
            vec![
                Cell::new(name),
                state_cell(&text_of(task, "state")),
                Cell::new(text_of(task, "kind")),
                Cell::new(attempt),
                Cell::new(text_of(task, "agent")),
                Cell::new(why_text(task)),
            ]
        })
        .collect();
    table(&["TASK", "STATE", "KIND", "RUN.ATT", "AGENT", "WHY"], &rows, style)
}

/// Why a task stands where it stands: its error, its exit code, or what it waits for.
fn why_text(task: &Value) -> String {
    if let Some(error) = task["error"].as_str().filter(|error| !error.is_empty()) {
        return error.to_owned();
    }
    if let Some(code) = task["exit_code"].as_i64().filter(|code| *code != 0) {
        return format!("exit {code}");
    }
    match &task["reason"] {
        Value::String(reason) => reason.clone(),
        Value::Object(reason) => reason.get("reason").or(reason.get("kind")).and_then(Value::as_str).unwrap_or_default().to_owned(),
        _ => String::new(),
    }
}

fn task_text(task: &Value, style: Style) -> String {
    let state = text_of(task, "state");
    let (glyph, paint) = state_mark(&state);
    let list = |field: &str| items(task, field).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    let mut pairs = vec![
        ("task", format!("{}/{}", text_of(task, "epic"), text_of(task, "task"))),
        ("kind", text_of(task, "kind")),
        ("needs", list("needs")),
        ("run", text_of(task, "run")),
        ("attempt", text_of(task, "attempt")),
        ("agent", text_of(task, "agent")),
        ("node", text_of(task, "node")),
        ("assigned to", text_of(task, "pinned_to")),
        ("token", text_of(task, "token")),
        ("started", text_of(task, "started_at")),
        ("ended", text_of(task, "ended_at")),
        ("exit code", text_of(task, "exit_code")),
        ("why", why_text(task)),
    ];
    let outputs = task["outputs"].as_object().filter(|outputs| !outputs.is_empty()).map(|_| task["outputs"].to_string());
    pairs.extend(outputs.map(|outputs| ("outputs", outputs)));
    format!("{}\n{}", style.paint(paint, &format!("{glyph} {state}")), facts(&pairs, style))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_say_why_they_stand_where_they_stand() {
        let tasks = [
            json!({"epic": "e-1", "task": "a", "kind": "run", "state": "failed", "run": 2, "attempt": 1, "agent": null, "exit_code": 3}),
            json!({"epic": "e-1", "task": "b[1]", "kind": "tool", "state": "waiting", "run": 1, "attempt": 0, "reason": "lock"}),
        ];
        assert_eq!(
            tasks_table(&tasks, true, Style::PLAIN),
            "TASK      STATE      KIND  RUN.ATT  AGENT  WHY\n\
             e-1/a     ✗ failed   run   2.1      -      exit 3\n\
             e-1/b[1]  ◌ waiting  tool  -        -      lock\n"
        );
    }
}
