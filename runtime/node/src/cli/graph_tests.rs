//! Graphs as text and JSON.

use amphi_protocol::document::{CompileOptions, compile};
use amphi_protocol::graph::GraphTask;

use super::*;

/// Two phases, a matrix, a task with needs and one without.
pub const EPIC: &str = "version: 1\nname: e\nphases: [build, test]\ntasks:\n  a: { phase: build, run: 'true' }\n  \
    b: { phase: build, run: 'true', matrix: { i: 1..4 } }\n  c: { phase: test, run: 'true' }\n  \
    d: { phase: test, needs: [c, a], run: 'true' }\n";

/// The drawing of a document.
pub fn of(text: &str) -> Drawing {
    let spec = compile(text, &CompileOptions::default()).spec.expect("a valid epic");
    Drawing::new(GraphView::of(&spec), &plan_summary(&spec).critical_path)
}

/// The same as an epic with states.
pub fn with_states(text: &str) -> Drawing {
    let mut drawing = of(text);
    let states = |pairs: &[(&str, u64)]| pairs.iter().map(|(state, count)| ((*state).to_owned(), *count)).collect();
    drawing.states = vec![
        states(&[("succeeded", 1)]),
        states(&[("succeeded", 2), ("failed", 1), ("running", 1)]),
        states(&[("blocked", 1)]),
        states(&[("blocked", 1)]),
    ];
    drawing.epic = Some("e-1".to_owned());
    drawing.state = Some("running".to_owned());
    drawing
}

/// `count` tasks; each needs the `before`-th before it.
pub fn many(count: u32, before: u32) -> Drawing {
    let task = |at: u32| GraphTask {
        task: format!("t{at}"),
        kind: "run".to_owned(),
        needs: at.checked_sub(before).into_iter().collect(),
        runs: 1,
        ..GraphTask::default()
    };
    let graph = GraphView { name: "many".to_owned(), phases: Vec::new(), tasks: (0..count).map(task).collect() };
    Drawing::new(graph, &["t0", "t9999"])
}

#[test]
fn a_file_shows_phases_layers_needs_and_the_longest_chain() {
    assert_eq!(
        text(&of(EPIC), Style::PLAIN),
        "e  4 tasks, 7 runs, 2 phases\n\
         ── build\n\
         \x20 1   a     run\n\
         \x20   ★ b x4  run\n\
         ── test\n\
         \x20 2 ★ c     run    ← phase build\n\
         \x20 3 ★ d     run    ← c, a\n\n\
         ★ critical path  b → c → d\n"
    );
}

#[test]
fn an_epic_shows_how_many_runs_are_in_which_state_the_worst_first() {
    let text = text(&with_states(EPIC), Style::PLAIN);
    assert!(text.starts_with("e-1  ▶ running  4 tasks, 7 runs, 2 phases\n"), "{text}");
    assert!(text.contains("★ b x4  run  ✗ 1 failed, ▶ 1 running, ✓ 2 succeeded\n"), "{text}");
    assert!(text.contains("  1   a     run  ✓ succeeded\n"), "{text}");
}

#[test]
fn ten_thousand_tasks_are_folded_or_counted() {
    let wide = many(10_000, 100);
    assert_eq!(wide.by_layer(20).len(), 100);
    let told = text(&wide, Style::PLAIN);
    assert!(told.lines().count() < 2200 && told.contains("… 80 more tasks of this layer"), "{}", told.lines().count());
    let all: usize = wide.by_layer(20).iter().map(|layer| layer.shown.len() + layer.folded.len()).sum();
    assert_eq!(all, 10_000);
    // The critical path is never folded.
    assert!(told.contains("★ t0 ") && told.contains("★ t9999 "));
    let long = text(&many(10_000, 1), Style::PLAIN);
    assert!(long.lines().count() < 300 && long.contains("… 9800 tasks in 9800 more layers"), "{}", long.lines().count());
}

#[test]
fn json_names_everything() {
    let json = as_json(&with_states(EPIC));
    assert_eq!(json["tasks"][3]["needs"], json!(["c", "a"]));
    assert_eq!((&json["tasks"][2]["waits_for_phase"], &json["tasks"][3]["layer"]), (&json!("build"), &json!(2)));
    assert_eq!((&json["tasks"][1]["states"]["failed"], &json["critical_path"]), (&json!(1), &json!(["b", "c", "d"])));
}

#[test]
fn files_and_ids_are_told_apart() {
    assert!(is_file("-") && is_file("a.epic.yaml") && is_file("./a") && !is_file("deploy-v2-7k3f"));
}
