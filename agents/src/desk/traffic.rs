//! The desk's conversation with the leader beside commands: joining, verdicts on reports, heartbeats, and leaving in order.

use std::collections::BTreeSet;
use std::time::Duration;

use amphi_protocol::ids::{AttemptRef, Epoch};
use amphi_protocol::journal::{AttemptNews, Input, NodeInfo};
use amphi_protocol::node::Heartbeat;
use ractor::RpcReplyPort;
use tokio::time::Instant;

use super::attempts::{Ending, Phase};
use super::wiring::Beat;
use super::{DeskMessage, DeskSettings, DeskSnapshot, DeskState, Drained};
use crate::link::Verdict;
use crate::outbox::{Settled, Settlement};

/// How often the desk looks whether all agents have started.
const STAFFING_PERIOD: Duration = Duration::from_millis(20);
/// After a refused join.
const JOIN_PAUSE: Duration = Duration::from_secs(1);
/// An order to join again that comes so soon after the join was sent before it.
const JOIN_SETTLING: Duration = Duration::from_secs(3);

/// Whether the leader knows the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Membership {
    /// The agents are starting.
    Staffing {
        /// The node does not wait longer.
        until: Instant,
    },
    /// The join is on its way.
    Joining,
    /// The leader took the node in.
    Joined {
        /// When.
        since: Instant,
    },
    /// The leader forgot the node: what runs is ended, then it joins again.
    Leaving,
}

impl Membership {
    pub(super) fn staffing(settings: &DeskSettings) -> Self {
        Self::Staffing { until: Instant::now() + settings.staffing }
    }
}

/// A drain under way.
pub(super) struct Drain {
    /// Whom to answer; taken when the answer is on its way.
    replies: Vec<RpcReplyPort<Drained>>,
}

impl DeskState {
    pub(super) fn join_due(&mut self) {
        match self.membership {
            Membership::Staffing { until } if !self.is_staffed() && Instant::now() < until => {
                self.later(STAFFING_PERIOD, DeskMessage::JoinDue);
            }
            Membership::Staffing { .. } | Membership::Joining => self.join(),
            Membership::Joined { .. } | Membership::Leaving => {}
        }
    }

    fn join(&mut self) {
        let agents = self.staff_of_a_join();
        let arguments = &self.arguments;
        let info = NodeInfo {
            node: arguments.node.clone(),
            incarnation: arguments.incarnation,
            pid: arguments.pid,
            capacity: arguments.capacity,
            labels: arguments.labels.clone(),
            agents,
            home: arguments.home.clone(),
        };
        self.membership = Membership::Joining;
        self.outbox.push(Input::Join(info));
        self.report_absent();
    }

    /// The leader does not know this life of the node, so no attempt here is open for it. They end before the node joins again,
    /// because a join promises that nothing of before lives.
    pub(super) fn join_again(&mut self) {
        match self.membership {
            Membership::Joined { since } if since.elapsed() >= JOIN_SETTLING => {}
            Membership::Staffing { .. } | Membership::Joining | Membership::Joined { .. } | Membership::Leaving => return,
        }
        tracing::warn!(held = self.held.len(), "the leader does not know this node, it joins again");
        self.membership = Membership::Leaving;
        self.end_all("its node was lost to the leader");
    }

    fn end_all(&mut self, why: &str) {
        for attempt in self.held.keys().cloned().collect::<Vec<_>>() {
            self.end_unbegun(&attempt, why);
            self.end(&attempt, Ending::Lost(why.to_owned()));
        }
    }

    /// What waits for the last attempt to end.
    pub(super) fn after_each(&mut self) {
        if !self.held.is_empty() {
            return;
        }
        if self.membership == Membership::Leaving && self.drain.is_none() {
            self.join();
        }
        let Some(drain) = &mut self.drain else { return };
        let replies = std::mem::take(&mut drain.replies);
        if replies.is_empty() {
            return;
        }
        let (emptied, flush) = (self.outbox.emptied(), self.arguments.settings.flush);
        tokio::spawn(async move {
            let reported = tokio::time::timeout(flush, emptied).await.is_ok();
            for reply in replies {
                let _ = reply.send(Drained { reported });
            }
        });
    }

    pub(super) fn drain(&mut self, grace: Duration, reply: RpcReplyPort<Drained>) {
        if let Some(drain) = &mut self.drain {
            drain.replies.push(reply);
        } else {
            tracing::info!(held = self.held.len(), grace_ms = grace.as_millis() as u64, "the node drains");
            self.withdraw_agents("the node drains");
            self.drain = Some(Drain { replies: vec![reply] });
            for attempt in self.held.keys().cloned().collect::<Vec<_>>() {
                self.end_unbegun(&attempt, "the node drains");
            }
        }
        // A second drain with less patience shortens the first.
        self.later(grace, DeskMessage::GraceOver);
    }

    pub(super) fn grace_over(&mut self) {
        self.end_all("its node stops");
    }

    pub(super) fn settled(&mut self, settlement: Settlement) {
        self.heard_of(settlement.epoch);
        let sent_at = settlement.sent_at;
        for Settled { input, verdict, doubtful } in settlement.settled {
            if let Verdict::Refused(code) = &verdict {
                metrics::counter!("amphi_reports_refused_total").increment(1);
                tracing::debug!(?input, code, doubtful, "the leader refuses a report");
            }
            match (input, verdict) {
                (Input::Join(_), Verdict::Accepted) => self.joined(Some(sent_at)),
                // Sent twice, it was taken the first time. If not, the leader asks for it after the next heartbeat.
                (Input::Join(_), Verdict::Refused(_)) if doubtful => self.joined(None),
                (Input::Join(_), Verdict::Refused(code)) => {
                    tracing::error!(node = %self.arguments.node, code, "the leader refuses the node; it asks again");
                    self.join_refused = Some(code);
                    self.later(JOIN_PAUSE, DeskMessage::JoinDue);
                }
                (Input::Attempt(report), Verdict::Accepted) if report.what == AttemptNews::Claim => self.go(&report.attempt),
                (Input::Attempt(report), Verdict::Accepted) if matches!(report.what, AttemptNews::Intend(_)) => {
                    if let AttemptNews::Intend(intent) = &report.what {
                        self.intended(&report.attempt, &intent.effect);
                    }
                }
                (Input::Staff(report), verdict) => self.leave_settled(&report, &verdict),
                // What was sent twice says nothing when it is refused: the go comes by itself, and other reports follow.
                (Input::Attempt(report), Verdict::Refused(code)) if !doubtful => self.refused(&report.attempt, &code),
                (_, Verdict::Accepted | Verdict::Refused(_)) => {}
            }
        }
    }

    /// A Manager speaks for a term; whoever speaks for an older one is not listened to any more.
    pub(super) fn heard_of(&mut self, epoch: Epoch) {
        self.epoch = self.epoch.max(epoch);
        self.outbox.heard_of(epoch);
    }

    /// `sent_at`: when the request was sent that the leader took; not known if an earlier one may have been it.
    fn joined(&mut self, sent_at: Option<Duration>) {
        tracing::info!(node = %self.arguments.node, incarnation = %self.arguments.incarnation, "joined");
        if self.membership == Membership::Joining {
            self.membership = Membership::Joined { since: Instant::now() };
            self.join_refused = None;
            self.joined_at(sent_at);
        }
    }

    /// The attempt is not open for the leader, so it must not run here.
    fn refused(&mut self, attempt: &AttemptRef, code: &str) {
        if self.held.contains_key(attempt) {
            tracing::warn!(%attempt, code, "the attempt is not open for the leader; it is ended");
            self.end_unbegun(attempt, "its claim was refused");
            self.end(attempt, Ending::Lost("it is not open for the leader".to_owned()));
        }
    }

    pub(super) fn heartbeat(&mut self) {
        // While the connection is down, what was active stays noted for the next heartbeat.
        if !matches!(self.membership, Membership::Joined { .. }) || !self.arguments.bus.is_connected() {
            return;
        }
        // While the one before still waits for the connection there is nothing to gain from another.
        let Ok(permit) = self.heartbeats.try_reserve() else { return };
        let progressed = self.arguments.jobs.take_active();
        // What is still to be told of an attempt is held too: it must not look lost.
        let mut held: BTreeSet<AttemptRef> = self.outbox.attempts();
        held.extend(self.held.keys().cloned());
        let (node, incarnation) = (self.arguments.node.clone(), self.arguments.incarnation);
        let heartbeat = Heartbeat { node, incarnation, progressed, held: held.into_iter().collect() };
        permit.send(Beat { sent_at: (self.arguments.uptime)(), heartbeat });
    }

    pub(super) fn snapshot(&self) -> DeskSnapshot {
        debug_assert!(
            self.held.values().all(|held| held.ending.is_none() || matches!(held.phase, Phase::Given { .. })),
            "an attempt that never began ends at once"
        );
        DeskSnapshot {
            joined: matches!(self.membership, Membership::Joined { .. }),
            refused: self.join_refused.clone(),
            draining: self.drain.is_some(),
            epoch: self.epoch,
            unsettled: self.outbox.len(),
            waiting: self.waiting.clone(),
            agents: self.agent_snapshots(),
        }
    }
}
