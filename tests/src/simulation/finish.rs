//! What must be true of the whole history when everything has come to rest.

use std::collections::BTreeSet;

use amphi_coordination::laws::{self, Violation};
use amphi_coordination::{EventSink, State, snapshot};
use amphi_protocol::ids::{EpicId, ShardId};
use amphi_protocol::journal::{Decision, Input, Record};
use amphi_verify::{ExportHeader, ExportLine, check_lines};

use super::world::World;

fn violation(law: &'static str, words: String) -> Violation {
    Violation { law, words }
}

/// Checks the history.
pub(super) fn check(world: &mut World) -> Result<(), Violation> {
    let live = world.leader().map(|leader| leader.seat.state().digest()).ok_or_else(|| violation("L1", "nobody leads".to_owned()))?;
    let mut sink = EventSink::collecting();
    let mut replayed = State::new(ShardId(0));
    let prefixes = [world.rng.below(world.journal.len()), world.rng.below(world.journal.len()), world.journal.len() - 1];
    for (position, (_, record)) in (0u64..).zip(&world.journal.records) {
        replayed.apply(record, &mut sink).map_err(|error| violation("S3", error.to_string()))?;
        if prefixes.contains(&position) {
            world.tally.seen("snapshot.prefix");
            replayed = through_a_snapshot(&replayed)?;
        }
    }
    laws::check(&replayed)?;
    if replayed.digest() != live {
        let leader = world.leader().map(|leader| format!("{:?}", leader.seat.state())).unwrap_or_default();
        let words = difference(&leader, &format!("{replayed:?}"));
        return Err(violation("S3", format!("a replay of the journal gives another state than the live one: {words}")));
    }
    world.observer.events(&sink.take());
    world.noticed();
    if !world.observer.is_dense() {
        return Err(violation("S3", "the numbers of the events have gaps".to_owned()));
    }
    decide_again(world, &live)?;
    world.check_archive()?;
    world.check_recoveries(&live)?;
    world.check_standby(&live)?;
    check_acknowledged(world, &replayed)?;
    check_waiting(world, &replayed)?;
    verify(world)
}

/// The state after it was written and read: the same, and the replay goes on from it.
fn through_a_snapshot(state: &State) -> Result<State, Violation> {
    let bytes = snapshot::encode(state, "", &state.digest());
    let loaded = snapshot::decode(&bytes).map_err(|error| violation("S3", format!("a snapshot cannot be read: {error}")))?;
    if !loaded.is_exact {
        let words = difference(&format!("{state:?}"), &format!("{:?}", loaded.state));
        return Err(violation("S3", format!("a snapshot of commit {} gives another state: {words}", state.index)));
    }
    Ok(loaded.state)
}

/// The first place where two states are written differently.
fn difference(live: &str, replayed: &str) -> String {
    let (live, replayed): (Vec<char>, Vec<char>) = (live.chars().collect(), replayed.chars().collect());
    let place = live.iter().zip(&replayed).take_while(|(one, other)| one == other).count();
    let around = |text: &[char]| text[place.saturating_sub(120)..text.len().min(place + 80)].iter().collect::<String>();
    format!("live …{}… and replayed …{}…", around(&live), around(&replayed))
}

/// The same build decides the same from the same inputs.
fn decide_again(world: &World, live: &str) -> Result<(), Violation> {
    let mut sink = EventSink::counting();
    let mut state = State::new(ShardId(0));
    for (_, record) in &world.journal.records {
        for (input, recorded) in record.inputs.iter().zip(&record.decisions) {
            let input = with_spec(input, recorded);
            let decided = state.decide(record.now_ms, &input, &mut sink);
            let same = decided.as_ref().is_ok_and(|decided| decided == recorded);
            if !same {
                return Err(violation(
                    "S3",
                    format!("commit {}: {input:?} was decided as {recorded:?}, and again as {decided:?}", record.index),
                ));
            }
        }
        state.index = record.index;
    }
    if state.digest() == live { Ok(()) } else { Err(violation("S3", "deciding the journal again gives another state".to_owned())) }
}

/// A submission is journalled without its specification; that stands in the decision.
fn with_spec(input: &Input, decisions: &[Decision]) -> Input {
    let mut input = input.clone();
    if let (Input::Submit(submission), Some(Decision::EpicAccepted { spec, .. })) = (&mut input, decisions.first()) {
        submission.spec = spec.clone();
    }
    input
}

/// S1: every acknowledged submission is in the journal, once.
fn check_acknowledged(world: &World, state: &State) -> Result<(), Violation> {
    let accepted =
        |record: &Record| record.decisions.iter().flatten().filter(|decision| matches!(decision, Decision::EpicAccepted { .. })).count();
    let count: usize = world.journal.records.iter().map(|(_, record)| accepted(record)).sum();
    let accepted: BTreeSet<&EpicId> = world
        .journal
        .records
        .iter()
        .flat_map(|(_, record)| record.decisions.iter().flatten())
        .filter_map(|decision| match decision {
            Decision::EpicAccepted { epic, .. } => Some(epic),
            _ => None,
        })
        .collect();
    let kept = |epic: &EpicId| state.epic(epic).is_some() || state.history().retired.contains_key(epic) || state.history().from.0 > 1;
    let mut acknowledged = 0;
    for (project, key, epic) in world.clients.acknowledged() {
        acknowledged += 1;
        if !accepted.contains(epic) || !kept(epic) {
            return Err(violation("S1", format!("{epic} was acknowledged for {key:?} of {project} and is not in the journal")));
        }
    }
    if acknowledged == count { Ok(()) } else { Err(violation("S13", format!("{acknowledged} submissions became {count} epics"))) }
}

/// L2: what has not ended waits for a person, and says so.
fn check_waiting(world: &mut World, state: &State) -> Result<(), Violation> {
    for epic in state.epics().filter(|epic| !epic.is_ended()) {
        if !(epic.needs_person() && epic.waiting) {
            return Err(violation("L2", format!("{} neither ended nor waits for a person: {:?}", epic.id, epic.status)));
        }
    }
    world.tally.state(state);
    Ok(())
}

/// A second opinion.
fn verify(world: &World) -> Result<(), Violation> {
    let header = ExportLine::Header(ExportHeader { shard: ShardId(0), epic: None, state_hash: None, from: None }).encode();
    let records = world.journal.records.iter().map(|(bytes, record)| {
        let record_text = String::from_utf8(bytes.to_vec()).expect("records are JSON");
        ExportLine::Record { index: record.index, record: record_text }.encode()
    });
    let verdict = check_lines(std::iter::once(header).chain(records), None).map_err(|error| violation("S3", format!("verify: {error}")))?;
    let violated: Vec<String> = verdict
        .laws
        .iter()
        .filter(|law| law.result == amphi_verify::LawResult::Violated)
        .map(|law| format!("{} at {:?}", law.law.as_str(), law.evidence))
        .collect();
    if violated.is_empty() { Ok(()) } else { Err(violation("verify", violated.join(", "))) }
}
