//! The node's own fence. A Manager that does not hear the node for long enough gives the node's write locks to others and takes its
//! `retry: 0` attempts for lost, so the node ends these attempts before, by itself: nobody can reach it to tell it.
//!
//! Only time since the *sending* of a heartbeat that was acknowledged counts, measured by the node's own clock, which goes on while the
//! machine sleeps: the Manager heard it later than it was sent, so the node's time is over first. Attempts without a write lock run on;
//! an outage kills nobody's ordinary work.

use std::sync::Arc;
use std::time::Duration;

use amphi_protocol::ids::AttemptRef;
use amphi_protocol::node::{HeartbeatAnswer, Standing};

use super::attempts::Ending;
use super::traffic::Membership;
use super::{DeskMessage, DeskState};

/// The node's own clock: time since some moment that stays the same in a life of the node. It must go on while the machine sleeps.
pub type Uptime = Arc<dyn Fn() -> Duration + Send + Sync>;

/// How often the desk looks at it, beside every message that it handles.
pub(super) const FENCE_PERIOD: Duration = Duration::from_millis(250);

impl DeskState {
    /// The Manager acknowledged a heartbeat that was sent at `sent_at`.
    pub(super) fn heartbeat_answered(&mut self, sent_at: Duration, answer: HeartbeatAnswer) {
        if answer.epoch < self.epoch {
            // A Manager that was deposed and has not noticed: it gives no locks on, so its word is worth nothing here.
            return;
        }
        self.heard_of(answer.epoch);
        match answer.standing {
            Standing::Member => {
                self.acknowledged(sent_at);
                self.heard_waiting(answer.waiting);
            }
            // What was sent before the present membership says nothing about it.
            Standing::Stranger if sent_at > self.joined_at => self.join_again(),
            Standing::Stranger => {}
            Standing::Outlived => tracing::error!(node = %self.arguments.node, "a later life of this node has joined"),
        }
    }

    /// The leader has decided something about this node on the word of what it sent at `sent_at`.
    pub(super) fn acknowledged(&mut self, sent_at: Duration) {
        self.acknowledged = self.acknowledged.max(sent_at);
    }

    pub(super) fn fence_is_over(&self) -> bool {
        (self.arguments.uptime)() > self.acknowledged + self.arguments.settings.fence
    }

    /// Ends what somebody else may soon be given, at once and without a grace.
    pub(super) fn fence(&mut self) {
        if !self.held.values().any(|held| held.fenced && !held.hurry.is_cancelled()) || !self.fence_is_over() {
            return;
        }
        let silence = (self.arguments.uptime)().saturating_sub(self.acknowledged);
        let fenced: Vec<AttemptRef> = self.held.iter().filter(|(_, held)| held.fenced).map(|(attempt, _)| attempt.clone()).collect();
        let why = format!("no Manager has acknowledged this node for {} s", silence.as_secs());
        tracing::warn!(
            attempts = fenced.len(),
            silence_ms = silence.as_millis() as u64,
            "the fence is over: attempts with a write lock or `retry: 0` are ended"
        );
        metrics::counter!("amphi_attempts_fenced_total").increment(fenced.len() as u64);
        for attempt in fenced {
            self.end_unbegun(&attempt, &why);
            self.end(&attempt, Ending::Lost(why.clone()));
            if let Some(held) = self.held.get(&attempt) {
                held.hurry.cancel();
            }
        }
    }

    /// A node that has just joined is acknowledged by its join; its heartbeats follow at once.
    pub(super) fn joined_at(&mut self, sent_at: Option<Duration>) {
        if let Some(sent_at) = sent_at {
            self.acknowledged(sent_at);
        }
        self.joined_at = (self.arguments.uptime)();
        debug_assert!(!matches!(self.membership, Membership::Leaving), "a node that leaves has not joined");
        // The desk lives, or nobody needs it.
        let _gone = self.myself.cast(DeskMessage::HeartbeatDue);
    }
}
