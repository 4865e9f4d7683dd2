//! The laws of a node's reports: nothing is lost, nothing is told twice, everything in order; and of joining, heartbeats and leaving.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod stage;

use std::sync::atomic::Ordering;
use std::time::Duration;

use amphi_agents::desk::wiring::serve_commands;
use amphi_agents::{BusLeaderLink, LeaderLink, LinkError, Verdict};
use amphi_ports::{BusMessage, MessageBus};
use amphi_protocol::codec;
use amphi_protocol::ids::ShardId;
use amphi_protocol::journal::{AgentLife, AttemptNews, Input, Outcome};
use amphi_protocol::node::{Heartbeat, NodeAnswer, Order};
use amphi_protocol::subjects;
use bytes::Bytes;
use serde_json::json;
use stage::{Mood, Stage, attempt};
use tokio::time::Instant;

fn joins(journal: &[Input]) -> usize {
    journal.iter().filter(|input| matches!(input, Input::Join(_))).count()
}

fn no_repetition(journal: &[Input]) {
    for (at, input) in journal.iter().enumerate() {
        assert!(!journal[..at].contains(input), "told twice: {input:?}");
    }
}

async fn work_with_a_leader_in(mood: Mood) {
    let stage = Stage::with_agents(3).await;
    stage.leader.set_mood(mood);
    stage.tell((1..=3).map(|i| stage.order(i, i as usize - 1, "noop")).collect()).await;
    for i in 4..=30 {
        // One agent after the other has ended its attempt without a leader that hears of it.
        let agent = i as usize % 3;
        while stage.desk.snapshot().await.unwrap().agents[agent].attempt.is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stage.tell(vec![stage.order(i, agent, "noop")]).await;
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    stage.leader.set_mood(Mood::Present);
    stage.leader.until("all ends", |leader| (1..=30).all(|i| leader.outcome(&attempt(i)).is_some())).await;
    stage.until_settled().await;
    no_repetition(&stage.leader.journal());
    for i in 1..=30 {
        let news = stage.leader.news(&attempt(i));
        assert!(matches!(&news[..], [AttemptNews::Started { .. }, AttemptNews::Ended(_)]), "attempt {i}: {news:?}");
        assert_eq!(stage.begun(&attempt(i)), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn reports_are_held_while_nobody_leads_and_told_in_order_later() {
    work_with_a_leader_in(Mood::Away).await;
}

#[tokio::test(start_paused = true)]
async fn reports_whose_acknowledgement_was_lost_are_sent_again_and_count_once() {
    work_with_a_leader_in(Mood::Mute).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_what_was_sent_twice_ends_no_job() {
    let stage = Stage::with_agents(1).await;
    stage.leader.set_mood(Mood::Mute);
    stage.tell(vec![stage.order_with(1, 0, "sleep", json!({"ms": 60_000}), false)]).await;
    stage.leader.until("the start", |leader| !leader.news(&attempt(1)).is_empty()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    stage.leader.set_mood(Mood::Present);
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn what_accumulates_during_a_request_goes_with_the_next_one() {
    let stage = Stage::with_agents(3).await;
    stage.leader.set_mood(Mood::Away);
    stage.tell((1..=3).map(|i| stage.order(i, i as usize - 1, "noop")).collect()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    stage.leader.set_mood(Mood::Present);
    let before = stage.leader.requests();
    stage.until_settled().await;
    assert!(stage.leader.requests() - before <= 2, "6 reports took {} requests", stage.leader.requests() - before);
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_at_most_once_a_second_and_the_last_word_counts() {
    let stage = Stage::with_agents(1).await;
    stage.tell(vec![stage.order(1, 0, "chatty")]).await;
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::Succeeded);
    let percents: Vec<u8> = stage
        .leader
        .news(&attempt(1))
        .into_iter()
        .filter_map(|news| match news {
            AttemptNews::Progress { percent, .. } => percent,
            _ => None,
        })
        .collect();
    assert!((5..=8).contains(&percents.len()), "100 in 5 s became {percents:?}");
    assert!(percents.is_sorted() && percents.last() == Some(&99), "{percents:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_joins_once_with_all_its_agents_however_long_nobody_leads() {
    for mood in [Mood::Away, Mood::Mute] {
        let stage = Stage::starting(2, mood).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(!stage.desk.snapshot().await.unwrap().joined);
        stage.leader.set_mood(Mood::Present);
        stage.until_settled().await;
        let journal = stage.leader.journal();
        assert_eq!(joins(&journal), 1);
        assert!(matches!(&journal[0], Input::Join(info) if info.agents.len() == 2 && info.incarnation == stage::LIFE));
        assert!(stage.desk.snapshot().await.unwrap().joined, "after {mood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_node_ends_what_it_runs_before_it_joins_again() {
    let stage = Stage::with_agents(2).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    stage.tell(vec![stage.order(1, 0, "stubborn"), stage.order(2, 1, "sleep")]).await;
    stage.leader.until("both starts", |leader| (1..=2).all(|i| !leader.news(&attempt(i)).is_empty())).await;
    stage.leader.forget_node();
    stage.tell(vec![Order::JoinAgain]).await;
    stage.tell(vec![Order::JoinAgain]).await;
    stage.leader.until("the second join", |leader| joins(&leader.journal()) == 2).await;
    assert_eq!(stage.alive(), 0);
    let journal = stage.leader.journal();
    assert!(matches!(journal.last(), Some(Input::Join(_))), "a join promises that nothing of before lives");
    assert_eq!((1..=2).map(|i| stage.leader.outcome(&attempt(i))).collect::<Vec<_>>(), [Some(Outcome::AgentLost); 2]);
    stage.tell(vec![stage.order(3, 0, "noop")]).await;
    assert_eq!(stage.leader.until_ended(&attempt(3)).await, Outcome::Succeeded);
    assert_eq!(joins(&stage.leader.journal()), 2, "the second order to join again was not new");
}

#[tokio::test(start_paused = true)]
async fn the_link_asks_with_json_and_takes_only_a_verdict_for_each_input() {
    let stage = Stage::with_agents(1).await;
    let bus: std::sync::Arc<dyn MessageBus> = stage.bus.clone();
    let link = BusLeaderLink::new(bus, stage.node.clone(), ShardId(0), Duration::from_secs(3));
    let inputs = stage.leader.journal();
    assert!(matches!(link.send(inputs.clone()).await, Err(LinkError::NoLeader)));
    *stage.bus.answer.lock().unwrap() = Some(r#"{"results":[{"ok":true}],"epoch":4,"index":5}"#.to_owned());
    let reply = link.send(inputs.clone()).await.unwrap();
    assert_eq!((reply.epoch.0, reply.index.0, reply.results), (4, 5, vec![Verdict::Accepted]));
    let asked = stage.bus.next(&subjects::to_leader(&stage.node, ShardId(0))).await;
    let body: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(serde_json::from_value::<Vec<Input>>(body["inputs"].clone()).unwrap(), inputs);
    assert!(matches!(link.send([inputs.clone(), inputs].concat()).await, Err(LinkError::Malformed(_))));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_name_what_the_node_holds_and_what_was_active() {
    let stage = Stage::with_agents(1).await;
    let subject = subjects::heartbeat(&stage.node, ShardId(0));
    let read = |message: BusMessage| {
        assert_eq!(message.headers.get(subjects::CODEC_HEADER).map(String::as_str), Some("bincode/1"));
        codec::decode::<Heartbeat>(&message.body).unwrap()
    };
    let joined = read(stage.bus.next(&subject).await);
    assert_eq!((joined.held, joined.progressed), (vec![], vec![]), "a node that has joined is heard at once");
    stage.tell(vec![stage.order(1, 0, "sleep")]).await;
    let first = read(stage.bus.next(&subject).await);
    assert_eq!((first.node, first.incarnation), (stage.node.clone(), stage::LIFE));
    assert_eq!((first.held, first.progressed), (vec![attempt(1)], vec![attempt(1)]));
    let second = read(stage.bus.next(&subject).await);
    assert_eq!((second.held, second.progressed), (vec![attempt(1)], vec![]));
    stage.bus.down.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(stage.bus.published.lock().unwrap().iter().filter(|message| message.subject == subject).count() <= 1);
}

#[tokio::test(start_paused = true)]
async fn commands_come_over_the_bus_and_garbage_stops_nothing() {
    let stage = Stage::with_agents(1).await;
    let subject = subjects::node_commands(&stage.node, ShardId(0));
    let bus: std::sync::Arc<dyn MessageBus> = stage.bus.clone();
    tokio::spawn(serve_commands(bus, (stage.node.clone(), ShardId(0)), stage.desk.clone()));
    while !stage.bus.listens(&subject) {
        tokio::task::yield_now().await;
    }
    let message = |body: Vec<u8>| BusMessage {
        subject: subject.clone(),
        reply: Some("inbox".to_owned()),
        headers: [(subjects::CODEC_HEADER.to_owned(), "bincode/1".to_owned())].into(),
        body: Bytes::from(body),
    };
    stage.bus.deliver(message(vec![0xff; 64]));
    stage.bus.deliver(message(Vec::new()));
    stage.bus.deliver(message(codec::encode(&stage.command(vec![stage.order(1, 0, "noop")]))));
    let answer = stage.bus.next("inbox").await;
    assert_eq!(codec::decode::<NodeAnswer>(&answer.body).unwrap(), NodeAnswer::Confirmed);
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_draining_node_takes_nothing_new_and_lets_what_runs_finish() {
    let stage = Stage::with_agents(2).await;
    stage.tell(vec![stage.order_with(1, 0, "sleep", json!({"ms": 8000}), false)]).await;
    let (begin, desk) = (Instant::now(), stage.desk.clone());
    let drain = tokio::spawn(async move { desk.drain(Duration::from_secs(30)).await });
    while !stage.desk.snapshot().await.unwrap().draining {
        tokio::task::yield_now().await;
    }
    stage.tell(vec![stage.order(2, 1, "noop")]).await;
    assert!(drain.await.unwrap().unwrap().reported);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(stage.leader.outcome(&attempt(1)), Some(Outcome::Succeeded));
    assert_eq!(stage.leader.outcome(&attempt(2)), Some(Outcome::NotStarted));
    let down = stage.leader.agent_reports().into_iter().filter(|(_, life, _)| *life == AgentLife::Down).count();
    assert_eq!(down, 2, "a node that drains offers no agent");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_returns_during_a_drain_is_not_offered() {
    let stage = Stage::with_agents(1).await;
    stage.tell(vec![stage.order(1, 0, "stubborn")]).await;
    stage.leader.until("the start", |leader| !leader.news(&attempt(1)).is_empty()).await;
    ractor::registry::where_is(&stage.agents[0]).unwrap().kill();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(stage.desk.drain(Duration::from_secs(30)).await.unwrap().reported);
    assert_eq!(stage.leader.agent_reports(), [(stage.agents[0].clone(), AgentLife::Down, 0)]);
}

#[tokio::test(start_paused = true)]
async fn what_still_runs_after_the_grace_is_ended_and_may_run_elsewhere() {
    let stage = Stage::with_agents(2).await;
    stage.tell(vec![stage.order(1, 0, "stubborn"), stage.order(2, 1, "hang")]).await;
    let drained = stage.desk.drain(Duration::from_secs(3)).await.unwrap();
    assert!(drained.reported);
    assert_eq!(stage.leader.outcome(&attempt(1)), Some(Outcome::AgentLost));
    assert_eq!(stage.leader.outcome(&attempt(2)), Some(Outcome::AgentLost));
    assert_eq!(stage.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_a_leader_ends_and_says_that_it_was_not_heard() {
    let stage = Stage::with_agents(1).await;
    stage.leader.set_mood(Mood::Away);
    stage.tell(vec![stage.order(1, 0, "noop")]).await;
    let drained = stage.desk.drain(Duration::from_secs(3)).await.unwrap();
    assert!(!drained.reported);
}
