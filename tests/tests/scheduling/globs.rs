//! Locks on globs: whoever shares a path is in one queue, in the order in which they came.

use amphi_protocol::ids::{EpicId, Timestamp};
use serde_json::{Value, json};

use crate::stage::Stage;

fn epic(name: &str, locks: Value) -> Value {
    json!({ "version": 1, "name": name, "tasks": { "t": { "run": "true", "locks": locks } } })
}

fn stage(documents: &[(&str, Value)]) -> Stage {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 8, &[("Build", 8)]);
    for (name, locks) in documents {
        stage.submit(epic(name, locks.clone()));
    }
    stage
}

fn at_work(stage: &Stage) -> Vec<&str> {
    stage.open.iter().map(|given| given.epic()).collect()
}

fn finish(stage: &mut Stage, name: &str) {
    let given = stage.given(&EpicId::parse(name).expect("it is an epic id"), "t");
    stage.start(&given);
    stage.end(&given, amphi_protocol::journal::Outcome::Succeeded);
}

#[test]
fn names_that_share_a_path_are_served_one_after_the_other_and_in_order() {
    let mut stage = stage(&[
        ("plain", json!({ "write": ["file/src/lib.rs"] })),
        ("glob", json!({ "write": ["file/src/*.rs"] })),
        ("deep", json!({ "write": ["file/**"] })),
        ("late", json!({ "write": ["file/src/lib.rs"] })),
        ("apart", json!({ "write": ["db"] })),
    ]);
    assert_eq!(at_work(&stage), ["plain", "apart"]);
    finish(&mut stage, "plain");
    assert_eq!(at_work(&stage), ["apart", "glob"], "the name itself is free and later ones still wait");
    finish(&mut stage, "glob");
    assert_eq!(at_work(&stage), ["apart", "deep"]);
    finish(&mut stage, "deep");
    assert_eq!(at_work(&stage), ["apart", "late"]);
    finish(&mut stage, "late");
    finish(&mut stage, "apart");
    stage.holds();
}

#[test]
fn globs_without_a_common_path_and_readers_run_side_by_side() {
    let mut stage = stage(&[
        ("rust", json!({ "write": ["file/src/*.rs"] })),
        ("docs", json!({ "write": ["file/docs/**"] })),
        ("toml", json!({ "write": ["file/src/*.toml"] })),
        ("reads", json!({ "read": ["file/tests/*"] })),
        ("also", json!({ "read": ["file/tests/[a-z]*"] })),
        ("writes", json!({ "write": ["file/tests/a"] })),
        ("later", json!({ "read": ["file/tests/a"] })),
    ]);
    assert_eq!(at_work(&stage), ["rust", "docs", "toml", "reads", "also"]);
    finish(&mut stage, "reads");
    assert!(!at_work(&stage).contains(&"writes"), "one reader is left");
    finish(&mut stage, "also");
    assert!(at_work(&stage).contains(&"writes"));
    assert!(!at_work(&stage).contains(&"later"), "no reader passes a writer that asked before");
    for name in ["writes", "later", "rust", "docs", "toml"] {
        finish(&mut stage, name);
    }
    stage.holds();
}

#[test]
fn a_set_may_hold_names_that_overlap_each_other() {
    let mut stage = stage(&[
        ("both", json!({ "read": ["file/src/*"], "write": ["file/src/a", "db"] })),
        ("other", json!({ "write": ["file/src/b", "db"] })),
    ]);
    assert_eq!(at_work(&stage), ["both"]);
    finish(&mut stage, "both");
    finish(&mut stage, "other");
    stage.holds();
}

#[test]
fn why_and_the_list_of_locks_name_what_overlaps() {
    let stage = stage(&[("first", json!({ "write": ["file/src/*.rs"] })), ("second", json!({ "write": ["file/src/lib.rs"] }))]);
    let second = EpicId::parse("second").expect("it is an epic id");
    let why = stage.state.why(&second, "t", (Timestamp(0), &|_| None)).expect("it is there");
    assert_eq!(why.waits[0].on, "file/src/lib.rs (overlaps file/src/*.rs)");
    assert_eq!(why.waits[0].holder.as_ref().map(|holder| holder.epic.as_deref()), Some(Some("first")));
    let locks = stage.state.lock_list((Timestamp(0), &|_| None)).locks;
    let overlaps: Vec<(String, Vec<String>)> = locks.into_iter().map(|lock| (lock.resource, lock.overlaps)).collect();
    let expected = [("file/src/*.rs", "file/src/lib.rs"), ("file/src/lib.rs", "file/src/*.rs")];
    assert_eq!(overlaps, expected.map(|(name, other)| (name.to_owned(), vec![other.to_owned()])));
}

#[test]
fn a_written_file_is_a_change_of_the_declared_folder_that_it_is_in() {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 8, &[("Build", 8)]);
    let change = |tasks: &[&str]| json!({ "on_change": tasks });
    let epic = stage.submit(json!({
        "version": 1,
        "name": "e",
        "resources": { "file/src/**": change(&["build"]), "file/docs/*": change(&["pages"]), "file/src/lib.rs": change(&["lint"]) },
        "tasks": {
            "build": { "run": "true" },
            "pages": { "run": "true" },
            "lint": { "run": "true" },
            "edit": { "run": "true", "needs": ["build", "pages", "lint"], "locks": { "write": ["file/src/a.rs"] } },
            "sweep": { "run": "true", "needs": ["edit"], "locks": { "write": ["file/src/*.rs"] } },
        }
    }));
    let run_of = |stage: &Stage, task: &str| stage.state.task(&epic, task).expect("it is there").run;
    let served = |stage: &mut Stage| {
        let given = stage.serve();
        stage.key(&given)
    };
    let mut order = Vec::new();
    while !stage.open.is_empty() {
        order.push(served(&mut stage));
    }
    assert_eq!(order[3], "edit");
    let again: Vec<&String> = order[4..].iter().filter(|task| *task != "sweep").collect();
    assert_eq!(again.iter().filter(|task| **task == "build").count(), 2, "once for a file in it, once for a glob over it");
    assert_eq!(again.iter().filter(|task| **task == "lint").count(), 1, "only the glob was over it");
    assert_eq!((run_of(&stage, "build"), run_of(&stage, "lint"), run_of(&stage, "pages")), (3, 2, 1));
    stage.holds();
}
