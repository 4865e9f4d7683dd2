//! Deficit round robin between the epics of one priority.

use std::collections::BTreeMap;

use amphi_protocol::ids::{EpicId, Timestamp};
use serde_json::{Value, json};

use crate::stage::Stage;

/// An epic of `count` tasks that all could run at once.
fn wide(name: &str, count: u32) -> Value {
    let values: Vec<u32> = (1..=count).collect();
    json!({ "version": 1, "name": name, "tasks": { "t": { "run": "true", "matrix": { "n": values } } } })
}

/// Nobody gets more than his share and one more, in any window of the history.
fn assert_fair(served: &[String], epics: usize) {
    for from in 0..served.len() {
        let mut counts = BTreeMap::<&str, usize>::new();
        for (length, name) in (1..).zip(&served[from..]) {
            let count = counts.entry(name).or_default();
            *count += 1;
            assert!(*count <= length / epics + 1, "{name} was served {count} times in the {length} assignments from {from} on");
        }
    }
}

#[test]
fn in_any_window_no_epic_gets_more_than_its_share_and_one_more() {
    for epics in 2..=7 {
        let mut stage = Stage::new();
        stage.join("node-1", 1, 1, &[("Build", 1)]);
        for epic in 0..epics {
            // The first is served while it is alone, and all have different amounts to do.
            stage.submit(wide(&format!("epic-{epic}"), 12 + epic as u32 * 3));
        }
        // Had the agent before anybody else was there.
        stage.serve();
        let served: Vec<String> = (0..11 * epics).map(|_| stage.serve().epic().to_owned()).collect();
        assert_fair(&served, epics);
        while !stage.open.is_empty() {
            stage.serve();
        }
        stage.holds();
    }
}

#[test]
fn what_an_epic_asks_of_an_agent_does_not_decide_how_much_it_gets() {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 1, &[("Build", 1)]);
    let demands = [("any", json!({})), ("role", json!({ "agent": "Build" })), ("skill", json!({ "skills": ["build"] }))];
    for (name, demand) in demands {
        let mut document = wide(name, 20);
        for (key, value) in demand.as_object().unwrap_or(&serde_json::Map::new()) {
            document["tasks"]["t"][key] = value.clone();
        }
        stage.submit(document);
    }
    // Had the agent before anybody else was there.
    stage.serve();
    let served: Vec<String> = (0..57).map(|_| stage.serve().epic().to_owned()).collect();
    assert_fair(&served, 3);
    stage.holds();
}

#[test]
fn a_small_epic_is_served_within_as_many_assignments_as_there_are_epics() {
    let mut stage = Stage::unchecked();
    stage.join("node-1", 1, 1, &[("Build", 1)]);
    stage.submit(wide("huge", 10_000));
    for _ in 0..100 {
        stage.serve();
    }
    for others in 1..4usize {
        let small = format!("small-{others}");
        stage.submit(wide(&small, 3));
        let epics = others + 1;
        // One attempt is open already; it does not count.
        stage.serve();
        let comes = (1..=epics).find(|_| stage.serve().epic() == small);
        assert!(comes.is_some(), "{small} was not served within {epics} assignments");
        stage.submit(wide(&format!("large-{others}"), 50));
        let gone = EpicId::parse(&small).expect("it is an epic id");
        while !stage.state.epic(&gone).expect("it is there").is_ended() {
            stage.serve();
        }
    }
}

#[test]
fn priority_comes_before_fairness_and_age_decides_inside_an_epic() {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 1, &[("Build", 1)]);
    stage.submit(wide("low", 4));
    let mut urgent = wide("urgent", 5);
    urgent["priority"] = json!(0);
    stage.submit(urgent);
    stage.submit(wide("other", 4));
    let served: Vec<(String, u32)> = (0..13)
        .map(|_| {
            let given = stage.serve();
            (given.epic().to_owned(), given.attempt.i)
        })
        .collect();
    let names: Vec<&str> = served.iter().map(|(name, _)| name.as_str()).collect();
    // `low` had the agent before anybody else was there.
    let expected = ["low", "urgent", "urgent", "urgent", "urgent", "urgent", "low", "other", "low", "other", "low", "other", "other"];
    assert_eq!(names, expected);
    for epic in ["low", "urgent", "other"] {
        let order: Vec<u32> = served.iter().filter(|(name, _)| name == epic).map(|(_, i)| *i).collect();
        assert!(order.is_sorted(), "{epic} was served in the order {order:?}");
    }
    stage.holds();
}

#[test]
fn an_epic_that_had_nothing_to_do_gathers_no_turns() {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 1, &[("Build", 1)]);
    stage.submit(json!({ "version": 1, "name": "late", "tasks": {
        "first": { "run": "true" },
        "rest": { "run": "true", "needs": ["gate"], "matrix": { "n": "1..10" } },
        "gate": { "run": "true", "needs": ["first"], "skills": ["missing"] },
    } }));
    stage.submit(wide("steady", 30));
    for _ in 0..15 {
        stage.serve();
    }
    // Whoever can open the gate comes now: the ten that wait behind it get every second turn, not ten at once.
    stage.join("node-2", 1, 1, &[("Missing", 1)]);
    let gate = stage.given(&EpicId::parse("late").expect("it is an epic id"), "gate");
    stage.start(&gate);
    stage.end(&gate, amphi_protocol::journal::Outcome::Succeeded);
    let served: Vec<String> = (0..16).map(|_| stage.serve().epic().to_owned()).collect();
    assert_fair(&served[stage.open.len()..], 2);
    stage.holds();
}

#[test]
fn the_queue_and_why_say_in_which_order_they_will_come() {
    let mut stage = Stage::new();
    stage.join("node-1", 1, 1, &[("Build", 1)]);
    let (one, two) = (stage.submit(wide("one", 4)), stage.submit(wide("two", 3)));
    let listed: Vec<String> = stage.state.queue_list(100).tasks.iter().map(|task| format!("{}/{}", task.epic, task.task)).collect();
    let places: BTreeMap<u64, String> = [(&one, 4), (&two, 3)]
        .into_iter()
        .flat_map(|(epic, count)| (1..=count).map(move |n| (epic.clone(), format!("t[{n}]"))))
        .filter_map(|(epic, task)| {
            let why = stage.state.why(&epic, &task, (Timestamp(0), &|_| None))?;
            Some((why.waits.first()?.place?, format!("{epic}/{task}")))
        })
        .collect();
    stage.serve();
    let served: Vec<String> = (0..6)
        .map(|_| {
            let given = stage.serve();
            format!("{}/{}", given.epic(), stage.key(&given))
        })
        .collect();
    assert_eq!(listed, served);
    assert_eq!(places.into_values().collect::<Vec<_>>(), served);
}
