//! A shard without a world around it: epics from documents, agents by name, reports by hand; it decides nothing.

#![allow(dead_code, reason = "not every history asks for everything")]

use std::collections::BTreeMap;
use std::sync::Arc;

use amphi_coordination::{EventSink, Refusal, State, laws};
use amphi_protocol::document::{Catalog, CompileOptions, Limits, compile};
use amphi_protocol::event::Event;
use amphi_protocol::ids::{AgentId, AttemptRef, CommitIndex, EpicId, Epoch, Incarnation, NodeId, ShardId, SubmitKey, Timestamp, Token};
use amphi_protocol::journal::{AttemptEnd, AttemptNews, AttemptReport, Decision, Input, Outcome, Record, SCHEMA, SpecRef, Submission};
use amphi_verify::{ExportHeader, ExportLine, LawResult, Verdict, check_lines};
use serde_json::{Value, json};

/// An assignment, as the node heard it.
#[derive(Debug, Clone)]
pub struct Given {
    pub attempt: AttemptRef,
    pub agent: AgentId,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub token: Token,
}

impl Given {
    pub fn epic(&self) -> &str {
        self.attempt.epic.as_str()
    }
}

pub struct Stage {
    pub state: State,
    pub now: u64,
    /// Assignments that nobody has ended.
    pub open: Vec<Given>,
    /// Comes with every submission.
    pub admission: Option<amphi_protocol::journal::Admission>,
    sink: EventSink,
    hash: String,
    lines: Vec<String>,
    checked: bool,
}

impl Stage {
    pub fn new() -> Self {
        let header = ExportLine::Header(ExportHeader { shard: ShardId(0), epic: None, state_hash: None, from: None }).encode();
        let mut stage = Self {
            state: State::new(ShardId(0)),
            now: 1_000,
            open: Vec::new(),
            admission: None,
            sink: EventSink::collecting(),
            hash: String::new(),
            lines: vec![header],
            checked: true,
        };
        stage.must(Input::Lead { node: node("node-1") });
        stage
    }

    /// Not every step is checked: for histories whose laws would take longer to check than all the rest.
    pub fn unchecked() -> Self {
        Self { checked: false, ..Self::new() }
    }

    /// Takes an input in, records it, checks the laws.
    pub fn take(&mut self, input: Input) -> Result<Vec<Decision>, Refusal> {
        let seq = self.state.seq;
        let decisions = self.state.decide(Timestamp(self.now), &input, &mut self.sink)?;
        self.state.index = CommitIndex(self.state.index.0 + 1);
        let record = Record {
            schema: SCHEMA,
            shard: ShardId(0),
            index: self.state.index,
            epoch: self.state.epoch,
            now_ms: Timestamp(self.now),
            commit_id: format!("commit-{}", self.state.index),
            prev_hash: self.hash.clone(),
            seq,
            snapshot: self.state.history().marker,
            inputs: vec![input],
            decisions: vec![decisions.clone()],
        };
        let bytes = record.encode();
        self.hash = Record::hash(&bytes);
        let text = String::from_utf8(bytes).expect("records are JSON");
        self.lines.push(ExportLine::Record { index: record.index, record: text }.encode());
        for decision in &decisions {
            match decision {
                Decision::Assigned { attempt, agent, node, incarnation, token } => self.open.push(Given {
                    attempt: attempt.clone(),
                    agent: agent.clone(),
                    node: node.clone(),
                    incarnation: *incarnation,
                    token: *token,
                }),
                Decision::AttemptEnded { attempt, .. } => self.open.retain(|given| given.attempt != *attempt),
                _ => {}
            }
        }
        if self.checked {
            laws::check(&self.state).expect("the laws hold");
        }
        Ok(decisions)
    }

    pub fn must(&mut self, input: Input) -> Vec<Decision> {
        let shown = format!("{input:?}");
        self.take(input).unwrap_or_else(|refusal| panic!("{shown} was refused: {refusal:?}"))
    }

    /// A node whose agents are named `<node>-<role>-<number>`, and have their role's name as their skill.
    pub fn join(&mut self, name: &str, life: u64, capacity: u32, roles: &[(&str, u32)]) {
        let agents = roles.iter().flat_map(|(role, count)| {
            (1..=*count)
                .map(move |number| json!({ "agent": format!("{name}-{role}-{number}"), "role": role, "skills": [role.to_lowercase()] }))
        });
        let agents: Vec<Value> = agents.collect();
        let info = json!({ "node": name, "incarnation": life, "pid": 1, "capacity": capacity, "agents": agents });
        let info = serde_json::from_value(info).expect("it is a node with its agents");
        self.must(Input::Join(info));
    }

    /// Agents, with their roles, come to a node in its life, and others leave it.
    pub fn staff(&mut self, name: &str, life: u64, added: &[(&str, &str)], removed: &[&str]) {
        let added: Vec<Value> = added.iter().map(|(id, role)| json!({ "agent": id, "role": role, "skills": [] })).collect();
        let report = json!({ "node": name, "incarnation": life, "added": added, "removed": removed, "cause": "queue" });
        self.must(Input::Staff(serde_json::from_value(report).expect("it is a report on staff")));
    }

    /// Submits a document under its name.
    pub fn submit(&mut self, document: Value) -> EpicId {
        let epic = EpicId::parse(document["name"].as_str().expect("a document has a name")).expect("the name is an epic id");
        let shown = document.to_string();
        self.offer(document).unwrap_or_else(|refusal| panic!("{shown} was refused: {refusal:?}"));
        epic
    }

    /// The same, whatever the answer is.
    pub fn offer(&mut self, document: Value) -> Result<Vec<Decision>, Refusal> {
        let epic = EpicId::parse(document["name"].as_str().expect("a document has a name")).expect("the name is an epic id");
        let options = CompileOptions { catalog: Catalog::default(), limits: Limits::default(), ..CompileOptions::default() };
        let compiled = compile(&document.to_string(), &options);
        let spec = compiled.spec.unwrap_or_else(|| panic!("{document} has problems: {:?}", compiled.problems));
        let project = spec.project.clone();
        let (spec, _) = SpecRef::new(Arc::new(spec));
        let key = SubmitKey::parse(epic.as_str()).expect("it is a key");
        let submission =
            Submission { admission: self.admission, epic, key, body_hash: spec.hash.clone(), by: "test".to_owned(), project, spec };
        self.take(Input::Submit(submission))
    }

    pub fn report(&mut self, given: &Given, what: AttemptNews) -> Result<Vec<Decision>, Refusal> {
        self.take(Input::Attempt(AttemptReport {
            node: given.node.clone(),
            incarnation: given.incarnation,
            attempt: given.attempt.clone(),
            token: given.token,
            what,
        }))
    }

    /// The attempt begins, with a claim if it needs one.
    pub fn start(&mut self, given: &Given) {
        if self.state.epic(&given.attempt.epic).expect("its epic is there").needs_claim(given.attempt.i) {
            self.report(given, AttemptNews::Claim).expect("a claim is taken");
        }
        self.report(given, AttemptNews::Started { pid: Some(1) }).expect("a start is taken");
    }

    pub fn end(&mut self, given: &Given, outcome: Outcome) -> Vec<Decision> {
        let end = AttemptEnd { outcome, exit_code: None, error: None, outputs: BTreeMap::new(), artifacts: Vec::new() };
        self.report(given, AttemptNews::Ended(end)).expect("an end is taken")
    }

    /// The oldest open attempt runs from its beginning to its good end; what it was.
    pub fn serve(&mut self) -> Given {
        let given = self.open.first().expect("somebody has something to do").clone();
        self.start(&given);
        self.end(&given, Outcome::Succeeded);
        given
    }

    /// The open attempt of a task.
    pub fn given(&self, epic: &EpicId, task: &str) -> Given {
        let found = self.open.iter().find(|given| given.attempt.epic == *epic && self.key(given) == task);
        found.unwrap_or_else(|| panic!("{epic}/{task} is with nobody: {:?}", self.state.task(epic, task))).clone()
    }

    pub fn key(&self, given: &Given) -> String {
        self.state.epic(&given.attempt.epic).expect("its epic is there").key(given.attempt.i)
    }

    /// The events since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        self.sink.take()
    }

    pub fn verdict(&self) -> Verdict {
        check_lines(&self.lines, None).expect("it is a journal")
    }

    /// The checker finds no law broken, and a replay gives the same state.
    pub fn holds(&self) {
        let verdict = self.verdict();
        let violated: Vec<String> = verdict
            .laws
            .iter()
            .filter(|law| law.result == LawResult::Violated)
            .map(|law| format!("{} at {:?}", law.law.as_str(), law.evidence))
            .collect();
        assert!(violated.is_empty(), "the checker says: {}", violated.join(", "));
        let mut replayed = State::new(ShardId(0));
        for line in &self.lines[1..] {
            let Ok(ExportLine::Record { record, .. }) = ExportLine::decode(line) else { panic!("{line} is a record") };
            let record = Record::decode(record.as_bytes()).expect("it is a record");
            replayed.apply(&record, &mut EventSink::counting()).expect("it continues the journal");
        }
        assert_eq!(replayed.digest(), self.state.digest(), "a replay gives the same state");
        assert_eq!(self.state.epoch, Epoch(1));
    }
}

pub fn node(name: &str) -> NodeId {
    NodeId::parse(name).expect("the node id is valid")
}

pub fn agent(name: &str) -> AgentId {
    AgentId::parse(name).expect("the agent id is valid")
}
