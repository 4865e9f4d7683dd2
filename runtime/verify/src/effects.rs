//! The effect ledger (S9): an effect is brought about once per key, and never on a guess. Each intent is on record under the token of an
//! attempt that was allowed to begin, while nothing before it is open; each end follows an intent.

use std::collections::BTreeMap;

use amphi_protocol::ids::Token;
use amphi_protocol::journal::{EffectEnd, EffectIntent, Resolution};

use crate::checker::Checker;
use crate::cluster::InstanceKey;
use crate::verdict::Law;

/// What is known of the effects of each run: instance, run, name.
pub(crate) type Effects = BTreeMap<(InstanceKey, u32, String), Known>;

/// How an effect stands.
#[derive(Debug)]
pub(crate) struct Known {
    attempt: u32,
    askable: bool,
    stands: Stands,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Intended,
    Done,
    NotDone,
    Unknown,
}

impl Checker {
    /// An effect is about to happen.
    pub(crate) fn intend(&mut self, key: InstanceKey, token: Token, intent: &EffectIntent) {
        let id = self.epics[key.0].id.clone();
        let Some(open) = self.open(key.0, key.1) else { return };
        let (run, attempt, own, claimed) = (open.run, open.attempt, open.token == token, open.claimed);
        self.findings.check(Law::S8, &[&id], own);
        // Without a claim nobody would end it before another attempt begins.
        self.findings.check(Law::S9, &[&id], claimed);
        let name = (key, run, intent.effect.clone());
        let may = self.effects.get(&name).is_none_or(|known| match known.stands {
            Stands::NotDone => true,
            // Said again by the one who said it.
            Stands::Intended => known.attempt == attempt,
            Stands::Done | Stands::Unknown => false,
        });
        self.findings.check(Law::S9, &[&id], may);
        self.effects.insert(name, Known { attempt, askable: intent.askable, stands: Stands::Intended });
    }

    /// What became of it.
    pub(crate) fn end_effect(&mut self, key: InstanceKey, token: Token, effect: &str, end: &EffectEnd) {
        let id = self.epics[key.0].id.clone();
        let Some(open) = self.open(key.0, key.1) else { return };
        let (run, own) = (open.run, open.token == token);
        self.findings.check(Law::S8, &[&id], own);
        let known = self.effects.get_mut(&(key, run, effect.to_owned()));
        let follows = known.as_ref().is_some_and(|known| match (known.stands, end) {
            (Stands::Intended, _) | (Stands::Unknown, EffectEnd::Done { .. } | EffectEnd::NotDone { .. }) => true,
            (Stands::Unknown, EffectEnd::Unknown { .. }) | (Stands::Done | Stands::NotDone, _) => false,
        });
        if let Some(known) = known {
            known.stands = match end {
                EffectEnd::Done { .. } => Stands::Done,
                EffectEnd::NotDone { .. } => Stands::NotDone,
                EffectEnd::Unknown { .. } => Stands::Unknown,
            };
        }
        self.findings.check(Law::S9, &[&id], follows);
    }

    /// The attempt is over; what it had begun is open from now on. Another one may follow only if it can ask. `tells`: the run ends here.
    pub(crate) fn leave_effects(&mut self, key: InstanceKey, run: u32, (again, ends_well_or_badly): (bool, bool)) {
        let id = self.epics[key.0].id.clone();
        let range = (key, run, String::new())..(key, run + 1, String::new());
        let (mut open, mut blind) = (false, false);
        for (_, known) in self.effects.range_mut(range) {
            if known.stands == Stands::Intended {
                known.stands = Stands::Unknown;
            }
            if known.stands == Stands::Unknown {
                (open, blind) = (true, blind || !known.askable);
            }
        }
        if open {
            self.findings.check(Law::S9, &[&id], !(again && blind));
            self.findings.check(Law::L2, &[&id], !ends_well_or_badly);
        }
    }

    /// A person's word on the run counts for what is open in it.
    pub(crate) fn resolve_effects(&mut self, key: InstanceKey, resolution: Resolution) {
        let run = self.epics[key.0].instances[key.1 as usize].run;
        let range = (key, run, String::new())..(key, run + 1, String::new());
        for (_, known) in self.effects.range_mut(range).filter(|(_, known)| known.stands == Stands::Unknown) {
            known.stands = if resolution == Resolution::Succeeded { Stands::Done } else { Stands::NotDone };
        }
    }
}
