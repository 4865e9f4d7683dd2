//! The effect ledger: S9 (an effect once per key), S8 (its tokens), L2 (nobody forgets one that is open).

use amphi_protocol::journal::EffectEnd;

use super::{Violation, hold};
use crate::epic::{Epic, InstanceEnd, InstanceState};
use crate::state::State;

pub(super) fn check(state: &State, epic: &Epic) -> Result<(), Violation> {
    for (i, instance) in (0u32..).zip(&epic.instances).filter(|(_, instance)| !instance.effects.is_empty()) {
        let at = epic.attempt_ref(i);
        hold("S9", epic.is_ledger_work(i), || format!("{at} has effects, and its tool is no ledger tool"))?;
        for (name, effect) in &instance.effects {
            let known = effect.attempt <= instance.attempt && effect.token <= state.token;
            hold("S8", known, || format!("the effect {name} of {at} is of attempt {} under token {}", effect.attempt, effect.token))?;
            // Under way it is its attempt's.
            let own = epic.open(i).is_some_and(|open| effect.attempt == instance.attempt && open.token == effect.token);
            hold("S9", effect.end.is_some() || own, || format!("the effect {name} of {at} is under way, and its attempt is over"))?;
            let forgotten =
                effect.is_open() && matches!(instance.state, InstanceState::Ended(InstanceEnd::Succeeded | InstanceEnd::Failed));
            hold("L2", !forgotten, || format!("{at} has ended, and whether its effect {name} happened is not known"))?;
            let blind = matches!(effect.end, Some(EffectEnd::Unknown { .. })) && !effect.askable && effect.attempt < instance.attempt;
            hold("S9", !blind, || format!("{at} follows an attempt whose effect {name} may have happened, and nobody can be asked"))?;
        }
    }
    Ok(())
}
