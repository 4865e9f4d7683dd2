//! A bar under the lines of a followed epic, for people at a terminal: how much is done, what runs, what waits and for what.
//!
//! It only says what the events say; what counts is asked from the cluster. Nowhere else than on a terminal is anything of it seen.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::screen::{Screen, visible};

/// Running tasks that are named.
const NAMED_MAX: usize = 4;
const REDRAW_EVERY: Duration = Duration::from_millis(500);

/// The bar.
pub struct Bars {
    bar: ProgressBar,
    tasks: Tasks,
}

/// What is known of the tasks that have not ended.
#[derive(Debug, Default)]
struct Tasks {
    running: BTreeMap<String, Option<u64>>,
    waiting: BTreeMap<String, String>,
    ended: std::collections::BTreeSet<String>,
}

impl Bars {
    /// A bar, if somebody looks at lines and not at JSON.
    pub fn open(screen: Screen) -> Option<Self> {
        if screen.json
            || !screen.terminal
            || !std::io::stderr().is_terminal()
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb")
        {
            return None;
        }
        let style =
            ProgressStyle::with_template("{bar:20} {pos}/{len} {wide_msg} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5)).with_style(style.progress_chars("█▌░"));
        bar.enable_steady_tick(REDRAW_EVERY);
        Some(Self { bar, tasks: Tasks::default() })
    }

    /// Does `write` where the bar is not in the way.
    pub fn beside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// What the cluster counts: tasks by state.
    pub fn counted(&self, counts: &BTreeMap<&str, u64>) {
        let over = |state: &str| matches!(state, "succeeded" | "failed" | "cancelled" | "skipped" | "undone");
        self.bar.set_length(counts.values().sum());
        self.bar.set_position(counts.iter().filter(|(state, _)| over(state)).map(|(_, count)| count).sum());
    }

    /// An event.
    pub fn hear(&mut self, event: &Value) {
        let before = self.tasks.ended.len();
        self.tasks.hear(event);
        if self.tasks.ended.len() > before && self.bar.length().is_some_and(|length| self.bar.position() < length) {
            self.bar.inc(1);
        }
        self.bar.set_message(self.tasks.text());
    }

    /// Takes it away.
    pub fn close(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.close();
    }
}

impl Tasks {
    fn hear(&mut self, event: &Value) {
        let (Some(task), Some(kind)) = (event["task"].as_str(), event["type"].as_str()) else { return };
        let task = task.to_owned();
        match kind {
            "task.started" => {
                self.waiting.remove(&task);
                self.running.insert(task, None);
            }
            "task.progress" => {
                if let (Some(percent), Some(known)) = (event["data"]["percent"].as_u64(), self.running.get_mut(&task)) {
                    *known = Some(percent);
                }
            }
            "task.waiting" => {
                let reason = event["data"]["reason"].as_str().unwrap_or("something").to_owned();
                self.running.remove(&task);
                self.waiting.insert(task, reason);
            }
            "task.retrying" => {
                self.running.remove(&task);
                self.waiting.insert(task, "backoff".to_owned());
            }
            "task.assigned" | "task.ready" | "task.unknown" => {
                self.waiting.remove(&task);
                self.running.remove(&task);
            }
            "task.succeeded" | "task.failed" | "task.cancelled" | "task.skipped" => {
                self.waiting.remove(&task);
                self.running.remove(&task);
                self.ended.insert(task);
            }
            _ => {}
        }
    }

    /// `3 running: unit[2] 41%, build, lint · waiting: 2 lock, 1 capacity`
    fn text(&self) -> String {
        let named = |(task, percent): (&String, &Option<u64>)| match percent {
            Some(percent) => format!("{} {percent}%", visible(task)),
            None => visible(task),
        };
        let mut parts = Vec::new();
        if !self.running.is_empty() {
            let mut names: Vec<String> = self.running.iter().take(NAMED_MAX).map(named).collect();
            if self.running.len() > NAMED_MAX {
                names.push("…".to_owned());
            }
            parts.push(format!("{} running: {}", self.running.len(), names.join(", ")));
        }
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in self.waiting.values().filter(|reason| *reason != "needs") {
            *reasons.entry(reason).or_default() += 1;
        }
        if !reasons.is_empty() {
            let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {}", visible(reason))).collect();
            parts.push(format!("waiting: {}", reasons.join(", ")));
        }
        parts.join(" · ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_bar_says_what_runs_and_why_the_others_wait() {
        let mut tasks = Tasks::default();
        for (kind, task, data) in [
            ("task.started", "a", json!({})),
            ("task.progress", "a", json!({"percent": 41})),
            ("task.started", "b[1]", json!({})),
            ("task.waiting", "c", json!({"reason": "lock"})),
            ("task.waiting", "d", json!({"reason": "lock"})),
            ("task.waiting", "e", json!({"reason": "needs"})),
            ("task.retrying", "f", json!({})),
            ("task.started", "g", json!({})),
            ("task.succeeded", "g", json!({})),
        ] {
            tasks.hear(&json!({"type": kind, "task": task, "data": data}));
        }
        tasks.hear(&json!({"type": "epic.started", "task": null}));
        assert_eq!(tasks.text(), "2 running: a 41%, b[1] · waiting: 1 backoff, 2 lock");
        assert_eq!(tasks.ended.len(), 1);
    }
}
