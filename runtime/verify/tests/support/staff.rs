//! Journals about who may be given work: agents that come and leave, agents and nodes that an operator holds. Good ones, and ones of
//! which each breaks exactly one law.

use amphi_protocol::ids::{Incarnation, Timestamp};
use amphi_protocol::journal::{CancelCause, Decision, Duty, EpicEnd, Hold, Input, Next, Outcome, Post};
use amphi_verify::Law;
use serde_json::json;

use super::violations::{one_task, over};
use super::{Given, Journal, agent, ended, node, retry, spec, task};

const W1: &str = "node-1-Worker-1";
const W2: &str = "node-1-Worker-2";
const W3: &str = "node-1-Worker-3";

/// Journals in which every law holds.
pub fn good() -> Vec<(&'static str, Journal)> {
    vec![("staff", staff()), ("drained", drained()), ("held-staff", held_staff())]
}

/// The law, what the file is called after it, the journal.
pub fn violations() -> Vec<(Law, &'static str, Journal)> {
    vec![
        (Law::S9, "drain-ends-what-must-not-be-repeated", drain_ends_once()),
        (Law::S14, "wrong-role", wrong_role()),
        (Law::S14, "missing-skill", missing_skill()),
        (Law::S14, "former-life", former_life()),
        (Law::S14, "agent-that-left", agent_that_left()),
        (Law::S14, "dismissed-at-work", dismissed_at_work()),
        (Law::S14, "given-to-a-drained-node", given_to_held(Post::Node(node("node-1")))),
        (Law::S14, "given-to-a-paused-agent", given_to_held(Post::Agent(agent(W1)))),
        (Law::S14, "given-to-who-came-to-a-drained-node", given_to_hired()),
    ]
}

/// An operator's word, with the cancels that follow from it.
fn held(post: &Post, hold: Hold, duty: Duty, also: Vec<Decision>) -> (Input, Vec<Decision>) {
    let by = "local".to_owned();
    let decided = Decision::Held { post: post.clone(), duty, by: by.clone() };
    (Input::Hold { post: post.clone(), hold, by }, std::iter::once(decided).chain(also).collect())
}

fn say(journal: &mut Journal, post: &Post, hold: Hold, duty: Duty) {
    let (input, decisions) = held(post, hold, duty, vec![]);
    journal.commit(input, decisions);
}

/// An agent of a new role comes, works and leaves.
fn staff() -> Journal {
    const LATER: &str = "node-1-Auditor-1";
    let mut journal = Journal::with_workers(1);
    journal.staff(&[(LATER, "Auditor")], &[]);
    journal.submit("staff", spec(vec![task("a", json!({"agent": "Auditor"}))], json!({})), vec![]);
    journal.run("staff", 0, LATER, vec![ended("staff", EpicEnd::Succeeded)]);
    journal.staff(&[], &[LATER]);
    journal
}

/// A node is drained: what has not begun moves at once, what runs when its grace is over, neither counts, and `retry: 0` stays.
fn drained() -> Journal {
    let try_again = |journal: &mut Journal, (i, attempt): (u32, u32), to: &str, (outcome, next): (Outcome, Next)| {
        let given = journal.give("drained", i, (1, attempt), to);
        journal.commit(Input::Tick, vec![given.assigned()]);
        journal.start(&given);
        journal.end(&given, outcome, next, vec![]);
    };
    let mut journal = Journal::with_workers(4);
    journal.join("node-2", 10, 3);
    let tasks = vec![
        task("slow", json!({"retry": retry(2)})),
        task("fresh", json!({"retry": retry(2)})),
        task("once", json!({"retry": retry(1)})),
        task("next", json!({"needs": [0]})),
    ];
    journal.submit("drained", spec(tasks, json!({})), vec![]);
    let slow = journal.assign("drained", 0, W1);
    journal.start(&slow);
    let once = journal.assign("drained", 2, W2);
    journal.claim(&once);
    journal.start(&once);
    let fresh = journal.assign("drained", 1, W3);
    let cancel = |given: &Given| Decision::AttemptCancelling { attempt: given.attempt.clone(), cause: CancelCause::Drain };
    let post = Post::Node(node("node-1"));
    let until = Timestamp(u64::from(u32::MAX));
    let (input, decisions) = held(&post, Hold::Drain { grace_ms: 1 }, Duty::Draining { until }, vec![cancel(&fresh)]);
    journal.commit(input, decisions);
    journal.end(&fresh, Outcome::NotStarted, Next::Retry { at: Timestamp(0) }, vec![]);
    try_again(&mut journal, (1, 2), "node-2-Worker-1", (Outcome::Succeeded, Next::Succeeded));
    journal.commit(Input::Tick, vec![Decision::GraceEnded { post: post.clone() }, cancel(&slow)]);
    journal.end(&slow, Outcome::Cancelled, Next::Retry { at: Timestamp(0) }, vec![]);
    // Both tries that its policy allows are still to come.
    try_again(&mut journal, (0, 2), "node-2-Worker-1", (Outcome::Exit, Next::Retry { at: Timestamp(0) }));
    try_again(&mut journal, (0, 3), "node-2-Worker-2", (Outcome::Succeeded, Next::Succeeded));
    journal.end(&once, Outcome::Succeeded, Next::Succeeded, vec![]);
    let (input, decisions) = held(&post, Hold::Resume, Duty::Active, vec![]);
    journal.commit(input, decisions);
    journal.run("drained", 3, W1, vec![ended("drained", EpicEnd::Succeeded)]);
    journal
}

/// What an operator said of an agent leaves with it; what was said of a node holds for those too that come later.
fn held_staff() -> Journal {
    let until = Timestamp(u64::from(u32::MAX));
    let (drain, draining) = (Hold::Drain { grace_ms: 1 }, Duty::Draining { until });
    let mut journal = Journal::with_workers(1);
    journal.staff(&[(W2, "Worker")], &[]);
    say(&mut journal, &Post::Agent(agent(W2)), drain, draining);
    journal.staff(&[], &[W2]);
    say(&mut journal, &Post::Node(node("node-1")), drain, draining);
    journal.staff(&[(W2, "Worker")], &[]);
    journal.submit("held", spec(vec![task("a", json!({})), task("b", json!({}))], json!({})), vec![]);
    say(&mut journal, &Post::Node(node("node-1")), Hold::Resume, Duty::Active);
    journal.run("held", 0, W2, vec![]);
    journal.run("held", 1, W1, vec![ended("held", EpicEnd::Succeeded)]);
    journal
}

fn drain_ends_once() -> Journal {
    let mut journal = one_task(json!({"retry": retry(1)}));
    let a = journal.assign("e", 0, W1);
    journal.claim(&a);
    journal.start(&a);
    let cancel = Decision::AttemptCancelling { attempt: a.attempt.clone(), cause: CancelCause::Drain };
    let until = Timestamp(0);
    let (input, decisions) = held(&Post::Agent(agent(W1)), Hold::Drain { grace_ms: 0 }, Duty::Draining { until }, vec![cancel]);
    journal.commit(input, decisions);
    journal.end(&a, Outcome::Succeeded, Next::Succeeded, over("e"));
    journal
}

fn given_to_held(post: Post) -> Journal {
    let mut journal = one_task(json!({}));
    let (input, decisions) = held(&post, Hold::Pause, Duty::Paused, vec![]);
    journal.commit(input, decisions);
    journal.run("e", 0, W1, over("e"));
    journal
}

fn given_to_hired() -> Journal {
    let mut journal = one_task(json!({}));
    say(&mut journal, &Post::Node(node("node-1")), Hold::Drain { grace_ms: 1 }, Duty::Draining { until: Timestamp(u64::from(u32::MAX)) });
    journal.staff(&[(W3, "Worker")], &[]);
    journal.run("e", 0, W3, over("e"));
    journal
}

fn agent_that_left() -> Journal {
    let mut journal = one_task(json!({}));
    journal.staff(&[], &[W2]);
    journal.run("e", 0, W2, over("e"));
    journal
}

fn dismissed_at_work() -> Journal {
    let mut journal = one_task(json!({}));
    let a = journal.assign("e", 0, W1);
    journal.start(&a);
    journal.staff(&[], &[W1]);
    journal.end(&a, Outcome::Succeeded, Next::Succeeded, over("e"));
    journal
}

fn wrong_role() -> Journal {
    let mut journal = one_task(json!({"agent": "Wizard"}));
    journal.run("e", 0, W1, over("e"));
    journal
}

fn missing_skill() -> Journal {
    let mut journal = one_task(json!({"skills": ["magic"]}));
    journal.run("e", 0, W1, over("e"));
    journal
}

fn former_life() -> Journal {
    let mut journal = one_task(json!({}));
    let mut a = journal.give("e", 0, (1, 1), W1);
    a.incarnation = Incarnation(9);
    journal.commit(Input::Tick, vec![a.assigned()]);
    journal.commit(Input::Tick, vec![a.ended(Outcome::AgentLost, Next::Failed), ended("e", EpicEnd::Failed)]);
    journal
}
