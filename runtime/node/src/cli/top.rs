//! `amphi top`: nodes, epics at work, agents at work, what waits, what is locked; on a terminal drawn again every second.

use std::time::Duration;

use amphi_protocol::api::ErrorCode;
use clap::Args;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::Global;
use super::arguments::DurationArg;
use super::client::Client;
use super::epic::done_text;
use super::events::now_ms;
use super::failure::{Failure, exit};
use super::frame::Frame;
use super::lock::locks_table;
use super::screen::{Cell, Paint, Screen, Style, counted, items, state_cell, table, talk, text_of, visible};

/// Most entries of each list that are asked for.
const ENTRIES_MAX: usize = 200;
/// Most waiting tasks that are shown: the others stand behind them.
const QUEUE_SHOWN_MAX: usize = 12;
const OTHERS_SHOWN_MAX: usize = 20;

/// `amphi top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Show it again and again, also where nobody looks (on a terminal it always is)
    #[arg(long, short, conflicts_with = "once")]
    watch: bool,
    /// Show it once, also on a terminal
    #[arg(long)]
    once: bool,
    /// How often it is shown again
    #[arg(long, value_name = "D", default_value = "1s")]
    every: DurationArg,
}

/// Shows it.
pub async fn top(global: &Global, screen: Screen, args: TopArgs) -> Result<u8, Failure> {
    if args.every.0 < Duration::from_millis(100) {
        return Err(Failure::usage("--every must be at least 100ms"));
    }
    let client = Client::connect(global).await?;
    if !args.watch && (args.once || screen.json || !screen.terminal) {
        screen.show(&look(&client).await?, picture)?;
        return Ok(exit::OK);
    }
    tokio::select! {
        result = watch(&client, screen, args.every.0) => result,
        _ = tokio::signal::ctrl_c() => Ok(exit::INTERRUPTED),
    }
}

async fn watch(client: &Client, screen: Screen, every: Duration) -> Result<u8, Failure> {
    let mut frame = None;
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let seen = match look(client).await {
            Ok(seen) => seen,
            // A restarting cluster is what one watches for.
            Err(failure) if failure.code().is_some_and(ErrorCode::is_retryable) && (frame.is_some() || screen.json) => {
                if screen.json {
                    talk("no answer now; trying again");
                }
                json!({ "silent": true })
            }
            Err(failure) => return Err(failure),
        };
        if screen.json {
            if seen["silent"].is_null() {
                screen.json(&seen)?;
            }
            continue;
        }
        if frame.is_none() {
            frame = Some(Frame::open(screen)?);
        }
        if let Some(frame) = &frame {
            frame.draw(&picture(&seen, screen.style))?;
        }
    }
}

/// `{"at","nodes","epics","agents","queue","locks","incidents"}`: open epics, agents at work and counts of the others, the head of the
/// queue, all locks, open incidents.
async fn look(client: &Client) -> Result<Value, Failure> {
    let bound = json!({ "limit": ENTRIES_MAX });
    let (running, waiting) = (json!({ "state": "running", "limit": ENTRIES_MAX }), json!({ "state": "waiting", "limit": ENTRIES_MAX }));
    let (none, queued) = (json!({}), json!({ "limit": ENTRIES_MAX }));
    let (nodes, agents, queue, locks, running, waiting, incidents) = tokio::try_join!(
        client.call("node.list", &bound),
        client.call("agent.list", &none),
        client.call("queue.list", &queued),
        client.call("lock.list", &bound),
        client.call("epic.list", &running),
        client.call("epic.list", &waiting),
        client.call("incident.list", &none),
    )?;
    let all = items(&agents, "agents");
    let busy: Vec<&Value> = all.iter().filter(|agent| agent["state"] != "idle").collect();
    let open: Vec<&Value> = items(&incidents, "incidents").iter().filter(|incident| incident["state"] == "open").collect();
    let epics: Vec<&Value> = items(&running, "epics").iter().chain(items(&waiting, "epics")).collect();
    Ok(json!({
        "at": jiff::Timestamp::now().to_string(), "nodes": nodes["nodes"], "epics": epics, "agents": busy, "agents_total": all.len(),
        "queue": queue["tasks"], "queue_more": !queue["next"].is_null(), "locks": locks["locks"], "incidents": open,
    }))
}

fn picture(seen: &Value, style: Style) -> String {
    if !seen["silent"].is_null() {
        return style.paint(Paint::Warn, "◌ no answer from the cluster now; trying again\n");
    }
    let (nodes, agents, queue) = (items(seen, "nodes"), items(seen, "agents"), items(seen, "queue"));
    let alive = nodes.iter().filter(|node| node["state"] != "lost").count();
    let clock = text_of(seen, "at").get(11..19).unwrap_or_default().to_owned();
    let parts = [
        format!("{clock}Z"),
        format!("{alive}/{} nodes", nodes.len()),
        format!("{}/{} agents at work", agents.len(), text_of(seen, "agents_total")),
        format!("{}{} waiting", queue.len(), if seen["queue_more"] == true { "+" } else { "" }),
        counted(items(seen, "locks").len() as u64, "lock"),
        counted(items(seen, "epics").len() as u64, "open epic"),
    ];
    let mut out = style.paint(Paint::Head, &parts.join(" · "));
    out.push('\n');
    for incident in items(seen, "incidents").iter().take(OTHERS_SHOWN_MAX) {
        let text = format!("☝ {} {}: {}", text_of(incident, "incident"), text_of(incident, "kind"), text_of(incident, "summary"));
        out.push_str(&style.paint(Paint::Warn, &visible(&text)));
        out.push('\n');
    }
    part(&mut out, nodes_table(nodes, style));
    part(&mut out, epics_table(items(seen, "epics"), style));
    part(&mut out, agents_table(agents, style));
    part(&mut out, queue_table(queue, style));
    if !items(seen, "locks").is_empty() {
        part(&mut out, locks_table(seen, now_ms(), style));
    }
    out
}

fn part(out: &mut String, text: String) {
    if !text.is_empty() {
        out.push('\n');
        out.push_str(&text);
    }
}

/// A table of the first rows, nothing without any.
fn first(heads: &[&str], rows: Vec<Vec<Cell>>, most: usize, style: Style) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let more = rows.len().saturating_sub(most);
    let mut text = table(heads, &rows[..rows.len() - more], style);
    if more > 0 {
        text.push_str(&style.paint(Paint::Dim, &format!("… {more} more\n")));
    }
    text
}

fn nodes_table(nodes: &[Value], style: Style) -> String {
    let rows = nodes.iter().map(|node| {
        let leads: Vec<String> = items(node, "leads").iter().map(Value::to_string).collect();
        let leads = if leads.is_empty() { "-".to_owned() } else { format!("shard {}", leads.join(",")) };
        vec![
            Cell::new(text_of(node, "id")),
            state_cell(&text_of(node, "state")),
            Cell::new(text_of(node, "pid")),
            Cell::new(text_of(node, "running")),
            Cell::new(leads),
        ]
    });
    first(&["NODE", "STATE", "PID", "RUNNING", "LEADS"], rows.collect(), OTHERS_SHOWN_MAX, style)
}

fn epics_table(epics: &[Value], style: Style) -> String {
    let rows = epics.iter().map(|epic| {
        let counts = |state: &str| epic["counts"][state].as_u64().unwrap_or(0);
        vec![
            Cell::new(text_of(epic, "epic")),
            state_cell(&text_of(epic, "state")),
            Cell::new(done_text(epic)),
            Cell::new((counts("running") + counts("assigned")).to_string()),
            Cell::painted(counts("failed").to_string(), if counts("failed") > 0 { Paint::Bad } else { Paint::Plain }),
            Cell::new(text_of(epic, "priority")),
        ]
    });
    first(&["EPIC", "STATE", "DONE", "RUNNING", "FAILED", "PRIORITY"], rows.collect(), OTHERS_SHOWN_MAX, style)
}

fn agents_table(agents: &[Value], style: Style) -> String {
    let rows = agents.iter().map(|agent| {
        let task = if agent["task"].is_null() { "-".to_owned() } else { format!("{}/{}", text_of(agent, "epic"), text_of(agent, "task")) };
        let cells = [text_of(agent, "agent"), text_of(agent, "role")];
        let [name, role] = cells.map(Cell::new);
        vec![name, role, state_cell(&text_of(agent, "state")), Cell::new(task), Cell::new(text_of(agent, "restarts"))]
    });
    first(&["AGENT", "ROLE", "STATE", "TASK", "RESTARTS"], rows.collect(), OTHERS_SHOWN_MAX, style)
}

fn queue_table(queue: &[Value], style: Style) -> String {
    let rows = queue.iter().map(|task| {
        let name = format!("{}/{}", text_of(task, "epic"), text_of(task, "task"));
        vec![Cell::new(name), state_cell(&text_of(task, "state")), Cell::new(text_of(task, "reason"))]
    });
    first(&["WAITING", "STATE", "WHY"], rows.collect(), QUEUE_SHOWN_MAX, style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_has_what_is_at_work_and_what_waits() {
        let queue: Vec<Value> =
            (0..15).map(|i| json!({"epic": "e-1", "task": format!("q[{i}]"), "state": "waiting", "reason": "lock"})).collect();
        let seen = json!({"at": "2026-11-20T23:41:07Z", "agents_total": 9, "queue": queue, "queue_more": false,
            "nodes": [{"id": "node-1", "pid": 7, "state": "alive", "leads": [0], "running": 1}, {"id": "node-2", "pid": 8, "state": "lost", "leads": [], "running": 0}],
            "agents": [{"agent": "node-1-X-1", "role": "X", "state": "busy", "epic": "e-1", "task": "a\u{1b}[2J", "restarts": 0}],
            "epics": [{"epic": "e-1", "state": "running", "counts": {"succeeded": 2, "running": 1, "ready": 3}, "priority": 2}],
            "locks": [], "incidents": [{"incident": "i-1", "kind": "unknown_outcome", "summary": "was it done?"}]});
        let text = picture(&seen, Style::PLAIN);
        for part in [
            "23:41:07Z · 1/2 nodes · 1/9 agents at work · 15 waiting · 0 locks · 1 open epic\n☝ i-1",
            "e-1   ▶ running  2/6   1        0",
            "… 3 more",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains('\u{1b}') && !text.contains("RESOURCE"), "{text}");
    }
}
