//! `amphi logs`: what the tasks of an epic, or of all epics, wrote; each line after the name of its task.
//!
//! Text of tasks is shown without control characters here, because lines of many tasks stand beside each other; `task logs` gives the
//! bytes of one as they are.

use std::collections::BTreeMap;
use std::time::Duration;

use amphi_protocol::api::ErrorCode;
use amphi_protocol::ids::EpicId;
use amphi_protocol::subjects;
use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::Global;
use super::client::Client;
use super::epic::ask_epic;
use super::failure::{Failure, exit};
use super::feed::{Feed, FeedItem};
use super::screen::{Paint, Screen, visible};
use super::task_logs::parse_subject;

/// How often the cluster is asked whether a followed epic is over.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Silence after the end of an epic in which its last output may still arrive.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the stream may be unreadable before a command without `--follow` gives up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest line that is held back for its end.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// `amphi logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Only of this epic
    #[arg(value_name = "EPIC")]
    epic: Option<EpicId>,
    /// Go on with what is written, until the epic ends
    #[arg(long, short)]
    follow: bool,
    /// Only of this task, all its runs of a matrix included
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
}

/// Prints what the stream holds, and with `--follow` what comes.
pub async fn logs(global: &Global, screen: Screen, args: LogsArgs) -> Result<u8, Failure> {
    let client = Client::connect(global).await?;
    if let Some(epic) = &args.epic {
        // An unknown epic is an error, not an empty answer.
        ask_epic(&client, "epic.get", &json!({ "epic": epic, "limit": 1 })).await?;
    }
    let mut lines = Lines { screen, with_epic: args.epic.is_none(), open: BTreeMap::new() };
    let result = tokio::select! {
        result = print(&client, &args, &mut lines) => result,
        _ = tokio::signal::ctrl_c() => Ok(exit::INTERRUPTED),
    };
    lines.finish()?;
    result
}

async fn print(client: &Client, args: &LogsArgs, lines: &mut Lines) -> Result<u8, Failure> {
    let filter = args.epic.as_ref().map_or(subjects::OUTPUT_SUBJECTS.to_owned(), |epic| format!("amphi.out.{epic}.>"));
    let mut feed = Feed::open(client.nats(), subjects::OUTPUT_STREAM, filter, true);
    let mut check = interval(CHECK_EVERY);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut printed, mut seen, mut pending, mut is_over) = (0u64, 0u64, None, false);
    let give_up = Instant::now() + PATIENCE;
    loop {
        tokio::select! {
            item = feed.next() => match item {
                FeedItem::Opened { pending: count } => {
                    // After the stream was opened again it begins at its start; the same chunks in the same order are skipped.
                    seen = 0;
                    pending = Some(count);
                }
                FeedItem::Closed { cause } => tracing::debug!(cause, "output is not readable now"),
                FeedItem::Message { subject, task, body } => {
                    seen += 1;
                    if seen > printed {
                        printed = seen;
                        lines.take(&subject, task.as_deref(), args.task.as_deref(), &body)?;
                        if is_over {
                            check.reset_after(LAST_WORDS);
                        }
                    }
                }
            },
            () = sleep_until(give_up), if !args.follow && pending.is_none() => {
                return Err(Failure::new(ErrorCode::ClusterUnreachable, "the output of tasks cannot be read").hint("amphi doctor"));
            }
            _ = check.tick(), if args.follow && args.epic.is_some() => {
                if is_over {
                    return Ok(exit::OK);
                }
                // A cluster that does not answer now is asked again with the next tick.
                let Ok(epic) = client.call("epic.get", &json!({ "epic": args.epic, "limit": 1 })).await else { continue };
                is_over = matches!(epic["state"].as_str(), Some("succeeded" | "failed" | "cancelled"));
                if is_over {
                    check.reset_after(LAST_WORDS);
                }
            }
        }
        if !args.follow && pending.is_some_and(|pending| seen >= pending) {
            return Ok(exit::OK);
        }
    }
}

/// Chunks become lines, each source of each attempt by itself.
struct Lines {
    screen: Screen,
    with_epic: bool,
    open: BTreeMap<String, (String, Vec<u8>)>,
}

impl Lines {
    fn take(&mut self, subject: &str, task: Option<&str>, wanted: Option<&str>, body: &[u8]) -> Result<(), Failure> {
        let mut parts = subject.split('.').skip(2);
        let (epic, token) = (parts.next().unwrap_or("?"), parts.next().unwrap_or("?"));
        let task = task.unwrap_or(token);
        if wanted.is_some_and(|wanted| task != wanted && task.split('[').next() != Some(wanted)) {
            return Ok(());
        }
        let (run, attempt, source) = parse_subject(subject);
        if self.screen.json {
            let text = String::from_utf8_lossy(body);
            let chunk: Value = json!({ "epic": epic, "task": task, "run": run, "attempt": attempt, "source": source, "text": text });
            return self.screen.json(&chunk);
        }
        let name = if self.with_epic { format!("{epic}/{task}") } else { task.to_owned() };
        let (_, held) = self.open.entry(subject.to_owned()).or_insert_with(|| (name.clone(), Vec::new()));
        held.extend_from_slice(body);
        let end = match held.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if held.len() > LINE_BYTES_MAX => held.len(),
            None => return Ok(()),
        };
        let whole: Vec<u8> = held.drain(..end).collect();
        if held.is_empty() {
            self.open.remove(subject);
        }
        self.write(&name, source, &whole)
    }

    fn write(&self, name: &str, source: &str, bytes: &[u8]) -> Result<(), Failure> {
        let style = self.screen.style;
        let paint = if source == "err" { Paint::Warn } else { Paint::Mark };
        let head = style.paint(paint, &visible(name));
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<String> = text.lines().map(|line| format!("{head}  {}\n", visible(line))).collect();
        self.screen.write(&lines.concat())
    }

    /// What ended without the end of its line.
    fn finish(&mut self) -> Result<(), Failure> {
        for (subject, (name, held)) in std::mem::take(&mut self.open) {
            self.write(&name, parse_subject(&subject).2, &held)?;
        }
        Ok(())
    }
}
