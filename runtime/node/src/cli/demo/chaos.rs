//! `--chaos`: kills the seat node in the middle of the tests, and the node of the first attempt that holds a write lock. Then finds in the
//! journal what became of what ran there.

use std::collections::BTreeMap;
use std::time::Duration;

use amphi_adapters::nats::managed::process_start_time;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::stage::Stage;
use super::voice::Voice;
use crate::cli::failure::Failure;
use crate::cli::screen::{items, text_of};

/// The task during which the seat is killed.
const SEAT_DURING: &str = "run_integration_tests";
/// From the start of an attempt to the kill: it is in the middle then, see `PAUSES`.
const INTO_THE_ATTEMPT: Duration = Duration::from_millis(400);
/// How long what ran on a killed node may take to be gone.
const GONE_PATIENCE: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// An attempt as the events tell of it.
#[derive(Debug, Clone)]
struct Attempt {
    task: String,
    run: u64,
    attempt: u64,
    agent: String,
    node: String,
    pid: Option<u32>,
    token: Option<u64>,
    /// `(mode, resource)`.
    locks: Vec<(String, String)>,
}

impl Attempt {
    fn is_writer(&self) -> bool {
        self.locks.iter().any(|(mode, _)| mode == "write")
    }

    fn is_alive(&self) -> bool {
        self.pid.is_some_and(|pid| process_start_time(pid).is_some())
    }

    fn locks_text(&self) -> String {
        self.locks.iter().map(|(mode, resource)| format!("{mode} {resource}")).collect::<Vec<_>>().join(", ")
    }
}

/// Whom the next blow is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Seat,
    LockHolder,
}

/// One kill -9 of a node.
#[derive(Debug)]
struct Kill {
    victim: Victim,
    node: String,
    node_pid: u32,
    /// What ran there.
    attempts: Vec<Attempt>,
    /// Until all of that was gone.
    gone_after: Option<Duration>,
}

/// What is to be done to the cluster, and what was.
#[derive(Debug, Default)]
pub(super) struct Chaos {
    /// The node that the Manager sits on.
    seat: String,
    wanted: Vec<Victim>,
    due: Option<(Instant, Victim)>,
    running: BTreeMap<(String, u64, u64), Attempt>,
    kills: Vec<Kill>,
    missed: Vec<String>,
}

impl Chaos {
    /// None at all.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// Both blows. `seat` is the node that leads.
    pub(super) fn full(seat: String) -> Self {
        Self { seat, wanted: vec![Victim::Seat, Victim::LockHolder], ..Self::default() }
    }

    /// When the next blow falls.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.map(|(when, _)| when)
    }

    pub(super) fn on_event(&mut self, event: &Value) {
        let number = |field: &str| event[field].as_u64().unwrap_or(0);
        let key = (text_of(event, "task"), number("run"), number("attempt"));
        match event["type"].as_str().unwrap_or_default() {
            "lock.granted" => {
                let held = (text_of(&event["data"], "mode"), text_of(&event["data"], "resource"));
                self.attempt(key, event).locks.push(held);
            }
            "task.assigned" => self.attempt(key, event).token = event["data"]["token"].as_u64(),
            "task.started" => {
                let attempt = self.attempt(key, event);
                attempt.pid = event["data"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
                let (is_writer, task) = (attempt.is_writer(), attempt.task.clone());
                let victim = if is_writer { Victim::LockHolder } else { Victim::Seat };
                if (is_writer || task == SEAT_DURING) && self.due.is_none() && self.wanted.contains(&victim) {
                    self.wanted.retain(|wanted| *wanted != victim);
                    self.due = Some((Instant::now() + INTO_THE_ATTEMPT, victim));
                }
            }
            "task.succeeded" | "task.failed" | "task.retrying" | "task.cancelled" | "task.unknown" => drop(self.running.remove(&key)),
            _ => {}
        }
    }

    fn attempt(&mut self, key: (String, u64, u64), event: &Value) -> &mut Attempt {
        let (task, run, attempt) = key.clone();
        self.running.entry(key).or_insert_with(|| Attempt {
            task,
            run,
            attempt,
            agent: text_of(event, "agent"),
            node: text_of(event, "node"),
            pid: None,
            token: None,
            locks: Vec::new(),
        })
    }

    /// Kills, and waits until what ran there is gone. Gives lines for people.
    pub(super) async fn strike(&mut self, stage: &mut Stage) -> Vec<String> {
        let Some((_, victim)) = self.due.take() else { return Vec::new() };
        let node = match victim {
            Victim::Seat => Some(self.seat.clone()),
            Victim::LockHolder => {
                self.running.values().find(|attempt| attempt.is_writer() && attempt.is_alive()).map(|attempt| attempt.node.clone())
            }
        };
        let pid = node.as_ref().and_then(|node| node_pid(stage, node));
        let (Some(node), Some(node_pid)) = (node, pid) else {
            self.missed.push(format!("{victim:?}"));
            return vec!["chaos came too late: nothing that holds a write lock is running".to_owned()];
        };
        let attempts: Vec<Attempt> = self.running.values().filter(|attempt| attempt.node == node && attempt.is_alive()).cloned().collect();
        let began = Instant::now();
        // It is alive, or the check below finds that it was not.
        kill(Pid::from_raw(i32::try_from(node_pid).unwrap_or(i32::MAX)), Signal::SIGKILL).ok();
        while attempts.iter().any(Attempt::is_alive) && began.elapsed() < GONE_PATIENCE {
            sleep(LOOK_EVERY).await;
        }
        let gone_after = (!attempts.iter().any(Attempt::is_alive)).then(|| began.elapsed());
        let kill = Kill { victim, node, node_pid, attempts, gone_after };
        let lines = kill.lines();
        self.kills.push(kill);
        lines
    }

    /// Says what became of each attempt that a kill hit, and checks that it is what was promised.
    pub(super) fn judge(&self, events: &[Value], voice: &mut Voice) -> Result<(), Failure> {
        for kill in &self.kills {
            for attempt in &kill.attempts {
                let after = attempt.afterwards(events);
                voice.line(&format!(
                    "{} attempt {} on {} (agent {}, pid {}): lost by {}; attempt {} ran on {} (agent {}, pid {}) and {}",
                    attempt.task,
                    attempt.attempt,
                    attempt.node,
                    attempt.agent,
                    attempt.pid.unwrap_or(0),
                    text_of(&after, "cause"),
                    text_of(&after, "attempt"),
                    text_of(&after, "node"),
                    text_of(&after, "agent"),
                    text_of(&after, "pid"),
                    text_of(&after, "end"),
                ))?;
                let is_other = after["agent"].is_string() && after["agent"] != attempt.agent.as_str();
                voice.check("the next attempt ran with another agent, and succeeded", is_other && after["end"] == "succeeded", "")?;
            }
        }
        let seat = self.kills.iter().find(|kill| kill.victim == Victim::Seat);
        voice.check(&format!("{}, the Manager's seat, was killed", self.seat), seat.is_some(), "")?;
        let holder = self.kills.iter().find(|kill| kill.victim == Victim::LockHolder);
        let hit = holder.and_then(|kill| kill.attempts.iter().find(|attempt| attempt.is_writer()));
        let found = hit.map_or(self.missed.join(", "), |attempt| format!("{} held {}", attempt.task, attempt.locks_text()));
        voice.check("the kill hit a running attempt that held a write lock", hit.is_some(), &found)?;
        voice.check("nothing of a killed node outlived it", self.kills.iter().all(|kill| kill.gone_after.is_some()), "")
    }

    /// `[{"victim","node","node_pid","attempts":[{"task","run","attempt","agent","pid","token","locks","next":{…}}],"gone_after_ms"}]`
    pub(super) fn as_json(&self, events: &[Value]) -> Value {
        let attempt = |attempt: &Attempt| {
            json!({ "task": attempt.task, "run": attempt.run, "attempt": attempt.attempt, "agent": attempt.agent, "node": attempt.node,
                "pid": attempt.pid, "token": attempt.token, "locks": attempt.locks, "next": attempt.afterwards(events) })
        };
        let kill = |kill: &Kill| {
            let victim = if kill.victim == Victim::Seat { "seat" } else { "lock_holder" };
            let gone_ms = kill.gone_after.and_then(|after| u64::try_from(after.as_millis()).ok());
            json!({ "victim": victim, "node": kill.node, "node_pid": kill.node_pid, "gone_after_ms": gone_ms,
                "attempts": kill.attempts.iter().map(attempt).collect::<Vec<_>>() })
        };
        self.kills.iter().map(kill).collect()
    }
}

impl Kill {
    fn lines(&self) -> Vec<String> {
        let what = match self.victim {
            Victim::Seat => "the Manager's seat",
            Victim::LockHolder => "where an attempt holds a write lock",
        };
        let mut lines = vec![format!("kill -9 {}: {}, {what}", self.node_pid, self.node)];
        lines.extend(self.attempts.iter().map(|attempt| {
            let locks = if attempt.locks.is_empty() { String::new() } else { format!(", holds {}", attempt.locks_text()) };
            let token = attempt.token.map_or(String::new(), |token| format!(", token {token}"));
            format!("  was running: {} attempt {}, pid {}{locks}{token}", attempt.task, attempt.attempt, attempt.pid.unwrap_or(0))
        }));
        let gone = self.gone_after.map_or("some of its tasks' processes live on".to_owned(), |after| {
            if self.attempts.is_empty() {
                "nothing was running there".to_owned()
            } else {
                format!("all of it was gone after {} ms", after.as_millis())
            }
        });
        lines.push(format!("  {gone}"));
        lines
    }
}

impl Attempt {
    /// What the journal says of the next attempt: `{"cause","attempt","agent","node","pid","end"}`, null where it says nothing.
    fn afterwards(&self, events: &[Value]) -> Value {
        let of_run = |event: &&Value| event["task"] == self.task.as_str() && event["run"] == self.run;
        let find = |kind: &str, attempt: u64| events.iter().filter(of_run).find(|e| e["type"] == kind && e["attempt"] == attempt);
        let lost = find("task.retrying", self.attempt);
        let next = find("task.started", self.attempt + 1);
        let end = ["task.succeeded", "task.failed", "task.retrying"].iter().find(|kind| find(kind, self.attempt + 1).is_some());
        json!({
            "cause": lost.map(|event| &event["data"]["cause"]),
            "error": lost.map(|event| &event["data"]["error"]),
            "attempt": next.map(|event| &event["attempt"]),
            "agent": next.map(|event| &event["agent"]),
            "node": next.map(|event| &event["node"]),
            "pid": next.map(|event| &event["data"]["pid"]),
            "end": end.map(|kind| kind.trim_start_matches("task.")),
        })
    }
}

fn node_pid(stage: &mut Stage, node: &str) -> Option<u32> {
    let ready = stage.ready()?;
    let found = items(&ready, "nodes").iter().find(|found| found["id"] == node)?["pid"].as_u64()?;
    u32::try_from(found).ok()
}
