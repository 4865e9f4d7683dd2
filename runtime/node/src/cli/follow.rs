//! Follows one epic to its end, without missing an event and without ever hanging.
//!
//! Events come from the stream, which may vanish and be filled again; the cluster's own word (`epic.get`) says whether it is over,
//! and `epic.events`, which reads the journal, fills whatever the stream left out.

use std::collections::BTreeMap;
use std::time::Duration;

use amphi_protocol::api::ErrorCode;
use amphi_protocol::ids::EpicId;
use amphi_protocol::subjects;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::bars::Bars;
use super::client::Client;
use super::event_line::{Detail, event_line};
use super::failure::{Failure, exit};
use super::feed::{Feed, FeedItem};
use super::screen::{Paint, Screen, duration_text, items, state_mark, talk};

/// How often the cluster is asked whether the epic is over while no event says anything.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Failed tasks that the closing summary names.
const FAILED_SHOWN_MAX: usize = 20;
/// Events per request when the journal is read.
pub const EVENTS_PAGE: u64 = 1000;

/// How an epic is followed.
#[derive(Debug, Clone, Copy)]
pub struct FollowOptions {
    /// Stop then, the epic runs on.
    pub deadline: Option<Instant>,
    /// Stop when nothing runs and a person is needed.
    pub stop_when_waiting: bool,
    /// The epic may have a history that the stream no longer holds.
    pub has_history: bool,
}

/// Follows `epic` and prints what happens; gives the exit code.
pub async fn follow(client: &Client, screen: Screen, epic: &EpicId, options: FollowOptions) -> Result<u8, Failure> {
    let mut watch = Watch { client, screen, epic, last: 0, bars: Bars::open(screen) };
    let result = tokio::select! {
        // First: whoever has seen a line can detach.
        biased;
        _ = tokio::signal::ctrl_c() => None,
        result = watch.run(options) => Some(result),
    };
    watch.bars = None;
    match result {
        // The reader is gone, the epic is not: that is no success of the epic.
        Some(Err(Failure::PipeClosed)) => Ok(exit::INTERRUPTED),
        Some(other) => other,
        None => {
            talk(&format!("detached; {epic} runs on. Follow it again: amphi epic watch {epic}"));
            Ok(exit::INTERRUPTED)
        }
    }
}

struct Watch<'a> {
    client: &'a Client,
    screen: Screen,
    epic: &'a EpicId,
    /// Number of the last printed event.
    last: u64,
    /// Under the lines, at a terminal.
    bars: Option<Bars>,
}

/// What an event means for the one who follows.
#[derive(PartialEq, Eq)]
enum Sign {
    None,
    MayBeOver,
}

impl Watch<'_> {
    async fn run(&mut self, options: FollowOptions) -> Result<u8, Failure> {
        if options.has_history {
            self.catch_up().await?;
        }
        if self.bars.is_some() {
            // How many runs there are; without it the bar comes with the first look.
            let _ = self.status().await;
        }
        let mut feed = Feed::open(self.client.nats(), subjects::EVENTS_STREAM, subjects::epic_events(self.epic), true);
        let mut check = interval(CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        check.reset();
        let far = Instant::now() + Duration::from_secs(365 * 86_400);
        let mut opened_before = false;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(options.deadline.unwrap_or(far)) => return self.timed_out().await,
                item = feed.next() => match item {
                    FeedItem::Message { body, .. } => {
                        let sign = self.take(&body)?;
                        check.reset();
                        if sign == Sign::MayBeOver && let Some(code) = self.look(options).await? {
                            return Ok(code);
                        }
                    }
                    // The stream may have lost its oldest part meanwhile.
                    FeedItem::Opened { .. } if opened_before => self.catch_up().await?,
                    FeedItem::Opened { .. } => opened_before = true,
                    FeedItem::Closed { cause } => tracing::debug!(cause, "events are not readable now"),
                },
                _ = check.tick() => {
                    if let Some(code) = self.look(options).await? {
                        return Ok(code);
                    }
                }
            }
        }
    }

    fn take(&mut self, body: &[u8]) -> Result<Sign, Failure> {
        match serde_json::from_slice::<Value>(body) {
            Ok(event) => self.print(&event),
            Err(error) => {
                tracing::warn!(%error, "an event that is not JSON");
                Ok(Sign::None)
            }
        }
    }

    fn print(&mut self, event: &Value) -> Result<Sign, Failure> {
        let Some(seq) = event["seq"].as_u64().filter(|seq| *seq > self.last) else { return Ok(Sign::None) };
        self.last = seq;
        if self.screen.json {
            self.screen.json(event)?;
        } else if let Some(line) = event_line(event, Detail::Changes, self.screen.style) {
            match &self.bars {
                Some(bars) => bars.beside(|| self.screen.line(&line))?,
                None => self.screen.line(&line)?,
            }
        }
        if let Some(bars) = &mut self.bars {
            bars.hear(event);
        }
        let kind = event["type"].as_str().unwrap_or_default();
        let over = matches!(kind, "epic.succeeded" | "epic.failed" | "epic.cancelled" | "epic.waiting");
        Ok(if over { Sign::MayBeOver } else { Sign::None })
    }

    /// Prints what the journal has after the last printed event.
    async fn catch_up(&mut self) -> Result<(), Failure> {
        loop {
            let body = json!({ "epic": self.epic, "after": self.last, "limit": EVENTS_PAGE });
            let reply = match self.client.call("epic.events", &body).await {
                Ok(reply) => reply,
                Err(failure) if may_pass(&failure) => return Ok(()),
                Err(failure) => return Err(failure),
            };
            let before = self.last;
            for event in items(&reply, "events") {
                self.print(event)?;
            }
            if reply["next"].is_null() || self.last == before {
                return Ok(());
            }
        }
    }

    /// Asks the cluster; gives the exit code if there is nothing more to follow.
    async fn look(&mut self, options: FollowOptions) -> Result<Option<u8>, Failure> {
        let status = match self.status().await {
            Ok(status) => status,
            // A restarting cluster is waited for; the deadline and Ctrl-C still work.
            Err(failure) if may_pass(&failure) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let code = match status["state"].as_str().unwrap_or_default() {
            "succeeded" => exit::OK,
            "failed" | "cancelled" => exit::FAILED,
            "waiting" if options.stop_when_waiting && !anything_runs(&status) => exit::PERSON_NEEDED,
            _ => return Ok(None),
        };
        self.catch_up().await?;
        self.finish(status).await?;
        Ok(Some(code))
    }

    async fn timed_out(&mut self) -> Result<u8, Failure> {
        if let Ok(status) = self.status().await {
            self.catch_up().await?;
            self.finish(status).await?;
        }
        talk(&format!("timed out; {0} runs on. Follow it again: amphi epic watch {0}", self.epic));
        Ok(exit::TIMED_OUT)
    }

    /// The epic without most of its tasks: counts tell enough, and a large epic is asked for often.
    async fn status(&self) -> Result<Value, Failure> {
        let status = self.client.call("epic.get", &json!({ "epic": self.epic, "limit": 1 })).await?;
        if let Some(bars) = &self.bars {
            bars.counted(&counts(&status));
        }
        Ok(status)
    }

    async fn finish(&mut self, mut status: Value) -> Result<(), Failure> {
        self.bars = None;
        let result = result_of(&status);
        if self.screen.json {
            return self.screen.json(&result);
        }
        if result["tasks"]["failed"].as_u64().is_some() {
            let whole = self.client.list("epic.get", "tasks", json!({ "epic": self.epic }), None).await;
            // The names are a help; the result stands without them.
            status = whole.unwrap_or(status);
        }
        self.screen.line(&summary(&status, &result, self.screen))
    }
}

fn may_pass(failure: &Failure) -> bool {
    failure.code().is_some_and(ErrorCode::is_retryable)
}

fn anything_runs(status: &Value) -> bool {
    let counts = counts(status);
    ["running", "assigned", "ready", "retrying"].iter().any(|state| counts.get(*state).is_some_and(|count| *count > 0))
}

/// Tasks by state: as the cluster counts them, else as they are listed.
fn counts(status: &Value) -> BTreeMap<&str, u64> {
    if let Some(counts) = status["counts"].as_object() {
        return counts.iter().map(|(state, count)| (state.as_str(), count.as_u64().unwrap_or(0))).collect();
    }
    let mut counts = BTreeMap::new();
    for task in items(status, "tasks") {
        *counts.entry(task["state"].as_str().unwrap_or("unknown")).or_default() += 1;
    }
    counts
}

/// `{"type":"result","epic","state","duration_ms","tasks":{"succeeded":n,…}}`
fn result_of(status: &Value) -> Value {
    let at = |field: &str| status[field].as_str().and_then(super::events::timestamp_ms);
    let duration_ms = match (at("submitted_at"), at("ended_at")) {
        (Some(from), Some(to)) => Value::from(to.saturating_sub(from)),
        (Some(from), None) => Value::from(super::events::now_ms().saturating_sub(from)),
        _ => Value::Null,
    };
    json!({ "type": "result", "epic": status["epic"], "state": status["state"], "duration_ms": duration_ms, "tasks": counts(status) })
}

fn summary(status: &Value, result: &Value, screen: Screen) -> String {
    let state = result["state"].as_str().unwrap_or("unknown");
    let epic = result["epic"].as_str().unwrap_or("the epic");
    let (glyph, paint) = state_mark(state);
    let took = result["duration_ms"].as_u64().map_or(String::new(), |ms| format!(" after {}", duration_text(ms)));
    let counts: Vec<String> = result["tasks"].as_object().into_iter().flatten().map(|(state, n)| format!("{n} {state}")).collect();
    let head = screen.style.paint(paint, &format!("{glyph} {epic} {state}{took}"));
    let mut out = format!("{head} · {}", counts.join(", "));
    let failed: Vec<&Value> = items(status, "tasks").iter().filter(|task| task["state"] == "failed").collect();
    for task in failed.iter().take(FAILED_SHOWN_MAX) {
        let name = task["task"].as_str().unwrap_or("?");
        let error = task["error"]
            .as_str()
            .map_or_else(|| task["exit_code"].as_i64().map_or(String::new(), |code| format!("exit {code}")), str::to_owned);
        let line = super::screen::visible(&format!("  ✗ {name}  {error}  →  amphi task logs {epic}/{name}"));
        out.push('\n');
        out.push_str(&screen.style.paint(Paint::Bad, &line));
    }
    if failed.len() > FAILED_SHOWN_MAX {
        out.push_str(&format!("\n  and {} more: amphi task ls {epic} --state failed", failed.len() - FAILED_SHOWN_MAX));
    }
    if state == "waiting" {
        out.push_str("\n  a person is needed: amphi incident ls");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::Style;

    fn status() -> Value {
        json!({"epic": "e-1", "state": "failed", "submitted_at": "2026-11-20T23:41:07.113Z", "ended_at": "2026-11-20T23:41:09.113Z",
            "tasks": [{"task": "a", "state": "succeeded"}, {"task": "b", "state": "failed", "exit_code": 3, "error": null}]})
    }

    #[test]
    fn the_result_counts_states_and_time() {
        let result = result_of(&status());
        assert_eq!(result["tasks"], json!({"succeeded": 1, "failed": 1}));
        assert_eq!(result["duration_ms"], 2000);
        assert_eq!(result["type"], "result");
    }

    #[test]
    fn the_summary_names_what_failed_and_how_to_look() {
        let screen = Screen { json: false, terminal: false, style: Style::PLAIN, talk_style: Style::PLAIN };
        let status = status();
        let text = summary(&status, &result_of(&status), screen);
        assert_eq!(text, "✗ e-1 failed after 2.0s · 1 failed, 1 succeeded\n  ✗ b  exit 3  →  amphi task logs e-1/b");
    }

    #[test]
    fn waiting_with_work_under_way_is_not_the_end() {
        assert!(anything_runs(&json!({"tasks": [{"state": "unknown"}, {"state": "running"}]})));
        assert!(anything_runs(&json!({"tasks": [], "counts": {"retrying": 1, "unknown": 1}})));
        assert!(!anything_runs(&json!({"tasks": [], "counts": {"blocked": 1, "unknown": 1}})));
        assert!(!anything_runs(&json!({"tasks": [{"state": "unknown"}, {"state": "blocked"}]})));
    }
}
