//! The Manager's shell, against a journal in memory: what is acknowledged is stored, doubt publishes the same bytes again, a foreign
//! record deposes, an input that makes the core fail is refused and the rest goes on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "manager/fakes.rs"]
mod fakes;

use std::sync::Arc;

use amphi_agents::manager::Leadership;
use amphi_coordination::Refusal;
use amphi_coordination::seat::Answer;
use amphi_protocol::document::{EpicSpec, TaskSpec, Work};
use amphi_protocol::ids::{EpicId, NodeId, ProjectId, SubmitKey};
use amphi_protocol::journal::{Decision, Input, Record, SpecRef, Submission};
use fakes::{Doubt, Stage};

fn task(name: &str, needs: Vec<u32>) -> TaskSpec {
    let json = serde_json::json!({
        "name": name, "needs": needs, "work": { "tool": { "tool": "noop", "with": {} } }, "priority": 2, "stuck_after_ms": 1000,
        "retry": { "attempts": 1, "backoff_ms": 0, "max_ms": 0, "on": [] },
    });
    serde_json::from_value(json).unwrap()
}

fn submission(key: &str, tasks: Vec<TaskSpec>) -> Input {
    assert!(matches!(tasks[0].work, Work::Tool { .. }));
    let json = serde_json::json!({ "name": "e", "project": "default", "priority": 2, "tasks": [] });
    let spec = EpicSpec { tasks, ..serde_json::from_value(json).unwrap() };
    Input::Submit(Submission {
        admission: None,
        epic: EpicId::parse(&format!("e-{key}")).unwrap(),
        key: SubmitKey::parse(key).unwrap(),
        body_hash: key.to_owned(),
        by: "local".to_owned(),
        project: ProjectId::parse("default").unwrap(),
        spec: SpecRef::new(Arc::new(spec)).0,
    })
}

fn good(key: &str) -> Input {
    submission(key, vec![task("a", vec![])])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_means_that_the_journal_has_it() {
    let stage = Stage::open().await;
    let answer = stage.manager.take(good("one")).await.unwrap();
    let Answer::Committed { index, .. } = answer else { panic!("{answer:?}") };
    let records = stage.journal.records();
    let record = records.iter().map(|bytes| Record::decode(bytes).unwrap()).find(|record| record.index == index).unwrap();
    assert!(matches!(&record.decisions[0][0], Decision::EpicAccepted { epic, .. } if epic.as_str() == "e-one"));
    let again = stage.manager.take(good("one")).await.unwrap();
    assert_eq!(again, Answer::Refused(Refusal::Duplicate(EpicId::parse("e-one").unwrap())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_doubt_the_same_bytes_are_stored_exactly_once() {
    let stage = Stage::open().await;
    for (number, doubt) in [Doubt::LostAck, Doubt::NotStored, Doubt::Busy, Doubt::LostAck].into_iter().enumerate() {
        stage.journal.next_append(doubt);
        let key = format!("doubt-{number}");
        assert!(matches!(stage.manager.take(good(&key)).await.unwrap(), Answer::Committed { .. }));
    }
    let accepted = stage.journal.records().iter().filter(|bytes| String::from_utf8_lossy(bytes).contains("epic_accepted")).count();
    assert_eq!(accepted, 4);
    stage.holds_together();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_record_deposes_and_the_next_term_follows_it() {
    let stage = Stage::open().await;
    assert!(matches!(stage.manager.take(good("before")).await.unwrap(), Answer::Committed { .. }));
    stage.journal.foreign_term(NodeId::parse("node-9").unwrap());
    // The append is refused, the Manager falls and is started again behind the foreign record.
    assert!(stage.manager.take(good("after")).await.is_err());
    let mut leadership = stage.manager.leadership();
    let leads = leadership.wait_for(|now| matches!(now, Leadership::Leads(epoch) if epoch.0 >= 3));
    fakes::soon(leads).await.unwrap();
    assert!(matches!(stage.manager.take(good("after")).await.unwrap(), Answer::Committed { .. }));
    stage.holds_together();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_that_makes_the_core_fail_is_refused_and_the_rest_goes_on() {
    let stage = Stage::open().await;
    // Past the door no such graph exists; a defect elsewhere could still send one.
    let poison = || submission("poison", vec![task("a", vec![77])]);
    let answer = stage.manager.take(poison()).await;
    assert!(
        matches!(&answer, Ok(Answer::Refused(Refusal::Error(error))) if error.hint.as_deref().unwrap().contains("dead-letter-")),
        "{answer:?}"
    );
    stage.leads_again().await;
    assert!(matches!(stage.manager.take(good("next")).await.unwrap(), Answer::Committed { .. }));
    // Sent again, it is refused without another fall.
    let epoch = *stage.manager.leadership().borrow();
    assert!(matches!(stage.manager.take(poison()).await.unwrap(), Answer::Refused(_)));
    assert_eq!(*stage.manager.leadership().borrow(), epoch);
    stage.kept_object("dead-letter-").await;
    stage.holds_together();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_is_shorter_than_remembered_is_refused() {
    let stage = Stage::open().await;
    assert!(matches!(stage.manager.take(good("one")).await.unwrap(), Answer::Committed { .. }));
    stage.memory.remember_more();
    stage.restart();
    stage.stays_down().await;
}
