//! Laws that need the inside of the compiler: the schema names the same keys, and the graph is searched with linear work.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::document::graph::{Graph, Links};
use crate::document::{keys, shell};

#[test]
fn the_schema_and_the_compiler_know_the_same_keys() {
    let schema: Value = serde_json::from_str(crate::schema::EPIC).unwrap();
    let mut defined: BTreeSet<&str> = schema["$defs"].as_object().unwrap().keys().map(String::as_str).collect();
    defined.remove("duration");
    for (name, tables) in keys::TABLES {
        let node = if *name == "epic" { &schema } else { &schema["$defs"][*name] };
        let listed: BTreeSet<&str> =
            node["properties"].as_object().unwrap_or_else(|| panic!("no schema of {name}")).keys().map(String::as_str).collect();
        let known: BTreeSet<&str> = tables.iter().flat_map(|table| table.iter().copied()).collect();
        assert_eq!(listed, known, "{name}");
        defined.remove(name);
    }
    assert!(defined.is_empty(), "the schema defines what the compiler does not know: {defined:?}");
}

#[test]
fn the_schema_of_events_lists_every_kind_and_every_field() {
    let schema: Value = serde_json::from_str(crate::schema::EVENT).unwrap();
    let kinds: Vec<&str> = schema["properties"]["type"]["enum"].as_array().unwrap().iter().map(|kind| kind.as_str().unwrap()).collect();
    let known: Vec<&str> = crate::event::EventType::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(kinds, known);
    let event = crate::event::Event {
        shard: crate::ids::ShardId(0),
        seq: crate::ids::EventSeq(1),
        ts: String::new(),
        epic: None,
        task: None,
        run: None,
        attempt: None,
        agent: None,
        node: None,
        kind: crate::event::EventType::EpicStarted,
        data: serde_json::Map::new(),
        task_token: None,
    };
    let body = serde_json::to_value(event).unwrap();
    let fields: BTreeSet<&String> = body.as_object().unwrap().keys().collect();
    let listed: BTreeSet<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert_eq!(fields, listed);
}

fn chain(length: u32) -> Vec<Links> {
    (0..length).map(|task| Links { needs: Some(task.checked_sub(1).into_iter().collect()), phase: None }).collect()
}

#[test]
fn a_long_chain_is_no_problem_for_the_stack() {
    let graph = Graph::new(&chain(100_000), 0);
    assert!(graph.is_acyclic());
    assert_eq!(graph.not_ancestors(&[(99_999, 0), (0, 99_999), (5, 5), (7, 6)]), [false, true, true, false]);
    let mut ring = chain(100_000);
    ring[0].needs = Some(vec![99_999]);
    let graph = Graph::new(&ring, 0);
    assert_eq!(graph.cycles(10).iter().map(Vec::len).collect::<Vec<_>>(), [100_000]);
}

#[test]
fn waiting_for_a_phase_costs_one_edge_for_each_task() {
    let wide = |tasks: u32| (0..tasks).map(|task| Links { needs: None, phase: Some(task % 10) }).collect::<Vec<_>>();
    for tasks in [1_000, 10_000, 100_000] {
        let graph = Graph::new(&wide(tasks), 10);
        assert_eq!(graph.edges(), tasks as usize + tasks as usize / 10 * 9);
        assert_eq!(graph.not_ancestors(&[(9, 0), (0, 9)]), [false, true]);
    }
}

#[test]
fn what_only_waits_behind_a_circle_is_not_part_of_it() {
    let needs: [&[u32]; 6] = [&[], &[0, 2], &[3], &[1], &[3], &[5]];
    let links: Vec<Links> = needs.iter().map(|needs| Links { needs: Some(needs.to_vec()), phase: None }).collect();
    assert_eq!(Graph::new(&links, 0).cycles(10), [vec![1, 2, 3], vec![5]]);
}

#[test]
fn a_lexer_never_loses_its_place() {
    for text in ["", "\\", "$", "\"", "<<", "<<-", "${{", "$((", "`\\", "'é${{ inputs.é }}", "é\\é${{ inputs.a }}é"] {
        // Nothing to compare: it ends, and slices no character in two.
        drop(shell::script(text));
    }
}
