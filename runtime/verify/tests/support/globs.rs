//! Journals about locks on globs: good ones, and ones of which each breaks exactly one law.

use amphi_protocol::ids::Resource;
use amphi_protocol::journal::{Decision, EpicEnd, Input, Next, Outcome};
use amphi_verify::Law;
use serde_json::json;

use super::{Journal, ended, epic, spec, task};

const W1: &str = "node-1-Worker-1";
const W2: &str = "node-1-Worker-2";

/// Journals in which every law holds.
pub fn good() -> Vec<(&'static str, Journal)> {
    vec![("globs", globs()), ("glob-changed", changed("file/src/**"))]
}

/// The law, what the file is called after it, the journal.
pub fn violations() -> Vec<(Law, &'static str, Journal)> {
    vec![
        (Law::S6, "changed-beside-what-was-written", changed("file/docs/**")),
        (Law::S7, "two-writers-of-overlapping-names", overlapping_writers()),
        (Law::S11, "overtaken-under-an-overlapping-name", overtaken_by_glob()),
    ]
}

/// Globs that meet exclude each other and are served in the order in which they came; those that do not run side by side.
fn globs() -> Journal {
    let mut journal = Journal::with_workers(2);
    let writer = |name: &str, resource: &str| task(name, json!({"locks": {"write": [resource]}}));
    let reader = task("reads", json!({"locks": {"read": ["file/**"]}}));
    let tasks = vec![writer("rust", "file/src/*.rs"), writer("docs", "file/docs/**"), writer("lib", "file/src/lib.rs"), reader];
    journal.submit("globs", spec(tasks, json!({})), vec![]);
    let both = [journal.assign("globs", 0, W1), journal.assign("globs", 1, W2)];
    for given in &both {
        journal.claim(given);
        journal.start(given);
    }
    journal.end(&both[0], Outcome::Succeeded, Next::Succeeded, vec![]);
    let lib = journal.assign("globs", 2, W1);
    journal.claim(&lib);
    journal.start(&lib);
    journal.end(&both[1], Outcome::Succeeded, Next::Succeeded, vec![]);
    journal.end(&lib, Outcome::Succeeded, Next::Succeeded, vec![]);
    journal.run("globs", 3, W2, vec![ended("globs", EpicEnd::Succeeded)]);
    journal
}

/// A written file is a change of the declared folder that it is in, and of no other.
fn changed(folder: &str) -> Journal {
    let mut journal = Journal::with_workers(1);
    let resources = json!({folder: {"lease_ms": 300_000, "on_change": [0]}});
    let tasks = vec![task("build", json!({})), task("edit", json!({"needs": [0], "locks": {"write": ["file/src/lib.rs"]}}))];
    journal.submit("e", spec(tasks, json!({"resources": resources})), vec![]);
    journal.run("e", 0, W1, vec![]);
    let edit = journal.assign("e", 1, W1);
    journal.claim(&edit);
    journal.start(&edit);
    let resource = Resource::parse(folder).expect("a valid resource");
    let change = Decision::ResourceChanged { epic: epic("e"), i: 1, run: 1, resource, opened: vec![0], later: vec![] };
    journal.commit(edit.reports_end(Outcome::Succeeded), vec![change, edit.ended(Outcome::Succeeded, Next::Succeeded)]);
    let again = journal.give("e", 0, (2, 1), W1);
    journal.commit(Input::Tick, vec![again.assigned()]);
    journal.start(&again);
    journal.end(&again, Outcome::Succeeded, Next::Succeeded, vec![ended("e", EpicEnd::Succeeded)]);
    journal
}

fn overlapping_writers() -> Journal {
    let mut journal = Journal::with_workers(2);
    let writer = |name, resource| task(name, json!({"locks": {"write": [resource]}}));
    journal.submit("e", spec(vec![writer("a", "file/src/*.rs"), writer("b", "file/src/[l-n]*")], json!({})), vec![]);
    let both = [journal.assign("e", 0, W1), journal.assign("e", 1, W2)];
    for given in &both {
        journal.claim(given);
        journal.start(given);
    }
    journal.end(&both[0], Outcome::Succeeded, Next::Succeeded, vec![]);
    journal.end(&both[1], Outcome::Succeeded, Next::Succeeded, vec![ended("e", EpicEnd::Succeeded)]);
    journal
}

fn overtaken_by_glob() -> Journal {
    let mut journal = Journal::with_workers(2);
    for (id, resource) in [("e", "file/src/lib.rs"), ("f", "file/**")] {
        journal.submit(id, spec(vec![task("a", json!({"locks": {"write": [resource]}}))], json!({})), vec![]);
    }
    for id in ["f", "e"] {
        let given = journal.assign(id, 0, W1);
        journal.claim(&given);
        journal.start(&given);
        journal.end(&given, Outcome::Succeeded, Next::Succeeded, vec![ended(id, EpicEnd::Succeeded)]);
    }
    journal
}
