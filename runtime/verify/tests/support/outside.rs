//! Journals about locks of owners outside of all epics: good ones, and ones of which each breaks exactly one law.

use amphi_protocol::document::LockMode;
use amphi_protocol::ids::{OwnerName, ProjectId, Resource, Timestamp, Token};
use amphi_protocol::journal::{AskEnd, Decision, EpicEnd, Input, LockName, Next, Outcome, OutsideLock};
use amphi_verify::Law;
use serde_json::json;

use super::{Journal, ended, spec, task};

const W1: &str = "node-1-Worker-1";

/// Journals in which every law holds.
pub fn good() -> Vec<(&'static str, Journal)> {
    vec![("locks-from-outside", in_turn()), ("lock-from-outside-lost", lost_by_time()), ("wait-from-outside-over", wait_over())]
}

/// Violations between owners outside only: they concern whoever uses the shard.
pub const SHARD_WIDE: &[&str] = &[
    "taken-back-before-its-time",
    "outside-token-does-not-grow",
    "released-under-another-token",
    "renewed-after-its-time",
    "owner-outside-overtaken",
    "granted-to-who-did-not-ask",
];

/// The law, what the file is called after it, the journal.
pub fn violations() -> Vec<(Law, &'static str, Journal)> {
    vec![
        (Law::S7, "granted-beside-an-owner-outside", beside_a_task()),
        (Law::S7, "task-beside-an-owner-outside", task_beside()),
        (Law::S7, "taken-back-before-its-time", taken_early()),
        (Law::S8, "outside-token-does-not-grow", old_token()),
        (Law::S8, "released-under-another-token", other_token()),
        (Law::S8, "renewed-after-its-time", renewed_late()),
        (Law::S11, "owner-outside-overtaken", overtaken()),
        (Law::S13, "granted-to-who-did-not-ask", unasked()),
    ]
}

const TTL: u64 = 30_000;

fn lock(owner: &str) -> OutsideLock {
    let project = ProjectId::parse("default").expect("a project");
    let name = LockName { project, folder: None, resource: Resource::parse("db").expect("a resource") };
    OutsideLock { name, mode: LockMode::Write, owner: OwnerName::parse(owner).expect("an owner") }
}

impl Journal {
    fn at(&self) -> Timestamp {
        self.next.now_ms.after_ms(100)
    }

    fn asks(&mut self, owner: &str, also: Vec<Decision>) {
        let (lock, by, until) = (lock(owner), "local".to_owned(), self.at().after_ms(60_000));
        let asked = Decision::LockAsked { lock: lock.clone(), ttl_ms: TTL, until, by: by.clone() };
        self.commit(Input::AcquireLock { lock, ttl_ms: TTL, wait_ms: 60_000, by }, [vec![asked], also].concat());
    }

    fn granted(&mut self, owner: &str) -> (Token, Decision) {
        self.token += 1;
        let (token, until) = (Token(self.token), self.at().after_ms(TTL));
        (token, Decision::LockGranted { lock: lock(owner), token, until })
    }

    fn asks_and_has(&mut self, owner: &str) -> Token {
        let (token, granted) = self.granted(owner);
        self.asks(owner, vec![granted]);
        token
    }

    fn releases(&mut self, owner: &str, token: Token, also: Vec<Decision>) {
        let (name, by) = (lock(owner).name, "local".to_owned());
        let released = Decision::LockReleased { lock: lock(owner), token, by: by.clone() };
        self.commit(Input::ReleaseLock { name, token: Some(token), owner: None, by }, [vec![released], also].concat());
    }

    fn renews(&mut self, owner: &str, token: Token) {
        let (name, by, until) = (lock(owner).name, "local".to_owned(), self.at().after_ms(TTL));
        let renewed = Decision::LockRenewed { lock: lock(owner), token, ttl_ms: TTL, until };
        self.commit(Input::RenewLock { name, token: Some(token), owner: None, ttl_ms: None, by }, vec![renewed]);
    }

    /// An epic `e` whose only task writes the resource.
    fn writer(&mut self) {
        self.submit("e", spec(vec![task("a", json!({"locks": {"write": ["db"]}}))], json!({})), vec![]);
    }

    /// An epic `e` that has nothing to do with it.
    fn something_else(&mut self) {
        self.submit("e", spec(vec![task("a", json!({}))], json!({})), vec![]);
        self.run("e", 0, W1, vec![ended("e", EpicEnd::Succeeded)]);
    }

    fn writes(&mut self) {
        let given = self.assign("e", 0, W1);
        self.works(&given);
    }

    fn works(&mut self, given: &super::Given) {
        self.claim(given);
        self.start(given);
        self.end(given, Outcome::Succeeded, Next::Succeeded, vec![ended("e", EpicEnd::Succeeded)]);
    }
}

/// One owner, then a task, then another owner, each when the one before is through.
fn in_turn() -> Journal {
    let mut journal = Journal::with_workers(1);
    let first = journal.asks_and_has("ann");
    journal.writer();
    journal.asks("bob", vec![]);
    journal.renews("ann", first);
    let given = journal.give("e", 0, (1, 1), W1);
    journal.releases("ann", first, vec![given.assigned()]);
    journal.claim(&given);
    journal.start(&given);
    let (second, granted) = journal.granted("bob");
    journal.end(&given, Outcome::Succeeded, Next::Succeeded, vec![ended("e", EpicEnd::Succeeded), granted]);
    journal.releases("bob", second, vec![]);
    journal
}

/// Nobody renews; the task that waits has it in the commit that takes it back.
fn lost_by_time() -> Journal {
    let mut journal = Journal::with_workers(1);
    let token = journal.asks_and_has("ann");
    journal.writer();
    journal.next.now_ms = journal.next.now_ms.after_ms(TTL);
    let given = journal.give("e", 0, (1, 1), W1);
    journal.commit(Input::Tick, vec![Decision::LockExpired { lock: lock("ann"), token }, given.assigned()]);
    journal.works(&given);
    journal
}

/// One waits in vain, one takes its request back.
fn wait_over() -> Journal {
    let mut journal = Journal::with_workers(1);
    let token = journal.asks_and_has("ann");
    journal.asks("bob", vec![]);
    journal.asks("cid", vec![]);
    let (name, owner, by) = (lock("cid").name, Some(lock("cid").owner), "local".to_owned());
    let withdrawn = Decision::LockAskEnded { lock: lock("cid"), cause: AskEnd::Withdrawn };
    journal.commit(Input::ReleaseLock { name, token: None, owner, by }, vec![withdrawn]);
    for _ in 0..3 {
        journal.next.now_ms = journal.next.now_ms.after_ms(TTL - 1_000);
        journal.renews("ann", token);
    }
    journal.commit(Input::Tick, vec![Decision::LockAskEnded { lock: lock("bob"), cause: AskEnd::WaitOver }]);
    journal.releases("ann", token, vec![]);
    journal
}

fn beside_a_task() -> Journal {
    let mut journal = Journal::with_workers(1);
    journal.writer();
    let given = journal.assign("e", 0, W1);
    let token = journal.asks_and_has("ann");
    journal.releases("ann", token, vec![]);
    journal.works(&given);
    journal
}

fn task_beside() -> Journal {
    let mut journal = Journal::with_workers(1);
    let token = journal.asks_and_has("ann");
    journal.writer();
    journal.writes();
    journal.releases("ann", token, vec![]);
    journal
}

fn taken_early() -> Journal {
    let mut journal = Journal::with_workers(1);
    let token = journal.asks_and_has("ann");
    journal.commit(Input::Tick, vec![Decision::LockExpired { lock: lock("ann"), token }]);
    journal.something_else();
    journal
}

fn old_token() -> Journal {
    let mut journal = Journal::with_workers(1);
    journal.writer();
    journal.writes();
    journal.token -= 1;
    let token = journal.asks_and_has("ann");
    journal.releases("ann", token, vec![]);
    journal
}

fn other_token() -> Journal {
    let mut journal = Journal::with_workers(1);
    let token = journal.asks_and_has("ann");
    journal.releases("ann", Token(token.0 + 7), vec![]);
    journal.something_else();
    journal
}

fn renewed_late() -> Journal {
    let mut journal = Journal::with_workers(1);
    let token = journal.asks_and_has("ann");
    journal.next.now_ms = journal.next.now_ms.after_ms(TTL);
    journal.renews("ann", token);
    journal.something_else();
    journal
}

fn overtaken() -> Journal {
    let mut journal = Journal::with_workers(1);
    let first = journal.asks_and_has("ann");
    journal.asks("bob", vec![]);
    journal.asks("cid", vec![]);
    let (_, granted) = journal.granted("cid");
    journal.releases("ann", first, vec![granted]);
    journal.something_else();
    journal
}

fn unasked() -> Journal {
    let mut journal = Journal::with_workers(1);
    let (_, granted) = journal.granted("ann");
    journal.commit(Input::Tick, vec![granted]);
    journal.something_else();
    journal
}
