//! The verdict of `verify` for people: one line per law.

use serde_json::Value;

use super::screen::{Cell, Paint, Style, items, state_cell, table, text_of};

/// What each law says, in a line.
const LAWS: [(&str, &str); 27] = [
    ("S1", "every acknowledged submission is in the journal"),
    ("S2", "one epoch per journal position, epochs only grow"),
    ("S3", "replaying the journal gives the live state"),
    ("S4", "at most one open attempt per run"),
    ("S5", "an ended run stays ended, its result recorded once"),
    ("S6", "a task starts only when its needs are satisfied"),
    ("S7", "a writer holds a resource alone"),
    ("S8", "fencing tokens grow, older ones do not count"),
    ("S9", "a `retry: 0` task is started at most once"),
    ("S10", "locks are free in the commit that ends the attempt"),
    ("S11", "conflicting lock requests are granted in order"),
    ("S12", "the next attempt goes to another agent where one exists"),
    ("S13", "each input is applied exactly once"),
    ("S14", "an attempt runs only where the role and skills are"),
    ("S15", "no message of one node counts as another's"),
    ("S16", "no secret leaves"),
    ("S17", "no write outside the task's workspace"),
    ("S18", "the graph is acyclic at all times"),
    ("S19", "no denied policy and no undecided gate was passed"),
    ("L1", "a Manager leads within its lease + 2 s"),
    ("L2", "every accepted epic ends, or waits for a person"),
    ("L3", "a ready task with a free agent is assigned within 2 s"),
    ("L4", "a stuck agent is replaced within its timeout + 10 s"),
    ("L5", "a lock waiter is served within 1 s of the release"),
    ("L6", "a cancel stops all processes within 10 s"),
    ("L7", "a poison task is quarantined, not retried for ever"),
    ("L8", "queues drain, memory and disk return to a bound"),
];

/// Events of evidence that are listed; the rest are counted.
const EVIDENCE_SHOWN_MAX: usize = 8;

/// A table of laws and one closing line.
pub fn verdict_text(verdict: &Value, style: Style) -> String {
    // Of a cluster with several shards there is one for each.
    let of_shards = items(verdict, "shards");
    if !of_shards.is_empty() {
        return of_shards.iter().map(|verdict| verdict_text(verdict, style)).collect();
    }
    let laws = items(verdict, "laws");
    let rows: Vec<Vec<Cell>> = laws
        .iter()
        .map(|law| {
            let id = text_of(law, "law");
            let meaning = LAWS.iter().find(|(name, _)| *name == id).map_or("", |(_, meaning)| meaning);
            let checked = law["checked"].as_u64().unwrap_or(0).to_string();
            vec![Cell::new(&id), state_cell(&text_of(law, "result")), Cell::new(checked), Cell::new(evidence(law)), Cell::new(meaning)]
        })
        .collect();
    let mut out = table(&["LAW", "RESULT", "CHECKED", "EVIDENCE", "MEANING"], &rows, style);
    let violated = laws.iter().filter(|law| law["result"] == "violated").count();
    let about = verdict["epic"].as_str().unwrap_or("the journal");
    let range = format!("records {} to {}, hash {}", text_of(verdict, "from"), text_of(verdict, "to"), text_of(verdict, "hash"));
    let line = if verdict["ok"] == Value::Bool(true) {
        style.paint(Paint::Good, &format!("✓ {about}: no law is violated"))
    } else {
        style.paint(Paint::Bad, &format!("✗ {about}: {violated} of {} laws violated", laws.len()))
    };
    out.push_str(&format!("{line} ({})\n", super::screen::visible(&range)));
    out
}

fn evidence(law: &Value) -> String {
    let list = items(law, "evidence");
    let mut shown: Vec<String> = list.iter().take(EVIDENCE_SHOWN_MAX).map(|seq| format!("#{seq}")).collect();
    if list.len() > EVIDENCE_SHOWN_MAX {
        shown.push(format!("and {} more", list.len() - EVIDENCE_SHOWN_MAX));
    }
    if shown.is_empty() { "-".to_owned() } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_violated_law_is_named_with_its_evidence() {
        let verdict = json!({"epic": "e-1", "ok": false, "from": 1, "to": 9, "hash": "ab", "laws": [
            {"law": "S4", "result": "holds", "checked": 3, "evidence": []},
            {"law": "S7", "result": "violated", "checked": 2, "evidence": [5, 6]}]});
        let text = verdict_text(&verdict, Style::PLAIN);
        assert_eq!(
            text,
            "LAW  RESULT      CHECKED  EVIDENCE  MEANING\n\
             S4   ✓ holds     3        -         at most one open attempt per run\n\
             S7   ✗ violated  2        #5 #6     a writer holds a resource alone\n\
             ✗ e-1: 1 of 2 laws violated (records 1 to 9, hash ab)\n"
        );
    }
}
