//! Reports of histories with numbers worked out by hand, and laws that hold for every history of a small scheduler.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::ids::{AgentId, EventSeq, NodeId, ShardId, Timestamp};

const START: u64 = 1_700_000_000_000;

/// A history in the making. The first word of a subject is the task, the second its agent.
#[derive(Default)]
struct Log(Vec<Event>);

impl Log {
    fn new() -> Self {
        let mut log = Self::default();
        log.add(0, EventType::EpicSubmitted, "", 0, json!({}));
        log
    }

    fn add(&mut self, ms: u64, kind: EventType, subject: &str, attempt: u32, data: Value) {
        let mut words = subject.split_whitespace();
        let (task, agent) = (words.next(), words.next());
        let Value::Object(data) = data else { panic!("data is an object") };
        self.0.push(Event {
            shard: ShardId(0),
            seq: EventSeq(self.0.len() as u64 * 2 + 5),
            ts: Timestamp(START + ms).to_rfc3339(),
            epic: Some(EpicId::parse("e-1").expect("an id")),
            task: task.map(str::to_owned),
            run: task.map(|_| 1),
            attempt: (attempt > 0).then_some(attempt),
            agent: agent.map(|agent| AgentId::parse(agent).expect("an id")),
            node: agent.map(|_| NodeId::parse("node-1").expect("an id")),
            kind,
            data,
            task_token: None,
        });
    }

    fn ready(&mut self, ms: u64, task: &str) {
        self.add(ms, EventType::TaskReady, task, 0, json!({}));
    }

    fn waits(&mut self, ms: u64, task: &str, reason: &str) {
        self.add(ms, EventType::TaskWaiting, task, 0, json!({ "reason": reason }));
    }

    fn assigned(&mut self, ms: u64, who: &str, attempt: u32) {
        self.add(ms, EventType::TaskAssigned, who, attempt, json!({"token": 1}));
    }

    fn started(&mut self, ms: u64, who: &str, attempt: u32) {
        self.add(ms, EventType::TaskStarted, who, attempt, json!({}));
    }

    fn ended(&mut self, ms: u64, who: &str, attempt: u32, kind: EventType) {
        self.add(ms, kind, who, attempt, json!({"cause": "exit"}));
    }

    fn lock(&mut self, ms: u64, kind: EventType, who: &str) {
        self.add(ms, kind, who, 1, json!({"resource": "db/x", "mode": "write", "token": 1}));
    }

    fn epic(&mut self, ms: u64, kind: EventType) {
        self.add(ms, kind, "", 0, json!({}));
    }

    fn report(&self) -> EpicReport {
        report(&self.0).expect("a history")
    }
}

fn path(report: &EpicReport) -> Vec<(&str, u32, &str)> {
    report.critical_path.iter().map(|step| (step.task.as_str(), step.attempt, step.waited_for.as_str())).collect()
}

/// a 10..110 on x; b 20..220 on y with a lock; c waits for the lock: 220, starts at 230, fails at 250, waits for 300 as its retry
/// says, runs 320..520 on x; d needs all of them and is skipped; f runs 540..600 on x.
fn example() -> Log {
    let mut log = Log::new();
    for task in ["a", "b", "c"] {
        log.ready(0, task);
    }
    log.assigned(0, "a x", 1);
    log.lock(0, EventType::LockGranted, "b y");
    log.assigned(0, "b y", 1);
    log.waits(0, "c", "lock");
    log.started(10, "a x", 1);
    log.started(20, "b y", 1);
    log.ended(110, "a x", 1, EventType::TaskSucceeded);
    log.ended(220, "b y", 1, EventType::TaskSucceeded);
    log.lock(220, EventType::LockReleased, "b y");
    log.lock(220, EventType::LockGranted, "c y");
    log.assigned(220, "c y", 1);
    log.started(230, "c y", 1);
    log.ended(250, "c y", 1, EventType::TaskRetrying);
    log.lock(250, EventType::LockReleased, "c y");
    log.ready(300, "c");
    log.lock(300, EventType::LockGranted, "c x");
    log.assigned(300, "c x", 2);
    log.started(320, "c x", 2);
    log.ended(520, "c x", 2, EventType::TaskSucceeded);
    log.lock(520, EventType::LockReleased, "c x");
    log.ended(520, "d", 0, EventType::TaskSkipped);
    log.ready(520, "f");
    log.assigned(520, "f x", 1);
    log.started(540, "f x", 1);
    log.ended(600, "f x", 1, EventType::TaskSucceeded);
    log.epic(600, EventType::EpicSucceeded);
    log
}

#[test]
fn the_example_has_the_numbers_worked_out_by_hand() {
    let report = example().report();
    assert_eq!((report.state.as_str(), report.makespan_ms), ("succeeded", 600));
    assert_eq!(report.ended_at, Some(Timestamp(START + 600).to_rfc3339()));
    // a 100, b 200, c 200 (its failed attempt does not count), f 60.
    assert_eq!((report.sequential_ms, report.speedup), (560, Some(0.9333)));
    assert_eq!(path(&report), [("b", 1, "submission"), ("c", 1, "lock"), ("c", 2, "retry"), ("f", 1, "needs")]);
    let after: Vec<Option<&str>> = report.critical_path.iter().map(|step| step.after.as_deref()).collect();
    // The skipped task between c and f only hands on.
    assert_eq!(after, [None, Some("b"), Some("c"), Some("c")]);
    let times: Vec<_> = report.critical_path.iter().map(|step| (step.ready_ms, step.started_ms, step.ended_ms)).collect();
    assert_eq!(times, [(0, Some(20), 220), (0, Some(230), 250), (300, Some(320), 520), (520, Some(540), 600)]);
    // 200 + 20 + 200 + 60 ran, 20 + 10 + 70 + 20 did not.
    assert_eq!((report.critical_path_ran_ms, report.critical_path_waited_ms), (480, 120));
    // a 0..10 lies within b 0..20; c 220..230 and 300..320; f 520..540. c's wait for the lock and its backoff are no coordination.
    // On the path: b 20, c 10 and 20, f 20, which is all but a's.
    let coordination = Coordination {
        overhead: Some(0.1167),
        goal: 0.05,
        met: Some(false),
        waited_ms: 70,
        critical_path_ms: 70,
        critical_path_share: Some(0.1167),
        summed_ms: 80,
        longest_ms: 20,
    };
    assert_eq!(report.coordination, coordination);
    let agents: Vec<_> = report.agents.iter().map(|a| (a.agent.as_str(), a.attempts, a.busy_ms, a.utilisation)).collect();
    assert_eq!(agents, [("x", 3, 360, 0.6), ("y", 2, 220, 0.3667)]);
    assert_eq!(report.utilisation, Some(0.4833));
    assert_eq!((report.attempts, report.retries, report.retry_causes["exit"]), (5, 1, 1));
    assert_eq!(report.tasks, BTreeMap::from([("succeeded".to_owned(), 4), ("skipped".to_owned(), 1)]));
    assert_eq!((report.completion_rate, report.escalations, report.cost.usd), (Some(1.0), 0, 0.0));
}

#[test]
fn a_wait_for_an_agent_is_no_coordination_but_its_handover_is() {
    let mut log = Log::new();
    log.ready(0, "a");
    log.ready(0, "b");
    log.assigned(0, "a x", 1);
    log.waits(0, "b", "capacity");
    log.started(5, "a x", 1);
    log.ended(105, "a x", 1, EventType::TaskSucceeded);
    // Another agent of the same node takes it: the node had no room before.
    log.assigned(112, "b y", 1);
    log.started(115, "b y", 1);
    log.ended(215, "b y", 1, EventType::TaskFailed);
    log.epic(215, EventType::EpicFailed);
    let report = log.report();
    assert_eq!(path(&report), [("a", 1, "submission"), ("b", 1, "agent")]);
    assert_eq!((report.coordination.waited_ms, report.coordination.longest_ms), (15, 10));
    assert_eq!((report.sequential_ms, report.completion_rate), (100, Some(0.5)));
}

#[test]
fn a_wait_that_this_epic_does_not_explain_is_not_counted() {
    let mut log = Log::new();
    log.ready(0, "a");
    log.waits(0, "a", "no_agent");
    log.assigned(900, "a x", 1);
    log.started(910, "a x", 1);
    log.ended(1000, "a x", 1, EventType::TaskSucceeded);
    log.epic(1000, EventType::EpicSucceeded);
    let report = log.report();
    assert_eq!((report.coordination.waited_ms, report.coordination.overhead), (10, Some(0.01)));
    assert_eq!(path(&report), [("a", 1, "other")]);
    assert_eq!(report.critical_path_waited_ms, 910);
}

#[test]
fn an_agent_that_comes_back_explains_no_wait_by_its_last_end() {
    let mut log = Log::new();
    log.ready(0, "a");
    log.assigned(0, "a x", 1);
    log.started(10, "a x", 1);
    log.ready(20, "b");
    log.waits(20, "b", "no_agent");
    log.ended(50, "a x", 1, EventType::TaskSucceeded);
    // x died with its task and was restarted at 300, which is no event of an epic.
    log.assigned(300, "b x", 1);
    log.started(305, "b x", 1);
    log.ended(400, "b x", 1, EventType::TaskSucceeded);
    log.epic(400, EventType::EpicSucceeded);
    let report = log.report();
    assert_eq!((report.coordination.waited_ms, report.coordination.longest_ms), (15, 10));
    assert_eq!(path(&report), [("a", 1, "submission"), ("b", 1, "agent")]);
}

#[test]
fn a_moment_in_which_several_wait_counts_once() {
    let mut log = Log::new();
    let waits = [("a", 0, 100), ("b", 10, 20), ("c", 30, 90), ("d", 95, 110)];
    for (task, ready, _) in waits {
        log.ready(ready, task);
        log.assigned(ready, &format!("{task} x{task}"), 1);
    }
    for (task, _, started) in [waits[1], waits[2], waits[0], waits[3]] {
        log.started(started, &format!("{task} x{task}"), 1);
    }
    for (task, ..) in waits {
        log.ended(200, &format!("{task} x{task}"), 1, EventType::TaskSucceeded);
    }
    log.epic(200, EventType::EpicSucceeded);
    let coordination = log.report().coordination;
    // 0 to 110 without a gap; 100 + 10 + 60 + 15 in all.
    assert_eq!((coordination.waited_ms, coordination.summed_ms, coordination.longest_ms), (110, 185, 100));
}

#[test]
fn the_makespan_ends_with_the_epic_and_goes_on_when_a_person_opens_it_again() {
    let mut log = example();
    log.add(5000, EventType::TaskProgress, "f x", 1, json!({}));
    assert_eq!(log.report().makespan_ms, 600);
    log.ready(6000, "f");
    log.epic(6000, EventType::EpicResumed);
    log.assigned(6000, "f y", 1);
    log.started(6010, "f y", 1);
    assert_eq!((log.report().state, log.report().tasks["open"], log.report().makespan_ms), ("running".to_owned(), 1, 6010));
    log.ended(6100, "f y", 1, EventType::TaskSucceeded);
    log.epic(6100, EventType::EpicSucceeded);
    let report = log.report();
    assert_eq!((report.makespan_ms, report.tasks["succeeded"]), (6100, 4));
    assert_eq!(path(&report)[4], ("f", 1, "person"));
}

#[test]
fn a_run_opened_by_a_change_waited_for_who_made_it() {
    let mut log = Log::new();
    log.ready(0, "check");
    log.assigned(0, "check x", 1);
    log.started(0, "check x", 1);
    log.ended(50, "check x", 1, EventType::TaskSucceeded);
    log.ready(50, "write");
    log.assigned(50, "write x", 1);
    log.started(50, "write x", 1);
    log.ended(90, "write x", 1, EventType::TaskSucceeded);
    log.add(90, EventType::ResourceChanged, "write", 0, json!({ "runs": [{ "task": "check", "run": 1 }], "later": [] }));
    log.ready(90, "check");
    log.assigned(90, "check x", 1);
    log.started(90, "check x", 1);
    log.ended(140, "check x", 1, EventType::TaskSucceeded);
    log.epic(140, EventType::EpicSucceeded);
    assert_eq!(path(&log.report()), [("check", 1, "submission"), ("write", 1, "needs"), ("check", 1, "change")]);
}

#[test]
fn a_task_that_only_waits_is_a_step_and_no_work() {
    let mut log = Log::new();
    log.waits(0, "pause", "event");
    log.ended(300, "pause", 0, EventType::TaskSucceeded);
    log.ready(300, "go");
    log.assigned(300, "go x", 1);
    log.started(310, "go x", 1);
    log.ended(400, "go x", 1, EventType::TaskSucceeded);
    log.epic(400, EventType::EpicSucceeded);
    let report = log.report();
    assert_eq!(path(&report), [("pause", 1, "submission"), ("go", 1, "needs")]);
    assert_eq!((report.sequential_ms, report.coordination.waited_ms), (90, 10));
}

#[test]
fn an_attempt_that_never_started_waits_until_it_is_given_up() {
    let mut log = Log::new();
    log.ready(0, "a");
    log.assigned(0, "a x", 1);
    log.ended(400, "a x", 1, EventType::TaskRetrying);
    log.ready(400, "a");
    log.assigned(400, "a y", 2);
    log.started(410, "a y", 2);
    log.ended(500, "a y", 2, EventType::TaskSucceeded);
    log.epic(500, EventType::EpicSucceeded);
    let report = log.report();
    assert_eq!((report.coordination.waited_ms, report.sequential_ms), (410, 90));
    assert_eq!(path(&report), [("a", 1, "submission"), ("a", 2, "retry")]);
}

#[test]
fn a_running_epic_is_reported_up_to_its_last_event() {
    let mut log = Log::new();
    log.ready(0, "a");
    log.assigned(0, "a x", 1);
    log.started(10, "a x", 1);
    log.add(60, EventType::TaskProgress, "a x", 1, json!({"percent": 50}));
    let report = log.report();
    assert_eq!((report.state.as_str(), report.ended_at.clone(), report.makespan_ms), ("running", None, 60));
    assert_eq!((report.agents[0].busy_ms, report.tasks["open"], report.critical_path.len()), (50, 1, 0));
    let alone = Log::new().report();
    assert_eq!((alone.makespan_ms, alone.speedup, alone.coordination.overhead, alone.completion_rate), (0, None, None, None));
}

#[test]
fn an_incident_and_its_answer_are_an_escalation_and_an_end() {
    let mut log = Log::new();
    log.ready(0, "a");
    log.assigned(0, "a x", 1);
    log.started(10, "a x", 1);
    log.ended(50, "a x", 1, EventType::TaskUnknown);
    log.add(50, EventType::IncidentOpened, "a", 1, json!({}));
    log.epic(50, EventType::EpicWaiting);
    assert_eq!(log.report().state, "waiting");
    log.add(9000, EventType::IncidentResolved, "a", 1, json!({}));
    log.add(9000, EventType::TaskSucceeded, "a", 1, json!({"resolved_by": "local"}));
    log.ready(9000, "b");
    log.assigned(9000, "b x", 1);
    log.started(9001, "b x", 1);
    log.ended(9002, "b x", 1, EventType::TaskSucceeded);
    log.epic(9002, EventType::EpicSucceeded);
    let report = log.report();
    assert_eq!((report.escalations, report.makespan_ms, report.sequential_ms), (1, 9002, 1));
    assert_eq!(path(&report), [("a", 1, "submission"), ("b", 1, "needs")]);
    assert_eq!(report.tasks, BTreeMap::from([("succeeded".to_owned(), 2)]));
}

#[test]
fn what_is_no_history_of_one_epic_is_refused() {
    assert_eq!(report(&[]), Err(ReportError::Empty));
    let log = example();
    assert_eq!(report(&log.0[1..]), Err(ReportError::NoBeginning { seq: 7 }));
    let mut other = example();
    other.0[3].epic = Some(EpicId::parse("e-2").expect("an id"));
    assert!(matches!(report(&other.0), Err(ReportError::OtherEpic { seq: 11, .. })));
    let mut untimed = example();
    untimed.0[3].ts = "yesterday".to_owned();
    assert!(matches!(report(&untimed.0), Err(ReportError::Time { seq: 11, .. })));
    let mut holey = example();
    holey.0.retain(|event| event.kind != EventType::TaskReady);
    assert!(matches!(report(&holey.0), Err(ReportError::Broken { .. })));
    let mut nobodys = example();
    nobodys.0.iter_mut().for_each(|event| event.epic = None);
    assert_eq!(report(&nobodys.0), Err(ReportError::Empty));
}

#[test]
fn a_long_chain_is_listed_in_part_and_counted_in_full() {
    let mut log = Log::new();
    for at in 0..REPORT_LIST_MAX as u64 + 7 {
        let who = format!("t{at} a{at}");
        log.ready(at * 10, &format!("t{at}"));
        log.assigned(at * 10, &who, 1);
        log.started(at * 10 + 1, &who, 1);
        log.ended(at * 10 + 10, &who, 1, EventType::TaskSucceeded);
    }
    let report = log.report();
    assert_eq!((report.critical_path.len(), report.critical_path_steps), (REPORT_LIST_MAX, REPORT_LIST_MAX + 7));
    assert_eq!(
        (report.critical_path[0].task.as_str(), report.agents.len(), report.agents_used),
        ("t7", REPORT_LIST_MAX, REPORT_LIST_MAX + 7)
    );
}

/// One task of a generated epic: the tasks before it that it needs, how long it runs, how often it fails first, whether it locks.
#[derive(Debug, Clone)]
struct Job {
    needs: Vec<usize>,
    runs_ms: u64,
    fails: u32,
    locks: bool,
}

fn jobs() -> impl Strategy<Value = Vec<Job>> {
    prop::collection::vec((prop::collection::vec(any::<prop::sample::Index>(), 0..3), 0..50u64, 0..3u32, any::<bool>()), 1..20).prop_map(
        |raw| {
            let job = |(at, (needs, runs_ms, fails, locks)): (usize, (Vec<prop::sample::Index>, _, _, _))| {
                let needs = if at == 0 { Vec::new() } else { needs.iter().map(|need| need.index(at)).collect() };
                Job { needs, runs_ms, fails, locks }
            };
            raw.into_iter().enumerate().map(job).collect()
        },
    )
}

/// A scheduler without delays of its own but `delay` between assignment and start: everything that can be assigned is, in order.
fn run(jobs: &[Job], agents: usize, delay: u64) -> Log {
    let mut log = Log::new();
    let mut attempts = vec![0u32; jobs.len()];
    let mut done = vec![false; jobs.len()];
    let (mut ready, mut queue): (Vec<bool>, Vec<usize>) = (vec![false; jobs.len()], Vec::new());
    let (mut free, mut locked): (Vec<bool>, bool) = (vec![true; agents], false);
    // Running: start not yet told or the end, by time.
    let mut running: Vec<(u64, bool, usize, usize)> = Vec::new();
    let mut now = 0;
    loop {
        let mut fresh = Vec::new();
        for at in 0..jobs.len() {
            if !ready[at] && !done[at] && jobs[at].needs.iter().all(|need| done[*need]) {
                ready[at] = true;
                log.ready(now, &format!("t{at}"));
                queue.push(at);
                fresh.push(at);
            }
        }
        queue.retain(|&at| {
            let agent = free.iter().position(|free| *free);
            let Some(agent) = agent.filter(|_| !(jobs[at].locks && locked)) else { return true };
            free[agent] = false;
            attempts[at] += 1;
            let who = format!("t{at} a{agent}");
            if jobs[at].locks {
                locked = true;
                log.lock(now, EventType::LockGranted, &who);
            }
            log.assigned(now, &who, attempts[at]);
            running.push((now + delay, false, at, agent));
            false
        });
        for at in fresh.iter().filter(|at| queue.contains(at)) {
            log.waits(now, &format!("t{at}"), if jobs[*at].locks && locked { "lock" } else { "capacity" });
        }
        let Some(next) = (0..running.len()).min_by_key(|at| running[*at]) else { break };
        let (time, is_end, at, agent) = running.swap_remove(next);
        now = time;
        let who = format!("t{at} a{agent}");
        if !is_end {
            log.started(now, &who, attempts[at]);
            running.push((now + jobs[at].runs_ms, true, at, agent));
            continue;
        }
        free[agent] = true;
        ready[at] = false;
        done[at] = attempts[at] > jobs[at].fails;
        log.ended(now, &who, attempts[at], if done[at] { EventType::TaskSucceeded } else { EventType::TaskRetrying });
        if jobs[at].locks {
            locked = false;
            log.lock(now, EventType::LockReleased, &who);
        }
    }
    log.epic(now, EventType::EpicSucceeded);
    log
}

proptest! {
    #[test]
    fn the_laws_of_a_report_hold(jobs in jobs(), agents in 1..5usize, delay in 0..4u64) {
        let log = run(&jobs, agents, delay);
        let report = log.report();
        let ran: u64 = jobs.iter().map(|job| job.runs_ms * u64::from(job.fails + 1)).sum();
        prop_assert_eq!(report.sequential_ms, jobs.iter().map(|job| job.runs_ms).sum::<u64>());
        prop_assert_eq!(report.agents.iter().map(|agent| agent.busy_ms).sum::<u64>(), ran);
        prop_assert!(report.agents.iter().all(|agent| agent.busy_ms <= report.makespan_ms));
        prop_assert!(report.speedup.unwrap_or(0.0) <= agents as f64 + 0.0001);
        prop_assert_eq!(report.retries, jobs.iter().map(|job| u64::from(job.fails)).sum::<u64>());
        prop_assert_eq!(report.completion_rate, Some(1.0));
        // Nothing but the delay before each start is coordination.
        prop_assert_eq!(report.coordination.summed_ms, delay * report.attempts);
        prop_assert_eq!(report.coordination.longest_ms, delay);
        prop_assert!(report.coordination.waited_ms <= report.makespan_ms.min(report.coordination.summed_ms));
        prop_assert_eq!(report.coordination.critical_path_ms, report.critical_path_waited_ms);
        prop_assert!(report.coordination.critical_path_ms <= report.coordination.waited_ms);
        // This scheduler never idles without a cause, so the path explains every moment, and waits on it are delays.
        let steps = &report.critical_path;
        prop_assert_eq!(report.critical_path_ran_ms + report.critical_path_waited_ms, report.makespan_ms);
        prop_assert_eq!(report.critical_path_waited_ms, delay * steps.len() as u64);
        prop_assert_eq!(&steps[0].waited_for, "submission");
        for pair in steps.windows(2) {
            prop_assert_eq!(pair[1].after.as_ref(), Some(&pair[0].task));
            prop_assert!(Some(pair[0].ended_ms) <= pair[1].started_ms);
        }
        prop_assert_eq!(steps[steps.len() - 1].ended_ms, report.makespan_ms);
    }

    #[test]
    fn a_report_depends_on_nothing_but_the_events(jobs in jobs(), agents in 1..5usize, repeat in any::<prop::sample::Index>()) {
        let log = run(&jobs, agents, 1);
        let report = log.report();
        // Written, read again, one event twice, and a foreign one between them.
        let mut lines: Vec<String> = log.0.iter().map(|event| serde_json::to_string(event).expect("JSON")).collect();
        let again = repeat.index(lines.len());
        lines.insert(again + 1, lines[again].clone());
        let mut events: Vec<Event> = lines.iter().map(|line| serde_json::from_str(line).expect("an event")).collect();
        let nobodys = Event { epic: None, kind: EventType::NodeLost, data: Map::new(), ..events[0].clone() };
        events.insert(1, nobodys);
        prop_assert_eq!(super::report(&events).expect("a history"), report.clone());
        let json = serde_json::to_string(&report).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<EpicReport>(&json).expect("a report"), report);
    }
}
