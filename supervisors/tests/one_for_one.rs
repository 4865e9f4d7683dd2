//! One for one: the cases of `dependencies.md` 1.1 in which other supervisors fail, and the ones in which they do not.

mod stage;

use std::sync::atomic::Ordering;
use std::time::Duration;

use amphi_protocol::tree::TreeState;
use amphi_supervisors::*;
use stage::*;

fn some_time() -> Option<Duration> {
    Some(DEADLINE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_transient_child_that_panics_or_fails_is_restarted_and_its_sibling_is_not() {
    let mut stage = Stage::new();
    let root = stage.open(stage.spec("root", vec![stage.child("a").restart(Restart::Transient), stage.child("b")])).await;
    stage.actor("a").cast(Do::Panic).unwrap();
    let (reason, abnormal) = stage.exited("a").await;
    assert!(abnormal && reason.contains("on demand"), "{reason}");
    assert_eq!(stage.restarted("a").await, 1);
    stage.actor("a").cast(Do::Fail).unwrap();
    assert_eq!(stage.restarted("a").await, 2);
    assert_eq!((stage.life("a").await, stage.life("b").await), (3, 1));
    let (a, b) = (stage.node("root", "a"), stage.node("root", "b"));
    assert_eq!((a.restarts, a.state, b.restarts, b.last_exit.clone()), (2, TreeState::Running, 0, None));
    assert!(a.last_exit.unwrap().contains("failed on demand"));
    root.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_transient_child_that_ends_by_itself_stays_down_and_a_permanent_one_comes_back() {
    let mut stage = Stage::new();
    let root = stage.open(stage.spec("root", vec![stage.child("t").restart(Restart::Transient), stage.child("p")])).await;
    stage.actor("t").cast(Do::Stop(None)).unwrap();
    assert_eq!(stage.exited("t").await, ("normal".to_owned(), false));
    stage.actor("p").cast(Do::Stop(Some("done".to_owned()))).unwrap();
    assert_eq!(stage.exited("p").await, ("done".to_owned(), false));
    stage.restarted("p").await;
    assert_eq!(stage.state("root", "t"), TreeState::Stopped);
    assert_eq!(stage.life("p").await, 2);
    root.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_fourth_crash_with_max_3_ends_the_supervisor_and_its_children_in_order() {
    let mut stage = Stage::new();
    let root = stage.open(stage.spec("root", vec![stage.child("a"), stage.child("b"), stage.child("c")])).await;
    for _ in 0..3 {
        stage.actor("b").cast(Do::Panic).unwrap();
        stage.restarted("b").await;
    }
    stage.actor("b").cast(Do::Panic).unwrap();
    let name = root.name.clone();
    root.gone().await;
    let lines = stage.diary.lines();
    assert_eq!(lines[lines.len() - 2..], ["stop c", "stop a"], "the living end in reverse, with their post_stop: {lines:?}");
    let tree = stage.board.render(&name).unwrap();
    assert_eq!(tree.state, TreeState::Stopped);
    assert!(tree.last_exit.unwrap().contains("gave up: child `b`"));
    assert!(tree.children.iter().all(|child| child.state == TreeState::Stopped));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_stuck_child_is_restarted_whether_transient_or_permanent() {
    let mut stage = Stage::new();
    let root = stage.open(stage.spec("root", vec![stage.child("t").restart(Restart::Transient), stage.child("p")])).await;
    for id in ["t", "p"] {
        let stuck = stage.actor(id);
        stuck.cast(Do::Hang).unwrap();
        stuck.kill();
        assert_eq!(stage.exited(id).await, ("killed".to_owned(), true));
        assert_eq!(stage.restarted(id).await, 1);
        assert_eq!(stage.life(id).await, 2);
    }
    root.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crash_loop_ends_in_quarantine_and_only_an_order_ends_the_quarantine() {
    let mut stage = Stage::new();
    let limited = |id: &str| stage.child(id).limited(Intensity { max: 2, within: Duration::from_secs(600) }, OnExhausted::Quarantine);
    let root = stage.open(stage.spec("root", vec![limited("a"), limited("b")])).await;
    for restart in 1..=2 {
        stage.actor("a").cast(Do::Panic).unwrap();
        assert_eq!(stage.restarted("a").await, restart);
    }
    stage.actor("a").cast(Do::Panic).unwrap();
    stage.event("a", |kind| matches!(kind, ChildEventKind::Quarantined { .. })).await;
    assert_eq!((stage.state("root", "a"), stage.state("root", "b")), (TreeState::Quarantined, TreeState::Running));
    assert_eq!((stage.node("root", "a").max, stage.node("root", "a").within_ms), (Some(2), Some(600_000)));

    let again = restart_child(&root.supervisor, "a", some_time()).await.unwrap();
    assert_eq!(ping(&again.into()).await, 4);
    assert_eq!(stage.state("root", "a"), TreeState::Running);
    // The count begins anew: two more crashes are survived.
    for restart in 4..=5 {
        stage.actor("a").cast(Do::Panic).unwrap();
        while stage.restarted("a").await < restart {}
    }
    assert_eq!(stage.life("b").await, 1);
    root.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn siblings_in_quarantine_mode_do_not_share_a_count() {
    let mut stage = Stage::new();
    let quarantined = |id: &str| {
        let mut spec = stage.child(id);
        spec.on_exhausted = OnExhausted::Quarantine;
        spec
    };
    let root = stage.open(stage.spec("root", vec![quarantined("a"), quarantined("b")])).await;
    for id in ["a", "b", "a", "b", "a", "b"] {
        stage.actor(id).cast(Do::Panic).unwrap();
        stage.restarted(id).await;
    }
    assert_eq!((stage.life("a").await, stage.life("b").await), (4, 4));
    root.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dynamic_child_that_does_not_start_is_an_error_and_is_not_kept() {
    for restart in [Restart::Temporary, Restart::Permanent] {
        let stage = Stage::new();
        let root = stage.open(stage.spec("root", vec![stage.child("a")])).await;
        let broken = stage.player("broken");
        broken.failing_starts.store(1, Ordering::SeqCst);
        let spec = stage.child_of(broken).restart(restart);
        let error = start_child(&root.supervisor, spec.clone(), some_time()).await.unwrap_err();
        assert!(matches!(&error, ChildError::StartFailed { reason, .. } if reason.contains("the world is broken")), "{error}");
        assert!(stage.board.child(&root.name, "broken").is_none());
        start_child(&root.supervisor, spec, some_time()).await.expect("its id is free, and the world is whole again");
        assert_eq!((stage.life("a").await, stage.life("broken").await), (1, 1));
        root.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_second_child_with_the_same_id_is_refused_and_everybody_lives_on() {
    let stage = Stage::new();
    let root = stage.open(stage.spec("root", vec![stage.child("a"), stage.child("b")])).await;
    for _ in 0..5 {
        let refused = start_child(&root.supervisor, stage.child("a"), some_time()).await;
        assert_eq!(refused, Err(ChildError::Duplicate { id: "a".to_owned() }));
    }
    assert_eq!((stage.life("a").await, stage.life("b").await, stage.node("root", "a").restarts), (1, 1, 0));
    let twice = stage.spec("other", vec![stage.child("x"), stage.child("x")]);
    assert!(Supervisor::spawn(stage.arguments(twice)).await.is_err(), "a specification with a double id does not start");
    root.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_child_that_is_terminated_during_its_backoff_does_not_come_back() {
    let mut stage = Stage::new();
    let mut spec = stage.spec("root", vec![stage.child("a"), stage.child("b")]);
    spec.backoff = Backoff { first: Duration::from_millis(300), cap: Duration::from_millis(300), quiet: Duration::from_secs(600) };
    let root = stage.open(spec).await;
    stage.actor("a").cast(Do::Panic).unwrap();
    stage.exited("a").await;
    assert_eq!(stage.state("root", "a"), TreeState::Restarting);
    terminate_child(&root.supervisor, "a", some_time()).await.unwrap();
    assert!(stage.board.child(&root.name, "a").is_none());
    // b's restart is decided later with the same wait, so a's late timer has been served when b is back.
    stage.actor("b").cast(Do::Panic).unwrap();
    stage.restarted("b").await;
    assert!(ractor::registry::where_is(stage.name("a")).is_none());
    assert_eq!(terminate_child(&root.supervisor, "a", some_time()).await, Err(ChildError::Unknown { id: "a".to_owned() }));
    root.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn terminating_a_running_child_runs_its_post_stop_and_a_stuck_one_is_killed() {
    let stage = Stage::new();
    let stuck = stage.child("stuck").shutdown(Duration::from_millis(50));
    let root = stage.open(stage.spec("root", vec![stage.child("a"), stuck, stage.child("b")])).await;
    terminate_child(&root.supervisor, "a", some_time()).await.unwrap();
    assert_eq!(stage.diary.lines().last().unwrap(), "stop a");
    stage.actor("stuck").cast(Do::Hang).unwrap();
    let (first, second) =
        tokio::join!(terminate_child(&root.supervisor, "stuck", some_time()), terminate_child(&root.supervisor, "stuck", some_time()),);
    assert_eq!((first, second), (Ok(()), Ok(())), "two orders are one end");
    assert!(ractor::registry::where_is(stage.name("stuck")).is_none());
    start_child(&root.supervisor, stage.child("a"), some_time()).await.expect("a terminated id may be used again");
    assert_eq!(stage.life("b").await, 1);
    root.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_unrelated_linked_actor_that_ends_does_not_touch_the_supervisor() {
    let stage = Stage::new();
    let root = stage.open(stage.spec("root", vec![stage.child("a")])).await;
    for how in [Do::Stop(None), Do::Panic] {
        let name = stage.name("stranger");
        let (stranger, task) = root.supervisor.get_cell().spawn_linked(Some(name), stage.player("stranger"), ()).await.unwrap();
        stranger.cast(how).unwrap();
        task.await.unwrap();
    }
    settled(&root.supervisor, some_time()).await.expect("it answers");
    assert_eq!(stage.life("a").await, 1);
    root.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn children_start_in_order_and_stop_in_reverse_with_their_post_stop() {
    let stage = Stage::new();
    let mut slow = stage.player("a");
    slow.start_takes = Duration::from_millis(100);
    let children = vec![stage.child_of(slow), stage.child("b"), stage.child("c")];
    let root = stage.open(stage.spec("root", children)).await;
    let name = root.name.clone();
    root.close().await;
    assert_eq!(stage.diary.lines(), ["start a", "start b", "start c", "stop c", "stop b", "stop a"]);
    assert_eq!(stage.board.render(&name).unwrap().state, TreeState::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_child_that_does_not_start_at_first_is_tried_again_and_the_next_ones_wait() {
    let stage = Stage::new();
    let late = stage.player("a");
    late.failing_starts.store(2, Ordering::SeqCst);
    let root = stage.open(stage.spec("root", vec![stage.child_of(late), stage.child("b")])).await;
    assert_eq!(stage.diary.lines(), ["start a", "start b"]);
    assert_eq!(stage.node("root", "a").restarts, 2);
    assert!(stage.node("root", "a").last_exit.unwrap().contains("the world is broken"));
    root.close().await;

    let never = stage.player("n");
    never.failing_starts.store(u32::MAX, Ordering::SeqCst);
    let mut never = stage.child_of(never);
    never.on_exhausted = OnExhausted::Quarantine;
    let root = stage.open(stage.spec("second", vec![never, stage.child("b")])).await;
    assert_eq!((stage.state("second", "n"), stage.state("second", "b")), (TreeState::Quarantined, TreeState::Running));
    root.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_supervisor_hears_orders_and_exits_while_a_child_takes_long_to_start() {
    let mut stage = Stage::new();
    let root = stage.open(stage.spec("root", vec![stage.child("a")])).await;
    let mut hanging = stage.player("hanging");
    hanging.start_takes = Duration::from_secs(3600);
    let spec = stage.child_of(hanging);
    let (supervisor, hanging) = (
        root.supervisor.clone(),
        tokio::spawn({
            let supervisor = root.supervisor.clone();
            async move { start_child(&supervisor, spec, None).await }
        }),
    );
    stage.actor("a").cast(Do::Panic).unwrap();
    stage.restarted("a").await;
    stage.shown("root", "hanging").await;
    terminate_child(&supervisor, "hanging", some_time()).await.unwrap();
    assert_eq!(hanging.await.unwrap(), Err(ChildError::Terminating { id: "hanging".to_owned() }));
    assert!(ractor::registry::where_is(stage.name("hanging")).is_none(), "a start that was called off gives its name back");
    root.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_supervisor_that_is_told_to_stop_during_a_start_or_a_backoff_leaves_nothing_behind() {
    let mut stage = Stage::new();
    let mut spec = stage.spec("root", vec![stage.child("waiting")]);
    spec.backoff.first = Duration::from_secs(3600);
    spec.backoff.cap = Duration::from_secs(3600);
    let root = stage.open(spec).await;
    stage.actor("waiting").cast(Do::Panic).unwrap();
    stage.exited("waiting").await;
    let mut hanging = stage.player("hanging");
    hanging.start_takes = Duration::from_secs(3600);
    let (supervisor, spec) = (root.supervisor.clone(), stage.child_of(hanging));
    let start = tokio::spawn(async move { start_child(&supervisor, spec, None).await });
    stage.shown("root", "hanging").await;
    root.close().await;
    assert!(start.await.unwrap().is_err());
    assert!(ractor::registry::where_is(stage.name("hanging")).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restart_on_order_ends_the_running_child_properly_and_is_no_failure() {
    let mut stage = Stage::new();
    let root = stage.open(stage.spec("root", vec![stage.child("a")])).await;
    for life in 2..8 {
        let actor = restart_child(&root.supervisor, "a", some_time()).await.unwrap();
        assert_eq!(ping(&actor.into()).await, life, "more often than the intensity allows for failures");
    }
    assert_eq!(stage.exited("a").await, ("shutdown".to_owned(), false));
    assert_eq!(restart_child(&root.supervisor, "x", some_time()).await, Err(ChildError::Unknown { id: "x".to_owned() }));
    root.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hook_that_panics_ends_nobody() {
    let stage = Stage::new();
    let mut arguments = stage.arguments(stage.spec("root", vec![stage.child("a")]));
    arguments.on_child_event = std::sync::Arc::new(|_| panic!("a bug in the hook"));
    let (supervisor, task) = Supervisor::spawn(arguments).await.unwrap();
    settled(&supervisor, some_time()).await.unwrap();
    assert_eq!(stage.life("a").await, 1);
    Root { name: stage.name("root"), supervisor, task }.close().await;
}
