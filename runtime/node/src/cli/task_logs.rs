//! `amphi task logs`: what a task wrote, as it wrote it; with `-f` also what it writes from now on.
//!
//! Bytes of the task go to standard output unchanged: they are the task's own words, and scripts read them.

use std::time::Duration;

use amphi_protocol::subjects;
use clap::Args;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::Global;
use super::arguments::TaskArg;
use super::client::Client;
use super::epic::ask_epic;
use super::failure::{Failure, exit};
use super::feed::{Feed, FeedItem};
use super::screen::{Screen, items, talk};

/// How often the cluster is asked whether a followed task is over.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Silence after the end of a task in which its last output may still arrive.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// `amphi task logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The task
    #[arg(value_name = "EPIC/TASK")]
    task: TaskArg,
    /// Go on with what it writes until it ends
    #[arg(long, short)]
    follow: bool,
    /// The run [default: the last]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    run: Option<u32>,
    /// The attempt [default: the last]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
}

/// Prints the output of a task.
pub async fn logs(global: &Global, screen: Screen, args: LogsArgs) -> Result<u8, Failure> {
    let client = Client::connect(global).await?;
    if !args.follow {
        return kept(&client, screen, &args).await;
    }
    // An unknown task is an error, not an eternal silence.
    ask_epic(&client, "task.get", &args.task.body()).await?;
    tokio::select! {
        result = live(&client, screen, &args) => result,
        _ = tokio::signal::ctrl_c() => Ok(exit::INTERRUPTED),
    }
}

async fn kept(client: &Client, screen: Screen, args: &LogsArgs) -> Result<u8, Failure> {
    let mut body = args.task.body();
    for (field, value) in [("run", args.run), ("attempt", args.attempt)] {
        if let Some(value) = value {
            body[field] = value.into();
        }
    }
    loop {
        let reply = ask_epic(client, "task.logs", &body).await?;
        if reply["truncated"] == Value::Bool(true) && body["after"].is_null() {
            talk("only the beginning of the output was kept");
        }
        for chunk in items(&reply, "chunks") {
            let text = chunk["text"].as_str().unwrap_or_default();
            print(screen, &reply, chunk["source"].as_str().unwrap_or("out"), text.as_bytes())?;
        }
        let next = &reply["next"];
        if next.is_null() || *next == body["after"] {
            return Ok(exit::OK);
        }
        // Further pages are of the attempt that the first page was of.
        for field in ["run", "attempt"] {
            body[field] = reply[field].clone();
        }
        body["after"] = next.clone();
    }
}

fn print(screen: Screen, about: &Value, source: &str, bytes: &[u8]) -> Result<(), Failure> {
    if screen.json {
        let text = String::from_utf8_lossy(bytes);
        let (epic, task, run, attempt) = (&about["epic"], &about["task"], &about["run"], &about["attempt"]);
        return screen.json(&json!({ "epic": epic, "task": task, "run": run, "attempt": attempt, "source": source, "text": text }));
    }
    screen.write_bytes(bytes)
}

async fn live(client: &Client, screen: Screen, args: &LogsArgs) -> Result<u8, Failure> {
    let number = |wanted: Option<u32>| wanted.map_or("*".to_owned(), |n| n.to_string());
    let token = subjects::key_token(&args.task.task);
    let filter = format!("amphi.out.{}.{token}.{}.{}.*", args.task.epic, number(args.run), number(args.attempt));
    let mut feed = Feed::open(client.nats(), subjects::OUTPUT_STREAM, filter, true);
    let mut check = interval(CHECK_EVERY);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut printed = 0usize;
    let mut seen = 0usize;
    let mut over = false;
    loop {
        tokio::select! {
            item = feed.next() => match item {
                FeedItem::Opened { .. } => seen = 0,
                FeedItem::Closed { cause } => tracing::debug!(cause, "output is not readable now"),
                // Two keys can have the same subject token; the header tells them apart.
                FeedItem::Message { task, .. } if task.as_ref().is_some_and(|task| *task != args.task.task) => {}
                FeedItem::Message { subject, body, .. } => {
                    seen += 1;
                    // After the stream was opened again it begins at its start; the same chunks in the same order are skipped.
                    if seen > printed {
                        printed = seen;
                        let (run, attempt, source) = parse_subject(&subject);
                        let about = json!({ "epic": args.task.epic, "task": args.task.task, "run": run, "attempt": attempt });
                        print(screen, &about, source, &body)?;
                        if over {
                            check.reset_after(LAST_WORDS);
                        }
                    }
                }
            },
            _ = check.tick() => {
                if over {
                    return Ok(exit::OK);
                }
                // A cluster that does not answer now is asked again with the next tick.
                let Ok(task) = client.call("task.get", &args.task.body()).await else { continue };
                over = matches!(task["state"].as_str(), Some("succeeded" | "failed" | "cancelled" | "skipped" | "unknown" | "undone"));
                if over {
                    check.reset_after(LAST_WORDS);
                }
            }
        }
    }
}

/// Run, attempt and source of `amphi.out.<epic>.<task>.<run>.<attempt>.<out|err>`.
pub fn parse_subject(subject: &str) -> (u32, u32, &str) {
    let mut parts = subject.rsplit('.');
    let source = parts.next().unwrap_or("out");
    let attempt = parts.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let run = parts.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    (run, attempt, source)
}

#[cfg(test)]
mod tests {
    use amphi_protocol::ids::EpicId;

    use super::*;

    #[test]
    fn a_subject_of_output_names_run_attempt_and_source() {
        let epic = EpicId::parse("e-1").expect("an id");
        let subject = subjects::output(&epic, &subjects::key_token("unit[1,a]"), 2, 3, "err");
        assert_eq!(parse_subject(&subject), (2, 3, "err"));
        assert!(subject.starts_with("amphi.out.e-1.unit-1-a."));
    }
}
