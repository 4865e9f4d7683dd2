//! Journals about conditions, changes and waits: good ones, and ones of which each breaks exactly one law.

use amphi_protocol::ids::Resource;
use amphi_protocol::journal::{Decision, EpicEnd, Input, Next, Outcome, WaitEnd};
use amphi_verify::Law;
use serde_json::json;

use super::{Given, Journal, ended, epic, retry, spec, task};

const W1: &str = "node-1-Worker-1";
const W2: &str = "node-1-Worker-2";

/// Journals in which every law holds.
pub fn good() -> Vec<(&'static str, Journal)> {
    vec![("expressions", expressions()), ("changes", changes()), ("waits", waits())]
}

/// The law, what the file is called after it, the journal.
pub fn violations() -> Vec<(Law, &'static str, Journal)> {
    vec![
        (Law::S6, "condition-beside-a-failure", condition_beside_a_failure()),
        (Law::S6, "changed-without-a-write", changed_without_a_write()),
        (Law::S6, "change-of-a-change", change_of_a_change()),
        (Law::S6, "waited-before-its-needs", waited_before_its_needs()),
        (Law::S13, "signalled-without-a-message", signalled_without_a_message()),
        (Law::S5, "opened-while-under-way", opened_while_under_way()),
    ]
}

fn expression(text: &str, after_failure: bool) -> serde_json::Value {
    json!({"expression": {"text": text, "after_failure": after_failure}})
}

fn decided(id: &str, task: u32, runs: bool, error: Option<&str>) -> Decision {
    Decision::ConditionDecided { epic: epic(id), task, runs, error: error.map(str::to_owned) }
}

fn changed(id: &str, (i, run): (u32, u32), opened: &[u32], later: &[u32]) -> Decision {
    let resource = Resource::parse("db").expect("a valid resource");
    Decision::ResourceChanged { epic: epic(id), i, run, resource, opened: opened.to_vec(), later: later.to_vec() }
}

/// The rest of an attempt that holds a write lock; `before` and `after` are decided with its end.
fn write(journal: &mut Journal, given: &Given, before: Vec<Decision>, after: Vec<Decision>) {
    journal.claim(given);
    journal.start(given);
    let end = given.ended(Outcome::Succeeded, Next::Succeeded);
    journal.commit(given.reports_end(Outcome::Succeeded), [before, vec![end], after].concat());
}

fn expressions() -> Journal {
    let mut journal = Journal::with_workers(1);
    let tasks = vec![
        task("a", json!({"optional": true, "retry": retry(1)})),
        task("yes", json!({"needs": [0], "condition": expression("tasks.a.state == 'failed'", false)})),
        task("no", json!({"needs": [0], "condition": expression("tasks.a.state == 'skipped'", false)})),
        task("error", json!({"needs": [0], "condition": expression("tasks.a.outputs.x == 1", false)})),
        task("late", json!({"needs": [3], "condition": expression("always() && tasks.a.state == 'failed'", true)})),
        task("never", json!({"needs": [3], "condition": expression("1 == 1", false)})),
    ];
    journal.submit("expressions", spec(tasks, json!({})), vec![]);
    let a = journal.assign("expressions", 0, W1);
    journal.claim(&a);
    journal.start(&a);
    let id = "expressions";
    let conditions = vec![decided(id, 1, true, None), decided(id, 2, false, None), decided(id, 3, false, Some("there is no `x`"))];
    let stopping = Decision::EpicStopping { epic: epic(id), i: 3 };
    journal.end(&a, Outcome::Exit, Next::Failed, [conditions, vec![decided(id, 4, true, None), stopping]].concat());
    journal.run(id, 4, W1, vec![ended(id, EpicEnd::Failed)]);
    journal
}

const WRITES: fn() -> serde_json::Value = || json!({"locks": {"write": ["db"]}});

/// `seed` had ended, `warm` is under way, `late` has not begun when `migrate` writes; `test` waits for both.
fn changes() -> Journal {
    let mut journal = Journal::with_workers(2);
    let tasks = vec![
        task("seed", json!({})),
        task("warm", json!({})),
        task("migrate", WRITES()),
        task("test", json!({"needs": [0, 2]})),
        task("late", json!({"needs": [3]})),
    ];
    let resources = json!({"resources": {"db": {"lease_ms": 300_000, "on_change": [0, 1, 2, 4]}}});
    journal.submit("changes", spec(tasks, resources), vec![]);
    let id = "changes";
    journal.run(id, 0, W1, vec![]);
    let warm = journal.assign(id, 1, W1);
    journal.start(&warm);
    let migrate = journal.assign(id, 2, W2);
    let again = Decision::RunsOpened { epic: epic(id), task: 2 };
    write(&mut journal, &migrate, vec![changed(id, (2, 1), &[0], &[1, 2])], vec![again]);
    // The run that a change opened writes too, and opens nothing.
    let second = journal.give(id, 2, (2, 1), W2);
    journal.commit(Input::Tick, vec![second.assigned()]);
    write(&mut journal, &second, vec![], vec![]);
    let warmer = Decision::RunsOpened { epic: epic(id), task: 1 };
    journal.end(&warm, Outcome::Succeeded, Next::Succeeded, vec![warmer]);
    for (i, run, also) in [(0, 2, vec![]), (1, 2, vec![]), (3, 1, vec![]), (4, 1, vec![ended(id, EpicEnd::Succeeded)])] {
        let given = journal.give(id, i, (run, 1), W1);
        journal.commit(Input::Tick, vec![given.assigned()]);
        journal.start(&given);
        journal.end(&given, Outcome::Succeeded, Next::Succeeded, also);
    }
    journal
}

fn condition_beside_a_failure() -> Journal {
    let mut journal = Journal::with_workers(2);
    let tasks = vec![
        task("a", json!({})),
        task("b", json!({})),
        task("c", json!({"needs": [0, 1], "condition": expression("always()  ", true)})),
        task("d", json!({"needs": [1], "condition": expression("1 == 1", false)})),
    ];
    journal.submit("e", spec(tasks, json!({})), vec![]);
    journal.run("e", 0, W1, vec![]);
    let b = journal.assign("e", 1, W1);
    // Before its need has ended.
    journal.commit(Input::Tick, vec![decided("e", 3, false, None)]);
    journal.start(&b);
    journal.end(&b, Outcome::Succeeded, Next::Succeeded, vec![decided("e", 2, false, None), ended("e", EpicEnd::Succeeded)]);
    journal
}

fn two_tasks(on_change: serde_json::Value) -> Journal {
    let mut journal = Journal::with_workers(2);
    let resources = json!({"resources": {"db": {"lease_ms": 300_000, "on_change": on_change}}});
    journal.submit("e", spec(vec![task("a", json!({})), task("b", WRITES())], resources), vec![]);
    journal
}

fn run_again(journal: &mut Journal, i: u32, also: Vec<Decision>) {
    let given = journal.give("e", i, (2, 1), W2);
    journal.commit(Input::Tick, vec![given.assigned()]);
    journal.start(&given);
    journal.end(&given, Outcome::Succeeded, Next::Succeeded, also);
}

fn changed_without_a_write() -> Journal {
    let mut journal = two_tasks(json!([0, 1]));
    let b = journal.assign("e", 1, W2);
    write(&mut journal, &b, vec![], vec![]);
    let a = journal.assign("e", 0, W1);
    journal.start(&a);
    let both = vec![
        changed("e", (0, 1), &[], &[0]),
        a.ended(Outcome::Succeeded, Next::Succeeded),
        Decision::RunsOpened { epic: epic("e"), task: 0 },
    ];
    journal.commit(a.reports_end(Outcome::Succeeded), both);
    run_again(&mut journal, 0, vec![ended("e", EpicEnd::Succeeded)]);
    journal
}

fn change_of_a_change() -> Journal {
    let mut journal = two_tasks(json!([0, 1]));
    journal.run("e", 0, W1, vec![]);
    let b = journal.assign("e", 1, W2);
    let again = Decision::RunsOpened { epic: epic("e"), task: 1 };
    write(&mut journal, &b, vec![changed("e", (1, 1), &[], &[1])], vec![again]);
    let second = journal.give("e", 1, (2, 1), W2);
    journal.commit(Input::Tick, vec![second.assigned()]);
    write(&mut journal, &second, vec![changed("e", (1, 2), &[0], &[])], vec![]);
    run_again(&mut journal, 0, vec![ended("e", EpicEnd::Succeeded)]);
    journal
}

fn opened_while_under_way() -> Journal {
    let mut journal = two_tasks(json!([0]));
    let a = journal.assign("e", 0, W1);
    journal.start(&a);
    let b = journal.assign("e", 1, W2);
    write(&mut journal, &b, vec![changed("e", (1, 1), &[0], &[])], vec![]);
    journal.end(&a, Outcome::Succeeded, Next::Succeeded, vec![ended("e", EpicEnd::Succeeded)]);
    journal
}

fn wait(name: &str, work: serde_json::Value, extra: serde_json::Value) -> serde_json::Value {
    let mut wait = task(name, extra);
    wait["work"] = json!({ "wait": work });
    wait
}

fn wait_ended(id: &str, i: u32, end: WaitEnd) -> Decision {
    Decision::WaitEnded { epic: epic(id), i, run: 1, end }
}

fn message() -> (Input, WaitEnd) {
    let (subject, data) = ("go.now".to_owned(), json!({"by": "dana"}));
    (Input::Signal { subject: subject.clone(), data: data.clone(), before: None }, WaitEnd::Signalled { subject, data })
}

fn waits() -> Journal {
    let mut journal = Journal::with_workers(1);
    let event = || json!({"event": {"subject": "go.*"}});
    let tasks = vec![
        wait("pause", json!({"duration": {"ms": 100}}), json!({})),
        wait("go", event(), json!({"needs": [0]})),
        wait("late", event(), json!({"timeout_ms": 50, "optional": true})),
        task("after", json!({"needs": [1, 2]})),
    ];
    journal.submit("waits", spec(tasks, json!({})), vec![]);
    journal.commit(Input::Tick, vec![wait_ended("waits", 2, WaitEnd::TimedOut), wait_ended("waits", 0, WaitEnd::Elapsed)]);
    let (input, end) = message();
    journal.commit(input, vec![wait_ended("waits", 1, end)]);
    journal.run("waits", 3, W1, vec![ended("waits", EpicEnd::Succeeded)]);
    journal
}

fn waited_before_its_needs() -> Journal {
    let mut journal = Journal::with_workers(1);
    let tasks = vec![task("a", json!({})), wait("b", json!({"duration": {"ms": 100}}), json!({"needs": [0]}))];
    journal.submit("e", spec(tasks, json!({})), vec![]);
    let a = journal.assign("e", 0, W1);
    journal.start(&a);
    journal.commit(Input::Tick, vec![wait_ended("e", 1, WaitEnd::Elapsed)]);
    journal.end(&a, Outcome::Succeeded, Next::Succeeded, vec![ended("e", EpicEnd::Succeeded)]);
    journal
}

fn signalled_without_a_message() -> Journal {
    let mut journal = Journal::with_workers(1);
    journal.submit("e", spec(vec![wait("a", json!({"event": {"subject": "go.*"}}), json!({}))], json!({})), vec![]);
    journal.commit(Input::Tick, vec![wait_ended("e", 0, message().1), ended("e", EpicEnd::Succeeded)]);
    journal
}
