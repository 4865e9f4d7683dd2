//! `amphi tree`: who supervises whom, as each node publishes it. Idle workers of a pool are folded.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::Global;
use super::client::Client;
use super::failure::{Failure, exit};
use super::frame::Frame;
use super::screen::{Paint, Screen, Style, duration_text, items, state_mark, talk, text_of, visible};

/// `amphi tree`.
#[derive(Debug, Args)]
pub struct TreeArgs {
    /// Show it again every second
    #[arg(long, short)]
    watch: bool,
    /// Show idle workers one by one
    #[arg(long)]
    all: bool,
}

/// Idle workers beside each other from which on they are folded.
const FOLD_FROM: usize = 2;

/// Shows the trees of all nodes.
pub async fn tree(global: &Global, screen: Screen, args: TreeArgs) -> Result<u8, Failure> {
    let client = Client::connect(global).await?;
    if !args.watch {
        let reply = client.call("tree.get", &json!({})).await?;
        let work = if screen.json { Work::new() } else { work(&client).await };
        screen.show(&reply, |reply, style| View { work: &work, all: args.all, style }.text(reply))?;
        return Ok(exit::OK);
    }
    tokio::select! {
        result = watch(&client, screen, args.all) => result,
        _ = tokio::signal::ctrl_c() => Ok(exit::INTERRUPTED),
    }
}

/// The trees of all nodes as people see them.
pub async fn tree_text(client: &Client, style: Style) -> Result<String, Failure> {
    let reply = client.call("tree.get", &json!({})).await?;
    let work = work(client).await;
    Ok(View { work: &work, all: false, style }.text(&reply))
}

async fn watch(client: &Client, screen: Screen, all: bool) -> Result<u8, Failure> {
    let mut frame = None;
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match client.call("tree.get", &json!({})).await {
            Ok(reply) if screen.json => screen.json(&reply)?,
            Ok(reply) => {
                let work = work(client).await;
                let text = View { work: &work, all, style: screen.style }.text(&reply);
                if frame.is_none() {
                    frame = Some(Frame::open(screen)?);
                }
                if let Some(frame) = &frame {
                    frame.draw(&text)?;
                }
            }
            // A restarting cluster is what one watches for.
            Err(failure) if failure.code().is_some_and(amphi_protocol::api::ErrorCode::is_retryable) => talk("no answer now; trying again"),
            Err(failure) => return Err(failure),
        }
    }
}

/// What each agent does: its state, and the task if it has one. A tree only knows who lives.
type Work = BTreeMap<String, (String, Option<String>)>;

async fn work(client: &Client) -> Work {
    // Without it the tree is less telling, not wrong.
    let Ok(reply) = client.list("agent.list", "agents", json!({}), None).await else { return Work::new() };
    let one = |agent: &Value| {
        let task = agent["task"].as_str().map(|task| format!("{}/{task}", text_of(agent, "epic")));
        (text_of(agent, "agent"), (text_of(agent, "state"), task))
    };
    items(&reply, "agents").iter().map(one).collect()
}

/// How the tree is shown.
struct View<'v> {
    work: &'v Work,
    all: bool,
    style: Style,
}

impl View<'_> {
    fn text(&self, reply: &Value) -> String {
        let mut out = String::new();
        for node in items(reply, "nodes") {
            let state = text_of(node, "state");
            let (glyph, paint) = state_mark(&state);
            let head = self.style.paint(Paint::Head, &visible(&text_of(node, "node")));
            let word = self.style.paint(paint, &visible(&format!("{glyph} {state}")));
            let mut notes = vec![format!("pid {}", text_of(node, "pid"))];
            notes.extend(node["restarts"].as_u64().filter(|restarts| *restarts > 0).map(|restarts| format!("restarts {restarts}")));
            notes.extend(node["last_exit"].as_str().map(|cause| format!("last exit: {cause}")));
            let _ = writeln!(out, "{head}  {word}  {}", self.style.paint(Paint::Dim, &visible(&notes.join(" · "))));
            if !node["root"].is_null() {
                self.branch(&mut out, &node["root"], "", true);
            }
        }
        if out.is_empty() { "no nodes\n".to_owned() } else { out }
    }

    fn branch(&self, out: &mut String, actor: &Value, indent: &str, last: bool) {
        let joint = if last { "└─ " } else { "├─ " };
        let _ = writeln!(out, "{}{}", self.style.paint(Paint::Dim, &format!("{indent}{joint}")), self.actor_line(actor));
        let below = format!("{indent}{}", if last { "   " } else { "│  " });
        let children = items(actor, "children");
        let (idle, shown): (Vec<&Value>, Vec<&Value>) = children.iter().partition(|child| !self.all && self.is_quiet(child));
        let (idle, shown) = if idle.len() < FOLD_FROM { (Vec::new(), children.iter().collect()) } else { (idle, shown) };
        for (position, child) in shown.iter().enumerate() {
            self.branch(out, child, &below, position + 1 == shown.len() && idle.is_empty());
        }
        if !idle.is_empty() {
            let joint = self.style.paint(Paint::Dim, &format!("{below}└─ "));
            let _ = writeln!(out, "{joint}{}", self.style.paint(Paint::Dim, &format!("{} idle", idle.len())));
        }
    }

    /// An agent's own state where the tree only says that it runs.
    fn state(&self, actor: &Value) -> String {
        let state = text_of(actor, "state");
        match self.work.get(&text_of(actor, "name")) {
            Some((work, _)) if state == "running" => work.clone(),
            _ => state,
        }
    }

    /// A worker that is idle, never died and has nothing waiting: nobody looks for it.
    fn is_quiet(&self, actor: &Value) -> bool {
        let zero = |field: &str| actor[field].as_u64().unwrap_or(0) == 0;
        actor["kind"] == "worker" && self.state(actor) == "idle" && zero("restarts") && zero("mailbox") && actor["last_exit"].is_null()
    }

    fn actor_line(&self, actor: &Value) -> String {
        let style = self.style;
        let state = self.state(actor);
        let (glyph, paint) = state_mark(&state);
        let mut line = format!("{} {}", style.paint(paint, glyph), visible(&text_of(actor, "name")));
        let _ = write!(line, "  {}", style.paint(paint, &visible(&state)));
        let mut notes: Vec<String> = Vec::new();
        notes.extend(self.work.get(&text_of(actor, "name")).and_then(|(_, task)| task.clone()));
        if actor["kind"] == "supervisor" {
            notes.extend(actor["strategy"].as_str().map(str::to_owned));
        }
        let restarts = actor["restarts"].as_u64().unwrap_or(0);
        match (actor["max"].as_u64(), actor["within_ms"].as_u64()) {
            (Some(max), Some(within)) if max > 0 && (restarts > 0 || actor["kind"] == "supervisor") => {
                notes.push(format!("restarts {restarts}/{max} in {}s", within / 1000))
            }
            _ if restarts > 0 => notes.push(format!("restarts {restarts}")),
            _ => {}
        }
        if let Some(mailbox) = actor["mailbox"].as_u64().filter(|mailbox| *mailbox > 0) {
            notes.push(format!("mailbox {mailbox}"));
        }
        match &actor["last_exit"] {
            Value::Null => {}
            Value::String(text) => notes.push(format!("last exit: {text}")),
            Value::Object(exit) => notes.push(last_exit(exit)),
            other => notes.push(format!("last exit: {other}")),
        }
        if !notes.is_empty() {
            let _ = write!(line, "  {}", style.paint(Paint::Dim, &visible(&notes.join(" · "))));
        }
        line
    }
}

fn last_exit(exit: &serde_json::Map<String, Value>) -> String {
    let text = |field: &str| exit.get(field).and_then(Value::as_str).unwrap_or_default();
    let reason = if text("reason").is_empty() { text("cause") } else { text("reason") };
    let ago = exit.get("ago_ms").and_then(Value::as_u64).map_or(String::new(), |ms| format!(" {} ago", duration_text(ms)));
    format!("last exit: {reason}{ago}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str, state: &str, restarts: u64, last_exit: Value) -> Value {
        json!({"name": name, "actor": "0.1", "kind": "worker", "restart": "permanent", "restarts": restarts, "max": null,
            "within_ms": null, "state": state, "mailbox": 0, "last_exit": last_exit, "children": []})
    }

    fn sample() -> Value {
        json!({"nodes": [{"node": "node-1", "pid": 7, "incarnation": 1, "state": "alive", "root": {
            "name": "root", "kind": "supervisor", "strategy": "one_for_one", "restarts": 0, "max": 3, "within_ms": 60_000, "state": "running",
            "mailbox": 0, "last_exit": null, "children": [
                worker("bus-link", "running", 0, Value::Null),
                {"name": "pool-BuildMaster", "kind": "supervisor", "strategy": "one_for_one", "restarts": 3, "max": 5, "within_ms": 60_000,
                 "state": "running", "mailbox": 0, "last_exit": null, "children": [
                    worker("BuildMaster-1", "idle", 0, Value::Null),
                    worker("BuildMaster-2", "idle", 3, json!("panic: boom")),
                    worker("BuildMaster-3", "idle", 0, Value::Null)]}]}}]})
    }

    fn text(all: bool, work: &Work) -> String {
        View { work, all, style: Style::PLAIN }.text(&sample())
    }

    #[test]
    fn an_agent_at_work_is_shown_with_its_task() {
        let work = Work::from([("bus-link".to_owned(), ("busy".to_owned(), Some("e-1/a".to_owned())))]);
        let text = text(false, &work);
        assert!(text.contains("▶ bus-link  busy  e-1/a\n"), "{text}");
    }

    #[test]
    fn quiet_workers_are_folded_and_restarts_are_seen() {
        assert_eq!(
            text(false, &Work::new()),
            "node-1  ✓ alive  pid 7\n\
             └─ ▶ root  running  one_for_one · restarts 0/3 in 60s\n   \
                ├─ ▶ bus-link  running\n   \
                └─ ▶ pool-BuildMaster  running  one_for_one · restarts 3/5 in 60s\n      \
                   ├─ ✓ BuildMaster-2  idle  restarts 3 · last exit: panic: boom\n      \
                   └─ 2 idle\n"
        );
    }

    #[test]
    fn all_shows_each_worker() {
        let text = text(true, &Work::new());
        assert!(text.contains("BuildMaster-1") && text.contains("BuildMaster-3") && !text.contains("2 idle"), "{text}");
    }
}
