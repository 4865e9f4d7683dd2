//! Arguments that several commands share: durations, epic and task names, list bounds, `k=v` pairs.

use std::str::FromStr;
use std::time::Duration;

use amphi_protocol::ids::EpicId;
use clap::Args;
use serde_json::{Map, Value};

use super::failure::Failure;

/// A duration as users write it: `500ms`, `10s`, `5m`, `1h30m`, `2d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationArg(pub Duration);

impl FromStr for DurationArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no duration: expected for instance 500ms, 10s, 5m, 1h30m");
        let mut total = Duration::ZERO;
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let unit_ms: u64 = match &rest[..letters] {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(wrong()),
            };
            rest = &rest[letters..];
            let part = number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)?;
            total = total.checked_add(part).ok_or_else(wrong)?;
        }
        Ok(Self(total))
    }
}

/// `EPIC/TASK`, where TASK is `t` or `t[i]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskArg {
    /// The epic.
    pub epic: EpicId,
    /// The task's key.
    pub task: String,
}

impl FromStr for TaskArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (epic, task) =
            text.split_once('/').ok_or_else(|| format!("`{text}` is no task: expected EPIC/TASK, for instance deploy-v2-7k3f/unit"))?;
        let epic = EpicId::parse(epic).map_err(|error| error.to_string())?;
        if task.is_empty() || task.len() > 1024 || task.contains(char::is_control) {
            return Err(format!("`{text}` is no task: expected EPIC/TASK"));
        }
        Ok(Self { epic, task: task.to_owned() })
    }
}

impl TaskArg {
    /// `{"epic","task"}`.
    pub fn body(&self) -> Value {
        serde_json::json!({ "epic": self.epic, "task": self.task })
    }
}

/// The states of tasks and of epics, for flags that pick by state.
pub const TASK_STATES: [&str; 12] =
    ["blocked", "waiting", "ready", "assigned", "running", "retrying", "succeeded", "failed", "cancelled", "skipped", "unknown", "undone"];
/// As [`TASK_STATES`].
pub const EPIC_STATES: [&str; 7] = ["running", "waiting", "paused", "cancelling", "succeeded", "failed", "cancelled"];

/// How much of a list is wanted.
#[derive(Debug, Clone, Copy, Args)]
pub struct ListBounds {
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Show all of them
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}

impl ListBounds {
    /// The bound, or none.
    pub fn limit(self) -> Option<usize> {
        if self.all { None } else { Some(self.limit as usize) }
    }
}

/// What to say when a list was cut; nothing if it is complete.
pub fn cut_note(reply: &Value, shown: usize) -> Option<String> {
    if reply["next"].is_null() {
        return None;
    }
    let total = reply["total"].as_u64().map_or("more".to_owned(), |total| total.to_string());
    Some(format!("{shown} of {total} (--all shows all, --limit N as many as you like)"))
}

/// `k=v` pairs of `-i`, all as text: the document says of what type an input is, and text is read as that type.
pub fn inputs(pairs: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut map = Map::new();
    for pair in pairs {
        let (key, value) = pair
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Failure::usage(format!("`-i {pair}` has no value")).hint("write -i name=value"))?;
        if map.insert(key.to_owned(), Value::String(value.to_owned())).is_some() {
            return Err(Failure::usage(format!("the input `{key}` is given twice")));
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_users_write_them() {
        let ms = |text: &str| DurationArg::from_str(text).map(|d| d.0.as_millis());
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("1h30m"), Ok(5_400_000));
        assert_eq!(ms("2d"), Ok(172_800_000));
        for wrong in ["", "10", "s", "10x", "-5s", "1.5s", "99999999999999999999s", "99999999999999999d"] {
            assert!(ms(wrong).is_err(), "{wrong} must be refused");
        }
    }

    #[test]
    fn tasks_are_named_by_epic_and_key() {
        let task = TaskArg::from_str("deploy-v2-7k3f/unit[1,a]").expect("a task");
        assert_eq!((task.epic.as_str(), task.task.as_str()), ("deploy-v2-7k3f", "unit[1,a]"));
        for wrong in ["deploy", "deploy/", "/unit", "a.b/unit", "a*/unit", "e/u\n"] {
            assert!(TaskArg::from_str(wrong).is_err(), "{wrong} must be refused");
        }
    }

    #[test]
    fn a_cut_list_says_so() {
        assert_eq!(cut_note(&serde_json::json!({"next": null}), 3), None);
        let note = cut_note(&serde_json::json!({"next": "x", "total": 12431}), 500).expect("a note");
        assert!(note.starts_with("500 of 12431 "));
    }
}
