//! Whole documents: what is accepted, what becomes of it, and what is refused with which code at which place.

#![allow(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use amphi_protocol::api::ErrorCode;
use amphi_protocol::document::{
    Catalog, CompileOptions, Compiled, Condition, EpicSpec, Included, OutputType, Plan, RetryCause, RetryPolicy, WaitFor, Work, Workspace,
    beside, compile, compile_bytes, named_files,
};
use amphi_protocol::ids::RoleName;
use serde_json::json;

fn options() -> CompileOptions {
    let roles = [("BuildMaster", vec!["typescript", "vite"]), ("TestGuardian", vec!["vitest"]), ("DeployCommander", vec!["docker", "ssh"])];
    CompileOptions {
        file: Some("a.epic.yaml".to_owned()),
        catalog: Catalog {
            roles: roles
                .into_iter()
                .map(|(role, skills)| (RoleName::parse(role).unwrap(), skills.into_iter().map(str::to_owned).collect()))
                .collect(),
            tools: ["noop", "sleep", "http.check"].map(str::to_owned).into(),
            role_tools: [("BuildMaster", vec!["noop", "sleep"]), ("TestGuardian", vec!["noop", "http.check"])]
                .map(|(role, tools)| (RoleName::parse(role).unwrap(), tools.into_iter().map(str::to_owned).collect()))
                .into(),
        },
        unknown_names_are_errors: true,
        ..CompileOptions::default()
    }
}

fn found(compiled: &Compiled) -> Vec<(ErrorCode, u32, u32)> {
    compiled.problems.iter().map(|problem| (problem.code, problem.line, problem.column)).collect()
}

#[track_caller]
fn accepted(text: &str) -> amphi_protocol::document::EpicSpec {
    let compiled = compile(text, &options());
    assert_eq!(compiled.problems, vec![], "{text}");
    compiled.spec.expect("a document without problems has a specification")
}

/// The document has exactly these problems, in the order of the text.
#[track_caller]
fn refused(text: &str, expected: &[(ErrorCode, u32, u32)]) {
    let compiled = compile(text, &options());
    assert_eq!(found(&compiled), expected, "{text}\n{:#?}", compiled.problems);
    assert!(compiled.spec.is_none());
}

#[test]
fn a_small_epic_becomes_a_specification() {
    let spec = accepted(
        "version: 1\nname: small\ntitle: Ship ${{ inputs.tag }}\ninputs: { tag: v1 }\ntasks:\n  a: { run: make }\n  b: { needs: [a], tool: noop, with: { n: 1 } }\n",
    );
    assert_eq!(spec.title.as_deref(), Some("Ship v1"));
    assert_eq!(spec.tasks.len(), 2);
    assert_eq!(spec.tasks[1].needs, Some(vec![0]));
    assert_eq!(spec.tasks[1].work, Work::Tool { tool: "noop".into(), with: json!({"n": 1}) });
    assert_eq!(spec.tasks[0].retry, RetryPolicy::default());
    assert_eq!(spec.workspace, Workspace::None);
}

const HEAD: &str = "version: 1\nname: x\n";

/// A document whose lines after the two of the head are these.
fn doc(rest: &str) -> String {
    format!("{HEAD}{rest}")
}

use ErrorCode::{
    EpicCycle as Cycle, EpicKindUnsupported as Unsupported, EpicLimit as Limit, EpicSyntax as Syntax, EpicType as Type,
    EpicUnknownKey as UnknownKey, EpicUnknownTask as UnknownTask, PolicyDenied as Denied, RoleUnknown as NoRole, ToolUnknown as NoTool,
};

#[test]
fn what_is_no_document_is_refused_at_its_place() {
    refused("", &[(Syntax, 1, 1)]);
    refused("# nothing\n", &[(Syntax, 1, 1)]);
    refused("just text", &[(Type, 1, 1)]);
    refused("- a\n- b\n", &[(Type, 1, 1)]);
    refused("version: 1\nname: [x\n", &[(Syntax, 2, 7)]);
    refused("version: 1\nname: x\nname: y\ntasks: { a: { run: b } }\n", &[(Syntax, 3, 1)]);
    refused("a: *b\n", &[(Syntax, 1, 4)]);
    refused(&format!("{HEAD}tasks: {{ a: {{ run: b }} }}\n---\n{HEAD}"), &[(Syntax, 4, 1)]);
    refused(&doc("tasks: !!python/object { a: { run: b } }\n"), &[(Syntax, 3, 24)]);
    refused(&doc("tasks: { a: { run: \"a\\0b\" } }\n"), &[(Syntax, 3, 20)]);
    refused(&doc("? [a, b]\n: c\n"), &[(Syntax, 3, 3)]);
    assert_eq!(found(&compile_bytes(b"version: 1\nname: \xff\xfe\n", &options())), [(Syntax, 2, 7)]);
    assert_eq!(compile_bytes(&[0, 159, 146, 150, 255], &options()).problems[0].code, Syntax);
}

#[test]
fn tabs_are_refused_as_indentation_and_fine_elsewhere() {
    assert_eq!(compile(&doc("tasks:\n\ta: { run: b }\n"), &options()).problems[0].code, Syntax);
    accepted(&doc("tasks:\n  a: { run: \"b\\tc\" }\t# so\n"));
    accepted("{\n\t\"version\": 1,\n\t\"name\": \"x\",\n\t\"tasks\": {\n\t\t\"a\": {\"run\": \"b\"}\n\t}\n}\n");
}

#[test]
fn line_ends_and_byte_order_marks_do_not_matter() {
    let text = doc("tasks:\n  a: { run: b }\n");
    assert_eq!(accepted(&text.replace('\n', "\r\n")), accepted(&text));
    assert_eq!(accepted(&format!("\u{feff}{text}")), accepted(&text));
    refused("version: 1\r\nname: x\r\ntasks:\r\n  a: { rum: b, run: c }\r\n", &[(UnknownKey, 4, 8)]);
}

#[test]
fn json_is_the_same_document_with_places() {
    let yaml = doc("inputs: { n: 3 }\ntasks:\n  a: { run: 'echo ${{ inputs.n }}', tags: [\"\u{1F600}\"] }\n");
    let json = r#"{"version":1,"name":"x","inputs":{"n":3},"tasks":{"a":{"run":"echo ${{ inputs.n }}","tags":["\ud83d\ude00"]}}}"#;
    assert_eq!(accepted(json), accepted(&yaml));
    refused("{\"version\":1,\n \"name\":\"x\",\n \"tasks\":{\"a\":{\"run\":5}}}", &[(Type, 3, 22)]);
    refused("{\"version\":1,\"version\":1,\"name\":\"x\",\"tasks\":{\"a\":{\"run\":\"a\"}}}", &[(Syntax, 1, 14)]);
}

#[test]
fn depth_size_and_aliases_have_limits() {
    let deep = format!("a: {}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(compile(&deep, &options()).problems[0].code, Limit);
    let deep_block: String = (0..10_000).map(|level| format!("{}a:\n", " ".repeat(level % 200))).collect();
    assert!(compile(&deep_block, &options()).spec.is_none());
    let json = format!("{{\"a\":{}1{}}}", "{\"a\":".repeat(200), "}".repeat(200));
    assert_eq!(compile(&json, &options()).problems[0].code, Limit);
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", ")));
    }
    assert_eq!(compile(&bomb, &options()).problems[0].code, Limit);
    let big = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 1000].join(", "));
    assert_eq!(compile(&big, &options()).problems[0].code, Limit);
    assert_eq!(compile("a: &a [*a]\n", &options()).problems[0].code, Syntax);
    let large = format!("{HEAD}x-a: '{}'\n", "a".repeat(4 * 1024 * 1024));
    refused(&large, &[(Limit, 1, 1)]);
}

#[test]
fn aliases_and_own_keys_are_read() {
    let spec = accepted(&doc(
        "x-run: &run make\nx-env: &env { A: 1 }\ntasks:\n  a: { run: *run, env: *env, x-why: because }\n  b: { run: *run, env: *env }\n",
    ));
    assert_eq!(spec.tasks[0].env["A"], "1");
    assert_eq!(spec.tasks[0].work, spec.tasks[1].work);
    let compiled = compile(&doc("x-a: &a { run: b }\ntasks:\n  a: { <<: *a }\n"), &options());
    let merge = compiled.problems.iter().find(|problem| problem.code == UnknownKey).unwrap();
    assert!(merge.hint.as_ref().unwrap().contains("merge keys"));
}

#[test]
fn the_top_of_a_document_is_checked() {
    refused("name: x\ntasks: { a: { run: b } }\n", &[(Type, 1, 1)]);
    refused("version: 2\nname: x\ntasks: { a: { run: b } }\n", &[(Type, 1, 10)]);
    refused("version: 1\nname: Not Good\ntasks: { a: { run: b } }\n", &[(Type, 2, 7)]);
    refused(&format!("version: 1\nname: {}\ntasks: {{ a: {{ run: b }} }}\n", "a".repeat(65)), &[(Limit, 2, 7)]);
    refused("version: 1\nname: 5\ntasks: { a: { run: b } }\n", &[(Type, 2, 7)]);
    refused(HEAD, &[(Limit, 1, 1)]);
    refused(&doc("tasks: {}\n"), &[(Limit, 3, 8)]);
    refused(&doc("tasks:\n"), &[(Limit, 3, 1)]);
    refused(&doc("tasks: []\n"), &[(Type, 3, 8)]);
    refused(&doc("taks: { a: { run: b } }\n"), &[(Limit, 1, 1), (UnknownKey, 3, 1)]);
    refused(&doc("priority: 5\nproject: ../x\ntasks: { a: { run: b } }\n"), &[(Type, 3, 11), (Type, 4, 10)]);
    refused(&doc("priority: .nan\ntasks: { a: { run: b } }\n"), &[(Type, 3, 11)]);
    refused(&doc("on_failure: maybe\ntasks: { a: { run: b } }\n"), &[(Type, 3, 13)]);
    refused(&doc("budget: { usd: 6.00, tokens: 2M, wall: 45m, on_exceed: pause }\ntasks: { a: { run: b } }\n"), &[(Unsupported, 3, 9)]);
    refused(&doc("title: \"${{ tasks.a.outputs.x }}\"\ntasks: { a: { run: b } }\n"), &[(Type, 3, 8)]);
    refused(
        &doc("resources: { r: { on_change: [a] }, 's*': { lease: 1m }, t: { lease: 5 } }\ntasks: { a: { run: b } }\n"),
        &[(Type, 3, 37), (Type, 3, 70)],
    );
}

#[test]
fn an_unknown_key_has_a_hint() {
    let compiled = compile(&doc("tasks: { a: { run: b, neds: [] } }\n"), &options());
    assert_eq!(found(&compiled), [(UnknownKey, 3, 23)]);
    assert_eq!(compiled.problems[0].hint.as_deref(), Some("did you mean `needs`?"));
    assert_eq!(compiled.problems[0].file.as_deref(), Some("a.epic.yaml"));
}

#[test]
fn each_task_has_exactly_one_kind_and_later_kinds_are_refused() {
    refused(&doc("tasks:\n  a: { needs: [] }\n  b: { run: x, tool: noop }\n  c: 5\n"), &[(Type, 4, 3), (Type, 5, 16), (Type, 6, 6)]);
    for kind in ["prompt: hi", "approve: { by: ['user:x'] }", "ask: [{ id: a, text: b, type: string }]"] {
        refused(&doc(&format!("tasks:\n  a: {{ {kind} }}\n")), &[(Unsupported, 3 + 1, 8)]);
    }
    refused(&doc("tasks:\n  a: { wait: 10 }\n"), &[(Type, 4, 14)]);
    refused(&doc("tasks:\n  a: { run: '' }\n  b: { run: [x] }\n  c: { run: 5 }\n"), &[(Type, 4, 13), (Type, 5, 13), (Type, 6, 13)]);
    refused(
        &doc("tasks:\n  a: { run: x, with: {} }\n  b: { tool: noop, with: 3 }\n  c: { run: x, model: m }\n"),
        &[(Type, 4, 16), (Type, 5, 26), (Type, 6, 16)],
    );
    accepted(&doc("tasks:\n  a: { run: true }\n"));
}

#[test]
fn ids_that_could_break_a_path_or_a_subject_are_refused() {
    for id in ["A", "a-b", "a.b", "../a", "a/b", "1a", "a b", "'*'", "'>'", "\"a\\nb\"", "ä", "''"] {
        let compiled = compile(&doc(&format!("tasks:\n  {id}: {{ run: x }}\n")), &options());
        assert_eq!(found(&compiled), [(Type, 4, 3)], "{id}");
    }
    refused(&doc(&format!("tasks:\n  {}: {{ run: x }}\n", "a".repeat(65))), &[(Limit, 4, 3)]);
    refused(&doc("phases: ['a.b']\ntasks: { a: { run: x } }\n"), &[(Type, 3, 10)]);
    refused(&doc("tasks: { a: { run: x, agent: 'a.b' } }\n"), &[(Type, 3, 30)]);
}

#[test]
fn roles_and_tools_must_exist_to_submit_and_are_warned_about_to_validate() {
    let text = doc(
        "tasks:\n  a: { run: x, agent: BuildMeister }\n  b: { tool: nop }\n  c: { run: x, skills: [ssh, vite] }\n  d: { run: x, agent: TestGuardian, skills: [ssh] }\n",
    );
    refused(&text, &[(NoRole, 4, 23), (NoTool, 5, 14), (NoRole, 6, 24), (NoRole, 7, 45)]);
    let validate = CompileOptions { unknown_names_are_errors: false, ..options() };
    let compiled = compile(&text, &validate);
    assert_eq!(compiled.problems, vec![]);
    assert_eq!(compiled.warnings.len(), 4);
    assert_eq!(compiled.warnings[0].hint.as_deref(), Some("did you mean `BuildMaster`?"));
    assert!(compiled.spec.is_some());
    assert_eq!(compile(&text, &CompileOptions { strict: true, ..validate }).problems.len(), 4);
    accepted(&doc("tasks:\n  a: { run: x, agent: DeployCommander, skills: [ssh, docker] }\n"));
}

#[test]
fn inputs_are_declared_given_and_checked() {
    let text = doc(
        "inputs:\n  tag: { type: string, default: v1.0.0, pattern: '^v\\d+\\.\\d+\\.\\d+$' }\n  n: { type: integer }\n  b: false\n  o: { type: object, required: false }\ntasks: { a: { run: 'echo ${{ inputs.tag }} ${{ inputs.n }}' } }\n",
    );
    let with = |inputs: serde_json::Value| {
        let inputs: BTreeMap<_, _> = inputs.as_object().unwrap().clone().into_iter().collect();
        compile(&text, &CompileOptions { inputs, ..options() })
    };
    let spec = with(json!({"n": "3", "tag": "v2.0.0"})).spec.unwrap();
    assert_eq!(serde_json::to_value(&spec.inputs).unwrap(), json!({"tag": "v2.0.0", "n": 3, "b": false, "o": {}}));
    for wrong in [
        json!({}),
        json!({"n": "x"}),
        json!({"n": 1.5}),
        json!({"n": null}),
        json!({"n": 1, "tag": "2"}),
        json!({"n": 1, "tag": 2}),
        json!({"n": 1, "b": "maybe"}),
        json!({"n": 1, "o": []}),
        json!({"n": 1, "extra": 1}),
    ] {
        let compiled = with(wrong.clone());
        assert_eq!(compiled.problems.iter().map(|p| p.code).collect::<Vec<_>>(), [Type], "{wrong}");
    }
    assert_eq!(with(json!({"n": 1, "tag": format!("v1.{}.0", "1".repeat(70_000))})).problems[0].code, Limit);
    refused(
        &doc(
            "inputs: { a: { typ: string }, b: { type: text }, c: { type: integer, default: x }, d: [1], e: { pattern: '(' }, 'a b': 1 }\ntasks: { a: { run: x } }\n",
        ),
        &[(UnknownKey, 3, 16), (Type, 3, 42), (Type, 3, 79), (Type, 3, 87), (Type, 3, 106), (Type, 3, 113)],
    );
}

#[test]
fn a_missing_input_only_warns_when_a_file_is_validated() {
    let text = doc("title: Go ${{ inputs.a }}\ninputs: { a: { type: object } }\ntasks: { a: { run: 'echo ${{ inputs.a.b }}' } }\n");
    let compiled = compile(&text, &CompileOptions { unknown_names_are_errors: false, ..options() });
    assert_eq!((compiled.problems.len(), compiled.warnings.len()), (0, 1));
    refused(&text, &[(Type, 4, 11)]);
    let given = BTreeMap::from([("a".to_owned(), json!({"b": 1}))]);
    assert!(compile(&text, &CompileOptions { inputs: given, ..options() }).spec.is_some());
    let lacking = BTreeMap::from([("a".to_owned(), json!({"c": 1}))]);
    assert_eq!(compile(&text, &CompileOptions { inputs: lacking, ..options() }).problems.len(), 1);
}

#[test]
fn a_lock_on_a_missing_input_can_still_be_planned() {
    let validate = CompileOptions { unknown_names_are_errors: false, ..options() };
    for (before, good) in [(10, true), (250, false)] {
        let lock = format!("{}${{{{ inputs.v }}}}", "a".repeat(before));
        let text = doc(&format!("inputs: {{ v: }}\ntasks: {{ t: {{ run: x, locks: {{ write: ['{lock}'] }} }} }}\n"));
        let compiled = compile(&text, &validate);
        assert_eq!(compiled.spec.is_some(), good);
        if let Some(spec) = compiled.spec {
            assert_eq!(Plan::expand(&spec).locks(&spec, 0).len(), 1);
        }
    }
}

#[test]
fn a_workspace_is_a_folder_or_none() {
    let text = doc("workspace: { path: ./a/../b }\ntasks: { a: { run: x } }\n");
    refused(&text, &[(Type, 3, 20)]);
    let based = CompileOptions { workspace_base: Some("/srv/epics".into()), ..options() };
    assert_eq!(compile(&text, &based).spec.unwrap().workspace, Workspace::Path("/srv/epics/b".into()));
    assert_eq!(accepted(&doc("workspace: { path: /srv/x }\ntasks: { a: { run: x } }\n")).workspace, Workspace::Path("/srv/x".into()));
    assert_eq!(accepted(&doc("workspace: none\ntasks: { a: { run: x } }\n")).workspace, Workspace::None);
    refused(&doc("workspace: some\ntasks: { a: { run: x } }\n"), &[(Type, 3, 12)]);
    refused(&doc("workspace: {}\ntasks: { a: { run: x } }\n"), &[(Type, 3, 12)]);
}

#[test]
fn a_repository_is_named_by_a_url_without_login_or_a_path_that_becomes_absolute() {
    let based = CompileOptions { workspace_base: Some("/srv/epics".into()), ..options() };
    let git = |git: &str| doc(&format!("inputs: {{ v: {{ default: v2 }} }}\nworkspace: {{ git: {git} }}\ntasks: {{ a: {{ run: x }} }}\n"));
    for (written, url, reference) in [
        ("'https://host/x.git', ref: main", "https://host/x.git", Some("main")),
        ("git@host:x/y.git", "git@host:x/y.git", None),
        ("'ssh://git@host/x', ref: 'release/${{ inputs.v }}'", "ssh://git@host/x", Some("release/v2")),
        ("../repo", "/srv/repo", None),
        ("/srv/a/../repo", "/srv/repo", None),
    ] {
        let expected = Workspace::Git { url: url.to_owned(), reference: reference.map(str::to_owned) };
        assert_eq!(compile(&git(written), &based).spec.unwrap().workspace, expected, "{written}");
    }
    for wrong in [
        "'https://me:pass@host/x'",
        "'https://token@host/x'",
        "'ssh://git:pass@host/x'",
        "'ext::sh -c x'",
        "'--upload-pack=x'",
        "'ftp://x'",
        "''",
        "'${{ secrets.X }}'",
    ] {
        refused(&git(wrong), &[(Type, 4, 19)]);
        let problem = &compile(&git(wrong), &based).problems[0];
        assert!(!format!("{problem:?}").contains("pass@") && !format!("{problem:?}").contains("token@"), "{problem:?}");
    }
    for wrong in ["'-x'", "'a..b'", "'main~1'", "'a b'", "'@{u}'", "''", "[main]"] {
        refused(&git(&format!("/r, ref: {wrong}")), &[(Type, 4, 28)]);
    }
    // Over NATS there is no file that a path could be relative to.
    refused(&git("../repo"), &[(Type, 4, 19)]);
    refused(&doc("workspace: { path: /srv/x, ref: main }\ntasks: { a: { run: x } }\n"), &[(Type, 3, 28)]);
}

#[test]
fn a_tool_is_for_the_roles_that_may_use_it() {
    let task = |rest: &str| doc(&format!("tasks: {{ t: {{ tool: {rest} }} }}\n"));
    let skills = |rest: &str| accepted(&task(rest)).tasks[0].skills.clone();
    // All may: nothing more is asked for. A role that names no tools may use all.
    assert_eq!(skills("noop"), Vec::<String>::new());
    assert_eq!(skills("noop, agent: BuildMaster"), Vec::<String>::new());
    assert_eq!(skills("http.check, agent: DeployCommander"), Vec::<String>::new());
    // Only some may: one of them is asked for.
    assert_eq!(skills("sleep"), ["tool:sleep"]);
    assert_eq!(skills("sleep, skills: [typescript]"), ["typescript"], "who has the skill may");
    // Nobody may who could.
    refused(&task("http.check, agent: BuildMaster"), &[(Denied, 3, 21)]);
    refused(&task("sleep, skills: [vitest]"), &[(Denied, 3, 21)]);
    let hint = compile(&task("http.check, agent: BuildMaster"), &options()).problems[0].hint.clone().unwrap();
    assert!(hint.starts_with("DeployCommander, TestGuardian may"), "{hint}");
    // `validate` only warns: another cluster may have other roles.
    let warned = compile(&task("http.check, agent: BuildMaster"), &CompileOptions { unknown_names_are_errors: false, ..options() });
    assert!(warned.spec.is_some() && warned.warnings[0].code == Denied, "{warned:?}");
}

#[test]
fn phases_are_ordered_unique_and_not_empty() {
    refused(
        &doc("phases: [a, b, a, c]\ntasks: { t: { run: x, phase: b }, u: { run: x, phase: d } }\n"),
        &[(Type, 3, 16), (Type, 3, 19), (Type, 4, 55)],
    );
    refused(&doc("tasks: { t: { run: x, phase: b } }\n"), &[(Type, 3, 30)]);
    let spec = accepted(&doc("phases: [a, b]\ntasks: { t: { run: x }, u: { run: x, phase: b } }\n"));
    assert_eq!((spec.tasks[0].phase, spec.tasks[1].phase), (None, Some(1)));
}

#[test]
fn needs_name_tasks_once_and_never_in_a_circle() {
    let compiled = compile(&doc("tasks:\n  build: { run: x }\n  test: { run: x, needs: [biuld, build, build] }\n"), &options());
    assert_eq!(found(&compiled), [(UnknownTask, 5, 27), (Type, 5, 41)]);
    assert_eq!(compiled.problems[0].hint.as_deref(), Some("did you mean `build`?"));
    let compiled = compile(
        &doc(
            "tasks:\n  z: { run: x, needs: [a] }\n  a: { run: x, needs: [b] }\n  b: { run: x, needs: [c] }\n  c: { run: x, needs: [a] }\n  s: { run: x, needs: [s] }\n",
        ),
        &options(),
    );
    assert_eq!(found(&compiled), [(Cycle, 5, 3), (Cycle, 8, 3)]);
    assert!(compiled.problems[0].message.contains("a -> b -> c -> a"), "{}", compiled.problems[0].message);
    assert!(compiled.problems[1].message.contains("s -> s"));
}

#[test]
fn a_circle_through_a_phase_is_found() {
    let compiled =
        compile(&doc("phases: [one, two]\ntasks:\n  a: { run: x, phase: one, needs: [b] }\n  b: { run: x, phase: two }\n"), &options());
    assert_eq!(found(&compiled), [(Cycle, 5, 3)]);
    assert!(compiled.problems[0].message.contains("a -> b -> (phase one) -> a"), "{}", compiled.problems[0].message);
    accepted(&doc("phases: [one, two]\ntasks:\n  a: { run: x, phase: one, needs: [b] }\n  b: { run: x, phase: two, needs: [] }\n"));
}

#[test]
fn matrices_are_expanded_within_limits() {
    let spec = accepted(&doc(
        "tasks:\n  t: { run: 'x ${{ matrix.i }}', matrix: { db: [pg16, 17], i: 1..13 }, exclude: [{ db: 17, i: 13 }], max_parallel: 4, fail_fast: true }\n",
    ));
    let plan = Plan::expand(&spec);
    assert_eq!(plan.instances.len(), 25);
    assert_eq!(plan.key(&spec, 24), "t[17,12]");
    assert_eq!((spec.tasks[0].max_parallel, spec.tasks[0].fail_fast), (Some(4), true));
    refused(&doc("tasks:\n  t: { run: x, matrix: { i: 1..1000000000000 } }\n"), &[(Limit, 4, 29)]);
    refused(&doc("tasks:\n  t: { run: x, matrix: { i: 1..1000, j: 1..1000, k: 1..1000 } }\n"), &[(Limit, 4, 3)]);
    refused(&doc("tasks:\n  t: { run: x, matrix: { i: 1..60000 } }\n  u: { run: x, matrix: { i: 1..60000 } }\n"), &[(Limit, 5, 3)]);
    refused(
        &doc("tasks:\n  t: { run: x, matrix: { i: 5..1, j: [a, a], k: [a b], l: x, m: [] } }\n"),
        &[(Type, 4, 29), (Type, 4, 42), (Type, 4, 50), (Type, 4, 59), (Type, 4, 65)],
    );
    refused(
        &doc(
            "tasks:\n  t: { run: x, matrix: {} }\n  u: { run: x, exclude: [] }\n  v: { run: x, matrix: { i: 1..2 }, exclude: [{ j: 1 }, { i: 3 }] }\n",
        ),
        &[(Type, 4, 24), (Type, 5, 25), (Type, 6, 49), (Type, 6, 62)],
    );
    refused(&doc("tasks:\n  t: { run: x, matrix: { i: 1..2 }, exclude: [{ i: 1 }, { i: 2 }] }\n"), &[(Type, 4, 3)]);
}

#[test]
fn a_condition_is_a_word_or_an_expression() {
    let spec = accepted(&doc(
        "tasks:\n  a: { run: x }\n  b: { run: x, needs: [a], if: always() }\n  c: { run: x, needs: [a], if: 'failure() ' }\n  d: { run: x, if: success() }\n",
    ));
    let conditions: Vec<_> = spec.tasks.iter().map(|task| task.condition.clone()).collect();
    assert_eq!(conditions, [Condition::Success, Condition::Always, Condition::Failure, Condition::Success]);
    let spec = accepted(&doc(
        "inputs: { env: prod }\ntasks:\n  a: { run: x }\n  b: { run: x, needs: [a], if: \"tasks.a.outputs.x == '1' && inputs.env == 'prod'\" }\n  c: { run: x, needs: [b], if: always() && tasks.a.state == 'failed' }\n  d: { run: x, if: true }\n",
    ));
    let outlives: Vec<bool> = spec.tasks.iter().map(|task| task.condition.outlives_failure()).collect();
    assert_eq!(outlives, [false, false, true, false]);
    assert!(!spec.tasks[3].condition.is_success());
    refused(
        &doc(
            "tasks:\n  a: { run: x, if: nope == 1 }\n  b: { run: x, if: tasks.a.outputs.x == 1 }\n  c: { run: x, if: [] }\n  d: { run: x, needs: [b], if: true && tasks.c.state == 'failed' }\n  e: { run: x, if: inputs.x == 1 }\n  f: { run: x, if: 1 + }\n  g: { run: x, if: tasks.zz.state == 'failed' }\n  h: { run: x, if: '${{ inputs.x }}' }\n",
        ),
        &[
            (Type, 4, 20),
            (Type, 5, 20),
            (Type, 6, 20),
            (Type, 7, 40),
            (Type, 8, 20),
            (Type, 9, 23),
            (ErrorCode::EpicUnknownTask, 10, 20),
            (Type, 11, 20),
        ],
    );
}

#[test]
fn a_wait_is_a_duration_or_an_event() {
    let spec = accepted(&doc(
        "inputs: { env: prod }\ndefaults: { timeout: 5s, locks: { write: [db] }, agent: BuildMaster }\ntasks:\n  a: { wait: 10m }\n  b: { matrix: { i: [x, y.z] }, wait: { event: 'go.${{ inputs.env }}.${{ matrix.i }}' }, timeout: 1h }\n  c: { needs: [d], run: 'echo ${{ tasks.d.outputs.data }}' }\n  d: { wait: { event: 'go.>' } }\n",
    ));
    assert_eq!(spec.tasks[0].work, Work::Wait(WaitFor::Duration { ms: 600_000 }));
    assert_eq!((spec.tasks[0].timeout_ms, spec.tasks[0].agent.clone(), spec.tasks[0].locks.is_empty()), (None, None, true));
    assert_eq!(spec.tasks[1].timeout_ms, Some(3_600_000));
    let plan = Plan::expand(&spec);
    assert_eq!([plan.awaited(&spec, 1), plan.awaited(&spec, 2)], [Some("go.prod.x".to_owned()), Some("go.prod.y.z".to_owned())]);
    refused(
        &doc(
            "tasks:\n  a: { wait: { event: '$JS.x' } }\n  b: { wait: { event: amphi.api.x } }\n  c: { wait: {} }\n  d: { wait: { event: 'a b' } }\n  e: { wait: 5m, agent: BuildMaster, timeout: 1m }\n  f: { needs: [a], run: 'echo ${{ tasks.a.outputs.x }}' }\n  g: { wait: { event: a, at: b } }\n",
        ),
        &[(Type, 4, 23), (Type, 5, 23), (Type, 6, 14), (Type, 7, 23), (Type, 8, 18), (Type, 8, 38), (UnknownKey, 10, 26)],
    );
}

/// Files by name, as the command line hands them in.
fn with_files(files: &[(&str, &str)]) -> CompileOptions {
    let included = |text: &str| Included::Text { text: text.to_owned(), base: "/shop/sub".into() };
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), included(text))).collect();
    CompileOptions { file: Some("epics/a.epic.yaml".to_owned()), files: Arc::new(files), ..options() }
}

/// The sub-epics of a task.
#[track_caller]
fn nested(spec: &EpicSpec, task: usize) -> &[Arc<EpicSpec>] {
    match &spec.tasks[task].work {
        Work::Epic(epic) => &epic.specs,
        other => panic!("{other:?} is no sub-epic"),
    }
}

#[test]
fn a_sub_epic_is_compiled_with_the_epic_around_it() {
    let spec = accepted(&doc(
        "project: shop\npriority: 1\ninputs: { env: prod, n: 3 }\ndefaults: { timeout: 5s, agent: BuildMaster, optional: true }\ntasks:\n  deploy_all:\n    epic:\n      inputs: { env: '', n: 0, tag: v1 }\n      tasks: { a: { run: 'echo ${{ inputs.env }}' } }\n    with: { env: 'on-${{ inputs.env }}', n: '${{ inputs.n }}' }\n  after: { run: 'echo ${{ tasks.deploy_all.outputs.epic }}', needs: [deploy_all] }\n",
    ));
    let task = &spec.tasks[0];
    assert_eq!((task.timeout_ms, task.agent.clone(), task.optional), (None, None, true));
    let child = &nested(&spec, 0)[0];
    assert_eq!((child.name.as_str(), child.project.as_str(), child.priority), ("deploy-all", "shop", 1));
    assert_eq!(child.inputs, BTreeMap::from([("env".into(), json!("on-prod")), ("n".into(), json!(3)), ("tag".into(), json!("v1"))]));
    let json = serde_json::to_value(&spec).unwrap();
    assert_eq!(serde_json::from_value::<EpicSpec>(json).unwrap(), spec);
}

#[test]
fn a_matrix_gives_each_sub_epic_its_own_values() {
    let spec = accepted(&doc(
        "tasks:\n  t:\n    matrix: { region: [eu, us], n: 1..2 }\n    exclude: [{ region: eu, n: '2' }]\n    with: { at: '${{ matrix.region }}-${{ matrix.n }}' }\n    epic: { name: part, inputs: { at: }, tasks: { a: { run: 'true', undo: { run: 'true' } } } }\n",
    ));
    let plan = Plan::expand(&spec);
    let at = |i| plan.child(&spec, i).unwrap().inputs["at"].clone();
    assert_eq!([at(0), at(1), at(2)], [json!("eu-1"), json!("us-1"), json!("us-2")]);
    assert!(matches!(&spec.tasks[0].work, Work::Epic(epic) if epic.undo));
}

#[test]
fn a_sub_epic_may_stand_in_a_file_beside_the_one_that_names_it() {
    let inner = "version: 1\nname: inner\nworkspace: { path: . }\ntasks: { x: { epic: ../b.yaml } }\n";
    let options = with_files(&[("epics/sub/inner.yaml", inner), ("epics/b.yaml", "version: 1\nname: b\ntasks: { y: { run: 'true' } }\n")]);
    let text = doc("tasks:\n  t: { epic: sub/inner.yaml }\n");
    let spec = compile(&text, &options).spec.unwrap();
    let child = nested(&spec, 0)[0].clone();
    assert_eq!((child.name.as_str(), child.workspace.clone()), ("inner", Workspace::Path("/shop/sub".to_owned())));
    assert_eq!(nested(&child, 0)[0].name.as_str(), "b");
    assert_eq!(named_files(&text), ["sub/inner.yaml"]);
    assert_eq!([beside(Some("/a/b.yaml"), "../../c.yaml"), beside(Some("x/y"), "./z"), beside(None, "../q")], ["/c.yaml", "x/z", "../q"]);
}

#[test]
fn problems_of_sub_epics_name_their_file_and_line() {
    let bad = "version: 1\nname: bad\ninputs: { n: { type: integer } }\ntasks:\n  x: { rum: 'true' }\n";
    let compiled = compile(
        &doc(
            "tasks:\n  a: { epic: bad.yaml, with: { n: x, m: 1 } }\n  b: { epic: { tasks: { y: { run: '' } } } }\n  c: { epic: gone.yaml }\n",
        ),
        &with_files(&[("epics/bad.yaml", bad)]),
    );
    let found: Vec<_> = compiled.problems.iter().map(|p| (p.file.as_deref().unwrap(), p.code, p.line, p.column)).collect();
    let (own, other) = ("epics/a.epic.yaml", "epics/bad.yaml");
    assert_eq!(
        found,
        [(own, Type, 4, 38), (own, Type, 5, 35), (own, Type, 6, 14), (other, Type, 3, 11), (other, Type, 5, 3), (other, UnknownKey, 5, 8),],
        "{:#?}",
        compiled.problems
    );
}

#[test]
fn a_wrong_sub_epic_hides_nothing_else() {
    let file = "version: 1\nname: f\ninputs: { n: { type: integer } }\ntasks: { x: { run: 'true' } }\n";
    let text = doc("tasks:\n  a: { epic: f.yaml }\n  b: { epic: f.yaml, locks: { write: [db] } }\n");
    let compiled = compile(&text, &with_files(&[("epics/f.yaml", file)]));
    let found: Vec<_> = compiled.problems.iter().map(|p| (p.line, p.column, p.hint.clone().unwrap())).collect();
    let [(5, 22, _), (3, 11, a), (3, 11, b)] = found.as_slice() else { panic!("{found:?}") };
    assert!(a.contains("task `a`") && b.contains("task `b`"), "{found:?}");
}

#[test]
fn what_means_nothing_to_a_sub_epic_is_refused() {
    let tasks = "{ x: { run: 'true' } }";
    for key in ["agent: BuildMaster", "locks: { write: [db] }", "retry: 1", "undo: { run: 'true' }", "env: { A: b }", "stuck_after: 5m"] {
        let compiled = compile(&doc(&format!("tasks:\n  a: {{ epic: {{ tasks: {tasks} }}, {key} }}\n")), &options());
        assert_eq!(compiled.problems.len(), 1, "{key}: {:#?}", compiled.problems);
        assert!(compiled.problems[0].hint.as_deref().is_some_and(|hint| hint.contains("tasks of the sub-epic")), "{key}");
    }
    refused(
        &doc(&format!(
            "tasks:\n  a: {{ run: 'true' }}\n  b: {{ needs: [a], epic: {{ inputs: {{ v: }}, tasks: {tasks} }}, with: {{ v: '${{{{ tasks.a.outputs.x }}}}' }} }}\n  c: {{ epic: {{ project: other, tasks: {tasks} }} }}\n  d: {{ epic: {{ inputs: {{ v: }}, tasks: {tasks} }} }}\n"
        )),
        &[(Type, 5, 88), (Type, 6, 25), (Type, 7, 26)],
    );
}

#[test]
fn files_in_a_circle_too_many_levels_and_too_many_runs_are_refused() {
    let options = with_files(&[
        ("epics/b.yaml", "version: 1\nname: b\ntasks: { y: { epic: c.yaml } }\n"),
        ("epics/c.yaml", "version: 1\nname: c\ntasks: { y: { epic: b.yaml } }\n"),
    ]);
    let compiled = compile(&doc("tasks:\n  t: { epic: b.yaml }\n"), &options);
    assert_eq!(compiled.problems.len(), 1);
    assert_eq!(compiled.problems[0].code, ErrorCode::EpicCycle);
    assert!(compiled.problems[0].message.ends_with("epics/b.yaml -> epics/c.yaml -> epics/b.yaml"), "{}", compiled.problems[0].message);
    let deep = |levels: usize| {
        let inner = (0..levels).fold("{ x: { run: 'true' } }".to_owned(), |inner, _| format!("{{ x: {{ epic: {{ tasks: {inner} }} }} }}"));
        compile(&doc(&format!("tasks: {inner}\n")), &self::options()).problems.iter().map(|problem| problem.code).collect::<Vec<_>>()
    };
    assert_eq!((deep(8), deep(9)), (vec![], vec![ErrorCode::EpicLimit]));
    let wide = |outer: u32, inner: u32| {
        let text = format!(
            "tasks: {{ t: {{ matrix: {{ i: 1..{outer} }}, epic: {{ tasks: {{ x: {{ matrix: {{ j: 1..{inner} }}, run: 'true' }} }} }} }} }}\n"
        );
        compile(&doc(&text), &self::options()).problems.iter().map(|problem| problem.code).collect::<Vec<_>>()
    };
    assert_eq!((wide(999, 99), wide(100, 1_000), wide(1_001, 1)), (vec![], vec![ErrorCode::EpicLimit], vec![ErrorCode::EpicLimit]));
}

#[test]
fn a_file_name_says_nothing_where_there_are_no_files() {
    let compiled = compile(&doc("tasks:\n  t: { epic: b.yaml }\n"), &options());
    assert_eq!(found(&compiled), [(Type, 4, 14)]);
    assert!(compiled.problems[0].hint.as_deref().is_some_and(|hint| hint.contains("amphi run FILE")));
}

#[test]
fn on_change_names_tasks() {
    let spec =
        accepted(&doc("resources: { db: { on_change: [b, a] } }\ntasks:\n  a: { run: x }\n  b: { run: x, locks: { write: [db] } }\n"));
    assert_eq!(spec.resources.values().map(|declared| declared.on_change.clone()).collect::<Vec<_>>(), [vec![1, 0]]);
    refused(
        &doc("resources: { db: { on_change: [a, zz, a] } }\ntasks:\n  a: { run: x }\n"),
        &[(ErrorCode::EpicUnknownTask, 3, 35), (Type, 3, 39)],
    );
}

#[test]
fn locks_hold_inputs_at_once_and_the_matrix_later() {
    let spec = accepted(&doc(
        "inputs: { env: prod }\ntasks:\n  t: { run: x, matrix: { i: 1..2 }, locks: { read: [file/a.json], write: ['env/${{ inputs.env }}/${{ matrix.i }}'] } }\n",
    ));
    assert_eq!(spec.tasks[0].locks.write, ["env/prod/${{ matrix.i }}"]);
    let plan = Plan::expand(&spec);
    let names: Vec<_> = plan.locks(&spec, 1).into_iter().map(|(resource, _)| resource.to_string()).collect();
    assert_eq!(names, ["env/prod/2", "file/a.json"]);
    refused(
        &doc(
            "tasks:\n  t: { run: x, locks: { write: ['file/src/[.rs', '', 'file/../a', '${{ tasks.a.outputs.b }}', '${{ matrix.i }}'], wrte: [] } }\n",
        ),
        &[(Type, 4, 33), (Type, 4, 50), (Type, 4, 54), (Type, 4, 67), (Type, 4, 95), (UnknownKey, 4, 115)],
    );
    for value in ["a*", "${{ matrix.i }}", "{{ matrix.i }}", "..", &"a".repeat(300)] {
        let text = doc(
            "inputs: { v: }\ntasks:\n  t: { run: x, matrix: { i: 1..2 }, locks: { write: ['$${{ inputs.v }}', 'file/${{ inputs.v }}'] } }\n",
        );
        let inputs = BTreeMap::from([("v".to_owned(), json!(value))]);
        assert!(compile(&text, &CompileOptions { inputs, ..options() }).spec.is_none(), "{value}");
    }
}

#[test]
fn retries_and_durations_have_their_shapes() {
    let retry = |text: &str| accepted(&doc(&format!("tasks: {{ a: {{ run: x, retry: {text} }} }}\n"))).tasks.remove(0).retry;
    assert_eq!(retry("0").attempts, 1);
    assert_eq!((retry("2").attempts, retry("2").on), (3, RetryCause::ALL.to_vec()));
    assert!(retry("{ attempts: 1 }").is_once());
    let policy = retry("{ attempts: 4, backoff: 500ms, max: 1m, on: [timeout, exit] }");
    assert_eq!(policy, RetryPolicy { attempts: 4, backoff_ms: 500, max_ms: 60_000, on: vec![RetryCause::Exit, RetryCause::Timeout] });
    let task = accepted(&doc("tasks: { a: { run: x, timeout: 2h, stuck_after: 1d } }\n")).tasks.remove(0);
    assert_eq!((task.timeout_ms, task.stuck_after_ms), (Some(7_200_000), 86_400_000));
    refused(
        &doc(
            "tasks:\n  a: { run: x, retry: -1 }\n  b: { run: x, retry: { attempts: 0, on: [panic] } }\n  c: { run: x, retry: { backoff: 2m, max: 1m } }\n  d: { run: x, timeout: 10 }\n  e: { run: x, timeout: 10 minutes }\n  f: { run: x, timeout: 0s, stuck_after: 99999999999d }\n  g: { run: x, retry: { on: [] } }\n",
        ),
        &[
            (Type, 4, 23),
            (Type, 5, 35),
            (Type, 5, 43),
            (Type, 6, 23),
            (Type, 7, 25),
            (Type, 8, 25),
            (Type, 9, 25),
            (Type, 9, 42),
            (Type, 10, 29),
        ],
    );
}

#[test]
fn the_rest_of_a_task_is_checked() {
    let task = accepted(&doc("tasks:\n  a: { run: x, outputs: { n: number, l: 'string[]', e: 'enum(a, b)' }, env: { A: 1, B: true }, workdir: sub/x, tags: [backup], priority: 0, ref: 'bd:ved-1', optional: true }\n")).tasks.remove(0);
    assert_eq!(task.outputs["l"], OutputType::List(Box::new(OutputType::String)));
    assert_eq!(task.outputs["e"], OutputType::Enum(vec!["a".into(), "b".into()]));
    assert_eq!((task.env["A"].as_str(), task.env["B"].as_str()), ("1", "true"));
    refused(
        &doc(
            "tasks:\n  a: { run: x, outputs: { n: text }, env: { AMPHI_RUN: 1 } }\n  b: { run: x, env: { 'A-B': 1, C: [] }, workdir: ../x }\n  c: { run: x, workdir: /x, tags: x, priority: 9, optional: maybe }\n",
        ),
        &[
            (Type, 4, 30),
            (Type, 4, 45),
            (Type, 5, 23),
            (Type, 5, 36),
            (Type, 5, 51),
            (Type, 6, 25),
            (Type, 6, 35),
            (Type, 6, 48),
            (Type, 6, 61),
        ],
    );
}

#[test]
fn an_undo_is_a_task_that_inherits_what_it_does_not_say() {
    let text = "on_failure: undo\ndefaults: { retry: 2, env: { D: d } }\ntasks:\n  a:\n    run: x\n    timeout: 1s\n    retry: 0\n    \
                workdir: w\n    stuck_after: 9s\n    env: { A: a, B: b }\n    locks: { write: [db] }\n    skills: [docker]\n    undo:\n      \
                tool: noop\n      with: { id: '${{ tasks.a.outputs.id }}' }\n      env: { B: c }\n";
    let compiled = compile(&doc(text), &options());
    assert_eq!(compiled.problems, vec![]);
    let spec = compiled.spec.unwrap();
    assert_eq!(spec.on_failure, amphi_protocol::document::OnFailure::Undo);
    let (task, undo) = (&spec.tasks[0], spec.tasks[0].undo.as_ref().unwrap());
    assert_eq!(undo.work.kind(), "tool");
    assert_eq!((&undo.locks, &undo.skills, &undo.workdir, undo.priority), (&task.locks, &task.skills, &task.workdir, task.priority));
    assert_eq!((undo.stuck_after_ms, undo.timeout_ms, undo.retry.attempts), (9_000, None, 3));
    let env: Vec<_> = undo.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["A=a", "B=c", "D=d"]);
    assert_eq!(undo.references.iter().map(ToString::to_string).collect::<Vec<_>>(), ["tasks.a.outputs.id"]);
    assert_eq!(task.references, vec![], "what only the undo reads is no reference of the task");
}

#[test]
fn an_undo_may_read_its_own_task_and_what_comes_before_it() {
    let of = |undo: &str| {
        doc(&format!(
            "tasks:\n  a: {{ run: x, outputs: {{ o: string }} }}\n  b: {{ run: y, needs: [a], undo: {undo} }}\n  c: {{ run: z }}\n"
        ))
    };
    for fine in ["a", "b"] {
        let compiled = compile(&of(&format!("{{ run: 'echo ${{{{ tasks.{fine}.outputs.o }}}}' }}")), &options());
        assert_eq!(compiled.problems, vec![], "{fine}");
    }
    refused(&of("{ run: 'echo ${{ tasks.c.outputs.o }}' }"), &[(Type, 5, 41)]);
    refused(&of("{ run: 'echo ${{ tasks.a.outputs.p }}' }"), &[(Type, 5, 41)]);
    refused(&doc("tasks:\n  b: { run: 'echo ${{ tasks.b.outputs.o }}', undo: { run: y } }\n"), &[(Type, 4, 13)]);
    let matrix = "tasks:\n  b: { run: y, matrix: { i: 1..2 }, undo: { run: 'echo ${{ tasks.b.outputs.o }} ${{ matrix.i }}' } }\n";
    assert_eq!(compile(&doc(matrix), &options()).problems, vec![], "each instance reads its own");
}

#[test]
fn an_undo_is_checked_like_a_task() {
    refused(&doc("tasks:\n  a: { run: x, undo: { timeout: 20 } }\n"), &[(Type, 4, 22), (Type, 4, 33)]);
    refused(&doc("tasks:\n  a: { run: x, undo: { prompt: y } }\n"), &[(Unsupported, 4, 24)]);
    refused(&doc("tasks:\n  a: { run: x, undo: { run: y, locks: { write: [a] } } }\n"), &[(UnknownKey, 4, 32)]);
    refused(&doc("tasks:\n  a: { run: x, undo: y }\n"), &[(Type, 4, 22)]);
    refused(&doc("tasks:\n  a: { run: x, undo: { run: y, env: { AMPHI_X: y }, retry: -1 } }\n"), &[(Type, 4, 39), (Type, 4, 60)]);
}

#[test]
fn outputs_may_be_read_only_from_ancestors_that_have_them() {
    accepted(&doc(
        "phases: [one, two, three]\ntasks:\n  a: { run: x, outputs: { id: string } }\n  b: { run: x, phase: two }\n  c: { run: 'echo ${{ tasks.a.outputs.id }}', phase: three }\n",
    ));
    let compiled = compile(
        &doc(
            "tasks:\n  a: { run: x, outputs: { id: string } }\n  m: { run: x, matrix: { i: 1..2 } }\n  b: { run: 'echo ${{ tasks.a.outputs.id }}' }\n  c: { run: 'echo ${{ tasks.a.outputs.ids }}', needs: [a] }\n  d: { run: 'echo ${{ tasks.m.outputs.x }}', needs: [m] }\n  e: { run: 'echo ${{ tasks.aa.outputs.x }}', needs: [a] }\n  f: { run: 'echo ${{ tasks.f.outputs.x }}' }\n",
        ),
        &options(),
    );
    assert_eq!(found(&compiled), [(Type, 6, 13), (Type, 7, 13), (Type, 8, 13), (UnknownTask, 9, 13), (Type, 10, 13)]);
    assert_eq!(compiled.problems[0].hint.as_deref(), Some("add `a` to `needs`"));
    assert_eq!(compiled.problems[1].hint.as_deref(), Some("did you mean `id`?"));
}

#[test]
fn references_must_name_something_and_are_listed() {
    let task = accepted(&doc("inputs: { v: 1 }\ntasks:\n  a: { tool: noop, with: { url: 'x/${{ matrix.i }}', list: ['${{ inputs.v }}'] }, env: { S: '${{ secrets.TOKEN }}' }, matrix: { i: 1..2 } }\n")).tasks.remove(0);
    let texts: Vec<_> = task.references.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["inputs.v", "matrix.i", "secrets.TOKEN"]);
    refused(
        &doc(
            "tasks:\n  a:\n    run: |\n      echo one\n      echo ${{ inputs.x }}\n      echo ${{ matrix.i }} ${{ github.sha }}\n  b: { run: 'echo ${{ inputs.x' }\n",
        ),
        &[(Type, 7, 1), (Type, 8, 1), (Type, 8, 1), (Type, 9, 13)],
    );
}

#[test]
fn defaults_stand_behind_every_task() {
    let spec = accepted(&doc(
        "defaults: { agent: TestGuardian, timeout: 5m, retry: 1, env: { A: a, B: b }, priority: 1 }\ntasks:\n  a: { run: x }\n  b: { run: x, timeout: 1m, env: { B: c }, skills: [ssh], priority: 3 }\n",
    ));
    let (a, b) = (&spec.tasks[0], &spec.tasks[1]);
    assert_eq!(
        (a.agent.as_ref().map(RoleName::as_str), a.timeout_ms, a.retry.attempts, a.priority),
        (Some("TestGuardian"), Some(300_000), 2, 1)
    );
    assert_eq!((b.agent.as_ref(), b.timeout_ms, b.priority), (None, Some(60_000), 3));
    assert_eq!((b.env["A"].as_str(), b.env["B"].as_str()), ("a", "c"));
    refused(
        &doc("defaults: { needs: [a], timeout: 5, retyr: 1 }\ntasks:\n  a: { run: x }\n  b: { run: x }\n"),
        &[(UnknownKey, 3, 13), (Type, 3, 34), (UnknownKey, 3, 37)],
    );
    let compiled = compile(&doc("defaults: { escalate_after: 15m }\ntasks: { a: { run: x } }\n"), &options());
    assert_eq!((compiled.problems.len(), compiled.warnings.len()), (0, 1));
}

#[test]
fn all_problems_are_reported_at_once_and_their_number_is_bounded() {
    refused(
        "version: 3\nname: X\ntasks:\n  a: { run: x, needs: [b] }\n  c: { rum: x }\n  d: { run: 'echo $(x ${{ inputs.q }})' }\n",
        &[
            (Type, 1, 10),
            (Type, 2, 7),
            (UnknownTask, 4, 24),
            (Type, 5, 3),
            (UnknownKey, 5, 8),
            (Type, 6, 13),
            (ErrorCode::RunUnsafeSubstitution, 6, 13),
        ],
    );
    let many: String = (0..5000).map(|n| format!("  t{n}: {{ rum: x }}\n")).collect();
    let compiled = compile(&doc(&format!("tasks:\n{many}")), &options());
    assert_eq!(compiled.problems.len(), 201);
    assert!(compiled.problems[200].message.contains("9800 more"), "{}", compiled.problems[200].message);
}
