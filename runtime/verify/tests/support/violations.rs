//! Journals of which each breaks exactly one law.

use amphi_protocol::ids::{CommitIndex, EpicId, Epoch, Incarnation, Timestamp, Token};
use amphi_protocol::journal::{AttemptNews, AttemptReport, CancelCause, Decision, EpicEnd, Input, Next, Outcome, SpecRef};
use amphi_verify::Law;
use serde_json::json;

use super::{Journal, ended, epic, node, node_info, retry, spec, submission, task};

const W1: &str = "node-1-Worker-1";
const W2: &str = "node-1-Worker-2";

/// All of them: the law, what the file is called after it, the journal.
pub fn all() -> Vec<(Law, &'static str, Journal)> {
    vec![
        (Law::S1, "accepted-without-submission", accepted_without_submission()),
        (Law::S1, "never-accepted", never_accepted()),
        (Law::S2, "older-epoch-after-newer", older_epoch()),
        (Law::S2, "epoch-without-start", epoch_without_start()),
        (Law::S3, "broken-hash-chain", broken_chain()),
        (Law::S3, "time-goes-back", time_goes_back()),
        (Law::S3, "missing-position", missing_position()),
        (Law::S3, "snapshot-of-another-record", snapshot_of_another_record()),
        (Law::S3, "gap-in-the-archive", gap_in_the_archive()),
        (Law::S3, "archived-what-recovery-needs", archived_too_much()),
        (Law::S3, "points-to-another-snapshot", points_elsewhere()),
        (Law::S4, "two-open-attempts", two_open_attempts()),
        (Law::S5, "ended-twice", ended_twice()),
        (Law::S5, "assigned-after-end", assigned_after_end()),
        (Law::S5, "assigned-after-cancel", assigned_after_cancel()),
        (Law::S6, "needs-not-met", needs_not_met()),
        (Law::S5, "undone-without-having-succeeded", undone_without_success()),
        (Law::S5, "skipped-after-its-end", skipped_after_its_end()),
        (Law::S6, "started-while-paused", started_while_paused()),
        (Law::S6, "undone-out-of-order", undone_out_of_order()),
        (Law::S6, "undone-while-a-task-runs", undone_while_a_task_runs()),
        (Law::S6, "undone-though-nobody-wants-it", undone_unwanted()),
        (Law::S6, "condition-before-its-time", condition_before_its_time()),
        (Law::S7, "two-writers", two_writers()),
        (Law::S7, "reader-beside-writer-of-another-epic", reader_beside_writer()),
        (Law::S7, "writer-without-claim", writer_without_claim()),
        (Law::S8, "token-does-not-grow", token_does_not_grow()),
        (Law::S8, "report-under-old-token", report_under_old_token()),
        (Law::S8, "end-under-other-token", end_under_other_token()),
        (Law::S9, "started-twice", started_twice()),
        (Law::S9, "started-without-claim", started_without_claim()),
        (Law::S10, "locks-kept-after-loss", locks_kept_after_loss()),
        (Law::S10, "cancelled-with-its-locks", cancelled_with_its_locks()),
        (Law::S11, "overtaken", overtaken()),
        (Law::S11, "reader-overtakes-waiting-writer", reader_overtakes_writer()),
        (Law::S12, "same-agent-again", same_agent_again()),
        (Law::S13, "same-key-twice", same_key_twice()),
        (Law::S13, "same-report-twice", same_report_twice()),
        (Law::S13, "result-without-report", result_without_report()),
        (Law::S15, "report-of-another-node", report_of_another_node()),
        (Law::S15, "report-of-a-former-life", report_of_a_former_life()),
        (Law::S18, "cycle", cycle()),
        (Law::L2, "ended-too-early", ended_too_early()),
        (Law::L2, "put-away-before-its-end", put_away_early()),
        (Law::L2, "unknown-and-nobody-asked", nobody_asked()),
        (Law::L2, "ended-before-its-undo", ended_before_its_undo()),
        (Law::L2, "undo-failed-and-nobody-told", undo_failed_untold()),
        (Law::L7, "retried-beyond-policy", retried_beyond_policy()),
    ]
    .into_iter()
    .chain(super::flow::violations())
    .chain(super::nested::violations())
    .chain(super::staff::violations())
    .chain(super::globs::violations())
    .chain(super::pins::violations())
    .chain(super::outside::violations())
    .chain(super::effects::violations())
    .collect()
}

fn snapshot_of_another_record() -> Journal {
    let mut journal = one_task(json!({}));
    let mut snapshot = journal.snapshot(None);
    journal.run("e", 0, W1, vec![ended("e", EpicEnd::Succeeded)]);
    let older = snapshot.clone();
    snapshot.index = snapshot.index.next();
    journal.record_snapshot(&snapshot, Some(older));
    journal
}

fn with_snapshots() -> Journal {
    let mut journal = one_task(json!({}));
    let older = journal.snapshot(None);
    journal.run("e", 0, W1, vec![ended("e", EpicEnd::Succeeded)]);
    journal.snapshot(Some(older));
    journal
}

fn gap_in_the_archive() -> Journal {
    let mut journal = with_snapshots();
    journal.archive(2, 3);
    journal
}

fn archived_too_much() -> Journal {
    let mut journal = with_snapshots();
    journal.archive(1, 5);
    journal
}

fn points_elsewhere() -> Journal {
    let mut journal = with_snapshots();
    journal.next.snapshot = Some(CommitIndex(1));
    journal.join("node-2", 10, 1);
    journal
}

fn put_away_early() -> Journal {
    let mut journal = one_task(json!({}));
    journal.retire("e");
    journal
}

/// One task `a` in an epic `e`, two workers.
pub fn one_task(extra: serde_json::Value) -> Journal {
    let mut journal = Journal::with_workers(2);
    journal.submit("e", spec(vec![task("a", extra)], json!({})), vec![]);
    journal
}

pub fn over(id: &str) -> Vec<Decision> {
    vec![ended(id, EpicEnd::Succeeded)]
}

fn accepted_without_submission() -> Journal {
    let mut journal = Journal::with_workers(1);
    let spec = spec(vec![task("a", json!({}))], json!({}));
    let project = spec.project.clone();
    let (_, accepted) = submission("e", "e", &SpecRef::new(spec).0, &project);
    journal.commit(Input::Tick, vec![accepted]);
    journal.run("e", 0, W1, over("e"));
    journal
}

fn never_accepted() -> Journal {
    let mut journal = Journal::with_workers(1);
    journal.run("e", 0, W1, over("e"));
    journal
}

fn older_epoch() -> Journal {
    let mut journal = one_task(json!({}));
    journal.lead();
    let a = journal.assign("e", 0, W1);
    journal.next.epoch = Epoch(1);
    journal.start(&a);
    journal.next.epoch = Epoch(2);
    journal.end(&a, Outcome::Succeeded, Next::Succeeded, over("e"));
    journal
}

fn epoch_without_start() -> Journal {
    let mut journal = one_task(json!({}));
    journal.next.epoch = Epoch(2);
    journal.run("e", 0, W1, over("e"));
    journal
}

fn broken_chain() -> Journal {
    let mut journal = one_task(json!({}));
    journal.next.prev_hash = "00".repeat(32);
    journal.run("e", 0, W1, over("e"));
    journal
}

fn time_goes_back() -> Journal {
    let mut journal = one_task(json!({}));
    journal.next.now_ms = Timestamp(1_700_000_000_000);
    journal.run("e", 0, W1, over("e"));
    journal
}

fn missing_position() -> Journal {
    let mut journal = one_task(json!({}));
    journal.next.index = CommitIndex(journal.next.index.0 + 1);
    journal.run("e", 0, W1, over("e"));
    journal
}

fn two_open_attempts() -> Journal {
    let mut journal = one_task(json!({}));
    let first = journal.assign("e", 0, W1);
    journal.start(&first);
    let second = journal.give("e", 0, (1, 2), W2);
    journal.commit(Input::Tick, vec![second.assigned()]);
    journal.start(&second);
    journal.end(&second, Outcome::Succeeded, Next::Succeeded, over("e"));
    journal
}

fn ended_twice() -> Journal {
    let mut journal = one_task(json!({}));
    let a = journal.assign("e", 0, W1);
    journal.start(&a);
    journal.end(&a, Outcome::Succeeded, Next::Succeeded, vec![]);
    journal.commit(Input::Tick, [vec![a.ended(Outcome::AgentLost, Next::Failed)], over("e")].concat());
    journal
}

fn assigned_after_end() -> Journal {
    let mut journal = one_task(json!({}));
    journal.run("e", 0, W1, vec![]);
    let again = journal.give("e", 0, (1, 2), W2);
    journal.commit(Input::Tick, [vec![again.assigned()], over("e")].concat());
    journal
}

fn assigned_after_cancel() -> Journal {
    let mut journal = one_task(json!({}));
    let by = "local".to_owned();
    let cancelling = Decision::EpicCancelling { epic: epic("e"), by: by.clone(), undo: false };
    journal.commit(Input::CancelEpic { epic: epic("e"), by, undo: false }, vec![cancelling]);
    let a = journal.give("e", 0, (1, 1), W1);
    journal.commit(Input::Tick, vec![a.assigned(), ended("e", EpicEnd::Cancelled)]);
    journal
}

fn needs_not_met() -> Journal {
    let mut journal = Journal::with_workers(2);
    journal.submit("e", spec(vec![task("a", json!({})), task("b", json!({"needs": [0]}))], json!({})), vec![]);
    let a = journal.assign("e", 0, W1);
    let b = journal.assign("e", 1, W2);
    journal.start(&a);
    journal.start(&b);
    journal.end(&a, Outcome::Succeeded, Next::Succeeded, vec![]);
    journal.end(&b, Outcome::Succeeded, Next::Succeeded, over("e"));
    journal
}

fn condition_before_its_time() -> Journal {
    let mut journal = Journal::with_workers(2);
    let tasks = vec![task("a", json!({})), task("b", json!({"needs": [0], "condition": "always"}))];
    journal.submit("e", spec(tasks, json!({})), vec![]);
    let a = journal.assign("e", 0, W1);
    journal.commit(Input::Tick, vec![Decision::ConditionDecided { epic: epic("e"), task: 1, runs: true, error: None }]);
    journal.start(&a);
    journal.end(&a, Outcome::Succeeded, Next::Succeeded, vec![]);
    journal.run("e", 1, W1, over("e"));
    journal
}

fn two_writers() -> Journal {
    let mut journal = Journal::with_workers(2);
    let writer = |name| task(name, json!({"locks": {"write": ["db"]}}));
    journal.submit("e", spec(vec![writer("a"), writer("b")], json!({})), vec![]);
    let both = [journal.assign("e", 0, W1), journal.assign("e", 1, W2)];
    for given in &both {
        journal.claim(given);
        journal.start(given);
    }
    journal.end(&both[0], Outcome::Succeeded, Next::Succeeded, vec![]);
    journal.end(&both[1], Outcome::Succeeded, Next::Succeeded, over("e"));
    journal
}

fn reader_beside_writer() -> Journal {
    let mut journal = Journal::with_workers(2);
    let shop = json!({"workspace": {"path": "/srv/shop"}});
    journal.submit("e", spec(vec![task("a", json!({"locks": {"write": ["file/x"]}}))], shop.clone()), vec![]);
    journal.submit("f", spec(vec![task("a", json!({"locks": {"read": ["file/x"]}}))], shop), vec![]);
    let writer = journal.assign("e", 0, W1);
    journal.claim(&writer);
    journal.start(&writer);
    journal.run("f", 0, W2, over("f"));
    journal.end(&writer, Outcome::Succeeded, Next::Succeeded, over("e"));
    journal
}

fn writer_without_claim() -> Journal {
    let mut journal = one_task(json!({"locks": {"write": ["db"]}}));
    journal.run("e", 0, W1, over("e"));
    journal
}

fn token_does_not_grow() -> Journal {
    let mut journal = Journal::with_workers(2);
    journal.submit("e", spec(vec![task("a", json!({})), task("b", json!({}))], json!({})), vec![]);
    let a = journal.assign("e", 0, W1);
    let mut b = journal.give("e", 1, (1, 1), W2);
    b.token = a.token;
    journal.commit(Input::Tick, vec![b.assigned()]);
    journal.end(&a, Outcome::Succeeded, Next::Succeeded, vec![]);
    journal.end(&b, Outcome::Succeeded, Next::Succeeded, over("e"));
    journal
}

fn report_under_old_token() -> Journal {
    let mut journal = one_task(json!({}));
    let a = journal.assign("e", 0, W1);
    let mut stale = a.clone();
    stale.token = Token(0);
    let decisions = [vec![a.ended(Outcome::Succeeded, Next::Succeeded)], over("e")].concat();
    journal.commit(stale.reports_end(Outcome::Succeeded), decisions);
    journal
}

fn end_under_other_token() -> Journal {
    let mut journal = one_task(json!({}));
    let a = journal.assign("e", 0, W1);
    let mut other = a.clone();
    other.token = Token(77);
    journal.commit(a.reports_end(Outcome::Succeeded), [vec![other.ended(Outcome::Succeeded, Next::Succeeded)], over("e")].concat());
    journal
}

fn started_twice() -> Journal {
    let mut journal = one_task(json!({"retry": retry(1)}));
    let first = journal.assign("e", 0, W1);
    journal.claim(&first);
    journal.start(&first);
    let second = journal.give("e", 0, (1, 2), W2);
    journal.end(&first, Outcome::AgentLost, Next::Retry { at: Timestamp(0) }, vec![second.assigned()]);
    journal.claim(&second);
    journal.start(&second);
    journal.end(&second, Outcome::Succeeded, Next::Succeeded, over("e"));
    journal
}

fn started_without_claim() -> Journal {
    let mut journal = one_task(json!({"retry": retry(1)}));
    journal.run("e", 0, W1, over("e"));
    journal
}

fn locks_kept_after_loss() -> Journal {
    let mut journal = one_task(json!({"locks": {"write": ["db"]}}));
    let a = journal.assign("e", 0, W1);
    journal.claim(&a);
    journal.start(&a);
    let info = node_info("node-1", 11, 2, &[("Worker", &[]), ("Worker", &[])]);
    journal.commit(Input::Join(info.clone()), vec![Decision::NodeJoined(info)]);
    journal.commit(Input::Tick, vec![a.ended(Outcome::AgentLost, Next::Retry { at: Timestamp(0) })]);
    let mut again = journal.give("e", 0, (1, 2), W2);
    again.incarnation = Incarnation(11);
    journal.commit(Input::Tick, vec![again.assigned()]);
    journal.claim(&again);
    journal.start(&again);
    journal.end(&again, Outcome::Succeeded, Next::Succeeded, over("e"));
    journal
}

fn cancelled_with_its_locks() -> Journal {
    let mut journal = one_task(json!({"locks": {"write": ["db"]}}));
    let a = journal.assign("e", 0, W1);
    journal.claim(&a);
    journal.start(&a);
    let (instances, by) = (vec![0], "local".to_owned());
    let cancelled = Decision::InstancesCancelled { epic: epic("e"), instances: instances.clone(), cause: CancelCause::Request };
    let request = Input::CancelTask { epic: epic("e"), instances, by };
    journal.commit(request, vec![cancelled, ended("e", EpicEnd::Cancelled)]);
    journal
}

fn overtaken() -> Journal {
    let mut journal = Journal::with_workers(2);
    let writer = spec(vec![task("a", json!({"locks": {"write": ["db"]}}))], json!({}));
    for id in ["e", "f"] {
        journal.submit(id, writer.clone(), vec![]);
    }
    for id in ["f", "e"] {
        let given = journal.assign(id, 0, W1);
        journal.claim(&given);
        journal.start(&given);
        journal.end(&given, Outcome::Succeeded, Next::Succeeded, over(id));
    }
    journal
}

fn reader_overtakes_writer() -> Journal {
    let mut journal = Journal::with_workers(2);
    let reader = spec(vec![task("a", json!({"locks": {"read": ["db"]}}))], json!({}));
    journal.submit("e", reader.clone(), vec![]);
    let first = journal.assign("e", 0, W1);
    journal.start(&first);
    journal.submit("f", spec(vec![task("a", json!({"locks": {"write": ["db"]}}))], json!({})), vec![]);
    journal.submit("g", reader, vec![]);
    journal.run("g", 0, W2, over("g"));
    journal.end(&first, Outcome::Succeeded, Next::Succeeded, over("e"));
    let writer = journal.assign("f", 0, W2);
    journal.claim(&writer);
    journal.start(&writer);
    journal.end(&writer, Outcome::Succeeded, Next::Succeeded, over("f"));
    journal
}

fn same_agent_again() -> Journal {
    let mut journal = one_task(json!({}));
    let first = journal.assign("e", 0, W1);
    journal.start(&first);
    let second = journal.give("e", 0, (1, 2), W1);
    journal.end(&first, Outcome::Exit, Next::Retry { at: Timestamp(0) }, vec![second.assigned()]);
    journal.start(&second);
    journal.end(&second, Outcome::Succeeded, Next::Succeeded, over("e"));
    journal
}

fn same_key_twice() -> Journal {
    let mut journal = one_task(json!({}));
    journal.run("e", 0, W1, over("e"));
    let spec = spec(vec![task("a", json!({}))], json!({}));
    let project = spec.project.clone();
    let (input, accepted) = submission("f", "e", &SpecRef::new(spec).0, &project);
    journal.commit(input, vec![accepted]);
    journal.run("f", 0, W1, over("f"));
    journal
}

fn same_report_twice() -> Journal {
    let mut journal = one_task(json!({}));
    let a = journal.assign("e", 0, W1);
    journal.start(&a);
    journal.end(&a, Outcome::Succeeded, Next::Succeeded, vec![]);
    journal.end(&a, Outcome::Succeeded, Next::Succeeded, over("e"));
    journal
}

fn result_without_report() -> Journal {
    let mut journal = one_task(json!({}));
    let a = journal.assign("e", 0, W1);
    journal.start(&a);
    journal.commit(Input::Tick, [vec![a.ended(Outcome::Succeeded, Next::Succeeded)], over("e")].concat());
    journal
}

fn report_of_another_node() -> Journal {
    let mut journal = one_task(json!({}));
    journal.join("node-2", 10, 1);
    let a = journal.assign("e", 0, W1);
    journal.start(&a);
    let mut stranger = a.clone();
    stranger.node = node("node-2");
    let decisions = [vec![a.ended(Outcome::Succeeded, Next::Succeeded)], over("e")].concat();
    journal.commit(stranger.reports_end(Outcome::Succeeded), decisions);
    journal
}

fn report_of_a_former_life() -> Journal {
    let mut journal = one_task(json!({}));
    let a = journal.assign("e", 0, W1);
    let info = node_info("node-1", 11, 2, &[("Worker", &[]), ("Worker", &[])]);
    let lost = a.ended(Outcome::AgentLost, Next::Retry { at: Timestamp(0) });
    journal.commit(Input::Join(info.clone()), vec![Decision::NodeJoined(info), lost]);
    let late = AttemptReport {
        node: a.node.clone(),
        incarnation: a.incarnation,
        attempt: a.attempt.clone(),
        token: a.token,
        what: AttemptNews::Started { pid: Some(4711) },
    };
    journal.commit(Input::Attempt(late), vec![a.started()]);
    let mut again = journal.give("e", 0, (1, 2), W2);
    again.incarnation = Incarnation(11);
    journal.commit(Input::Tick, vec![again.assigned()]);
    journal.start(&again);
    journal.end(&again, Outcome::Succeeded, Next::Succeeded, over("e"));
    journal
}

fn cycle() -> Journal {
    let mut journal = Journal::with_workers(1);
    // The first waits for a task of the phase that waits for it.
    let tasks = vec![task("a", json!({"phase": 0, "needs": [1]})), task("b", json!({"phase": 1}))];
    journal.submit("e", spec(tasks, json!({"phases": ["first", "second"]})), vec![]);
    journal
}

fn ended_too_early() -> Journal {
    let mut journal = Journal::with_workers(1);
    journal.submit("e", spec(vec![task("a", json!({})), task("b", json!({}))], json!({})), vec![]);
    journal.run("e", 0, W1, over("e"));
    journal
}

fn nobody_asked() -> Journal {
    let mut journal = one_task(json!({"retry": retry(1)}));
    let a = journal.assign("e", 0, W1);
    journal.claim(&a);
    journal.start(&a);
    journal.end(&a, Outcome::AgentLost, Next::Unknown, vec![]);
    journal
}

fn retried_beyond_policy() -> Journal {
    let mut journal = one_task(json!({"retry": retry(2)}));
    let mut given = journal.assign("e", 0, W1);
    for (attempt, to) in [(2, W2), (3, W1)] {
        journal.start(&given);
        let again = journal.give("e", 0, (1, attempt), to);
        journal.end(&given, Outcome::Exit, Next::Retry { at: Timestamp(0) }, vec![again.assigned()]);
        given = again;
    }
    journal.start(&given);
    journal.end(&given, Outcome::Succeeded, Next::Succeeded, over("e"));
    journal
}

/// The epic that most scenes are about.
pub fn focus() -> EpicId {
    epic("e")
}

/// `a`, `b` and `c` one after the other in an epic `e` that undoes; the first two can be undone and have succeeded, `c` runs.
fn undoing(on_failure: &str) -> (Journal, super::Given) {
    let mut journal = Journal::with_workers(2);
    let undo = |name| json!({"undo": task(name, json!({"retry": retry(1)}))});
    let mut tasks = vec![task("a", undo("a")), task("b", undo("b")), task("c", json!({"retry": retry(2)}))];
    (tasks[1]["needs"], tasks[2]["needs"]) = (json!([0]), json!([1]));
    journal.submit("e", spec(tasks, json!({"on_failure": on_failure})), vec![]);
    journal.run("e", 0, W1, vec![]);
    journal.run("e", 1, W1, vec![]);
    let c = journal.assign("e", 2, W1);
    journal.start(&c);
    (journal, c)
}

fn begin_undo(i: u32) -> Decision {
    Decision::UndoStarted { epic: epic("e"), i, run: 2 }
}

fn stopping() -> Decision {
    Decision::EpicStopping { epic: epic("e"), i: 2 }
}

/// Does the undos of these instances, and ends.
fn undo_all(journal: &mut Journal, order: &[u32], end: EpicEnd) {
    for (position, i) in order.iter().enumerate() {
        let undo = journal.give("e", *i, (2, 1), W1);
        journal.commit(Input::Tick, vec![undo.assigned()]);
        journal.claim(&undo);
        journal.start(&undo);
        let next = order.get(position + 1).map_or(ended("e", end), |next| begin_undo(*next));
        journal.end(&undo, Outcome::Succeeded, Next::Succeeded, vec![next]);
    }
}

fn undone_without_success() -> Journal {
    let (mut journal, c) = undoing("undo");
    journal.end(&c, Outcome::Exit, Next::Failed, vec![stopping(), begin_undo(2), begin_undo(1)]);
    undo_all(&mut journal, &[1, 0], EpicEnd::Failed);
    journal
}

fn undone_out_of_order() -> Journal {
    let (mut journal, c) = undoing("undo");
    journal.end(&c, Outcome::Exit, Next::Failed, vec![stopping(), begin_undo(0)]);
    undo_all(&mut journal, &[0, 1], EpicEnd::Failed);
    journal
}

fn undone_while_a_task_runs() -> Journal {
    let (mut journal, c) = undoing("undo");
    let by = "local".to_owned();
    let cancelling = Decision::EpicCancelling { epic: epic("e"), by: by.clone(), undo: true };
    let stop = Decision::AttemptCancelling { attempt: c.attempt.clone(), cause: CancelCause::Request };
    journal.commit(Input::CancelEpic { epic: epic("e"), by, undo: true }, vec![cancelling, stop, begin_undo(1)]);
    journal.end(&c, Outcome::Cancelled, Next::Cancelled, vec![]);
    undo_all(&mut journal, &[1, 0], EpicEnd::Cancelled);
    journal
}

fn undone_unwanted() -> Journal {
    let (mut journal, c) = undoing("stop");
    journal.end(&c, Outcome::Exit, Next::Failed, vec![stopping(), begin_undo(1)]);
    undo_all(&mut journal, &[1], EpicEnd::Failed);
    journal
}

fn ended_before_its_undo() -> Journal {
    let (mut journal, c) = undoing("undo");
    journal.end(&c, Outcome::Exit, Next::Failed, vec![stopping(), begin_undo(1)]);
    undo_all(&mut journal, &[1], EpicEnd::Failed);
    journal
}

fn undo_failed_untold() -> Journal {
    let (mut journal, c) = undoing("undo");
    journal.end(&c, Outcome::Exit, Next::Failed, vec![stopping(), begin_undo(1)]);
    let undo = journal.give("e", 1, (2, 1), W1);
    journal.commit(Input::Tick, vec![undo.assigned()]);
    journal.claim(&undo);
    journal.start(&undo);
    journal.end(&undo, Outcome::Exit, Next::Failed, vec![begin_undo(0)]);
    undo_all(&mut journal, &[0], EpicEnd::Failed);
    journal
}

fn started_while_paused() -> Journal {
    let mut journal = one_task(json!({}));
    super::good::pause(&mut journal, "e");
    journal.run("e", 0, W1, over("e"));
    journal
}

fn skipped_after_its_end() -> Journal {
    let mut journal = Journal::with_workers(2);
    journal.submit("e", spec(vec![task("a", json!({})), task("b", json!({"needs": [0]}))], json!({})), vec![]);
    journal.run("e", 0, W1, vec![]);
    let by = "local".to_owned();
    let skipped = Decision::InstancesSkipped { epic: epic("e"), instances: vec![0], by: by.clone() };
    journal.commit(Input::SkipTask { epic: epic("e"), instances: vec![0], by }, vec![skipped]);
    journal.run("e", 1, W1, over("e"));
    journal
}
