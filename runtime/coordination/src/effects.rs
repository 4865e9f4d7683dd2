//! The effect ledger: what an attempt is about to bring about outside stands here before it does, and what became of it after.
//!
//! An effect happens once per key, and the key is the run's: an attempt that comes later is told what is known, and asks whoever is
//! concerned where nothing is. Where nobody can be asked, a person is; never is an effect brought about a second time on a guess.

use amphi_protocol::document::Work;
use amphi_protocol::event::EventType;
use amphi_protocol::ids::{AttemptRef, EpicId, Token};
use amphi_protocol::journal::effect::is_ledger_tool;
use amphi_protocol::journal::{EffectEnd, EffectIntent, KnownEffect, Next, Resolution};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::epic::{Epic, Instance};
use crate::mutants::{Mutant, planted};
use crate::sink::{EventSink, data};
use crate::state::State;

/// What is known of an effect of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// Who was about to bring it about, as last recorded.
    pub attempt: u32,
    /// Under which token.
    pub token: Token,
    /// The tool.
    pub tool: String,
    /// Whoever is concerned can be asked.
    pub askable: bool,
    /// What became of it; `None` while it is under way, or if its attempt ended without a word.
    pub end: Option<EffectEnd>,
}

impl Effect {
    /// It may have happened, and nobody has said.
    pub fn is_open(&self) -> bool {
        matches!(self.end, None | Some(EffectEnd::Unknown { .. }))
    }
}

impl Epic {
    /// The idempotency key of an instance's run.
    pub(crate) fn key_of_run(&self, i: u32) -> String {
        format!("{}/{}/{}", self.id, self.key(i), self.instances[i as usize].run)
    }

    /// True if what the instance does stands in the ledger.
    pub(crate) fn is_ledger_work(&self, i: u32) -> bool {
        matches!(&self.spec_of(i).work, Work::Tool { tool, .. } if is_ledger_tool(tool))
    }

    /// What an attempt is told of the effects of its run.
    pub(crate) fn known_effects(&self, i: u32) -> std::collections::BTreeMap<String, KnownEffect> {
        if planted(Mutant::EffectOnce) {
            return Default::default();
        }
        let known = self.instances[i as usize].effects.iter().filter_map(|(name, effect)| {
            let known = match &effect.end {
                Some(EffectEnd::Done { outputs }) => KnownEffect::Done { outputs: outputs.clone() },
                Some(EffectEnd::Unknown { .. }) | None => KnownEffect::Unknown,
                Some(EffectEnd::NotDone { .. }) => return None,
            };
            Some((name.clone(), known))
        });
        known.collect()
    }
}

impl Instance {
    /// An effect of the run may have happened, and nobody has said.
    pub(crate) fn has_open_effect(&self) -> bool {
        self.effects.values().any(Effect::is_open)
    }
}

impl State {
    /// What follows an end in which an effect is open: another attempt only if it can ask; otherwise a person is asked.
    pub(crate) fn with_effects(&self, at: &AttemptRef, next: Next) -> Next {
        let instance = &self.epics[&at.epic].instances[at.i as usize];
        let mut open = instance.effects.values().filter(|effect| effect.is_open()).peekable();
        if open.peek().is_none() {
            return next;
        }
        match next {
            Next::Retry { at } if open.all(|effect| effect.askable) => Next::Retry { at },
            Next::Retry { .. } | Next::Failed | Next::Unknown => Next::Unknown,
            // A tool that says that it succeeded has said what became of its effect before.
            Next::Succeeded => Next::Succeeded,
            // Somebody wanted its end; the event says that the effect is open.
            Next::Cancelled => Next::Cancelled,
        }
    }

    pub(crate) fn effect_intended(&mut self, at: &AttemptRef, token: Token, intent: &EffectIntent, sink: &mut EventSink) {
        let EffectIntent { effect, tool, askable, about } = intent;
        let entry = Effect { attempt: at.attempt, token, tool: tool.clone(), askable: *askable, end: None };
        let again = self.epic_mut(&at.epic).instances[at.i as usize].effects.insert(effect.clone(), entry.clone()).as_ref() == Some(&entry);
        if !again {
            self.effect_event(
                sink,
                EventType::EffectIntended,
                (&at.epic, at.i),
                effect,
                data! { "tool": tool, "token": token, "about": about },
            );
        }
    }

    pub(crate) fn effect_ended(&mut self, at: &AttemptRef, effect: &str, end: &EffectEnd, sink: &mut EventSink) {
        let entry = self.epic_mut(&at.epic).instances[at.i as usize].effects.get_mut(effect);
        let entry = entry.unwrap_or_else(|| panic!("S9: the effect {effect} of {at} ended and was never intended"));
        entry.end = Some(end.clone());
        let (kind, about) = match end {
            EffectEnd::Done { outputs } => (EventType::EffectDone, data! { "outputs": outputs }),
            EffectEnd::NotDone { why } => (EventType::EffectNotDone, data! { "why": why }),
            EffectEnd::Unknown { why } => (EventType::EffectUnknown, data! { "why": why }),
        };
        self.effect_event(sink, kind, (&at.epic, at.i), effect, about);
    }

    /// An attempt ended in the middle of an effect.
    pub(crate) fn effects_cut_off(&mut self, at: &AttemptRef, sink: &mut EventSink) {
        let instance = &mut self.epic_mut(&at.epic).instances[at.i as usize];
        let mut cut_off = Vec::new();
        for (name, effect) in instance.effects.iter_mut().filter(|(_, effect)| effect.end.is_none()) {
            effect.end = Some(EffectEnd::Unknown { why: "its attempt ended before it said what became of it".to_owned() });
            cut_off.push(name.clone());
        }
        for name in cut_off {
            let why = "its attempt ended before it said what became of it";
            self.effect_event(sink, EventType::EffectUnknown, (&at.epic, at.i), &name, data! { "why": why });
        }
    }

    /// An attempt succeeded: what it was there to bring about has happened. It has said so before; only a leader that was deposed without
    /// knowing, and did not hear that, has anything to close here.
    pub(crate) fn effects_succeeded(&mut self, at: &AttemptRef, sink: &mut EventSink) {
        let instance = &mut self.epic_mut(&at.epic).instances[at.i as usize];
        let mut done = Vec::new();
        for (name, effect) in instance.effects.iter_mut().filter(|(_, effect)| effect.is_open()) {
            effect.end = Some(EffectEnd::Done { outputs: Default::default() });
            done.push(name.clone());
        }
        for name in done {
            self.effect_event(sink, EventType::EffectDone, (&at.epic, at.i), &name, data! { "by": "its attempt, which succeeded" });
        }
    }

    /// A person's word on a run counts for the effects that are open in it.
    pub(crate) fn effects_resolved(&mut self, (id, i): (&EpicId, u32), resolution: Resolution, by: &str, sink: &mut EventSink) {
        let open = self.epics[id].instances[i as usize].effects.iter().filter(|(_, effect)| effect.is_open());
        for name in open.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            let (kind, end) = match resolution {
                Resolution::Succeeded => (EventType::EffectDone, EffectEnd::Done { outputs: Default::default() }),
                Resolution::Failed | Resolution::NotStarted => {
                    (EventType::EffectNotDone, EffectEnd::NotDone { why: format!("{by} said so") })
                }
            };
            if let Some(effect) = self.epic_mut(id).instances[i as usize].effects.get_mut(&name) {
                effect.end = Some(end);
            }
            self.effect_event(sink, kind, (id, i), &name, data! { "resolved_by": by });
        }
    }

    fn effect_event(&mut self, sink: &mut EventSink, kind: EventType, who: (&EpicId, u32), effect: &str, mut data: Map<String, Value>) {
        let key = self.epics[who.0].key_of_run(who.1);
        data.insert("effect".to_owned(), json!(effect));
        data.insert("key".to_owned(), json!(key));
        self.instance_event(sink, kind, who, data);
    }
}
