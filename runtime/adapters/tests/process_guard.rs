//! Nothing of an attempt lives longer than the attempt, whoever dies first.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use amphi_adapters::process::{become_subreaper, confirm_dead};
use amphi_protocol::journal::Outcome;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Bench, living, nasty, new_mark, read, shell, wait_for_nasty, wait_until};

/// The interface promises 10 s; a machine that runs all tests at once is given more.
const DEAD_WITHIN: Duration = Duration::from_secs(25);

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn parent_of(pid: u32) -> i32 {
    let stat = read(Path::new(&format!("/proc/{pid}/stat")));
    stat.rsplit(')').next().unwrap().split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Checks that everything with `mark` dies within the promised time after `began`.
fn assert_dead(mark: &str, began: Instant) {
    while !living(mark).is_empty() {
        assert!(began.elapsed() < DEAD_WITHIN, "still alive: {:?}", living(mark));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn both() -> [Bench; 2] {
    [Bench::new(), Bench::without_cgroups()]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_the_whole_tree_even_if_it_is_deaf() {
    for bench in both() {
        let mark = new_mark();
        let running = bench.start(shell(&nasty(&mark)));
        wait_for_nasty(&mark);
        let began = Instant::now();
        running.cancel.cancel();
        let end = running.end().await;
        assert_eq!(end.outcome, Outcome::Cancelled, "{end:?}");
        assert!(living(&mark).is_empty(), "the end is told only when all are dead");
        assert!(began.elapsed() < DEAD_WITHIN, "{:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_lets_a_command_clean_up() {
    let bench = Bench::new();
    let file = bench.folder.path().join("cleaned");
    let text = format!("trap 'sleep 0.2; echo done > {}; exit 9' TERM; echo up > {0}; while :; do sleep 0.1; done", file.display());
    let running = bench.start(shell(&text));
    wait_until("the command is up", || read(&file) == "up\n");
    running.cancel.cancel();
    let end = running.end().await;
    assert_eq!((end.outcome, end.exit_code), (Outcome::Cancelled, Some(9)));
    assert_eq!(read(&file), "done\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_leaves_behind_dies_with_it() {
    for bench in both() {
        let mark = new_mark();
        let text = nasty(&mark);
        let text = text.trim_end_matches(&format!("sleep 1000.{mark}\n:\n"));
        let end = bench.run(shell(&format!("{text}\nexit 0"))).await;
        assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
        assert!(living(&mark).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_job_dies() {
    let bench = Bench::new();
    let mark = new_mark();
    let running = bench.start(shell(&nasty(&mark)));
    wait_for_nasty(&mark);
    let began = Instant::now();
    running.end.abort();
    assert_dead(&mark, began);
    wait_until("its record goes away", || std::fs::read_dir(bench.data_dir().join("guards")).unwrap().next().is_none());
    wait_until("its folder goes away", || std::fs::read_dir(bench.data_dir().join("attempts")).unwrap().next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_guard_takes_its_tree_along() {
    become_subreaper().unwrap();
    let bench = Bench::new();
    let mark = new_mark();
    let mut running = bench.start(shell(&nasty(&mark)));
    let guard = parent_of(running.started().await);
    wait_for_nasty(&mark);
    let began = Instant::now();
    signal(guard, Signal::SIGKILL);
    let end = running.end().await;
    assert_eq!(end.outcome, Outcome::AgentLost, "{end:?}");
    assert!(living(&mark).is_empty(), "the end is told only when all are dead");
    assert!(began.elapsed() < DEAD_WITHIN);
    assert!(std::fs::read_dir(bench.data_dir().join("guards")).unwrap().next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_guard_takes_its_tree_along_without_cgroups_if_the_environment_is_there() {
    become_subreaper().unwrap();
    let bench = Bench::without_cgroups();
    let mark = new_mark();
    let text = nasty(&mark).replace("env -i ", "");
    let mut running = bench.start(shell(&text));
    let guard = parent_of(running.started().await);
    wait_for_nasty(&mark);
    signal(guard, Signal::SIGKILL);
    assert_eq!(running.end().await.outcome, Outcome::AgentLost);
    assert!(living(&mark).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_guard_does_not_hold_up_a_cancel() {
    become_subreaper().unwrap();
    let bench = Bench::new();
    let mark = new_mark();
    let mut running = bench.start(shell(&nasty(&mark)));
    let guard = parent_of(running.started().await);
    wait_for_nasty(&mark);
    signal(guard, Signal::SIGSTOP);
    let began = Instant::now();
    running.cancel.cancel();
    let end = running.end().await;
    assert_eq!(end.outcome, Outcome::Cancelled, "{end:?}");
    assert!(living(&mark).is_empty());
    assert!(began.elapsed() < DEAD_WITHIN, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_forks_all_the_time_dies_too() {
    for bench in both() {
        let mark = new_mark();
        // Bounded: 3 workers, each replacing one short-lived child after the other in sessions of their own.
        let text = format!(
            "trap '' TERM; for i in 1 2 3; do setsid sh -c 'trap \"\" TERM; while :; do (setsid sleep 0.0{mark} &); sleep 0.01; done' & done; wait"
        );
        let running = bench.start(shell(&text));
        wait_until("the workers are up", || living(&mark).len() >= 4);
        running.cancel.cancel();
        assert_eq!(running.end().await.outcome, Outcome::Cancelled);
        assert!(living(&mark).is_empty());
    }
}

/// A node process of its own, that a test may kill. Whatever happens to the test, it ends.
struct Node {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    data: tempfile::TempDir,
}

impl Node {
    fn start(script: &str, use_cgroups: bool) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_amphi-test-node"));
        command.arg("node").arg(data.path()).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        if !use_cgroups {
            command.arg("no-cgroups");
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, data }
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("the node says something").unwrap()
    }

    fn started(&mut self) -> u32 {
        self.line().strip_prefix("started ").unwrap().parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn nothing_outlives_a_killed_node() {
    for use_cgroups in [true, false] {
        let mark = new_mark();
        let node = Node::start(&nasty(&mark), use_cgroups);
        wait_for_nasty(&mark);
        let began = Instant::now();
        signal(node.pid(), Signal::SIGKILL);
        assert_dead(&mark, began);
        confirm_dead(node.data.path(), DEAD_WITHIN).unwrap();
    }
}

#[test]
fn nothing_outlives_a_stopped_node_and_the_node_learns_of_it() {
    for use_cgroups in [true, false] {
        let mark = new_mark();
        let mut node = Node::start(&nasty(&mark), use_cgroups);
        node.started();
        wait_for_nasty(&mark);
        let began = Instant::now();
        signal(node.pid(), Signal::SIGSTOP);
        assert_dead(&mark, began);
        signal(node.pid(), Signal::SIGCONT);
        let end = node.line();
        assert!(end.contains("\"outcome\":\"agent_lost\""), "{end}");
    }
}

#[test]
fn the_next_life_of_a_node_ends_what_outlived_node_and_guard() {
    for use_cgroups in [true, false] {
        let mark = new_mark();
        let text = nasty(&mark);
        let text = if use_cgroups { text } else { text.replace("env -i ", "") };
        let mut node = Node::start(&text, use_cgroups);
        let guard = parent_of(node.started());
        wait_for_nasty(&mark);
        signal(node.pid(), Signal::SIGSTOP);
        signal(guard, Signal::SIGKILL);
        signal(node.pid(), Signal::SIGKILL);
        assert!(!living(&mark).is_empty(), "without node and guard most of it lives on");
        confirm_dead(node.data.path(), DEAD_WITHIN).unwrap();
        assert!(living(&mark).is_empty());
        assert!(std::fs::read_dir(node.data.path().join("guards")).unwrap().next().is_none());
    }
}

#[test]
fn the_next_life_of_a_node_ends_a_guard_that_is_stopped() {
    let mark = new_mark();
    let mut node = Node::start(&nasty(&mark), true);
    let guard = parent_of(node.started());
    wait_for_nasty(&mark);
    signal(guard, Signal::SIGSTOP);
    signal(node.pid(), Signal::SIGKILL);
    let left = confirm_dead(node.data.path(), Duration::ZERO).unwrap_err();
    assert_eq!(left[0].pids, [guard], "a guard that lives is told");
    confirm_dead(node.data.path(), DEAD_WITHIN).unwrap();
    assert!(living(&mark).is_empty());
}

#[test]
fn a_folder_without_records_is_confirmed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    confirm_dead(folder.path(), Duration::ZERO).unwrap();
}
