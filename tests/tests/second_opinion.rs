//! The core is driven with chance through everything that it takes, and the checker, which shares nothing with it but the protocol,
//! must find every law kept. A disagreement names the seed; one of the two has misread the interface.

use std::collections::BTreeMap;
use std::sync::Arc;

use amphi_coordination::{EventSink, State};
use amphi_protocol::document::{EpicSpec, Plan};
use amphi_protocol::ids::{CommitIndex, EpicId, Epoch, Incarnation, IncidentId, NodeId, ShardId, Timestamp, Token};
use amphi_protocol::journal::{
    AgentInfo, AgentLife, AgentReport, AttemptEnd, AttemptNews, AttemptReport, CancelCause, Decision, Input, Next, NodeInfo, Outcome,
    Record, Resolution, SCHEMA, SpecRef, Submission,
};
use amphi_verify::{ExportHeader, ExportLine, Law, LawResult, Verdict, check_lines};
use serde_json::{Value, json};

const SEEDS: u64 = 500;
const STEPS: u32 = 250;

/// splitmix64: the same seed, the same world.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// An attempt that an agent has.
#[derive(Clone)]
struct Held {
    report: AttemptReport,
    agent: amphi_protocol::ids::AgentId,
    needs_claim: bool,
    claimed: bool,
    started: bool,
    cancelling: bool,
}

struct World {
    chance: Chance,
    state: State,
    sink: EventSink,
    now: u64,
    last_hash: String,
    index: u64,
    batch: (Vec<Input>, Vec<Vec<Decision>>),
    lines: Vec<ExportLine>,
    specs: BTreeMap<EpicId, (Arc<EpicSpec>, Plan)>,
    lives: BTreeMap<NodeId, u64>,
    held: Vec<Held>,
    past: Vec<AttemptReport>,
    incidents: Vec<IncidentId>,
}

fn node(n: usize) -> NodeId {
    NodeId::parse(&format!("node-{n}")).expect("digits and dashes are a node id")
}

fn info(n: usize, life: u64) -> NodeInfo {
    let agent = |(k, role): (usize, &str)| AgentInfo {
        agent: format!("node-{n}-{role}-{k}").parse().expect("it is an agent id"),
        role: role.parse().expect("it is a role"),
        skills: if k == 0 { vec!["build".into()] } else { vec![] },
    };
    let agents = ["Worker", "Worker", "Tester"].into_iter().enumerate().map(agent).collect();
    NodeInfo {
        node: node(n),
        incarnation: Incarnation(life),
        pid: 1,
        capacity: 2 + n as u32 % 2,
        labels: BTreeMap::new(),
        agents,
        home: String::new(),
    }
}

fn random_task(chance: &mut Chance, position: usize, phases: usize) -> Value {
    let mut task = json!({
        "name": format!("t{position}"), "work": {"run": {"text": "true"}}, "stuck_after_ms": 300_000, "priority": chance.below(5),
        "retry": {
            "attempts": 1 + chance.below(3), "backoff_ms": chance.below(3) * 500, "max_ms": 5_000,
            "on": chance.pick(&[vec!["agent_lost", "stuck"], vec!["exit", "timeout", "stuck", "agent_lost", "output", "resource"]]),
        },
    });
    let mut set = |key: &str, value: Value| task[key] = value;
    if phases > 0 {
        set("phase", json!(if position < phases { position } else { chance.below(phases) }));
    }
    if position > 0 && phases == 0 && !chance.one_in(3) {
        set("needs", json!([chance.below(position)]));
    }
    if chance.one_in(3) {
        let axis = json!([{"axis": "i", "values": (1..=1 + chance.below(4)).map(|n| n.to_string()).collect::<Vec<_>>()}]);
        set("matrix", axis);
        if chance.one_in(3) {
            set("max_parallel", json!(1 + chance.below(2)));
        }
        set("fail_fast", json!(chance.one_in(3)));
    }
    if chance.one_in(2) {
        let name = |chance: &mut Chance| json!([chance.pick(&["db", "file/a", "net", "file/b", "file/*"])]);
        let locks = if chance.one_in(3) { json!({"read": name(chance), "write": name(chance)}) } else { json!({"write": name(chance)}) };
        set("locks", if chance.one_in(3) { json!({"read": name(chance)}) } else { locks });
    }
    if chance.one_in(4) {
        set("condition", json!(chance.pick(&["always", "failure"])));
    }
    if chance.one_in(3) {
        set("agent", json!(chance.pick(&["Worker", "Tester", "Worker", "Wizard"])));
    } else if chance.one_in(4) {
        set("skills", json!(["build"]));
    }
    if chance.one_in(5) {
        set("timeout_ms", json!(2_000));
    }
    set("optional", json!(chance.one_in(5)));
    if chance.one_in(2) {
        let mut undo = task.clone();
        let given = ["phase", "needs", "matrix", "max_parallel", "fail_fast", "condition", "optional"];
        given.iter().for_each(|key| _ = undo.as_object_mut().expect("a task is an object").remove(*key));
        undo["retry"]["attempts"] = json!(1 + chance.below(3));
        task["undo"] = undo;
    }
    task
}

fn random_spec(chance: &mut Chance) -> Arc<EpicSpec> {
    let phases = if chance.one_in(3) { 2 } else { 0 };
    let tasks: Vec<Value> = (0..2 + chance.below(5)).map(|position| random_task(chance, position, phases)).collect();
    let names: Vec<String> = (0..phases).map(|phase| format!("p{phase}")).collect();
    let workspace = if chance.one_in(2) { json!("none") } else { json!({"path": chance.pick(&["/srv/a", "/srv/b"])}) };
    let spec = json!({
        "name": "chance", "project": chance.pick(&["one", "two"]), "priority": 2, "tasks": tasks, "phases": names, "workspace": workspace,
        "on_failure": chance.pick(&["stop", "undo"]),
    });
    Arc::new(serde_json::from_value(spec).expect("the generator writes specifications"))
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            chance: Chance(seed),
            state: State::new(ShardId(0)),
            sink: EventSink::collecting(),
            now: 1_800_000_000_000,
            last_hash: String::new(),
            index: 0,
            batch: Default::default(),
            lines: vec![ExportLine::Header(ExportHeader::default())],
            specs: BTreeMap::new(),
            lives: BTreeMap::new(),
            held: Vec::new(),
            past: Vec::new(),
            incidents: Vec::new(),
        };
        world.lead();
        world
    }

    fn lead(&mut self) {
        self.commit();
        self.offer(Input::Lead { node: node(1) });
        self.commit();
    }

    /// Hands an input to the core; what it decides goes into the commit that is being filled.
    fn offer(&mut self, input: Input) -> bool {
        let Ok(decisions) = self.state.decide(Timestamp(self.now), &input, &mut self.sink) else { return false };
        for decision in &decisions {
            self.learn(decision);
        }
        if let Input::Attempt(report) = &input {
            self.past.push(report.clone());
        }
        self.batch.0.push(input);
        self.batch.1.push(decisions);
        true
    }

    fn learn(&mut self, decision: &Decision) {
        match decision {
            Decision::Assigned { attempt, agent, node, incarnation, token } => {
                let (spec, plan) = &self.specs[&attempt.epic];
                let task = &spec.tasks[plan.instances[attempt.i as usize].task as usize];
                let epic = self.state.epic(&attempt.epic).expect("an assigned attempt has an epic");
                let undoes = epic.instances[attempt.i as usize].undo;
                let task = if undoes { task.undo.as_deref().expect("only what has an undo is undone") } else { task };
                let report = AttemptReport {
                    node: node.clone(),
                    incarnation: *incarnation,
                    attempt: attempt.clone(),
                    token: *token,
                    what: AttemptNews::Claim,
                };
                let needs_claim = task.retry.is_once() || !task.locks.write.is_empty();
                self.held.push(Held { report, agent: agent.clone(), needs_claim, claimed: false, started: false, cancelling: false });
            }
            Decision::AttemptEnded { attempt, .. } => self.held.retain(|held| held.report.attempt != *attempt),
            Decision::AttemptCancelling { attempt, .. } => {
                self.held.iter_mut().filter(|held| held.report.attempt == *attempt).for_each(|held| held.cancelling = true);
            }
            Decision::IncidentOpened { incident, .. } => self.incidents.push(incident.clone()),
            Decision::IncidentResolved { incident, .. } => self.incidents.retain(|open| open != incident),
            _ => {}
        }
    }

    fn commit(&mut self) {
        let (inputs, decisions) = std::mem::take(&mut self.batch);
        if inputs.is_empty() {
            return;
        }
        self.index += 1;
        let record = Record {
            schema: SCHEMA,
            shard: ShardId(0),
            index: CommitIndex(self.index),
            epoch: self.state.epoch,
            now_ms: self.state.now,
            commit_id: self.index.to_string(),
            prev_hash: std::mem::take(&mut self.last_hash),
            seq: self.state.seq,
            snapshot: self.state.history().marker,
            inputs,
            decisions,
        };
        let bytes = record.encode();
        self.last_hash = Record::hash(&bytes);
        let record = String::from_utf8(bytes).expect("JSON is UTF-8");
        self.lines.push(ExportLine::Record { index: CommitIndex(self.index), record });
    }

    fn submit(&mut self) {
        let spec = random_spec(&mut self.chance);
        let id = EpicId::parse(&format!("e{}", self.specs.len())).expect("a letter and digits are an epic id");
        let submission = Submission {
            admission: None,
            epic: id.clone(),
            key: id.as_str().parse().expect("an epic id is a key"),
            body_hash: "00".into(),
            by: "local".into(),
            project: spec.project.clone(),
            spec: SpecRef::new(spec.clone()).0,
        };
        self.specs.insert(id, (spec.clone(), Plan::expand(&spec)));
        assert!(self.offer(Input::Submit(submission.clone())), "a new submission is taken");
        assert!(!self.offer(Input::Submit(submission)), "the same again is not");
    }

    fn join(&mut self, n: usize) {
        let life = self.lives.entry(node(n)).or_insert(10);
        *life += 1;
        let life = *life;
        self.offer(Input::Join(info(n, life)));
    }

    /// A node says the next thing about an attempt that it has; `kindly` only what leads to a good end.
    fn report(&mut self, kindly: bool) {
        if self.held.is_empty() {
            return;
        }
        let at = self.chance.below(self.held.len());
        let held = self.held[at].clone();
        let what = if held.cancelling || (!kindly && self.chance.one_in(8)) {
            let began = if held.started { Outcome::AgentLost } else { Outcome::NotStarted };
            let outcome = if held.cancelling { Outcome::Cancelled } else { self.chance.pick(&[began, Outcome::AgentLost]) };
            AttemptNews::Ended(end(outcome))
        } else if held.needs_claim && !held.claimed {
            self.held[at].claimed = true;
            AttemptNews::Claim
        } else if !held.started {
            self.held[at].started = true;
            AttemptNews::Started { pid: Some(7) }
        } else if !kindly && self.chance.one_in(4) {
            AttemptNews::Progress { percent: Some(50), message: None }
        } else {
            let outcomes = [Outcome::Succeeded, Outcome::Succeeded, Outcome::Exit, Outcome::Output, Outcome::Resource];
            AttemptNews::Ended(end(if kindly { Outcome::Succeeded } else { self.chance.pick(&outcomes) }))
        };
        self.offer(Input::Attempt(AttemptReport { what, ..held.report }));
    }

    /// Something late, repeated or from elsewhere; the core has to refuse what does not count any more.
    fn nonsense(&mut self) {
        if !self.past.is_empty() {
            let mut report = self.chance.pick(&self.past);
            match self.chance.below(4) {
                0 => report.token = Token(report.token.0.saturating_sub(1)),
                1 => report.node = node(9),
                2 => report.incarnation = Incarnation(1),
                _ => {}
            }
            self.offer(Input::Attempt(report));
        }
    }

    fn agent_changes(&mut self) {
        let n = 1 + self.chance.below(3);
        let Some(&life) = self.lives.get(&node(n)) else { return };
        let agent = self.chance.pick(&info(n, life).agents).agent;
        let state = self.chance.pick(&[AgentLife::Up, AgentLife::Up, AgentLife::Down, AgentLife::Quarantined]);
        let report =
            AgentReport { node: node(n), incarnation: Incarnation(life), agent: agent.clone(), state, restarts: 1, cause: "chance".into() };
        if self.offer(Input::Agent(report)) && state != AgentLife::Up {
            // What it was at dies with it, and its node says so.
            let lost: Vec<Held> = self.held.iter().filter(|held| held.agent == agent).cloned().collect();
            for held in lost {
                self.offer(Input::Attempt(AttemptReport { what: AttemptNews::Ended(end(Outcome::AgentLost)), ..held.report }));
            }
        }
    }

    fn person(&mut self) {
        let ids: Vec<EpicId> = self.specs.keys().cloned().collect();
        if ids.is_empty() {
            return;
        }
        let (epic, by) = (self.chance.pick(&ids), "local".to_owned());
        let count = self.specs[&epic].1.instances.len();
        let instances = vec![self.chance.below(count) as u32];
        let undo = self.chance.one_in(2);
        match self.chance.below(13) {
            6 => self.offer(Input::PauseEpic { epic, by }),
            7 => self.offer(Input::ResumeEpic { epic, by }),
            8 => self.offer(Input::SkipTask { epic, instances, by }),
            9 => self.offer(Input::RetryEpic { epic, from: Vec::new(), by }),
            10 => self.offer(Input::RetryEpic { epic, from: instances, by }),
            0 => self.offer(Input::CancelEpic { epic, by, undo }),
            11..13 => {
                let agents = info(1 + self.chance.below(3), 1).agents;
                let agent = self.chance.pick(&agents).agent;
                self.offer(Input::AssignTask { epic, instances, agent, by })
            }
            1 => self.offer(Input::CancelTask { epic, instances, by }),
            _ => self.offer(Input::RetryTask { epic, instances, by }),
        };
    }

    fn resolve(&mut self) {
        if let Some(incident) = self.incidents.first().cloned() {
            let resolution = self.chance.pick(&[Resolution::Succeeded, Resolution::Failed, Resolution::NotStarted]);
            self.offer(Input::ResolveIncident { incident, resolution, by: "local".into() });
        }
    }

    fn step(&mut self) {
        match self.chance.below(40) {
            0..=2 if self.specs.len() < 8 => self.submit(),
            3 => {
                let n = 1 + self.chance.below(3);
                self.join(n);
            }
            4 if self.chance.one_in(2) => {
                let n = 1 + self.chance.below(3);
                let life = self.lives.get(&node(n)).copied().unwrap_or(1);
                self.offer(Input::LoseNode { node: node(n), incarnation: Incarnation(life), cause: "chance".into() });
            }
            5 => self.agent_changes(),
            6 | 7 => self.nonsense(),
            8 => self.person(),
            9 => self.resolve(),
            10 if self.chance.one_in(4) => self.lead(),
            11 if !self.held.is_empty() => {
                let attempt = self.chance.pick(&self.held).report.attempt;
                let cause = self.chance.pick(&[CancelCause::Stuck, CancelCause::Lease]);
                self.offer(Input::Silent { attempt, cause });
            }
            12..=16 => {
                self.offer(Input::Tick);
            }
            _ => self.report(false),
        }
        if self.chance.one_in(2) {
            self.commit();
            // All of a commit is decided at one moment.
            self.now += self.chance.below(800) as u64;
        }
    }

    /// Faults stop: nodes live, agents work, persons answer.
    fn calm(&mut self) {
        for n in 1..=3 {
            self.join(n);
        }
        for _ in 0..2_000 {
            self.now += 1_000;
            self.offer(Input::Tick);
            self.report(true);
            self.resolve();
            self.resume_all();
            self.commit();
        }
    }

    fn resume_all(&mut self) {
        let paused: Vec<EpicId> = self.state.epics().filter(|epic| epic.paused).map(|epic| epic.id.clone()).collect();
        for epic in paused {
            self.offer(Input::ResumeEpic { epic, by: "local".into() });
        }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.iter().map(ExportLine::encode).collect()
    }
}

fn end(outcome: Outcome) -> AttemptEnd {
    AttemptEnd { outcome, exit_code: None, error: None, outputs: BTreeMap::new(), artifacts: Vec::new() }
}

fn run(seed: u64) -> (World, Verdict) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.calm();
    let verdict =
        check_lines(world.lines(), None).unwrap_or_else(|error| panic!("seed {seed}: the journal of the core cannot be read: {error:?}"));
    (world, verdict)
}

#[test]
fn the_checker_finds_every_law_kept_in_what_the_core_decides() {
    let mut exercised: BTreeMap<Law, u64> = BTreeMap::new();
    for seed in 0..SEEDS {
        let (world, verdict) = run(seed);
        let broken: Vec<_> = verdict.laws.iter().filter(|row| row.result == LawResult::Violated).collect();
        assert!(broken.is_empty(), "seed {seed}: {}", explain(&world, &verdict));
        for row in verdict.laws.iter().filter(|row| row.result == LawResult::Holds) {
            *exercised.entry(row.law).or_default() += row.checked;
        }
    }
    use Law::*;
    let expected = [S1, S2, S3, S4, S5, S6, S7, S8, S9, S10, S11, S12, S13, S14, S15, S18, L2, L7];
    assert_eq!(exercised.keys().copied().collect::<Vec<_>>(), expected, "exercised: {exercised:?}");
}

/// The records around the first violation of each law, for whoever has to find out which of the two is wrong.
fn explain(world: &World, verdict: &Verdict) -> String {
    let mut text = String::new();
    for row in verdict.laws.iter().filter(|row| row.result == LawResult::Violated) {
        text += &format!("\n{} at {:?}", row.law.as_str(), row.evidence);
        for line in &world.lines {
            if let ExportLine::Record { index, record } = line
                && row.evidence.first() == Some(index)
            {
                text += &format!("\n  {record}");
            }
        }
    }
    text
}

#[test]
fn a_result_that_the_core_never_decided_is_noticed() {
    let (world, _) = run(1);
    let mut forged = 0;
    for (at, line) in world.lines.iter().enumerate() {
        let ExportLine::Record { record, .. } = line else { continue };
        let mut record: Record = serde_json::from_str(record).expect("the core wrote it");
        let failed = record.decisions.iter_mut().flatten().find_map(|decision| match decision {
            Decision::AttemptEnded { next, .. } if *next == Next::Failed => Some(next),
            _ => None,
        });
        let Some(next) = failed else { continue };
        *next = Next::Succeeded;
        forged += 1;
        let mut lines = world.lines();
        lines[at] = ExportLine::Record { index: record.index, record: String::from_utf8(record.encode()).expect("JSON is UTF-8") }.encode();
        let verdict = check_lines(lines, None).expect("it is still a journal");
        assert!(!verdict.ok || at + 1 == world.lines.len(), "line {at} was forged");
    }
    assert!(forged > 0, "nothing failed in this world: take another seed");
    assert!(world.state.epoch >= Epoch(1));
}
