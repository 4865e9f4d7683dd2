//! What is open is bounded: a submission beyond the bounds is turned away, and nothing else is.

use amphi_coordination::Refusal;
use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::ids::EpicId;
use amphi_protocol::journal::{Admission, Input};
use serde_json::{Value, json};

use crate::stage::Stage;

fn epic(name: &str, runs: u32) -> Value {
    json!({ "version": 1, "name": name, "tasks": { "t": { "run": "true", "matrix": { "n": format!("1..{runs}") } } } })
}

fn stage(open_epics: u64, waiting_runs: u64) -> Stage {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 8, &[("Build", 2)]);
    stage.admission = Some(Admission { open_epics, waiting_runs });
    stage
}

fn refused(stage: &mut Stage, document: Value) -> ApiError {
    let before = stage.state.digest();
    match stage.offer(document) {
        Err(Refusal::Error(error)) => {
            assert_eq!(stage.state.digest(), before, "nothing of it is kept");
            error
        }
        other => panic!("it was not refused: {other:?}"),
    }
}

#[test]
fn an_epic_too_many_is_turned_away_until_one_has_ended() {
    let mut stage = stage(2, 1_000);
    let first = stage.submit(epic("one", 1));
    stage.submit(epic("two", 3));
    let error = refused(&mut stage, epic("three", 1));
    assert_eq!((error.code, error.retryable), (ErrorCode::ClusterBusy, true));
    assert!(error.message.contains("has 2 open epics") && error.message.contains("allows 2"), "{}", error.message);
    let mut elsewhere = epic("elsewhere", 1);
    elsewhere["project"] = json!("other");
    stage.submit(elsewhere);
    assert!(matches!(stage.offer(epic("one", 1)), Err(Refusal::Duplicate(known)) if known == first), "it is answered as before");
    let given = stage.given(&first, "t[1]");
    stage.start(&given);
    stage.end(&given, amphi_protocol::journal::Outcome::Succeeded);
    stage.submit(epic("three", 1));
    stage.holds();
}

#[test]
fn runs_that_wait_are_bounded_over_all_projects_and_those_at_work_do_not_count() {
    let mut stage = stage(100, 10);
    stage.submit(epic("eight", 8));
    let mut elsewhere = epic("elsewhere", 5);
    elsewhere["project"] = json!("other");
    let error = refused(&mut stage, elsewhere);
    assert_eq!((error.code, error.retryable), (ErrorCode::ClusterBusy, true));
    assert!(error.message.contains("6 runs wait, the epic has 5 more") && error.message.contains("allows 10"), "{}", error.message);
    stage.submit(epic("four", 4));
    let error = refused(&mut stage, epic("huge", 11));
    assert_eq!((error.code, error.retryable), (ErrorCode::EpicLimit, false), "waiting would not help");
    stage.holds();
}

#[test]
fn what_is_open_is_never_held_up() {
    let mut stage = stage(1, 3);
    let id = stage.submit(epic("only", 3));
    assert_eq!(refused(&mut stage, epic("more", 1)).code, ErrorCode::ClusterBusy);
    let ask = |id: &EpicId| (id.clone(), "ops".to_owned());
    let (epic, by) = ask(&id);
    stage.must(Input::PauseEpic { epic, by });
    let (epic, by) = ask(&id);
    stage.must(Input::ResumeEpic { epic, by });
    while !stage.open.is_empty() {
        stage.serve();
    }
    let (epic, by) = ask(&id);
    stage.admission = Some(Admission { open_epics: 1, waiting_runs: 1 });
    let instances = vec![0, 1, 2];
    assert!(
        !matches!(stage.take(Input::RetryTask { epic, instances, by }), Err(Refusal::Error(error)) if error.code == ErrorCode::ClusterBusy)
    );
    stage.holds();
}
