//! Journals about tasks that operators assigned: good ones, and ones of which each breaks exactly one law.

use amphi_protocol::ids::{Incarnation, Timestamp};
use amphi_protocol::journal::{AgentLife, AgentReport, Decision, EpicEnd, Input, Next, Outcome};
use amphi_verify::Law;
use serde_json::json;

use super::{Journal, agent, ended, epic, node, spec, task};

const W1: &str = "node-1-Worker-1";
const W2: &str = "node-1-Worker-2";

/// Journals in which every law holds.
pub fn good() -> Vec<(&'static str, Journal)> {
    vec![("pinned", pinned()), ("pin-of-a-dead-agent", dead(true))]
}

/// The law, what the file is called after it, the journal.
pub fn violations() -> Vec<(Law, &'static str, Journal)> {
    vec![
        (Law::S14, "given-to-another-than-the-pinned", given_to_another()),
        (Law::S14, "pinned-to-who-cannot-do-it", pinned_wrongly()),
        (Law::L2, "waits-for-a-dead-agent", dead(false)),
    ]
}

fn pin(journal: &mut Journal, i: u32, to: &str) {
    let (by, instances) = ("local".to_owned(), vec![i]);
    let decided = Decision::TaskPinned { epic: epic("e"), instances: instances.clone(), agent: agent(to), by: by.clone() };
    journal.commit(Input::AssignTask { epic: epic("e"), instances, agent: agent(to), by }, vec![decided]);
}

/// A pin outweighs that the agent had the last attempt, and is used up by the next one.
fn pinned() -> Journal {
    let mut journal = Journal::with_workers(2);
    let retry = json!({"attempts": 3, "on": ["exit"], "backoff_ms": 1000, "max_ms": 1000});
    journal.submit("e", spec(vec![task("a", json!({"retry": retry}))], json!({})), vec![]);
    let first = journal.assign("e", 0, W1);
    journal.start(&first);
    journal.end(&first, Outcome::Exit, Next::Retry { at: Timestamp(9_000_000_000_000) }, vec![]);
    pin(&mut journal, 0, W1);
    let back = Decision::BackoffEnded { epic: epic("e"), i: 0 };
    let second = journal.give("e", 0, (1, 2), W1);
    journal.commit(Input::Tick, vec![back.clone(), second.assigned()]);
    journal.start(&second);
    journal.end(&second, Outcome::Exit, Next::Retry { at: Timestamp(9_000_000_000_000) }, vec![]);
    let third = journal.give("e", 0, (1, 3), W2);
    journal.commit(Input::Tick, vec![back, third.assigned()]);
    journal.start(&third);
    journal.end(&third, Outcome::Succeeded, Next::Succeeded, vec![ended("e", EpicEnd::Succeeded)]);
    journal
}

/// The pinned agent is given up; with `dropped` what waits for it goes to another in the same commit.
fn dead(dropped: bool) -> Journal {
    let mut journal = Journal::with_workers(2);
    let tasks = vec![task("a", json!({})), task("b", json!({"needs": [0]}))];
    journal.submit("e", spec(tasks, json!({})), vec![]);
    pin(&mut journal, 1, W2);
    let (state, restarts, cause) = (AgentLife::Quarantined, 5, "it died".to_owned());
    let report =
        AgentReport { node: node("node-1"), incarnation: Incarnation(10), agent: agent(W2), state, restarts, cause: cause.clone() };
    let changed = Decision::AgentChanged { node: node("node-1"), agent: agent(W2), state, restarts, cause };
    let drop = Decision::PinsDropped { agent: agent(W2), cause: "it died too often".to_owned() };
    let also = if dropped { vec![changed, drop] } else { vec![changed] };
    journal.commit(Input::Agent(report), also);
    if !dropped {
        // Too late.
        journal.commit(Input::Tick, vec![Decision::PinsDropped { agent: agent(W2), cause: String::new() }]);
    }
    journal.run("e", 0, W1, vec![]);
    journal.run("e", 1, W1, vec![ended("e", EpicEnd::Succeeded)]);
    journal
}

fn given_to_another() -> Journal {
    let mut journal = Journal::with_workers(2);
    journal.submit("e", spec(vec![task("a", json!({}))], json!({})), vec![]);
    pin(&mut journal, 0, W2);
    journal.run("e", 0, W1, vec![ended("e", EpicEnd::Succeeded)]);
    journal
}

fn pinned_wrongly() -> Journal {
    let mut journal = Journal::with_workers(1);
    journal.staff(&[("node-1-Auditor-1", "Auditor")], &[]);
    journal.submit("e", spec(vec![task("a", json!({"agent": "Auditor"}))], json!({})), vec![]);
    pin(&mut journal, 0, W1);
    journal.commit(Input::Tick, vec![Decision::PinsDropped { agent: agent(W1), cause: String::new() }]);
    journal.run("e", 0, "node-1-Auditor-1", vec![ended("e", EpicEnd::Succeeded)]);
    journal
}
