//! How long restarts wait, in virtual time: nothing here depends on the machine.

#![allow(clippy::unwrap_used, reason = "test code outside #[test] functions")]

mod stage;

use std::time::Duration;

use amphi_supervisors::*;
use stage::*;
use tokio::time::Instant;

async fn wait_after_crash(stage: &mut Stage, id: &str) -> u64 {
    let crashed_at = Instant::now();
    stage.actor(id).cast(Do::Fail).unwrap();
    stage.restarted(id).await;
    crashed_at.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn waits_double_begin_anew_after_an_order_and_no_late_timer_ends_one() {
    let mut stage = Stage::new();
    let mut spec = stage.spec("root", vec![stage.child("a"), stage.child("b")]);
    spec.intensity = Intensity { max: 1000, within: Duration::from_secs(3600) };
    spec.backoff = Backoff { first: Duration::from_secs(1), cap: Duration::from_secs(5), quiet: Duration::from_secs(100) };
    let root = stage.open(spec).await;
    for seconds in [1, 2, 4, 5, 5] {
        assert_eq!(wait_after_crash(&mut stage, "a").await, seconds);
    }
    // A wait of 5 s that an order cuts short: its timer is still under way.
    stage.actor("a").cast(Do::Fail).unwrap();
    stage.exited("a").await;
    restart_child(&root.supervisor, "a", Some(DEADLINE)).await.unwrap();
    stage.restarted("a").await;
    for seconds in [1, 2] {
        assert_eq!(wait_after_crash(&mut stage, "a").await, seconds, "the count began anew with the order");
    }
    // The old timer is due in this wait, after 2 of 4 seconds.
    assert_eq!(wait_after_crash(&mut stage, "a").await, 4);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(wait_after_crash(&mut stage, "a").await, 1, "and begins anew after a quiet period");
    assert_eq!(wait_after_crash(&mut stage, "b").await, 1, "each child has its own pace");
    root.close().await;
}
