//! The effect ledger, as tools use it: what is to happen outside is on record before it happens, and what became of it after.
//!
//! An attempt that finds that an earlier one was about to bring the effect about asks whoever is concerned, by the key. Where nobody can
//! say, it ends without a guess: the Manager asks a person. Which tools have a ledger is written in `amphi_protocol::journal::effect`.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use amphi_ports::{EffectLedger, JobOrder};
use amphi_protocol::ids::{AttemptRef, Token};
use amphi_protocol::journal::{EffectEnd, EffectIntent, KnownEffect, Outcome};

use super::ToolError;

/// What a tool gives.
pub(super) type Outputs = BTreeMap<String, String>;

/// The ledger of one attempt.
pub(super) struct Ledger {
    /// Without one (outside of a node) everything may happen.
    port: Option<Arc<dyn EffectLedger>>,
    attempt: AttemptRef,
    known: BTreeMap<String, KnownEffect>,
    /// The same over the attempts of a run.
    pub key: String,
    /// The attempt's fencing token.
    pub token: Token,
}

/// What whoever is concerned says about an effect.
pub(super) enum Asked {
    /// It happened.
    There(Outputs),
    /// It did not.
    NotThere(String),
    /// Nobody can say.
    Nobody(String),
}

/// What became of an effect.
pub(super) enum Acted {
    /// It happened.
    Done(Outputs),
    /// It certainly did not.
    NotDone(ToolError),
    /// No word came back.
    Unheard(String),
}

impl Ledger {
    pub fn new(port: Option<Arc<dyn EffectLedger>>, order: &JobOrder) -> Self {
        let (key, known) = (order.job.idempotency_key.clone(), order.job.effects.clone());
        Self { port, attempt: order.attempt.clone(), known, key, token: order.token }
    }

    /// True if an earlier attempt was about to bring it about, or did.
    pub fn is_open(&self, effect: &str) -> bool {
        self.known.contains_key(effect)
    }

    /// Brings an effect about, once per key over all attempts of the run.
    pub async fn once<A, B>(&self, intent: EffectIntent, ask: impl Fn() -> A, act: impl FnOnce() -> B) -> Result<Outputs, ToolError>
    where
        A: Future<Output = Asked>,
        B: Future<Output = Acted>,
    {
        let name = intent.effect.clone();
        match self.known.get(&name) {
            Some(KnownEffect::Done { outputs }) => return Ok(outputs.clone()),
            Some(KnownEffect::Unknown) => match ask().await {
                Asked::There(outputs) => return self.done(&name, outputs),
                Asked::NotThere(why) => self.end(&name, EffectEnd::NotDone { why }),
                Asked::Nobody(why) => return self.unknown(&name, why),
            },
            None => {}
        }
        let askable = intent.askable;
        if !self.intend(intent).await {
            let text = "the Manager does not take the attempt's intent: it is over there".to_owned();
            return Err(ToolError { outcome: Outcome::AgentLost, text });
        }
        match act().await {
            Acted::Done(outputs) => self.done(&name, outputs),
            Acted::NotDone(error) => {
                self.end(&name, EffectEnd::NotDone { why: error.text.clone() });
                Err(error)
            }
            Acted::Unheard(why) if !askable => self.unknown(&name, why),
            Acted::Unheard(why) => match ask().await {
                Asked::There(outputs) => self.done(&name, outputs),
                Asked::NotThere(said) => {
                    self.end(&name, EffectEnd::NotDone { why: format!("{why}; {said}") });
                    Err(ToolError::failed(why))
                }
                Asked::Nobody(said) => self.unknown(&name, format!("{why}; {said}")),
            },
        }
    }

    fn done(&self, name: &str, outputs: Outputs) -> Result<Outputs, ToolError> {
        self.end(name, EffectEnd::Done { outputs: outputs.clone() });
        Ok(outputs)
    }

    fn unknown(&self, name: &str, why: String) -> Result<Outputs, ToolError> {
        self.end(name, EffectEnd::Unknown { why: why.clone() });
        Err(ToolError::failed(format!("whether it happened is not known: {why}")))
    }

    async fn intend(&self, intent: EffectIntent) -> bool {
        match &self.port {
            Some(port) => port.intend(&self.attempt, intent).await,
            None => true,
        }
    }

    fn end(&self, name: &str, end: EffectEnd) {
        if let Some(port) = &self.port {
            port.ended(&self.attempt, name, end);
        }
    }
}
