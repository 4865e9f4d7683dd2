//! `epic plan`: what a document expands to. The same view answers `amphi.api.epic.plan`.

use amphi_protocol::document::{EpicSpec, Plan, plan_summary};
use serde_json::Value;

use super::epic_file::{self, Document, FileArgs};
use super::failure::{Failure, exit};
use super::screen::{Cell, Paint, Screen, Style, items, table};

/// Shows the plan of a file.
pub fn plan(screen: Screen, args: &FileArgs) -> Result<u8, Failure> {
    plan_document(screen, &epic_file::read(&args.file)?, &args.inputs, args.strict)
}

/// Shows the plan of a document.
pub fn plan_document(screen: Screen, document: &Document, inputs: &[String], strict: bool) -> Result<u8, Failure> {
    let compiled = epic_file::check(document, inputs, strict, Some(super::catalog::local()?))?;
    epic_file::warn(screen, document, &compiled.warnings);
    let Some(spec) = compiled.spec else { return Err(epic_file::invalid(document, compiled.problems)) };
    let view = plan_view(&spec);
    screen.show(&view, |view, style| plan_text(&spec, view, style))?;
    Ok(exit::OK)
}

/// `{"tasks","runs","edges":[["a","b"]],"edges_complete","phases":[],"critical_path":[],"locks":{}}`, as the protocol defines it.
pub fn plan_view(spec: &EpicSpec) -> Value {
    serde_json::to_value(plan_summary(spec)).expect("a plan has only string keys and whole numbers")
}

fn plan_text(spec: &EpicSpec, view: &Value, style: Style) -> String {
    let mut out = format!(
        "{}  {} tasks, {} runs{}\n\n",
        style.paint(Paint::Head, spec.name.as_str()),
        view["tasks"],
        view["runs"],
        if spec.phases.is_empty() { String::new() } else { format!(", {} phases", spec.phases.len()) }
    );
    let plan = Plan::expand(spec);
    let rows: Vec<Vec<Cell>> = spec
        .tasks
        .iter()
        .zip(&plan.tasks)
        .map(|(task, planned)| {
            let phase = |phase: u32| spec.phases[phase as usize].as_str();
            let mut waits: Vec<&str> = planned.needs.iter().map(|need| spec.tasks[*need as usize].name.as_str()).collect();
            let barrier = planned.waits_for_phase.map(|before| format!("phase {}", phase(before)));
            waits.extend(barrier.as_deref());
            let who = task.agent.as_ref().map_or_else(|| task.skills.join("+"), ToString::to_string);
            vec![
                Cell::new(planned.phase.map_or("-", phase)),
                Cell::new(if planned.count > 1 { format!("{} x{}", task.name, planned.count) } else { task.name.to_string() }),
                Cell::new(task.work.kind()),
                Cell::new(if who.is_empty() { "any" } else { &who }),
                Cell::new(if waits.is_empty() { "-".to_owned() } else { waits.join(", ") }),
            ]
        })
        .collect();
    out.push_str(&table(&["PHASE", "TASK", "KIND", "AGENT", "WAITS FOR"], &rows, style));
    let path: Vec<&str> = items(view, "critical_path").iter().filter_map(Value::as_str).collect();
    out.push_str(&format!("\ncritical path  {}\n", path.join(" → ")));
    for (resource, modes) in view["locks"].as_object().into_iter().flatten() {
        let names = |mode: &str| items(modes, mode).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
        let modes = ["read", "write"].into_iter().filter(|mode| !items(modes, mode).is_empty());
        let modes: Vec<String> = modes.map(|mode| format!("{mode} by {}", names(mode))).collect();
        out.push_str(&format!("lock  {resource}  {}\n", modes.join("; ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use amphi_protocol::document::{CompileOptions, compile};

    use super::*;

    #[test]
    fn a_plan_says_who_waits_for_whom_and_who_locks_what() {
        let text = "version: 1\nname: e\nphases: [build, test]\ntasks:\n  a: { phase: build, run: 'true' }\n  \
                    b: { phase: build, run: 'true', matrix: { i: 1..4 }, locks: { write: [db/x] } }\n  c: { phase: test, run: 'true' }\n  \
                    d: { phase: test, needs: [c], run: 'true', locks: { read: [db/x] } }\n";
        let compiled = compile(text, &CompileOptions::default());
        let spec = compiled.spec.unwrap_or_else(|| panic!("{:?}", compiled.problems));
        assert_eq!(
            plan_text(&spec, &plan_view(&spec), Style::PLAIN),
            "e  4 tasks, 7 runs, 2 phases\n\n\
             PHASE  TASK  KIND  AGENT  WAITS FOR\n\
             build  a     run   any    -\n\
             build  b x4  run   any    -\n\
             test   c     run   any    phase build\n\
             test   d     run   any    c\n\n\
             critical path  b → c → d\n\
             lock  db/x  read by d; write by b\n"
        );
    }
}
