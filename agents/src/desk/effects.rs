//! Intents on their way to the journal: a tool waits until its intent is on record, and only then brings its effect about.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use amphi_ports::EffectLedger;
use amphi_protocol::ids::AttemptRef;
use amphi_protocol::journal::{AttemptNews, EffectEnd, EffectIntent};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use ractor::RpcReplyPort;

use super::{DeskHandle, DeskMessage, DeskState};

/// An intent without a verdict.
pub(super) struct Intending {
    intent: EffectIntent,
    /// When it was said last, by the node's own clock.
    since: Duration,
    reply: RpcReplyPort<bool>,
}

impl DeskState {
    pub(super) fn intend(&mut self, attempt: &AttemptRef, intent: EffectIntent, reply: RpcReplyPort<bool>) {
        let since = (self.arguments.uptime)();
        // Dropped, the reply says that it may not.
        let Some(held) = self.held.get_mut(attempt).filter(|held| held.ending.is_none()) else { return };
        held.intending = Some(Intending { intent: intent.clone(), since, reply });
        let token = held.token;
        self.report(attempt, token, AttemptNews::Intend(intent));
    }

    /// It is on record. A node that was frozen in between says it again: the go must be a fresh one, like that of a claim.
    pub(super) fn intended(&mut self, attempt: &AttemptRef, effect: &str) {
        let (now, late_after) = ((self.arguments.uptime)(), self.arguments.settings.claim);
        let Some(held) = self.held.get_mut(attempt) else { return };
        let Some(intending) = held.intending.take_if(|intending| intending.intent.effect == effect) else { return };
        if held.ending.is_some() {
            return;
        }
        if now.saturating_sub(intending.since) <= late_after {
            // Whoever asked may have been ended.
            let _gone = intending.reply.send(true);
            return;
        }
        let (intent, token) = (intending.intent.clone(), held.token);
        held.intending = Some(Intending { since: now, ..intending });
        self.report(attempt, token, AttemptNews::Intend(intent));
    }

    pub(super) fn effect_ended(&mut self, attempt: &AttemptRef, effect: String, end: EffectEnd) {
        let Some(token) = self.held.get(attempt).map(|held| held.token) else { return };
        self.report(attempt, token, AttemptNews::Effect { effect, end });
    }
}

/// The effect ledger of a node: all its desks, of which the one that holds the attempt answers.
#[derive(Default)]
pub struct DeskLedger(RwLock<Vec<DeskHandle>>);

impl DeskLedger {
    /// Another desk of the node.
    pub fn add(&self, desk: DeskHandle) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(desk);
    }

    fn desks(&self) -> Vec<DeskHandle> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl EffectLedger for DeskLedger {
    fn intend<'a>(&'a self, attempt: &'a AttemptRef, intent: EffectIntent) -> BoxFuture<'a, bool> {
        let (desks, attempt) = (self.desks(), attempt.clone());
        async move {
            for desk in desks {
                let (attempt, intent) = (attempt.clone(), intent.clone());
                // A desk that does not hold it, or holds it no more, drops the question.
                if desk.ask(|reply| DeskMessage::Intend { attempt, intent, reply }).await == Some(true) {
                    return true;
                }
            }
            false
        }
        .boxed()
    }

    fn ended(&self, attempt: &AttemptRef, effect: &str, end: EffectEnd) {
        for desk in self.desks() {
            desk.tell(DeskMessage::EffectEnded { attempt: attempt.clone(), effect: effect.to_owned(), end: end.clone() });
        }
    }
}
