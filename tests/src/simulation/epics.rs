//! Random epics: every feature of the graph, small enough that hundreds of steps bring them to their end.

use std::collections::BTreeMap;
use std::sync::Arc;

use amphi_protocol::document::{
    Condition, EpicSpec, LockSpec, MatrixAxis, OnFailure, ResourceSpec, RetryCause, RetryPolicy, SubEpic, TaskSpec, WaitFor, Work,
    Workspace,
};
use amphi_protocol::ids::{EpicName, PhaseName, ProjectId, Resource, RoleName, TaskName};
use serde_json::json;

use super::rng::Rng;

/// Roles with their skills. Every node may have agents of each.
pub const ROLES: &[(&str, &[&str])] = &[("Build", &["cc", "sh"]), ("Check", &["sh"]), ("Ship", &["net"])];
/// Most tasks of one epic.
const TASKS_MAX: u64 = 7;

/// A valid epic.
pub fn epic(rng: &mut Rng) -> EpicSpec {
    let project = ProjectId::parse(if rng.chance(80) { "one" } else { "two" }).expect("the project is valid");
    at_level(rng, &project, 0)
}

fn at_level(rng: &mut Rng, project: &ProjectId, level: u32) -> EpicSpec {
    let count = rng.between(1, TASKS_MAX >> level) as u32;
    let phases = if rng.chance(40) { rng.between(1, u64::from(count.min(3))) as u32 } else { 0 };
    let mut tasks: Vec<TaskSpec> = Vec::new();
    for position in 0..count {
        // The first tasks see to it that no phase is empty.
        let phase = (phases > 0).then(|| if position < phases { position } else { rng.below(u64::from(phases)) as u32 });
        let earlier: Vec<u32> = (0..position).filter(|other| tasks[*other as usize].phase <= phase).collect();
        let work = work(rng, project, level);
        tasks.push(task(rng, position, work, (phase, &earlier)));
    }
    let folder = if rng.chance(50) { "/w/a" } else { "/w/b" };
    let priority = rng.below(5) as u8;
    EpicSpec {
        name: EpicName::parse("sim").expect("the name is valid"),
        title: None,
        project: project.clone(),
        priority,
        inputs: BTreeMap::new(),
        workspace: match rng.below(10) {
            0..=2 => Workspace::Path(folder.to_owned()),
            3 => Workspace::Git { url: folder.to_owned(), reference: rng.chance(50).then(|| "v1".to_owned()) },
            _ => Workspace::None,
        },
        phases: (0..phases).map(|phase| PhaseName::parse(&format!("p{phase}")).expect("the phase is valid")).collect(),
        resources: resources(rng, count),
        on_failure: if rng.chance(50) { OnFailure::Undo } else { OnFailure::Stop },
        reference: None,
        tasks,
    }
}

fn resources(rng: &mut Rng, tasks: u32) -> BTreeMap<Resource, ResourceSpec> {
    let mut declared = BTreeMap::new();
    for (name, often) in [("db", 60), ("port", 60), ("file/*", 20)] {
        if rng.chance(often) {
            let on_change = if rng.chance(40) { (0..tasks).filter(|_| rng.chance(40)).collect() } else { Vec::new() };
            declared.insert(Resource::parse(name).expect("the resource is valid"), ResourceSpec { lease_ms: 1_500, on_change });
        }
    }
    declared
}

/// A condition in CEL, now and then one that cannot be evaluated.
fn expression(rng: &mut Rng, needs: Option<&[u32]>) -> Condition {
    let need = needs.and_then(|needs| needs.first().copied()).unwrap_or(0);
    let text = match rng.below(6) {
        0 => "1 + 1 == 2".to_owned(),
        1 => format!("tasks.t{need}.state != 'skipped'"),
        2 => format!("always() && tasks.t{need}.state == 'failed'"),
        3 => "failure() || success()".to_owned(),
        4 => format!("tasks.t{need}.outputs.missing == 'x'"),
        _ => "success() && !failure()".to_owned(),
    };
    let after_failure = text.contains("always()") || text.contains("failure()");
    Condition::Expression { text, after_failure }
}

fn task(rng: &mut Rng, position: u32, work: Work, (phase, earlier): (Option<u32>, &[u32])) -> TaskSpec {
    let needs = match earlier {
        [] if phase.is_none() => Some(Vec::new()),
        _ if phase.is_some() && rng.chance(60) => None,
        _ => Some(earlier.iter().copied().filter(|_| rng.chance(40)).take(3).collect()),
    };
    let condition = match rng.below(10) {
        0 => Condition::Always,
        1 => Condition::Failure,
        2 => expression(rng, needs.as_deref()),
        _ => Condition::Success,
    };
    let held = !work.needs_agent();
    let matrix = if rng.chance(30) { matrix(rng) } else { Vec::new() };
    let wide = !matrix.is_empty();
    let (role, skills) = *rng.pick(ROLES);
    let demand = rng.below(4);
    let mut spec = TaskSpec {
        name: TaskName::parse(&format!("t{position}")).expect("the task id is valid"),
        phase,
        needs,
        work,
        agent: (demand < 2).then(|| RoleName::parse(role).expect("the role is valid")),
        skills: if demand == 2 { vec![skills[0].to_owned()] } else { Vec::new() },
        exclude: if wide && rng.chance(20) { vec![BTreeMap::from([("m".to_owned(), "1".to_owned())])] } else { Vec::new() },
        max_parallel: (wide && rng.chance(40)).then(|| rng.between(1, 2) as u32),
        fail_fast: wide && rng.chance(50),
        locks: if !held && rng.chance(55) { locks(rng, wide) } else { LockSpec::default() },
        matrix,
        condition,
        retry: retry(rng),
        timeout_ms: rng.chance(20).then(|| rng.between(200, 1_200)),
        stuck_after_ms: rng.between(1_000, 3_000),
        optional: rng.chance(15),
        outputs: BTreeMap::new(),
        env: BTreeMap::new(),
        workdir: None,
        tags: Vec::new(),
        priority: rng.below(5) as u8,
        reference: None,
        references: Vec::new(),
        undo: None,
    };
    if !held && rng.chance(50) {
        spec.undo = Some(Box::new(undo(rng, &spec)));
    }
    spec
}

/// The same demand and locks, its own patience.
fn undo(rng: &mut Rng, task: &TaskSpec) -> TaskSpec {
    let alone = TaskSpec { phase: None, needs: None, matrix: Vec::new(), exclude: Vec::new(), ..task.clone() };
    let timeout_ms = rng.chance(20).then(|| rng.between(200, 1_200));
    TaskSpec {
        max_parallel: None,
        fail_fast: false,
        condition: Condition::Success,
        optional: false,
        retry: retry(rng),
        timeout_ms,
        ..alone
    }
}

/// Mostly something for an agent, now and then a wait or an epic.
fn work(rng: &mut Rng, project: &ProjectId, level: u32) -> Work {
    match rng.below(20) {
        2..4 if level < 2 => {
            let spec = at_level(rng, project, level + 1);
            let undo = spec.tasks.iter().any(|task| task.undo.is_some() || matches!(&task.work, Work::Epic(epic) if epic.undo));
            Work::Epic(SubEpic { specs: vec![Arc::new(spec)], undo })
        }
        0 => Work::Wait(WaitFor::Duration { ms: rng.between(1, 900) }),
        1 => Work::Wait(WaitFor::Event { subject: (*rng.pick(&["go.*", "go.a", "go.>", "never.b"])).to_owned() }),
        4..7 => Work::Tool { tool: "http.post".to_owned(), with: json!({ "askable": rng.chance(60) }) },
        _ => Work::Tool { tool: "noop".to_owned(), with: json!({}) },
    }
}

fn matrix(rng: &mut Rng) -> Vec<MatrixAxis> {
    let values = (0..rng.between(2, 4)).map(|value| value.to_string()).collect();
    let mut axes = vec![MatrixAxis { axis: "m".to_owned(), values }];
    if rng.chance(20) {
        axes.push(MatrixAxis { axis: "n".to_owned(), values: vec!["x".to_owned(), "y".to_owned()] });
    }
    axes
}

fn locks(rng: &mut Rng, wide: bool) -> LockSpec {
    let mut locks = LockSpec::default();
    for (name, seldom) in [("db", 6), ("port", 6), ("file/a.txt", 6), ("file/*.txt", 12), ("file/[b-d]**", 12), ("file/**", 40)] {
        match rng.below(seldom) {
            0 => locks.read.push(name.to_owned()),
            1 => locks.write.push(name.to_owned()),
            _ => {}
        }
    }
    if wide && rng.chance(40) {
        locks.write.push((*rng.pick(&["part/${{ matrix.m }}", "file/${{ matrix.m }}/*"])).to_owned());
    }
    locks
}

fn retry(rng: &mut Rng) -> RetryPolicy {
    let (backoff_ms, max_ms) = (if rng.chance(70) { rng.between(10, 800) } else { 0 }, 2_000);
    match rng.below(4) {
        0 => RetryPolicy::default(),
        1 => RetryPolicy { attempts: 1, backoff_ms: 0, max_ms, on: Vec::new() },
        _ => RetryPolicy { attempts: rng.between(2, 4) as u32, backoff_ms, max_ms, on: RetryCause::ALL.to_vec() },
    }
}
