//! Whole documents: what is accepted, what becomes of it, and what is refused with which code at which place.

use std::collections::BTreeMap;

use amphi_protocol::api::ErrorCode;
use amphi_protocol::document::{
    Catalog, CompileOptions, Compiled, Condition, OutputType, Plan, RetryCause, RetryPolicy, Work, Workspace, compile, compile_bytes,
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
