//! Reports about effects outside: an intent is recorded once per run and effect, its end once per intent.

use amphi_protocol::ids::{AttemptRef, Token};
use amphi_protocol::journal::effect::{EFFECT_BYTES_MAX, EFFECT_NAME_MAX, EFFECTS_MAX};
use amphi_protocol::journal::{Decision, EffectEnd, EffectIntent};

use crate::decide::inputs::conflict;
use crate::decide::{Deciding, Refusal};
use crate::mutants::{Mutant, planted};

/// Longest text for people.
const WORDS_MAX: usize = 500;

impl Deciding<'_> {
    /// The answer to this is the go: who has it may bring the effect about.
    pub(super) fn intend_effect(&mut self, attempt: AttemptRef, token: Token, intent: &EffectIntent) -> Result<(), Refusal> {
        let epic = &self.state.epics[&attempt.epic];
        let instance = &epic.instances[attempt.i as usize];
        if !epic.is_ledger_work(attempt.i) {
            return Err(conflict(format!("{} brings nothing about that stands in the ledger", epic.key(attempt.i))));
        }
        if intent.effect.is_empty() || intent.effect.len() > EFFECT_NAME_MAX || intent.tool.len() > EFFECT_NAME_MAX {
            return Err(conflict("the name of an effect or of its tool is empty or too long"));
        }
        let known = instance.effects.get(&intent.effect);
        if known.is_none() && instance.effects.len() >= EFFECTS_MAX {
            return Err(conflict(format!("a run has at most {EFFECTS_MAX} effects")));
        }
        if epic.open(attempt.i).is_some_and(|open| open.cancelling.is_some()) {
            return Err(Refusal::Stale("the attempt is being cancelled"));
        }
        match known.map(|effect| (&effect.end, effect.attempt)) {
            None | Some((Some(EffectEnd::NotDone { .. }), _)) => {}
            // Said again by the one who said it: the answer was lost.
            Some((None, by)) if by == attempt.attempt => {}
            Some(_) if planted(Mutant::EffectOnce) => {}
            Some((Some(EffectEnd::Done { .. }), _)) => return Err(Refusal::Stale("the effect has happened")),
            Some((Some(EffectEnd::Unknown { .. }) | None, _)) => {
                return Err(Refusal::Stale("whether the effect has happened is not known"));
            }
        }
        let intent = EffectIntent { about: intent.about.chars().take(WORDS_MAX).collect(), ..intent.clone() };
        self.put(Decision::EffectIntended { attempt, token, intent });
        Ok(())
    }

    pub(super) fn effect_over(&mut self, attempt: AttemptRef, token: Token, effect: &str, end: &EffectEnd) -> Result<(), Refusal> {
        let known = self.state.epics[&attempt.epic].instances[attempt.i as usize].effects.get(effect);
        match known.map(|effect| &effect.end) {
            None => return Err(conflict(format!("no effect {effect:?} was intended"))),
            Some(Some(EffectEnd::Done { .. } | EffectEnd::NotDone { .. })) => return Err(Refusal::Stale("its end is known")),
            Some(Some(EffectEnd::Unknown { .. })) if matches!(end, EffectEnd::Unknown { .. }) => {
                return Err(Refusal::Stale("that its end is not known is on record"));
            }
            Some(Some(EffectEnd::Unknown { .. }) | None) => {}
        }
        let cut = |why: &String| why.chars().take(WORDS_MAX).collect();
        let end = match end {
            EffectEnd::Done { outputs } => {
                let bytes: usize = outputs.iter().map(|(name, value)| name.len() + value.len()).sum();
                EffectEnd::Done { outputs: if bytes <= EFFECT_BYTES_MAX { outputs.clone() } else { Default::default() } }
            }
            EffectEnd::NotDone { why } => EffectEnd::NotDone { why: cut(why) },
            EffectEnd::Unknown { why } => EffectEnd::Unknown { why: cut(why) },
        };
        self.put(Decision::EffectEnded { attempt, token, effect: effect.to_owned(), end });
        Ok(())
    }
}
