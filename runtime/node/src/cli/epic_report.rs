//! `amphi epic report`: how long an epic took and why, asked of the cluster or computed from a file of its events.
//!
//! Both ways run the same code over the same events; `amphi_protocol::report` says what each number means.

use std::path::{Path, PathBuf};

use amphi_protocol::event::Event;
use amphi_protocol::ids::EpicId;
use amphi_protocol::report::{Coordination, EpicReport, PathStep, Reporter};
use clap::Args;
use serde_json::json;

use super::Global;
use super::client::Client;
use super::epic::ask_epic;
use super::failure::{Failure, exit};
use super::lines;
use super::screen::{Cell, Paint, Screen, Style, counted, duration_text, facts, state_mark, table};

/// Longest line of a history: an event with the outputs of its task.
const LINE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Steps of the critical path and agents that people are shown; `--json` lists more.
const ROWS_SHOWN_MAX: usize = 25;

/// `epic report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The epic's id; with --events only needed if the file holds events of several epics
    #[arg(value_name = "EPIC", required_unless_present = "events")]
    id: Option<EpicId>,
    /// Compute it from the output of `epic events --json`, offline (`-` is standard input)
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
}

/// Shows a report.
pub async fn report(global: &Global, screen: Screen, args: &ReportArgs) -> Result<u8, Failure> {
    let report = match (&args.events, &args.id) {
        (Some(path), id) => from_file(path, id.as_ref())?,
        (None, Some(id)) => {
            let reply = ask_epic(&Client::connect(global).await?, "epic.report", &json!({ "epic": id })).await?;
            serde_json::from_value(reply).map_err(|error| {
                let told = format!("the cluster's report cannot be read: {error}");
                Failure::new(amphi_protocol::api::ErrorCode::Internal, told)
                    .hint("`amphi version` here and there: they may be of different releases")
            })?
        }
        (None, None) => return Err(Failure::usage("name an epic, or a file with --events")),
    };
    if screen.json {
        screen.json(&json!(report))?;
    } else {
        screen.write(&report_text(&report, screen.style))?;
    }
    Ok(exit::OK)
}

/// Computes a report from NDJSON.
fn from_file(path: &Path, epic: Option<&EpicId>) -> Result<EpicReport, Failure> {
    let mut reporter = Reporter::new();
    lines::each(
        path,
        LINE_BYTES_MAX,
        |why| no_history(path, why),
        |number, line| {
            if line.trim_ascii().is_empty() {
                return Ok(());
            }
            let event: Event = match serde_json::from_slice(line) {
                Ok(event) => event,
                // The closing line of `run --wait --json` is no event.
                Err(_) if is_result(line) => return Ok(()),
                Err(error) => return Err(no_history(path, &format!("line {number}: {error}"))),
            };
            if epic.is_none_or(|epic| event.epic.as_ref() == Some(epic)) {
                reporter.event(&event).map_err(|error| no_history(path, &format!("line {number}: {error}")))?;
            }
            Ok(())
        },
    )?;
    reporter.finish().map_err(|error| match epic {
        Some(epic) => no_history(path, &format!("it has no event of {epic}")),
        None => no_history(path, &error.to_string()),
    })
}

fn is_result(line: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(line).is_ok_and(|value| value["type"] == "result")
}

fn no_history(path: &Path, why: &str) -> Failure {
    Failure::usage(format!("{} is no history of an epic: {why}", path.display())).hint("amphi epic events EPIC --json > FILE writes one")
}

/// A report for people.
pub fn report_text(report: &EpicReport, style: Style) -> String {
    let (glyph, paint) = state_mark(&report.state);
    let so_far = if report.ended_at.is_some() { "in" } else { "so far" };
    let head = format!("{glyph} {} {}", report.epic, report.state);
    let mut out = format!("{} {so_far} {}\n", style.paint(paint, &head), ms_text(report.makespan_ms));
    let coordination = &report.coordination;
    let counts = |counts: &std::collections::BTreeMap<String, u64>| {
        counts.iter().map(|(word, count)| format!("{count} {word}")).collect::<Vec<_>>().join(", ")
    };
    let retries = if report.retries == 0 { "none".to_owned() } else { format!("{} ({})", report.retries, counts(&report.retry_causes)) };
    out.push_str(&facts(
        &[
            ("makespan", ms_text(report.makespan_ms)),
            ("sequential", ms_text(report.sequential_ms)),
            ("speed-up", report.speedup.map_or("-".to_owned(), |speedup| format!("{speedup:.2} x"))),
            (
                "critical path",
                format!("{} in attempts, {} between them", ms_text(report.critical_path_ran_ms), ms_text(report.critical_path_waited_ms)),
            ),
            (
                "coordination overhead",
                format!(
                    "{} (S4.44, {}): runnable work waited {}, {} of it on the critical path ({})",
                    percent(coordination.overhead),
                    goal_text(coordination),
                    ms_text(coordination.waited_ms),
                    ms_text(coordination.critical_path_ms),
                    percent(coordination.critical_path_share)
                ),
            ),
            ("utilisation", format!("{} of {}", percent(report.utilisation), counted(report.agents_used as u64, "agent"))),
            ("tasks", counts(&report.tasks)),
            ("completion", percent(report.completion_rate)),
            ("attempts", format!("{}, retries {retries}", report.attempts)),
            ("escalations", report.escalations.to_string()),
            ("cost", format!("${:.2}", report.cost.usd)),
        ],
        style,
    ));
    out.push_str(&path_text(report, style));
    out.push_str(&agents_text(report, style));
    out
}

fn goal_text(coordination: &Coordination) -> String {
    let verdict = match coordination.met {
        Some(true) => " is met",
        Some(false) => " is missed",
        None => "",
    };
    format!("goal < {:.0} %{verdict}", coordination.goal * 100.0)
}

fn path_text(report: &EpicReport, style: Style) -> String {
    let shown = &report.critical_path[report.critical_path.len().saturating_sub(ROWS_SHOWN_MAX)..];
    if shown.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<Cell>> = shown.iter().map(path_row).collect();
    let left_out = report.critical_path_steps - shown.len();
    let note = if left_out > 0 { format!("… {left_out} earlier steps\n") } else { String::new() };
    format!("\n{note}{}", table(&["CRITICAL PATH", "WAITED FOR", "READY", "STARTED", "ENDED", "RAN", "OUTCOME", "AGENT"], &rows, style))
}

fn path_row(step: &PathStep) -> Vec<Cell> {
    let part = |what: &str, number: u32| if number > 1 { format!(" {what} {number}") } else { String::new() };
    let task = format!("{}{}{}", step.task, part("run", step.run), part("attempt", step.attempt));
    let after = step.after.as_deref().filter(|_| step.waited_for != "other").map_or(String::new(), |after| format!(" of {after}"));
    let waited_for = match step.waited_for.as_str() {
        "needs" => step.after.clone().unwrap_or_else(|| "needs".to_owned()),
        "retry" => "its retry".to_owned(),
        "person" => "a person".to_owned(),
        "change" => step.after.as_ref().map_or_else(|| "a change".to_owned(), |by| format!("a change by {by}")),
        what => format!("{what}{after}"),
    };
    let ran = step.started_ms.map(|started| step.ended_ms.saturating_sub(started));
    let (glyph, paint) = state_mark(&step.outcome);
    vec![
        Cell::new(task),
        Cell::new(waited_for),
        Cell::new(ms_text(step.ready_ms)),
        Cell::new(step.started_ms.map_or("-".to_owned(), ms_text)),
        Cell::new(ms_text(step.ended_ms)),
        Cell::new(ran.map_or("-".to_owned(), ms_text)),
        Cell::painted(format!("{glyph} {}", step.outcome), paint),
        Cell::new(step.agent.as_deref().unwrap_or("-")),
    ]
}

fn agents_text(report: &EpicReport, style: Style) -> String {
    let shown = &report.agents[..report.agents.len().min(ROWS_SHOWN_MAX)];
    if shown.is_empty() {
        return String::new();
    }
    let row = |agent: &amphi_protocol::report::AgentShare| {
        vec![
            Cell::new(&agent.agent),
            Cell::new(agent.attempts.to_string()),
            Cell::new(ms_text(agent.busy_ms)),
            Cell::new(percent(Some(agent.utilisation))),
        ]
    };
    let rows: Vec<Vec<Cell>> = shown.iter().map(row).collect();
    let left_out = report.agents_used - shown.len();
    let note = if left_out > 0 { format!("… {left_out} agents that were less busy\n") } else { String::new() };
    let heads = ["AGENT", "ATTEMPTS", "BUSY", "UTILISATION"];
    format!("\n{}{}", table(&heads, &rows, style), style.paint(Paint::Dim, &note))
}

/// `28ms`, `1.172s`, and from ten seconds on as everywhere.
fn ms_text(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms}ms"),
        1000..10_000 => format!("{}.{:03}s", ms / 1000, ms % 1000),
        _ => duration_text(ms),
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, ms: u64, kind: &str, task: Option<&str>) -> String {
        let (run, agent) = (task.map(|_| 1), task.map(|_| "x"));
        json!({"shard": 0, "seq": seq, "ts": format!("2026-11-20T23:41:07.{ms:03}Z"), "epic": "e-1", "task": task, "run": run,
            "attempt": run, "agent": agent, "node": null, "type": kind, "data": {}})
        .to_string()
    }

    fn history() -> Vec<String> {
        vec![
            line(3, 100, "epic.submitted", None),
            line(4, 100, "task.ready", Some("a")),
            line(5, 100, "task.assigned", Some("a")),
            line(7, 120, "task.started", Some("a")),
            line(8, 280, "task.succeeded", Some("a")),
            line(9, 300, "epic.succeeded", None),
        ]
    }

    fn from(lines: &[String], epic: Option<&str>) -> Result<EpicReport, Failure> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), lines.join("\n")).expect("written");
        from_file(file.path(), epic.map(|epic| EpicId::parse(epic).expect("an id")).as_ref())
    }

    #[test]
    fn a_report_fits_on_a_screen() {
        let report = from(&history(), None).expect("a report");
        assert_eq!(
            report_text(&report, Style::PLAIN),
            "✓ e-1 succeeded in 200ms\n\
             makespan               200ms\n\
             sequential             160ms\n\
             speed-up               0.80 x\n\
             critical path          160ms in attempts, 20ms between them\n\
             coordination overhead  10.0 % (S4.44, goal < 5 % is missed): runnable work waited 20ms, 20ms of it on the critical path (10.0 %)\n\
             utilisation            80.0 % of 1 agent\n\
             tasks                  1 succeeded\n\
             completion             100.0 %\n\
             attempts               1, retries none\n\
             escalations            0\n\
             cost                   $0.00\n\n\
             CRITICAL PATH  WAITED FOR  READY  STARTED  ENDED  RAN    OUTCOME      AGENT\n\
             a              submission  0ms    20ms     180ms  160ms  ✓ succeeded  x\n\n\
             AGENT  ATTEMPTS  BUSY   UTILISATION\n\
             x      1         160ms  80.0 %\n"
        );
    }

    #[test]
    fn a_file_may_hold_other_epics_and_the_result_of_a_run() {
        let mut lines = history();
        lines.push(line(10, 400, "epic.submitted", None).replace("e-1", "e-2"));
        lines.push(json!({"type": "result", "epic": "e-1"}).to_string());
        assert_eq!(from(&lines, Some("e-1")).expect("a report").makespan_ms, 200);
        let refused = from(&lines, None).expect_err("two epics");
        assert_eq!(refused.exit_code(), 2);
    }

    #[test]
    fn what_is_no_history_is_wrong_use() {
        for lines in [&[][..], &["{}".to_owned()], &["x".to_owned()], &history()[1..]] {
            assert_eq!(from(lines, None).expect_err("no history").exit_code(), 2);
        }
        assert_eq!(from(&history(), Some("e-3")).expect_err("another epic").exit_code(), 2);
    }
}
