//! Agents and nodes that an operator holds: nothing new for them, and from a drained one what it runs goes to others.
//!
//! A drain never costs a task anything: what has not begun moves at once, what runs may finish for a while, the rest is ended and tried
//! elsewhere without counting. What must not be tried again (`retry: 0`) and may have begun is left alone; the drain waits for it.

use amphi_protocol::api::ErrorCode;
use amphi_protocol::ids::AttemptRef;
use amphi_protocol::journal::{CancelCause, Decision, Duty, Hold, Post};

use crate::decide::inputs::conflict;
use crate::decide::{Deciding, Refusal};
use crate::epic::AttemptPhase;

/// Longest grace of a drain: a day.
pub const GRACE_MS_MAX: u64 = 86_400_000;

impl Deciding<'_> {
    pub(super) fn hold(&mut self, post: &Post, hold: Hold, by: &str) -> Result<(), Refusal> {
        match post {
            Post::Agent(id) => {
                let known = self.state.fleet.agents.get(id);
                let Some(agent) = known else {
                    return Err(Refusal::error(ErrorCode::AgentNotFound, format!("there is no agent {id}"), "`amphi agent ls` lists them"));
                };
                let node = self.state.fleet.nodes.get(&agent.node);
                if hold == Hold::Resume && node.is_some_and(|node| node.duty != Duty::Active) {
                    let message = format!("{id} takes nothing because its node {} is drained", agent.node);
                    return Err(Refusal::error(ErrorCode::StateConflict, message, format!("`amphi node drain {} --off`", agent.node)));
                }
            }
            Post::Node(id) => {
                let known = self.state.fleet.nodes.get(id);
                let Some(node) = known else {
                    return Err(Refusal::error(ErrorCode::NodeNotFound, format!("there is no node {id}"), "`amphi node ls` lists them"));
                };
                if !node.alive {
                    return Err(conflict(format!("{id} is lost; it comes back as a new one")));
                }
                if hold == Hold::Pause {
                    return Err(conflict("a node is drained, only an agent is paused"));
                }
            }
        }
        let duty = match hold {
            Hold::Resume => Duty::Active,
            Hold::Pause => Duty::Paused,
            Hold::Drain { grace_ms } => Duty::Draining { until: self.state.now.after_ms(grace_ms.min(GRACE_MS_MAX)) },
        };
        self.put(Decision::Held { post: post.clone(), duty, by: by.to_owned() });
        if let Duty::Draining { .. } = duty {
            self.hand_over(post, false);
        }
        Ok(())
    }

    /// Ends what may be ended: what certainly has not begun, or also what has.
    fn hand_over(&mut self, post: &Post, begun_too: bool) {
        let movable = |at: &AttemptRef| {
            let epic = &self.state.epics[&at.epic];
            epic.open(at.i).is_some_and(|open| {
                let begun = open.phase != AttemptPhase::Assigned;
                // What is bringing something about outside finishes that first.
                let in_effect = epic.instances[at.i as usize].has_open_effect();
                open.cancelling.is_none() && !in_effect && (!begun || (begun_too && !epic.spec_of(at.i).retry.is_once()))
            })
        };
        let moving: Vec<AttemptRef> = self.state.fleet.running(post).into_iter().filter(movable).collect();
        for attempt in moving {
            self.put(Decision::AttemptCancelling { attempt, cause: CancelCause::Drain });
        }
    }

    /// The graces that are over. One tick looks at one post only: it bounds the commit, and the rest is due at once again.
    pub(super) fn hand_over_what_is_due(&mut self) {
        let due = self.state.fleet.graces.first().filter(|(at, _)| *at <= self.state.now).map(|(_, post)| post.clone());
        if let Some(post) = due {
            self.put(Decision::GraceEnded { post: post.clone() });
            self.hand_over(&post, true);
        }
    }
}
