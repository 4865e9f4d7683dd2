//! The committed journals: those that keep every law are found to, and each of those that break one is found to break exactly that.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use amphi_protocol::ids::EpicId;
use amphi_verify::{Law, LawResult, Verdict, check_lines};

fn samples(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../protocol/samples").join(folder)
}

fn read(folder: &str, name: &str) -> Vec<String> {
    let path = samples(folder).join(format!("{name}.ndjson"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} is committed: {error}", path.display()));
    text.lines().map(str::to_owned).collect()
}

fn judge(lines: &[String], epic: Option<&EpicId>) -> Verdict {
    check_lines(lines, epic).expect("a sample is a journal")
}

fn result(verdict: &Verdict, law: Law) -> LawResult {
    verdict.laws.iter().find(|row| row.law == law).expect("every law has its row").result
}

#[test]
fn every_violation_is_reported_as_exactly_its_law() {
    for (law, slug, _) in support::violations::all() {
        let verdict = judge(&read("violations", &format!("{}-{slug}", law.as_str())), None);
        assert_eq!(verdict.violated(), [law], "{}-{slug}", law.as_str());
        assert!(!verdict.ok);
        let row = verdict.laws.iter().find(|row| row.law == law).expect("every law has its row");
        assert!(!row.evidence.is_empty() && row.checked > 0, "{}-{slug} has no evidence", law.as_str());
    }
}

#[test]
fn a_violation_is_reported_for_the_epic_that_it_concerns_and_for_no_other() {
    for (law, slug, _) in support::violations::all() {
        let lines = read("violations", &format!("{}-{slug}", law.as_str()));
        let shard_wide = matches!(law, Law::S2 | Law::S3) || support::outside::SHARD_WIDE.contains(&slug);
        let concerned = match slug {
            "same-key-twice" | "reader-overtakes-waiting-writer" => support::epic("f"),
            _ => support::violations::focus(),
        };
        assert_eq!(judge(&lines, Some(&concerned)).violated(), [law], "{slug}");
        // An epic that is not there at all breaks S1 by itself.
        let stranger = judge(&lines, Some(&support::epic("stranger"))).violated();
        assert_eq!(stranger, if shard_wide { vec![Law::S1, law] } else { vec![Law::S1] }, "{slug}");
    }
}

#[test]
fn every_law_that_a_journal_can_show_has_a_violation() {
    let shown: BTreeSet<Law> = support::violations::all().into_iter().map(|(law, ..)| law).collect();
    let verdict = judge(&read("journals", "phases"), None);
    let checkable = |law: &&Law| result(&verdict, **law) != LawResult::NotCheckable && **law != Law::S19;
    assert_eq!(shown, Law::ALL.iter().filter(checkable).copied().collect::<BTreeSet<_>>());
}

#[test]
fn in_the_good_journals_every_law_holds_and_each_is_exercised() {
    let mut exercised = BTreeSet::new();
    for (name, _) in support::good::all() {
        let verdict = judge(&read("journals", name), None);
        assert_eq!(verdict.violated(), [], "{name}");
        assert!(verdict.ok);
        exercised.extend(verdict.laws.iter().filter(|row| row.result == LawResult::Holds).map(|row| row.law));
    }
    let never: Vec<&Law> = Law::ALL.iter().filter(|law| !exercised.contains(law)).collect();
    use Law::*;
    assert_eq!(never, [&S16, &S17, &S19, &L1, &L3, &L4, &L5, &L6, &L8]);
}

#[test]
fn a_law_whose_situation_never_occurred_is_not_exercised() {
    let verdict = judge(&read("journals", "phases"), None);
    assert_eq!(result(&verdict, Law::S9), LawResult::NotExercised);
    assert_eq!(result(&verdict, Law::S7), LawResult::NotExercised);
    assert_eq!(result(&verdict, Law::S19), LawResult::NotExercised);
    assert_eq!(result(&verdict, Law::L1), LawResult::NotCheckable);
}

#[test]
fn committed_samples_are_what_the_scenes_build() {
    let mut expected = BTreeSet::new();
    for (name, journal) in support::good::all() {
        assert_eq!(read("journals", name), journal.lines(), "journals/{name} is stale: run the example write-samples");
        expected.insert(format!("{name}.ndjson"));
    }
    for (law, slug, journal) in support::violations::all() {
        let name = format!("{}-{slug}", law.as_str());
        assert_eq!(read("violations", &name), journal.lines(), "violations/{name} is stale: run the example write-samples");
        expected.insert(format!("{name}.ndjson"));
    }
    let folders = ["journals", "violations"].map(|folder| std::fs::read_dir(samples(folder)).expect("the folder is committed"));
    let found: BTreeSet<String> = folders
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("the folder can be read").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(found, expected, "a sample without a scene is judged by no test");
}

#[test]
fn a_verdict_is_written_as_the_interface_says() {
    let verdict = judge(&read("violations", "S7-two-writers"), Some(&support::violations::focus()));
    let value = serde_json::to_value(&verdict).expect("a verdict is JSON");
    assert_eq!(value["epic"], "e");
    assert_eq!(value["ok"], false);
    assert_eq!(value["from"], 1);
    assert_eq!(value["hash"].as_str().map(str::len), Some(64));
    assert_eq!(value["laws"].as_array().map(Vec::len), Some(27));
    assert_eq!(value["laws"][6], serde_json::json!({"law": "S7", "result": "violated", "checked": 4, "evidence": [5]}));
    assert_eq!(value["laws"][15], serde_json::json!({"law": "S16", "result": "not_checkable", "checked": 0, "evidence": []}));
}
