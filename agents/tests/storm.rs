//! A node under everything at once, on real threads: whatever happens, each attempt has one end, its start before it, and nothing of it
//! lives after it.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod stage;

use std::time::Duration;

use amphi_agents::DeskSettings;
use amphi_protocol::journal::{AgentLife, AttemptNews, Outcome};
use amphi_protocol::node::Order;
use serde_json::json;
use stage::{Mood, Stage, attempt};

const AGENTS: usize = 6;
const ATTEMPTS: u32 = 400;

/// splitmix64: what happens depends only on the seed, though not when.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

/// Waits for an agent that can take an attempt.
async fn free_agent(stage: &Stage) -> usize {
    loop {
        let agents = stage.desk.snapshot().await.unwrap().agents;
        let free = agents.iter().position(|agent| agent.attempt.is_none() && agent.life == AgentLife::Up);
        if let Some(agent) = free {
            return stage.agents.iter().position(|known| *known == agents[agent].info.agent).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_attempt_ends_once_whatever_happens_to_agents_and_leader() {
    // A claim without a leader blocks its agent for so long.
    let settings = DeskSettings { claim: Duration::from_millis(100), ..DeskSettings::default() };
    let stage = Stage::with_settings(AGENTS as u32, Mood::Present, settings).await;
    stage.leader.until("the join", |leader| !leader.journal().is_empty()).await;
    let mut dice = Dice(7);
    for i in 1..=ATTEMPTS {
        let mut agent = dice.below(AGENTS as u64) as usize;
        if dice.below(4) > 0 {
            agent = free_agent(&stage).await;
        }
        let tool = ["noop", "sleep", "panic", "engine_panic", "sleep", "noop"][dice.below(6) as usize];
        let order = stage.order_with(i, agent, tool, json!({"ms": dice.below(20)}), dice.below(3) == 0);
        let mut orders = vec![order.clone()];
        match dice.below(8) {
            0 => orders.push(Order::Cancel { attempt: attempt(i) }),
            1 => orders.push(order),
            2 => orders.insert(0, Order::Cancel { attempt: attempt(i) }),
            3 => {
                if let Some(cell) = ractor::registry::where_is(&stage.agents[agent]) {
                    cell.kill();
                }
            }
            4 => stage.leader.set_mood([Mood::Present, Mood::Mute, Mood::Away][dice.below(3) as usize]),
            _ => {}
        }
        stage.tell(orders).await;
        tokio::time::sleep(Duration::from_millis(dice.below(8))).await;
    }
    stage.leader.set_mood(Mood::Present);
    stage.leader.until("all ends", |leader| (1..=ATTEMPTS).all(|i| leader.outcome(&attempt(i)).is_some())).await;
    stage.until_settled().await;
    assert_eq!(stage.alive(), 0);
    let mut outcomes = [0; 4];
    for i in 1..=ATTEMPTS {
        let news = stage.leader.news(&attempt(i));
        let ends = news.iter().filter(|news| matches!(news, AttemptNews::Ended(_))).count();
        let starts = news.iter().filter(|news| matches!(news, AttemptNews::Started { .. })).count();
        let outcome = stage.leader.outcome(&attempt(i)).unwrap();
        assert!(ends == 1 && matches!(news.last(), Some(AttemptNews::Ended(_))), "attempt {i}: {news:?}");
        assert!(stage.begun(&attempt(i)) <= 1, "attempt {i} began twice");
        if outcome == Outcome::NotStarted {
            assert_eq!((starts, stage.begun(&attempt(i))), (0, 0), "attempt {i} is said not to have begun");
        } else {
            assert_eq!(starts, 1, "attempt {i}: {news:?}");
        }
        let place = [Outcome::Succeeded, Outcome::NotStarted, Outcome::AgentLost, Outcome::Cancelled];
        outcomes[place.iter().position(|known| *known == outcome).unwrap()] += 1;
    }
    assert!(outcomes.iter().all(|count| *count > 0), "a storm brings every end about: {outcomes:?}");
    println!("succeeded, not started, lost, cancelled: {outcomes:?}");
}
