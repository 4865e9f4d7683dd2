//! Group strategies, nested supervisors and the published tree.

mod stage;

use std::sync::Arc;
use std::time::Duration;

use amphi_protocol::tree::{TreeKind, TreeNode, TreeState};
use amphi_supervisors::*;
use stage::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_for_all_waits_for_a_sibling_in_a_synchronous_section_and_restarts_all_once_in_order() {
    let mut stage = Stage::new();
    let children = vec![stage.child("a").shutdown(Duration::from_millis(50)), stage.child("b"), stage.child("c")];
    let mut spec = stage.spec("root", children);
    spec.strategy = Strategy::OneForAll;
    let root = stage.open(spec).await;
    stage.spin("a", Duration::from_millis(400)).await;
    stage.actor("b").cast(Do::Panic).unwrap();
    assert_eq!(stage.restarted("c").await, 1, "the last of the order is back");
    settled(&root.supervisor, Some(DEADLINE)).await.unwrap();
    for id in ["a", "b", "c"] {
        let node = stage.node("root", id);
        assert_eq!((node.restarts, node.state), (1, TreeState::Running), "{id}");
        assert_eq!(stage.life(id).await, 2);
    }
    let mut lines = stage.diary.lines().split_off(4);
    lines.retain(|line| line != "stop a"); // On a slow machine its section ends before its time to stop does.
    assert_eq!(lines, ["stop c", "start a", "start b", "start c"]);
    root.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rest_for_one_restarts_the_child_and_those_after_it() {
    let mut stage = Stage::new();
    let temporary = stage.child("t").restart(Restart::Temporary);
    let mut spec = stage.spec("root", vec![stage.child("a"), stage.child("b"), temporary, stage.child("c")]);
    spec.strategy = Strategy::RestForOne;
    let root = stage.open(spec).await;
    stage.actor("b").cast(Do::Panic).unwrap();
    stage.restarted("c").await;
    assert_eq!((stage.life("a").await, stage.life("b").await, stage.life("c").await), (1, 2, 2));
    assert_eq!(stage.diary.lines()[4..], ["stop c", "stop t", "start b", "start c"]);
    assert!(stage.board.child(&root.name, "t").is_none(), "a temporary sibling does not come back");
    // A failure of an earlier child takes the rest with it, also while they wait.
    stage.actor("c").cast(Do::Panic).unwrap();
    stage.actor("a").cast(Do::Panic).unwrap();
    stage.written("start a", 2).await;
    settled(&root.supervisor, Some(DEADLINE)).await.unwrap();
    assert_eq!((stage.life("a").await, stage.life("b").await), (2, 3));
    root.close().await;
}

fn two_levels(stage: &Stage) -> SupervisorSpec {
    let inner = stage.spec("inner", vec![stage.child("x"), stage.child("y")]);
    stage.spec("root", vec![stage.child("first"), nested("pool", stage.arguments(inner)), stage.child("last")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_next_child_waits_until_a_nested_supervisor_has_settled_and_the_end_is_in_reverse_through_all_levels() {
    let stage = Stage::new();
    let root = stage.open(two_levels(&stage)).await;
    root.close().await;
    let order = ["first", "x", "y", "last"];
    let starts = order.iter().map(|id| format!("start {id}"));
    let stops = order.iter().rev().map(|id| format!("stop {id}"));
    assert_eq!(stage.diary.lines(), starts.chain(stops).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_supervisor_that_gives_up_is_restarted_by_its_own_with_all_its_children() {
    let mut stage = Stage::new();
    let root = stage.open(two_levels(&stage)).await;
    for _ in 0..3 {
        stage.actor("x").cast(Do::Panic).unwrap();
        stage.restarted("x").await;
    }
    stage.actor("x").cast(Do::Panic).unwrap();
    let (reason, abnormal) = stage.exited("pool").await;
    assert!(abnormal && reason.contains("gave up: child `x`"), "{reason}");
    assert_eq!(stage.restarted("pool").await, 1);
    stage.event("y", |kind| matches!(kind, ChildEventKind::Started { .. })).await;
    assert_eq!((stage.life("first").await, stage.life("y").await), (1, 2));
    root.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_nested_supervisor_comes_back_although_a_child_still_holds_its_name() {
    let mut stage = Stage::new();
    let root = stage.open(two_levels(&stage)).await;
    stage.spin("x", Duration::from_millis(400)).await;
    ractor::registry::where_is(stage.name("inner")).unwrap().kill();
    assert_eq!(stage.exited("pool").await, ("killed".to_owned(), true));
    stage.restarted("pool").await;
    stage.event("y", |kind| matches!(kind, ChildEventKind::Started { .. })).await;
    assert_eq!((stage.life("x").await, stage.life("y").await), (2, 2));
    assert_eq!(stage.node("inner", "x").restarts, 0, "waiting for the name is no failed start");
    root.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_tree_has_the_shape_of_the_interface() {
    let stage = Stage::new();
    let mailbox = Mailbox::over(Arc::default());
    let worker = stage.child("w").restart(Restart::Transient).mailbox(mailbox.clone());
    let inner = stage.spec("inner", vec![worker]);
    let root = stage.open(stage.spec("root", vec![nested("pool", stage.arguments(inner))])).await;
    let actor = stage.actor("w");
    actor.cast(Do::Hang).unwrap();
    mailbox.send(&actor, Do::Fail).unwrap();
    mailbox.send(&actor, Do::Fail).unwrap();
    let tree = serde_json::to_value(stage.board.render(&root.name).unwrap()).unwrap();
    let (root_name, inner_name, worker_name) = (stage.name("root"), stage.name("inner"), stage.name("w"));
    let expected = serde_json::json!({
        "name": root_name, "actor": root_name, "kind": "supervisor", "strategy": "one_for_one", "restart": null, "restarts": 0,
        "max": 3, "within_ms": 600_000, "state": "running", "mailbox": null, "last_exit": null,
        "children": [{
            "name": "pool", "actor": inner_name, "kind": "supervisor", "strategy": "one_for_one", "restart": "permanent", "restarts": 0,
            "max": 3, "within_ms": 600_000, "state": "running", "mailbox": null, "last_exit": null,
            "children": [{
                "name": "w", "actor": worker_name, "kind": "worker", "strategy": null, "restart": "transient", "restarts": 0,
                "max": null, "within_ms": null, "state": "running", "mailbox": 2, "last_exit": null, "children": []
            }]
        }]
    });
    assert_eq!(tree, expected);
    let again: TreeNode = serde_json::from_value(tree).unwrap();
    assert_eq!((again.kind, again.children[0].children[0].kind), (TreeKind::Supervisor, TreeKind::Worker));
    actor.kill();
    root.close().await;
    assert_eq!(mailbox.depth(), 0, "a mailbox dies with its actor");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_children_crash_together_and_all_come_back() {
    let mut stage = Stage::new();
    let child = |n: u32| stage.child(&format!("c{n}")).limited(Intensity::default(), OnExhausted::Quarantine);
    let root = stage.open(stage.spec("root", (0..1000).map(child).collect())).await;
    for n in 0..1000 {
        stage.actor(&format!("c{n}")).cast(Do::Fail).unwrap();
    }
    let mut back = std::collections::HashSet::new();
    while back.len() < 1000 {
        let event = tokio::time::timeout(DEADLINE, stage.events.recv()).await.expect("all come back").unwrap();
        if matches!(event.kind, ChildEventKind::Restarted { count: 1, .. }) {
            back.insert(event.child);
        }
    }
    root.close().await;
}
