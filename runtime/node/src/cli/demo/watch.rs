//! Follows one epic of the demo: who does what on which node, how far it is, and what chaos does in between.
//!
//! Live events come from the stream; the history that is judged afterwards comes from the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use amphi_protocol::ids::EpicId;
use amphi_protocol::subjects;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::chaos::Chaos;
use super::stage::{Stage, broken};
use super::voice::Voice;
use crate::cli::client::Client;
use crate::cli::event_line::{Detail, event_line};
use crate::cli::events::timestamp_ms;
use crate::cli::failure::Failure;
use crate::cli::feed::{Feed, FeedItem};
use crate::cli::follow::EVENTS_PAGE;
use crate::cli::screen::{Paint, duration_text, items, text_of, visible};

/// How long a release may take: the demo's own bound, far above what it needs.
const PATIENCE: Duration = Duration::from_secs(240);
/// How often the cluster is asked whether the epic is over while no event says so.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Width of a task's name.
const TASK_WIDTH: usize = 22;

/// Task, run and attempt.
type Attempt = (String, u64, u64);

/// How an epic ended, and all that happened.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) epic: EpicId,
    pub(super) state: String,
    pub(super) events: Vec<Value>,
}

/// The live view of one epic.
pub(super) struct Watch<'a> {
    client: &'a Client,
    epic: EpicId,
    tasks: usize,
    first_ms: Option<u64>,
    last_seq: u64,
    /// When each attempt started, and its locks.
    started_ms: BTreeMap<Attempt, u64>,
    locks: BTreeMap<Attempt, Vec<String>>,
    running: BTreeMap<String, String>,
    done: BTreeSet<String>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(client: &'a Client, epic: EpicId, tasks: usize) -> Self {
        Self {
            client,
            epic,
            tasks,
            first_ms: None,
            last_seq: 0,
            started_ms: BTreeMap::new(),
            locks: BTreeMap::new(),
            running: BTreeMap::new(),
            done: BTreeSet::new(),
        }
    }

    /// Tells what happens until the epic is over. Without a voice it is quiet.
    pub(super) async fn follow(mut self, mut voice: Option<&mut Voice>, stage: &mut Stage, chaos: &mut Chaos) -> Result<Ended, Failure> {
        let mut feed = Feed::open(self.client.nats(), subjects::EVENTS_STREAM, subjects::epic_events(&self.epic), true);
        let end = Instant::now() + PATIENCE;
        let mut check = interval(CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                item = feed.next() => {
                    let FeedItem::Message { body, .. } = item else { continue };
                    let Ok(event) = serde_json::from_slice::<Value>(&body) else { continue };
                    let is_new = event["seq"].as_u64().is_some_and(|seq| seq > self.last_seq);
                    if is_new {
                        self.take(&event, voice.as_deref_mut())?;
                        chaos.on_event(&event);
                        if is_end(&text_of(&event, "type")) {
                            check.reset_immediately();
                        }
                    }
                }
                () = sleep_until(chaos.due().unwrap_or(end)), if chaos.due().is_some() => {
                    for line in chaos.strike(stage).await {
                        if let Some(voice) = voice.as_deref_mut() {
                            let painted = voice.style().paint(Paint::Bad, &visible(&line));
                            voice.painted(&painted)?;
                        }
                    }
                }
                _ = check.tick() => {
                    // A cluster that is just coming back is asked again.
                    let Ok(status) = self.client.call("epic.get", &json!({ "epic": self.epic, "limit": 1 })).await else { continue };
                    let state = text_of(&status, "state");
                    if matches!(state.as_str(), "succeeded" | "failed" | "cancelled" | "waiting") {
                        let events = history(self.client, &self.epic).await?;
                        for event in events.iter().filter(|event| event["seq"].as_u64().is_some_and(|seq| seq > self.last_seq)).collect::<Vec<_>>() {
                            self.take(event, voice.as_deref_mut())?;
                        }
                        return Ok(Ended { epic: self.epic, state, events });
                    }
                }
                () = sleep_until(end) => return Err(broken(format!("{} did not end within {} s", self.epic, PATIENCE.as_secs()))),
            }
        }
    }

    fn take(&mut self, event: &Value, voice: Option<&mut Voice>) -> Result<(), Failure> {
        self.last_seq = event["seq"].as_u64().unwrap_or(self.last_seq);
        let line = self.line(event, voice.as_ref().map(|voice| voice.style()).unwrap_or_default());
        let Some(voice) = voice else { return Ok(()) };
        if let Some(line) = line {
            voice.painted(&line)?;
        }
        let running = self.running.iter().map(|(task, node)| format!("{task} on {node}")).collect::<Vec<_>>().join(", ");
        voice.status(self.done.len(), self.tasks, &running)
    }

    /// One line for people; none for what only programs need.
    fn line(&mut self, event: &Value, style: crate::cli::screen::Style) -> Option<String> {
        let (kind, task) = (text_of(event, "type"), text_of(event, "task"));
        let number = |field: &str| event[field].as_u64().unwrap_or(0);
        let key = (task.clone(), number("run"), number("attempt"));
        let now_ms = event["ts"].as_str().and_then(timestamp_ms).unwrap_or(0);
        let since_ms = now_ms.saturating_sub(*self.first_ms.get_or_insert(now_ms));
        let clock = style.paint(Paint::Dim, &format!("{:>5}.{} s", since_ms / 1000, since_ms % 1000 / 100));
        let name = format!("{task:TASK_WIDTH$}");
        let took = |from: Option<&u64>| from.map_or(String::new(), |from| duration_text(now_ms.saturating_sub(*from)));
        let (glyph, paint, rest) = match kind.as_str() {
            "lock.granted" => {
                let held = format!("{} {}", text_of(&event["data"], "mode"), text_of(&event["data"], "resource"));
                self.locks.entry(key).or_default().push(held);
                return None;
            }
            "task.started" => {
                self.started_ms.insert(key.clone(), now_ms);
                self.running.insert(task, text_of(event, "node"));
                ("▶", Paint::Busy, started(event, self.locks.get(&key)))
            }
            "task.succeeded" => {
                self.ends(&task, true);
                ("✓", Paint::Good, took(self.started_ms.get(&key)))
            }
            "task.undone" => {
                self.ends(&task, true);
                ("↶", Paint::Warn, format!("undone in {}", took(self.started_ms.get(&key))))
            }
            "task.failed" => {
                self.ends(&task, true);
                ("✗", Paint::Bad, format!("{}  {}", took(self.started_ms.get(&key)), error_of(event)))
            }
            "task.retrying" => {
                self.ends(&task, false);
                ("↻", Paint::Warn, format!("attempt {} is lost: {}", key.2, error_of(event)))
            }
            "task.cancelled" | "task.skipped" => {
                self.ends(&task, true);
                return None;
            }
            "task.waiting" | "task.reassigned" => return None,
            _ => return event_line(event, Detail::Changes, style).map(|line| format!("{clock} {}", without_clock(&line))),
        };
        Some(format!("{clock} {} {}  {}", style.paint(paint, glyph), visible(&name), style.paint(Paint::Dim, &visible(&rest))))
    }

    fn ends(&mut self, task: &str, for_good: bool) {
        self.running.remove(task);
        if for_good {
            self.done.insert(task.to_owned());
        }
    }
}

fn is_end(kind: &str) -> bool {
    matches!(kind, "epic.succeeded" | "epic.failed" | "epic.cancelled" | "epic.waiting")
}

/// `node-2  DatabaseArchitect-1  pid 77  attempt 2  holds write database_schema (token 9)`.
fn started(event: &Value, locks: Option<&Vec<String>>) -> String {
    let (node, agent) = (text_of(event, "node"), text_of(event, "agent"));
    let mut text = format!("{node}  {}", agent.strip_prefix(&format!("{node}-")).unwrap_or(&agent));
    if let Some(pid) = event["data"]["pid"].as_u64() {
        text.push_str(&format!("  pid {pid}"));
    }
    if let Some(attempt) = event["attempt"].as_u64().filter(|attempt| *attempt > 1) {
        text.push_str(&format!("  attempt {attempt}"));
    }
    if event["data"]["undo"] == true {
        text.push_str("  (undo)");
    }
    if let Some(locks) = locks {
        text.push_str(&format!("  holds {}", locks.join(", ")));
    }
    text
}

fn error_of(event: &Value) -> String {
    let data = &event["data"];
    match (data["error"].as_str(), data["exit_code"].as_i64()) {
        (Some(error), _) => error.to_owned(),
        (None, Some(code)) => format!("exit {code}"),
        (None, None) => text_of(data, "cause"),
    }
}

/// The line without its own time of day: ours counts from the submission.
fn without_clock(line: &str) -> &str {
    line.split_once(' ').map_or(line, |(_, rest)| rest)
}

/// All events of an epic, from the journal.
pub(super) async fn history(client: &Client, epic: &EpicId) -> Result<Vec<Value>, Failure> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let reply = client.call("epic.events", &json!({ "epic": epic, "after": after, "limit": EVENTS_PAGE })).await?;
        all.extend(items(&reply, "events").iter().cloned());
        match reply["next"].as_u64().filter(|next| *next > after) {
            Some(next) => after = next,
            None => return Ok(all),
        }
    }
}
