//! The critical path: what determined the end, walked back from it.

use super::collect::{History, Span};
use super::{PathStep, REPORT_LIST_MAX};

/// The path and its sums.
pub(super) struct Path {
    pub steps: Vec<PathStep>,
    pub count: usize,
    pub ran_ms: u64,
    pub waited_ms: u64,
    /// The part of `waited_ms` that is coordination.
    pub coordination_ms: u64,
}

/// Walks back from the attempt that ended last. Every step goes to an earlier span, so it ends.
pub(super) fn critical_path(history: &History, submitted: u64, now: u64) -> Path {
    let mut path = Path { steps: Vec::new(), count: 0, ran_ms: 0, waited_ms: 0, coordination_ms: 0 };
    let attempts = || history.spans.iter().enumerate().filter(|(_, span)| span.took_time());
    let last = attempts().filter_map(|(position, span)| Some((span.ended?, position))).max();
    let mut at = last.map(|(_, position)| position);
    while let Some(position) = at {
        let span = &history.spans[position];
        let before = attempt_before(history, span);
        path.count += 1;
        let ended = span.ended.map_or(now, |end| end.ms);
        let from = before.map_or(submitted, |before| history.spans[before].ended.map_or(now, |end| end.ms));
        path.ran_ms += span.ran(now);
        path.waited_ms += (ended - span.ran(now)).saturating_sub(from);
        path.coordination_ms += span.coordination_wait(now).map_or(0, |(from, to)| to - from);
        if path.steps.len() < REPORT_LIST_MAX {
            path.steps.push(step(history, span, before, submitted, now));
        }
        at = before;
    }
    path.steps.reverse();
    path
}

/// The attempt whose end it waited for; what ended without an attempt only hands on.
fn attempt_before(history: &History, span: &Span) -> Option<usize> {
    let mut before = span.before;
    while let Some(position) = before {
        if history.spans[position].took_time() {
            break;
        }
        before = history.spans[position].before;
    }
    before
}

fn step(history: &History, span: &Span, before: Option<usize>, submitted: u64, now: u64) -> PathStep {
    let since = |ms: u64| ms.saturating_sub(submitted);
    PathStep {
        task: span.task.clone(),
        run: span.run,
        attempt: span.attempt,
        agent: span.agent.clone(),
        outcome: span.outcome.map_or("open", |kind| kind.as_str().trim_start_matches("task.")).to_owned(),
        waited_for: span.waited_for.to_owned(),
        after: before.map(|before| history.spans[before].task.clone()),
        ready_ms: since(span.ready.map_or(submitted, |ready| ready.ms)),
        started_ms: span.started.map(since),
        ended_ms: since(span.ended.map_or(now, |end| end.ms)),
    }
}
