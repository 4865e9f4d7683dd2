//! Which epics may leave the memory: those that have ended, with nothing of them under way and nothing to ask.

use amphi_coordination::Refusal;
use amphi_protocol::ids::{EpicId, IncidentId};
use amphi_protocol::journal::{Input, Outcome, Resolution, Retiring, Upkeep};
use serde_json::json;

use crate::stage::Stage;

fn retire(stage: &mut Stage, epic: &EpicId) -> Result<(), Refusal> {
    let ended_at = stage.state.epic(epic).and_then(|epic| epic.ended_at).unwrap_or_default();
    let retiring = Retiring { epic: epic.clone(), ended_at, view: format!("epic-{epic}") };
    stage.take(Input::Upkeep(Upkeep::Retire(vec![retiring]))).map(drop)
}

fn stays(stage: &mut Stage, epic: &EpicId) {
    assert!(!stage.state.may_retire(stage.state.epic(epic).expect("it is there")));
    assert!(matches!(retire(stage, epic), Err(Refusal::Stale(_))));
}

fn goes(stage: &mut Stage, epic: &EpicId) {
    retire(stage, epic).expect("it may be put away");
    assert!(stage.state.epic(epic).is_none());
    stage.holds();
}

fn stage() -> Stage {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 4, &[("Build", 2)]);
    stage
}

#[test]
fn an_epic_is_put_away_when_its_last_undo_has_ended_and_not_before() {
    let mut stage = stage();
    let epic = stage.submit(json!({ "version": 1, "name": "back", "on_failure": "undo", "tasks": {
        "a": { "run": "true", "undo": { "run": "true" } },
        "b": { "run": "true", "needs": ["a"], "retry": 0 },
    }}));
    stays(&mut stage, &epic);
    stage.serve();
    let b = stage.given(&epic, "b");
    stage.start(&b);
    stage.end(&b, Outcome::Exit);
    assert!(stage.state.epic(&epic).expect("it is there").undoing.is_some());
    stays(&mut stage, &epic);
    stage.serve();
    goes(&mut stage, &epic);
}

#[test]
fn an_epic_with_a_run_after_a_change_stays_until_that_has_ended() {
    let mut stage = stage();
    let epic = stage.submit(json!({ "version": 1, "name": "again", "resources": { "db": { "on_change": ["test"] } }, "tasks": {
        "test": { "run": "true" },
        "write": { "run": "true", "needs": ["test"], "locks": { "write": ["db"] } },
    }}));
    stage.serve();
    stage.serve();
    let again = stage.given(&epic, "test");
    assert_eq!(again.attempt.run, 2);
    stays(&mut stage, &epic);
    stage.serve();
    goes(&mut stage, &epic);
}

#[test]
fn an_epic_with_an_open_question_stays_until_it_is_answered() {
    let mut stage = stage();
    let epic = stage.submit(json!({ "version": 1, "name": "asks", "tasks": { "a": { "run": "true", "retry": 0 } } }));
    let a = stage.given(&epic, "a");
    stage.start(&a);
    stage.end(&a, Outcome::AgentLost);
    stays(&mut stage, &epic);
    let asked = stage.state.incident_list().incidents;
    let incident = IncidentId::parse(&asked.first().expect("a person is asked").incident).expect("it is an id");
    stage.must(Input::ResolveIncident { incident, resolution: Resolution::Failed, by: "test".to_owned() });
    goes(&mut stage, &epic);
}

#[test]
fn what_was_put_away_is_not_opened_again_and_says_what_to_do() {
    let mut stage = stage();
    let epic = stage.submit(json!({ "version": 1, "name": "over", "tasks": { "a": { "run": "true" } } }));
    stage.must(Input::CancelEpic { epic: epic.clone(), by: "test".to_owned(), undo: false });
    for given in stage.open.clone() {
        stage.end(&given, Outcome::Cancelled);
    }
    goes(&mut stage, &epic);
    let by = || "test".to_owned();
    for input in [
        Input::RetryTask { epic: epic.clone(), instances: vec![0], by: by() },
        Input::CancelTask { epic: epic.clone(), instances: vec![0], by: by() },
        Input::CancelEpic { epic: epic.clone(), by: by(), undo: true },
    ] {
        let Err(Refusal::Error(error)) = stage.take(input) else { panic!("it is over for good") };
        assert_eq!(error.code.as_str(), "state.conflict");
        assert!(error.hint.is_some_and(|hint| hint.contains("submit it under a new id")));
    }
}
