//! How often each fault was injected and each state was reached. A name that stays at zero was never tested.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use amphi_coordination::{AttemptPhase, EpicStatus, InstanceEnd, InstanceState, Party, Refusal};
use amphi_protocol::journal::{
    AgentLife, AskEnd, AttemptNews, CancelCause, ChildEnd, Decision, EffectEnd, EpicEnd, Hold, IncidentKind, Input, Next, Outcome, Post,
    Resolution, Upkeep, WaitEnd,
};
use amphi_protocol::message::MessageType;

/// Every name that must be reached, by kind.
const NAMES: &[(&str, &[&str])] = &[
    (
        "fault",
        &[
            "agent.crash",
            "agent.hang",
            "agent.quarantine",
            "node.crash",
            "node.freeze",
            "manager.crash",
            "manager.crash_between_actions",
            "manager.crash_in_doubt",
            "manager.pause",
            "manager.two_at_once",
            "journal.write_lost",
            "journal.write_late",
            "journal.write_late_stored",
            "journal.write_twice",
            "journal.ack_lost",
            "journal.busy",
            "journal.conflict",
            "journal.stale_read",
            "message.drop",
            "message.duplicate",
            "message.delay",
            "message.reorder",
            "clock.forward",
            "clock.back",
            "client.resend",
            "client.conflict",
            "upkeep.orphan",
            "snapshot.newest_damaged",
            "snapshot.all_damaged",
        ],
    ),
    ("epic", &["running", "waiting", "paused", "undoing", "cancelling", "succeeded", "failed", "cancelled", "reopened"]),
    (
        "instance",
        &[
            "blocked",
            "ready",
            "assigned",
            "claimed",
            "started",
            "cancelling",
            "backoff",
            "waiting",
            "nested",
            "unknown",
            "succeeded",
            "failed",
            "cancelled",
            "cut_off",
            "skipped",
            "undone",
        ],
    ),
    (
        "undo",
        &[
            "of_failure",
            "of_cancel",
            "nested",
            "ready",
            "assigned",
            "claimed",
            "started",
            "cancelling",
            "backoff",
            "unknown",
            "undone",
            "failed",
        ],
    ),
    ("outcome", &["succeeded", "exit", "output", "resource", "cancelled", "agent_lost", "not_started"]),
    ("next", &["succeeded", "failed", "cancelled", "retry", "unknown"]),
    ("child", &["succeeded", "failed", "cancelled", "request", "timeout", "fail_fast"]),
    ("cancel", &["request", "timeout", "stuck", "lease", "fail_fast", "drain"]),
    (
        "input",
        &[
            "lead",
            "submit",
            "cancel_epic",
            "cancel_epic_undo",
            "pause_epic",
            "resume_epic",
            "retry_epic",
            "retry_epic_from",
            "skip_task",
            "cancel_task",
            "retry_task",
            "assign_task",
            "ack_incident",
            "resolve_succeeded",
            "resolve_failed",
            "resolve_not_started",
            "join",
            "lose_node",
            "agent_up",
            "agent_down",
            "agent_quarantined",
            "staff",
            "claim",
            "started",
            "progress",
            "intend",
            "effect",
            "ended",
            "silent",
            "tick",
            "upkeep_snapshot",
            "upkeep_segment",
            "upkeep_retire",
            "upkeep_history",
            "resume",
            "pause",
            "drain_agent",
            "drain_node",
            "signal",
            "acquire_lock",
            "acquire_lock_wait",
            "renew_lock",
            "release_lock",
        ],
    ),
    (
        "decision",
        &[
            "epoch_started",
            "epic_accepted",
            "epic_stopping",
            "epic_cancelling",
            "undo_started",
            "epic_paused",
            "epic_resumed",
            "instances_skipped",
            "epic_ended",
            "condition_true",
            "condition_false",
            "condition_error",
            "child_started",
            "child_cancelling",
            "child_undoing",
            "child_ended",
            "wait_elapsed",
            "wait_signalled",
            "wait_timed_out",
            "resource_changed",
            "runs_opened",
            "assigned",
            "claimed",
            "started",
            "progressed",
            "attempt_cancelling",
            "attempt_ended",
            "backoff_ended",
            "instances_cancelled",
            "reopened",
            "incident_opened",
            "incident_undo_failed",
            "incident_acked",
            "incident_resolved",
            "effect_intended",
            "effect_done",
            "effect_not_done",
            "effect_unknown",
            "node_joined",
            "node_lost",
            "agent_changed",
            "snapshot_taken",
            "segment_archived",
            "epic_retired",
            "history_over",
            "staff_added",
            "staff_removed",
            "held",
            "task_pinned",
            "pins_dropped",
            "grace_ended",
            "lock_asked",
            "lock_granted",
            "lock_renewed",
            "lock_released",
            "lock_expired",
            "lock_wait_over",
            "lock_withdrawn",
        ],
    ),
    ("message", &["task_complete", "error", "status_update"]),
    ("refusal", &["error", "duplicate", "stale"]),
    (
        "seen",
        &[
            "order.other_incarnation",
            "order.old_epoch",
            "order.again",
            "order.join_again",
            "manager.leads",
            "manager.steps_down",
            "seat.not_leading",
            "node.fenced",
            "claim.overdue",
            "submit.full",
            "submit.too_large",
            "lock.waited",
            "lock.glob_held",
            "lock.waited_for_overlap",
            "lock.shared_by_overlap",
            "effect.known",
            "effect.asked",
            "effect.in_vain",
            "effect.unheard",
            "lock.outside_waits",
            "lock.task_behind_outside",
            "lock.ring_refused",
            "lock.stale_token",
            "agent.nobody",
            "journal.replayed",
            "snapshot.resumed",
            "snapshot.prefix",
            "standby.leads",
            "standby.behind_a_trim",
            "recovery.snapshot",
            "recovery.archive",
            "journal.trimmed",
            "group.commit",
        ],
    ),
];

/// Counts by kind and name.
#[derive(Debug, Clone)]
pub struct Tally(BTreeMap<(&'static str, &'static str), u64>);

impl Default for Tally {
    fn default() -> Self {
        Self(NAMES.iter().flat_map(|(kind, names)| names.iter().map(|name| ((*kind, *name), 0))).collect())
    }
}

impl Tally {
    /// Counts one.
    pub fn add(&mut self, kind: &'static str, name: &'static str) {
        *self.0.get_mut(&(kind, name)).unwrap_or_else(|| panic!("{kind} {name} is not in the list of names")) += 1;
    }

    /// A fault was injected.
    pub fn fault(&mut self, name: &'static str) {
        self.add("fault", name);
    }

    /// Something that must happen now and then did.
    pub fn seen(&mut self, name: &'static str) {
        self.add("seen", name);
    }

    /// A message in the name of an agent.
    pub fn message(&mut self, kind: MessageType) {
        let name = match kind {
            MessageType::TaskComplete => "task_complete",
            MessageType::Error => "error",
            MessageType::StatusUpdate => "status_update",
            MessageType::RequestHelp | MessageType::Emergency => "said_by_a_task",
        };
        self.add("message", name);
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(*name).or_default() += count;
        }
    }

    /// What was never reached.
    pub fn missing(&self) -> Vec<String> {
        self.0.iter().filter(|(_, count)| **count == 0).map(|((kind, name), _)| format!("{kind} {name}")).collect()
    }

    /// A line per kind.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (kind, names) in NAMES {
            let counts: Vec<String> = names.iter().map(|name| format!("{name} {}", self.0[&(*kind, *name)])).collect();
            for (position, line) in counts.chunks(6).enumerate() {
                let head = if position == 0 { kind } else { "" };
                writeln!(text, "  {head:<9}{}", line.join(" · ")).expect("writing to a text does not fail");
            }
        }
        text
    }

    /// Counts an input that was committed.
    pub fn input(&mut self, input: &Input) {
        let name = match input {
            Input::Lead { .. } => "lead",
            Input::Submit(_) => "submit",
            Input::CancelEpic { undo: true, .. } => "cancel_epic_undo",
            Input::CancelEpic { undo: false, .. } => "cancel_epic",
            Input::PauseEpic { .. } => "pause_epic",
            Input::ResumeEpic { .. } => "resume_epic",
            Input::RetryEpic { from, .. } if from.is_empty() => "retry_epic",
            Input::RetryEpic { .. } => "retry_epic_from",
            Input::SkipTask { .. } => "skip_task",
            Input::CancelTask { .. } => "cancel_task",
            Input::AssignTask { .. } => "assign_task",
            Input::RetryTask { .. } => "retry_task",
            Input::AckIncident { .. } => "ack_incident",
            Input::ResolveIncident { resolution: Resolution::Succeeded, .. } => "resolve_succeeded",
            Input::ResolveIncident { resolution: Resolution::Failed, .. } => "resolve_failed",
            Input::ResolveIncident { resolution: Resolution::NotStarted, .. } => "resolve_not_started",
            Input::Join(_) => "join",
            Input::LoseNode { .. } => "lose_node",
            Input::Agent(report) => match report.state {
                AgentLife::Up => "agent_up",
                AgentLife::Down => "agent_down",
                AgentLife::Quarantined => "agent_quarantined",
            },
            Input::Staff(_) => "staff",
            Input::Attempt(report) => match report.what {
                AttemptNews::Claim => "claim",
                AttemptNews::Started { .. } => "started",
                AttemptNews::Progress { .. } => "progress",
                AttemptNews::Intend(_) => "intend",
                AttemptNews::Effect { .. } => "effect",
                AttemptNews::Ended(_) => "ended",
            },
            Input::Silent { .. } => "silent",
            Input::Tick => "tick",
            Input::Upkeep(Upkeep::SnapshotTaken(_)) => "upkeep_snapshot",
            Input::Upkeep(Upkeep::SegmentArchived(_)) => "upkeep_segment",
            Input::Upkeep(Upkeep::Retire(_)) => "upkeep_retire",
            Input::Upkeep(Upkeep::HistoryOver { .. }) => "upkeep_history",
            Input::Hold { hold: Hold::Resume, .. } => "resume",
            Input::Hold { hold: Hold::Pause, .. } => "pause",
            Input::Hold { hold: Hold::Drain { .. }, post: Post::Agent(_), .. } => "drain_agent",
            Input::Hold { hold: Hold::Drain { .. }, post: Post::Node(_), .. } => "drain_node",
            Input::Signal { .. } => "signal",
            Input::AcquireLock { wait_ms: 0, .. } => "acquire_lock",
            Input::AcquireLock { .. } => "acquire_lock_wait",
            Input::RenewLock { .. } => "renew_lock",
            Input::ReleaseLock { .. } => "release_lock",
        };
        self.add("input", name);
    }

    /// Counts a decision that was committed, with what it says.
    pub fn decision(&mut self, decision: &Decision) {
        let name = match decision {
            Decision::EpochStarted { .. } => "epoch_started",
            Decision::EpicAccepted { .. } => "epic_accepted",
            Decision::EpicStopping { .. } => "epic_stopping",
            Decision::EpicCancelling { .. } => "epic_cancelling",
            Decision::UndoStarted { .. } => "undo_started",
            Decision::EpicPaused { .. } => "epic_paused",
            Decision::EpicResumed { .. } => "epic_resumed",
            Decision::InstancesSkipped { .. } => "instances_skipped",
            Decision::EpicEnded { .. } => "epic_ended",
            Decision::WaitEnded { end: WaitEnd::Elapsed, .. } => "wait_elapsed",
            Decision::WaitEnded { end: WaitEnd::Signalled { .. }, .. } => "wait_signalled",
            Decision::WaitEnded { end: WaitEnd::TimedOut, .. } => "wait_timed_out",
            Decision::ChildStarted { .. } => "child_started",
            Decision::ChildCancelling { cause, .. } => {
                self.add("child", cancel_word(*cause));
                "child_cancelling"
            }
            Decision::ChildUndoing { .. } => "child_undoing",
            Decision::ChildEnded { end, .. } => {
                self.add(
                    "child",
                    match end {
                        ChildEnd::Succeeded => "succeeded",
                        ChildEnd::Failed { .. } => "failed",
                        ChildEnd::Cancelled => "cancelled",
                    },
                );
                "child_ended"
            }
            Decision::ConditionDecided { error: Some(_), .. } => "condition_error",
            Decision::ResourceChanged { .. } => "resource_changed",
            Decision::RunsOpened { .. } => "runs_opened",
            Decision::ConditionDecided { runs: true, .. } => "condition_true",
            Decision::ConditionDecided { runs: false, .. } => "condition_false",
            Decision::Assigned { .. } => "assigned",
            Decision::Claimed { .. } => "claimed",
            Decision::Started { .. } => "started",
            Decision::Progressed { .. } => "progressed",
            Decision::AttemptCancelling { cause, .. } => {
                self.cancel(*cause);
                "attempt_cancelling"
            }
            Decision::AttemptEnded { end, next, .. } => {
                self.end(end.outcome, *next);
                "attempt_ended"
            }
            Decision::BackoffEnded { .. } => "backoff_ended",
            Decision::InstancesCancelled { .. } => "instances_cancelled",
            Decision::Reopened { .. } => {
                self.add("epic", "reopened");
                "reopened"
            }
            Decision::IncidentOpened { kind: IncidentKind::UndoFailed, .. } => "incident_undo_failed",
            Decision::IncidentOpened { kind: IncidentKind::UnknownOutcome, .. } => "incident_opened",
            Decision::IncidentAcked { .. } => "incident_acked",
            Decision::IncidentResolved { .. } => "incident_resolved",
            Decision::EffectIntended { .. } => "effect_intended",
            Decision::EffectEnded { end: EffectEnd::Done { .. }, .. } => "effect_done",
            Decision::EffectEnded { end: EffectEnd::NotDone { .. }, .. } => "effect_not_done",
            Decision::EffectEnded { end: EffectEnd::Unknown { .. }, .. } => "effect_unknown",
            Decision::NodeJoined(_) => "node_joined",
            Decision::NodeLost { .. } => "node_lost",
            Decision::AgentChanged { .. } => "agent_changed",
            Decision::SnapshotTaken { .. } => "snapshot_taken",
            Decision::SegmentArchived { .. } => "segment_archived",
            Decision::EpicRetired { .. } => "epic_retired",
            Decision::HistoryOver { .. } => "history_over",
            Decision::StaffChanged { removed, .. } if removed.is_empty() => "staff_added",
            Decision::StaffChanged { .. } => "staff_removed",
            Decision::TaskPinned { .. } => "task_pinned",
            Decision::PinsDropped { .. } => "pins_dropped",
            Decision::Held { .. } => "held",
            Decision::GraceEnded { .. } => "grace_ended",
            Decision::LockAsked { .. } => "lock_asked",
            Decision::LockGranted { .. } => "lock_granted",
            Decision::LockRenewed { .. } => "lock_renewed",
            Decision::LockReleased { .. } => "lock_released",
            Decision::LockExpired { .. } => "lock_expired",
            Decision::LockAskEnded { cause: AskEnd::WaitOver, .. } => "lock_wait_over",
            Decision::LockAskEnded { cause: AskEnd::Withdrawn, .. } => "lock_withdrawn",
        };
        self.add("decision", name);
    }

    fn cancel(&mut self, cause: CancelCause) {
        self.add("cancel", cancel_word(cause));
    }

    fn end(&mut self, outcome: Outcome, next: Next) {
        let name = match outcome {
            Outcome::Succeeded => "succeeded",
            Outcome::Exit => "exit",
            Outcome::Output => "output",
            Outcome::Resource => "resource",
            Outcome::Cancelled => "cancelled",
            Outcome::AgentLost => "agent_lost",
            Outcome::NotStarted => "not_started",
        };
        self.add("outcome", name);
        let name = match next {
            Next::Succeeded => "succeeded",
            Next::Failed => "failed",
            Next::Cancelled => "cancelled",
            Next::Retry { .. } => "retry",
            Next::Unknown => "unknown",
        };
        self.add("next", name);
    }

    /// Counts a refused input.
    pub fn refusal(&mut self, refusal: &Refusal) {
        let name = match refusal {
            Refusal::Error(error) => {
                if error.message.starts_with("the wait would never end") {
                    self.seen("lock.ring_refused");
                }
                if error.message.starts_with("token ") {
                    self.seen("lock.stale_token");
                }
                "error"
            }
            Refusal::Duplicate(_) => "duplicate",
            Refusal::Stale(_) => "stale",
        };
        self.add("refusal", name);
    }

    /// Counts the states that everything in `state` is in.
    pub fn state(&mut self, state: &amphi_coordination::State) {
        self.globs(state);
        for epic in state.epics() {
            let name = match epic.status {
                EpicStatus::Running if epic.paused => "paused",
                EpicStatus::Running if epic.waiting => "waiting",
                EpicStatus::Running => "running",
                EpicStatus::Cancelling => "cancelling",
                EpicStatus::Ended(EpicEnd::Succeeded) => "succeeded",
                EpicStatus::Ended(EpicEnd::Failed) => "failed",
                EpicStatus::Ended(EpicEnd::Cancelled) => "cancelled",
            };
            self.add("epic", name);
            if epic.undoing.is_some() {
                self.add("epic", "undoing");
                self.add("undo", if epic.status == EpicStatus::Cancelling { "of_cancel" } else { "of_failure" });
            }
            for instance in &epic.instances {
                let name = instance_name(&instance.state);
                self.add("instance", name);
                match name {
                    "succeeded" if instance.undo => self.add("undo", "failed"),
                    "undone" => self.add("undo", "undone"),
                    name if instance.undo => self.add("undo", name),
                    _ => {}
                }
            }
        }
    }

    /// Counts globs that are held, names that nobody holds and that are awaited because of another one, and readers side by side.
    fn globs(&mut self, state: &amphi_coordination::State) {
        for (key, lock) in state.locks().iter() {
            let overlapping = state.locks().overlapping(key);
            let is_held = |other: &&amphi_coordination::ResourceKey| state.locks().get(other).is_some_and(|lock| !lock.holders.is_empty());
            let beside = overlapping.iter().any(is_held);
            if !lock.holders.is_empty() && key.resource.as_str().contains(['*', '[']) {
                self.seen("lock.glob_held");
            }
            let outside = |who: &Party| matches!(who, Party::Outside { .. });
            let (holds, waits) =
                (lock.holders.iter().any(|holder| outside(&holder.who)), lock.waiting.values().any(|waiter| outside(&waiter.who)));
            if waits {
                self.seen("lock.outside_waits");
            }
            if holds && lock.waiting.values().any(|waiter| !outside(&waiter.who)) {
                self.seen("lock.task_behind_outside");
            }
            if lock.holders.is_empty() && beside {
                self.seen("lock.waited_for_overlap");
            }
            if !lock.holders.is_empty() && beside {
                self.seen("lock.shared_by_overlap");
            }
        }
    }
}

fn cancel_word(cause: CancelCause) -> &'static str {
    match cause {
        CancelCause::Request => "request",
        CancelCause::Timeout => "timeout",
        CancelCause::Stuck => "stuck",
        CancelCause::Lease => "lease",
        CancelCause::FailFast => "fail_fast",
        CancelCause::Drain => "drain",
    }
}

fn instance_name(state: &InstanceState) -> &'static str {
    match state {
        InstanceState::Blocked => "blocked",
        InstanceState::Ready { .. } => "ready",
        InstanceState::Open(open) if open.cancelling.is_some() => "cancelling",
        InstanceState::Open(open) => match open.phase {
            AttemptPhase::Assigned => "assigned",
            AttemptPhase::Claimed => "claimed",
            AttemptPhase::Started => "started",
        },
        InstanceState::Backoff { .. } => "backoff",
        InstanceState::Waiting { .. } => "waiting",
        InstanceState::Nested(_) => "nested",
        InstanceState::Unknown { .. } => "unknown",
        InstanceState::Ended(InstanceEnd::Succeeded) => "succeeded",
        InstanceState::Ended(InstanceEnd::Failed) => "failed",
        InstanceState::Ended(InstanceEnd::Cancelled) => "cancelled",
        InstanceState::Ended(InstanceEnd::CutOff) => "cut_off",
        InstanceState::Ended(InstanceEnd::Skipped) => "skipped",
        InstanceState::Ended(InstanceEnd::Undone) => "undone",
    }
}
