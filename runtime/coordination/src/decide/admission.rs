//! Admission: what is open is bounded, and a submission beyond the bounds is turned away before anything of it is kept.
//!
//! The bounds come with the submission, so that what was held against them is on record. Only submissions are: what is open already is
//! never held up by them, and whoever sends a known submission again gets the answer of the first time.

use amphi_protocol::api::ErrorCode;
use amphi_protocol::document::{Plan, combination_count};
use amphi_protocol::journal::Submission;

use crate::decide::Refusal;
use crate::epic::Epic;
use crate::state::State;

impl State {
    /// Costs the epics in memory; only near the bound also the tasks of the open ones.
    pub(super) fn admit(&self, submission: &Submission) -> Result<(), Refusal> {
        let (Some(limits), Some(spec)) = (submission.admission, submission.spec.get()) else { return Ok(()) };
        let open = || self.epics.values().filter(|epic| !epic.is_ended());
        let project = &submission.project;
        // A sub-epic is a part of the epic around it, which was admitted.
        let epics = open().filter(|epic| epic.spec.project == *project && epic.parent.is_none()).count() as u64;
        if epics >= limits.open_epics {
            let message = format!("project {project} has {epics} open epics, and `limits.open_epics` allows {}", limits.open_epics);
            return Err(Refusal::error(
                ErrorCode::ClusterBusy,
                message,
                "send it again with the same id when one has ended (`amphi epic ls`)",
            ));
        }
        let at_most: u64 = spec.tasks.iter().map(|task| u64::from(combination_count(task))).sum();
        let present: u64 = open().map(|epic| epic.instances.len() as u64).sum();
        if present + at_most <= limits.waiting_runs {
            return Ok(());
        }
        let more = Plan::expand(spec).instances.len() as u64;
        if more > limits.waiting_runs {
            let message = format!("the epic has {more} runs, and `limits.waiting_runs` allows {} to wait in all", limits.waiting_runs);
            return Err(Refusal::error(ErrorCode::EpicLimit, message, "split it, or raise the limit in amphi.yaml"));
        }
        let waiting: u64 = open().map(waiting_runs).sum();
        if waiting + more > limits.waiting_runs {
            let allowed = limits.waiting_runs;
            let message = format!("{waiting} runs wait, the epic has {more} more, and `limits.waiting_runs` allows {allowed}");
            return Err(Refusal::error(
                ErrorCode::ClusterBusy,
                message,
                "send it again with the same id when some have ended (`amphi queue ls`)",
            ));
        }
        Ok(())
    }
}

/// Runs that have not ended and are with nobody.
fn waiting_runs(epic: &Epic) -> u64 {
    let open: u64 = epic.tasks.iter().map(|task| u64::from(task.open)).sum();
    open.saturating_sub(u64::from(epic.active))
}
