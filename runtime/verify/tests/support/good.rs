//! Journals in which every law holds. Together they bring about every situation that a journal can show.

use amphi_protocol::ids::{AttemptRef, Incarnation, IncidentId, Timestamp};
use amphi_protocol::journal::{
    AgentLife, AgentReport, AttemptNews, CancelCause, Decision, EpicEnd, IncidentKind, Input, Next, Outcome, Resolution, Upkeep,
};
use serde_json::json;

use super::{Journal, agent, ended, epic, node, node_info, retry, spec, task};

const W1: &str = "node-1-Worker-1";
const W2: &str = "node-1-Worker-2";

/// All of them, by the name of their file.
pub fn all() -> Vec<(&'static str, Journal)> {
    vec![
        ("phases", phases()),
        ("matrix", matrix()),
        ("retry", retried()),
        ("locks", locks()),
        ("cancel", cancel()),
        ("failure-always", failure_always()),
        ("undo", undo()),
        ("cancel-undo", cancel_undo()),
        ("paused", paused()),
        ("skipped", skipped()),
        ("node-loss", node_loss()),
        ("claim", claim()),
        ("unknown-outcome", unknown_outcome((1, 2))),
        ("unknown-outcome-new-run", unknown_outcome((2, 1))),
        ("reopened", reopened()),
        ("fail-fast", fail_fast()),
        ("large-specification", large_specification()),
        ("new-leader", new_leader()),
        ("unserved-request", unserved_request()),
        ("upkeep", upkeep()),
    ]
    .into_iter()
    .chain(super::flow::good())
    .chain(super::nested::good())
    .chain(super::staff::good())
    .chain(super::globs::good())
    .chain(super::pins::good())
    .chain(super::outside::good())
    .chain(super::effects::good())
    .collect()
}

/// Snapshots, archived stretches, an epic that is put away, history that is over.
fn upkeep() -> Journal {
    let mut journal = Journal::with_workers(1);
    journal.submit("first", spec(vec![task("a", json!({}))], json!({})), vec![]);
    journal.run("first", 0, W1, vec![ended("first", EpicEnd::Succeeded)]);
    let one = journal.snapshot(None);
    journal.submit("second", spec(vec![task("a", json!({}))], json!({})), vec![]);
    let two = journal.snapshot(Some(one.clone()));
    journal.archive(1, one.index.0 - 1);
    journal.archive(one.index.0, one.index.0);
    journal.retire("first");
    journal.run("second", 0, W1, vec![ended("second", EpicEnd::Succeeded)]);
    journal.snapshot(Some(two));
    let from = one.index.next();
    journal.commit(Input::Upkeep(Upkeep::HistoryOver { from }), vec![Decision::HistoryOver { from }]);
    journal
}

fn phases() -> Journal {
    let mut journal = Journal::with_workers(2);
    let tasks = vec![
        task("a", json!({"phase": 0})),
        task("b", json!({"phase": 0, "optional": true})),
        task("c", json!({"phase": 1})),
        task("d", json!({"phase": 1, "needs": []})),
        task("e", json!({"phase": 1, "needs": [2, 3]})),
    ];
    journal.submit("phases", spec(tasks, json!({"phases": ["first", "second"]})), vec![]);
    let d = journal.assign("phases", 3, W1);
    journal.start(&d);
    journal.run("phases", 0, W2, vec![]);
    let b = journal.assign("phases", 1, W2);
    journal.start(&b);
    journal.end(&b, Outcome::Exit, Next::Failed, vec![]);
    journal.run("phases", 2, W2, vec![]);
    journal.end(&d, Outcome::Succeeded, Next::Succeeded, vec![]);
    journal.run("phases", 4, W1, vec![ended("phases", EpicEnd::Succeeded)]);
    journal
}

fn matrix() -> Journal {
    let mut journal = Journal::with_workers(2);
    let axes = json!([{"axis": "i", "values": ["1", "2"]}, {"axis": "j", "values": ["a", "b"]}]);
    let exclude = json!([{"i": "2", "j": "b"}]);
    let build = task("build", json!({"matrix": axes, "exclude": exclude, "max_parallel": 2, "locks": {"write": ["out/${{ matrix.i }}"]}}));
    journal.submit("matrix", spec(vec![build, task("after", json!({"needs": [0]}))], json!({})), vec![]);
    let first = journal.assign("matrix", 0, W1);
    let third = journal.assign("matrix", 2, W2);
    for given in [&first, &third] {
        journal.claim(given);
        journal.start(given);
    }
    let second = journal.give("matrix", 1, (1, 1), W1);
    journal.end(&first, Outcome::Succeeded, Next::Succeeded, vec![second.assigned()]);
    journal.end(&third, Outcome::Succeeded, Next::Succeeded, vec![]);
    journal.claim(&second);
    journal.start(&second);
    let after = journal.give("matrix", 3, (1, 1), W2);
    journal.end(&second, Outcome::Succeeded, Next::Succeeded, vec![after.assigned()]);
    journal.start(&after);
    journal.end(&after, Outcome::Succeeded, Next::Succeeded, vec![ended("matrix", EpicEnd::Succeeded)]);
    journal
}

fn retried() -> Journal {
    let mut journal = Journal::with_workers(2);
    journal.submit("retry", spec(vec![task("a", json!({"retry": retry(3)}))], json!({})), vec![]);
    let first = journal.assign("retry", 0, W1);
    journal.start(&first);
    let at = journal.next.now_ms.after_ms(1_000);
    journal.end(&first, Outcome::Exit, Next::Retry { at }, vec![]);
    journal.next.now_ms = at;
    let second = journal.give("retry", 0, (1, 2), W2);
    journal.commit(Input::Tick, vec![Decision::BackoffEnded { epic: epic("retry"), i: 0 }, second.assigned()]);
    journal.start(&second);
    // The other agent dies, so that going back to the first is right.
    let down = AgentReport {
        node: node("node-1"),
        incarnation: Incarnation(10),
        agent: agent(W1),
        state: AgentLife::Down,
        restarts: 1,
        cause: "panic".into(),
    };
    let changed = Decision::AgentChanged {
        node: down.node.clone(),
        agent: down.agent.clone(),
        state: down.state,
        restarts: 1,
        cause: down.cause.clone(),
    };
    journal.commit(Input::Agent(down), vec![changed]);
    let third = journal.give("retry", 0, (1, 3), W2);
    journal.end(&second, Outcome::Exit, Next::Retry { at: Timestamp(0) }, vec![third.assigned()]);
    journal.start(&third);
    journal.end(&third, Outcome::Succeeded, Next::Succeeded, vec![ended("retry", EpicEnd::Succeeded)]);
    journal
}

fn locks() -> Journal {
    let mut journal = Journal::with_workers(3);
    let tasks = vec![
        task("reader_1", json!({"locks": {"read": ["db"]}})),
        task("reader_2", json!({"locks": {"read": ["db"]}})),
        task("writer", json!({"locks": {"write": ["db"]}})),
    ];
    journal.submit("locks", spec(tasks, json!({})), vec![]);
    // The same name means another thing in another project.
    let elsewhere = spec(vec![task("writer", json!({"locks": {"write": ["db"]}}))], json!({"project": "other"}));
    journal.submit("elsewhere", elsewhere, vec![]);
    let one = journal.assign("locks", 0, W1);
    let two = journal.assign("locks", 1, W2);
    let other = journal.assign("elsewhere", 0, "node-1-Worker-3");
    journal.claim(&other);
    for given in [&one, &two, &other] {
        journal.start(given);
    }
    journal.submit("late", spec(vec![task("reader", json!({"locks": {"read": ["db"]}}))], json!({})), vec![]);
    journal.end(&other, Outcome::Succeeded, Next::Succeeded, vec![ended("elsewhere", EpicEnd::Succeeded)]);
    journal.end(&one, Outcome::Succeeded, Next::Succeeded, vec![]);
    let writer = journal.give("locks", 2, (1, 1), W1);
    journal.end(&two, Outcome::Succeeded, Next::Succeeded, vec![writer.assigned()]);
    journal.claim(&writer);
    journal.start(&writer);
    let reader = journal.give("late", 0, (1, 1), W2);
    journal.end(&writer, Outcome::Succeeded, Next::Succeeded, vec![ended("locks", EpicEnd::Succeeded), reader.assigned()]);
    journal.start(&reader);
    journal.end(&reader, Outcome::Succeeded, Next::Succeeded, vec![ended("late", EpicEnd::Succeeded)]);
    journal
}

fn cancel() -> Journal {
    let mut journal = Journal::with_workers(1);
    let tasks = vec![
        task("a", json!({})),
        task("b", json!({"needs": [0]})),
        task("c", json!({"locks": {"write": ["x"]}})),
        task("d", json!({"needs": [1], "condition": "always"})),
    ];
    journal.submit("cancel", spec(tasks, json!({})), vec![]);
    let a = journal.assign("cancel", 0, W1);
    journal.start(&a);
    let by = "local".to_owned();
    let cancelling = Decision::EpicCancelling { epic: epic("cancel"), by: by.clone(), undo: false };
    let stop = Decision::AttemptCancelling { attempt: a.attempt.clone(), cause: CancelCause::Request };
    journal.commit(Input::CancelEpic { epic: epic("cancel"), by, undo: false }, vec![cancelling, stop]);
    journal.end(&a, Outcome::Cancelled, Next::Cancelled, vec![ended("cancel", EpicEnd::Cancelled)]);
    journal
}

fn failure_always() -> Journal {
    let mut journal = Journal::with_workers(2);
    let tasks = vec![
        task("build", json!({"retry": retry(1)})),
        task("test", json!({"needs": [0]})),
        task("other", json!({"needs": [1]})),
        task("report", json!({"needs": [2], "condition": "always"})),
        task("undo", json!({"needs": [0], "condition": "failure"})),
        task("cheer", json!({"needs": [3], "condition": "failure"})),
    ];
    journal.submit("failing", spec(tasks, json!({})), vec![]);
    let build = journal.assign("failing", 0, W1);
    journal.claim(&build);
    journal.start(&build);
    let decided = |task, runs| Decision::ConditionDecided { epic: epic("failing"), task, runs, error: None };
    let stopping = Decision::EpicStopping { epic: epic("failing"), i: 0 };
    journal.end(&build, Outcome::Exit, Next::Failed, vec![stopping, decided(3, true), decided(4, true)]);
    let undo = journal.assign("failing", 4, W1);
    journal.start(&undo);
    let report = journal.assign("failing", 3, W2);
    journal.start(&report);
    journal.end(&undo, Outcome::Succeeded, Next::Succeeded, vec![]);
    journal.end(&report, Outcome::Succeeded, Next::Succeeded, vec![decided(5, false), ended("failing", EpicEnd::Failed)]);
    journal
}

/// A task fails, and what succeeded before it is undone, the last first; the first undo needs a second try, the last one fails.
fn undo() -> Journal {
    let mut journal = Journal::with_workers(2);
    let tasks = vec![
        task(
            "migrate",
            json!({"locks": {"write": ["db"]}, "undo": task("migrate", json!({"locks": {"write": ["db"]}, "retry": retry(1)}))}),
        ),
        task("quiet", json!({})),
        task("start", json!({"needs": [0], "undo": task("start", json!({"retry": retry(2)}))})),
        task("smoke", json!({"needs": [2], "retry": retry(1)})),
        task("report", json!({"needs": [3], "condition": "always"})),
        task("verify", json!({"needs": [3]})),
    ];
    journal.submit("undo", spec(tasks, json!({"on_failure": "undo"})), vec![]);
    let migrate = journal.assign("undo", 0, W1);
    journal.claim(&migrate);
    journal.start(&migrate);
    journal.end(&migrate, Outcome::Succeeded, Next::Succeeded, vec![]);
    journal.run("undo", 2, W2, vec![]);
    journal.run("undo", 1, W1, vec![]);
    let smoke = journal.assign("undo", 3, W1);
    journal.claim(&smoke);
    journal.start(&smoke);
    let stopping = Decision::EpicStopping { epic: epic("undo"), i: 3 };
    let decided = Decision::ConditionDecided { epic: epic("undo"), task: 4, runs: true, error: None };
    journal.end(&smoke, Outcome::Exit, Next::Failed, vec![stopping, decided]);
    let report = journal.assign("undo", 4, W1);
    journal.start(&report);
    let begin = |i, run| Decision::UndoStarted { epic: epic("undo"), i, run };
    let first = journal.give("undo", 2, (2, 1), W1);
    journal.end(&report, Outcome::Succeeded, Next::Succeeded, vec![begin(2, 2), first.assigned()]);
    journal.start(&first);
    let second = journal.give("undo", 2, (2, 2), W2);
    journal.end(&first, Outcome::Exit, Next::Retry { at: Timestamp(0) }, vec![second.assigned()]);
    journal.start(&second);
    let last = journal.give("undo", 0, (2, 1), W1);
    journal.end(&second, Outcome::Succeeded, Next::Succeeded, vec![begin(0, 2), last.assigned()]);
    journal.claim(&last);
    journal.start(&last);
    let told = undo_failed("inc-0-1", &last.attempt);
    journal.end(&last, Outcome::Exit, Next::Failed, vec![told, ended("undo", EpicEnd::Failed)]);
    journal
}

pub fn undo_failed(incident: &str, attempt: &AttemptRef) -> Decision {
    Decision::IncidentOpened {
        incident: IncidentId::parse(incident).expect("the scenes use valid ids"),
        attempt: attempt.clone(),
        summary: "the undo failed".to_owned(),
        kind: IncidentKind::UndoFailed,
    }
}

/// Cancelled with undo; the undo's outcome is unknown, a person says that it never began, and it is done in a new run. Then the epic is
/// taken up again.
fn cancel_undo() -> Journal {
    let mut journal = Journal::with_workers(1);
    let tasks = vec![
        task("a", json!({"undo": task("a", json!({"retry": retry(1)}))})),
        task("b", json!({"needs": [0], "undo": task("b", json!({}))})),
    ];
    journal.submit("back", spec(tasks, json!({})), vec![]);
    journal.run("back", 0, W1, vec![]);
    let b = journal.assign("back", 1, W1);
    journal.start(&b);
    let by = "local".to_owned();
    let cancelling = Decision::EpicCancelling { epic: epic("back"), by: by.clone(), undo: true };
    let stop = Decision::AttemptCancelling { attempt: b.attempt.clone(), cause: CancelCause::Request };
    journal.commit(Input::CancelEpic { epic: epic("back"), by: by.clone(), undo: true }, vec![cancelling, stop]);
    let first = journal.give("back", 0, (2, 1), W1);
    let begin = Decision::UndoStarted { epic: epic("back"), i: 0, run: 2 };
    journal.end(&b, Outcome::Cancelled, Next::Cancelled, vec![begin, first.assigned()]);
    journal.claim(&first);
    let incident = IncidentId::parse("inc-0-1").expect("the scenes use valid ids");
    let asked = Decision::IncidentOpened {
        incident: incident.clone(),
        attempt: first.attempt.clone(),
        summary: "the undo of a may have run".to_owned(),
        kind: IncidentKind::UnknownOutcome,
    };
    journal.end(&first, Outcome::AgentLost, Next::Unknown, vec![asked]);
    let second = journal.give("back", 0, (3, 1), W1);
    let resolution = Resolution::NotStarted;
    let resolved = Decision::IncidentResolved { incident: incident.clone(), resolution, by: by.clone() };
    journal.commit(Input::ResolveIncident { incident, resolution, by: by.clone() }, vec![resolved, second.assigned()]);
    journal.claim(&second);
    journal.start(&second);
    journal.end(&second, Outcome::Succeeded, Next::Succeeded, vec![ended("back", EpicEnd::Cancelled)]);
    let again = Decision::Reopened { epic: epic("back"), instances: vec![0, 1], by: by.clone() };
    let third = journal.give("back", 0, (4, 1), W1);
    journal.commit(Input::RetryTask { epic: epic("back"), instances: vec![1], by }, vec![again, third.assigned()]);
    journal.start(&third);
    let last = journal.give("back", 1, (2, 1), W1);
    journal.end(&third, Outcome::Succeeded, Next::Succeeded, vec![last.assigned()]);
    journal.start(&last);
    journal.end(&last, Outcome::Succeeded, Next::Succeeded, vec![ended("back", EpicEnd::Succeeded)]);
    journal
}

pub fn pause(journal: &mut Journal, id: &str) {
    let by = "local".to_owned();
    journal.commit(Input::PauseEpic { epic: epic(id), by: by.clone() }, vec![Decision::EpicPaused { epic: epic(id), by }]);
}

pub fn resume(journal: &mut Journal, id: &str, also: Vec<Decision>) {
    let by = "local".to_owned();
    let resumed = Decision::EpicResumed { epic: epic(id), by: by.clone() };
    journal.commit(Input::ResumeEpic { epic: epic(id), by }, [vec![resumed], also].concat());
}

/// While an epic is paused what runs goes on, and its waiting request holds up nobody.
fn paused() -> Journal {
    let mut journal = Journal::with_workers(2);
    let tasks = vec![task("a", json!({"locks": {"write": ["db"]}})), task("b", json!({"locks": {"write": ["db"]}}))];
    journal.submit("first", spec(tasks, json!({})), vec![]);
    let a = journal.assign("first", 0, W1);
    journal.claim(&a);
    journal.start(&a);
    pause(&mut journal, "first");
    journal.submit("second", spec(vec![task("c", json!({"locks": {"write": ["db"]}}))], json!({})), vec![]);
    let c = journal.give("second", 0, (1, 1), W2);
    journal.end(&a, Outcome::Succeeded, Next::Succeeded, vec![c.assigned()]);
    journal.claim(&c);
    journal.start(&c);
    journal.end(&c, Outcome::Succeeded, Next::Succeeded, vec![ended("second", EpicEnd::Succeeded)]);
    let b = journal.give("first", 1, (1, 1), W1);
    resume(&mut journal, "first", vec![b.assigned()]);
    journal.claim(&b);
    journal.start(&b);
    journal.end(&b, Outcome::Succeeded, Next::Succeeded, vec![ended("first", EpicEnd::Succeeded)]);
    journal
}

/// One task is left out before it starts, a failed one afterwards.
fn skipped() -> Journal {
    let mut journal = Journal::with_workers(1);
    let tasks = vec![task("a", json!({})), task("b", json!({"needs": [0], "retry": retry(2)})), task("c", json!({"needs": [1]}))];
    journal.submit("skip", spec(tasks, json!({})), vec![]);
    let by = "local".to_owned();
    let skip = |i| Decision::InstancesSkipped { epic: epic("skip"), instances: vec![i], by: "local".to_owned() };
    let b = journal.give("skip", 1, (1, 1), W1);
    journal.commit(Input::SkipTask { epic: epic("skip"), instances: vec![0], by: by.clone() }, vec![skip(0), b.assigned()]);
    journal.start(&b);
    let stopping = Decision::EpicStopping { epic: epic("skip"), i: 1 };
    journal.end(&b, Outcome::Exit, Next::Failed, vec![stopping, ended("skip", EpicEnd::Failed)]);
    let open = Decision::Reopened { epic: epic("skip"), instances: vec![1, 2], by: by.clone() };
    let c = journal.give("skip", 2, (2, 1), W1);
    journal.commit(Input::SkipTask { epic: epic("skip"), instances: vec![1], by }, vec![open, skip(1), c.assigned()]);
    journal.start(&c);
    journal.end(&c, Outcome::Succeeded, Next::Succeeded, vec![ended("skip", EpicEnd::Succeeded)]);
    journal
}

fn node_loss() -> Journal {
    let mut journal = Journal::with_workers(2);
    journal.join("node-2", 10, 1);
    let tasks = vec![task("a", json!({"locks": {"write": ["db"]}})), task("b", json!({})), task("c", json!({}))];
    journal.submit("loss", spec(tasks, json!({})), vec![]);
    let a = journal.assign("loss", 0, W1);
    let b = journal.assign("loss", 1, W2);
    journal.claim(&a);
    journal.start(&a);
    journal.start(&b);
    // The node comes back in a new life: what it had ends with the same commit.
    let info = node_info("node-1", 11, 2, &[("Worker", &[]), ("Worker", &[])]);
    let mut again = journal.give("loss", 0, (1, 2), "node-2-Worker-1");
    let retry = Next::Retry { at: Timestamp(0) };
    let lost =
        vec![Decision::NodeJoined(info.clone()), a.ended(Outcome::AgentLost, retry), b.ended(Outcome::AgentLost, retry), again.assigned()];
    journal.commit(Input::Join(info), lost);
    journal.claim(&again);
    journal.start(&again);
    // And then the other one is gone for good.
    let gone = Input::LoseNode { node: node("node-2"), incarnation: Incarnation(10), cause: "silent".into() };
    let decision = Decision::NodeLost { node: node("node-2"), incarnation: Incarnation(10), cause: "silent".into() };
    journal.commit(gone, vec![decision, again.ended(Outcome::AgentLost, retry)]);
    for (i, attempt, ends) in [(0, 3, vec![]), (1, 2, vec![]), (2, 1, vec![ended("loss", EpicEnd::Succeeded)])] {
        again = journal.give("loss", i, (1, attempt), W1);
        again.incarnation = Incarnation(11);
        journal.commit(Input::Tick, vec![again.assigned()]);
        if i == 0 {
            journal.claim(&again);
        }
        journal.start(&again);
        journal.end(&again, Outcome::Succeeded, Next::Succeeded, ends);
    }
    journal
}

fn claim() -> Journal {
    let mut journal = Journal::with_workers(2);
    journal.submit("claim", spec(vec![task("once", json!({"retry": retry(1)}))], json!({})), vec![]);
    // Lost before its start was confirmed: it may go to another agent.
    let first = journal.assign("claim", 0, W1);
    let second = journal.give("claim", 0, (1, 2), W2);
    journal.end(&first, Outcome::NotStarted, Next::Retry { at: Timestamp(0) }, vec![second.assigned()]);
    journal.claim(&second);
    journal.start(&second);
    let progress = AttemptNews::Progress { percent: Some(50), message: Some("half".into()) };
    let progressed = Decision::Progressed { attempt: second.attempt.clone(), percent: Some(50), message: Some("half".into()) };
    journal.commit(second.report(progress), vec![progressed]);
    journal.end(&second, Outcome::Succeeded, Next::Succeeded, vec![ended("claim", EpicEnd::Succeeded)]);
    journal
}

/// The outcome of `attempt` is unknown and somebody is asked.
pub fn asked(name: &str, attempt: &AttemptRef) -> Decision {
    let incident = IncidentId::parse(name).expect("the scenes use valid ids");
    Decision::IncidentOpened { incident, attempt: attempt.clone(), summary: "nobody knows".into(), kind: IncidentKind::UnknownOutcome }
}

/// A person says that it never began: the run goes on, or a new one takes its place; `then` is the attempt that follows.
fn unknown_outcome(then: (u32, u32)) -> Journal {
    let mut journal = Journal::with_workers(2);
    let tasks = vec![task("once", json!({"retry": retry(1)})), task("after", json!({"needs": [0]}))];
    journal.submit("unknown", spec(tasks, json!({})), vec![]);
    let answer = |resolution| {
        let (incident, by) = (IncidentId::parse("i-1").expect("a valid id"), "local".to_owned());
        let decision = Decision::IncidentResolved { incident: incident.clone(), resolution, by: by.clone() };
        (Input::ResolveIncident { incident, resolution, by }, decision)
    };
    for (attempt, to, resolution) in [((1, 1), W1, Resolution::NotStarted), (then, W2, Resolution::Succeeded)] {
        let once = journal.give("unknown", 0, attempt, to);
        journal.commit(Input::Tick, vec![once.assigned()]);
        journal.claim(&once);
        journal.start(&once);
        journal.end(&once, Outcome::AgentLost, Next::Unknown, vec![asked("i-1", &once.attempt)]);
        let (input, decision) = answer(resolution);
        journal.commit(input, vec![decision]);
    }
    journal.run("unknown", 1, W1, vec![ended("unknown", EpicEnd::Succeeded)]);
    journal
}

fn reopened() -> Journal {
    let mut journal = Journal::with_workers(1);
    let tasks = vec![task("a", json!({})), task("b", json!({"needs": [0]})), task("c", json!({"needs": [1], "condition": "always"}))];
    journal.submit("again", spec(tasks, json!({})), vec![]);
    let a = journal.assign("again", 0, W1);
    journal.start(&a);
    let stopping = Decision::EpicStopping { epic: epic("again"), i: 0 };
    let decided = |runs| Decision::ConditionDecided { epic: epic("again"), task: 2, runs, error: None };
    journal.end(&a, Outcome::Exit, Next::Failed, vec![stopping, decided(true)]);
    journal.run("again", 2, W1, vec![ended("again", EpicEnd::Failed)]);
    let by = "local".to_owned();
    let open = Decision::Reopened { epic: epic("again"), instances: vec![0, 1, 2], by: by.clone() };
    journal.commit(Input::RetryTask { epic: epic("again"), instances: vec![0], by }, vec![open]);
    for (i, also) in [(0, vec![]), (1, vec![decided(true)]), (2, vec![ended("again", EpicEnd::Succeeded)])] {
        let given = journal.give("again", i, (2, 1), W1);
        journal.commit(Input::Tick, vec![given.assigned()]);
        journal.start(&given);
        journal.end(&given, Outcome::Succeeded, Next::Succeeded, also);
    }
    journal
}

fn fail_fast() -> Journal {
    let mut journal = Journal::with_workers(1);
    let axes = json!([{"axis": "i", "values": ["1", "2", "3"]}]);
    journal.submit("fast", spec(vec![task("a", json!({"matrix": axes, "fail_fast": true}))], json!({})), vec![]);
    let first = journal.assign("fast", 0, W1);
    journal.start(&first);
    let others = Decision::InstancesCancelled { epic: epic("fast"), instances: vec![1, 2], cause: CancelCause::FailFast };
    let stopping = Decision::EpicStopping { epic: epic("fast"), i: 0 };
    journal.end(&first, Outcome::Exit, Next::Failed, vec![others, stopping, ended("fast", EpicEnd::Failed)]);
    journal
}

fn large_specification() -> Journal {
    let mut journal = Journal::with_workers(1);
    journal.submit_by_reference("large", spec(vec![task("a", json!({"title": "large"}))], json!({"title": "not in the record"})));
    journal.run("large", 0, W1, vec![ended("large", EpicEnd::Succeeded)]);
    journal
}

fn new_leader() -> Journal {
    let mut journal = Journal::with_workers(1);
    journal.submit("led", spec(vec![task("a", json!({}))], json!({})), vec![]);
    let a = journal.assign("led", 0, W1);
    journal.lead();
    // One commit takes in several inputs.
    let inputs = vec![a.report(AttemptNews::Started { pid: None }), a.reports_end(Outcome::Succeeded)];
    let decisions = vec![vec![a.started()], vec![a.ended(Outcome::Succeeded, Next::Succeeded), ended("led", EpicEnd::Succeeded)]];
    journal.commit_all(inputs, decisions);
    journal
}

fn unserved_request() -> Journal {
    let mut journal = Journal::with_workers(1);
    // Nobody has the role of the first, so the second does not wait for it; the third epic is about other files of the same name.
    let lock = json!({"agent": "Wizard", "locks": {"write": ["file/a"]}});
    let folder = |path: &str| json!({"workspace": {"path": path}});
    journal.submit("first", spec(vec![task("a", lock)], folder("/srv/one")), vec![]);
    journal.submit("second", spec(vec![task("a", json!({"locks": {"write": ["file/a"]}}))], folder("/srv/one")), vec![]);
    journal.submit("third", spec(vec![task("a", json!({"locks": {"write": ["file/a"]}}))], folder("/srv/two")), vec![]);
    for id in ["second", "third"] {
        let given = journal.assign(id, 0, W1);
        journal.claim(&given);
        journal.start(&given);
        journal.end(&given, Outcome::Succeeded, Next::Succeeded, vec![ended(id, EpicEnd::Succeeded)]);
    }
    journal
}
