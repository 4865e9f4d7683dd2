//! The work of one transition does not grow with the epic: nodes looked at and allocations, from 100 to 100,000 tasks.

#![allow(clippy::unwrap_used, reason = "the names of the fixtures are valid")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use amphi_coordination::{EventSink, State, laws};
use amphi_protocol::document::{Condition, EpicSpec, LockSpec, OnFailure, RetryPolicy, TaskSpec, Work, Workspace};
use amphi_protocol::ids::{
    AgentId, AttemptRef, EpicId, EpicName, Incarnation, NodeId, PhaseName, ProjectId, RoleName, ShardId, SubmitKey, TaskName, Timestamp,
    Token,
};
use amphi_protocol::journal::{AgentInfo, AttemptEnd, AttemptNews, AttemptReport, Decision, Input, NodeInfo, Outcome, SpecRef, Submission};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const SIZES: [u32; 4] = [100, 1_000, 10_000, 100_000];
const AGENTS: u32 = 4;
/// Tasks that end before measuring, and while measuring.
const BEFORE: usize = 20;
const MEASURED: usize = 41;
/// What the largest epic may cost more than the smallest: depth of the search trees, not size.
const SLACK: u64 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Independent,
    Chain,
    Phases,
    LockQueue,
    /// Each pair of tasks has a folder: one writes a file in it, the other all of it.
    Globs,
}

fn task(shape: Shape, position: u32, count: u32) -> TaskSpec {
    let needs = match shape {
        Shape::Independent | Shape::LockQueue | Shape::Globs => Some(Vec::new()),
        Shape::Chain => Some(position.checked_sub(1).into_iter().collect()),
        Shape::Phases => None,
    };
    let write = match shape {
        Shape::Independent | Shape::Chain | Shape::Phases => Vec::new(),
        Shape::LockQueue => vec!["db".to_owned()],
        Shape::Globs if position.is_multiple_of(2) => vec![format!("file/part-{}/a.rs", position / 2)],
        Shape::Globs => vec![format!("file/part-{}/**", position / 2)],
    };
    TaskSpec {
        name: TaskName::parse(&format!("t{position}")).unwrap(),
        phase: (shape == Shape::Phases).then_some(u32::from(position > count * 9 / 10)),
        needs,
        work: Work::Tool { tool: "noop".to_owned(), with: serde_json::json!({}) },
        agent: None,
        skills: Vec::new(),
        matrix: Vec::new(),
        exclude: Vec::new(),
        max_parallel: None,
        fail_fast: false,
        condition: Condition::Success,
        locks: LockSpec { read: Vec::new(), write },
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
    }
}

fn epic(shape: Shape, count: u32) -> EpicSpec {
    let phases = if shape == Shape::Phases { 2 } else { 0 };
    EpicSpec {
        name: EpicName::parse("large").unwrap(),
        title: None,
        project: ProjectId::parse("default").unwrap(),
        priority: 2,
        inputs: BTreeMap::new(),
        workspace: Workspace::None,
        phases: (0..phases).map(|phase| PhaseName::parse(&format!("p{phase}")).unwrap()).collect(),
        resources: BTreeMap::new(),
        on_failure: OnFailure::Stop,
        reference: None,
        tasks: (0..count).map(|position| task(shape, position, count)).collect(),
    }
}

/// What one transition cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    visited: u64,
    allocations: u64,
}

struct Shard {
    state: State,
    sink: EventSink,
    assigned: VecDeque<(AttemptRef, Token)>,
}

impl Shard {
    fn new() -> Self {
        let mut shard = Self { state: State::new(ShardId(0)), sink: EventSink::counting(), assigned: VecDeque::new() };
        let agents = (1..=AGENTS).map(|number| AgentInfo {
            agent: AgentId::parse(&format!("node-1-Build-{number}")).unwrap(),
            role: RoleName::parse("Build").unwrap(),
            skills: Vec::new(),
        });
        shard.take(&Input::Join(NodeInfo {
            node: NodeId::parse("node-1").unwrap(),
            incarnation: Incarnation(1),
            pid: 1,
            capacity: AGENTS,
            labels: BTreeMap::new(),
            agents: agents.collect(),
            home: String::new(),
        }));
        shard
    }

    fn take(&mut self, input: &Input) -> Cost {
        let visited = self.state.visited();
        let allocations = ALLOCATIONS.load(Ordering::Relaxed);
        let decisions = self.state.decide(Timestamp(1_000), input, &mut self.sink).unwrap();
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
        let visited = self.state.visited() - visited;
        for decision in decisions {
            if let Decision::Assigned { attempt, token, .. } = decision {
                self.assigned.push_back((attempt, token));
            }
        }
        Cost { visited, allocations }
    }

    fn submit(&mut self, spec: EpicSpec) {
        let project = spec.project.clone();
        let (spec, _) = SpecRef::new(Arc::new(spec));
        self.take(&Input::Submit(Submission {
            admission: None,
            epic: EpicId::parse("large").unwrap(),
            key: SubmitKey::parse("key").unwrap(),
            body_hash: spec.hash.clone(),
            by: "test".to_owned(),
            project,
            spec,
        }));
    }

    fn report(&mut self, attempt: &AttemptRef, token: Token, what: AttemptNews) -> Cost {
        let node = NodeId::parse("node-1").unwrap();
        self.take(&Input::Attempt(AttemptReport { node, incarnation: Incarnation(1), attempt: attempt.clone(), token, what }))
    }

    /// One task runs and ends; the costs of its start and of its end with everything that follows.
    fn step(&mut self, shape: Shape) -> [Cost; 2] {
        let (attempt, token) = self.assigned.pop_front().expect("there is always a task to run");
        if matches!(shape, Shape::LockQueue | Shape::Globs) {
            self.report(&attempt, token, AttemptNews::Claim);
        }
        let started = self.report(&attempt, token, AttemptNews::Started { pid: Some(1) });
        let end =
            AttemptEnd { outcome: Outcome::Succeeded, exit_code: Some(0), error: None, outputs: BTreeMap::new(), artifacts: Vec::new() };
        let ended = self.report(&attempt, token, AttemptNews::Ended(end));
        assert!(!self.assigned.is_empty(), "the end of a task is followed by the next assignment");
        [started, ended]
    }
}

/// The usual cost of a start and of an end. The middle one of many: now and then a tree of the state splits a node.
fn cost(shape: Shape, count: u32) -> [Cost; 2] {
    let mut shard = Shard::new();
    shard.submit(epic(shape, count));
    for _ in 0..BEFORE {
        shard.step(shape);
    }
    let costs: Vec<[Cost; 2]> = (0..MEASURED).map(|_| shard.step(shape)).collect();
    if count <= 1_000 {
        laws::check(&shard.state).unwrap();
    }
    [0, 1].map(|what| {
        let middle = |of: fn(&Cost) -> u64| {
            let mut all: Vec<u64> = costs.iter().map(|cost| of(&cost[what])).collect();
            all.sort_unstable();
            all[MEASURED / 2]
        };
        Cost { visited: middle(|cost| cost.visited), allocations: middle(|cost| cost.allocations) }
    })
}

#[test]
fn the_work_of_a_transition_does_not_grow_with_the_epic() {
    let mut grown = Vec::new();
    for shape in [Shape::Independent, Shape::Chain, Shape::Phases, Shape::LockQueue, Shape::Globs] {
        let costs = SIZES.map(|count| cost(shape, count));
        for (what, name) in ["start", "end"].into_iter().enumerate() {
            println!("{shape:?} {name}: {:?}", costs.map(|cost| (cost[what].visited, cost[what].allocations)));
            let smallest = costs[0][what];
            let grows =
                |cost: &[Cost; 2]| cost[what].visited > smallest.visited + SLACK || cost[what].allocations > smallest.allocations + SLACK;
            if costs.iter().any(grows) {
                grown.push(format!("{shape:?} {name}: {:?}", costs.map(|cost| cost[what])));
            }
        }
    }
    assert!(grown.is_empty(), "the work grows from {SIZES:?} tasks on: {grown:#?}");
}
