//! The laws of agents that come and leave: the leader hears of both, and nobody who works is let go.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod stage;

use amphi_agents::DeskMessage;
use amphi_protocol::ids::{AgentId, RoleName};
use amphi_protocol::journal::{AgentInfo, AgentLife, Input, Outcome, StaffCause, StaffReport};
use stage::{Stage, attempt};

fn staff(journal: &[Input]) -> Vec<&StaffReport> {
    let mut reports = Vec::new();
    for input in journal {
        if let Input::Staff(report) = input {
            reports.push(report);
        }
    }
    reports
}

async fn until_left(stage: &Stage, agent: &AgentId) {
    stage.leader.until("the leave", |leader| staff(&leader.journal()).iter().any(|report| report.removed.contains(agent))).await;
    stage.until_settled().await;
    assert_eq!(*stage.left.lock().unwrap(), vec![agent.clone()], "its actor may go, once");
    assert!(stage.desk.snapshot().await.unwrap().agents.iter().all(|known| known.info.agent != *agent), "the desk has forgotten it");
}

fn dismiss(stage: &Stage, agent: usize, for_sure: bool) -> AgentId {
    let agent = stage.agents[agent].clone();
    stage.desk.tell(DeskMessage::Dismiss { agent: agent.clone(), cause: StaffCause::Idle, for_sure });
    agent
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_came_later_is_told_to_the_leader() {
    let stage = Stage::with_agents(1).await;
    let info = AgentInfo { agent: AgentId::parse("later-1").unwrap(), role: RoleName::parse("Auditor").unwrap(), skills: Vec::new() };
    stage.desk.tell(DeskMessage::Hire { added: vec![info.clone()], cause: StaffCause::Queue });
    stage.leader.until("the hire", |leader| !staff(&leader.journal()).is_empty()).await;
    let journal = stage.leader.journal();
    assert_eq!((&staff(&journal)[0].added, staff(&journal)[0].cause), (&vec![info], StaffCause::Queue));
}

#[tokio::test(start_paused = true)]
async fn an_idle_agent_leaves_at_once() {
    let stage = Stage::with_agents(2).await;
    let agent = dismiss(&stage, 0, false);
    until_left(&stage, &agent).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_must_go_finishes_first_and_takes_nothing_new() {
    let stage = Stage::with_agents(2).await;
    stage.tell(vec![stage.order_with(1, 0, "sleep", serde_json::json!({"ms": 60_000}), false)]).await;
    let agent = dismiss(&stage, 0, true);
    let down = (agent.clone(), AgentLife::Down, 0);
    stage.leader.until("the leader knows", |leader| leader.agent_reports().contains(&down)).await;
    assert!(staff(&stage.leader.journal()).is_empty(), "it works");
    stage.tell(vec![stage.order(2, 0, "noop")]).await;
    assert_eq!(stage.leader.until_ended(&attempt(2)).await, Outcome::NotStarted);
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::Succeeded);
    until_left(&stage, &agent).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_may_go_stays_when_it_has_work() {
    let stage = Stage::with_agents(2).await;
    stage.tell(vec![stage.order_with(1, 0, "sleep", serde_json::json!({"ms": 60_000}), false)]).await;
    dismiss(&stage, 0, false);
    assert_eq!(stage.leader.until_ended(&attempt(1)).await, Outcome::Succeeded);
    stage.tell(vec![stage.order(2, 0, "noop")]).await;
    assert_eq!(stage.leader.until_ended(&attempt(2)).await, Outcome::Succeeded);
    assert!(staff(&stage.leader.journal()).is_empty() && stage.left.lock().unwrap().is_empty());
}
