//! Messages between agents: both forms hold the same message, and bytes from outside never do harm.

#![allow(clippy::unwrap_used, reason = "a test says so by panicking")]

use amphi_protocol::codec::{self, CodecError};
use amphi_protocol::message::{AgentMessage, MessageType, Recipient};
use amphi_protocol::node::{Heartbeat, NodeCommand};
use proptest::prelude::*;
use serde_json::{Value, json};

fn samples() -> Vec<(String, Value)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/samples/message");
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_stem().unwrap().to_string_lossy().into_owned(), serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap())
        })
        .collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

#[test]
fn every_golden_message_survives_both_codecs() {
    let samples = samples();
    let mut kinds = std::collections::BTreeSet::new();
    for (name, sample) in &samples {
        let message = AgentMessage::from_json(sample.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&message.to_json()).unwrap(), *sample, "{name}");
        assert_eq!(AgentMessage::from_bincode(&message.to_bincode()).unwrap(), message, "{name}");
        kinds.insert(message.kind);
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), MessageType::ALL, "each kind has a sample");
    assert!(samples.iter().any(|(_, sample)| sample["to"] == "broadcast"));
}

#[test]
fn the_requirement_s_example_is_a_sample() {
    let (_, sample) = samples().into_iter().find(|(name, _)| name == "task_complete").unwrap();
    assert_eq!(
        (&sample["from"], &sample["to"], &sample["type"]),
        (&json!("DatabaseArchitect"), &json!("DeployCommander"), &json!("task_complete"))
    );
    assert_eq!((&sample["payload"]["migration"], &sample["beadsTaskId"]), (&json!("add_pgvector_extension"), &json!("ved-9d0")));
}

#[test]
fn a_message_with_a_wrong_shape_is_refused() {
    for text in [
        "",
        "{}",
        r#"{"from":"a.b","to":"c","type":"error","payload":1}"#,
        r#"{"from":"a","to":"c","type":"shout","payload":1}"#,
        r#"{"from":"a","to":"*","type":"error","payload":1}"#,
    ] {
        assert!(AgentMessage::from_json(text.as_bytes()).is_err(), "{text}");
    }
    let message = AgentMessage::from_json(br#"{"from":"A","to":"broadcast","type":"emergency","payload":null}"#).unwrap();
    assert_eq!(message.to, Recipient::Broadcast);
}

#[test]
fn a_foreign_envelope_is_told_apart() {
    let mut bytes = codec::encode(&7u32);
    assert_eq!(codec::decode::<u32>(&bytes).unwrap(), 7);
    bytes[3] = 9;
    assert!(matches!(codec::decode::<u32>(&bytes), Err(CodecError::Version { schema: 9, .. })));
    assert!(matches!(codec::decode::<u32>(b"xy"), Err(CodecError::Envelope)));
    let mut bytes = codec::encode(&7u32);
    bytes.push(0);
    assert!(matches!(codec::decode::<u32>(&bytes), Err(CodecError::Trailing(1))));
}

#[test]
fn a_hostile_length_is_an_error_and_no_allocation() {
    let mut bytes = codec::encode(&0u8);
    bytes.pop();
    bytes.extend([253, 255, 255, 255, 255, 255, 255, 255, 255]);
    assert!(codec::decode::<String>(&bytes).is_err());
    assert!(codec::decode::<Vec<u64>>(&bytes).is_err());
    assert!(codec::decode::<NodeCommand>(&bytes).is_err());
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect()))
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_message_survives_both_codecs(payload in json_value(), kind in prop::sample::select(MessageType::ALL.to_vec()), id in prop::option::of(".{0,20}")) {
        let text = json!({"from": "A", "to": "B", "type": kind, "payload": payload, "beadsTaskId": id});
        let message: AgentMessage = serde_json::from_value(text).unwrap();
        prop_assert_eq!(&AgentMessage::from_json(&message.to_json()).unwrap(), &message);
        prop_assert_eq!(&AgentMessage::from_bincode(&message.to_bincode()).unwrap(), &message);
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), ours in any::<bool>()) {
        if ours {
            bytes.splice(0..bytes.len().min(4), codec::encode(&())[..4].iter().copied());
        }
        drop(codec::decode::<NodeCommand>(&bytes));
        drop(codec::decode::<Heartbeat>(&bytes));
        drop(AgentMessage::from_bincode(&bytes));
        drop(AgentMessage::from_json(&bytes));
    }

    #[test]
    fn a_broken_message_never_panics(at in 0usize..200, byte in any::<u8>()) {
        let (_, sample) = samples().remove(0);
        let mut bytes = AgentMessage::from_json(sample.to_string().as_bytes()).unwrap().to_bincode();
        let at = at % bytes.len();
        bytes[at] = byte;
        drop(AgentMessage::from_bincode(&bytes));
    }
}
