//! Who held which lock when, as bars over time, from the history of an epic.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cli::events::timestamp_ms;
use crate::cli::screen::{Paint, Style, text_of, visible};

/// Characters of the time axis.
const WIDTH: u64 = 48;

/// One grant of one resource.
#[derive(Debug)]
struct Grant {
    task: String,
    attempt: u64,
    token: u64,
    is_write: bool,
    from_ms: u64,
    to_ms: Option<u64>,
}

/// A block of lines per resource; empty if there were no locks.
pub(super) fn lock_timeline(events: &[Value], style: Style) -> String {
    let at = |event: &Value| event["ts"].as_str().and_then(timestamp_ms).unwrap_or(0);
    let (Some(first), Some(last)) = (events.first().map(at), events.last().map(at)) else { return String::new() };
    let mut grants: BTreeMap<String, Vec<Grant>> = BTreeMap::new();
    for event in events {
        let (data, resource) = (&event["data"], text_of(&event["data"], "resource"));
        let token = data["token"].as_u64().unwrap_or(0);
        match event["type"].as_str() {
            Some("lock.granted") => grants.entry(resource).or_default().push(Grant {
                task: text_of(event, "task"),
                attempt: event["attempt"].as_u64().unwrap_or(0),
                token,
                is_write: data["mode"] == "write",
                from_ms: at(event) - first,
                to_ms: None,
            }),
            Some("lock.released" | "lock.expired") => {
                let held = grants.entry(resource).or_default().iter_mut().find(|grant| grant.token == token && grant.to_ms.is_none());
                if let Some(grant) = held {
                    grant.to_ms = Some(at(event) - first);
                }
            }
            _ => {}
        }
    }
    let all_ms = (last - first).max(1);
    let mut out = String::new();
    for (resource, grants) in &grants {
        out.push_str(&format!("{}\n", style.paint(Paint::Head, &visible(resource))));
        grants.iter().for_each(|grant| out.push_str(&line(grant, all_ms, style)));
    }
    out
}

fn line(grant: &Grant, all_ms: u64, style: Style) -> String {
    let to_ms = grant.to_ms.unwrap_or(all_ms);
    let place = |ms: u64| (ms * WIDTH / all_ms).min(WIDTH - 1);
    let (from, to) = (place(grant.from_ms), place(to_ms).max(place(grant.from_ms)));
    let (glyph, mode, paint) = if grant.is_write { ("█", "write", Paint::Warn) } else { ("░", "read ", Paint::Busy) };
    let bar = style.paint(paint, &glyph.repeat(usize::try_from(to - from + 1).unwrap_or(1)));
    let (before, after) = (" ".repeat(usize::try_from(from).unwrap_or(0)), " ".repeat(usize::try_from(WIDTH - 1 - to).unwrap_or(0)));
    let who = if grant.attempt > 1 { format!("{} attempt {}", grant.task, grant.attempt) } else { grant.task.clone() };
    let seconds = |ms: u64| format!("{}.{}", ms / 1000, ms % 1000 / 100);
    let times = format!("{:>5} to {:>5} s", seconds(grant.from_ms), seconds(to_ms));
    format!("  {before}{bar}{after}  {mode}  {times}  token {:<4} {}\n", grant.token, visible(&who))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_grant_is_a_bar_from_its_begin_to_its_end() {
        let event = |kind: &str, second: u64, mode: &str| {
            json!({"type": kind, "ts": format!("2026-11-20T23:41:0{second}.000Z"), "task": "t", "attempt": 1,
                "data": {"resource": "db", "mode": mode, "token": 7}})
        };
        let events = [
            event("epic.started", 0, ""),
            event("lock.granted", 2, "write"),
            event("lock.released", 4, "write"),
            event("epic.succeeded", 8, ""),
        ];
        let text = lock_timeline(&events, Style::PLAIN);
        let bar = format!("{}{}{}", " ".repeat(12), "█".repeat(13), " ".repeat(23));
        assert_eq!(text, format!("db\n  {bar}  write    2.0 to   4.0 s  token 7    t\n"));
    }

    #[test]
    fn without_locks_there_is_nothing_to_show() {
        assert_eq!(lock_timeline(&[], Style::PLAIN), "");
    }
}
