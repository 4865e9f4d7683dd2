//! How long a start takes that finds 10,000 live tasks: the newest snapshot is read and checked, then 10,000 decisions that followed it
//! are replayed. Prints what each step costs, the copy inside the Manager included; fails above one second in a release build.
//!
//! `cargo run --release -p amphi-tests --bin recovery`. Everything but the transport: reading the same bytes from the store comes on top.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amphi_coordination::seat::{Action, Appended, Seat};
use amphi_coordination::{State, snapshot};
use amphi_protocol::document::EpicSpec;
use amphi_protocol::ids::{AgentId, EpicId, Incarnation, NodeId, ProjectId, RoleName, ShardId, SubmitKey, Timestamp};
use amphi_protocol::journal::{AgentInfo, AttemptNews, AttemptReport, Decision, Input, NodeInfo, Record, SpecRef, Submission};
use serde_json::json;

const EPICS: u32 = 100;
const TASKS: u32 = 100;
const AGENTS: u32 = 2_000;
const TAIL: usize = 10_000;
const LIMIT: Duration = Duration::from_secs(1);

/// A seat whose journal is a list.
struct Bench {
    seat: Seat,
    journal: Vec<Vec<u8>>,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        let mut seat = Seat::new(node(), State::new(ShardId(0)));
        seat.lead();
        let mut bench = Self { seat, journal: Vec::new(), now: 1 };
        bench.commit();
        bench
    }

    fn take(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Decision> {
        for (ticket, input) in (1..).zip(inputs) {
            assert!(self.seat.take(ticket, input).is_none(), "a leading seat takes what comes");
        }
        self.commit()
    }

    /// Commits until nothing waits; gives what was decided.
    fn commit(&mut self) -> Vec<Decision> {
        let mut decided = Vec::new();
        loop {
            self.now += 1;
            let actions = self.seat.pump(Timestamp(self.now), &self.now.to_string());
            let Some(bytes) = actions.into_iter().find_map(|action| match action {
                Action::Append { bytes, .. } => Some(bytes),
                _ => None,
            }) else {
                return decided;
            };
            let record = Record::decode(&bytes).expect("the seat writes records");
            decided.extend(record.decisions.into_iter().flatten());
            self.journal.push(bytes);
            self.seat.appended(Appended::Acknowledged(self.journal.len() as u64));
        }
    }
}

fn node() -> NodeId {
    NodeId::parse("node-1").expect("the id is valid")
}

fn join() -> Input {
    let agent = |number| AgentInfo {
        agent: AgentId::parse(&format!("node-1-Worker-{number}")).expect("the id is valid"),
        role: RoleName::parse("Worker").expect("the id is valid"),
        skills: vec!["build".to_owned(), "test".to_owned()],
    };
    let info: NodeInfo = serde_json::from_value(json!({
        "node": node(), "incarnation": 1, "pid": 1, "capacity": AGENTS, "agents": (1..=AGENTS).map(agent).collect::<Vec<_>>(),
    }))
    .expect("the node is valid");
    Input::Join(info)
}

fn submit(number: u32) -> Input {
    let task = |i: u32| {
        json!({
            "name": format!("task_{i}"), "work": { "run": { "text": format!("make -C part-{i} all && ./check --part {i}") } },
            "priority": 2, "stuck_after_ms": 300_000, "needs": [], "locks": { "read": ["docs"], "write": [format!("part/{number}/{i}")] },
            "retry": { "attempts": 3, "backoff_ms": 1000, "max_ms": 300_000, "on": ["exit", "agent_lost", "stuck"] },
        })
    };
    let tasks: Vec<_> = (0..TASKS).map(task).collect();
    let spec: EpicSpec =
        serde_json::from_value(json!({ "name": "bench", "project": "p", "priority": 2, "inputs": { "n": number }, "tasks": tasks }))
            .expect("the epic is valid");
    Input::Submit(Submission {
        admission: None,
        epic: EpicId::parse(&format!("bench-{number:04}")).expect("the id is valid"),
        key: SubmitKey::parse(&format!("key-{number}")).expect("the key is valid"),
        body_hash: "b".to_owned(),
        by: "local".to_owned(),
        project: ProjectId::parse("p").expect("the project is valid"),
        spec: SpecRef::new(Arc::new(spec)).0,
    })
}

fn report(assigned: &Decision, what: AttemptNews) -> Option<Input> {
    let Decision::Assigned { attempt, token, .. } = assigned else { return None };
    Some(Input::Attempt(AttemptReport { node: node(), incarnation: Incarnation(1), attempt: attempt.clone(), token: *token, what }))
}

fn main() -> ExitCode {
    let mut bench = Bench::new();
    bench.take([join()]);
    let decided = bench.take((0..EPICS).map(submit));
    let assigned: Vec<&Decision> = decided.iter().filter(|decision| matches!(decision, Decision::Assigned { .. })).collect();
    assert_eq!(assigned.len(), AGENTS as usize, "every agent has work");
    bench.take(assigned.iter().filter_map(|given| report(given, AttemptNews::Claim)));
    bench.take(assigned.iter().filter_map(|given| report(given, AttemptNews::Started { pid: Some(1) })));

    let at = bench.journal.len();
    let copying = Instant::now();
    let state = bench.seat.state().clone();
    let copying = copying.elapsed();
    let encoding = Instant::now();
    let bytes = snapshot::encode(&state, bench.seat.tail().1, &state.digest());
    let encoding = encoding.elapsed();

    let mut tail = 0;
    while tail < TAIL {
        let message = Some(format!("{tail} of {TAIL}"));
        let progress = |given: &&Decision| report(given, AttemptNews::Progress { percent: Some(50), message: message.clone() });
        tail += bench.take(assigned.iter().filter_map(progress)).len();
    }

    let reading = Instant::now();
    let loaded = snapshot::decode(&bytes).expect("the snapshot was just written");
    assert!(loaded.is_exact, "a snapshot gives what was written");
    let reading = reading.elapsed();
    let replaying = Instant::now();
    let mut seat = Seat::resume(node(), loaded.state, at as u64, loaded.hash);
    for (sequence, bytes) in (1u64..).zip(&bench.journal).skip(at) {
        let record = Record::decode(bytes).expect("the seat writes records");
        seat.follow(sequence, bytes, &record).expect("the tail follows the snapshot");
    }
    let replaying = replaying.elapsed();
    assert_eq!(seat.state().digest(), bench.seat.state().digest(), "the start finds the live state");

    let live: usize = seat.state().epics().map(|epic| epic.instances.iter().filter(|instance| !instance.state.is_ended()).count()).sum();
    let whole = reading + replaying;
    println!("live tasks            {live:>10}");
    println!("snapshot              {:>10} bytes", bytes.len());
    println!("copied in the Manager {copying:>10.1?}   encoded beside it {encoding:.1?}");
    println!("read and checked      {reading:>10.1?}");
    println!("{tail} decisions      {replaying:>10.1?}   in {} records", bench.journal.len() - at);
    println!("recovery              {whole:>10.1?}");
    if whole > LIMIT && !cfg!(debug_assertions) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
