//! The laws of the node's own fence: what somebody else may be given is over in time, and nothing else is ended by silence.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod stage;

use std::time::Duration;

use amphi_protocol::journal::{AttemptNews, Input, Outcome};
use amphi_protocol::node::{Order, Standing};
use serde_json::json;
use stage::{Mood, Stage, attempt};
use tokio::time::Instant;

/// The Manager's lease and 10 s.
const FENCE: Duration = Duration::from_secs(13);

async fn hold(stage: &Stage, i: u32, agent: usize, tool: &str, fenced: bool) {
    stage.tell(vec![stage.order_with(i, agent, tool, json!({"ms": 600_000}), fenced)]).await;
    let began = |news: &AttemptNews| matches!(news, AttemptNews::Started { .. });
    stage.leader.until("the start", |leader| leader.news(&attempt(i)).iter().any(began)).await;
}

fn outcome(stage: &Stage, i: u32) -> Option<Outcome> {
    stage.leader.outcome(&attempt(i))
}

#[tokio::test(start_paused = true)]
async fn a_node_that_nobody_acknowledges_ends_fenced_attempts_in_time_and_no_others() {
    let stage = Stage::with_agents(3).await;
    hold(&stage, 1, 0, "slow_to_die", true).await;
    hold(&stage, 2, 1, "sleep", false).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stage.alive(), 2, "acknowledged heartbeats keep both");
    *stage.bus.standing.lock().unwrap() = None;
    let silence = Instant::now();
    while outcome(&stage, 1).is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = silence.elapsed();
    assert!(took <= FENCE + Duration::from_millis(500) && took >= FENCE - Duration::from_secs(3), "ended after {took:?}");
    assert_eq!(outcome(&stage, 1), Some(Outcome::AgentLost));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((stage.alive(), outcome(&stage, 2)), (1, None), "an attempt without a write lock runs on");
}

#[tokio::test(start_paused = true)]
async fn what_was_not_begun_when_the_fence_is_over_never_begins() {
    let stage = Stage::with_agents(1).await;
    *stage.bus.standing.lock().unwrap() = None;
    tokio::time::sleep(FENCE + Duration::from_secs(1)).await;
    stage.tell(vec![stage.claimed_order(1, 0, "sleep"), Order::Go { attempt: attempt(1) }]).await;
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::NotStarted);
    assert_eq!(stage.begun(&attempt(1)), 0);
}

#[tokio::test(start_paused = true)]
async fn a_join_that_came_late_is_an_acknowledgement_of_the_moment_it_was_sent() {
    let stage = Stage::starting(1, Mood::Away).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    stage.leader.set_mood(Mood::Present);
    stage.leader.until("the join", |leader| leader.journal().iter().any(|input| matches!(input, Input::Join(_)))).await;
    hold(&stage, 1, 0, "sleep", true).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(outcome(&stage, 1), None);
}

#[tokio::test(start_paused = true)]
async fn a_stranger_to_the_leader_ends_what_it_runs_and_joins_again() {
    let stage = Stage::with_agents(1).await;
    hold(&stage, 1, 0, "sleep", false).await;
    let joins = |journal: &[Input]| journal.iter().filter(|input| matches!(input, Input::Join(_))).count();
    tokio::time::sleep(Duration::from_secs(10)).await;
    stage.leader.forget_node();
    *stage.bus.standing.lock().unwrap() = Some(Standing::Stranger);
    stage.leader.until("the end", |leader| leader.outcome(&attempt(1)).is_some()).await;
    *stage.bus.standing.lock().unwrap() = Some(Standing::Member);
    stage.leader.until("the second join", |leader| joins(&leader.journal()) == 2).await;
    assert_eq!(outcome(&stage, 1), Some(Outcome::AgentLost));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(joins(&stage.leader.journal()), 2);
}
