//! One public event as one line for people.

use serde_json::Value;

use super::screen::{Paint, Style, visible};

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What changes the picture of one epic.
    Changes,
    /// Every event.
    All,
}

/// `12:04:05 ✓ unit[2]  succeeded (run 1, attempt 2)`; `None` for what [`Detail::Changes`] leaves out.
pub fn event_line(event: &Value, detail: Detail, style: Style) -> Option<String> {
    let kind = event["type"].as_str().unwrap_or("?");
    if detail == Detail::Changes && is_noise(kind) {
        return None;
    }
    let (noun, verb) = kind.split_once('.').unwrap_or(("", kind));
    let (glyph, paint) = mark(kind);
    let clock = event["ts"].as_str().and_then(|ts| ts.get(11..19)).unwrap_or("--:--:--");
    let epic = event["epic"].as_str().unwrap_or("");
    let subject = match (event["task"].as_str(), noun, detail) {
        (Some(task), _, Detail::Changes) => task.to_owned(),
        (Some(task), _, Detail::All) => format!("{epic}/{task}"),
        (None, "agent", _) => event["agent"].as_str().unwrap_or("agent").to_owned(),
        (None, "node" | "manager", _) => event["node"].as_str().unwrap_or(noun).to_owned(),
        (None, "epic", Detail::Changes) => "epic".to_owned(),
        _ => epic.to_owned(),
    };
    let word = if matches!(noun, "task" | "epic" | "agent" | "node" | "") { verb.to_owned() } else { kind.replace('.', " ") };
    let rest = remarks(event, noun);
    let head = format!("{} {} {}", style.paint(Paint::Dim, clock), style.paint(paint, glyph), visible(&subject));
    let mut line = format!("{head}  {}", style.paint(paint, &visible(&word)));
    if !rest.is_empty() {
        line.push_str(&style.paint(Paint::Dim, &format!("  {}", visible(&rest))));
    }
    Some(line)
}

fn is_noise(kind: &str) -> bool {
    matches!(kind, "task.ready" | "task.assigned" | "lock.granted" | "lock.released" | "epic.submitted")
}

fn mark(kind: &str) -> (&'static str, Paint) {
    match kind {
        "epic.succeeded" | "task.succeeded" | "incident.resolved" | "effect.done" => ("✓", Paint::Good),
        "epic.failed" | "task.failed" | "agent.quarantined" | "node.lost" | "agent.lost" => ("✗", Paint::Bad),
        "task.started" | "epic.started" | "epic.resumed" => ("▶", Paint::Busy),
        "task.retrying" | "task.reassigned" | "agent.restarted" | "task.stuck" | "lock.expired" => ("↻", Paint::Warn),
        "epic.cancelled" | "task.cancelled" => ("⊘", Paint::Warn),
        "epic.paused" => ("⏸", Paint::Warn),
        "epic.waiting" | "incident.opened" | "incident.acked" | "task.unknown" | "effect.unknown" => ("☝", Paint::Warn),
        "task.waiting" => ("◌", Paint::Dim),
        "task.skipped" => ("↷", Paint::Dim),
        "task.undone" => ("↶", Paint::Warn),
        "task.progress" => ("…", Paint::Dim),
        _ => ("•", Paint::Plain),
    }
}

/// What the event's data say, in a fixed order, the rest as `k=v`.
fn remarks(event: &Value, noun: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let number = |field: &str| event[field].as_u64().unwrap_or(0);
    if noun == "task" && (number("run") > 1 || number("attempt") > 1) {
        parts.push(format!("run {} attempt {}", number("run"), number("attempt")));
    }
    if noun == "task" && event["type"] == "task.started" {
        parts.extend(event["agent"].as_str().map(|agent| format!("on {agent}")));
    }
    for (key, value) in event["data"].as_object().into_iter().flatten() {
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("percent", value) => parts.push(format!("{value}%")),
            ("message" | "summary", Value::String(text)) => parts.push(text.clone()),
            ("undo", Value::Bool(true)) => parts.push("(undo)".to_owned()),
            ("exit_code", Value::Number(code)) if code.as_i64() == Some(0) => {}
            (_, Value::Object(map)) if map.is_empty() => {}
            (_, Value::Array(list)) if list.is_empty() => {}
            (key, Value::String(text)) => parts.push(format!("{key}={text}")),
            (key, value) => parts.push(format!("{key}={value}")),
        }
    }
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: &str, data: Value) -> Value {
        json!({"shard": 0, "seq": 7, "ts": "2026-11-20T23:41:07.113Z", "epic": "e-1", "task": "unit[2]", "run": 1, "attempt": 2,
            "agent": "node-1-TestGuardian-1", "node": "node-1", "type": kind, "data": data})
    }

    #[test]
    fn a_start_says_who_and_which_attempt() {
        let line = event_line(&event("task.started", json!({"pid": 42})), Detail::Changes, Style::PLAIN);
        assert_eq!(line.as_deref(), Some("23:41:07 ▶ unit[2]  started  run 1 attempt 2  on node-1-TestGuardian-1  pid=42"));
    }

    #[test]
    fn text_of_a_task_cannot_move_the_cursor() {
        let line =
            event_line(&event("task.progress", json!({"message": "\u{1b}[2Jgone\nagain"})), Detail::Changes, Style::PLAIN).expect("a line");
        assert!(!line.contains('\u{1b}') && !line.contains('\n'), "{line:?}");
    }

    #[test]
    fn the_full_view_hides_nothing() {
        for kind in amphi_protocol::event::EventType::ALL {
            assert!(event_line(&event(kind.as_str(), json!({})), Detail::All, Style::PLAIN).is_some());
        }
        assert_eq!(event_line(&event("lock.granted", json!({})), Detail::Changes, Style::PLAIN), None);
    }

    #[test]
    fn a_wrong_shape_is_still_a_line() {
        assert!(event_line(&json!({"type": 3}), Detail::All, Style::PLAIN).is_some());
        assert!(event_line(&json!(null), Detail::All, Style::PLAIN).is_some());
    }
}
