//! Agents and nodes that an operator holds: nothing new for them, and a drain costs no task anything.

use amphi_coordination::Refusal;
use amphi_protocol::event::EventType;
use amphi_protocol::ids::Timestamp;
use amphi_protocol::journal::{AttemptNews, Decision, Hold, Input, Next, Outcome, Post};
use serde_json::{Value, json};

use crate::stage::{Stage, agent, node};

const GRACE_MS: u64 = 30_000;

fn hold(post: &Post, hold: Hold) -> Input {
    Input::Hold { post: post.clone(), hold, by: "operator".to_owned() }
}

fn drain(post: &Post) -> Input {
    hold(post, Hold::Drain { grace_ms: GRACE_MS })
}

fn on_node(name: &str) -> Post {
    Post::Node(node(name))
}

fn on_agent(name: &str) -> Post {
    Post::Agent(agent(name))
}

fn one(name: &str, task: Value) -> Value {
    let mut tasks = json!({});
    tasks["t"] = json!({ "run": "true" });
    for (key, value) in task.as_object().expect("a task is a map") {
        tasks["t"][key] = value.clone();
    }
    json!({ "version": 1, "name": name, "tasks": tasks })
}

/// Two nodes with an agent each; the first is the only one when the epics come.
fn stage_with(documents: &[Value], capacity: u32) -> Stage {
    let mut stage = Stage::new();
    stage.join("node-1", 1, capacity, &[("Build", capacity)]);
    for document in documents {
        stage.submit(document.clone());
    }
    stage.join("node-2", 1, capacity, &[("Build", capacity)]);
    stage
}

fn state_of(stage: &Stage, name: &str) -> String {
    let list = stage.state.node_list();
    list.nodes.into_iter().find(|view| view.id == name).expect("the node is listed").state
}

fn cancels(decisions: &[Decision]) -> usize {
    decisions.iter().filter(|decision| matches!(decision, Decision::AttemptCancelling { .. })).count()
}

#[test]
fn what_has_not_begun_moves_at_once_and_what_runs_when_the_grace_is_over() {
    let mut stage = stage_with(&[one("begun", json!({})), one("fresh", json!({}))], 2);
    let (begun, fresh) = (stage.open[0].clone(), stage.open[1].clone());
    stage.start(&begun);
    assert_eq!(cancels(&stage.must(drain(&on_node("node-1")))), 1, "only what has not begun");
    assert_eq!(state_of(&stage, "node-1"), "draining");
    stage.end(&fresh, Outcome::NotStarted);
    assert_eq!(stage.given(&fresh.attempt.epic, "t").node, node("node-2"));
    stage.now += GRACE_MS - 1;
    assert!(stage.take(Input::Tick).is_err(), "its grace is not over");
    stage.now += 1;
    assert_eq!(cancels(&stage.must(Input::Tick)), 1);
    stage.events();
    let decisions = stage.end(&begun, Outcome::Cancelled);
    assert!(decisions.iter().any(|decision| matches!(decision, Decision::AttemptEnded { next: Next::Retry { .. }, .. })));
    assert_eq!(stage.given(&begun.attempt.epic, "t").node, node("node-2"), "elsewhere, at once");
    let retrying: Vec<_> = stage.events().into_iter().filter(|event| event.kind == EventType::TaskRetrying).collect();
    assert_eq!(retrying.iter().map(|event| event.data["cause"].clone()).collect::<Vec<_>>(), ["drain"]);
    assert_eq!(state_of(&stage, "node-1"), "drained");
    while !stage.open.is_empty() {
        stage.serve();
    }
    stage.holds();
}

#[test]
fn what_finishes_within_the_grace_is_left_alone() {
    let mut stage = stage_with(&[one("begun", json!({}))], 1);
    let begun = stage.open[0].clone();
    stage.start(&begun);
    stage.must(drain(&on_node("node-1")));
    stage.end(&begun, Outcome::Succeeded);
    assert_eq!(state_of(&stage, "node-1"), "drained");
    let drained = stage.events().into_iter().filter(|event| event.kind == EventType::NodeDrained).count();
    assert_eq!(drained, 1);
    stage.now += GRACE_MS;
    assert_eq!(cancels(&stage.must(Input::Tick)), 0);
    stage.holds();
}

#[test]
fn being_handed_over_does_not_count_against_the_retry_policy() {
    let document = one("patient", json!({ "retry": { "attempts": 2, "on": ["exit"] } }));
    let mut stage = stage_with(&[document], 1);
    for home in ["node-1", "node-2", "node-1", "node-2"] {
        let given = stage.open[0].clone();
        assert_eq!(given.node, node(home));
        stage.start(&given);
        stage.must(hold(&on_node(home), Hold::Drain { grace_ms: 0 }));
        stage.must(Input::Tick);
        stage.end(&given, Outcome::Cancelled);
        stage.must(hold(&on_node(home), Hold::Resume));
    }
    let given = stage.open[0].clone();
    stage.start(&given);
    stage.end(&given, Outcome::Exit);
    assert_eq!(stage.open.len(), 1, "its second try is still its own");
    stage.serve();
    assert_eq!(stage.state.task(&given.attempt.epic, "t").expect("it is there").state, "succeeded");
    stage.holds();
}

#[test]
fn what_fails_while_it_is_drained_has_failed() {
    let mut stage = stage_with(&[one("bad", json!({}))], 1);
    let given = stage.open[0].clone();
    stage.start(&given);
    stage.must(hold(&on_node("node-1"), Hold::Drain { grace_ms: 0 }));
    stage.must(Input::Tick);
    stage.end(&given, Outcome::Exit);
    assert_eq!(stage.state.task(&given.attempt.epic, "t").expect("it is there").state, "failed");
    stage.holds();
}

#[test]
fn a_drain_waits_for_what_must_not_be_tried_again_and_says_so() {
    let once = json!({ "retry": 0 });
    let mut stage = stage_with(&[one("begun", once.clone()), one("fresh", once)], 2);
    let (begun, fresh) = (stage.open[0].clone(), stage.open[1].clone());
    stage.start(&begun);
    stage.must(drain(&on_node("node-1")));
    assert!(matches!(stage.report(&fresh, AttemptNews::Claim), Err(Refusal::Stale(_))), "it may not begin there any more");
    stage.end(&fresh, Outcome::Cancelled);
    let moved = stage.given(&fresh.attempt.epic, "t");
    assert_eq!(moved.node, node("node-2"), "what never began may go elsewhere");
    stage.now += GRACE_MS;
    assert_eq!(cancels(&stage.must(Input::Tick)), 0, "what may have begun is not ended");
    let view = stage.state.node_list().nodes.into_iter().find(|view| view.id == "node-1").expect("it is listed");
    let waits: Vec<(String, String)> = view.drain.expect("it is drained").waits_for.into_iter().map(|wait| (wait.epic, wait.why)).collect();
    assert_eq!(waits, [("begun".to_owned(), "retry_0".to_owned())]);
    stage.end(&begun, Outcome::Succeeded);
    assert_eq!(state_of(&stage, "node-1"), "drained");
    while !stage.open.is_empty() {
        stage.serve();
    }
    stage.holds();
}

#[test]
fn nobody_gets_anything_on_a_drained_node_until_it_is_taken_back_or_starts_anew() {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 1, &[("Build", 1)]);
    stage.must(drain(&on_node("node-1")));
    assert_eq!(state_of(&stage, "node-1"), "drained");
    let epic = stage.submit(one("waits", json!({ "agent": "Build" })));
    assert!(stage.open.is_empty());
    let why = stage.state.why(&epic, "t", (Timestamp(0), &|_| None)).expect("it is there");
    assert_eq!((why.waits[0].reason.as_str(), why.waits[0].on.as_str()), ("no_agent", "role Build; node-1 is drained"));
    stage.must(hold(&on_node("node-1"), Hold::Resume));
    stage.serve();
    stage.must(drain(&on_node("node-1")));
    stage.submit(one("again", json!({})));
    assert!(stage.open.is_empty());
    stage.join("node-1", 2, 1, &[("Build", 1)]);
    assert_eq!(state_of(&stage, "node-1"), "alive");
    stage.serve();
    stage.holds();
}

#[test]
fn a_paused_agent_finishes_and_takes_nothing_new_over_restarts_of_its_node_too() {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 1, &[("Build", 1)]);
    stage.submit(one("runs", json!({})));
    let only = on_agent("node-1-Build-1");
    assert_eq!(cancels(&stage.must(hold(&only, Hold::Pause))), 0);
    stage.serve();
    let waits = stage.submit(one("waits", json!({})));
    assert!(stage.open.is_empty());
    stage.join("node-1", 2, 1, &[("Build", 1)]);
    assert!(stage.open.is_empty(), "until somebody says otherwise");
    let why = stage.state.why(&waits, "t", (Timestamp(0), &|_| None)).expect("it is there");
    assert_eq!(why.waits[0].on, "any agent; node-1-Build-1 is paused");
    stage.must(hold(&only, Hold::Resume));
    stage.serve();
    stage.holds();
}

#[test]
fn a_drained_agent_hands_over_to_its_neighbour() {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 2, &[("Build", 2)]);
    stage.submit(one("runs", json!({})));
    let given = stage.open[0].clone();
    stage.start(&given);
    stage.must(drain(&Post::Agent(given.agent.clone())));
    stage.now += GRACE_MS;
    stage.must(Input::Tick);
    stage.end(&given, Outcome::Cancelled);
    assert_ne!(stage.open[0].agent, given.agent);
    assert_eq!(stage.open[0].node, given.node);
    stage.serve();
    stage.holds();
}

#[test]
fn a_held_agent_holds_up_nobody_in_a_lock_queue() {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 2, &[("Build", 1), ("Test", 1)]);
    stage.must(hold(&on_agent("node-1-Build-1"), Hold::Pause));
    stage.submit(one("first", json!({ "agent": "Build", "locks": { "write": ["db"] } })));
    let second = stage.submit(one("second", json!({ "agent": "Test", "locks": { "write": ["db"] } })));
    let given = stage.given(&second, "t");
    stage.start(&given);
    stage.end(&given, Outcome::Succeeded);
    stage.must(hold(&on_agent("node-1-Build-1"), Hold::Resume));
    stage.serve();
    stage.holds();
}

#[test]
fn what_cannot_be_held_is_refused_and_changes_nothing() {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 1, &[("Build", 1)]);
    stage.must(drain(&on_node("node-1")));
    let before = stage.state.digest();
    let wrong = [
        (hold(&on_agent("node-9-Build-1"), Hold::Pause), "agent.not_found"),
        (drain(&on_node("node-9")), "node.not_found"),
        (hold(&on_node("node-1"), Hold::Pause), "state.conflict"),
        (hold(&on_agent("node-1-Build-1"), Hold::Resume), "state.conflict"),
    ];
    for (input, code) in wrong {
        match stage.take(input.clone()) {
            Err(Refusal::Error(error)) => assert_eq!(error.code.as_str(), code, "{input:?}"),
            other => panic!("{input:?} was answered with {other:?}"),
        }
    }
    assert_eq!(stage.state.digest(), before);
}

#[test]
fn whoever_comes_to_a_drained_node_gets_nothing_until_the_node_is_taken_back() {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 3, &[("Build", 1)]);
    stage.must(drain(&on_node("node-1")));
    stage.staff("node-1", 1, &[("node-1-Build-2", "Build")], &[]);
    let epic = stage.submit(one("waits", json!({ "agent": "Build" })));
    assert!(stage.open.is_empty(), "nobody on a drained node is given work, whenever they came");
    let states: Vec<String> = stage.state.agent_list().agents.into_iter().map(|view| view.state).collect();
    assert_eq!(states, ["drained", "drained"]);
    stage.must(hold(&on_node("node-1"), Hold::Resume));
    assert_eq!(stage.given(&epic, "t").node, node("node-1"));
    stage.submit(one("more", json!({ "agent": "Build" })));
    assert_eq!(stage.open.len(), 2, "both work again");
    while !stage.open.is_empty() {
        stage.serve();
    }
    stage.holds();
}

#[test]
fn what_was_said_of_an_agent_leaves_with_it() {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 3, &[]);
    for word in [Hold::Pause, Hold::Drain { grace_ms: GRACE_MS }] {
        stage.staff("node-1", 1, &[("node-1-Build-1", "Build")], &[]);
        stage.must(hold(&on_agent("node-1-Build-1"), word));
        stage.staff("node-1", 1, &[], &["node-1-Build-1"]);
    }
    stage.now += GRACE_MS;
    assert!(stage.take(Input::Tick).is_err(), "nobody waits for it any more");
    stage.staff("node-1", 1, &[("node-1-Build-1", "Build")], &[]);
    stage.submit(one("works", json!({ "agent": "Build" })));
    stage.serve();
    stage.holds();
}
