//! An operator says who has the next attempt of a task.

use amphi_coordination::Refusal;
use amphi_protocol::event::EventType;
use amphi_protocol::ids::{EpicId, Incarnation, Timestamp};
use amphi_protocol::journal::{AgentLife, AgentReport, Hold, Input, Outcome, Post};
use serde_json::{Value, json};

use crate::stage::{Stage, agent, node};

const ONE: &str = "node-1-Build-1";
const TWO: &str = "node-1-Build-2";

fn stage() -> Stage {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 8, &[("Build", 2), ("Check", 1)]);
    stage
}

fn epic(name: &str, tasks: Value) -> Value {
    json!({ "version": 1, "name": name, "tasks": tasks })
}

fn assign(stage: &mut Stage, epic: &EpicId, task: &str, to: &str) -> Result<(), Refusal> {
    let instances = stage.state.instances(epic, task);
    stage.take(Input::AssignTask { epic: epic.clone(), instances, agent: agent(to), by: "ops".to_owned() }).map(|_| ())
}

fn refused(stage: &mut Stage, epic: &EpicId, task: &str, to: &str) -> (String, String) {
    match assign(stage, epic, task, to) {
        Err(Refusal::Error(error)) => (error.message, error.hint.unwrap_or_default()),
        other => panic!("{task} for {to}: {other:?}"),
    }
}

fn pinned_to(stage: &Stage, epic: &EpicId, task: &str) -> Option<String> {
    stage.state.task(epic, task).expect("it is there").pinned_to
}

fn build(task: Value) -> Value {
    let mut all = json!({ "run": "true", "agent": "Build" });
    all.as_object_mut().expect("a task").extend(task.as_object().expect("keys").clone());
    all
}

#[test]
fn the_next_attempt_waits_for_its_agent_although_another_is_idle() {
    let mut stage = stage();
    let busy = stage.submit(epic("busy", json!({ "t": build(json!({})) })));
    assert_eq!(stage.given(&busy, "t").agent, agent(ONE));
    let id = stage.submit(epic("e", json!({ "first": build(json!({})), "then": build(json!({ "needs": ["first"] })) })));
    assign(&mut stage, &id, "then", ONE).expect("it can be assigned");
    assert_eq!(pinned_to(&stage, &id, "then").as_deref(), Some(ONE));
    let first = stage.given(&id, "first");
    stage.start(&first);
    stage.end(&first, Outcome::Succeeded);
    let view = stage.state.task(&id, "then").expect("it is there");
    assert_eq!((view.state.as_str(), view.reason.as_deref()), ("ready", Some("capacity")));
    let why = stage.state.why(&id, "then", (Timestamp(0), &|_| None)).expect("it is there");
    assert_eq!(why.waits[0].on, format!("agent {ONE}: assigned by operator"));
    let other = stage.submit(epic("other", json!({ "t": build(json!({})) })));
    assert_eq!(stage.given(&other, "t").agent, agent(TWO), "nobody else is held up");
    let given = stage.given(&busy, "t");
    stage.start(&given);
    stage.end(&given, Outcome::Succeeded);
    assert_eq!(stage.given(&id, "then").agent, agent(ONE));
    assert_eq!(pinned_to(&stage, &id, "then"), None, "a pin is for one attempt");
    stage.holds();
}

#[test]
fn a_retry_goes_to_the_same_agent_if_an_operator_says_so() {
    let mut stage = stage();
    let retry = json!({ "attempts": 3, "backoff": "1m" });
    let id = stage.submit(epic("e", json!({ "t": build(json!({ "retry": retry })) })));
    let given = stage.given(&id, "t");
    stage.start(&given);
    stage.end(&given, Outcome::Exit);
    assign(&mut stage, &id, "t", given.agent.as_str()).expect("a task that is retried can be assigned");
    stage.now += 120_000;
    stage.must(Input::Tick);
    assert_eq!(stage.given(&id, "t").agent, given.agent);
    stage.holds();
}

#[test]
fn what_cannot_be_assigned_is_refused_with_a_way_out() {
    let mut stage = stage();
    let id = stage.submit(epic("e", json!({ "t": build(json!({})), "u": build(json!({ "needs": ["t"] })), "w": { "wait": "1h" } })));
    let (message, hint) = refused(&mut stage, &id, "t", ONE);
    assert!(message.contains("with an agent already") && hint.contains("task cancel"), "{message} {hint}");
    let (message, hint) = refused(&mut stage, &id, "u", "node-1-Bulid-1");
    assert!(message.contains("no agent") && hint.contains(ONE), "{message} {hint}");
    let (message, hint) = refused(&mut stage, &id, "u", "node-1-Check-1");
    assert!(message.contains("role Build") && hint.contains(TWO), "{message} {hint}");
    assert!(refused(&mut stage, &id, "w", ONE).0.contains("only waits"));
    assign(&mut stage, &id, "u", TWO).expect("it can be assigned");
    assert!(refused(&mut stage, &id, "u", TWO).0.contains("already"));
    assign(&mut stage, &id, "u", ONE).expect("an operator may think again");
    assert_eq!(pinned_to(&stage, &id, "u").as_deref(), Some(ONE));
    stage.holds();
}

#[test]
fn nobody_waits_for_an_agent_that_is_given_up_drained_or_gone() {
    let gone: [fn(&mut Stage); 4] = [
        |stage| {
            let (state, cause) = (AgentLife::Quarantined, "it died".to_owned());
            let node = node("node-1");
            stage.must(Input::Agent(AgentReport { node, incarnation: Incarnation(1), agent: agent(ONE), state, restarts: 9, cause }));
        },
        |stage| {
            let (post, by) = (Post::Agent(agent(ONE)), "ops".to_owned());
            stage.must(Input::Hold { post, hold: Hold::Drain { grace_ms: 60_000 }, by });
        },
        |stage| {
            let given = stage.given(&EpicId::parse("busy").expect("an id"), "t");
            stage.start(&given);
            stage.end(&given, Outcome::Succeeded);
            stage.staff("node-1", 1, &[], &[ONE]);
        },
        |stage| {
            stage.must(Input::LoseNode { node: node("node-1"), incarnation: Incarnation(1), cause: "silent".to_owned() });
            stage.join("node-2", 1, 8, &[("Build", 2)]);
        },
    ];
    for go in gone {
        let mut stage = stage();
        let busy = stage.submit(epic("busy", json!({ "t": build(json!({})) })));
        assert_eq!(stage.given(&busy, "t").agent, agent(ONE));
        let id =
            stage.submit(epic("e", json!({ "a": build(json!({ "locks": { "write": ["db"] } })), "b": build(json!({ "needs": ["a"] })) })));
        let a = stage.given(&id, "a");
        assign(&mut stage, &id, "b", ONE).expect("it can be assigned");
        stage.events();
        go(&mut stage);
        assert_eq!(pinned_to(&stage, &id, "b"), None);
        assert!(stage.events().iter().any(|event| event.kind == EventType::TaskUnpinned && event.data["agent"] == ONE));
        if stage.state.epic(&id).expect("it is there").open(a.attempt.i).is_some_and(|open| open.agent == a.agent && open.node == a.node) {
            stage.start(&a);
            stage.end(&a, Outcome::Succeeded);
            assert_eq!(stage.given(&id, "b").agent, agent(TWO));
        }
        stage.holds();
    }
}

#[test]
fn a_pinned_request_keeps_its_place_in_the_lock_queue_and_lets_others_pass_while_its_agent_is_away() {
    let mut stage = stage();
    let write = json!({ "locks": { "write": ["db"] } });
    let ids: Vec<EpicId> =
        ["one", "two", "three"].iter().map(|name| stage.submit(epic(name, json!({ "t": build(write.clone()) })))).collect();
    assign(&mut stage, &ids[1], "t", TWO).expect("it can be assigned");
    let hold = |stage: &mut Stage, hold| {
        stage.must(Input::Hold { post: Post::Agent(agent(TWO)), hold, by: "ops".to_owned() });
    };
    hold(&mut stage, Hold::Pause);
    let finish = |stage: &mut Stage, id: &EpicId| {
        let given = stage.given(id, "t");
        stage.start(&given);
        stage.end(&given, Outcome::Succeeded);
    };
    finish(&mut stage, &ids[0]);
    assert_eq!(stage.given(&ids[2], "t").agent, agent(ONE), "who waits for a paused agent holds nobody up");
    hold(&mut stage, Hold::Resume);
    finish(&mut stage, &ids[2]);
    assert_eq!(stage.given(&ids[1], "t").agent, agent(TWO));
    finish(&mut stage, &ids[1]);
    stage.holds();
}
