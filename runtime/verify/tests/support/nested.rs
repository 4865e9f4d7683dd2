//! Journals about tasks that are epics themselves: good ones, and ones of which each breaks exactly one law.

use std::sync::Arc;

use amphi_protocol::document::{EpicSpec, RetryCause};
use amphi_protocol::journal::{CancelCause, ChildEnd, Decision, EpicEnd, Input, Next, Outcome};
use amphi_verify::Law;
use serde_json::{Value, json};

use super::{Journal, ended, epic, spec, task};

const W1: &str = "node-1-Worker-1";

/// Those in which every law holds.
pub fn good() -> Vec<(&'static str, Journal)> {
    vec![("sub-epics", sub_epics()), ("sub-epic-cancelled", cancelled()), ("sub-epic-late", late()), ("sub-epic-undone", undone())]
}

/// Those with a violation.
pub fn violations() -> Vec<(Law, &'static str, Journal)> {
    vec![
        (Law::S6, "opened-before-its-needs", opened_before_its_needs()),
        (Law::S4, "opened-twice-in-a-run", opened_twice()),
        (Law::S13, "opened-under-a-known-id", opened_under_a_known_id()),
        (Law::S6, "ended-before-its-sub-epic", ended_before_its_child()),
        (Law::S5, "succeeded-although-its-sub-epic-failed", succeeded_although_it_failed()),
        (Law::L2, "its-sub-epic-ended-and-it-did-not", ended_unheard()),
        (Law::L2, "cancelled-without-its-sub-epic", cancelled_without_its_child()),
        (Law::S5, "sub-epic-retried-by-itself", retried_by_itself()),
    ]
}

fn sub(name: &str, spec: &Arc<EpicSpec>, extra: Value) -> Value {
    let mut sub = task(name, extra);
    let undo = spec.tasks.iter().any(|task| task.undo.is_some());
    sub["work"] = json!({ "epic": { "specs": [**spec], "undo": undo } });
    sub
}

/// `before`, then `part` with one task of its own, then `after`.
fn around(inner: Value) -> Journal {
    let mut journal = Journal::with_workers(1);
    let child = spec(vec![inner], json!({}));
    let tasks = vec![task("before", json!({})), sub("part", &child, json!({"needs": [0]})), task("after", json!({"needs": [1]}))];
    journal.submit("e", spec(tasks, json!({})), vec![]);
    journal
}

fn opened(id: &str, i: u32, run: u32, child: &str) -> Decision {
    Decision::ChildStarted { epic: epic(id), i, run, child: epic(child) }
}

fn over(id: &str, i: u32, run: u32, child: &str, end: ChildEnd) -> Decision {
    Decision::ChildEnded { epic: epic(id), i, run, child: epic(child), end }
}

fn failed(cause: RetryCause) -> ChildEnd {
    ChildEnd::Failed { cause, error: "a failed".to_owned() }
}

fn sub_epics() -> Journal {
    let mut journal = around(task("a", json!({})));
    journal.run("e", 0, W1, vec![opened("e", 1, 1, "part-1")]);
    let first = journal.assign("part-1", 0, W1);
    journal.start(&first);
    let stopping = |id: &str, i| Decision::EpicStopping { epic: epic(id), i };
    let also = vec![
        stopping("part-1", 0),
        ended("part-1", EpicEnd::Failed),
        over("e", 1, 1, "part-1", failed(RetryCause::Exit)),
        stopping("e", 1),
        ended("e", EpicEnd::Failed),
    ];
    journal.end(&first, Outcome::Exit, Next::Failed, also);
    // A new run of the task opens a new epic.
    let by = "local".to_owned();
    let reopened = Decision::Reopened { epic: epic("e"), instances: vec![1, 2], by: by.clone() };
    journal.commit(Input::RetryTask { epic: epic("e"), instances: vec![1], by }, vec![reopened, opened("e", 1, 2, "part-2")]);
    journal.run("part-2", 0, W1, vec![ended("part-2", EpicEnd::Succeeded), over("e", 1, 2, "part-2", ChildEnd::Succeeded)]);
    let after = journal.give("e", 2, (2, 1), W1);
    journal.commit(Input::Tick, vec![after.assigned()]);
    journal.start(&after);
    journal.end(&after, Outcome::Succeeded, Next::Succeeded, vec![ended("e", EpicEnd::Succeeded)]);
    journal
}

fn cancelling(id: &str, undo: bool) -> Decision {
    Decision::EpicCancelling { epic: epic(id), by: "local".to_owned(), undo }
}

fn cancelled() -> Journal {
    let mut journal = around(task("a", json!({})));
    journal.run("e", 0, W1, vec![opened("e", 1, 1, "part")]);
    let a = journal.assign("part", 0, W1);
    journal.start(&a);
    let stop = Decision::AttemptCancelling { attempt: a.attempt.clone(), cause: CancelCause::Request };
    let child = Decision::ChildCancelling { epic: epic("e"), i: 1, run: 1, cause: CancelCause::Request };
    let input = Input::CancelEpic { epic: epic("e"), by: "local".to_owned(), undo: false };
    journal.commit(input, vec![cancelling("e", false), child, cancelling("part", false), stop]);
    let also = vec![ended("part", EpicEnd::Cancelled), over("e", 1, 1, "part", ChildEnd::Cancelled), ended("e", EpicEnd::Cancelled)];
    journal.end(&a, Outcome::Cancelled, Next::Cancelled, also);
    journal
}

fn late() -> Journal {
    let mut journal = Journal::with_workers(1);
    let child = spec(vec![task("a", json!({}))], json!({}));
    journal.submit("e", spec(vec![sub("part", &child, json!({"timeout_ms": 50}))], json!({})), vec![opened("e", 0, 1, "part")]);
    let child = Decision::ChildCancelling { epic: epic("e"), i: 0, run: 1, cause: CancelCause::Timeout };
    let decisions = vec![
        child,
        cancelling("part", false),
        ended("part", EpicEnd::Cancelled),
        over("e", 0, 1, "part", failed(RetryCause::Timeout)),
        Decision::EpicStopping { epic: epic("e"), i: 0 },
        ended("e", EpicEnd::Failed),
    ];
    journal.commit(Input::Tick, decisions);
    journal
}

/// `after` fails, so what `part` did is taken back, inside the epic that did it.
fn undone() -> Journal {
    let mut journal = Journal::with_workers(1);
    let child = spec(vec![task("a", json!({"undo": task("a", json!({}))}))], json!({}));
    let tasks = vec![sub("part", &child, json!({})), task("after", json!({"needs": [0]}))];
    journal.submit("e", spec(tasks, json!({"on_failure": "undo"})), vec![opened("e", 0, 1, "part")]);
    journal.run("part", 0, W1, vec![ended("part", EpicEnd::Succeeded), over("e", 0, 1, "part", ChildEnd::Succeeded)]);
    let after = journal.assign("e", 1, W1);
    journal.start(&after);
    let also = vec![
        Decision::EpicStopping { epic: epic("e"), i: 1 },
        Decision::UndoStarted { epic: epic("e"), i: 0, run: 2 },
        Decision::ChildUndoing { epic: epic("e"), i: 0, run: 2, child: epic("part") },
        Decision::UndoStarted { epic: epic("part"), i: 0, run: 2 },
    ];
    journal.end(&after, Outcome::Exit, Next::Failed, also);
    let undo = journal.give("part", 0, (2, 1), W1);
    journal.commit(Input::Tick, vec![undo.assigned()]);
    journal.start(&undo);
    let also = vec![ended("part", EpicEnd::Cancelled), over("e", 0, 2, "part", ChildEnd::Succeeded), ended("e", EpicEnd::Failed)];
    journal.end(&undo, Outcome::Succeeded, Next::Succeeded, also);
    journal
}

fn opened_before_its_needs() -> Journal {
    let mut journal = around(task("a", json!({})));
    let before = journal.assign("e", 0, W1);
    journal.start(&before);
    journal.commit(Input::Tick, vec![opened("e", 1, 1, "part")]);
    journal.end(&before, Outcome::Succeeded, Next::Succeeded, vec![]);
    finish(&mut journal);
    journal
}

fn finish(journal: &mut Journal) {
    journal.run("part", 0, W1, vec![ended("part", EpicEnd::Succeeded), over("e", 1, 1, "part", ChildEnd::Succeeded)]);
    journal.run("e", 2, W1, vec![ended("e", EpicEnd::Succeeded)]);
}

fn opened_twice() -> Journal {
    let mut journal = around(task("a", json!({})));
    journal.run("e", 0, W1, vec![opened("e", 1, 1, "part")]);
    journal.commit(Input::Tick, vec![opened("e", 1, 1, "other")]);
    finish(&mut journal);
    journal
}

fn opened_under_a_known_id() -> Journal {
    let mut journal = around(task("a", json!({})));
    journal.submit("known", spec(vec![task("a", json!({}))], json!({})), vec![]);
    journal.run("known", 0, W1, vec![ended("known", EpicEnd::Succeeded)]);
    journal.run("e", 0, W1, vec![opened("e", 1, 1, "known")]);
    journal
}

fn ended_before_its_child() -> Journal {
    let mut journal = around(task("a", json!({})));
    journal.run("e", 0, W1, vec![opened("e", 1, 1, "part")]);
    journal.commit(Input::Tick, vec![over("e", 1, 1, "part", ChildEnd::Succeeded)]);
    journal.run("part", 0, W1, vec![ended("part", EpicEnd::Succeeded)]);
    journal.run("e", 2, W1, vec![ended("e", EpicEnd::Succeeded)]);
    journal
}

fn succeeded_although_it_failed() -> Journal {
    let mut journal = around(task("a", json!({})));
    journal.run("e", 0, W1, vec![opened("e", 1, 1, "part")]);
    let a = journal.assign("part", 0, W1);
    journal.start(&a);
    let stopping = Decision::EpicStopping { epic: epic("part"), i: 0 };
    let also = vec![stopping, ended("part", EpicEnd::Failed), over("e", 1, 1, "part", ChildEnd::Succeeded)];
    journal.end(&a, Outcome::Exit, Next::Failed, also);
    journal.run("e", 2, W1, vec![ended("e", EpicEnd::Succeeded)]);
    journal
}

fn ended_unheard() -> Journal {
    let mut journal = around(task("a", json!({})));
    journal.run("e", 0, W1, vec![opened("e", 1, 1, "part")]);
    journal.run("part", 0, W1, vec![ended("part", EpicEnd::Succeeded)]);
    journal
}

fn cancelled_without_its_child() -> Journal {
    let mut journal = around(task("a", json!({})));
    journal.run("e", 0, W1, vec![opened("e", 1, 1, "part")]);
    let instances = vec![1];
    let gone = Decision::InstancesCancelled { epic: epic("e"), instances: instances.clone(), cause: CancelCause::Request };
    let also = vec![gone, Decision::EpicStopping { epic: epic("e"), i: 1 }, ended("e", EpicEnd::Failed)];
    journal.commit(Input::CancelTask { epic: epic("e"), instances, by: "local".to_owned() }, also);
    journal
}

fn retried_by_itself() -> Journal {
    let mut journal = around(task("a", json!({})));
    journal.run("e", 0, W1, vec![opened("e", 1, 1, "part")]);
    journal.run("part", 0, W1, vec![ended("part", EpicEnd::Succeeded), over("e", 1, 1, "part", ChildEnd::Succeeded)]);
    journal.run("e", 2, W1, vec![ended("e", EpicEnd::Succeeded)]);
    let by = "local".to_owned();
    let reopened = Decision::Reopened { epic: epic("part"), instances: vec![0], by: by.clone() };
    journal.commit(Input::RetryEpic { epic: epic("part"), from: vec![0], by }, vec![reopened]);
    let again = journal.give("part", 0, (2, 1), W1);
    journal.commit(Input::Tick, vec![again.assigned()]);
    journal.start(&again);
    journal.end(&again, Outcome::Succeeded, Next::Succeeded, vec![ended("part", EpicEnd::Succeeded)]);
    journal
}
