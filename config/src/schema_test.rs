//! The schema, the reader, the roles that ship and the defaults say the same.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{roles, team};

fn keys_at<'s>(schema: &'s Value, pointer: &str) -> BTreeSet<&'s str> {
    let properties = schema.pointer(pointer).unwrap_or_else(|| panic!("the schema has {pointer}"));
    properties.as_object().expect("a mapping").keys().map(String::as_str).collect()
}

fn choices_at<'s>(schema: &'s Value, pointer: &str) -> Vec<&'s str> {
    let choices = schema.pointer(pointer).unwrap_or_else(|| panic!("the schema has {pointer}"));
    choices.as_array().expect("a list").iter().map(|choice| choice.as_str().expect("a text")).collect()
}

fn names<T>(choices: &[(&'static str, T)]) -> Vec<&'static str> {
    choices.iter().map(|(name, _)| *name).collect()
}

#[test]
fn the_schema_has_exactly_the_keys_and_choices_that_are_read() {
    let schema: Value = serde_json::from_str(crate::CONFIG_SCHEMA).expect("the schema is JSON");
    let keys = [
        ("/properties", team::TEAM_KEYS),
        ("/properties/cluster/properties", team::CLUSTER_KEYS),
        ("/properties/cluster/properties/nats/oneOf/2/properties", team::NATS_KEYS),
        ("/properties/health/properties", team::HEALTH_KEYS),
        ("/properties/limits/properties", team::LIMITS_KEYS),
        ("/$defs/secret/properties", team::SECRET_KEYS),
        ("/$defs/role/properties", roles::ROLE_KEYS),
        ("/$defs/restart/properties", roles::RESTART_KEYS),
    ];
    for (pointer, known) in keys {
        assert_eq!(keys_at(&schema, pointer), known.iter().copied().collect(), "{pointer}");
    }
    let choices = [
        ("/properties/cluster/properties/durability/enum", names(team::DURABILITIES)),
        ("/properties/health/properties/on_stuck/enum", names(team::ON_STUCK)),
        ("/properties/health/properties/on_failed/enum", names(team::ON_FAILED)),
        ("/properties/health/properties/on_exhausted/enum", names(team::ON_EXHAUSTED)),
        ("/$defs/role/properties/engine/enum", names(roles::ENGINES)),
        ("/$defs/role/properties/autonomy/enum", names(roles::AUTONOMIES)),
        ("/$defs/restart/properties/strategy/enum", names(roles::STRATEGIES)),
    ];
    for (pointer, known) in choices {
        assert_eq!(choices_at(&schema, pointer), known, "{pointer}");
    }
}

#[test]
fn every_variable_of_the_environment_sets_a_key_that_is_read() {
    for path in crate::layers::ENVIRONMENT_PATHS {
        let (section, key) = path.split_once('.').expect("a section and a key");
        let keys = match section {
            "cluster" => team::CLUSTER_KEYS,
            "health" => team::HEALTH_KEYS,
            "limits" => team::LIMITS_KEYS,
            other => panic!("no variables for {other}"),
        };
        assert!(keys.contains(&key), "{path}");
    }
}
