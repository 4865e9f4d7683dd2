//! Histories that the simulation once broke the core with, each as short as it goes.

#![allow(clippy::unwrap_used, reason = "the names of the fixtures are valid")]

use std::collections::BTreeMap;
use std::sync::Arc;

use amphi_coordination::{AgentState, EventSink, Refusal, State, laws};
use amphi_protocol::document::{Condition, EpicSpec, LockSpec, OnFailure, RetryPolicy, TaskSpec, Work, Workspace};
use amphi_protocol::ids::{AgentId, EpicId, EpicName, Incarnation, NodeId, ProjectId, RoleName, ShardId, SubmitKey, TaskName, Timestamp};
use amphi_protocol::journal::{AgentInfo, AgentLife, AgentReport, Input, NodeInfo, SpecRef, Submission};

fn node() -> NodeId {
    NodeId::parse("node-1").unwrap()
}

fn agent() -> AgentId {
    AgentId::parse("node-1-Build-1").unwrap()
}

fn join() -> Input {
    let agent = AgentInfo { agent: agent(), role: RoleName::parse("Build").unwrap(), skills: Vec::new() };
    Input::Join(NodeInfo {
        node: node(),
        incarnation: Incarnation(1),
        pid: 1,
        capacity: 4,
        labels: BTreeMap::new(),
        agents: vec![agent],
        home: String::new(),
    })
}

fn news(state: AgentLife, restarts: u32) -> Input {
    Input::Agent(AgentReport { node: node(), incarnation: Incarnation(1), agent: agent(), state, restarts, cause: String::new() })
}

fn submit() -> Input {
    let task = |name: &str| TaskSpec {
        name: TaskName::parse(name).unwrap(),
        phase: None,
        needs: Some(Vec::new()),
        work: Work::Tool { tool: "noop".to_owned(), with: serde_json::json!({}) },
        agent: None,
        skills: Vec::new(),
        matrix: Vec::new(),
        exclude: Vec::new(),
        max_parallel: None,
        fail_fast: false,
        condition: Condition::Success,
        locks: LockSpec::default(),
        retry: RetryPolicy::default(),
        timeout_ms: None,
        stuck_after_ms: 60_000,
        optional: false,
        outputs: BTreeMap::new(),
        env: BTreeMap::new(),
        workdir: None,
        tags: Vec::new(),
        priority: 2,
        reference: None,
        references: Vec::new(),
        undo: None,
    };
    let spec = EpicSpec {
        name: EpicName::parse("two").unwrap(),
        title: None,
        project: ProjectId::parse("default").unwrap(),
        priority: 2,
        inputs: BTreeMap::new(),
        workspace: Workspace::None,
        phases: Vec::new(),
        resources: BTreeMap::new(),
        on_failure: OnFailure::Stop,
        reference: None,
        tasks: vec![task("a"), task("b")],
    };
    let (epic, key, project) = (EpicId::parse("two-1").unwrap(), SubmitKey::parse("key").unwrap(), spec.project.clone());
    let (spec, _) = SpecRef::new(Arc::new(spec));
    Input::Submit(Submission { admission: None, epic, key, body_hash: spec.hash.clone(), by: "test".to_owned(), project, spec })
}

fn decide(state: &mut State, now: u64, input: &Input) -> Result<usize, Refusal> {
    let decided = state.decide(Timestamp(now), input, &mut EventSink::counting()).map(|decisions| decisions.len());
    laws::check(state).unwrap();
    decided
}

fn agent_state(state: &State) -> AgentState {
    state.agents().find(|(id, _)| **id == agent()).unwrap().1.state.clone()
}

#[test]
fn a_refused_input_leaves_no_trace_not_even_its_time() {
    let mut state = State::new(ShardId(0));
    decide(&mut state, 10, &join()).unwrap();
    let before = state.digest();
    assert!(matches!(decide(&mut state, 20, &join()), Err(Refusal::Stale(_))));
    assert!(matches!(decide(&mut state, 30, &Input::Tick), Err(Refusal::Stale(_))));
    assert_eq!(state.digest(), before);
}

#[test]
fn an_agent_that_got_work_while_the_news_of_its_restart_was_under_way_is_given_no_more() {
    let mut state = State::new(ShardId(0));
    decide(&mut state, 10, &join()).unwrap();
    decide(&mut state, 20, &submit()).unwrap();
    assert!(matches!(agent_state(&state), AgentState::Busy(_)));
    assert_eq!(decide(&mut state, 30, &news(AgentLife::Down, 0)), Ok(1));
    assert_eq!(decide(&mut state, 40, &news(AgentLife::Up, 1)), Ok(1), "nothing is assigned on top");
    assert!(matches!(agent_state(&state), AgentState::Busy(_)));
}

#[test]
fn old_news_of_an_agent_that_comes_again_changes_nothing() {
    let mut state = State::new(ShardId(0));
    decide(&mut state, 10, &join()).unwrap();
    for (life, restarts) in [(AgentLife::Down, 0), (AgentLife::Up, 1), (AgentLife::Down, 1), (AgentLife::Up, 2)] {
        decide(&mut state, 20, &news(life, restarts)).unwrap();
    }
    for (life, restarts) in [(AgentLife::Down, 0), (AgentLife::Up, 1), (AgentLife::Down, 1), (AgentLife::Up, 2)] {
        assert!(matches!(decide(&mut state, 30, &news(life, restarts)), Err(Refusal::Stale(_))), "{life:?} {restarts}");
    }
    assert_eq!(agent_state(&state), AgentState::Idle);
}
