//! The laws that concern state, as functions: every fact that the core keeps is computed again from scratch and compared.
//!
//! For tests and the simulation only: a check costs the size of the state. It must never share a computation with the code that it
//! judges; where both need the same fact, it is derived here another way (by recounting instead of counting along).
//!
//! Start at [`check`] (one state) and [`check_growth`] (two states, one after the other).

mod children;
mod effects;
mod fleet;
mod graph;
mod history;
mod outside;
mod queue;
mod undo;

use amphi_protocol::ids::{CommitIndex, Epoch, EventSeq, Timestamp, Token};

use crate::state::State;

/// A law that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{law}: {words}")]
pub struct Violation {
    /// Its name in the interface (`S7`), or `kept` for a fact that was kept wrongly.
    pub law: &'static str,
    /// What contradicts it.
    pub words: String,
}

/// What only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    index: CommitIndex,
    epoch: Epoch,
    now: Timestamp,
    seq: EventSeq,
    token: Token,
    order: u64,
}

impl Marks {
    /// Those of a state.
    pub fn of(state: &State) -> Self {
        Self { index: state.index, epoch: state.epoch, now: state.now, seq: state.seq, token: state.token, order: state.order }
    }
}

/// Holds if `law` does.
pub(crate) fn hold(law: &'static str, holds: bool, words: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { law, words: words() }) }
}

/// Checks a state between two inputs.
pub fn check(state: &State) -> Result<(), Violation> {
    let due = &state.due;
    let settled = due.again.is_empty()
        && due.conditions.is_empty()
        && due.stopping.is_empty()
        && due.fail_fast.is_empty()
        && due.ended.is_empty()
        && due.incidents.is_empty()
        && due.outside.is_empty()
        && !due.fleet
        && due.children.is_empty()
        && due.children_ended.is_empty()
        && due.fresh.is_empty()
        && due.touched.is_empty();
    hold("kept", settled, || format!("an input left something undecided: {due:?}"))?;
    for epic in state.epics.values() {
        graph::check_epic(epic)?;
        undo::check(epic)?;
        effects::check(state, epic)?;
    }
    for ((project, key), (epic, _)) in &state.keys {
        let known = state.epics.get(epic).is_some_and(|epic| epic.spec.project == *project)
            || state.history.retired.get(epic).is_some_and(|retired| retired.project == *project);
        hold("S1", known, || format!("key {key:?} of {project} leads to {epic}, which is not there"))?;
    }
    history::check(state)?;
    children::check(state)?;
    graph::check_questions(state)?;
    graph::check_timers(state)?;
    fleet::check(state)?;
    outside::check(state)?;
    queue::check(state)
}

/// Checks that what only grows did so from one state to a later one. Tokens are among it (S8), and epochs (S2).
pub fn check_growth(before: &Marks, after: &Marks) -> Result<(), Violation> {
    let words = || format!("{before:?} was followed by {after:?}");
    hold("S2", before.epoch <= after.epoch, words)?;
    hold("S8", before.token <= after.token, words)?;
    let grows = before.index <= after.index && before.now <= after.now && before.seq <= after.seq && before.order <= after.order;
    hold("S3", grows, words)
}
