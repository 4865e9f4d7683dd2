//! A snapshot says what it is: damage, strange versions and changed fields are noticed, never taken for a state.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use amphi_coordination::snapshot::{SnapshotError, decode, encode};
use amphi_coordination::{EventSink, State};
use amphi_protocol::document::EpicSpec;
use amphi_protocol::ids::{EpicId, NodeId, ProjectId, ShardId, SubmitKey, Timestamp};
use amphi_protocol::journal::{Input, SpecRef, Submission};
use serde_json::{Value, json};

fn state() -> State {
    let spec: EpicSpec = serde_json::from_value(json!({
        "name": "e", "project": "p", "priority": 2, "inputs": { "half": 0.5, "deep": { "list": [1, "two", null] } },
        "tasks": [{
            "name": "a", "work": { "tool": { "tool": "noop", "with": {} } }, "priority": 2, "stuck_after_ms": 1000,
            "matrix": [{ "axis": "i", "values": ["1", "2"] }], "locks": { "write": ["db/${{ matrix.i }}"] },
            "retry": { "attempts": 1, "backoff_ms": 0, "max_ms": 0, "on": [] },
        }],
    }))
    .unwrap();
    let mut state = State::new(ShardId(0));
    state.decide(Timestamp(1), &Input::Lead { node: NodeId::parse("n").unwrap() }, &mut EventSink::counting()).unwrap();
    for number in 0..3 {
        let submission = Submission {
            admission: None,
            epic: EpicId::parse(&format!("e-{number}")).unwrap(),
            key: SubmitKey::parse(&format!("key {number}")).unwrap(),
            body_hash: "b".to_owned(),
            by: "local".to_owned(),
            project: ProjectId::parse("p").unwrap(),
            spec: SpecRef::new(Arc::new(spec.clone())).0,
        };
        state.decide(Timestamp(2), &Input::Submit(submission), &mut EventSink::counting()).unwrap();
    }
    state
}

fn changed(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let state = state();
    let mut value: Value = serde_json::from_slice(&encode(&state, "hash", &state.digest())).unwrap();
    change(&mut value);
    serde_json::to_vec(&value).unwrap()
}

#[test]
fn what_is_written_is_read_again_to_the_last_field() {
    let state = state();
    let loaded = decode(&encode(&state, "hash", &state.digest())).unwrap();
    assert!(loaded.is_exact);
    assert_eq!((loaded.hash.as_str(), loaded.state.digest()), ("hash", state.digest()));
}

#[test]
fn a_specification_of_many_epics_stands_once() {
    let bytes = changed(|value| assert_eq!(value["specs"].as_object().unwrap().len(), 1));
    assert_eq!(decode(&bytes).unwrap().state.epics().count(), 3);
}

#[test]
fn a_field_that_changed_shows_as_another_digest() {
    assert!(!decode(&changed(|value| value["state"]["token"] = json!(77))).unwrap().is_exact);
    assert!(!decode(&changed(|value| value["state"]["epics"]["e-1"]["open_tasks"] = json!(9))).unwrap().is_exact);
}

#[test]
fn a_field_that_a_later_build_does_not_know_is_passed_over() {
    assert!(decode(&changed(|value| value["state"]["of_tomorrow"] = json!(1))).unwrap().is_exact);
}

#[test]
fn damage_and_newer_schemas_are_refused() {
    let whole = changed(|_| ());
    assert!(matches!(decode(&whole[..whole.len() / 2]), Err(SnapshotError::Malformed(_))));
    let newer = changed(|value| {
        value["amphi_snapshot"] = json!(99);
        value["state"] = json!("of another shape");
    });
    assert!(matches!(decode(&newer), Err(SnapshotError::NewerSchema { found: 99 })));
    let without = changed(|value| value["specs"] = json!({}));
    assert!(matches!(decode(&without), Err(SnapshotError::SpecMissing { .. })));
}
