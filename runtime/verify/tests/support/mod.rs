//! Builds exported journals record by record, with right positions, hashes and tokens; what the decisions say is up to the caller.
//!
//! It knows no law: a scene that breaks one is built like any other.
#![allow(dead_code, reason = "each test uses its part")]

pub mod effects;
pub mod flow;
pub mod globs;
pub mod good;
pub mod nested;
pub mod outside;
pub mod pins;
pub mod staff;
pub mod violations;

use std::sync::Arc;

use amphi_protocol::document::EpicSpec;
use amphi_protocol::ids::{
    AgentId, AttemptRef, CommitIndex, EpicId, Epoch, EventSeq, Incarnation, NodeId, ProjectId, RoleName, ShardId, SubmitKey, Timestamp,
    Token,
};
use amphi_protocol::journal::{
    AgentInfo, AttemptEnd, AttemptNews, AttemptReport, Decision, EpicEnd, Input, Next, NodeInfo, Outcome, Record, Retiring, SCHEMA,
    SegmentRef, SnapshotRef, SpecRef, StaffCause, StaffReport, Submission, Upkeep,
};
use amphi_verify::{ExportHeader, ExportLine};
use serde_json::{Value, json};

/// A journal in the making.
pub struct Journal {
    lines: Vec<ExportLine>,
    /// The head of the next record.
    pub next: Record,
    token: u64,
}

/// An attempt that was assigned.
#[derive(Clone)]
pub struct Given {
    pub attempt: AttemptRef,
    pub agent: AgentId,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub token: Token,
}

pub fn epic(id: &str) -> EpicId {
    EpicId::parse(id).expect("the scenes use valid ids")
}

pub fn node(id: &str) -> NodeId {
    NodeId::parse(id).expect("the scenes use valid ids")
}

pub fn agent(id: &str) -> AgentId {
    AgentId::parse(id).expect("the scenes use valid ids")
}

/// A task that runs `true`, with `extra` keys of [`amphi_protocol::document::TaskSpec`].
pub fn task(name: &str, extra: Value) -> Value {
    let mut task = json!({
        "name": name, "work": {"run": {"text": "true"}}, "stuck_after_ms": 300_000, "priority": 2,
        "retry": {"attempts": 3, "backoff_ms": 0, "max_ms": 300_000, "on": ["agent_lost", "stuck", "exit"]},
    });
    merge(&mut task, extra);
    task
}

/// A policy that tries `attempts` times.
pub fn retry(attempts: u32) -> Value {
    json!({"attempts": attempts, "backoff_ms": 0, "max_ms": 300_000, "on": ["exit", "timeout", "stuck", "agent_lost", "output", "resource"]})
}

/// An epic of `tasks`, with `extra` keys of [`EpicSpec`].
pub fn spec(tasks: Vec<Value>, extra: Value) -> Arc<EpicSpec> {
    let mut spec = json!({"name": "sample", "project": "default", "priority": 2, "tasks": tasks});
    merge(&mut spec, extra);
    Arc::new(serde_json::from_value(spec).expect("the scenes use valid specifications"))
}

fn merge(into: &mut Value, extra: Value) {
    if let (Value::Object(into), Value::Object(extra)) = (into, extra) {
        into.extend(extra);
    }
}

/// The submission of `id` and the decision that accepts it.
pub fn submission(id: &str, key: &str, spec: &SpecRef, project: &ProjectId) -> (Input, Decision) {
    let key = SubmitKey::parse(key).expect("the scenes use valid keys");
    let (body_hash, by) = (Record::hash(id.as_bytes()), "local".to_owned());
    let submit = Submission {
        admission: None,
        epic: epic(id),
        key: key.clone(),
        body_hash: body_hash.clone(),
        by: by.clone(),
        project: project.clone(),
        spec: spec.clone(),
    };
    (Input::Submit(submit), Decision::EpicAccepted { epic: epic(id), key, body_hash, by, spec: spec.clone() })
}

pub fn ended(id: &str, state: EpicEnd) -> Decision {
    Decision::EpicEnded { epic: epic(id), state }
}

pub fn node_info(id: &str, incarnation: u64, capacity: u32, roles: &[(&str, &[&str])]) -> NodeInfo {
    let agents = (1..).zip(roles).map(|(n, (role, skills))| AgentInfo {
        agent: agent(&format!("{id}-{role}-{n}")),
        role: RoleName::parse(role).expect("the scenes use valid roles"),
        skills: skills.iter().map(|skill| (*skill).to_owned()).collect(),
    });
    let agents = agents.collect();
    NodeInfo {
        node: node(id),
        incarnation: Incarnation(incarnation),
        pid: 100,
        capacity,
        labels: Default::default(),
        agents,
        home: String::new(),
    }
}

impl Given {
    pub fn assigned(&self) -> Decision {
        Decision::Assigned {
            attempt: self.attempt.clone(),
            agent: self.agent.clone(),
            node: self.node.clone(),
            incarnation: self.incarnation,
            token: self.token,
        }
    }

    pub fn report(&self, what: AttemptNews) -> Input {
        Input::Attempt(AttemptReport {
            node: self.node.clone(),
            incarnation: self.incarnation,
            attempt: self.attempt.clone(),
            token: self.token,
            what,
        })
    }

    pub fn reports_end(&self, outcome: Outcome) -> Input {
        self.report(AttemptNews::Ended(end_of(outcome)))
    }

    pub fn claimed(&self) -> Decision {
        Decision::Claimed { attempt: self.attempt.clone() }
    }

    pub fn started(&self) -> Decision {
        Decision::Started { attempt: self.attempt.clone(), pid: Some(4711) }
    }

    pub fn ended(&self, outcome: Outcome, next: Next) -> Decision {
        Decision::AttemptEnded { attempt: self.attempt.clone(), token: self.token, end: end_of(outcome), next }
    }
}

pub fn end_of(outcome: Outcome) -> AttemptEnd {
    let exit_code = match outcome {
        Outcome::Succeeded => Some(0),
        Outcome::Exit => Some(1),
        Outcome::Output | Outcome::Resource | Outcome::Cancelled | Outcome::AgentLost | Outcome::NotStarted => None,
    };
    AttemptEnd { outcome, exit_code, error: None, outputs: Default::default(), artifacts: Vec::new() }
}

impl Journal {
    /// Led by `node-1` in epoch 1, with nothing else in it.
    pub fn new() -> Self {
        let next = Record {
            schema: SCHEMA,
            shard: ShardId(0),
            index: CommitIndex(1),
            epoch: Epoch(0),
            now_ms: Timestamp(1_800_000_000_000),
            commit_id: String::new(),
            prev_hash: String::new(),
            seq: EventSeq(0),
            snapshot: None,
            inputs: Vec::new(),
            decisions: Vec::new(),
        };
        let mut journal = Self { lines: vec![ExportLine::Header(ExportHeader::default())], next, token: 0 };
        journal.lead();
        journal
    }

    /// With one node, `node-1` in life 10, that has `agents` agents of the role `Worker` and room for all of them.
    pub fn with_workers(agents: usize) -> Self {
        let mut journal = Self::new();
        journal.join("node-1", 10, agents);
        journal
    }

    /// A new term begins.
    pub fn lead(&mut self) {
        self.next.epoch = self.next.epoch.next();
        let (leader, epoch) = (node("node-1"), self.next.epoch);
        self.commit(Input::Lead { node: leader.clone() }, vec![Decision::EpochStarted { node: leader, epoch }]);
    }

    /// A node with `agents` agents of the role `Worker`.
    pub fn join(&mut self, id: &str, incarnation: u64, agents: usize) {
        let roles: Vec<(&str, &[&str])> = vec![("Worker", &[]); agents];
        let info = node_info(id, incarnation, agents as u32, &roles);
        self.commit(Input::Join(info.clone()), vec![Decision::NodeJoined(info)]);
    }

    /// Agents come to `node-1` and leave it.
    pub fn staff(&mut self, added: &[(&str, &str)], removed: &[&str]) {
        let info =
            |(id, role): &(&str, &str)| AgentInfo { agent: agent(id), role: RoleName::parse(role).expect("a role"), skills: Vec::new() };
        let (added, removed): (Vec<_>, Vec<_>) = (added.iter().map(info).collect(), removed.iter().map(|id| agent(id)).collect());
        let (node, cause) = (node("node-1"), StaffCause::Role);
        let report =
            StaffReport { node: node.clone(), incarnation: Incarnation(10), added: added.clone(), removed: removed.clone(), cause };
        self.commit(Input::Staff(report), vec![Decision::StaffChanged { node, added, removed, cause }]);
    }

    /// Accepts an epic and whatever is decided with it.
    pub fn submit(&mut self, id: &str, spec: Arc<EpicSpec>, also: Vec<Decision>) {
        let project = spec.project.clone();
        let (reference, _) = SpecRef::new(spec);
        let (input, accepted) = submission(id, id, &reference, &project);
        self.commit(input, [vec![accepted], also].concat());
    }

    /// Accepts an epic whose specification stands beside the journal.
    pub fn submit_by_reference(&mut self, id: &str, spec: Arc<EpicSpec>) {
        let project = spec.project.clone();
        let (mut reference, bytes) = SpecRef::new(spec);
        reference.inline = None;
        let json = String::from_utf8(bytes).expect("JSON is UTF-8");
        self.lines.push(ExportLine::Document { hash: reference.hash.clone(), json });
        let (input, accepted) = submission(id, id, &reference, &project);
        self.commit(input, vec![accepted]);
    }

    /// A snapshot of the last commit is put on record.
    pub fn snapshot(&mut self, older: Option<SnapshotRef>) -> SnapshotRef {
        let (index, hash) = (CommitIndex(self.next.index.0 - 1), self.next.prev_hash.clone());
        let snapshot = SnapshotRef { object: format!("snapshot-{hash}"), bytes: 100, digest: hash.clone(), index, hash };
        self.record_snapshot(&snapshot, older);
        snapshot
    }

    pub fn record_snapshot(&mut self, snapshot: &SnapshotRef, older: Option<SnapshotRef>) {
        self.next.snapshot = Some(self.next.index);
        let decision = Decision::SnapshotTaken { snapshot: snapshot.clone(), older };
        self.commit(Input::Upkeep(Upkeep::SnapshotTaken(snapshot.clone())), vec![decision]);
    }

    /// Records `from` to `to` are archived.
    pub fn archive(&mut self, from: u64, to: u64) {
        let object = format!("segment-{}", self.next.prev_hash);
        let segment = SegmentRef { from: CommitIndex(from), to: CommitIndex(to), until: self.next.now_ms, object, bytes: 100 };
        self.commit(Input::Upkeep(Upkeep::SegmentArchived(segment.clone())), vec![Decision::SegmentArchived { segment }]);
    }

    /// The ended epic is put away.
    pub fn retire(&mut self, id: &str) {
        let view = format!("epic-{}", self.next.prev_hash);
        let retiring = Retiring { epic: epic(id), ended_at: self.next.now_ms, view: view.clone() };
        self.commit(Input::Upkeep(Upkeep::Retire(vec![retiring])), vec![Decision::EpicRetired { epic: epic(id), view }]);
    }

    /// One record with one input, 100 ms later.
    pub fn commit(&mut self, input: Input, decisions: Vec<Decision>) {
        self.commit_all(vec![input], vec![decisions]);
    }

    /// One record.
    pub fn commit_all(&mut self, inputs: Vec<Input>, decisions: Vec<Vec<Decision>>) {
        let mut record = self.next.clone();
        record.now_ms = record.now_ms.after_ms(100);
        record.commit_id = format!("commit-{}", record.index);
        record.seq = EventSeq(record.index.0 * 10);
        (record.inputs, record.decisions) = (inputs, decisions);
        self.append(record);
    }

    /// The record as it is; the next one follows it.
    pub fn append(&mut self, record: Record) {
        let bytes = record.encode();
        self.next.prev_hash = Record::hash(&bytes);
        self.next.index = record.index.next();
        self.next.now_ms = record.now_ms;
        let record = String::from_utf8(bytes).expect("JSON is UTF-8");
        self.lines.push(ExportLine::Record { index: CommitIndex(self.next.index.0 - 1), record });
    }

    /// An attempt for an agent of `node-N` (`node-N-Worker-1`) in life 10, with the next token; not yet in the journal.
    pub fn give(&mut self, id: &str, i: u32, (run, attempt): (u32, u32), to: &str) -> Given {
        self.token += 1;
        let home: String = to.split('-').take(2).collect::<Vec<_>>().join("-");
        let attempt = AttemptRef { epic: epic(id), i, run, attempt };
        Given { attempt, agent: agent(to), node: node(&home), incarnation: Incarnation(10), token: Token(self.token) }
    }

    /// The first attempt of the first run, assigned in a record of its own.
    pub fn assign(&mut self, id: &str, i: u32, to: &str) -> Given {
        let given = self.give(id, i, (1, 1), to);
        self.commit(Input::Tick, vec![given.assigned()]);
        given
    }

    pub fn start(&mut self, given: &Given) {
        self.commit(given.report(AttemptNews::Started { pid: Some(4711) }), vec![given.started()]);
    }

    pub fn claim(&mut self, given: &Given) {
        self.commit(given.report(AttemptNews::Claim), vec![given.claimed()]);
    }

    /// The node reports the end; `also` is decided with it.
    pub fn end(&mut self, given: &Given, outcome: Outcome, next: Next, also: Vec<Decision>) {
        self.commit(given.reports_end(outcome), [vec![given.ended(outcome, next)], also].concat());
    }

    /// Assigned, started, succeeded.
    pub fn run(&mut self, id: &str, i: u32, to: &str, also: Vec<Decision>) {
        let given = self.assign(id, i, to);
        self.start(&given);
        self.end(&given, Outcome::Succeeded, Next::Succeeded, also);
    }

    /// The export, with its closing line.
    pub fn lines(&self) -> Vec<String> {
        let end = ExportLine::End { index: CommitIndex(self.next.index.0 - 1), hash: self.next.prev_hash.clone() };
        self.lines.iter().chain([&end]).map(ExportLine::encode).collect()
    }
}
