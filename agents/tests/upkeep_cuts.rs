//! A Manager dies, or is deposed, at every step of the journal's keeping: before the step, after it, and with the step done late, when
//! others are long at work. The next one starts from exactly the state that all records give, and all history can still be read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "manager/fakes.rs"]
mod fakes;

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use amphi_agents::manager::archive::{Whereabouts, read_history};
use amphi_agents::manager::{Leadership, UpkeepLimits};
use amphi_coordination::{EventSink, State};
use amphi_protocol::ids::{CommitIndex, NodeId, ShardId};
use amphi_protocol::journal::{Input, Record};
use bytes::Bytes;
use fakes::{Done, Stage, id, soon, submission};

const LIMITS: UpkeepLimits =
    UpkeepLimits { decisions: 20, bytes: u64::MAX, segment_bytes: 12_000, ended_epics: 3, history: Duration::from_secs(1_000_000) };

/// Epics come, and all but every fifth end, until it is so; whoever falls silent meanwhile is not waited for.
async fn work(stage: &Stage, number: &mut usize, is_so: impl Fn() -> bool) {
    let seen = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let busy = async {
        loop {
            *number += 1;
            // Nobody may lead, or the answer be lost: the next one is tried.
            let _taken = stage.manager.take(submission(*number)).await;
            let epic = id(*number);
            if !number.is_multiple_of(5) {
                let _taken = stage.manager.take(Input::CancelEpic { epic, by: "local".to_owned(), undo: false }).await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(async {
        tokio::select! {
            () = seen => {}
            () = busy => {}
        }
    })
    .await;
}

/// The Manager goes; with `deposed` because somebody else began a term.
async fn replace(stage: &Stage, deposed: bool) {
    let mut leadership = stage.manager.leadership();
    let before = *leadership.borrow_and_update();
    if deposed {
        stage.journal.foreign_term(NodeId::parse("node-9").unwrap());
    }
    stage.restart();
    soon(leadership.wait_for(|now| *now != before && matches!(now, Leadership::Leads(_)))).await.unwrap();
}

/// The Manager's state is the one that all records give, what is on record is stored, and history can be read from its beginning.
async fn is_sound(stage: &Stage, when: &str) {
    assert_eq!(*stage.journal.wrong.lock().unwrap(), None, "{when}");
    for tries in 0.. {
        let read = stage.manager.read(|at| (Whereabouts::of(at.state, at.sequence), at.state.digest(), at.state.history().clone()));
        let (at, digest, history) = read.await.unwrap();
        let records = &stage.journal.records()[..at.last.0 as usize];
        let mut state = State::new(ShardId(0));
        for bytes in records {
            state.apply(&Record::decode(bytes).unwrap(), &mut EventSink::counting()).unwrap();
        }
        assert_eq!(state.digest(), digest, "{when}: another state than the records give");
        let mut found: Vec<Bytes> = Vec::new();
        let stores = (&*stage.journal as &dyn amphi_ports::Journal, &*stage.objects as &dyn amphi_ports::ObjectStore);
        let whole = read_history(stores, &at, (at.first, at.last), |bytes, _| {
            found.push(Bytes::copy_from_slice(bytes));
            Ok(ControlFlow::Continue(()))
        });
        let whole = whole.await;
        let named = history.snapshots.iter().map(|it| &it.object).chain(history.segments.iter().map(|it| &it.object));
        let missing = {
            let kept = stage.objects.kept.lock().unwrap();
            named.chain(history.retired.values().map(|it| &it.view)).find(|name| !kept.contains_key(*name)).cloned()
        };
        if tries < 5 && (whole.is_err() || missing.is_some()) {
            // The keeping went on meanwhile: what was read is elsewhere now.
            continue;
        }
        whole.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_eq!(missing, None, "{when}: it is on record");
        assert_eq!(found, records[at.first.0 as usize - 1..], "{when}");
        break;
    }
    stage.holds_together();
}

async fn cut_at_each(stage: &Stage, steps: &[&'static str]) {
    let mut number = 0;
    let mut deposed = false;
    for step in steps {
        for done in [Done::Nothing, Done::Late, Done::All] {
            let when = format!("cut at {step:?}, done: {done:?}, deposed: {deposed}");
            let cutter = stage.journal.cutter.clone();
            cutter.arm(step, done);
            work(stage, &mut number, || cutter.cut.load(Ordering::SeqCst)).await;
            replace(stage, deposed).await;
            is_sound(stage, &when).await;
            if done == Done::Late {
                let beyond = stage.journal.records().len() + 20;
                work(stage, &mut number, || stage.journal.records().len() > beyond).await;
                assert!(cutter.late(), "{when}: something was under way");
                replace(stage, false).await;
                is_sound(stage, &format!("{when}, at last")).await;
            }
            deposed = !deposed;
        }
    }
    // After all that it is kept as if nothing had been.
    let goal = stage.journal.trimmed() + 50;
    work(stage, &mut number, || stage.journal.trimmed() > goal).await;
    replace(stage, false).await;
    is_sound(stage, "at the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_any_two_steps_is_harmless() {
    let stage = Stage::open_with(LIMITS).await;
    let uploads = ["snapshot-", "record snapshot", "segment-", "record segment", "trim"];
    cut_at_each(&stage, &uploads).await;
    stage.journal.trims_half.store(true, Ordering::Relaxed);
    let (mut number, goal) = (1_000_000, stage.journal.trimmed() + 50);
    work(&stage, &mut number, || !stage.journal.trims_half.load(Ordering::Relaxed)).await;
    replace(&stage, false).await;
    is_sound(&stage, "a purge that ended half-way").await;
    work(&stage, &mut number, || stage.journal.trimmed() > goal).await;
    let first = stage.manager.read(|at| at.state.history().from).await.unwrap();
    assert!(first <= CommitIndex(1), "nothing of history was given up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_while_epics_are_put_away_or_history_ends_is_harmless() {
    let stage = Stage::open_with(LIMITS).await;
    cut_at_each(&stage, &["epic-", "record epic"]).await;
    let stage = Stage::open_with(UpkeepLimits { history: Duration::ZERO, ..LIMITS }).await;
    cut_at_each(&stage, &["record history", "remove"]).await;
}
