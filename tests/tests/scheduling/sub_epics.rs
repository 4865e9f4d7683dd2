//! Tasks that are epics themselves: what is bounded, what goes down the link, what comes up, and who leaves the memory first.

use amphi_coordination::{EpicStatus, InstanceEnd, InstanceState, Refusal};
use amphi_protocol::ids::EpicId;
use amphi_protocol::journal::{EpicEnd, Input, Outcome, RECORD_BYTES_MAX, Retiring, Upkeep};
use serde_json::{Value, json};

use crate::stage::Stage;

fn stage() -> Stage {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 4, &[("Build", 2)]);
    stage
}

/// The epics that `epic` has opened, by its instances.
fn children(stage: &Stage, epic: &EpicId) -> Vec<EpicId> {
    let epic = stage.state.epic(epic).expect("it is there");
    let child = |instance: &amphi_coordination::Instance| instance.record.as_ref().and_then(|record| record.child.clone());
    epic.instances.iter().filter_map(child).collect()
}

fn status(stage: &Stage, epic: &EpicId) -> EpicStatus {
    stage.state.epic(epic).expect("it is there").status
}

fn cancel(epic: &EpicId, undo: bool) -> Input {
    Input::CancelEpic { epic: epic.clone(), by: "test".to_owned(), undo }
}

/// Where `part` stands among the tasks of [`document`], whose names are sorted.
const PART: u32 = 1;

fn document(name: &str, part: Value) -> Value {
    json!({ "version": 1, "name": name, "tasks": { "part": part, "after": { "run": "true", "needs": ["part"] } } })
}

#[test]
fn a_sub_epic_has_a_turn_of_its_own_and_its_end_lets_the_rest_go() {
    let mut stage = stage();
    let around = stage.submit(document("around", json!({ "epic": { "tasks": { "a": { "run": "true" }, "b": { "run": "true" } } } })));
    let [child] = children(&stage, &around).try_into().expect("it has one");
    let turns = [&around, &child].map(|epic| stage.state.epic(epic).expect("it is there").turn);
    assert_ne!(turns[0], turns[1]);
    assert!(child.as_str().len() <= 64 && child.as_str().starts_with("part-"), "{child}");
    stage.serve();
    stage.serve();
    assert_eq!(status(&stage, &child), EpicStatus::Ended(EpicEnd::Succeeded));
    assert_eq!(stage.serve().epic(), around.as_str());
    assert_eq!(status(&stage, &around), EpicStatus::Ended(EpicEnd::Succeeded));
    stage.holds();
}

#[test]
fn a_paused_epic_opens_paused_ones_and_both_go_on_together() {
    let mut stage = stage();
    let tasks = json!({ "first": { "run": "true" }, "part": { "needs": ["first"], "epic": { "tasks": { "a": { "run": "true" } } } } });
    let around = stage.submit(json!({ "version": 1, "name": "around", "tasks": tasks }));
    stage.must(Input::PauseEpic { epic: around.clone(), by: "test".to_owned() });
    stage.serve();
    let [child] = children(&stage, &around).try_into().expect("it has one");
    assert!(stage.state.epic(&child).expect("it is there").paused && stage.open.is_empty());
    stage.must(Input::ResumeEpic { epic: around.clone(), by: "test".to_owned() });
    assert_eq!(stage.serve().epic(), child.as_str());
    assert_eq!(status(&stage, &around), EpicStatus::Ended(EpicEnd::Succeeded));
    stage.holds();
}

#[test]
fn what_is_late_is_cancelled_and_fails_and_a_new_run_opens_a_new_one() {
    let mut stage = stage();
    let around = stage.submit(document("around", json!({ "timeout": "5s", "epic": { "tasks": { "a": { "run": "true" } } } })));
    let [child] = children(&stage, &around).try_into().expect("it has one");
    let a = stage.given(&child, "a");
    stage.start(&a);
    stage.now += 5_000;
    stage.must(Input::Tick);
    assert_eq!(status(&stage, &child), EpicStatus::Cancelling);
    stage.end(&a, Outcome::Cancelled);
    assert_eq!([&child, &around].map(|epic| status(&stage, epic)), [EpicEnd::Cancelled, EpicEnd::Failed].map(EpicStatus::Ended));
    let refused = stage.take(Input::RetryEpic { epic: child.clone(), from: Vec::new(), by: "test".to_owned() });
    assert!(matches!(refused, Err(Refusal::Error(error)) if error.hint.as_deref().is_some_and(|hint| hint.contains("around/part"))));
    stage.must(Input::RetryTask { epic: around.clone(), instances: vec![PART], by: "test".to_owned() });
    let [again] = children(&stage, &around).try_into().expect("it has one");
    assert_ne!(again, child);
    stage.serve();
    stage.serve();
    assert_eq!(status(&stage, &around), EpicStatus::Ended(EpicEnd::Succeeded));
    stage.holds();
}

#[test]
fn a_cancel_with_undo_takes_back_what_sub_epics_did_at_every_level() {
    let mut stage = stage();
    let step = json!({ "run": "true", "undo": { "run": "true" } });
    let deep = json!({ "epic": { "tasks": { "a": step, "b": { "run": "true", "needs": ["a"], "undo": { "run": "true" } } } } });
    let done = json!({ "epic": { "tasks": { "deep": deep } } });
    let around = stage.submit(document("around", done));
    stage.serve();
    stage.serve();
    stage.must(cancel(&around, true));
    // What had been given ends first.
    let after = stage.given(&around, "after");
    stage.end(&after, Outcome::Cancelled);
    let undone: Vec<String> =
        (0..2).map(|_| stage.open.first().map(|given| stage.key(given)).inspect(|_| _ = stage.serve()).expect("an undo")).collect();
    assert_eq!(undone, ["b", "a"]);
    assert_eq!(status(&stage, &around), EpicStatus::Ended(EpicEnd::Cancelled));
    let part = &stage.state.epic(&around).expect("it is there").instances[PART as usize];
    assert_eq!(part.state, InstanceState::Ended(InstanceEnd::Undone));
    stage.holds();
}

#[test]
fn a_sub_epic_leaves_the_memory_after_the_epic_around_it() {
    let mut stage = stage();
    let around = stage.submit(document("around", json!({ "epic": { "tasks": { "a": { "run": "true" } } } })));
    let [child] = children(&stage, &around).try_into().expect("it has one");
    stage.serve();
    stage.serve();
    assert!(!stage.state.may_retire(stage.state.epic(&child).expect("it is there")));
    for epic in [&around, &child] {
        let ended_at = stage.state.epic(epic).and_then(|epic| epic.ended_at).expect("it has ended");
        let retiring = Retiring { epic: epic.clone(), ended_at, view: format!("epic-{epic}") };
        stage.must(Input::Upkeep(Upkeep::Retire(vec![retiring])));
    }
    stage.holds();
}

#[test]
fn as_many_sub_epics_as_there_may_be_fit_into_one_record() {
    let mut stage = Stage::unchecked();
    stage.join("node-1", 1, 4, &[("Build", 2)]);
    let name = "x".repeat(60);
    let part = json!({ "matrix": { "i": "1..1000" }, "epic": { "name": name, "tasks": { "a": { "run": "true" } } } });
    let around = stage.submit(json!({ "version": 1, "name": name, "tasks": { "part": part } }));
    assert_eq!(children(&stage, &around).len(), 1_000);
    let decisions = stage.must(cancel(&around, false));
    let bytes = serde_json::to_vec(&decisions).expect("decisions are JSON").len();
    assert!(bytes < RECORD_BYTES_MAX, "{bytes}");
    stage.holds();
}
