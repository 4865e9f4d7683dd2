//! Journals about effects outside: good ones, and ones of which each breaks exactly one law.

use amphi_protocol::document::EpicSpec;
use amphi_protocol::ids::{IncidentId, Timestamp, Token};
use amphi_protocol::journal::{AttemptNews, Decision, EffectEnd, EffectIntent, EpicEnd, IncidentKind, Input, Next, Outcome, Resolution};
use amphi_verify::Law;
use serde_json::json;
use std::sync::Arc;

use super::{Given, Journal, ended, epic, spec, task};

const W1: &str = "node-1-Worker-1";
const W2: &str = "node-1-Worker-2";

/// Journals in which every law holds.
pub fn good() -> Vec<(&'static str, Journal)> {
    vec![("effect-once", once()), ("effect-asked-for", asked()), ("effect-unknown", unknown())]
}

/// The law, what the file is called after it, the journal.
pub fn violations() -> Vec<(Law, &'static str, Journal)> {
    vec![
        (Law::S9, "effect-intended-again-after-it-happened", again_after_it_happened()),
        (Law::S9, "effect-intended-again-on-a-guess", on_a_guess()),
        (Law::S9, "tried-again-though-nobody-can-be-asked", nobody_to_ask()),
        (Law::S9, "effect-without-a-claim", without_a_claim()),
        (Law::S9, "effect-ended-without-an-intent", without_an_intent()),
        (Law::S8, "effect-under-another-token", other_token()),
        (Law::L2, "ended-with-an-open-effect", open_at_the_end()),
    ]
}

fn posts() -> Arc<EpicSpec> {
    let retry = json!({"attempts": 3, "backoff_ms": 0, "max_ms": 1000, "on": ["exit", "agent_lost"]});
    spec(vec![task("a", json!({"work": {"tool": {"tool": "http.post", "with": {}}}, "retry": retry}))], json!({}))
}

fn intent(askable: bool) -> EffectIntent {
    EffectIntent { effect: "http.post".to_owned(), tool: "http.post".to_owned(), askable, about: "POST".to_owned() }
}

fn done() -> EffectEnd {
    EffectEnd::Done { outputs: Default::default() }
}

fn not_done() -> EffectEnd {
    EffectEnd::NotDone { why: "it is not there".to_owned() }
}

impl Journal {
    fn begin(&mut self, attempt: u32, to: &str) -> Given {
        let given = self.give("e", 0, (1, attempt), to);
        self.commit(Input::Tick, vec![given.assigned()]);
        self.claim(&given);
        self.start(&given);
        given
    }

    fn intends(&mut self, given: &Given, askable: bool, token: Token) {
        let decided = Decision::EffectIntended { attempt: given.attempt.clone(), token, intent: intent(askable) };
        self.commit(given.report(AttemptNews::Intend(intent(askable))), vec![decided]);
    }

    fn effect(&mut self, given: &Given, end: EffectEnd) {
        let effect = "http.post".to_owned();
        let decided =
            Decision::EffectEnded { attempt: given.attempt.clone(), token: given.token, effect: effect.clone(), end: end.clone() };
        self.commit(given.report(AttemptNews::Effect { effect, end }), vec![decided]);
    }

    fn fails(&mut self, given: &Given) {
        let at = Timestamp(0);
        self.end(given, Outcome::AgentLost, Next::Retry { at }, vec![]);
    }

    fn succeeds(&mut self, given: &Given) {
        self.end(given, Outcome::Succeeded, Next::Succeeded, vec![ended("e", EpicEnd::Succeeded)]);
    }
}

fn journal() -> Journal {
    let mut journal = Journal::with_workers(2);
    journal.submit("e", posts(), vec![]);
    journal
}

fn once() -> Journal {
    let mut journal = journal();
    let first = journal.begin(1, W1);
    journal.intends(&first, true, first.token);
    // The answer was lost, so it is said again.
    journal.intends(&first, true, first.token);
    journal.effect(&first, done());
    journal.succeeds(&first);
    journal
}

/// The first attempt dies in the middle; the second asks, hears that nothing happened, and does it.
fn asked() -> Journal {
    let mut journal = journal();
    let first = journal.begin(1, W1);
    journal.intends(&first, true, first.token);
    journal.fails(&first);
    let second = journal.begin(2, W2);
    journal.effect(&second, not_done());
    journal.intends(&second, true, second.token);
    journal.effect(&second, done());
    journal.succeeds(&second);
    journal
}

/// Nobody can be asked, so a person is.
fn unknown() -> Journal {
    let mut journal = journal();
    let first = journal.begin(1, W1);
    journal.intends(&first, false, first.token);
    let incident = IncidentId::parse("inc-0-1").expect("an incident");
    let (attempt, summary, by) = (first.attempt.clone(), "may have happened".to_owned(), "local".to_owned());
    let opened = Decision::IncidentOpened { incident: incident.clone(), attempt, summary, kind: IncidentKind::UnknownOutcome };
    journal.end(&first, Outcome::AgentLost, Next::Unknown, vec![opened]);
    let acked = Decision::IncidentAcked { incident: incident.clone(), note: String::new(), by: by.clone() };
    journal.commit(Input::AckIncident { incident: incident.clone(), note: String::new(), by: by.clone() }, vec![acked]);
    let resolution = Resolution::Succeeded;
    let resolved = Decision::IncidentResolved { incident: incident.clone(), resolution, by: by.clone() };
    journal.commit(Input::ResolveIncident { incident, resolution, by }, vec![resolved, ended("e", EpicEnd::Succeeded)]);
    journal
}

fn again_after_it_happened() -> Journal {
    let mut journal = journal();
    let first = journal.begin(1, W1);
    journal.intends(&first, true, first.token);
    journal.effect(&first, done());
    journal.fails(&first);
    let second = journal.begin(2, W2);
    journal.intends(&second, true, second.token);
    journal.effect(&second, done());
    journal.succeeds(&second);
    journal
}

fn on_a_guess() -> Journal {
    let mut journal = journal();
    let first = journal.begin(1, W1);
    journal.intends(&first, true, first.token);
    journal.fails(&first);
    let second = journal.begin(2, W2);
    journal.intends(&second, true, second.token);
    journal.effect(&second, done());
    journal.succeeds(&second);
    journal
}

fn nobody_to_ask() -> Journal {
    let mut journal = journal();
    let first = journal.begin(1, W1);
    journal.intends(&first, false, first.token);
    journal.fails(&first);
    let second = journal.begin(2, W2);
    journal.effect(&second, done());
    journal.succeeds(&second);
    journal
}

fn without_a_claim() -> Journal {
    let mut journal = journal();
    let first = journal.give("e", 0, (1, 1), W1);
    journal.commit(Input::Tick, vec![first.assigned()]);
    journal.start(&first);
    journal.intends(&first, true, first.token);
    journal.effect(&first, done());
    journal.succeeds(&first);
    journal
}

fn without_an_intent() -> Journal {
    let mut journal = journal();
    let first = journal.begin(1, W1);
    journal.effect(&first, done());
    journal.succeeds(&first);
    journal
}

fn other_token() -> Journal {
    let mut journal = journal();
    let first = journal.begin(1, W1);
    journal.intends(&first, true, Token(first.token.0 + 5));
    journal.effect(&first, done());
    journal.succeeds(&first);
    journal
}

fn open_at_the_end() -> Journal {
    let mut journal = journal();
    let first = journal.begin(1, W1);
    journal.intends(&first, true, first.token);
    journal.end(&first, Outcome::Exit, Next::Failed, vec![Decision::EpicStopping { epic: epic("e"), i: 0 }, ended("e", EpicEnd::Failed)]);
    journal
}
