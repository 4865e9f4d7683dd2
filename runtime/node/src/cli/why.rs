//! `amphi why EPIC/TASK`: what a task waits for, the innermost cause last.

use clap::Args;
use serde_json::Value;

use super::Global;
use super::arguments::TaskArg;
use super::client::Client;
use super::epic::ask_epic;
use super::failure::{Failure, exit};
use super::screen::{Paint, Screen, Style, duration_text, items, state_mark, text_of, visible};

/// `amphi why`.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// The task
    #[arg(value_name = "EPIC/TASK")]
    task: TaskArg,
}

/// Says why.
pub async fn why(global: &Global, screen: Screen, args: WhyArgs) -> Result<u8, Failure> {
    let reply = ask_epic(&Client::connect(global).await?, "task.why", &args.task.body()).await?;
    screen.show(&reply, why_text)?;
    Ok(exit::OK)
}

fn why_text(reply: &Value, style: Style) -> String {
    let state = text_of(reply, "state");
    let (glyph, paint) = state_mark(&state);
    let name = format!("{}/{}", text_of(reply, "epic"), text_of(reply, "task"));
    let mut out = format!("{}  {}\n", visible(&name), style.paint(paint, &format!("{glyph} {state}")));
    let waits = items(reply, "waits");
    if waits.is_empty() {
        out.push_str("  waits for nothing\n");
    }
    for (depth, wait) in waits.iter().enumerate() {
        let indent = "  ".repeat(depth + 1);
        out.push_str(&format!("{indent}{} {}\n", style.paint(Paint::Mark, "└─"), visible(&wait_line(wait))));
    }
    out
}

fn wait_line(wait: &Value) -> String {
    let mut line = text_of(wait, "reason");
    if !wait["on"].is_null() {
        line.push_str(&format!(": {}", text_of(wait, "on")));
    }
    if let Some(holder) = wait["holder"].as_object() {
        let part =
            |field: &str| holder.get(field).map_or(String::new(), |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        match part("owner") {
            owner if owner.is_empty() => {
                line.push_str(&format!(", held by {}/{} attempt {}", part("epic"), part("task"), part("attempt")));
            }
            owner => line.push_str(&format!(", held by {owner} from outside under token {}", part("token"))),
        }
    }
    if let Some(left) = wait["lease_left_ms"].as_u64() {
        line.push_str(&format!(", lease ends in {}", duration_text(left)));
    }
    if let Some(place) = wait["place"].as_u64() {
        line.push_str(&format!(", place {place} in the queue"));
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_innermost_cause_is_last() {
        let reply = json!({"epic": "e-1", "task": "deploy", "state": "waiting", "waits": [
            {"reason": "lock", "on": "env/production", "holder": {"epic": "e-2", "task": "migrate", "attempt": 1}, "lease_left_ms": 252_000, "place": 2},
            {"reason": "person", "on": "incident i-1", "holder": null, "lease_left_ms": null, "place": null}]});
        assert_eq!(
            why_text(&reply, Style::PLAIN),
            "e-1/deploy  ◌ waiting\n  \
             └─ lock: env/production, held by e-2/migrate attempt 1, lease ends in 4m12s, place 2 in the queue\n    \
             └─ person: incident i-1\n"
        );
    }
}
