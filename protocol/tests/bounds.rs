//! Whatever the text is, compiling it ends with an answer; and what grows with a document is only what the document pays for.

#![allow(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::collections::BTreeMap;

use amphi_protocol::document::{
    CompileOptions, Limits, OUTPUT_BYTES_MAX, OutputType, PLAN_EDGES_MAX, check_outputs, compile, compile_bytes, plan_summary, substitute,
    substitute_text,
};
use proptest::prelude::*;
use serde_json::json;

/// 100,000 tasks in a chain, within the size limit.
fn chain(count: usize) -> String {
    let mut text = "version: 1\nname: big\ntasks:\n".to_owned();
    for n in 0..count {
        let needs = if n == 0 { String::new() } else { format!("t{}", n - 1) };
        text.push_str(&format!(" t{n}: {{run: x, needs: [{needs}]}}\n"));
    }
    text
}

#[test]
fn a_document_of_100_000_tasks_compiles() {
    let text = chain(100_000);
    assert!(text.len() < 4 * 1024 * 1024, "{}", text.len());
    let compiled = compile(&text, &CompileOptions::default());
    assert_eq!(compiled.problems, vec![]);
    let view = plan_summary(&compiled.spec.unwrap());
    assert_eq!((view.tasks, view.runs, view.critical_path.len()), (100_000, 100_000, 100_000));
    assert_eq!((view.edges.len(), view.edges_complete), (PLAN_EDGES_MAX, false));
}

#[test]
fn one_task_too_many_is_refused() {
    let limits = Limits { runs: 1000, ..Limits::default() };
    let options = CompileOptions { limits, ..CompileOptions::default() };
    assert!(compile(&chain(1000), &options).spec.is_some());
    let compiled = compile(&chain(1001), &options);
    assert_eq!(compiled.problems.iter().map(|p| p.code.as_str()).collect::<Vec<_>>(), ["epic.limit"]);
}

#[test]
fn a_circle_of_20_000_tasks_is_named_without_a_huge_message() {
    let text = chain(20_000).replacen("needs: []", "needs: [t19999]", 1);
    let compiled = compile(&text, &CompileOptions::default());
    assert_eq!(compiled.problems.iter().map(|p| p.code.as_str()).collect::<Vec<_>>(), ["epic.cycle"]);
    assert!(compiled.problems[0].message.len() < 4096);
    assert!(compiled.problems[0].message.contains("more)"));
}

#[test]
fn twenty_thousand_unknown_names_are_answered() {
    let mut text = "version: 1\nname: big\ntasks:\n".to_owned();
    for n in 0..20_000 {
        text.push_str(&format!(" t{n}: {{run: 'x ${{{{ tasks.u{n}.outputs.y }}}}'}}\n"));
    }
    let compiled = compile(&text, &CompileOptions::default());
    assert_eq!(compiled.problems.len(), 201);
    assert!(compiled.problems.iter().take(200).all(|p| p.code.as_str() == "epic.unknown_task"));
}

/// What would be made of such documents is far more than any machine has; they are refused before it is made.
#[test]
fn a_small_text_cannot_demand_much_memory() {
    let matrices: String = (0..5_000).map(|n| format!(" t{n}: {{run: x, matrix: {{i: 1..90000}}}}\n")).collect();
    let env: String = (0..250).map(|n| format!("A{n}: x,")).collect();
    let tasks: String = (0..50_000).map(|n| format!(" t{n}: {{run: x}}\n")).collect();
    let phases: String = (0..50_000).map(|n| format!("p{n},")).collect();
    let documents = [
        (format!("tasks:\n{matrices}"), "epic.limit"),
        (format!("defaults: {{env: {{{env}}}}}\ntasks:\n{tasks}"), "epic.limit"),
        (format!("phases: [{phases}]\ntasks: {{a: {{run: x}}}}\n"), "epic.type"),
    ];
    for (text, code) in documents {
        let compiled = compile(&format!("version: 1\nname: x\n{text}"), &CompileOptions::default());
        assert_eq!(compiled.problems.first().map(|p| p.code.as_str()), Some(code));
    }
}

#[test]
fn a_plan_names_edges_phases_locks_and_the_longest_chain() {
    let text = "version: 1\nname: x\nphases: [one, two]\ntasks:\n  a: { run: x }\n  b: { run: x, needs: [a], locks: { write: [r], read: ['s/${{ matrix.i }}'] }, matrix: { i: 1..2 } }\n  c: { run: x, phase: two, locks: { read: [r] } }\n  d: { run: x, phase: two, needs: [] }\n";
    let view = plan_summary(&compile(text, &CompileOptions::default()).spec.unwrap());
    assert_eq!(
        serde_json::to_value(view).unwrap(),
        json!({
            "tasks": 4, "runs": 5, "edges": [["a", "b"], ["a", "c"], ["b", "c"]], "edges_complete": true,
            "phases": ["one", "two"], "critical_path": ["a", "b", "c"],
            "locks": {"r": {"read": ["c"], "write": ["b"]}, "s/1": {"read": ["b"], "write": []}, "s/2": {"read": ["b"], "write": []}},
        })
    );
}

#[test]
fn values_are_put_in_once_and_never_read_again() {
    let values = BTreeMap::from([
        ("inputs.a".to_owned(), "${{ inputs.b }}".to_owned()),
        ("inputs.b".to_owned(), "B".to_owned()),
        ("inputs.n".to_owned(), "3".to_owned()),
    ]);
    assert_eq!(
        substitute_text("${{inputs.a}}-${{ inputs.b }}-${{ inputs.c }}-${{ oops }}-${{", &values),
        "${{ inputs.b }}-B-${{ inputs.c }}-${{ oops }}-${{"
    );
    let value = json!({"${{ inputs.b }}": ["${{ inputs.n }}", 1, null, {"x": "a${{ inputs.b }}"}]});
    assert_eq!(substitute(&value, &values), json!({"${{ inputs.b }}": ["3", 1, null, {"x": "aB"}]}));
}

#[test]
fn outputs_are_read_by_their_declaration() {
    let declared = BTreeMap::from([
        ("n".to_owned(), OutputType::Number),
        ("i".to_owned(), OutputType::Integer),
        ("b".to_owned(), OutputType::Boolean),
        ("l".to_owned(), OutputType::List(Box::new(OutputType::String))),
        ("e".to_owned(), OutputType::Enum(vec!["x".into(), "y".into()])),
        ("s".to_owned(), OutputType::String),
    ]);
    let good = [("n", "0.5"), ("i", "-3"), ("b", "true"), ("l", "[\"a\"]"), ("e", "y"), ("s", "7"), ("free", "1")];
    let raw =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>();
    let outputs = check_outputs(&declared, raw(&good), OUTPUT_BYTES_MAX).unwrap();
    assert_eq!(serde_json::to_value(outputs).unwrap(), json!({"n": 0.5, "i": -3, "b": true, "l": ["a"], "e": "y", "s": "7", "free": "1"}));
    for (name, wrong) in [("n", "NaN"), ("n", ""), ("i", "1.5"), ("b", "yes"), ("l", "[1]"), ("l", "a"), ("e", "z")] {
        let mut values = raw(&good);
        values.insert(name.to_owned(), wrong.to_owned());
        assert!(check_outputs(&declared, values, OUTPUT_BYTES_MAX).unwrap_err().contains(&format!("`{name}`")), "{name}={wrong}");
    }
    let mut missing = raw(&good);
    missing.remove("s");
    assert!(check_outputs(&declared, missing, OUTPUT_BYTES_MAX).unwrap_err().contains("`s`"));
    let mut long = raw(&good);
    long.insert("free".to_owned(), "x".repeat(64 * 1024 + 1));
    assert!(check_outputs(&declared, long, OUTPUT_BYTES_MAX).is_err());
}

const SEED: &str = "version: 1\nname: x\ntitle: T ${{ inputs.a }}\ninputs: { a: { type: string, default: b, pattern: '^b' }, n: 3 }\nphases: [one, two]\nresources: { r: { lease: 1m } }\ndefaults: { timeout: 5m, retry: { attempts: 2, on: [exit] } }\ntasks:\n  a: { run: 'echo \"${{ inputs.a }}\"', outputs: { o: 'string[]' }, locks: { write: [r] } }\n  b:\n    phase: two\n    matrix: { i: 1..3, j: [x, y] }\n    exclude: [{ i: 1, j: x }]\n    run: |\n      cat <<E\n      E\n      echo ${{ matrix.i }} '${{ tasks.a.outputs.o }}'\n  c: { needs: [a], tool: noop, with: { x: [1, { y: '${{ inputs.n }}' }] }, if: always(), env: &e { A: 1 } }\n  d: { run: x, env: *e, undo: { run: y } }\n";

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_text_is_answered(text in "\\PC{0,200}") {
        drop(compile(&text, &CompileOptions::default()));
    }

    #[test]
    fn random_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let compiled = compile_bytes(&bytes, &CompileOptions::default());
        prop_assert_eq!(compiled.spec.is_some(), compiled.problems.is_empty());
    }

    #[test]
    fn yaml_like_text_is_answered(parts in prop::collection::vec(prop::sample::select(vec![
        "version", "tasks", "run", ": ", ":\n", "\n", "  ", "- ", "[", "]", "{", "}", ",", "'", "\"", "&a ", "*a", "!!str ", "|\n", ">\n", "?", "#", "---\n", "\t", "\u{feff}", "1..3", "matrix", "${{ inputs.a }}", "<<", "needs", "~", "%YAML 1.2\n", "\r\n",
    ]), 0..40)) {
        drop(compile(&parts.concat(), &CompileOptions::default()));
    }

    #[test]
    fn a_damaged_document_is_answered(cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[ -~\\n\\t]{0,6}"), 1..5)) {
        let mut text = SEED.to_owned();
        for (at, remove, insert) in cuts {
            let at = at.index(text.len() + 1);
            let end = (at + remove).min(text.len());
            text.replace_range(at..end, &insert);
        }
        let compiled = compile(&text, &CompileOptions::default());
        prop_assert_eq!(compiled.spec.is_some(), compiled.problems.is_empty());
        for problem in &compiled.problems {
            let lines = text.split('\n').count() as u32;
            prop_assert!(problem.line <= lines + 1, "{:?} lies outside of {} lines", problem, lines);
        }
        if let Some(spec) = compiled.spec {
            let view = plan_summary(&spec);
            prop_assert!(view.runs >= view.tasks);
            let json = serde_json::to_string(&spec).unwrap();
            prop_assert_eq!(serde_json::from_str::<amphi_protocol::document::EpicSpec>(&json).unwrap(), spec);
        }
    }
}

#[test]
fn the_seed_of_the_damage_is_itself_good() {
    let compiled = compile(SEED, &CompileOptions::default());
    assert_eq!(compiled.problems, vec![]);
}
