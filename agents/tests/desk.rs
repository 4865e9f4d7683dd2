//! The laws of a node's desk: what it begins, what it reports, and what the death of an agent means.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod stage;

use std::time::Duration;

use amphi_agents::DeskSettings;
use amphi_protocol::ids::{Epoch, Incarnation};
use amphi_protocol::journal::{AgentLife, AttemptNews, Input, Outcome};
use amphi_protocol::node::{NodeAnswer, Order};
use serde_json::json;
use stage::{Mood, Stage, attempt};
use tokio::time::Instant;

fn started(i: u32) -> AttemptNews {
    AttemptNews::Started { pid: Some(i) }
}

fn is_end(news: &AttemptNews, outcome: Outcome) -> bool {
    matches!(news, AttemptNews::Ended(end) if end.outcome == outcome)
}

fn ends(stage: &Stage, i: u32) -> usize {
    stage.leader.news(&attempt(i)).iter().filter(|news| matches!(news, AttemptNews::Ended(_))).count()
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_begun_started_and_ended_once_however_often_it_is_assigned() {
    let stage = Stage::with_agents(1).await;
    let order = stage.order_with(1, 0, "sleep", json!({"ms": 1000}), false);
    stage.tell(vec![order.clone(), order.clone()]).await;
    stage.leader.until("the start", |leader| leader.news(&attempt(1)) == [started(1)]).await;
    stage.tell(vec![order.clone()]).await;
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::Succeeded);
    stage.tell(vec![order, Order::Cancel { attempt: attempt(1) }]).await;
    stage.until_settled().await;
    assert_eq!(stage.begun(&attempt(1)), 1);
    let news = stage.leader.news(&attempt(1));
    assert!(news.len() == 2 && news[0] == started(1) && is_end(&news[1], Outcome::Succeeded), "{news:?}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_free_again_takes_the_next_attempt_at_once() {
    let stage = Stage::with_agents(1).await;
    for i in 1..=20 {
        stage.tell(vec![stage.order(i, 0, "noop")]).await;
        assert_eq!(stage.leader.until_ended(&attempt(i)).await, Outcome::Succeeded, "attempt {i}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_for_a_busy_or_unknown_agent_is_reported_as_not_started() {
    let stage = Stage::with_agents(1).await;
    let mut unknown = stage.order(3, 0, "noop");
    if let Order::Assign(assignment) = &mut unknown {
        assignment.agent = amphi_protocol::ids::AgentId::parse("somebody-else").unwrap();
    }
    let mut unreadable = stage.order(4, 0, "noop");
    if let Order::Assign(assignment) = &mut unreadable {
        assignment.job_json = "{".to_owned();
    }
    stage.tell(vec![unreadable, stage.order(1, 0, "sleep"), stage.order(2, 0, "noop"), unknown]).await;
    for i in [2, 3, 4] {
        assert_eq!(stage.leader.until_ended(&attempt(i)).await, Outcome::NotStarted);
        assert_eq!(stage.begun(&attempt(i)), 0);
    }
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_an_agent_loses_its_attempt_and_restarts_only_this_agent() {
    let stage = Stage::with_agents(2).await;
    let (broken, well) = (stage.agents[0].clone(), stage.agents[1].clone());
    stage.tell(vec![stage.order(1, 0, "panic"), stage.order_with(2, 1, "sleep", json!({"ms": 500}), false)]).await;
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::AgentLost);
    assert_eq!(stage.leader.news(&attempt(1))[0], AttemptNews::Started { pid: None });
    stage.leader.until("the restart", |leader| leader.agent_reports().contains(&(broken.clone(), AgentLife::Up, 1))).await;
    assert_eq!(stage.leader.until_ended(&attempt(2)).await, Outcome::Succeeded);
    stage.tell(vec![stage.order(3, 0, "noop")]).await;
    assert_eq!(stage.leader.until_ended(&attempt(3)).await, Outcome::Succeeded);
    assert_eq!(stage.leader.agent_reports(), [(broken.clone(), AgentLife::Down, 0), (broken.clone(), AgentLife::Up, 1)]);
    let snapshot = stage.desk.snapshot().await.unwrap();
    let restarts = |agent| snapshot.agents.iter().find(|slot| slot.info.agent == agent).unwrap().restarts;
    assert_eq!((restarts(broken), restarts(well)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_hung_agent_is_killed_and_delays_nobody_else() {
    let stage = Stage::with_agents(2).await;
    let begin = Instant::now();
    stage.tell(vec![stage.order(1, 0, "hang"), stage.order(2, 1, "noop")]).await;
    assert_eq!(stage.leader.until_ended(&attempt(2)).await, Outcome::Succeeded);
    assert!(begin.elapsed() < Duration::from_secs(1), "the other agent waited {:?}", begin.elapsed());
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::AgentLost);
    let noticed = begin.elapsed();
    assert!(noticed >= Duration::from_secs(10) && noticed < Duration::from_secs(16), "noticed after {noticed:?}");
    let up = (stage.agents[0].clone(), AgentLife::Up, 1);
    stage.leader.until("the restart", |leader| leader.agent_reports().contains(&up)).await;
    stage.tell(vec![stage.order(3, 0, "noop")]).await;
    assert_eq!(stage.leader.until_ended(&attempt(3)).await, Outcome::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_works_long_is_not_taken_for_hung() {
    let stage = Stage::with_agents(1).await;
    stage.tell(vec![stage.order_with(1, 0, "sleep", json!({"ms": 100_000}), false)]).await;
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::Succeeded);
    assert_eq!(stage.leader.agent_reports(), []);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_of_a_hung_agent_ends_the_attempt_as_cancelled_within_ten_seconds() {
    let stage = Stage::with_agents(1).await;
    stage.tell(vec![stage.order(1, 0, "hang")]).await;
    stage.leader.until("the start", |leader| !leader.news(&attempt(1)).is_empty()).await;
    let begin = Instant::now();
    stage.tell(vec![Order::Cancel { attempt: attempt(1) }, Order::Cancel { attempt: attempt(1) }]).await;
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::Cancelled);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    stage.until_settled().await;
    assert_eq!(ends(&stage, 1), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_attempt_is_reported_only_when_nothing_of_it_lives() {
    let stage = Stage::with_agents(1).await;
    stage.tell(vec![stage.order(1, 0, "stubborn")]).await;
    stage.leader.until("the start", |leader| !leader.news(&attempt(1)).is_empty()).await;
    let begin = Instant::now();
    stage.tell(vec![Order::Cancel { attempt: attempt(1) }]).await;
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::Cancelled);
    assert!(begin.elapsed() >= Duration::from_secs(5));
    assert_eq!(stage.alive(), 0);
    assert_eq!(stage.leader.agent_reports(), [], "an agent that hears the cancel is not killed");
}

#[tokio::test(start_paused = true)]
async fn a_job_outlives_its_agent_only_until_it_is_confirmed_dead() {
    let stage = Stage::with_agents(1).await;
    stage.tell(vec![stage.order(1, 0, "stubborn")]).await;
    stage.leader.until("the start", |leader| !leader.news(&attempt(1)).is_empty()).await;
    let cell = ractor::registry::where_is(&stage.agents[0]).unwrap();
    cell.kill();
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::AgentLost);
    assert_eq!(stage.alive(), 0);
    // The restarted agent counts as up only after the old attempt is over: before, it could take nothing.
    let up = (stage.agents[0].clone(), AgentLife::Up, 1);
    stage.leader.until("the restart", |leader| leader.agent_reports().contains(&up)).await;
    let journal = stage.leader.journal();
    let place = |wanted: &dyn Fn(&Input) -> bool| journal.iter().position(wanted).unwrap();
    let down = place(&|input| matches!(input, Input::Agent(report) if report.state == AgentLife::Down));
    let end = place(&|input| matches!(input, Input::Attempt(report) if is_end(&report.what, Outcome::AgentLost)));
    let up = place(&|input| matches!(input, Input::Agent(report) if report.state == AgentLife::Up));
    assert!(down < end && end < up, "down {down}, end {end}, up {up}");
}

#[tokio::test(start_paused = true)]
async fn a_claimed_attempt_begins_when_its_claim_is_on_record() {
    let stage = Stage::with_agents(1).await;
    stage.tell(vec![stage.claimed_order(1, 0, "noop")]).await;
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::Succeeded);
    assert_eq!(stage.leader.news(&attempt(1))[0], AttemptNews::Claim);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_answered_by_nobody_does_not_begin() {
    let stage = Stage::with_agents(1).await;
    stage.leader.set_mood(Mood::Away);
    let begin = Instant::now();
    stage.tell(vec![stage.claimed_order(1, 0, "noop")]).await;
    while stage.desk.snapshot().await.unwrap().agents[0].attempt.is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let given_up = begin.elapsed();
    assert!(given_up >= Duration::from_secs(5) && given_up < Duration::from_secs(6), "{given_up:?}");
    stage.leader.set_mood(Mood::Present);
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::NotStarted);
    // The late verdict and the late go change nothing.
    stage.tell(vec![Order::Go { attempt: attempt(1) }]).await;
    stage.until_settled().await;
    assert_eq!((stage.begun(&attempt(1)), ends(&stage, 1)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_go_begins_a_claim_whose_acknowledgement_was_lost() {
    let stage = Stage::with_agents(1).await;
    stage.leader.set_mood(Mood::Mute);
    stage.tell(vec![stage.claimed_order(1, 0, "noop")]).await;
    stage.leader.until("the claim", |leader| leader.news(&attempt(1)) == [AttemptNews::Claim]).await;
    stage.tell(vec![Order::Go { attempt: attempt(1) }, Order::Go { attempt: attempt(1) }]).await;
    stage.leader.set_mood(Mood::Present);
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::Succeeded);
    assert_eq!(stage.begun(&attempt(1)), 1);
}

#[tokio::test]
async fn a_go_that_comes_after_the_node_was_frozen_begins_nothing() {
    let settings = DeskSettings { claim: Duration::from_millis(300), ..DeskSettings::default() };
    let stage = Stage::with_settings(1, Mood::Away, settings).await;
    while ractor::registry::where_is(&stage.agents[0]).is_none() {
        tokio::task::yield_now().await;
    }
    stage.tell(vec![stage.claimed_order(1, 0, "noop")]).await;
    // All tasks of this runtime stand still, as under SIGSTOP: when it goes on, the go is there before the timer was looked at.
    std::thread::sleep(Duration::from_millis(600));
    stage.tell(vec![Order::Go { attempt: attempt(1) }]).await;
    stage.leader.set_mood(Mood::Present);
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::NotStarted);
    assert_eq!(stage.begun(&attempt(1)), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_claim_never_begins() {
    let stage = Stage::with_agents(1).await;
    stage.leader.set_mood(Mood::Away);
    stage.tell(vec![stage.claimed_order(1, 0, "noop"), Order::Cancel { attempt: attempt(1) }, Order::Go { attempt: attempt(1) }]).await;
    stage.leader.set_mood(Mood::Present);
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::NotStarted);
    stage.until_settled().await;
    assert_eq!(stage.begun(&attempt(1)), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_overtakes_its_assignment_wins() {
    let stage = Stage::with_agents(1).await;
    stage.tell(vec![Order::Cancel { attempt: attempt(1) }, stage.order(1, 0, "noop"), stage.order(1, 0, "noop")]).await;
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::NotStarted);
    stage.until_settled().await;
    assert_eq!((stage.begun(&attempt(1)), ends(&stage, 1)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_the_leader_does_not_know_as_open_is_ended() {
    let stage = Stage::with_agents(2).await;
    stage.leader.refuse(attempt(1), "state.conflict");
    stage.leader.refuse(attempt(2), "state.conflict");
    stage.tell(vec![stage.order(1, 0, "sleep"), stage.claimed_order(2, 1, "noop")]).await;
    while stage.desk.snapshot().await.unwrap().agents.iter().any(|agent| agent.attempt.is_some()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((stage.alive(), stage.begun(&attempt(1)), stage.begun(&attempt(2))), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_command_for_another_life_or_of_an_older_term_changes_nothing() {
    let stage = Stage::with_agents(1).await;
    let mut command = stage.command(vec![stage.order(1, 0, "noop")]);
    command.incarnation = Incarnation(999);
    assert_eq!(stage.desk.command(command).await, Some(NodeAnswer::OtherIncarnation { incarnation: stage::LIFE }));
    let mut command = stage.command(Vec::new());
    command.epoch = Epoch(7);
    assert_eq!(stage.desk.command(command).await, Some(NodeAnswer::Confirmed));
    let old = stage.command(vec![stage.order(1, 0, "noop")]);
    assert_eq!(stage.desk.command(old).await, Some(NodeAnswer::OldEpoch { epoch: Epoch(7) }));
    assert_eq!(stage.desk.snapshot().await.unwrap().agents[0].attempt, None);
    assert_eq!(stage.begun(&attempt(1)), 0);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_panics_costs_the_attempt_and_not_the_agent() {
    let stage = Stage::with_agents(1).await;
    stage.tell(vec![stage.order(1, 0, "engine_panic")]).await;
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::AgentLost);
    stage.tell(vec![stage.order(2, 0, "noop")]).await;
    assert_eq!(stage.leader.until_ended(&attempt(2)).await, Outcome::Succeeded);
    assert_eq!(stage.leader.agent_reports(), []);
}

#[tokio::test(start_paused = true)]
async fn an_order_to_restart_an_agent_reaches_its_supervisor() {
    let stage = Stage::with_agents(1).await;
    stage.tell(vec![Order::RestartAgent { agent: stage.agents[0].clone() }]).await;
    assert_eq!(*stage.restarted.lock().unwrap(), stage.agents);
}
