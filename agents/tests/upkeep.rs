//! The journal's keeping, against stores in memory: starts are bounded, damage is noticed, history stays whole, ended epics leave the memory and stay known.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "manager/fakes.rs"]
mod fakes;

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use amphi_agents::manager::archive::{Whereabouts, read_history};
use amphi_agents::manager::{Leadership, UpkeepLimits};
use amphi_coordination::seat::Answer;
use amphi_coordination::{History, Refusal};
use amphi_protocol::ids::CommitIndex;
use amphi_protocol::journal::Input;
use bytes::Bytes;
use fakes::{Stage, id, soon, submission};

/// So that a snapshot is taken every few submissions, in stretches of a few records.
const LIMITS: UpkeepLimits =
    UpkeepLimits { decisions: 20, bytes: u64::MAX, segment_bytes: 12_000, ended_epics: 1_000_000, history: Duration::from_secs(1_000_000) };

async fn submit(stage: &Stage, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let answer = stage.manager.take(submission(number)).await.unwrap();
        assert!(matches!(answer, Answer::Committed { .. }), "{answer:?}");
    }
}

async fn history(stage: &Stage) -> History {
    stage.manager.read(|at| at.state.history().clone()).await.unwrap()
}

async fn until(stage: &Stage, what: impl Fn(&History) -> bool) -> History {
    soon(async {
        loop {
            let found = history(stage).await;
            if what(&found) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Submits until record `beyond` is trimmed, at a pace at which the keeping can be seen at work.
async fn fill(stage: &Stage, submitted: &mut usize, beyond: usize) {
    soon(async {
        while stage.journal.trimmed() < beyond {
            submit(stage, *submitted..*submitted + 5).await;
            *submitted += 5;
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    })
    .await;
}

async fn restart(stage: &Stage) {
    let mut leadership = stage.manager.leadership();
    let before = *leadership.borrow_and_update();
    stage.restart();
    soon(leadership.wait_for(|now| *now != before && matches!(now, Leadership::Leads(_)))).await.unwrap();
}

/// Archive and journal together are every record that was ever written.
async fn is_whole(stage: &Stage) {
    let at = stage.manager.read(|at| Whereabouts::of(at.state, at.sequence)).await.unwrap();
    let mut found: Vec<Bytes> = Vec::new();
    let stores = (&*stage.journal as &dyn amphi_ports::Journal, &*stage.objects as &dyn amphi_ports::ObjectStore);
    read_history(stores, &at, (CommitIndex(1), at.last), |bytes, _| {
        found.push(Bytes::copy_from_slice(bytes));
        Ok(ControlFlow::Continue(()))
    })
    .await
    .unwrap();
    assert_eq!(found, stage.journal.records()[..found.len()]);
    assert_eq!(found.len() as u64, at.last.0);
    stage.holds_together();
}

async fn epics(stage: &Stage) -> usize {
    stage.manager.read(|at| at.state.epics().count()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_replays_what_follows_the_newest_snapshot_and_no_more() {
    let stage = Stage::open_with(LIMITS).await;
    let mut submitted = 0;
    fill(&stage, &mut submitted, 150).await;
    let before = stage.journal.read.load(Ordering::Relaxed);
    restart(&stage).await;
    let replayed = stage.journal.read.load(Ordering::Relaxed) - before;
    // What was decided between two looks comes on top of the threshold.
    assert!(replayed < 130, "{replayed} of {} records were read", stage.journal.records().len());
    assert_eq!(epics(&stage).await, submitted);
    is_whole(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_snapshots_are_passed_over_and_a_lost_history_is_refused() {
    let stage = Stage::open_with(LIMITS).await;
    let mut submitted = 0;
    fill(&stage, &mut submitted, 60).await;
    let damage = |prefix: &str, only: Option<&str>| {
        for (name, bytes) in stage.objects.kept.lock().unwrap().iter_mut() {
            if name.starts_with(prefix) && only.is_none_or(|only| only == name) {
                *bytes = Bytes::from_static(b"not what was stored");
            }
        }
    };
    let newest = history(&stage).await.snapshots.last().unwrap().object.clone();
    damage("snapshot-", Some(&newest));
    restart(&stage).await;
    assert_eq!(epics(&stage).await, submitted, "the older snapshot");
    damage("snapshot-", None);
    restart(&stage).await;
    assert_eq!(epics(&stage).await, submitted, "the whole history from the archive");
    damage("snapshot-", None);
    damage("segment-", None);
    stage.restart();
    stage.stays_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_does_not_come_back_is_never_put_on_record() {
    let stage = Stage::open_with(LIMITS).await;
    stage.objects.forgets.store(true, Ordering::Relaxed);
    let mut submitted = 0;
    for _ in 0..10 {
        submit(&stage, submitted..submitted + 5).await;
        submitted += 5;
    }
    soon(async {
        while stage.objects.forgotten.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    restart(&stage).await;
    assert!(history(&stage).await.snapshots.is_empty(), "nobody relies on what is not there");
    stage.objects.forgets.store(false, Ordering::Relaxed);
    fill(&stage, &mut submitted, 60).await;
    is_whole(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_epics_leave_the_memory_and_stay_known() {
    let stage = Stage::open_with(UpkeepLimits { ended_epics: 3, ..LIMITS }).await;
    submit(&stage, 0..10).await;
    for number in 0..8 {
        let cancel = Input::CancelEpic { epic: id(number), by: "local".to_owned(), undo: false };
        assert!(matches!(stage.manager.take(cancel).await.unwrap(), Answer::Committed { .. }));
    }
    let history = until(&stage, |history| history.retired.len() == 5).await;
    assert_eq!(epics(&stage).await, 5, "two that run and three that ended last");
    for retired in history.retired.values() {
        let view = stage.objects.kept.lock().unwrap().get(&retired.view).cloned().unwrap();
        assert!(String::from_utf8_lossy(&view).contains("\"cancelled\""));
    }
    restart(&stage).await;
    let again = stage.manager.take(submission(0)).await.unwrap();
    assert_eq!(again, Answer::Refused(Refusal::Duplicate(id(0))), "its key is known as long as its history is kept");
    let retry = Input::RetryTask { epic: id(0), instances: vec![0], by: "local".to_owned() };
    assert!(
        matches!(stage.manager.take(retry).await.unwrap(), Answer::Refused(Refusal::Error(error)) if error.message.contains("put away"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_that_is_over_is_removed_and_what_is_left_can_be_read() {
    let stage = Stage::open_with(UpkeepLimits { history: Duration::ZERO, ended_epics: 0, ..LIMITS }).await;
    submit(&stage, 0..10).await;
    for number in 0..5 {
        stage.manager.take(Input::CancelEpic { epic: id(number), by: "local".to_owned(), undo: false }).await.unwrap();
    }
    until(&stage, |history| history.retired.len() == 5).await;
    let mut submitted = 10;
    fill(&stage, &mut submitted, 60).await;
    let history = until(&stage, |history| history.from.0 > 1 && history.retired.is_empty()).await;
    soon(async {
        while stage.objects.kept.lock().unwrap().keys().any(|name| name.starts_with("epic-")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(history.segments.iter().all(|segment| segment.to >= history.from));
    restart(&stage).await;
    assert_eq!(epics(&stage).await, submitted - 5);
    // Nothing tells any more that the key was used.
    assert!(matches!(stage.manager.take(submission(0)).await.unwrap(), Answer::Committed { .. }));
}
