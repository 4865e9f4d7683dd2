//! Golden samples: what an older build wrote is read by this one, and written again as it was. Each kind of message and record has
//! one, and a new variant without a sample does not compile or does not pass.

#![allow(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use amphi_protocol::api::ErrorBody;
use amphi_protocol::codec;
use amphi_protocol::document::{CompileOptions, EpicSpec, Plan, compile};
use amphi_protocol::event::{Event, EventType};
use amphi_protocol::journal::{AttemptNews, Decision, Input, Record};
use amphi_protocol::node::{Heartbeat, HeartbeatAnswer, Job, NodeAnswer, NodeCommand, NodeDeath, Order};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/samples");

/// The samples of a folder, by name; each is decoded as `T` and encodes to the same JSON again.
#[track_caller]
fn samples<T: DeserializeOwned + Serialize + PartialEq + Debug>(folder: &str) -> BTreeMap<String, T> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(format!("{SAMPLES}/{folder}")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        let sample: Value = serde_json::from_slice(&bytes).unwrap();
        let value: T = serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{folder}/{name}: {error}"));
        assert_eq!(serde_json::to_value(&value).unwrap(), sample, "{folder}/{name} changes when it is written again");
        found.insert(name, value);
    }
    assert!(!found.is_empty(), "{folder} is empty");
    found
}

/// Also the binary form of live traffic holds every sample.
fn live<T: DeserializeOwned + Serialize + PartialEq + Debug>(folder: &str) -> BTreeMap<String, T> {
    let found = samples::<T>(folder);
    for (name, value) in &found {
        assert_eq!(codec::decode::<T>(&codec::encode(value)).unwrap(), *value, "{folder}/{name}");
    }
    found
}

/// A function from a value to the name of its variant, and the list of all names. The match has no other arm, so a new variant is
/// found by the compiler; the list then wants its sample.
macro_rules! variants {
    ($function:ident, $kind:ident: $($variant:ident = $name:literal),* $(,)?) => {
        fn $function(value: &$kind) -> &'static str {
            match value { $($kind::$variant { .. } => $name,)* }
        }
        impl Variants for $kind {
            const NAMES: &'static [&'static str] = &[$($name,)*];
            fn name(&self) -> &'static str { $function(self) }
        }
    };
}

trait Variants {
    const NAMES: &'static [&'static str];
    fn name(&self) -> &'static str;
}

variants!(input, Input:
    Lead = "lead", Submit = "submit", CancelEpic = "cancel_epic", PauseEpic = "pause_epic",
    ResumeEpic = "resume_epic", RetryEpic = "retry_epic", SkipTask = "skip_task", CancelTask = "cancel_task", AssignTask = "assign_task", RetryTask = "retry_task",
    ResolveIncident = "resolve_incident", Join = "join", LoseNode = "lose_node", Agent = "agent", Staff = "staff", Attempt = "attempt",
    Silent = "silent", Tick = "tick", Upkeep = "upkeep", Hold = "hold", Signal = "signal", AcquireLock = "acquire_lock",
    AckIncident = "ack_incident", RenewLock = "renew_lock", ReleaseLock = "release_lock",
);
variants!(news, AttemptNews: Claim = "claim", Started = "started", Progress = "progress", Ended = "ended",
    Intend = "intend", Effect = "effect");
variants!(decision, Decision:
    EpochStarted = "epoch_started", EpicAccepted = "epic_accepted", EpicStopping = "epic_stopping", EpicCancelling = "epic_cancelling",
    EpicEnded = "epic_ended", ConditionDecided = "condition_decided", UndoStarted = "undo_started", EpicPaused = "epic_paused",
    EpicResumed = "epic_resumed", InstancesSkipped = "instances_skipped", ResourceChanged = "resource_changed",
    RunsOpened = "runs_opened", WaitEnded = "wait_ended", ChildStarted = "child_started", ChildCancelling = "child_cancelling",
    ChildUndoing = "child_undoing", ChildEnded = "child_ended", Assigned = "assigned", Claimed = "claimed", Started = "started",
    Progressed = "progressed", AttemptCancelling = "attempt_cancelling", AttemptEnded = "attempt_ended", BackoffEnded = "backoff_ended",
    InstancesCancelled = "instances_cancelled", Reopened = "reopened", IncidentOpened = "incident_opened",
    IncidentResolved = "incident_resolved", NodeJoined = "node_joined", NodeLost = "node_lost", AgentChanged = "agent_changed", SnapshotTaken = "snapshot_taken",
    SegmentArchived = "segment_archived", EpicRetired = "epic_retired", HistoryOver = "history_over", StaffChanged = "staff_changed",
    Held = "held", GraceEnded = "grace_ended", TaskPinned = "task_pinned", PinsDropped = "pins_dropped",
    IncidentAcked = "incident_acked", EffectIntended = "effect_intended", EffectEnded = "effect_ended", LockAsked = "lock_asked", LockGranted = "lock_granted", LockRenewed = "lock_renewed", LockReleased = "lock_released",
    LockExpired = "lock_expired", LockAskEnded = "lock_ask_ended",
);
variants!(order, Order: Assign = "Assign", Go = "Go", Cancel = "Cancel", RestartAgent = "RestartAgent", JoinAgain = "JoinAgain");
variants!(answer, NodeAnswer: Confirmed = "Confirmed", OtherIncarnation = "OtherIncarnation", OldEpoch = "OldEpoch");

/// Every variant has a sample under its own name.
#[track_caller]
fn complete<T: Variants>(found: &BTreeMap<String, T>) {
    for (name, value) in found {
        assert_eq!(name.split('-').next(), Some(value.name()), "the sample {name} holds another variant");
    }
    let seen: BTreeSet<&str> = found.values().map(Variants::name).collect();
    let missing: Vec<_> = T::NAMES.iter().filter(|name| !seen.contains(**name)).collect();
    assert!(missing.is_empty(), "no sample of {missing:?}");
}

#[test]
fn every_input_and_decision_of_the_journal_has_a_sample() {
    complete(&samples::<Input>("input"));
    complete(&samples::<AttemptNews>("attempt_news"));
    complete(&samples::<Decision>("decision"));
}

#[test]
fn a_record_is_stored_as_it_was() {
    for (name, record) in samples::<Record>("record") {
        assert_eq!(Record::decode(&record.encode()).unwrap(), record, "{name}");
    }
    let newer = std::fs::read_to_string(format!("{SAMPLES}/record/commit.json")).unwrap().replacen("\"schema\": 1", "\"schema\": 999", 1);
    assert!(Record::decode(newer.as_bytes()).unwrap_err().to_string().contains("999"));
}

#[test]
fn every_kind_of_event_has_a_sample() {
    let found = samples::<Event>("event");
    let seen: BTreeSet<&str> = found.values().map(|event| event.kind.as_str()).collect();
    assert_eq!(seen, EventType::ALL.iter().map(|kind| kind.as_str()).collect());
    for (name, event) in found {
        assert_eq!(name, event.kind.as_str());
        assert!(event.subject().starts_with("amphi.evt."));
    }
}

#[test]
fn everything_between_managers_and_nodes_has_a_sample_in_both_forms() {
    complete(&live::<Order>("order"));
    complete(&live::<NodeAnswer>("node_answer"));
    live::<NodeCommand>("node_command");
    live::<Heartbeat>("heartbeat");
    live::<HeartbeatAnswer>("heartbeat_answer");
    live::<NodeDeath>("node_death");
    samples::<Job>("job");
}

#[test]
fn errors_have_samples() {
    samples::<ErrorBody>("error");
}

#[test]
fn a_document_always_means_what_it_meant() {
    let text = std::fs::read_to_string(format!("{SAMPLES}/epic/full.epic.yaml")).unwrap();
    let compiled = compile(&text, &CompileOptions::default());
    assert_eq!(compiled.problems, vec![]);
    let spec = compiled.spec.unwrap();
    let golden: Value = serde_json::from_slice(&std::fs::read(format!("{SAMPLES}/epic/full.spec.json")).unwrap()).unwrap();
    assert_eq!(serde_json::to_value(&spec).unwrap(), golden);
    assert_eq!(serde_json::from_value::<EpicSpec>(golden).unwrap(), spec);
    assert_eq!(Plan::expand(&spec).instances.len(), 7);
}
