//! `amphi run`: submits an epic once, however often it must be sent, and follows it.

use std::path::PathBuf;
use std::time::Duration;

use amphi_protocol::api::ErrorCode;
use amphi_protocol::ids::{EpicId, SubmitKey};
use clap::Args;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::arguments::{DurationArg, inputs};
use super::client::{Client, find_url};
use super::epic_file::{self, Document};
use super::failure::{Failure, exit};
use super::follow::{FollowOptions, follow};
use super::screen::{Paint, Screen, items, talk};
use super::{Global, plan};

/// How long a submission is sent again without an answer, unless `--timeout` says less.
const SUBMIT_WINDOW: Duration = Duration::from_secs(30);

/// `amphi run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The epic file; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A value for an input of the epic
    #[arg(long = "input", short = 'i', value_name = "K=V")]
    inputs: Vec<String>,
    /// Idempotency key: the same key twice is the same epic [default: a random one]
    #[arg(long, value_name = "KEY")]
    id: Option<SubmitKey>,
    /// Follow the epic to its end (the default on a terminal)
    #[arg(long, conflicts_with_all = ["detach", "dry_run"])]
    wait: bool,
    /// Return as soon as the epic is accepted
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
    /// Stop following then; the epic runs on (exit 7)
    #[arg(long, value_name = "D")]
    timeout: Option<DurationArg>,
    /// Check the file and show its plan; submit nothing
    #[arg(long)]
    dry_run: bool,
}

/// Submits and follows.
pub async fn run(global: &Global, screen: Screen, args: RunArgs) -> Result<u8, Failure> {
    let started = Instant::now();
    let document = epic_file::read(&args.file)?;
    if args.dry_run {
        return dry_run(global, screen, &document, args).await;
    }
    let compiled = epic_file::check(&document, &args.inputs, false, None)?;
    if !compiled.problems.is_empty() {
        return Err(epic_file::invalid(&document, compiled.problems));
    }
    epic_file::warn(screen, &document, &compiled.warnings);
    let client = Client::connect(global).await?;
    let deadline = args.timeout.map(|timeout| started + timeout.0);
    let window = started + SUBMIT_WINDOW;
    let id = args.id.as_ref().map_or_else(|| format!("cli-{}", uuid::Uuid::now_v7()), SubmitKey::to_string);
    let reply = client
        .call_until("epic.submit", &envelope(&document, &args.inputs, Some(&id))?, &id, deadline.map_or(window, |d| d.min(window)))
        .await
        .map_err(|failure| failure.with_sources(document.sources()))?;
    let epic = reply["epic"]
        .as_str()
        .and_then(|epic| EpicId::parse(epic).ok())
        .ok_or_else(|| Failure::new(ErrorCode::Internal, "the cluster accepted the epic without saying its id"))?;
    let duplicate = reply["duplicate"] == Value::Bool(true);
    if !(args.wait || (screen.terminal && !args.detach)) {
        screen.show(&reply, |_, _| format!("{epic}\n"))?;
        return Ok(exit::OK);
    }
    if !screen.json {
        let note = if duplicate { " (submitted before)" } else { "" };
        screen.line(&format!("epic {}{note}", screen.style.paint(Paint::Head, epic.as_str())))?;
    }
    follow(&client, screen, &epic, FollowOptions { deadline, stop_when_waiting: true, has_history: duplicate }).await
}

/// The body of a submission or validation.
fn envelope(document: &Document, pairs: &[String], id: Option<&str>) -> Result<Value, Failure> {
    let mut body = json!({
        "document": document.text,
        "inputs": inputs(pairs)?,
        "workspace_base": document.base.display().to_string(),
        "file": document.name,
    });
    if !document.files.is_empty() {
        body["files"] = serde_json::to_value(&*document.files).expect("file names are text");
    }
    if let Some(id) = id {
        body["id"] = id.into();
    }
    Ok(body)
}

/// Checks here, and by the cluster if there is one; then shows the plan.
async fn dry_run(global: &Global, screen: Screen, document: &Document, args: RunArgs) -> Result<u8, Failure> {
    if global.context.is_some() || find_url(global).is_ok() {
        let client = Client::connect(global).await?;
        let reply =
            client.call("epic.validate", &envelope(document, &args.inputs, None)?).await.map_err(|f| f.with_sources(document.sources()))?;
        if reply["ok"] == Value::Bool(false) {
            let problems = items(&reply, "problems").iter().filter_map(|problem| serde_json::from_value(problem.clone()).ok()).collect();
            return Err(epic_file::invalid(document, problems));
        }
    } else {
        talk("no cluster: checked against the roles and tools that ship with this release");
    }
    plan::plan_document(screen, document, &args.inputs, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_carries_what_the_server_cannot_know() {
        let document =
            Document { name: "a/b.epic.yaml".into(), text: "version: 1\n".into(), base: "/home/me/a".into(), files: Default::default() };
        let body = envelope(&document, &["n=3".to_owned(), "t=a=b".to_owned()], Some("k")).expect("a body");
        assert_eq!(
            body,
            json!({"document": "version: 1\n", "inputs": {"n": "3", "t": "a=b"}, "workspace_base": "/home/me/a", "file": "a/b.epic.yaml", "id": "k"})
        );
    }

    #[test]
    fn an_input_without_a_value_or_given_twice_is_refused() {
        for pairs in [vec!["n"], vec!["=3"], vec!["n=1", "n=2"]] {
            let pairs: Vec<String> = pairs.into_iter().map(str::to_owned).collect();
            assert_eq!(inputs(&pairs).expect_err("refused").exit_code(), 2);
        }
    }
}
